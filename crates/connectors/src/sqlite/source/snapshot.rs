//! The ability to read what a table holds.
//!
//! # Two ways to cut
//! - *Key ranges*, where the table has an integer key: each in a read transaction of its own, so nothing long is held and
//!   a restart goes on with the missing ranges. A table whose CREATE TABLE holds a UNIQUE constraint is not cut so:
//!   rows of chunks that were read at different times may collide, and SQLite cannot build such a constraint later.
//! - *The whole table* otherwise.
//!
//! Without a stream all tables of a run are read in one transaction of one connection, unless ranges were asked for. It is
//! held until the source is dropped or a table is planned that was finished in it.
//!
//! In WAL mode a read holds up nobody; in the other journal modes it holds up commits, which `check` says.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use rusqlite::{Connection, Row, params_from_iter};
use syncline_core::{
    Chunk, ChunkPart, ChunkPlan, ChunkRead, ChunkReader, Column, CutPlan, Error, Moment, PipelineName,
    ReadMark, Result, SnapshotOptions, Snapshots, TableId, TableSchema, TableState, failpoint,
};
use tokio::task::JoinHandle;

use super::super::catalog::Table;
use super::super::connect::{Shared, blocking, open_reader};
use super::super::error::During;
use super::super::quote::ident;
use super::super::rows::RowsBuilder;
use super::super::{cells, value};
use super::page::{Pages, select_by_key, verified};
use super::range::{Ledger, LedgerCut, Mark, Range};
use super::{SqliteSource, capture};

/// Rows that a chunk should have: a commit at the destination each.
const CHUNK_ROWS: u64 = 100_000;
const CHUNKS_MAX: u64 = 512;

/// What is held between `plan` and `finish`.
#[derive(Default)]
pub(super) struct Held {
    /// The tables planned and not finished, with whether the common snapshot reads them.
    planned: HashMap<TableId, Way>,
    common: Option<Common>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Each chunk in its own transaction.
    Apart,
    /// All in the common snapshot.
    Common,
}

/// The one snapshot of a run without a stream.
struct Common {
    conn: Shared<Connection>,
    mark: Mark,
    finished: HashSet<TableId>,
}

impl Held {
    /// The common snapshot, begun anew for a table that was finished in the present one (that is another run).
    fn common(&mut self, path: &Path, table: &TableId) -> Result<(Shared<Connection>, Mark)> {
        if self.common.as_ref().is_some_and(|common| common.finished.contains(table)) {
            self.common = None;
        }
        if self.common.is_none() {
            let conn = open_reader(path)?;
            let mut mark = begin(&conn, None)?;
            let name = conn.query_row("SELECT lower(hex(randomblob(8)))", [], |row| row.get(0));
            mark.snapshot = Some(name.during("naming a snapshot")?);
            self.common = Some(Common { conn: Shared::new(conn), mark, finished: HashSet::new() });
        }
        let common = self.common.as_ref().ok_or_else(|| Error::bug("a snapshot vanished"))?;
        Ok((common.conn.clone(), common.mark.clone()))
    }
}

/// Begins a read transaction and says what it sees. Reading the catalogue is what fixes it.
pub(super) fn begin(conn: &Connection, pipeline: Option<&PipelineName>) -> Result<Mark> {
    conn.execute_batch("BEGIN; SELECT count(*) FROM main.sqlite_schema").during("beginning a read")?;
    let log = match pipeline {
        Some(pipeline) => capture::find_log(conn, pipeline)?,
        None => None,
    };
    Ok(Mark { seen: log.map_or(0, |log| log.end), snapshot: None })
}

#[async_trait]
impl Snapshots for SqliteSource {
    async fn plan(
        &self,
        table: &Arc<TableSchema>,
        state: &TableState,
        options: SnapshotOptions,
    ) -> Result<ChunkPlan> {
        let way = match options.moment {
            Moment::OfRun if !options.resumable => Way::Common,
            Moment::OfRun | Moment::OfTable | Moment::OfChunk => Way::Apart,
        };
        let (path, table, state) = (self.path.clone(), Arc::clone(table), state.clone());
        self.snapshots
            .run(move |held| {
                held.planned.insert(table.id.clone(), way);
                let (conn, snapshot) = match way {
                    Way::Apart => (Shared::new(open_reader(&path)?), None),
                    Way::Common => {
                        let (conn, mark) = held.common(&path, &table.id)?;
                        (conn, mark.snapshot)
                    }
                };
                let conn = conn.lock();
                if snapshot.is_none() {
                    begin(&conn, None)?;
                }
                plan(&conn, &table, &state, snapshot.as_deref())
            })
            .await
    }

    async fn read(&self, table: &Arc<TableSchema>, chunk: &Chunk) -> Result<ChunkRead> {
        let range = Range::parse(&chunk.range)?;
        let (path, table) = (self.path.clone(), Arc::clone(table));
        let pipeline = self.pipeline.lock().clone();
        let reader = self
            .snapshots
            .run(move |held| {
                let (conn, mark) = match held.planned.get(&table.id) {
                    Some(Way::Common) => held.common(&path, &table.id)?,
                    _ => {
                        let conn = open_reader(&path)?;
                        let mark = begin(&conn, pipeline.as_ref())?;
                        (Shared::new(conn), mark)
                    }
                };
                let pages = Pages::new(&conn.lock(), &table, &range)?;
                Ok(PageReader { conn, pages: Shared::new(pages), mark: mark.to_read_mark(), ahead: None })
            })
            .await?;
        Ok(ChunkRead::Reading(Box::new(reader)))
    }

    fn show(&self, _column: &Column, value: &[u8]) -> String {
        value::shown(value)
    }

    async fn read_keys(
        &self,
        table: &Arc<TableSchema>,
        keys: &RecordBatch,
    ) -> Result<(RecordBatch, ReadMark)> {
        let (path, table, keys) = (self.path.clone(), Arc::clone(table), keys.clone());
        let pipeline = self.pipeline.lock().clone();
        blocking(move || {
            let conn = open_reader(&path)?;
            let mark = begin(&conn, pipeline.as_ref())?;
            Ok((read_rows(&conn, &table, &keys)?, mark.to_read_mark()))
        })
        .await
    }

    fn range_of_keys(&self, _table: &TableSchema, keys: &RecordBatch) -> Result<String> {
        Range::of_rows(keys)?.to_text()
    }

    fn cut(&self, table: &Arc<TableSchema>, state: &TableState) -> Result<Box<dyn CutPlan>> {
        let ledger = Ledger::new(state).map_err(|error| error.with_table(&table.id))?;
        Ok(Box::new(LedgerCut { ledger, table: Arc::clone(table) }))
    }

    fn saw(&self, mark: &ReadMark, transactions: &[u64]) -> Result<bool> {
        let seen = Mark::parse(&mark.0)?.seen;
        Ok(transactions.iter().all(|&transaction| transaction <= seen))
    }

    fn reads_one_snapshot(&self, table: &TableId) -> bool {
        self.snapshots.lock().planned.get(table) == Some(&Way::Common)
    }

    async fn finish(&self, table: &TableId) {
        let table = table.clone();
        let finished = self.snapshots.run(move |held| {
            if held.planned.remove(&table) == Some(Way::Common)
                && let Some(common) = &mut held.common
            {
                common.finished.insert(table);
            }
            Ok(())
        });
        // It cannot fail; a task that was cancelled with the runtime has nothing left to give up.
        let _ = finished.await;
    }

    async fn release(&self) {
        let released = self.snapshots.run(|held| {
            held.common = None;
            Ok(())
        });
        // As above.
        let _ = released.await;
    }
}

fn plan(
    conn: &Connection,
    table: &Arc<TableSchema>,
    state: &TableState,
    snapshot: Option<&str>,
) -> Result<ChunkPlan> {
    let found = verified(conn, table)?;
    for entry in state.chunks.values() {
        if snapshot.is_some() && Mark::parse(&entry.mark)?.snapshot.as_deref() != snapshot {
            return Ok(ChunkPlan::StartOver(
                "its chunks were read in a snapshot that ended with its process".to_owned(),
            ));
        }
    }
    let ledger = Ledger::new(state).map_err(|error| error.with_table(&table.id))?;
    if ledger.has_all() {
        return Ok(ChunkPlan::Chunks(Vec::new()));
    }
    let first = state.chunks.keys().next_back().map_or(0, |last| last + 1);
    let inline_unique = found.unique.iter().any(|index| index.inline && !index.key);
    if !found.integer_key || (inline_unique && snapshot.is_none()) {
        let rows_estimated = table.rows_estimated.unwrap_or(0);
        return Ok(ChunkPlan::Chunks(vec![Chunk { n: first, range: Range::All.to_text()?, rows_estimated }]));
    }
    let mut chunks = Vec::new();
    for (from, to) in ledger.missing() {
        for (from, to, rows_estimated) in pieces(conn, table, &found, from, to)? {
            let n = first + u32::try_from(chunks.len()).unwrap_or(u32::MAX);
            chunks.push(Chunk { n, range: Range::Keys(from, to).to_text()?, rows_estimated });
        }
    }
    Ok(ChunkPlan::Chunks(chunks))
}

/// Cuts a range of keys into pieces of equal width. Where keys are sparse pieces have fewer rows, which harms nobody.
fn pieces(
    conn: &Connection,
    table: &TableSchema,
    found: &Table,
    from: i64,
    to: i64,
) -> Result<Vec<(i64, i64, u64)>> {
    let (Some(key), name) = (found.key.first().map(|key| ident(&key.name)), ident(&found.name)) else {
        return Err(Error::bug("a table without a key is cut by its key"));
    };
    let end = |of: &str| -> Result<Option<i64>> {
        let sql = format!("SELECT {of}({key}) FROM {name} WHERE {key} BETWEEN ?1 AND ?2");
        conn.query_row(&sql, [from, to], |row| row.get(0)).during("planning chunks")
    };
    // One at a time: only then does SQLite look at the ends of the key alone.
    let (Some(least), Some(greatest)) = (end("min")?, end("max")?) else {
        return Ok(vec![(from, to, 0)]);
    };
    let span = greatest.abs_diff(least).saturating_add(1);
    let rows = table.rows_estimated.unwrap_or(span).min(span);
    let count = rows.div_ceil(failpoint::size("chunk_rows", CHUNK_ROWS)).clamp(1, CHUNKS_MAX);
    let width = span.div_ceil(count);
    let mut pieces = Vec::new();
    let mut begin = from;
    for n in 1..count {
        let Some(next) = least.checked_add_unsigned(width.saturating_mul(n)) else { break };
        if next > greatest {
            break;
        }
        pieces.push((begin, next - 1, rows / count));
        begin = next;
    }
    pieces.push((begin, to, rows / count));
    Ok(pieces)
}

fn read_rows(conn: &Connection, table: &Arc<TableSchema>, keys: &RecordBatch) -> Result<RecordBatch> {
    let doing = "reading rows by key";
    let found = verified(conn, table)?;
    let mut builder = RowsBuilder::new(table);
    let mut statement = conn.prepare_cached(&select_by_key(&found, table)).during(doing)?;
    for at in 0..keys.num_rows() {
        let key = cells::row(table, table.row_key.iter().copied(), keys, at)?;
        let mut rows = statement.query(params_from_iter(&key)).during(doing)?;
        while let Some(row) = rows.next().during(doing)? {
            pushed_if_same(&mut builder, table, &key, row)?;
        }
    }
    builder.finish()
}

/// Takes a row that was found by a key, if its key is the very same: SQLite also finds what only compares equal.
pub(super) fn pushed_if_same(
    builder: &mut RowsBuilder,
    table: &TableSchema,
    key: &[cells::Cell<'_>],
    row: &Row<'_>,
) -> Result<()> {
    for (part, column) in key.iter().zip(&table.row_key) {
        let found = row.get_ref(*column).during("reading rows by key")?;
        if !value::identical(found, cells::value_ref(part)) {
            return Ok(());
        }
    }
    builder.push(row)
}

/// A chunk being read: while one page is loaded the next is read.
struct PageReader {
    conn: Shared<Connection>,
    pages: Shared<Pages>,
    mark: ReadMark,
    /// Dropped with the reader: it ends by itself after at most one page.
    ahead: Option<JoinHandle<Result<Option<RecordBatch>>>>,
}

impl PageReader {
    fn read_ahead(&self) -> JoinHandle<Result<Option<RecordBatch>>> {
        let (conn, pages) = (self.conn.clone(), self.pages.clone());
        tokio::task::spawn_blocking(move || pages.lock().next(&conn.lock()))
    }
}

#[async_trait]
impl ChunkReader for PageReader {
    fn mark(&self) -> &ReadMark {
        &self.mark
    }

    async fn next(&mut self) -> Result<Option<ChunkPart>> {
        if self.ahead.is_none() {
            self.ahead = Some(self.read_ahead());
        }
        let Some(ahead) = &mut self.ahead else { return Ok(None) };
        let page = ahead
            .await
            .unwrap_or_else(|error| Err(Error::bug("a SQLite task did not end").with_source(error)));
        self.ahead = None;
        let page = page?;
        if page.is_some() {
            self.ahead = Some(self.read_ahead());
        }
        Ok(page.map(ChunkPart::Rows))
    }
}
