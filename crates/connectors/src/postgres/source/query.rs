//! Queries that stand for tables: a state that is computed, to be compared and to be repaired to.
//!
//! A query is read as one chunk, in a read-only transaction of its own, and wrapped as a relation wherever rows of it are
//! asked for by key. Names in it are looked up as in a session of the user's: in the schema of the user's name and in
//! `public`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use syncline_core::encoding::BulkRows;
use syncline_core::{
    Chunk, ChunkPlan, ChunkRead, Column, CutPlan, Digests, Error, Family, Finding, Query, ReadMark, Result,
    Selection, SnapshotOptions, Snapshots, Source, Streams, TableId, TableSchema, TableState,
};

use super::catalog::Catalog;
use super::pool::Pool;
use super::snapshot::{self, QueryRead};

/// The search path of a query's transactions: PostgreSQL's own default.
pub(super) const SEARCH_PATH: &str = "SET LOCAL search_path TO \"$user\", public";

/// A database of which only queries are read.
pub(super) struct QuerySource {
    pool: Pool,
    queries: BTreeMap<TableId, Query>,
}

impl QuerySource {
    pub(super) fn new(pool: Pool, queries: Vec<Query>) -> Self {
        Self { pool, queries: queries.into_iter().map(|query| (query.table.clone(), query)).collect() }
    }

    fn read_of<'a>(&'a self, table: &'a Arc<TableSchema>) -> Result<QueryRead<'a>> {
        Ok(QueryRead { pool: &self.pool, table, sql: self.sql_of(table)? })
    }

    /// The statement behind a table.
    pub(super) fn sql_of(&self, table: &TableSchema) -> Result<&str> {
        let query = self.queries.get(&table.id);
        Ok(&query.ok_or_else(|| Error::bug("there is no such query").with_table(&table.id))?.sql)
    }

    /// Sessions to its database.
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }
}

#[async_trait]
impl Source for QuerySource {
    fn family(&self) -> Family {
        Family::POSTGRES
    }

    fn address(&self) -> String {
        self.pool.address().display()
    }

    async fn check(&self, selection: &Selection, _streamed: bool) -> Result<Vec<Finding>> {
        self.discover(selection).await.map(|_| Vec::new())
    }

    async fn discover(&self, selection: &Selection) -> Result<Vec<TableSchema>> {
        let session = self.pool.take().await?;
        let queries: Vec<&Query> =
            self.queries.values().filter(|query| selection.takes(&query.table)).collect();
        let catalog = Catalog::of_queries(&session, &queries).await?;
        self.pool.give(session);
        let mut schemas = catalog.schemas(selection)?;
        // Nobody knows before it is read.
        schemas.iter_mut().for_each(|schema| schema.rows_estimated = None);
        Ok(schemas)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn streams(&self) -> Option<&dyn Streams> {
        None
    }

    fn digests(&self) -> Option<&dyn Digests> {
        Some(self)
    }
}

#[async_trait]
impl Snapshots for QuerySource {
    async fn plan(
        &self,
        _table: &Arc<TableSchema>,
        _state: &TableState,
        _options: SnapshotOptions,
    ) -> Result<ChunkPlan> {
        Ok(ChunkPlan::Chunks(vec![Chunk { n: 0, range: "query".to_owned(), rows_estimated: 0 }]))
    }

    async fn read(&self, table: &Arc<TableSchema>, _chunk: &Chunk) -> Result<ChunkRead> {
        self.read_of(table)?.all().await.map(ChunkRead::Reading)
    }

    fn bulk_rows(&self, table: &TableSchema) -> Option<Box<dyn BulkRows>> {
        snapshot::bulk_rows(table)
    }

    fn show(&self, column: &Column, value: &[u8]) -> String {
        super::show::value(column, value)
    }

    async fn read_keys(
        &self,
        table: &Arc<TableSchema>,
        keys: &RecordBatch,
    ) -> Result<(RecordBatch, ReadMark)> {
        self.read_of(table)?.keys(keys).await
    }

    fn range_of_keys(&self, table: &TableSchema, _keys: &RecordBatch) -> Result<String> {
        Err(no_ledger(&table.id))
    }

    fn cut(&self, table: &Arc<TableSchema>, _state: &TableState) -> Result<Box<dyn CutPlan>> {
        Err(no_ledger(&table.id))
    }

    fn saw(&self, mark: &ReadMark, transactions: &[u64]) -> Result<bool> {
        snapshot::saw(mark, transactions)
    }

    fn reads_one_snapshot(&self, _table: &TableId) -> bool {
        true
    }

    async fn finish(&self, _table: &TableId) {}
}

fn no_ledger(table: &TableId) -> Error {
    Error::bug("a query has no stream, so nothing is cut from it").with_table(table)
}
