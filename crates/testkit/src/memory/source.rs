//! The source of the pair: chunks by key range or in one snapshot, and the settings a test turns.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use syncline_core::{
    Chunk, ChunkPart, ChunkPlan, ChunkRead, ChunkReader, Column, CutPlan, Error, Family, Finding, Moment,
    ReadMark, Result, Selection, SnapshotOptions, Snapshots, Source, Streams, TableId, TableSchema,
    TableState, Versions,
};

use super::cut::{Ledger, first_key, is_whole};
use super::database::Database;
use super::faults::{Faults, Step};
use super::lock;
use super::range::{Range, gaps};
use super::rows::{Row, keys_of, keys_of_old, to_batch};
use super::snapshot::Snapshot;
use super::transaction::projection;

/// How tables with a key are cut into chunks. Tables without one are always read in one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cutting {
    /// Ranges of the first key column, each in a snapshot of its own.
    KeyRanges,
    /// One snapshot for the whole table; key ranges from the second generation on.
    OneSnapshot,
}

/// When a hook is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadMoment {
    /// The chunk's snapshot is about to be taken.
    BeforeSnapshot,
    /// It is taken, and no row is read yet.
    AfterSnapshot,
}

type Hook = Arc<dyn Fn(ReadMoment, &TableId, u32) + Send + Sync>;

/// The source of the pair. A new one on the same [`Database`] is a restarted process.
pub struct MemorySource {
    pub(crate) database: Database,
    pub(crate) faults: Faults,
    pub(crate) transactions_per_entry: usize,
    pub(crate) changes_per_piece: usize,
    rows_per_chunk: usize,
    rows_per_part: usize,
    cutting: Cutting,
    hook: Option<Hook>,
    /// The one snapshot of each table that is read so.
    held: Mutex<HashMap<TableId, Snapshot>>,
    /// The one snapshot of a run without a stream.
    run: Mutex<Option<Snapshot>>,
    rewritten: Mutex<BTreeSet<TableId>>,
}

impl fmt::Debug for MemorySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySource").field("cutting", &self.cutting).finish_non_exhaustive()
    }
}

impl MemorySource {
    /// A source over this database: key ranges of 100 rows, entries of up to 10 transactions, pieces of 1,000 changes.
    #[must_use]
    pub fn new(database: &Database) -> Self {
        Self {
            database: database.clone(),
            faults: Faults::none(),
            transactions_per_entry: 10,
            changes_per_piece: 1000,
            rows_per_chunk: 100,
            rows_per_part: 40,
            cutting: Cutting::KeyRanges,
            hook: None,
            held: Mutex::default(),
            run: Mutex::default(),
            rewritten: Mutex::default(),
        }
    }

    /// With these faults.
    #[must_use]
    pub fn with_faults(mut self, faults: &Faults) -> Self {
        self.faults = faults.clone();
        self
    }

    /// With chunks of this many different first key values (or rows, in one snapshot).
    #[must_use]
    pub fn with_rows_per_chunk(mut self, rows: usize) -> Self {
        self.rows_per_chunk = rows.max(1);
        self
    }

    /// With chunk pieces of this many rows.
    #[must_use]
    pub fn with_rows_per_part(mut self, rows: usize) -> Self {
        self.rows_per_part = rows.max(1);
        self
    }

    /// With entries of up to this many transactions.
    #[must_use]
    pub fn with_transactions_per_entry(mut self, transactions: usize) -> Self {
        self.transactions_per_entry = transactions.max(1);
        self
    }

    /// With transactions of more than this many changes sent in pieces of it.
    #[must_use]
    pub fn with_changes_per_piece(mut self, changes: usize) -> Self {
        self.changes_per_piece = changes.max(1);
        self
    }

    /// With tables cut this way.
    #[must_use]
    pub fn with_cutting(mut self, cutting: Cutting) -> Self {
        self.cutting = cutting;
        self
    }

    /// With a hook called around each chunk's snapshot: it may write to the database.
    #[must_use]
    pub fn with_hook(mut self, hook: impl Fn(ReadMoment, &TableId, u32) + Send + Sync + 'static) -> Self {
        self.hook = Some(Arc::new(hook));
        self
    }

    /// Rewrites a table, as VACUUM FULL does: the next plan or read of it must start over.
    pub fn rewrite(&self, table: &TableId) {
        lock(&self.rewritten).insert(table.clone());
    }

    /// Loses the snapshots that are held, as the end of their session does.
    pub fn lose_snapshots(&self) {
        lock(&self.held).clear();
        *lock(&self.run) = None;
    }

    fn call_hook(&self, moment: ReadMoment, table: &TableId, n: u32) {
        if let Some(hook) = &self.hook {
            hook(moment, table, n);
        }
    }

    /// Whether a table was rewritten since it was last asked; it then has to start over, once.
    fn take_rewritten(&self, table: &TableId) -> Option<String> {
        let rewritten = lock(&self.rewritten).remove(table);
        rewritten.then(|| {
            lock(&self.held).remove(table);
            "the table was rewritten".to_owned()
        })
    }

    /// The snapshot that a table's chunks share, if they do: taken at the table's first plan.
    fn shared_snapshot(
        &self,
        table: &TableSchema,
        state: &TableState,
        options: SnapshotOptions,
    ) -> Option<Snapshot> {
        if table.has_row_key() && options.resumable {
            return None;
        }
        if options.moment == Moment::OfRun {
            return Some(lock(&self.run).get_or_insert_with(|| self.database.snapshot()).clone());
        }
        let ranges = self.cutting == Cutting::KeyRanges || state.generation > 1;
        (!table.has_row_key() || !ranges).then(|| self.database.snapshot())
    }

    fn plan_one_snapshot(
        &self,
        table: &TableSchema,
        state: &TableState,
        fresh: Snapshot,
    ) -> Result<ChunkPlan> {
        let mut held = lock(&self.held);
        let ranges = ranges_of(state)?;
        let ours = |snapshot: &Snapshot| state.chunks.values().all(|c| c.mark == snapshot.to_string());
        if !ranges.is_empty() && !held.get(&table.id).is_some_and(ours) {
            return Ok(ChunkPlan::StartOver("the snapshot of its first chunks is gone".to_owned()));
        }
        let snapshot = held.entry(table.id.clone()).or_insert(fresh);
        let rows = self.rows(table, snapshot)?.len();
        let mut chunks = Vec::new();
        // An empty table has a chunk too: its mark is what cuts the stream.
        for (n, from) in (0..rows.max(1)).step_by(self.rows_per_chunk).enumerate() {
            let range = Range::Rows { from, to: rows.min(from + self.rows_per_chunk) };
            if !ranges.contains(&range) {
                chunks.push(chunk(n, &range, self.rows_per_chunk)?);
            }
        }
        Ok(ChunkPlan::Chunks(chunks))
    }

    fn plan_key_ranges(&self, table: &TableSchema, state: &TableState) -> Result<ChunkPlan> {
        lock(&self.held).remove(&table.id);
        let ranges = ranges_of(state)?;
        if ranges.iter().any(|range| matches!(range, Range::Rows { .. })) {
            return Ok(ChunkPlan::StartOver("the snapshot of its first chunks is gone".to_owned()));
        }
        let rows = self.rows(table, &self.database.snapshot())?;
        let values: BTreeSet<Vec<u8>> =
            rows.iter().filter_map(|row| first_key(row, &table.row_key)).collect();
        let first = state.chunks.last_key_value().map_or(0, |(n, _)| *n as usize + 1);
        let mut chunks = Vec::new();
        for (from, to) in gaps(&ranges) {
            let gap = Range::Keys { from: from.clone(), to: to.clone() };
            let inside: Vec<&Vec<u8>> = values.iter().filter(|value| gap.holds(value)).collect();
            let mut cuts: Vec<Vec<u8>> =
                inside.iter().step_by(self.rows_per_chunk).skip(1).map(|value| (*value).clone()).collect();
            cuts.insert(0, from);
            for (index, from) in cuts.iter().enumerate() {
                let to = cuts.get(index + 1).cloned().or_else(|| to.clone());
                let range = Range::Keys { from: from.clone(), to };
                chunks.push(chunk(first + chunks.len(), &range, self.rows_per_chunk)?);
            }
        }
        Ok(ChunkPlan::Chunks(chunks))
    }

    /// The rows that a snapshot sees, with the columns of `table`, in an order that a snapshot fixes.
    pub(super) fn rows(&self, table: &TableSchema, snapshot: &Snapshot) -> Result<Vec<Row>> {
        let state = self.database.state();
        let stored = state.tables.get(&table.id);
        let stored = stored.ok_or_else(|| Error::configuration("the table is gone").with_table(&table.id))?;
        let names: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
        let columns = projection(&stored.definition, &names);
        let project = |row: &Arc<Row>| columns.iter().map(|&column| row[column].clone()).collect();
        Ok(stored.visible(snapshot).map(project).collect())
    }

    fn rows_of_range(&self, table: &TableSchema, range: &Range, snapshot: &Snapshot) -> Result<Vec<Row>> {
        let mut rows = self.rows(table, snapshot)?;
        match range {
            Range::Rows { from, to } => Ok(rows.drain(..).take(*to).skip(*from).collect()),
            Range::Keys { .. } => {
                rows.retain(|row| first_key(row, &table.row_key).is_some_and(|first| range.holds(&first)));
                Ok(rows)
            }
            Range::Exactly(_) => Err(Error::bug("single keys are read by `read_keys`")),
        }
    }
}

fn chunk(n: usize, range: &Range, rows: usize) -> Result<Chunk> {
    let n = u32::try_from(n).map_err(|_| Error::bug("more chunks than numbers"))?;
    Ok(Chunk { n, range: range.to_string(), rows_estimated: rows as u64 })
}

/// The loaded ranges, without re-reads.
fn ranges_of(state: &TableState) -> Result<Vec<Range>> {
    let all: Vec<Range> = state.chunks.values().map(|c| Range::parse(&c.range)).collect::<Result<_>>()?;
    Ok(all.into_iter().filter(|range| !matches!(range, Range::Exactly(_))).collect())
}

#[async_trait]
impl Source for MemorySource {
    fn family(&self) -> Family {
        Family::MEMORY
    }

    fn address(&self) -> String {
        "memory".to_owned()
    }

    async fn check(&self, _selection: &Selection, _streamed: bool) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    async fn discover(&self, selection: &Selection) -> Result<Vec<TableSchema>> {
        self.faults.around(Step::Discover, || discover(&self.database, selection)).await
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn streams(&self) -> Option<&dyn Streams> {
        Some(self)
    }

    fn versions(&self) -> Option<&dyn Versions> {
        Some(self)
    }
}

fn discover(database: &Database, selection: &Selection) -> Result<Vec<TableSchema>> {
    let state = database.state();
    for pattern in &selection.include {
        if !state.tables.keys().any(|table| pattern.matches(table)) {
            let pattern = String::from(pattern.clone());
            return Err(Error::configuration(format!("no table matches `{pattern}`")));
        }
    }
    for (pattern, column) in &selection.exclude_columns {
        let has = |(id, table): (&TableId, &super::database::Table)| {
            pattern.matches(id) && table.definition.columns.contains(column)
        };
        if !state.tables.iter().any(has) {
            return Err(Error::configuration(format!("no table has the excluded column `{column}`")));
        }
    }
    let snapshot = state.snapshot();
    let selected = state.tables.iter().filter(|(id, _)| selection.takes(id));
    Ok(selected
        .map(|(id, table)| {
            let rows = table.visible(&snapshot).count() as u64;
            table.definition.schema(&selection.excluded_columns(id), rows)
        })
        .collect())
}

#[async_trait]
impl Snapshots for MemorySource {
    async fn plan(
        &self,
        table: &Arc<TableSchema>,
        state: &TableState,
        options: SnapshotOptions,
    ) -> Result<ChunkPlan> {
        let plan = || {
            if let Some(why) = self.take_rewritten(&table.id) {
                return Ok(ChunkPlan::StartOver(why));
            }
            match self.shared_snapshot(table, state, options) {
                Some(fresh) => self.plan_one_snapshot(table, state, fresh),
                None => self.plan_key_ranges(table, state),
            }
        };
        self.faults.around(Step::Plan, plan).await
    }

    async fn read(&self, table: &Arc<TableSchema>, chunk: &Chunk) -> Result<ChunkRead> {
        let read = || {
            if let Some(why) = self.take_rewritten(&table.id) {
                return Ok(ChunkRead::StartOver(why));
            }
            let range = Range::parse(&chunk.range)?;
            let held = lock(&self.held).get(&table.id).cloned();
            if held.is_none() && matches!(range, Range::Rows { .. }) {
                return Ok(ChunkRead::StartOver("the table's snapshot is lost".to_owned()));
            }
            self.call_hook(ReadMoment::BeforeSnapshot, &table.id, chunk.n);
            let snapshot = held.unwrap_or_else(|| self.database.snapshot());
            self.call_hook(ReadMoment::AfterSnapshot, &table.id, chunk.n);
            let rows = self.rows_of_range(table, &range, &snapshot)?;
            let parts: Result<Vec<RecordBatch>> =
                rows.chunks(self.rows_per_part).map(|rows| to_batch(table, rows)).collect();
            let mark = ReadMark(snapshot.to_string());
            Ok(ChunkRead::Reading(Box::new(Reader {
                mark,
                parts: parts?.into_iter(),
                faults: self.faults.clone(),
            })))
        };
        self.faults.around(Step::Read, read).await
    }

    fn show(&self, _column: &Column, value: &[u8]) -> String {
        String::from_utf8_lossy(value).into_owned()
    }

    async fn read_keys(
        &self,
        table: &Arc<TableSchema>,
        keys: &RecordBatch,
    ) -> Result<(RecordBatch, ReadMark)> {
        let read = || {
            if !table.has_row_key() || !keys.columns().iter().all(is_whole) {
                return Err(Error::bug("keys that are not the row keys of their table").with_table(&table.id));
            }
            let wanted: BTreeSet<_> = keys_of_old(keys)?.into_iter().collect();
            let snapshot = self.database.snapshot();
            let rows = self.rows(table, &snapshot)?;
            let all = to_batch(table, &rows)?;
            let found = keys_of(table, &all)?;
            let rows: Vec<Row> =
                rows.into_iter().zip(found).filter(|(_, key)| wanted.contains(key)).map(|(r, _)| r).collect();
            Ok((to_batch(table, &rows)?, ReadMark(snapshot.to_string())))
        };
        self.faults.around(Step::ReadKeys, read).await
    }

    fn range_of_keys(&self, _table: &TableSchema, keys: &RecordBatch) -> Result<String> {
        Ok(Range::Exactly(keys_of_old(keys)?).to_string())
    }

    fn cut(&self, _table: &Arc<TableSchema>, state: &TableState) -> Result<Box<dyn CutPlan>> {
        Ok(Box::new(Ledger::read(state)?))
    }

    fn saw(&self, mark: &ReadMark, transactions: &[u64]) -> Result<bool> {
        let snapshot = Snapshot::parse(&mark.0)?;
        Ok(transactions.iter().all(|&xid| snapshot.saw(xid)))
    }

    fn reads_one_snapshot(&self, table: &TableId) -> bool {
        lock(&self.held).contains_key(table)
    }

    async fn finish(&self, table: &TableId) {
        lock(&self.held).remove(table);
    }
}

struct Reader {
    mark: ReadMark,
    parts: std::vec::IntoIter<RecordBatch>,
    faults: Faults,
}

#[async_trait]
impl ChunkReader for Reader {
    fn mark(&self) -> &ReadMark {
        &self.mark
    }

    async fn next(&mut self) -> Result<Option<ChunkPart>> {
        let parts = &mut self.parts;
        self.faults.around(Step::ChunkNext, || Ok(parts.next().map(ChunkPart::Rows))).await
    }
}
