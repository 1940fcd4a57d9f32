//! The log of commits and the slots that keep it.

use std::collections::BTreeMap;
use std::sync::Arc;

use syncline_core::{Operation, TableId};

use super::rows::Row;

/// One committed transaction as the log has it.
#[derive(Debug)]
pub(crate) struct Logged {
    /// End of the log before it; its changes have the ordinals `start + 1 …`.
    pub(crate) start: u64,
    /// Its commit's place.
    pub(crate) position: u64,
    /// Its number.
    pub(crate) xid: u64,
    /// Microseconds since 1970.
    pub(crate) committed_at_us: i64,
    /// What it did.
    pub(crate) changes: Vec<LoggedChange>,
}

/// One change in the log.
#[derive(Debug, Clone)]
pub(crate) struct LoggedChange {
    pub(crate) table: TableId,
    pub(crate) operation: Operation,
    /// The new image; for a delete the deleted row; nothing for a truncate.
    pub(crate) row: Option<Arc<Row>>,
    /// The row before, where the log carries it (moved rows; every update of a table without a key).
    pub(crate) old: Option<Arc<Row>>,
    /// Columns of the new image that the log leaves out.
    pub(crate) left_out: Vec<usize>,
}

/// What keeps the log for one pipeline.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Everything up to here may be forgotten, and is.
    pub(crate) confirmed: u64,
    /// From where on each table's changes are in this slot.
    pub(crate) since: BTreeMap<TableId, u64>,
    /// Whether a stream reads it.
    pub(crate) active: bool,
    /// Different for each slot ever made.
    pub(crate) identity: String,
}
