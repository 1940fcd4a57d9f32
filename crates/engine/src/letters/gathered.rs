//! Rows of a chunk whose load was refused: pieces of the bulk stream become batches of rows that can be halved.

use std::sync::Arc;

use arrow_array::builder::BinaryBuilder;
use arrow_array::{ArrayRef, RecordBatch};
use syncline_core::encoding::{self, BulkRows};
use syncline_core::source::ChunkPart;
use syncline_core::{Error, Result, Snapshots, TableSchema};

/// Bytes of rows that are offered together.
const BYTES: usize = 1 << 20;

/// Gathers rows of one chunk.
pub(crate) struct Gathered {
    table: Arc<TableSchema>,
    cutter: Option<Box<dyn BulkRows>>,
    columns: Vec<BinaryBuilder>,
    rows: usize,
    bytes: usize,
}

impl Gathered {
    pub(crate) fn new(snapshots: &dyn Snapshots, table: &Arc<TableSchema>) -> Self {
        Self {
            table: Arc::clone(table),
            cutter: snapshots.bulk_rows(table),
            columns: table.columns.iter().map(|_| BinaryBuilder::new()).collect(),
            rows: 0,
            bytes: 0,
        }
    }

    /// Takes a piece; gives rows once they are enough.
    ///
    /// # Errors
    /// A bug if the piece is not of the form that the source says.
    pub(crate) fn take(&mut self, piece: ChunkPart) -> Result<Option<RecordBatch>> {
        let bulk = match piece {
            ChunkPart::Rows(rows) => return Ok(Some(rows)),
            ChunkPart::Bulk(bulk) => bulk,
        };
        let cutter = self.cutter.as_mut();
        let cutter = cutter.ok_or_else(|| Error::bug("a bulk stream that nobody can cut"))?;
        let (columns, rows, bytes) = (&mut self.columns, &mut self.rows, &mut self.bytes);
        cutter.cut(&bulk.bytes, &mut |row| {
            let values = encoding::values(row)?;
            if values.len() != columns.len() {
                return Err(Error::bug("a row of a bulk stream has another shape than its table"));
            }
            for (column, value) in columns.iter_mut().zip(values) {
                column.append_option(value);
            }
            *rows += 1;
            *bytes += row.len();
            Ok(())
        })?;
        if self.bytes < BYTES { Ok(None) } else { self.built().map(Some) }
    }

    /// The rows that are left.
    ///
    /// # Errors
    /// Retriable if the stream ended within a row.
    pub(crate) fn end(mut self) -> Result<Option<RecordBatch>> {
        if let Some(cutter) = self.cutter.as_mut().filter(|_| !self.columns.is_empty()) {
            cutter.end()?;
        }
        if self.rows == 0 { Ok(None) } else { self.built().map(Some) }
    }

    fn built(&mut self) -> Result<RecordBatch> {
        (self.rows, self.bytes) = (0, 0);
        let columns = self.columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        RecordBatch::try_new(self.table.arrow(), columns)
            .map_err(|error| Error::bug("rows of a chunk cannot be gathered").with_source(error))
    }
}
