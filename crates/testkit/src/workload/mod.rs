//! Schemas that hold everything, and writers that do what real applications do to a database while it is copied.
//!
//! A writer is seeded: the same seed asks for the same statements in the same order. It outlives restarts of its server,
//! and what it was refused (a unique value that was taken, a deadlock) it counts and leaves.

pub mod chaos;
pub mod pgbench;
mod random;
pub mod shop;
pub mod wide;
mod writer;

pub use random::Random;
pub use writer::{Tally, Writer};
