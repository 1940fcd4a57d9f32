//! Rows of chunks: by COPY straight into the table, or through a staging table where rows were kept or values need a
//! cast. All pieces of one chunk make one COPY.

use std::sync::Arc;

use arrow_array::RecordBatch;
use syncline_core::{Bulk, Error, Family, Result, TableSchema};

use super::super::encode::Reader;
use super::super::shape::Shape;
use super::copy::{Copy, put_row};
use super::sql::{Masked, Sql};
use super::stage::{self, Form};
use super::{PostgresLoad, staged};

/// A chunk's COPY that more pieces may follow.
pub(super) struct ChunkCopy {
    copy: Copy,
    shape: Arc<Shape>,
    pieces: Pieces,
    /// The staging table, if it does not go straight in.
    stage: Option<String>,
}

/// In which form the pieces come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pieces {
    /// `bulk`'s own form.
    Bulk(&'static str),
    /// Rows that are encoded here.
    Rows,
}

impl PostgresLoad {
    /// Writes a piece of a bulk stream.
    pub(super) async fn write_bulk(&mut self, table: &Arc<TableSchema>, bulk: Bulk) -> Result<()> {
        if bulk.family != Family::POSTGRES || !matches!(bulk.form, "binary" | "text") {
            return Err(Error::bug(format!("bulk form `{}` of {} is not ours", bulk.form, bulk.family))
                .with_table(&table.id));
        }
        self.open_copy(table, Pieces::Bulk(bulk.form)).await?;
        let Some(open) = self.copy.as_mut() else { return Err(Error::bug("no COPY is open")) };
        match open.copy.send(bulk.bytes).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let shape = Arc::clone(&open.shape);
                Err(self.failed(&shape, error, "copying a chunk").await)
            }
        }
    }

    /// Writes rows of a chunk.
    pub(super) async fn write_rows(&mut self, table: &Arc<TableSchema>, rows: &RecordBatch) -> Result<()> {
        self.open_copy(table, Pieces::Rows).await?;
        let Some(open) = self.copy.as_mut() else { return Err(Error::bug("no COPY is open")) };
        let readers: Vec<_> = rows.columns().iter().map(Reader::new).collect();
        for row in 0..rows.num_rows() {
            put_row(open.copy.gathered(), &readers, row).map_err(|error| error.with_table(&table.id))?;
            if let Err(error) = open.copy.send_if_full().await {
                let shape = Arc::clone(&open.shape);
                return Err(self.failed(&shape, error, "copying a chunk").await);
            }
        }
        Ok(())
    }

    fn goes_straight_in(&self, shape: &Shape, pieces: Pieces) -> bool {
        !self.is_kept(shape) && (shape.copies_directly() || pieces != Pieces::Rows)
    }

    /// Makes the staging table that rows of a chunk need, if they need one.
    pub(super) async fn make_chunk_ready(&mut self, shape: &Arc<Shape>) -> Result<()> {
        if !self.goes_straight_in(shape, Pieces::Rows) {
            self.stage(shape, Form::Rows).await?;
        }
        Ok(())
    }

    async fn open_copy(&mut self, table: &Arc<TableSchema>, pieces: Pieces) -> Result<()> {
        let goes_on =
            self.copy.as_ref().is_some_and(|open| open.shape.table.id == table.id && open.pieces == pieces);
        if goes_on {
            return Ok(());
        }
        self.finish_copy().await?;
        self.flush().await?;
        let shape = self.shape(table).await?;
        let stage = if self.goes_straight_in(&shape, pieces) {
            None
        } else {
            let form = if pieces == Pieces::Rows { Form::Rows } else { Form::Exact };
            Some(self.stage(&shape, form).await?)
        };
        let into = match &stage {
            Some(stage) => stage::copy_target(stage),
            None => Sql::new(&shape).copy_target(),
        };
        let format = match pieces {
            Pieces::Bulk(form) => form,
            Pieces::Rows => "binary",
        };
        let sql = format!("COPY {into} FROM STDIN (FORMAT {format})");
        let copy = Copy::begin(self.lease.worker()?, &sql).await;
        let mut copy = match copy {
            Ok(copy) => copy,
            Err(error) => return Err(self.failed(&shape, error, "copying a chunk").await),
        };
        if pieces == Pieces::Rows {
            copy.put_header();
        }
        self.copy = Some(ChunkCopy { copy, shape, pieces, stage });
        Ok(())
    }

    /// Ends a chunk's COPY, if one is open, and merges what it staged.
    pub(super) async fn finish_copy(&mut self) -> Result<()> {
        let Some(ChunkCopy { mut copy, shape, pieces, stage }) = self.copy.take() else { return Ok(()) };
        if pieces == Pieces::Rows {
            copy.put_trailer();
        }
        let rows = match copy.finish().await {
            Ok(rows) => rows,
            Err(error) => return Err(self.failed(&shape, error, "copying a chunk").await),
        };
        self.tally.loaded += rows;
        let Some(stage) = stage else { return self.verify(&shape).await };
        let sql = if pieces == Pieces::Rows { Sql::new(&shape) } else { Sql::exact(&shape) };
        let from = stage::quoted(&stage);
        let statement = if self.is_kept(&shape) && shape.key_operators.is_some() {
            sql.merge(&format!("{from} s"), &Masked::none())
        } else {
            sql.insert_all(&from)
        };
        let statement = staged::planned(&statement, &from, rows, &shape);
        self.batch(&shape, &statement, "merging a chunk").await
    }
}
