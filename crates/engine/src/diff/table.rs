//! What a comparison of one table says.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};
use syncline_core::TableId;

use super::inside::InsideCost;
use super::pairing::ComparedColumn;

/// Rows read of the table under way, for who shows progress.
#[derive(Debug, Clone, Default)]
pub struct RowsRead {
    /// Of the source.
    pub left: Arc<AtomicU64>,
    /// Of the destination.
    pub right: Arc<AtomicU64>,
}

/// What a difference is, seen from the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The destination lacks the row.
    Missing,
    /// The destination has a row that the source does not have.
    Surplus,
    /// Both have the key, with other values.
    Changed,
    /// A side has the key more than once.
    Repeated,
}

/// One differing row, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowDifference {
    /// What it is.
    pub kind: Kind,
    /// The key columns' values; without a key, those of the whole row.
    pub key: Vec<Option<String>>,
    /// The columns that differ: name, value at the source, value at the destination. Of a row that is on one side only,
    /// all that are not its key.
    pub columns: Vec<ColumnDifference>,
}

/// One column of a differing row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDifference {
    /// Its name.
    pub name: String,
    /// Value at the source; `None` for NULL and where the row is not.
    pub source: Option<String>,
    /// Value at the destination.
    pub destination: Option<String>,
}

/// How many rows differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Rows the destination lacks.
    pub missing: u64,
    /// Rows only the destination has.
    pub surplus: u64,
    /// Rows with other values.
    pub changed: u64,
    /// Keys that a side has more than once.
    pub repeated: u64,
}

impl Counts {
    /// Whether there is none.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// How many rows differ.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.missing + self.surplus + self.changed + self.repeated
    }
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct TableDiff {
    /// The source's table.
    pub table: TableId,
    /// The destination's.
    pub destination_table: TableId,
    /// Rows of the source.
    pub rows_source: u64,
    /// Rows of the destination.
    pub rows_destination: u64,
    /// Sum of the hashes of the source's rows, under the key of this comparison: means something only beside the other.
    pub digest_source: String,
    /// The destination's.
    pub digest_destination: String,
    /// Differing rows.
    pub counts: Counts,
    /// About how many rows differ, where they are too many to be counted; the counts then say only what was seen.
    pub too_many: Option<u64>,
    /// The key's columns; empty: equal rows were counted.
    pub key: Vec<String>,
    /// What the columns were compared as.
    pub columns: Vec<ComparedColumn>,
    /// Columns of the destination that were not compared, for the source does not have them.
    pub not_compared: Vec<String>,
    /// Scans of each side.
    pub scans: u32,
    /// What was exchanged for it, if the databases computed its digests themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside: Option<InsideCost>,
    /// Some of the differing rows.
    pub samples: Vec<RowDifference>,
}

impl TableDiff {
    /// Whether the two sides are equal in what was compared.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.counts.is_zero() && self.too_many.is_none()
    }
}
