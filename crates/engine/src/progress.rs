//! What a run shows while it runs.

use serde::Serialize;
use syncline_core::TableId;

use crate::verify::Verified;

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Connecting, taking the lock, reading the checkpoint, setting up the source.
    #[default]
    Opening,
    /// Waiting for transactions that run while the stream is set up, or ran when it was.
    Settling,
    /// Loading chunks (changes are read at the same time).
    Snapshot,
    /// Chunks are loaded; keys, indexes and waiting changes are being brought in.
    Closing,
    /// Only changes.
    Streaming,
    /// Asked to stop; letting loads commit.
    Draining,
    /// Ended.
    Done,
}

/// A run at one moment. All counts are of this run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Its tables, in name order.
    pub tables: Vec<TableProgress>,
    /// Changes read from the source.
    pub changes_read: u64,
    /// Changes whose outcome is durable.
    pub changes_applied: u64,
    /// Log between the source's end and what the destination has, in the source's own measure.
    pub lag_bytes: Option<u64>,
    /// Age of the newest loaded change when it was loaded, or of what waits.
    pub lag_ms: Option<u64>,
    /// What the run waits for, if it waits.
    pub waiting_for: Option<String>,
    /// The error that ended the last attempt.
    pub last_error: Option<String>,
    /// Attempts so far; 1 is the first.
    pub attempt: u32,
    /// Dead letters that stand at the destination.
    pub dead_letters: u64,
    /// Where the main lane stands, in the source's own words.
    pub position: Option<String>,
    /// Bytes in the journal.
    pub journal_bytes: u64,
    /// Most bytes it may hold.
    pub journal_budget_bytes: u64,
    /// The last verification, without its samples.
    pub verified: Option<Verified>,
}

/// A table at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableProgress {
    /// Which.
    pub table: TableId,
    /// `waiting`, `snapshot`, `closing`, `streaming`, `recovering`, `stopped` or `done`.
    pub state: String,
    /// Snapshot rows loaded, in earlier runs too.
    pub rows_done: u64,
    /// Rows the source believes it has.
    pub rows_estimated: Option<u64>,
    /// Why it stopped.
    pub error: Option<String>,
    /// What to do about that.
    pub remedy: Option<String>,
}
