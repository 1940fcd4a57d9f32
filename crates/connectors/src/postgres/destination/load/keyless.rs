//! Tables without a row key: one change after the other, and a delete or update takes exactly one row that is bit for
//! bit the old one.
//!
//! A row that is not there is left alone and counted as unchanged, as native replication does: without a key there is
//! nothing to write it under.

use std::sync::Arc;

use arrow_array::RecordBatch;
use syncline_core::{ChangeBatch, Error, Operation, Result};

use super::super::encode::Reader;
use super::super::flight::Param;
use super::super::shape::Shape;
use super::copy::{Copy, put_row};
use super::sql::Sql;
use super::{Expects, PostgresLoad};

/// Inserts in a row from this number on go by COPY.
const COPY_ROWS_MIN: usize = 32;

impl PostgresLoad {
    /// Writes a part of a table without a row key.
    pub(super) async fn write_keyless(&mut self, shape: &Arc<Shape>, batch: &ChangeBatch) -> Result<()> {
        let is_insert = |row: usize| matches!(batch.operations[row], Operation::Insert | Operation::Upsert);
        let mut row = 0;
        while row < batch.len() {
            let inserts = (row..batch.len()).take_while(|&row| is_insert(row)).count();
            if inserts >= COPY_ROWS_MIN && shape.copies_directly() {
                self.copy_inserts(shape, batch, row..row + inserts).await?;
                row += inserts;
                continue;
            }
            self.write_one(shape, batch, row).await?;
            row += 1;
        }
        Ok(())
    }

    async fn write_one(&mut self, shape: &Arc<Shape>, batch: &ChangeBatch, row: usize) -> Result<()> {
        let sql = Sql::new(shape);
        let all: Vec<usize> = (0..shape.columns.len()).collect();
        match batch.operations[row] {
            Operation::Insert | Operation::Upsert => {
                let params = values(&batch.rows, &all, row)?;
                self.wait(shape, &sql.insert_one(), params, Expects::Applied).await
            }
            Operation::Delete => {
                let params = values(&batch.rows, &all, row)?;
                self.wait(shape, &sql.delete_one(), params, Expects::Applied).await
            }
            Operation::Update => {
                let (old, old_row) = old_image(batch, row)?;
                let carried = |&column: &usize| batch.mask(row).is_none_or(|mask| !mask.contains(column));
                let set: Vec<usize> = all.iter().copied().filter(carried).collect();
                let mut params = values(old, &all, old_row)?;
                params.extend(values(&batch.rows, &set, row)?);
                self.wait(shape, &sql.update_one(&set), params, Expects::Applied).await
            }
            Operation::Truncate => self.truncate(shape).await,
        }
    }

    async fn copy_inserts(
        &mut self,
        shape: &Arc<Shape>,
        batch: &ChangeBatch,
        rows: std::ops::Range<usize>,
    ) -> Result<()> {
        self.flush().await?;
        let sql = format!("COPY {} FROM STDIN (FORMAT binary)", Sql::new(shape).copy_target());
        let readers: Vec<_> = batch.rows.columns().iter().map(Reader::new).collect();
        match copy(self, &sql, &readers, rows).await? {
            Ok(copied) => {
                self.tally.applied += copied;
                self.verify(shape).await
            }
            Err(error) => Err(self.failed(shape, error, "copying rows").await),
        }
    }
}

async fn copy(
    load: &mut PostgresLoad,
    sql: &str,
    readers: &[Reader<'_>],
    rows: std::ops::Range<usize>,
) -> Result<Result<u64, tokio_postgres::Error>> {
    let mut copy = match Copy::begin(load.lease.worker()?, sql).await {
        Ok(copy) => copy,
        Err(error) => return Ok(Err(error)),
    };
    copy.put_header();
    for row in rows {
        put_row(copy.gathered(), readers, row)?;
        if let Err(error) = copy.send_if_full().await {
            return Ok(Err(error));
        }
    }
    copy.put_trailer();
    Ok(copy.finish().await)
}

fn old_image(batch: &ChangeBatch, row: usize) -> Result<(&RecordBatch, usize)> {
    let old = batch.old.as_ref().zip(batch.old_row(row));
    old.map(|(old, row)| (&old.keys, row)).ok_or_else(|| {
        Error::bug("an update of a table without a row key has no old image").with_table(&batch.table.id)
    })
}

fn values(rows: &RecordBatch, columns: &[usize], row: usize) -> Result<Vec<Param>> {
    columns.iter().map(|&column| Ok(Param::binary(Reader::new(rows.column(column)).value(row)?))).collect()
}
