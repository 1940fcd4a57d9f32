//! The destination of the pair: tables, fences, checkpoints, and the history of everything that was committed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use syncline_core::{
    Checkpoint, Destination, DestinationSession, Durable, Error, Family, Finding, Holder, Letter, LetterId,
    LoadIdentity, PipelineName, Result, SchemaMap, TableId, TableSchema,
};

use super::database::{Database, TableDefinition};
use super::faults::{Faults, Step};
use super::lock;
use super::rows::{Row, TableRows, keys_of, to_batch};
use super::session::Session;

/// When unique indexes are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UniqueCheck {
    /// After each part, as a system does that writes parts as they come.
    EachPart,
    /// Before the commit, over everything.
    AtCommit,
}

/// One commit, and what stood at the destination after it.
#[derive(Debug, Clone)]
pub struct Committed {
    /// What was committed.
    pub identity: LoadIdentity,
    /// Under which fencing token.
    pub fence: u64,
    /// The checkpoint after it.
    pub checkpoint: Checkpoint,
    /// All tables after it, by their names here.
    pub tables: BTreeMap<TableId, Arc<TableRows>>,
    /// What the engine was told.
    pub durable: Durable,
    /// Where the pipeline's tables land.
    pub map: SchemaMap,
}

/// A table at the destination.
#[derive(Debug, Clone)]
pub(crate) struct StoredTable {
    pub(crate) schema: Arc<TableSchema>,
    pub(crate) rows: Arc<TableRows>,
    /// Whether rows were there before the pipeline, so that chunks are merged.
    pub(crate) merged: bool,
    pub(crate) key_built: bool,
    pub(crate) unique: Vec<Vec<usize>>,
    pub(crate) indexes_built: bool,
}

impl StoredTable {
    pub(crate) fn new(schema: Arc<TableSchema>) -> Self {
        let unique = unique_of(&schema);
        let rows = Arc::new(TableRows::none(&schema));
        Self { schema, rows, merged: false, key_built: false, unique, indexes_built: false }
    }
}

/// The unique indexes in the definition that the memory source writes.
fn unique_of(schema: &TableSchema) -> Vec<Vec<usize>> {
    let native = schema.native.as_ref().filter(|native| native.family == Family::MEMORY);
    let unique = native.and_then(|native| native.definition.get("unique")).cloned();
    unique.and_then(|unique| serde_json::from_value(unique).ok()).unwrap_or_default()
}

/// A pipeline's bookkeeping.
#[derive(Debug, Default)]
pub(crate) struct Bookkeeping {
    pub(crate) fence: u64,
    /// The holder and its fence, until its session ends.
    pub(crate) holder: Option<(Holder, u64)>,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) map: SchemaMap,
}

#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) tables: BTreeMap<TableId, StoredTable>,
    pub(crate) pipelines: BTreeMap<PipelineName, Bookkeeping>,
    /// The last fence of pipelines that were dropped: a token never comes twice.
    pub(crate) fences: u64,
    /// Loads that are open, by what must not be open twice.
    pub(crate) open: BTreeSet<String>,
    pub(crate) history: Vec<Committed>,
}

pub(crate) struct Inner {
    pub(crate) stored: Mutex<Stored>,
    pub(crate) faults: Faults,
    pub(crate) unique_check: UniqueCheck,
    pub(crate) source: Option<Database>,
}

impl Inner {
    pub(crate) fn stored(&self) -> MutexGuard<'_, Stored> {
        lock(&self.stored)
    }
}

/// The destination of the pair. Clones are the same destination.
///
/// It refuses, with a bug, whatever the contract does not allow the engine to do: a part that is not collapsed or not
/// sorted, chunk rows whose keys are there already, changes before the key is built or on the wrong lane, two loads of
/// one lane at once, a commit inside a transaction, a chunk that did not see what its lane has applied.
#[derive(Clone)]
pub struct MemoryDestination(pub(crate) Arc<Inner>);

impl fmt::Debug for MemoryDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDestination").finish_non_exhaustive()
    }
}

impl Default for MemoryDestination {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryDestination {
    /// An empty destination.
    #[must_use]
    pub fn new() -> Self {
        Self::from_inner(Inner {
            stored: Mutex::default(),
            faults: Faults::none(),
            unique_check: UniqueCheck::AtCommit,
            source: None,
        })
    }

    fn from_inner(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// An empty destination like this one, with something changed.
    fn remade(&self, change: impl FnOnce(&mut Inner)) -> Self {
        assert!(self.0.stored().history.is_empty(), "a destination is set up before it is used");
        let mut inner = Inner {
            stored: Mutex::new(std::mem::take(&mut self.0.stored())),
            faults: self.0.faults.clone(),
            unique_check: self.0.unique_check,
            source: self.0.source.clone(),
        };
        change(&mut inner);
        Self::from_inner(inner)
    }

    /// With these faults.
    #[must_use]
    pub fn with_faults(self, faults: &Faults) -> Self {
        self.remade(|inner| inner.faults = faults.clone())
    }

    /// With unique indexes looked at then.
    #[must_use]
    pub fn with_unique_check(self, check: UniqueCheck) -> Self {
        self.remade(|inner| inner.unique_check = check)
    }

    /// With each commit checked against the source: no commit inside a transaction, and no chunk that missed what its
    /// lane has applied.
    #[must_use]
    pub fn checked_against(self, source: &Database) -> Self {
        self.remade(|inner| inner.source = Some(source.clone()))
    }

    /// With a table that is there before any pipeline.
    ///
    /// # Panics
    /// If the rows do not fit the definition: a test's mistake.
    #[must_use]
    pub fn with_table(self, definition: &TableDefinition, rows: &[Row]) -> Self {
        let schema = Arc::new(definition.schema(&BTreeSet::new(), rows.len() as u64));
        let mut table = StoredTable::new(Arc::clone(&schema));
        table.rows = Arc::new(if schema.has_row_key() {
            let batch = to_batch(&schema, rows).unwrap_or_else(|error| panic!("{error}"));
            let keys = keys_of(&schema, &batch).unwrap_or_else(|error| panic!("{error}"));
            TableRows::Keyed(keys.into_iter().zip(rows.iter().cloned().map(Arc::new)).collect())
        } else {
            TableRows::Bag(rows.iter().cloned().map(Arc::new).collect())
        });
        table.key_built = true;
        table.indexes_built = true;
        self.0.stored().tables.insert(schema.id.clone(), table);
        self
    }

    /// The rows of a table, by its name here, sorted by value; `None` if it does not exist.
    #[must_use]
    pub fn rows(&self, table: &TableId) -> Option<Vec<Row>> {
        let rows = self.0.stored().tables.get(table).map(|table| Arc::clone(&table.rows))?;
        Some(rows.sorted())
    }

    /// The rows of a table, each with a number that is another one whenever the row was written again.
    #[must_use]
    pub fn placed(&self, table: &TableId) -> Option<Vec<(Row, usize)>> {
        let rows = self.0.stored().tables.get(table).map(|table| Arc::clone(&table.rows))?;
        let placed = |row: &Arc<Row>| (row.as_ref().clone(), Arc::as_ptr(row).addr());
        Some(match rows.as_ref() {
            TableRows::Keyed(rows) => rows.values().map(placed).collect(),
            TableRows::Bag(rows) => rows.iter().map(placed).collect(),
        })
    }

    /// The pipelines that are known here.
    #[must_use]
    pub fn pipelines(&self) -> Vec<PipelineName> {
        self.0.stored().pipelines.keys().cloned().collect()
    }

    /// The names of a table's columns, `None` if it does not exist.
    #[must_use]
    pub fn columns(&self, table: &TableId) -> Option<Vec<String>> {
        let schema = self.0.stored().tables.get(table).map(|table| Arc::clone(&table.schema))?;
        Some(schema.columns.iter().map(|column| column.name.clone()).collect())
    }

    /// Whether a table's key and its other indexes are built.
    #[must_use]
    pub fn built(&self, table: &TableId) -> Option<(bool, bool)> {
        self.0.stored().tables.get(table).map(|table| (table.key_built, table.indexes_built))
    }

    /// All tables, by their names here.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<TableId, Arc<TableRows>> {
        self.0.stored().tables.iter().map(|(id, table)| (id.clone(), Arc::clone(&table.rows))).collect()
    }

    /// Every commit, in order.
    #[must_use]
    pub fn history(&self) -> Vec<Committed> {
        self.0.stored().history.clone()
    }

    /// The checkpoint of a pipeline, without a session; `None` if it is not known here.
    #[must_use]
    pub fn checkpoint_of(&self, pipeline: &PipelineName) -> Option<Checkpoint> {
        self.0.stored().pipelines.get(pipeline).map(|bookkeeping| bookkeeping.checkpoint.clone())
    }

    /// Sets rows and checkpoint back to what they were after a commit, as a restored backup or a failover that lost the
    /// last commits does.
    pub fn set_back(&self, pipeline: &PipelineName, to: &Committed) {
        let mut stored = self.0.stored();
        for (id, rows) in &to.tables {
            if let Some(table) = stored.tables.get_mut(id) {
                table.rows = Arc::clone(rows);
            }
        }
        if let Some(bookkeeping) = stored.pipelines.get_mut(pipeline) {
            bookkeeping.checkpoint = to.checkpoint.clone();
        }
    }

    /// Where each pipeline's tables land, with the tables it owns.
    pub(crate) fn owned(&self) -> Vec<(PipelineName, SchemaMap, Vec<TableId>)> {
        let stored = self.0.stored();
        let owned = |(name, b): (&PipelineName, &Bookkeeping)| {
            (name.clone(), b.map.clone(), b.checkpoint.tables.keys().cloned().collect())
        };
        stored.pipelines.iter().map(owned).collect()
    }

    /// Takes a pipeline from whoever holds it, as when the holder's host is lost: its session is fenced by the next
    /// `open`.
    pub fn lose_holder(&self, pipeline: &PipelineName) {
        if let Some(bookkeeping) = self.0.stored().pipelines.get_mut(pipeline) {
            bookkeeping.holder = None;
        }
    }
}

#[async_trait]
impl Destination for MemoryDestination {
    fn family(&self) -> Family {
        Family::MEMORY
    }

    fn address(&self) -> String {
        "memory".to_owned()
    }

    async fn check(&self, _tables: &[Arc<TableSchema>], _map: &SchemaMap) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    async fn open(
        &self,
        pipeline: &PipelineName,
        holder: &Holder,
        map: &SchemaMap,
    ) -> Result<Arc<dyn DestinationSession>> {
        let open = || {
            let mut stored = self.0.stored();
            let fences = stored.fences;
            let bookkeeping = stored.pipelines.entry(pipeline.clone()).or_default();
            refuse_if_held(pipeline, bookkeeping)?;
            bookkeeping.fence = bookkeeping.fence.max(fences) + 1;
            bookkeeping.holder = Some((holder.clone(), bookkeeping.fence));
            bookkeeping.map = map.clone();
            let session = Session::new(Arc::clone(&self.0), pipeline.clone(), bookkeeping.fence, map.clone());
            Ok(Arc::new(session) as Arc<dyn DestinationSession>)
        };
        self.0.faults.around(Step::OpenSession, open).await
    }

    async fn owners(&self, tables: &[TableId], map: &SchemaMap) -> Result<BTreeMap<TableId, PipelineName>> {
        let stored = self.0.stored();
        let owner = |table: &TableId| {
            let loads =
                |b: &Bookkeeping| b.checkpoint.tables.keys().any(|own| b.map.map(own) == map.map(table));
            stored.pipelines.iter().find(|(_, b)| loads(b)).map(|(name, _)| (table.clone(), name.clone()))
        };
        Ok(tables.iter().filter_map(owner).collect())
    }

    async fn letters(&self, pipeline: &PipelineName) -> Result<BTreeMap<LetterId, Letter>> {
        Ok(self.checkpoint_of(pipeline).map(|checkpoint| checkpoint.letters).unwrap_or_default())
    }

    async fn drop_pipeline(&self, pipeline: &PipelineName) -> Result<()> {
        let mut stored = self.0.stored();
        if let Some(bookkeeping) = stored.pipelines.get(pipeline) {
            refuse_if_held(pipeline, bookkeeping)?;
            stored.fences = stored.fences.max(bookkeeping.fence);
        }
        stored.pipelines.remove(pipeline);
        Ok(())
    }
}

fn refuse_if_held(pipeline: &PipelineName, bookkeeping: &Bookkeeping) -> Result<()> {
    let Some((holder, _)) = bookkeeping.holder.as_ref().filter(|(holder, _)| is_alive(holder)) else {
        return Ok(());
    };
    Err(Error::configuration(format!(
        "pipeline {pipeline} is held by process {} on host {}",
        holder.pid, holder.host
    ))
    .with_remedy("stop that process, or wait until it ends"))
}

/// A holder whose session is open counts as alive unless it is a process of this host that is gone.
fn is_alive(holder: &Holder) -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let here = read("/proc/sys/kernel/hostname").trim() == holder.host;
    if !here {
        return true;
    }
    let stat = read(&format!("/proc/{}/stat", holder.pid));
    // The name in parentheses may hold spaces; the start is the 20th field after it.
    let start = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19));
    start.and_then(|start| start.parse().ok()) == Some(holder.process_start)
}
