//! The journal of a pipeline: a durable, byte-bounded buffer between source and loader.
//!
//! Entries are appended in the order of the source's log, become durable by group commit, and are read by any number of
//! readers: from memory by those that keep up, from disk by those that fall behind. What no lane needs any more is
//! freed, wherever it stands.
//!
//! A journal is a directory of segments, `NNNNNNNN.seg`, each a run of frames: a header, then for each sync a group mark
//! and what was synced: tables (JSON, once per shape), entries, and their batches (Arrow IPC), all with checksums.
//!
//! Not here: where lanes stand, what a checkpoint is, when the source is acknowledged, and what to do when a waiting lane pins
//! too much. The engine decides these from [`Journal::durable`] and [`Journal::usage`].

mod batch_frame;
mod bytes;
mod disk;
mod entries;
mod entry_frame;
mod failure;
mod frame;
mod freed;
mod journal;
mod lists;
mod need;
mod options;
mod output;
mod reader;
mod recovery;
mod rewrite;
mod segment;
mod segment_file;
mod shape;
mod state;
mod tidy;
mod writer;

pub use journal::Journal;
pub use need::{Interest, Need, Usage};
pub use options::Options;
pub use reader::Reader;
