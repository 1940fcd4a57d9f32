//! Rows of native bytes, and their way into and out of Arrow arrays.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch};
use syncline_core::{Error, Result, RowKey, TableSchema};

/// One value: its bytes, or NULL.
pub type Value = Option<Vec<u8>>;

/// One row, values in column order.
pub type Row = Vec<Value>;

/// A value from text.
#[must_use]
pub fn text(text: &str) -> Value {
    Some(text.as_bytes().to_vec())
}

/// The rows of a destination's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableRows {
    /// By row key.
    Keyed(BTreeMap<RowKey, Arc<Row>>),
    /// Of a table without a row key, in no order that means anything.
    Bag(Vec<Arc<Row>>),
}

impl TableRows {
    /// No rows, in the form a table of this shape has.
    #[must_use]
    pub fn none(table: &TableSchema) -> Self {
        if table.has_row_key() { Self::Keyed(BTreeMap::new()) } else { Self::Bag(Vec::new()) }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Keyed(rows) => rows.len(),
            Self::Bag(rows) => rows.len(),
        }
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All rows, sorted by value: equal tables give equal lists.
    #[must_use]
    pub fn sorted(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = match self {
            Self::Keyed(rows) => rows.values().map(|row| row.as_ref().clone()).collect(),
            Self::Bag(rows) => rows.iter().map(|row| row.as_ref().clone()).collect(),
        };
        rows.sort();
        rows
    }
}

/// Rows as a record batch of the whole table.
pub(crate) fn to_batch(table: &TableSchema, rows: &[Row]) -> Result<RecordBatch> {
    let columns = (0..table.columns.len()).map(|c| column(rows, c)).collect();
    RecordBatch::try_new(table.arrow(), columns)
        .map_err(|error| Error::bug("rows that do not fit their table").with_source(error))
}

/// Old images (already reduced to [`TableSchema::old_columns`]) as a record batch.
pub(crate) fn to_old_batch(table: &TableSchema, images: &[Row]) -> Result<RecordBatch> {
    let columns = (0..table.old_columns().len()).map(|c| column(images, c)).collect();
    RecordBatch::try_new(table.arrow_old(), columns)
        .map_err(|error| Error::bug("old images that do not fit their table").with_source(error))
}

fn column(rows: &[Row], index: usize) -> ArrayRef {
    Arc::new(rows.iter().map(|row| row[index].as_deref()).collect::<BinaryArray>())
}

/// The rows of a batch of binary columns.
pub(crate) fn from_batch(batch: &RecordBatch) -> Result<Vec<Row>> {
    let columns = binary_columns(batch)?;
    let value = |column: &&BinaryArray, row: usize| column.is_valid(row).then(|| column.value(row).to_vec());
    Ok((0..batch.num_rows()).map(|row| columns.iter().map(|column| value(column, row)).collect()).collect())
}

fn binary_columns(batch: &RecordBatch) -> Result<Vec<&BinaryArray>> {
    let binary = |column: &'_ ArrayRef| column.as_binary_opt::<i32>().is_some();
    if !batch.columns().iter().all(binary) {
        return Err(Error::bug("a column of the memory family is not carried as bytes"));
    }
    Ok(batch.columns().iter().map(AsArray::as_binary::<i32>).collect())
}

/// The row keys of full row images.
pub(crate) fn keys_of(table: &TableSchema, rows: &RecordBatch) -> Result<Vec<RowKey>> {
    let columns: Vec<ArrayRef> = table.row_key.iter().map(|&c| Arc::clone(rows.column(c))).collect();
    (0..rows.num_rows()).map(|row| RowKey::of(&columns, row)).collect()
}

/// The row keys of old images.
pub(crate) fn keys_of_old(keys: &RecordBatch) -> Result<Vec<RowKey>> {
    (0..keys.num_rows()).map(|row| RowKey::of(keys.columns(), row)).collect()
}
