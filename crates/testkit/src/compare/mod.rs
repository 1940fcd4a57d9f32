//! Whether two databases hold the same, found out by code that shares nothing with the product: the databases' own text
//! of every row, counted and hashed, and on a difference the first rows that differ, in full.
//!
//! Rows are shown in the panic message, so this is for test data only.

mod differing;
pub mod postgres;
mod postgres_definitions;
pub mod sqlite;
