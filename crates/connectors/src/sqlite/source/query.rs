//! Queries that stand for tables: a state that is computed, to be compared and to be repaired to.
//!
//! A query is read as one chunk, in a read transaction of its own, and wrapped as a relation wherever rows of it are asked
//! for by key. A column that is one of a table has its declared type; one that is computed has none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use rusqlite::{Connection, params_from_iter};
use syncline_core::{
    Chunk, ChunkPart, ChunkPlan, ChunkRead, ChunkReader, Column, CutPlan, Error, Family, Finding, Query,
    ReadMark, Result, Selection, SnapshotOptions, Snapshots, Source, Streams, TableId, TableSchema,
    TableState,
};
use tokio::sync::mpsc;

use super::super::connect::{blocking, open_reader};
use super::super::error::During;
use super::super::quote::{ident, idents};
use super::super::rows::{self, BATCH_BYTES, RowsBuilder};
use super::super::{cells, value};
use super::range::Mark;
use super::snapshot::{begin, pushed_if_same};

/// Pages read ahead.
const PAGES_AHEAD: usize = 2;

/// A file of which only queries are read.
pub(super) struct QuerySource {
    path: PathBuf,
    queries: BTreeMap<TableId, Query>,
}

impl QuerySource {
    pub(super) fn new(path: PathBuf, queries: Vec<Query>) -> Self {
        Self { path, queries: queries.into_iter().map(|query| (query.table.clone(), query)).collect() }
    }

    fn sql(&self, table: &TableId) -> Result<String> {
        let query = self.queries.get(table);
        let query = query.ok_or_else(|| Error::bug("there is no such query").with_table(table))?;
        Ok(query.sql.clone())
    }
}

#[async_trait]
impl Source for QuerySource {
    fn family(&self) -> Family {
        Family::SQLITE
    }

    fn address(&self) -> String {
        self.path.display().to_string()
    }

    async fn check(&self, selection: &Selection, _streamed: bool) -> Result<Vec<Finding>> {
        self.discover(selection).await.map(|_| Vec::new())
    }

    async fn discover(&self, selection: &Selection) -> Result<Vec<TableSchema>> {
        let (path, selection) = (self.path.clone(), selection.clone());
        let queries: Vec<Query> =
            self.queries.values().filter(|query| selection.takes(&query.table)).cloned().collect();
        blocking(move || {
            let conn = open_reader(&path)?;
            queries.iter().map(|query| described(&conn, query, &selection)).collect()
        })
        .await
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn streams(&self) -> Option<&dyn Streams> {
        None
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
        let (sql, path, table) = (self.sql(&table.id)?, self.path.clone(), Arc::clone(table));
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let (conn, mark) = blocking(move || {
            let conn = open_reader(&path)?;
            let mark = begin(&conn, None)?;
            Ok((conn, mark.to_read_mark()))
        })
        .await?;
        tokio::task::spawn_blocking(move || {
            if let Err(error) = send_all(&conn, &sql, &table, &sender) {
                // Nobody listens any more where this fails.
                let _ = sender.blocking_send(Err(error));
            }
        });
        Ok(ChunkRead::Reading(Box::new(QueryReader { mark, pages })))
    }

    fn show(&self, _column: &Column, value: &[u8]) -> String {
        value::shown(value)
    }

    async fn read_keys(
        &self,
        table: &Arc<TableSchema>,
        keys: &RecordBatch,
    ) -> Result<(RecordBatch, ReadMark)> {
        let (sql, path) = (self.sql(&table.id)?, self.path.clone());
        let (table, keys) = (Arc::clone(table), keys.clone());
        blocking(move || {
            let conn = open_reader(&path)?;
            let mark = begin(&conn, None)?;
            Ok((rows_of_keys(&conn, &sql, &table, &keys)?, mark.to_read_mark()))
        })
        .await
    }

    fn range_of_keys(&self, table: &TableSchema, _keys: &RecordBatch) -> Result<String> {
        Err(no_ledger(&table.id))
    }

    fn cut(&self, table: &Arc<TableSchema>, _state: &TableState) -> Result<Box<dyn CutPlan>> {
        Err(no_ledger(&table.id))
    }

    fn saw(&self, mark: &ReadMark, transactions: &[u64]) -> Result<bool> {
        let seen = Mark::parse(&mark.0)?.seen;
        Ok(transactions.iter().all(|&transaction| transaction <= seen))
    }

    fn reads_one_snapshot(&self, _table: &TableId) -> bool {
        true
    }

    async fn finish(&self, _table: &TableId) {}
}

fn no_ledger(table: &TableId) -> Error {
    Error::bug("a query has no stream, so nothing is cut from it").with_table(table)
}

/// A query as a relation of a FROM clause. On lines of its own: it may end in a comment.
fn relation(sql: &str) -> String {
    let sql = sql.trim_end_matches(|letter: char| letter == ';' || letter.is_whitespace());
    format!("(\n{sql}\n)")
}

/// What a query returns, as the columns of a table. Nothing of it is run.
fn described(conn: &Connection, query: &Query, selection: &Selection) -> Result<TableSchema> {
    let wrong =
        |what: String, remedy: &str| Error::configuration(what).with_table(&query.table).with_remedy(remedy);
    let statement = conn
        .prepare(&format!("SELECT * FROM {}", relation(&query.sql)))
        .during("describing a query")
        .map_err(|error| error.with_table(&query.table).with_remedy("correct the query: one SELECT"))?;
    let excluded = selection.excluded_columns(&query.table);
    let (mut columns, mut names) = (Vec::new(), BTreeSet::new());
    for column in statement.columns() {
        let (name, declared) = (column.name().to_owned(), column.decl_type().unwrap_or_default());
        if !names.insert(name.clone()) {
            let what = format!("the query returns two columns named `{name}`");
            return Err(wrong(what, "give each a name of its own with AS"));
        }
        if !excluded.contains(name.as_str()) {
            columns.push(Column {
                name,
                data_type: rows::data_type(declared),
                nullable: true,
                native_type: declared.to_owned(),
                carriage: rows::carriage(selection.carry),
            });
        }
    }
    let place = |name: &String| {
        let place = columns.iter().position(|column: &Column| column.name == *name);
        let none = || {
            wrong(format!("the query returns no column `{name}`, which is to be its key"), "correct --key")
        };
        place.ok_or_else(none)
    };
    Ok(TableSchema {
        id: query.table.clone(),
        row_key: query.key.iter().map(place).collect::<Result<_>>()?,
        columns,
        version: 1,
        rows_estimated: None,
        native: None,
    })
}

fn columns_of(table: &TableSchema) -> String {
    idents(table.columns.iter().map(|column| column.name.as_str()))
}

/// Runs the query and sends its rows, about a megabyte at a time, until nobody listens.
fn send_all(
    conn: &Connection,
    sql: &str,
    table: &Arc<TableSchema>,
    sender: &mpsc::Sender<Result<RecordBatch>>,
) -> Result<()> {
    let doing = "reading a query";
    let sql = format!("SELECT {} FROM {}", columns_of(table), relation(sql));
    let mut statement = conn.prepare(&sql).during(doing)?;
    let mut rows = statement.query([]).during(doing)?;
    let mut builder = RowsBuilder::new(table);
    while let Some(row) = rows.next().during(doing)? {
        builder.push(row)?;
        if builder.bytes() >= BATCH_BYTES {
            let page = std::mem::replace(&mut builder, RowsBuilder::new(table)).finish();
            if sender.blocking_send(page).is_err() {
                return Ok(());
            }
        }
    }
    // Nobody listens any more where this fails.
    let _ = sender.blocking_send(builder.finish());
    Ok(())
}

/// The rows of these keys. As for a table, what only compares equal (1 and 1.0) is another key.
fn rows_of_keys(
    conn: &Connection,
    sql: &str,
    table: &Arc<TableSchema>,
    keys: &RecordBatch,
) -> Result<RecordBatch> {
    let doing = "reading rows by key";
    let condition =
        |(part, column): (usize, &usize)| format!("{} = ?{}", ident(&table.columns[*column].name), part + 1);
    let conditions: Vec<String> = table.row_key.iter().enumerate().map(condition).collect();
    let (columns, relation) = (columns_of(table), relation(sql));
    let sql = format!("SELECT {columns} FROM {relation} WHERE {}", conditions.join(" AND "));
    let mut statement = conn.prepare(&sql).during(doing)?;
    let mut builder = RowsBuilder::new(table);
    for at in 0..keys.num_rows() {
        let key = cells::row(table, table.row_key.iter().copied(), keys, at)?;
        let mut rows = statement.query(params_from_iter(&key)).during(doing)?;
        while let Some(row) = rows.next().during(doing)? {
            pushed_if_same(&mut builder, table, &key, row)?;
        }
    }
    builder.finish()
}

/// A query being read.
struct QueryReader {
    mark: ReadMark,
    pages: mpsc::Receiver<Result<RecordBatch>>,
}

#[async_trait]
impl ChunkReader for QueryReader {
    fn mark(&self) -> &ReadMark {
        &self.mark
    }

    async fn next(&mut self) -> Result<Option<ChunkPart>> {
        self.pages.recv().await.transpose().map(|page| page.map(ChunkPart::Rows))
    }
}
