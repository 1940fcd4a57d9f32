//! What became of everything, at the end of a run.

use serde::Serialize;
use syncline_core::{Retained, TableId};

use crate::verify::Verified;

/// Where every change that was read has gone. `read` is the sum of the others: [`Sum::is_complete`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// Changes that lanes were offered.
    pub read: u64,
    /// Written or deleted at the destination.
    pub applied: u64,
    /// Overtaken by a later change of the same row in the same load, or by a re-read.
    pub superseded: u64,
    /// The row already was as the change wanted it.
    pub unchanged: u64,
    /// Seen by a snapshot.
    pub skipped: u64,
    /// In the journal for a table that stopped, or for the next run.
    pub waiting: u64,
    /// Of a table that needs a new snapshot.
    pub let_go: u64,
    /// Set aside as dead letters. A letter that later changes take up again is read once more.
    pub letters: u64,
}

impl Sum {
    /// Whether nothing is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.read
            == self.applied
                + self.superseded
                + self.unchanged
                + self.skipped
                + self.waiting
                + self.let_go
                + self.letters
    }
}

/// A table in the summary.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableSummary {
    /// Which.
    pub table: TableId,
    /// As in [`crate::TableProgress::state`].
    pub state: String,
    /// Rows loaded by the snapshot, in earlier runs too while it was not finished.
    pub snapshot_rows: u64,
}

/// Dead letters of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableLetters {
    /// Which.
    pub table: TableId,
    /// How many stand at the destination.
    pub letters: u64,
}

/// A table that could not go on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoppedTable {
    /// Which.
    pub table: TableId,
    /// Why.
    pub error: String,
    /// What to do.
    pub remedy: Option<String>,
    /// Whether a guard stopped it.
    pub by_guard: bool,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// All tables.
    pub tables: Vec<TableSummary>,
    /// Where the changes went.
    pub sum: Sum,
    /// Wall time.
    pub seconds: f64,
    /// What stays at the source until the next run.
    pub retained: Option<Retained>,
    /// Tables that stopped; the run has failed if there are any.
    pub stopped: Vec<StoppedTable>,
    /// Dead letters that stand at the end, of this run and of earlier ones.
    pub dead_letters: Vec<TableLetters>,
    /// Where the main lane stands, in the source's own words.
    pub position: Option<String>,
    /// Whether the run was asked to stop before it was done.
    pub drained: bool,
    /// The last verification, if there was one.
    pub verified: Option<Verified>,
}
