//! What a verification found.

use serde::{Deserialize, Serialize};
use syncline_core::TableId;

use crate::diff::{Counts, RowDifference};

/// One verification of a pipeline's tables.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Verified {
    /// Counts the verifications of this run.
    pub number: u64,
    /// When it ended, in milliseconds since 1970 UTC.
    pub ended_at: i64,
    /// Wall time.
    pub seconds: f64,
    /// Its tables, in name order.
    pub tables: Vec<TableVerified>,
    /// Why it could not be finished.
    pub error: Option<String>,
}

/// What was found in one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableVerified {
    /// Which.
    pub table: TableId,
    /// Rows of the source when it was scanned.
    pub rows_source: u64,
    /// Rows of the destination when it was scanned.
    pub rows_destination: u64,
    /// Rows that differed between the two scans, most of them because the scans saw different moments.
    pub candidates: u64,
    /// Rows that differ though nothing is on its way to them.
    pub drift: Counts,
    /// About how many rows differ, where they are too many to be named. They count as drift.
    pub too_many: Option<u64>,
    /// Rows that changed at every look.
    pub undecided: u64,
    /// Rows that differ because they are set aside as dead letters. They are no drift.
    #[serde(default)]
    pub set_aside: u64,
    /// Of the drift, rows that were read again and are equal now.
    pub repaired: u64,
    /// Whether it was recovered: its drift is what a gap had left, and all of it was read again.
    #[serde(default)]
    pub recovered: bool,
    /// Why nothing was repaired, though that was asked for.
    pub refused: Option<String>,
    /// Why it was not verified.
    pub skipped: Option<String>,
    /// Some of the drift. Values do not leave with the report: they are for who asked, not for what is remembered.
    #[serde(skip)]
    pub samples: Vec<RowDifference>,
    /// The key's columns, for the samples.
    pub key: Vec<String>,
}

impl TableVerified {
    pub(super) fn new(table: &TableId) -> Self {
        Self {
            table: table.clone(),
            rows_source: 0,
            rows_destination: 0,
            candidates: 0,
            drift: Counts::default(),
            too_many: None,
            undecided: 0,
            set_aside: 0,
            repaired: 0,
            recovered: false,
            refused: None,
            skipped: None,
            samples: Vec::new(),
            key: Vec::new(),
        }
    }

    pub(super) fn skipped(table: &TableId, why: impl Into<String>) -> Self {
        Self { skipped: Some(why.into()), ..Self::new(table) }
    }

    /// Differing rows that are still there.
    #[must_use]
    pub fn left_over(&self) -> u64 {
        self.drift.rows().saturating_sub(self.repaired) + self.too_many.unwrap_or(0)
    }
}

impl Verified {
    /// Differing rows that are still there, over all tables.
    #[must_use]
    pub fn left_over(&self) -> u64 {
        self.tables.iter().map(TableVerified::left_over).sum()
    }
}
