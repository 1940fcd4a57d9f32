//! What a connector is: one that passes these suites against the real system.
//!
//! The suites are the contracts of `syncline_core` as cases that run. Each case is a function over a harness; a harness
//! gives fresh databases, writes to them and reads them with code that shares nothing with the connector, and knows
//! how its family writes a value as bytes. [`source::run_all`] and [`destination::run_all`] run every case and report
//! each by name; a case that the system cannot have (no table without a key, say) is reported as *not offered*, never as
//! passed.

pub mod destination;
mod replica;
mod report;
pub mod source;
mod tables;
mod workload;

pub use replica::Decode;
pub use report::{Case, Outcome, Report};
pub use tables::{Cell, Row, Standard, Tables, Write, cells};
pub use workload::Workload;

use std::future::Future;
use std::time::Duration;

/// Longest wait for anything a case expects.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something that must come.
///
/// # Panics
/// If it does not come in time.
pub(crate) async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took longer than {} s", PATIENCE.as_secs()),
    }
}
