//! One folder per system that Syncline reads or writes.
//!
//! A connector knows `syncline_core` and nothing else of Syncline. A new one is one folder here, one line in
//! [`registry`], and one cargo feature.

#[cfg(feature = "postgres")]
mod postgres;
pub mod registry;
#[cfg(feature = "sqlite")]
mod sqlite;
