//! The destination of the pair, read: what a comparison needs of its tables. One chunk a table, nothing held, no stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use syncline_core::{
    Chunk, ChunkPart, ChunkPlan, ChunkRead, ChunkReader, Column, CutPlan, Error, Family, Finding, ReadMark,
    Result, RowKey, Selection, SnapshotOptions, Snapshots, Source, Streams, TableId, TableSchema, TableState,
    Versions,
};

use super::destination::MemoryDestination;
use super::rows::{Row, TableRows, keys_of, keys_of_old, to_batch};

/// Reads a [`MemoryDestination`].
#[derive(Debug, Clone)]
pub struct MemoryReader(MemoryDestination);

impl MemoryDestination {
    /// A reader of what is committed here.
    #[must_use]
    pub fn reader(&self) -> MemoryReader {
        MemoryReader(self.clone())
    }

    /// Changes rows behind everybody's back: each of these is written over the row of its key, or added.
    ///
    /// # Panics
    /// If the table does not exist or has no key: a test's mistake.
    pub fn plant(&self, table: &TableId, rows: &[Row]) {
        self.behind_the_back(table, rows, |there, key, row| {
            there.insert(key, Arc::new(row.clone()));
        });
    }

    /// Takes rows away behind everybody's back, by the keys of these.
    ///
    /// # Panics
    /// As [`MemoryDestination::plant`].
    pub fn uproot(&self, table: &TableId, rows: &[Row]) {
        self.behind_the_back(table, rows, |there, key, _| {
            there.remove(&key);
        });
    }

    fn behind_the_back(
        &self,
        table: &TableId,
        rows: &[Row],
        change: impl Fn(&mut BTreeMap<RowKey, Arc<Row>>, RowKey, &Row),
    ) {
        let mut stored = self.0.stored();
        let stored = stored.tables.get_mut(table).unwrap_or_else(|| panic!("no table {table}"));
        let batch = to_batch(&stored.schema, rows).unwrap_or_else(|error| panic!("{error}"));
        let keys = keys_of(&stored.schema, &batch).unwrap_or_else(|error| panic!("{error}"));
        let TableRows::Keyed(there) = Arc::make_mut(&mut stored.rows) else {
            panic!("table {table} has no key");
        };
        keys.into_iter().zip(rows).for_each(|(key, row)| change(there, key, row));
    }
}

impl MemoryReader {
    /// All rows, with the columns of `table` in its order.
    pub(super) fn rows(&self, table: &TableSchema) -> Result<Vec<Row>> {
        let gone = || Error::configuration("the table is gone").with_table(&table.id);
        let names = self.0.columns(&table.id).ok_or_else(gone)?;
        let place = |column: &Column| names.iter().position(|name| *name == column.name).ok_or_else(gone);
        let places = table.columns.iter().map(place).collect::<Result<Vec<_>>>()?;
        let rows = self.0.rows(&table.id).ok_or_else(gone)?;
        Ok(rows.into_iter().map(|row| places.iter().map(|&place| row[place].clone()).collect()).collect())
    }
}

#[async_trait]
impl Source for MemoryReader {
    fn family(&self) -> Family {
        Family::MEMORY
    }

    fn address(&self) -> String {
        "memory destination".to_owned()
    }

    async fn check(&self, _selection: &Selection, _streamed: bool) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    async fn discover(&self, selection: &Selection) -> Result<Vec<TableSchema>> {
        let stored = self.0.0.stored();
        let tables = stored.tables.iter().filter(|(id, _)| selection.takes(id));
        Ok(tables
            .map(|(id, table)| TableSchema { id: id.clone(), ..table.schema.as_ref().clone() })
            .collect())
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn streams(&self) -> Option<&dyn Streams> {
        None
    }

    fn versions(&self) -> Option<&dyn Versions> {
        Some(self)
    }
}

#[async_trait]
impl Snapshots for MemoryReader {
    async fn plan(
        &self,
        _table: &Arc<TableSchema>,
        _state: &TableState,
        _options: SnapshotOptions,
    ) -> Result<ChunkPlan> {
        Ok(ChunkPlan::Chunks(vec![Chunk { n: 0, range: String::new(), rows_estimated: 0 }]))
    }

    async fn read(&self, table: &Arc<TableSchema>, _chunk: &Chunk) -> Result<ChunkRead> {
        let rows = to_batch(table, &self.rows(table)?)?;
        Ok(ChunkRead::Reading(Box::new(Reader { mark: ReadMark(String::new()), rows: Some(rows) })))
    }

    fn show(&self, _column: &Column, value: &[u8]) -> String {
        String::from_utf8_lossy(value).into_owned()
    }

    async fn read_keys(
        &self,
        table: &Arc<TableSchema>,
        keys: &RecordBatch,
    ) -> Result<(RecordBatch, ReadMark)> {
        let wanted: BTreeSet<_> = keys_of_old(keys)?.into_iter().collect();
        let rows = self.rows(table)?;
        let found = keys_of(table, &to_batch(table, &rows)?)?;
        let rows: Vec<Row> =
            rows.into_iter().zip(found).filter(|(_, key)| wanted.contains(key)).map(|(row, _)| row).collect();
        Ok((to_batch(table, &rows)?, ReadMark(String::new())))
    }

    fn range_of_keys(&self, _table: &TableSchema, _keys: &RecordBatch) -> Result<String> {
        Err(Error::bug("a destination has no ledger of its own"))
    }

    fn cut(&self, _table: &Arc<TableSchema>, _state: &TableState) -> Result<Box<dyn CutPlan>> {
        Err(Error::bug("a destination has no stream to cut"))
    }

    fn saw(&self, _mark: &ReadMark, _transactions: &[u64]) -> Result<bool> {
        Err(Error::bug("a destination's reads see what is committed there, not transactions of a source"))
    }

    fn reads_one_snapshot(&self, _table: &TableId) -> bool {
        true
    }

    async fn finish(&self, _table: &TableId) {}
}

/// A whole table, at once.
struct Reader {
    mark: ReadMark,
    rows: Option<RecordBatch>,
}

#[async_trait]
impl ChunkReader for Reader {
    fn mark(&self) -> &ReadMark {
        &self.mark
    }

    async fn next(&mut self) -> Result<Option<ChunkPart>> {
        Ok(self.rows.take().map(ChunkPart::Rows))
    }
}
