//! The journal of a pipeline: a durable, byte-bounded buffer between source and loader.
//!
//! Entries are appended in the order of the source's log, become durable by group commit, and are read by any number of
//! readers: from memory by those that keep up, from disk by those that fall behind. What no lane needs any more is
//! freed, wherever it stands.
//!
//! Not here: what a lane or a checkpoint is, when the source is acknowledged, and what to do when a waiting lane pins
//! too much. The engine decides these from [`Journal::durable`] and [`Journal::usage`].

mod journal;
mod need;
mod options;
mod reader;

pub use journal::Journal;
pub use need::{Interest, Need, Usage};
pub use options::Options;
pub use reader::Reader;
