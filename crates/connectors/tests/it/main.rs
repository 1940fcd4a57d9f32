//! The connectors against real systems.

mod conformance;
#[cfg(feature = "postgres")]
mod postgres_destination;
#[cfg(feature = "postgres")]
mod postgres_source;
#[cfg(feature = "postgres")]
mod postgres_stream;
#[cfg(feature = "sqlite")]
mod sqlite;
