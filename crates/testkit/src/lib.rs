//! What the tests of every room stand on: real servers in temporary directories, the real binary as a child process,
//! writers that make trouble, and a comparison of databases that shares nothing with the product.
//!
//! Nothing here is used by production code.

pub mod compare;
pub mod conformance;
pub mod memory;
pub mod pgbouncer;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod workload;
