//! Child processes that never outlive the test process, and the real `syncline` binary as one of them.
//!
//! A child gets a signal from the kernel when the thread that started it ends (`setpriv --pdeathsig`). A test's thread
//! ends long before the test process does, so every child is started by one thread that lives as long as the process.

mod owned;
mod syncline;

pub use owned::{alive, privilege_free, spawn, wrapped_to_die_with_us};
pub use syncline::{Outcome, Running, Syncline};
