//! The near side of a table sync: the ability of a source to read its rows in the order of a version column.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use async_trait::async_trait;

use crate::error::Result;
use crate::key::RowKey;
use crate::replica::{ReplicaState, Version, VersionRange};
use crate::schema::{Column, TableSchema};

/// Up to which version everything is visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// No row with this version or a lower one will appear any more that cannot be seen now. [`Version::MAX`]: versions
    /// become visible in their order.
    Safe(Version),
    /// That cannot be said, with why: a transaction may commit later with a version lower than one that was read.
    None(String),
}

/// What a look at a table's versions saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VersionState {
    /// Of the rows that have a version.
    pub state: ReplicaState,
    /// Rows without one (NULL, an infinite time).
    pub unversioned: u64,
}

/// A place in the order of (version, row key).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionPlace {
    /// The version.
    pub version: Version,
    /// The key, which orders rows of the same version.
    pub key: RowKey,
}

/// Which rows are read: those of a range that come after a place, up to a number and up to some bytes.
#[derive(Debug, Clone)]
pub struct VersionPage<'a> {
    /// Which versions.
    pub range: VersionRange,
    /// Only after this place.
    pub after: Option<&'a VersionPlace>,
    /// Rows at most.
    pub rows_max: usize,
    /// A page ends with the row that makes it as large as this.
    pub bytes_max: usize,
}

/// Rows of a page.
#[derive(Debug, Clone)]
pub struct VersionRows {
    /// As [`TableSchema::arrow`] of the table.
    pub rows: RecordBatch,
    /// Whether the range ends with them.
    pub is_end: bool,
}

/// The ability to read rows by a column whose value grows with every change of a row.
///
/// # Rules
/// - *Column*: `column` is an index into the table's columns. Integers, instants and civil times can be versions; what else a
///   source takes is its own affair.
/// - *Order*: rows come ordered by version, then by key, in the source's own order of keys; a read that goes on after a
///   place gives every row once that did not change meanwhile.
/// - *Values*: as everywhere, the value of a row is that of `read_keys`, bit for bit.
/// - *Idempotence*: everything here only reads.
#[async_trait]
pub trait Versions: Send + Sync {
    /// Up to which version everything is visible, asked before anything is read.
    ///
    /// # Errors
    /// Configuration, with the remedy, if the column cannot be a version; as any read.
    async fn bound(&self, table: &Arc<TableSchema>, column: usize) -> Result<Bound>;

    /// Count, highest version and sum of versions of a range, in one look.
    ///
    /// # Errors
    /// As any read.
    async fn state(
        &self,
        table: &Arc<TableSchema>,
        column: usize,
        range: &VersionRange,
    ) -> Result<VersionState>;

    /// The version of the row that has `rows` rows after it in a range; `None` if there are fewer.
    ///
    /// # Errors
    /// As any read.
    async fn nth_last(
        &self,
        table: &Arc<TableSchema>,
        column: usize,
        range: &VersionRange,
        rows: u64,
    ) -> Result<Option<Version>>;

    /// The next rows.
    ///
    /// # Errors
    /// As any read.
    async fn page(
        &self,
        table: &Arc<TableSchema>,
        column: usize,
        page: &VersionPage<'_>,
    ) -> Result<VersionRows>;

    /// The version that a carried value is; [`Version::NONE`] for NULL.
    ///
    /// # Errors
    /// Data if it is none.
    fn version(&self, column: &Column, values: &ArrayRef, row: usize) -> Result<Version>;
}
