//! Building parts out of text rows.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use syncline_core::{ChangeBatch, ColumnMask, Masks, OldKeys, Operation, Part, RowKey, TableSchema};

use crate::conformance::replica::standard;
use crate::conformance::tables::{Cell, Row};

use super::Encode;

/// One change in text.
#[derive(Debug, Clone)]
pub(crate) struct TextChange {
    operation: Operation,
    row: Row,
    left_out: Vec<usize>,
    old: Option<Row>,
}

impl TextChange {
    fn new(operation: Operation, row: Row) -> Self {
        Self { operation, row, left_out: Vec::new(), old: None }
    }

    pub(crate) fn insert(row: Row) -> Self {
        Self::new(Operation::Insert, row)
    }

    pub(crate) fn upsert(row: Row) -> Self {
        Self::new(Operation::Upsert, row)
    }

    pub(crate) fn update(row: Row) -> Self {
        Self::new(Operation::Update, row)
    }

    pub(crate) fn delete(identity: Row) -> Self {
        Self::new(Operation::Delete, identity)
    }

    pub(crate) fn truncate() -> Self {
        Self::new(Operation::Truncate, Row::new())
    }

    /// Where the row was before: its key, or all of it.
    pub(crate) fn from(mut self, old: Row) -> Self {
        self.old = Some(old);
        self
    }

    /// Without these columns, whatever stands in the row.
    pub(crate) fn without(mut self, columns: &[usize]) -> Self {
        self.left_out = columns.to_vec();
        self
    }
}

/// A part of these changes. With a row key they are sorted by key, as the contract wants; a truncate stays first.
pub(crate) fn changes(encode: &dyn Encode, table: &Arc<TableSchema>, list: Vec<TextChange>) -> Part {
    let list = sorted(encode, table, list);
    let width = table.columns.len();
    let rows: Vec<Row> = list
        .iter()
        .map(|change| {
            let mut row = change.row.clone();
            row.resize(width, None);
            for &column in &change.left_out {
                row[column] = None;
            }
            row
        })
        .collect();
    let mut masks = Masks::new();
    let mut old_images = Vec::new();
    let mut old_rows = Vec::new();
    for change in &list {
        let mut mask = ColumnMask::none();
        change.left_out.iter().for_each(|&column| mask.insert(column));
        masks.push(&mask);
        old_rows.push(change.old.as_ref().and_then(|_| u32::try_from(old_images.len()).ok()));
        old_images.extend(change.old.clone());
    }
    let old = (!old_images.is_empty())
        .then(|| OldKeys { row: old_rows, keys: batch_of(encode, table, &table.old_columns(), &old_images) });
    let batch = ChangeBatch {
        table: Arc::clone(table),
        rows: full_batch(encode, table, &rows),
        operations: list.iter().map(|change| change.operation).collect(),
        ordinals: (0..list.len() as u64).collect(),
        transactions: vec![0; list.len()],
        masks: (!masks.is_trivial()).then_some(masks),
        old,
    };
    Part::Changes(batch.check().unwrap_or_else(|error| panic!("{error}")))
}

fn sorted(encode: &dyn Encode, table: &Arc<TableSchema>, list: Vec<TextChange>) -> Vec<TextChange> {
    if !table.has_row_key() {
        return list;
    }
    let (mut first, rest): (Vec<_>, Vec<_>) =
        list.into_iter().partition(|change| change.operation == Operation::Truncate);
    let key = |change: &TextChange| row_key(encode, table, &standard(table).identity(&change.row));
    let mut keyed: Vec<(RowKey, TextChange)> =
        rest.into_iter().map(|change| (key(&change), change)).collect();
    keyed.sort_by(|(left, _), (right, _)| left.cmp(right));
    first.extend(keyed.into_iter().map(|(_, change)| change));
    first
}

/// The bytes of a key.
pub(crate) fn row_key(encode: &dyn Encode, table: &TableSchema, key: &Row) -> RowKey {
    let batch = batch_of(encode, table, &table.row_key, std::slice::from_ref(key));
    RowKey::of(batch.columns(), 0).unwrap_or_else(|error| panic!("{error}"))
}

/// Rows of a chunk.
pub(crate) fn rows(encode: &dyn Encode, table: &Arc<TableSchema>, rows: &[Row]) -> Part {
    Part::Rows { table: Arc::clone(table), rows: full_batch(encode, table, rows) }
}

fn full_batch(encode: &dyn Encode, table: &TableSchema, rows: &[Row]) -> RecordBatch {
    let columns: Vec<usize> = (0..table.columns.len()).collect();
    batch_of(encode, table, &columns, rows)
}

/// `images` hold these columns of the table, in this order.
fn batch_of(encode: &dyn Encode, table: &TableSchema, columns: &[usize], images: &[Row]) -> RecordBatch {
    let array = |(place, &column): (usize, &usize)| -> ArrayRef {
        let cells: Vec<Cell> = images.iter().map(|image| image[place].clone()).collect();
        encode.encode(&table.columns[column], &cells)
    };
    let arrays = columns.iter().enumerate().map(array).collect();
    let schema = if columns.len() == table.columns.len() { table.arrow() } else { table.arrow_old() };
    RecordBatch::try_new(schema, arrays).unwrap_or_else(|error| panic!("{error}"))
}
