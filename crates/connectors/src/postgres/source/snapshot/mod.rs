//! What a table holds, in chunks that can be cut from the stream exactly.
//!
//! | module | what it is for |
//! |---|---|
//! | `survey` | a table as it lies on disk, and its key's order |
//! | `plan` | how it is cut into chunks |
//! | `range` | a chunk as the ledger remembers it |
//! | `holder` | a snapshot that outlives the chunks read in it |
//! | `read`, `keys` | chunks and single rows being read |
//! | `bulk` | a chunk's pieces cut into rows |
//! | `mark`, `order` | what a read saw; which key comes first |
//! | `cut` | verdicts over the changes of the window |

mod bulk;
mod cut;
mod holder;
pub(super) mod keys;
mod mark;
mod order;
mod plan;
mod range;
mod read;
mod survey;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::{ArrayRef, RecordBatch};
use async_trait::async_trait;
use syncline_core::encoding::BulkRows;
use syncline_core::{
    Chunk, ChunkPlan, ChunkRead, ChunkReader, Column, CutPlan, Error, ErrorKind, Moment, ReadMark, Result,
    RowKey, SnapshotOptions, Snapshots, TableId, TableSchema, TableState,
};

pub(super) use self::bulk::with_rest;
use self::cut::Cutter;
use self::holder::Holder;
use self::mark::Snapshot;
use self::plan::Mode;
use self::range::Range;
use self::read::{Begun, Request, Rows};
use self::survey::{LeadingKey, Survey};
use super::parts;
use super::pool::Pool;
use super::{show, typed};
use crate::postgres::connect::Session;
use crate::postgres::{error, quote};

const REWRITTEN: &str =
    "the table was rewritten (VACUUM FULL, CLUSTER, ALTER or TRUNCATE) during its snapshot";
const LOST: &str = "the session that held the table's snapshot was lost";

/// The snapshots of one source.
pub(super) struct Snapshotter {
    pool: Pool,
    plans: Mutex<HashMap<TableId, Arc<Plan>>>,
    /// The one snapshot of a run without a stream.
    shared: Mutex<Option<Arc<Holder>>>,
}

/// How a table of this process is being read.
struct Plan {
    generation: u32,
    way: Way,
}

/// In which way.
enum Way {
    /// Ranges of its leading key.
    Keys(LeadingKey),
    /// As one chunk: of the table itself, or of all partitions below it.
    Whole { partitioned: bool },
    /// Ranges of blocks, all in their common snapshot.
    One(OneSnapshot),
    /// Ranges of blocks, each in a snapshot of its own.
    Slices,
    /// Leaves that join the table, by their names; a chunk each.
    Leaves(BTreeMap<String, TableId>),
}

struct OneSnapshot {
    holder: Arc<Holder>,
    chunks: Vec<Chunk>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshotter {
    pub(super) fn new(pool: Pool) -> Self {
        Self { pool, plans: Mutex::default(), shared: Mutex::default() }
    }

    fn plan_of(&self, table: &TableId) -> Option<Arc<Plan>> {
        lock(&self.plans).get(table).cloned()
    }

    fn remember(&self, table: &TableId, plan: Plan) {
        lock(&self.plans).insert(table.clone(), Arc::new(plan));
    }

    /// The run's one snapshot; a lost one is replaced, for tables that have not begun.
    fn shared(&self) -> Arc<Holder> {
        let mut shared = lock(&self.shared);
        match shared.as_ref().filter(|holder| !holder.is_lost()) {
            Some(holder) => holder.clone(),
            None => shared.insert(Arc::new(Holder::new(self.pool.clone()))).clone(),
        }
    }

    /// Continues what a ledger holds, in the way it was begun.
    async fn resume(
        &self,
        table: &Arc<TableSchema>,
        state: &TableState,
        loaded: &[Range],
    ) -> Result<ChunkPlan> {
        match &loaded[0] {
            Range::Whole => Ok(ChunkPlan::Chunks(Vec::new())),
            Range::Blocks { of, .. } if usize::try_from(*of).is_ok_and(|of| of == loaded.len()) => {
                Ok(ChunkPlan::Chunks(Vec::new()))
            }
            Range::Blocks { .. } => {
                let plan = self.plan_of(&table.id).filter(|plan| plan.generation == state.generation);
                Ok(match plan.as_ref().and_then(|plan| plan.one_snapshot()) {
                    Some(one) if !one.holder.is_lost() && same_snapshot(one, state) => {
                        ChunkPlan::Chunks(one.remaining(state))
                    }
                    _ => ChunkPlan::StartOver(LOST.to_owned()),
                })
            }
            Range::Keys { .. } => {
                let session = self.pool.take().await?;
                let survey = survey::survey(&session, table).await?;
                let plan = self.plan_keys(&session, table, state, &survey, loaded).await?;
                self.pool.give(session);
                Ok(plan)
            }
            Range::Rows { .. } | Range::Leaf { .. } => {
                Err(Error::bug("a chunk of another kind is in the ledger").with_table(&table.id))
            }
        }
    }

    /// What is left of the leaves that join.
    async fn plan_leaves(
        &self,
        table: &Arc<TableSchema>,
        state: &TableState,
        loaded: &[Range],
    ) -> Result<ChunkPlan> {
        let found = parts::leaves(&self.pool, std::slice::from_ref(&table.id)).await?;
        let leaves = found.get(&table.id).cloned().unwrap_or_default();
        let first_n = state.chunks.last_key_value().map_or(0, |(n, _)| n + 1);
        let mut chunks = Vec::new();
        for part in &state.parts.joining {
            let range = Range::Leaf { part: part.clone() };
            if loaded.contains(&range) {
                continue;
            }
            if !leaves.contains_key(part) {
                return Err(leaf_gone(&table.id));
            }
            let n = first_n.saturating_add(u32::try_from(chunks.len()).unwrap_or(u32::MAX));
            chunks.push(Chunk { n, range: range.to_text()?, rows_estimated: 0 });
        }
        self.remember(&table.id, Plan { generation: state.generation, way: Way::Leaves(leaves) });
        Ok(ChunkPlan::Chunks(chunks))
    }

    async fn plan_keys(
        &self,
        session: &Session,
        table: &Arc<TableSchema>,
        state: &TableState,
        survey: &Survey,
        loaded: &[Range],
    ) -> Result<ChunkPlan> {
        let Some(key) = &survey.key else {
            return Ok(ChunkPlan::StartOver("the table's key has another order than its chunks".to_owned()));
        };
        let other_order = |range: &Range| !matches!(range, Range::Keys { order, .. } if *order == key.order);
        if loaded.iter().any(other_order) {
            return Ok(ChunkPlan::StartOver("the table's key has another order than its chunks".to_owned()));
        }
        let bounds = self.bounds(session, table, survey, key).await?;
        let first_n = state.chunks.last_key_value().map_or(0, |(n, _)| n + 1);
        let rows = table.rows_estimated.unwrap_or_default();
        let chunks = plan::key_ranges(key.order, &bounds, loaded, rows, first_n)?;
        self.remember(&table.id, Plan { generation: state.generation, way: Way::Keys(key.clone()) });
        Ok(ChunkPlan::Chunks(chunks))
    }

    /// Bounds of chunks of about the same size: from the histogram, else by what the key's type allows.
    async fn bounds(
        &self,
        session: &Session,
        table: &Arc<TableSchema>,
        survey: &Survey,
        key: &LeadingKey,
    ) -> Result<Vec<String>> {
        let count = plan::chunk_count(survey.bytes());
        if count == 1 {
            return Ok(Vec::new());
        }
        if !key.histogram.is_empty() {
            return Ok(plan::bounds_of_histogram(key.order, &key.histogram, count));
        }
        let failed = |e| error::from_client(e, "looking for bounds of chunks").with_table(&table.id);
        let (column, name) = (quote::ident(&key.column), quote::table(&table.id));
        if key.order == order::Order::Int {
            let sql = format!("SELECT min({column})::int8, max({column})::int8 FROM ONLY {name}");
            let row = session.query_one(&sql, &[]).await.map_err(failed)?;
            let ends = row.get::<_, Option<i64>>(0).zip(row.get::<_, Option<i64>>(1));
            return Ok(ends.map_or_else(Vec::new, |(low, high)| plan::evenly(low, high, count)));
        }
        // One walk over the key's index.
        let step = (table.rows_estimated.unwrap_or_default() / count).max(1);
        let sql = format!(
            "SELECT k::text FROM (SELECT {column} AS k, row_number() OVER (ORDER BY {column}) AS place \
             FROM ONLY {name}) AS walked WHERE place % $1 = 0"
        );
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        let rows = session.query(&sql, &[&step]).await.map_err(failed)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn begin(
        &self,
        table: &Arc<TableSchema>,
        options: SnapshotOptions,
        state: &TableState,
    ) -> Result<ChunkPlan> {
        let session = self.pool.take().await?;
        let survey = survey::survey(&session, table).await?;
        let first_n = state.chunks.last_key_value().map_or(0, |(n, _)| n + 1);
        let plan = match plan::choose(&survey, options, state.generation) {
            Mode::Keys => self.plan_keys(&session, table, state, &survey, &[]).await?,
            Mode::Whole => {
                self.remember(
                    &table.id,
                    Plan {
                        generation: state.generation,
                        way: Way::Whole { partitioned: survey.partitioned },
                    },
                );
                let range = Range::Whole.to_text()?;
                let rows_estimated = table.rows_estimated.unwrap_or_default();
                ChunkPlan::Chunks(vec![Chunk { n: first_n, range, rows_estimated }])
            }
            Mode::Blocks => {
                let chunks = plan::blocks(&survey, table, first_n, options)?;
                let one = |holder| Way::One(OneSnapshot { holder, chunks: chunks.clone() });
                let way = match options.moment {
                    Moment::OfChunk => Way::Slices,
                    Moment::OfRun if !options.resumable => one(self.shared()),
                    Moment::OfRun | Moment::OfTable => one(Arc::new(Holder::new(self.pool.clone()))),
                };
                self.remember(&table.id, Plan { generation: state.generation, way });
                ChunkPlan::Chunks(chunks)
            }
        };
        self.pool.give(session);
        Ok(plan)
    }
}

impl Plan {
    fn one_snapshot(&self) -> Option<&OneSnapshot> {
        match &self.way {
            Way::One(one) => Some(one),
            Way::Keys(_) | Way::Whole { .. } | Way::Slices | Way::Leaves(_) => None,
        }
    }
}

impl OneSnapshot {
    fn remaining(&self, state: &TableState) -> Vec<Chunk> {
        let loaded = |chunk: &&Chunk| !state.chunks.values().any(|entry| entry.range == chunk.range);
        self.chunks.iter().filter(loaded).cloned().collect()
    }
}

/// The rows of a query being read.
pub(super) struct QueryRead<'a> {
    pub(super) pool: &'a Pool,
    /// As it was described.
    pub(super) table: &'a Arc<TableSchema>,
    pub(super) sql: &'a str,
}

impl QueryRead<'_> {
    /// All of them.
    pub(super) async fn all(&self) -> Result<Box<dyn ChunkReader>> {
        let (table, rows) = (self.table, Rows::Query(self.sql));
        let request = Request { table, relation: &table.id, rows, snapshot: None, node: None };
        match read::begin(self.pool, &request).await? {
            Begun::Reading(reader) => Ok(reader),
            Begun::SnapshotLost | Begun::Rewritten => {
                Err(Error::bug("a query has neither a snapshot of others nor a file").with_table(&table.id))
            }
        }
    }

    /// Those of these keys.
    pub(super) async fn keys(&self, keys: &RecordBatch) -> Result<(RecordBatch, ReadMark)> {
        let session = self.pool.take().await?;
        keys::read(self.pool, session, &keys::From::query(self.sql), self.table, keys).await
    }
}

/// A cutter for the bulk pieces of chunks that come undecoded.
pub(super) fn bulk_rows(table: &TableSchema) -> Option<Box<dyn BulkRows>> {
    (!typed::is_typed(table)).then(|| bulk::rows_of(table))
}

/// Whether a read saw every one of these transactions.
pub(super) fn saw(mark: &ReadMark, transactions: &[u64]) -> Result<bool> {
    let snapshot: Snapshot = mark.0.parse()?;
    Ok(transactions.iter().all(|&transaction| snapshot.saw(transaction)))
}

/// A leaf cannot be read any more; what it brought is not known.
fn leaf_gone(table: &TableId) -> Error {
    Error::new(ErrorKind::Data, "a partition that was to be read was detached or dropped again")
        .with_table(table)
        .with_remedy("run again with --prepare truncate")
}

/// Whether a ledger's chunks were read in the snapshot that is held.
fn same_snapshot(one: &OneSnapshot, state: &TableState) -> bool {
    let mark = one.holder.taken().map(|held| held.mark.as_str());
    state.chunks.values().all(|entry| Some(entry.mark.as_str()) == mark)
}

#[async_trait]
impl Snapshots for Snapshotter {
    async fn plan(
        &self,
        table: &Arc<TableSchema>,
        state: &TableState,
        options: SnapshotOptions,
    ) -> Result<ChunkPlan> {
        let loaded = plan::loaded_ranges(state).map_err(|error| error.with_table(&table.id))?;
        if !state.parts.joining.is_empty() {
            self.plan_leaves(table, state, &loaded).await
        } else if loaded.is_empty() {
            self.begin(table, options, state).await
        } else {
            self.resume(table, state, &loaded).await
        }
    }

    async fn read(&self, table: &Arc<TableSchema>, chunk: &Chunk) -> Result<ChunkRead> {
        let plan = self.plan_of(&table.id);
        let plan =
            plan.ok_or_else(|| Error::bug("a chunk is read that was not planned").with_table(&table.id))?;
        let range = Range::parse(&chunk.range)?;
        let leaf;
        let (relation, rows, snapshot, node) = match (&range, &plan.way) {
            (Range::Whole, Way::Whole { partitioned: true }) => (&table.id, Rows::WithPartitions, None, None),
            (Range::Whole, Way::Whole { partitioned: false }) => {
                (&table.id, Rows::Blocks { from: None, to: None }, None, None)
            }
            (Range::Keys { order, from, to }, Way::Keys(key)) => {
                let (from, to) = (from.as_deref(), to.as_deref());
                (&table.id, Rows::Keys { column: &key.column, order: *order, from, to }, None, None)
            }
            (Range::Blocks { leaf: name, node, from, to, .. }, Way::One(one)) => {
                leaf = range::leaf_id(name);
                if one.holder.is_lost() {
                    return Ok(ChunkRead::StartOver(LOST.to_owned()));
                }
                let held = one.holder.held().await?;
                (&leaf, Rows::Blocks { from: *from, to: *to }, Some(held.name.as_str()), Some(*node))
            }
            (Range::Blocks { leaf: name, node, from, to, .. }, Way::Slices) => {
                leaf = range::leaf_id(name);
                (&leaf, Rows::Blocks { from: *from, to: *to }, None, Some(*node))
            }
            (Range::Leaf { part }, Way::Leaves(leaves)) => {
                let leaf = leaves.get(part).ok_or_else(|| leaf_gone(&table.id))?;
                (leaf, Rows::Blocks { from: None, to: None }, None, None)
            }
            _ => return Err(Error::bug("a chunk is not of the table's present plan").with_table(&table.id)),
        };
        let request = Request { table, relation, rows, snapshot, node };
        let begun = read::begin(&self.pool, &request).await.map_err(|error| match (&range, error.code()) {
            (Range::Leaf { .. }, Some("42P01")) => leaf_gone(&table.id),
            _ => error,
        });
        Ok(match begun? {
            Begun::Reading(reader) => ChunkRead::Reading(reader),
            Begun::SnapshotLost => ChunkRead::StartOver(LOST.to_owned()),
            Begun::Rewritten => ChunkRead::StartOver(REWRITTEN.to_owned()),
        })
    }

    fn bulk_rows(&self, table: &TableSchema) -> Option<Box<dyn BulkRows>> {
        bulk_rows(table)
    }

    fn show(&self, column: &Column, value: &[u8]) -> String {
        show::value(column, value)
    }

    async fn read_keys(
        &self,
        table: &Arc<TableSchema>,
        keys: &RecordBatch,
    ) -> Result<(RecordBatch, ReadMark)> {
        let session = self.pool.take().await?;
        let from = keys::From::table(&session, table).await?;
        keys::read(&self.pool, session, &from, table, keys).await
    }

    fn range_of_keys(&self, table: &TableSchema, keys: &RecordBatch) -> Result<String> {
        let columns: Vec<ArrayRef> = keys.columns().to_vec();
        let keys = (0..keys.num_rows()).map(|row| RowKey::of(&columns, row)).collect::<Result<Vec<_>>>()?;
        Range::of_rows(table, &keys).to_text()
    }

    fn cut(&self, table: &Arc<TableSchema>, state: &TableState) -> Result<Box<dyn CutPlan>> {
        Ok(Box::new(Cutter::new(table, state)?))
    }

    fn saw(&self, mark: &ReadMark, transactions: &[u64]) -> Result<bool> {
        saw(mark, transactions)
    }

    fn reads_one_snapshot(&self, table: &TableId) -> bool {
        self.plan_of(table).is_some_and(|plan| plan.one_snapshot().is_some())
    }

    async fn finish(&self, table: &TableId) {
        lock(&self.plans).remove(table);
    }

    async fn release(&self) {
        lock(&self.shared).take();
    }
}
