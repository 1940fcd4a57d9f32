//! A run from start to end: open both sides, snapshot, stream, load, and say what became of every change.
//!
//! ```text
//! reader ──▶ journal ──▶ loader ──▶ destination       (one of each per run)
//! snapshot workers ── chunks ─────▶ destination       (several; each chunk one commit)
//! ```
//!
//! The engine sees systems only through the contracts of `syncline_core`. It keeps no state of its own: what it must
//! remember stands in the destination's checkpoint and in the journal, so that any run can go on where the last one
//! stopped, wherever that was.
//!
//! [`diff`] is for what has no log: it compares two sides, and repairs what differs. A run that streams verifies itself with it
//! ([`Verify`]). [`table_sync`] is for sources that offer only a version column.

mod attempt;
mod board;
mod chunks;
mod collapse;
mod control;
mod cut;
pub mod diff;
mod gap;
mod ipc;
mod lane;
pub mod letters;
mod loader;
mod opening;
mod pipeline;
mod progress;
mod reader;
mod restoring;
mod retry;
mod run;
mod steer;
mod summary;
pub mod table_sync;
mod verify;

pub use control::Control;
pub use pipeline::{Mode, Pipeline};
pub use progress::{Phase, Progress, TableProgress};
pub use retry::RetryPolicy;
pub use run::run;
pub use steer::{check, drop_pipeline};
pub use summary::{StoppedTable, Sum, Summary, TableLetters, TableSummary};
pub use verify::{Ask, Asks, Recover, Sides, TableVerified, Verified, Verify, When};
