//! What is in a part of changes, and which way it goes.

use std::sync::Arc;

use syncline_core::{ChangeBatch, Error, Operation, Result, RowKey};

use super::super::shape::Shape;
use super::PostgresLoad;
use super::sql::Masked;
use super::stage::Form;

/// Changes that may go as arrays; more are faster through a staging table.
const ARRAY_ROWS_MAX: usize = 500;
/// Bytes that may go as arrays.
const ARRAY_BYTES_MAX: usize = 1 << 20;

/// The rows of a part by what happens to them. All lists are in the part's order, which is the order of keys.
pub(super) struct Sorted {
    /// Everything but a truncate.
    pub(super) all: Vec<usize>,
    /// Rows to write.
    pub(super) writes: Vec<usize>,
    /// Of these, rows that were not there before.
    pub(super) inserts: Vec<usize>,
    /// Keys to delete.
    pub(super) deletes: Vec<usize>,
    /// Rows that have an old key.
    pub(super) moved: Vec<usize>,
    /// Rows that leave columns out.
    pub(super) masked: Vec<usize>,
    pub(super) masks: Masked,
}

impl Sorted {
    fn of(batch: &ChangeBatch) -> Self {
        let all: Vec<usize> =
            (0..batch.len()).filter(|&row| batch.operations[row] != Operation::Truncate).collect();
        let pick = |wanted: &dyn Fn(usize) -> bool| -> Vec<usize> {
            all.iter().copied().filter(|&row| wanted(row)).collect()
        };
        let masked = pick(&|row| batch.mask(row).is_some());
        let plain_insert = |row: usize| {
            batch.operations[row] == Operation::Insert
                && batch.old_row(row).is_none()
                && batch.mask(row).is_none()
        };
        let masks = match &batch.masks {
            Some(masks) if !masked.is_empty() => Masked::of(masks),
            _ => Masked::none(),
        };
        Self {
            writes: pick(&|row| batch.operations[row] != Operation::Delete),
            inserts: pick(&plain_insert),
            deletes: pick(&|row| batch.operations[row] == Operation::Delete),
            moved: pick(&|row| batch.old_row(row).is_some()),
            masked,
            masks,
            all,
        }
    }

    /// Whether the part may go as arrays: it is small, every value can be an element, and no row's absent columns must
    /// be fetched before that row leaves.
    fn fits_arrays(&self, batch: &ChangeBatch, shape: &Shape) -> bool {
        let leaves_masked = !self.masked.is_empty()
            && (!shape.touchy.is_empty() || self.masked.iter().any(|&row| batch.old_row(row).is_some()));
        self.all.len() <= ARRAY_ROWS_MAX
            && batch.bytes() <= ARRAY_BYTES_MAX
            && !leaves_masked
            && shape.columns.iter().all(|column| column.element.is_some())
    }
}

/// The key of a row of a part.
///
/// # Errors
/// A bug if a column of the key has no key form.
pub(super) fn key_of(batch: &ChangeBatch, row: usize) -> Result<RowKey> {
    let columns: Vec<_> =
        batch.table.row_key.iter().map(|&column| Arc::clone(batch.rows.column(column))).collect();
    RowKey::of(&columns, row)
}

impl PostgresLoad {
    /// Writes a part of changes.
    pub(super) async fn write_changes(&mut self, batch: &ChangeBatch) -> Result<()> {
        let shape = self.shape(&batch.table).await?;
        self.tally.changes += u64::try_from(batch.len()).unwrap_or(u64::MAX);
        if !batch.table.has_row_key() {
            return self.write_keyless(&shape, batch).await;
        }
        shape.require_key().inspect_err(|_| self.pipeline.shapes.forget(&shape.table.id))?;
        if batch.operations.first() == Some(&Operation::Truncate) {
            self.truncate(&shape).await?;
        }
        if batch.operations.iter().skip(1).any(|&operation| operation == Operation::Truncate) {
            return Err(Error::bug("a truncate stands among other changes").with_table(&batch.table.id));
        }
        let sorted = Sorted::of(batch);
        if sorted.all.is_empty() {
            return Ok(());
        }
        if sorted.fits_arrays(batch, &shape) {
            self.write_arrays(&shape, batch, &sorted).await
        } else {
            self.write_staged(&shape, batch, &sorted).await
        }
    }

    /// Makes what writing a part of changes needs and going back to a savepoint would take away.
    pub(super) async fn make_ready(&mut self, shape: &Arc<Shape>, batch: &ChangeBatch) -> Result<()> {
        if batch.table.has_row_key() && !Sorted::of(batch).fits_arrays(batch, shape) {
            self.stage(shape, Form::Changes).await?;
        }
        Ok(())
    }

    /// Empties a table as the source did.
    pub(super) async fn truncate(&mut self, shape: &Arc<Shape>) -> Result<()> {
        let statement = self.emptying(shape)?;
        self.batch(shape, &statement, "truncating the table").await?;
        self.tally.applied += 1;
        Ok(())
    }
}
