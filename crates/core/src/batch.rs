//! Changes of one table, as Arrow arrays with what a change has beyond its row.

use std::sync::Arc;

use arrow_array::{Array, RecordBatch};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::schema::TableSchema;

/// What a change does to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Operation {
    /// The row was not there before.
    Insert = 0,
    /// The row is there now, whether or not it was before.
    Upsert = 1,
    /// The row was there before and is changed; with an old key it moved.
    Update = 2,
    /// The row is gone. Only the columns of the row key (all, where there is none) stand in `rows`.
    Delete = 3,
    /// Every row of the table is gone. All columns are null.
    Truncate = 4,
}

impl TryFrom<u8> for Operation {
    type Error = Error;
    fn try_from(code: u8) -> Result<Self> {
        Ok(match code {
            0 => Self::Insert,
            1 => Self::Upsert,
            2 => Self::Update,
            3 => Self::Delete,
            4 => Self::Truncate,
            _ => return Err(Error::conflict(format!("{code} is not an operation"))),
        })
    }
}

/// A set of columns that a change did not carry (unchanged TOAST, a partial image): the destination keeps its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ColumnMask(Vec<u64>);

impl ColumnMask {
    /// No column is absent.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Marks a column absent.
    pub fn insert(&mut self, column: usize) {
        if self.0.len() <= column / 64 {
            self.0.resize(column / 64 + 1, 0);
        }
        self.0[column / 64] |= 1 << (column % 64);
    }

    /// Marks a column present.
    pub fn remove(&mut self, column: usize) {
        if let Some(word) = self.0.get_mut(column / 64) {
            *word &= !(1 << (column % 64));
        }
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    /// Whether a column is absent.
    #[must_use]
    pub fn contains(&self, column: usize) -> bool {
        self.0.get(column / 64).is_some_and(|word| word & (1 << (column % 64)) != 0)
    }

    /// Whether no column is absent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// The absent columns, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.0.len() * 64).filter(|&column| self.contains(column))
    }
}

/// Which columns each row of a batch leaves out. Few different masks occur, so rows name one by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masks {
    /// The different masks; number 0 is always the empty one.
    pub distinct: Vec<ColumnMask>,
    /// For each row the number of its mask.
    pub of_row: Vec<u32>,
}

impl Masks {
    /// Masks for rows that come one by one.
    #[must_use]
    pub fn new() -> Self {
        Self { distinct: vec![ColumnMask::none()], of_row: Vec::new() }
    }

    /// Appends a row's mask.
    pub fn push(&mut self, mask: &ColumnMask) {
        let number = self.distinct.iter().position(|known| known == mask).unwrap_or_else(|| {
            self.distinct.push(mask.clone());
            self.distinct.len() - 1
        });
        // A batch is bounded by bytes far below 2^32 rows.
        self.of_row.push(u32::try_from(number).unwrap_or(u32::MAX));
    }

    /// The mask of a row.
    #[must_use]
    pub fn of(&self, row: usize) -> &ColumnMask {
        &self.distinct[self.of_row[row] as usize]
    }

    /// Whether every row is complete.
    #[must_use]
    pub fn is_trivial(&self) -> bool {
        self.of_row.iter().all(|&number| number == 0)
    }
}

impl Default for Masks {
    fn default() -> Self {
        Self::new()
    }
}

/// Where rows were before, for changes that need it: updates that moved a row to another key, and (where the table has
/// no row key) every update.
#[derive(Debug, Clone, PartialEq)]
pub struct OldKeys {
    /// For each row of the batch its row in `keys`, if the change carries an old image.
    pub row: Vec<Option<u32>>,
    /// The old images: [`TableSchema::old_columns`] of the table.
    pub keys: RecordBatch,
}

/// Changes of one table in one shape, in the source's order.
///
/// All per-row lists are as long as `rows`. Constructed through [`ChangeBatch::new`], which checks that.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangeBatch {
    /// The table in the shape these rows have.
    pub table: Arc<TableSchema>,
    /// New images (see [`Operation`] for deletes and truncates).
    pub rows: RecordBatch,
    /// What each change does.
    pub operations: Vec<Operation>,
    /// Place of each change in the source's log, ascending; comparable between tables of one entry.
    pub ordinals: Vec<u64>,
    /// For each change the number of its transaction in the entry's list.
    pub transactions: Vec<u32>,
    /// Columns that changes leave out, if any do.
    pub masks: Option<Masks>,
    /// Old keys, if any change has one.
    pub old: Option<OldKeys>,
}

impl ChangeBatch {
    /// Checks that all parts agree.
    ///
    /// # Errors
    /// A bug that names the part that does not fit.
    pub fn check(self) -> Result<Self> {
        let rows = self.rows.num_rows();
        let misfit = if self.operations.len() != rows {
            Some("operations")
        } else if self.ordinals.len() != rows {
            Some("ordinals")
        } else if self.transactions.len() != rows {
            Some("transactions")
        } else if self.rows.num_columns() != self.table.columns.len() {
            Some("columns")
        } else if self.masks.as_ref().is_some_and(|m| m.of_row.len() != rows) {
            Some("masks")
        } else if self.old.as_ref().is_some_and(|o| o.row.len() != rows) {
            Some("old keys")
        } else {
            None
        };
        match misfit {
            None => Ok(self),
            Some(part) => Err(Error::bug(format!("a change batch whose {part} do not fit its rows"))
                .with_table(&self.table.id)),
        }
    }

    /// Number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether it holds no change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The row's old image in `old.keys`, if it has one.
    #[must_use]
    pub fn old_row(&self, row: usize) -> Option<usize> {
        self.old.as_ref().and_then(|old| old.row[row]).map(|number| number as usize)
    }

    /// The mask of a row, `None` if it is complete.
    #[must_use]
    pub fn mask(&self, row: usize) -> Option<&ColumnMask> {
        self.masks.as_ref().map(|masks| masks.of(row)).filter(|mask| !mask.is_empty())
    }

    /// Bytes this batch holds in memory, near enough for a budget.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let per_row = size_of::<u64>() + size_of::<u32>() + 1;
        held_bytes([Some(&self.rows), self.old.as_ref().map(|old| &old.keys)].into_iter().flatten())
            + self.len() * per_row
            + self.masks.as_ref().map_or(0, |m| m.of_row.len() * 4)
            + self.old.as_ref().map_or(0, |o| o.row.len() * 8)
    }
}

/// Bytes of the allocations that record batches keep, each counted once: the arrays of batches that were read from a
/// file are all slices of one.
fn held_bytes<'a>(batches: impl Iterator<Item = &'a RecordBatch>) -> usize {
    let columns = batches.flat_map(RecordBatch::columns);
    let mut open: Vec<_> = columns.map(Array::to_data).collect();
    let mut held = Vec::with_capacity(open.len() * 3);
    while let Some(array) = open.pop() {
        let nulls = array.nulls().map(arrow_buffer::NullBuffer::buffer);
        let buffers = array.buffers().iter().chain(nulls);
        // A buffer that somebody else owns tells no capacity.
        held.extend(buffers.map(|buffer| (buffer.data_ptr(), buffer.capacity().max(buffer.len()))));
        open.extend_from_slice(array.child_data());
    }
    held.sort_unstable();
    held.dedup();
    held.into_iter().map(|(_, bytes)| bytes).sum()
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Int64Array, StringArray};
    use arrow_buffer::{Buffer, ScalarBuffer};

    use super::*;

    #[test]
    fn memory_that_arrays_share_is_counted_once() {
        let frame = Buffer::from_vec((0..1000_i64).collect::<Vec<_>>());
        let column = |from| Int64Array::new(ScalarBuffer::new(frame.clone(), from, 100), None);
        let shared: [(_, ArrayRef); 2] = [("a", Arc::new(column(0))), ("b", Arc::new(column(500)))];
        assert_eq!(held_bytes([&RecordBatch::try_from_iter(shared).unwrap()].into_iter()), 8000);
        let own = Arc::new(StringArray::from(vec![Some("x"), None]));
        let own = RecordBatch::try_from_iter([("a", own as ArrayRef)]).unwrap();
        assert!(held_bytes([&own].into_iter()) > 3 * 4);
    }

    #[test]
    fn masks_are_sets() {
        let mut mask = ColumnMask::none();
        mask.insert(3);
        mask.insert(130);
        assert_eq!(mask.iter().collect::<Vec<_>>(), [3, 130]);
        mask.remove(130);
        mask.remove(3);
        assert_eq!(mask, ColumnMask::none());
        assert!(!mask.contains(500));
    }
}
