//! Rows as the source has them now, as changes that make them so at the destination.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::ArrowError;
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use syncline_core::{ChangeBatch, Error, Operation, Result, RowKey, TableSchema};

/// The keys of full rows.
///
/// # Errors
/// A bug if a column of the key has no key form.
pub(crate) fn keys_of(table: &TableSchema, rows: &RecordBatch) -> Result<Vec<RowKey>> {
    let columns: Vec<ArrayRef> =
        table.row_key.iter().map(|&column| Arc::clone(rows.column(column))).collect();
    (0..rows.num_rows()).map(|row| RowKey::of(&columns, row)).collect()
}

/// Full rows as upserts and keys ([`TableSchema::arrow_old`]) as deletes, sorted by key; no key may be there twice.
///
/// # Errors
/// A bug if the batches are not of this table.
pub(crate) fn changes(
    table: &Arc<TableSchema>,
    found: &RecordBatch,
    gone: &RecordBatch,
) -> Result<ChangeBatch> {
    let deletes = deleted_rows(table, gone)?;
    let all = concat_batches(&table.arrow(), [found, &deletes]).map_err(not_formed)?;
    let operation = |row| if row < found.num_rows() { Operation::Upsert } else { Operation::Delete };
    let mut order: Vec<_> = keys_of(table, &all)?.into_iter().zip(0_u32..).collect();
    order.sort_unstable();
    let order: Vec<u32> = order.into_iter().map(|(_, row)| row).collect();
    let operations = order.iter().map(|&row| operation(row as usize)).collect();
    let rows = take_record_batch(&all, &UInt32Array::from(order)).map_err(not_formed)?;
    of(table, rows, operations)
}

/// More keys: those of full rows.
///
/// # Errors
/// A bug if the batches are not of this table.
pub(crate) fn and_keys_of(
    table: &TableSchema,
    keys: &RecordBatch,
    rows: &RecordBatch,
) -> Result<RecordBatch> {
    let of_rows = rows.project(&table.row_key).map_err(not_formed)?;
    concat_batches(&table.arrow_old(), [keys, &of_rows]).map_err(not_formed)
}

/// A batch of changes that stand in no log.
///
/// # Errors
/// A bug if the rows are not of this table.
pub(crate) fn of(
    table: &Arc<TableSchema>,
    rows: RecordBatch,
    operations: Vec<Operation>,
) -> Result<ChangeBatch> {
    let count = operations.len();
    let (ordinals, transactions) = (vec![0; count], vec![0; count]);
    let batch = ChangeBatch {
        table: Arc::clone(table),
        rows,
        operations,
        ordinals,
        transactions,
        masks: None,
        old: None,
    };
    batch.check()
}

/// Rows that hold only their key.
fn deleted_rows(table: &TableSchema, keys: &RecordBatch) -> Result<RecordBatch> {
    let schema = table.arrow();
    let column = |(place, field): (usize, &Arc<arrow_schema::Field>)| match table
        .row_key
        .iter()
        .position(|&key| key == place)
    {
        Some(at) => Arc::clone(keys.column(at)),
        None => arrow_array::new_null_array(field.data_type(), keys.num_rows()),
    };
    let columns: Vec<ArrayRef> = schema.fields().iter().enumerate().map(column).collect();
    RecordBatch::try_new(schema, columns).map_err(not_formed)
}

fn not_formed(error: ArrowError) -> Error {
    Error::bug("restored rows cannot be formed").with_source(error)
}
