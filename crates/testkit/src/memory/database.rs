//! The source side's storage: tables of row versions, numbered transactions, a log of commits.
//!
//! As in PostgreSQL, a row is locked by the open transaction that wrote it, a snapshot sees transactions and not
//! positions, and the order in which commits become visible need not be the order of the log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use syncline_core::{
    Carriage, Column, DataType, Family, NativeDefinition, PipelineName, TableId, TableSchema,
};
use tokio::sync::watch;

use super::lock;
use super::log::{Logged, Slot};
use super::rows::Row;
use super::snapshot::Snapshot;
use super::transaction::{OpenTransaction, WriteError};

/// The number no transaction has: what it created is never seen.
pub(crate) const NEVER: u64 = u64::MAX;

/// The shape of a table.
#[derive(Debug, Clone)]
pub struct TableDefinition {
    pub(crate) id: TableId,
    pub(crate) columns: Vec<String>,
    pub(crate) key: Vec<usize>,
    pub(crate) unique: Vec<Vec<usize>>,
    pub(crate) toast: Vec<usize>,
}

impl TableDefinition {
    /// A table of these columns, without a key.
    #[must_use]
    pub fn new(schema: &str, name: &str, columns: &[&str]) -> Self {
        Self {
            id: TableId::new(schema, name),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            key: Vec::new(),
            unique: Vec::new(),
            toast: Vec::new(),
        }
    }

    /// Its primary key.
    #[must_use]
    pub fn key(mut self, columns: &[&str]) -> Self {
        self.key = self.indexes(columns);
        self
    }

    /// One more unique index, checked when a transaction commits.
    #[must_use]
    pub fn unique(mut self, columns: &[&str]) -> Self {
        let columns = self.indexes(columns);
        self.unique.push(columns);
        self
    }

    /// Columns that the log leaves out of an update that does not change them.
    #[must_use]
    pub fn toast(mut self, columns: &[&str]) -> Self {
        self.toast = self.indexes(columns);
        self
    }

    fn indexes(&self, names: &[&str]) -> Vec<usize> {
        let index = |name: &&str| {
            let found = self.columns.iter().position(|column| column == name);
            found.unwrap_or_else(|| panic!("table {} has no column {name}", self.id))
        };
        names.iter().map(index).collect()
    }

    /// What identifies a row: its key, or all of it.
    pub(crate) fn identity(&self, row: &Row) -> Row {
        if self.key.is_empty() { row.clone() } else { self.key.iter().map(|&c| row[c].clone()).collect() }
    }

    /// The table as a pipeline that leaves out `excluded` sees it.
    pub(crate) fn schema(&self, excluded: &BTreeSet<&str>, rows_estimated: u64) -> TableSchema {
        let kept: Vec<usize> =
            (0..self.columns.len()).filter(|&c| !excluded.contains(self.columns[c].as_str())).collect();
        let place = |c: &usize| kept.iter().position(|k| k == c);
        let column = |&c: &usize| Column {
            name: self.columns[c].clone(),
            data_type: DataType::Bytes,
            nullable: !self.key.contains(&c),
            native_type: "bytes".to_owned(),
            carriage: Carriage::Native,
        };
        let unique: Vec<Vec<usize>> =
            self.unique.iter().filter_map(|index| index.iter().map(place).collect()).collect();
        TableSchema {
            id: self.id.clone(),
            columns: kept.iter().map(column).collect(),
            row_key: self.key.iter().filter_map(place).collect(),
            version: 1,
            rows_estimated: Some(rows_estimated),
            native: Some(NativeDefinition {
                family: Family::MEMORY,
                definition: serde_json::json!({ "unique": unique }),
            }),
        }
    }
}

/// One version of a row.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) row: Arc<Row>,
    pub(crate) created: u64,
    pub(crate) deleted: Option<u64>,
}

/// A table: every version it ever had, and where the versions of each identity are.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) definition: Arc<TableDefinition>,
    pub(crate) versions: Vec<Version>,
    pub(crate) by_identity: HashMap<Row, Vec<usize>>,
    /// The open transaction that truncates it: nobody else may write it.
    pub(crate) truncated_by: Option<u64>,
}

impl Table {
    pub(crate) fn visible(&self, snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Row>> {
        let seen =
            |v: &&Version| snapshot.saw(v.created) && !v.deleted.is_some_and(|deleted| snapshot.saw(deleted));
        self.versions.iter().filter(seen).map(|version| &version.row)
    }
}

/// Everything behind the lock.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) tables: BTreeMap<TableId, Table>,
    pub(crate) next_xid: u64,
    /// Open transactions, and those that are in the log and not yet visible.
    pub(crate) running: BTreeSet<u64>,
    /// Those of `running` that are in the log.
    pub(crate) unseen: BTreeSet<u64>,
    /// Where each committed transaction's commit is.
    pub(crate) committed: HashMap<u64, u64>,
    pub(crate) log: Vec<Arc<Logged>>,
    /// The end of the log.
    pub(crate) end: u64,
    pub(crate) slots: BTreeMap<PipelineName, Slot>,
    pub(crate) slots_made: u64,
    pub(crate) hold_commits: bool,
}

impl State {
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot::new(&self.running, self.next_xid)
    }

    pub(crate) fn table(&self, id: &TableId) -> Result<&Table, WriteError> {
        self.tables.get(id).ok_or_else(|| WriteError::NoSuchTable(id.clone()))
    }

    /// The transactions after `position`, in log order.
    pub(crate) fn log_after(&self, position: u64) -> &[Arc<Logged>] {
        let first = self.log.partition_point(|logged| logged.position <= position);
        &self.log[first..]
    }
}

/// The database of the source side. Clones are the same database.
#[derive(Debug, Clone)]
pub struct Database {
    state: Arc<Mutex<State>>,
    end: Arc<watch::Sender<u64>>,
}

impl Default for Database {
    fn default() -> Self {
        Self::new()
    }
}

impl Database {
    /// An empty database.
    #[must_use]
    pub fn new() -> Self {
        let state = State { next_xid: 1, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), end: Arc::new(watch::Sender::new(0)) }
    }

    /// Creates a table and returns its name.
    ///
    /// # Panics
    /// If it exists: a test's mistake.
    #[must_use]
    pub fn create_table(&self, definition: TableDefinition) -> TableId {
        let id = definition.id.clone();
        let table = Table {
            definition: Arc::new(definition),
            versions: Vec::new(),
            by_identity: HashMap::new(),
            truncated_by: None,
        };
        assert!(self.state().tables.insert(id.clone(), table).is_none(), "table {id} exists");
        id
    }

    /// Runs one transaction and commits it.
    ///
    /// # Errors
    /// What a write of it failed with; then nothing of it is done.
    pub fn transaction<R>(
        &self,
        work: impl FnOnce(&mut OpenTransaction) -> Result<R, WriteError>,
    ) -> Result<R, WriteError> {
        let mut transaction = self.begin();
        let result = work(&mut transaction)?;
        transaction.commit()?;
        Ok(result)
    }

    /// Begins a transaction that commits when it is told to; dropped, it is rolled back.
    #[must_use]
    pub fn begin(&self) -> OpenTransaction {
        let xid = {
            let mut state = self.state();
            let xid = state.next_xid;
            state.next_xid += 1;
            state.running.insert(xid);
            xid
        };
        OpenTransaction::new(self.clone(), xid)
    }

    /// From here on commits are in the log at once but invisible to snapshots, as with a synchronous standby that does
    /// not answer, until [`Database::show_commits`].
    pub fn hold_commits(&self) {
        self.state().hold_commits = true;
    }

    /// Makes every commit that is in the log visible, and later ones at once.
    pub fn show_commits(&self) {
        let mut state = self.state();
        state.hold_commits = false;
        let unseen = std::mem::take(&mut state.unseen);
        state.running.retain(|xid| !unseen.contains(xid));
    }

    /// Moves the log's end without a change: the traffic of others.
    pub fn advance(&self, by: u64) {
        let end = {
            let mut state = self.state();
            state.end += by;
            state.end
        };
        self.announce(end);
    }

    /// The end of the log.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.state().end
    }

    /// What a snapshot taken now sees.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.state().snapshot()
    }

    /// All visible rows of a table, sorted by value. Of a table that does not exist there are none.
    #[must_use]
    pub fn rows(&self, table: &TableId) -> Vec<Row> {
        let state = self.state();
        let snapshot = state.snapshot();
        let mut rows: Vec<Row> = state
            .tables
            .get(table)
            .map(|table| table.visible(&snapshot).map(|row| row.as_ref().clone()).collect())
            .unwrap_or_default();
        rows.sort();
        rows
    }

    /// The rows a table had at a position of the log, sorted by value.
    #[must_use]
    pub fn state_at(&self, table: &TableId, position: u64) -> Vec<Row> {
        let state = self.state();
        let before = |xid: u64| state.committed.get(&xid).is_some_and(|&at| at <= position);
        let mut rows: Vec<Row> = state
            .tables
            .get(table)
            .map(|table| {
                let there = |v: &&Version| before(v.created) && !v.deleted.is_some_and(before);
                table.versions.iter().filter(there).map(|version| version.row.as_ref().clone()).collect()
            })
            .unwrap_or_default();
        rows.sort();
        rows
    }

    /// Whether a position lies inside a transaction: after its first change and before its commit.
    #[must_use]
    pub fn is_inside_transaction(&self, position: u64) -> bool {
        let state = self.state();
        state.log_after(position).first().is_some_and(|logged| logged.start < position)
    }

    /// What a pipeline's slot was told it may forget; `None` if there is no slot.
    #[must_use]
    pub fn confirmed(&self, pipeline: &PipelineName) -> Option<u64> {
        self.state().slots.get(pipeline).map(|slot| slot.confirmed)
    }

    /// Loses a pipeline's slot, as a failover does: the next `open` makes another one at the log's end.
    pub fn lose_slot(&self, pipeline: &PipelineName) {
        self.state().slots.remove(pipeline);
    }

    /// Moves a pipeline's slot to another log, as a failover to a standby with synchronised slots does.
    pub fn change_timeline(&self, pipeline: &PipelineName) {
        if let Some(slot) = self.state().slots.get_mut(pipeline) {
            slot.identity.push_str(", another timeline");
        }
    }

    /// The names of the columns of a table, `None` if it does not exist.
    #[must_use]
    pub fn columns(&self, table: &TableId) -> Option<Vec<String>> {
        self.state().tables.get(table).map(|table| table.definition.columns.clone())
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Wakes the streams. Never under the lock.
    pub(crate) fn announce(&self, end: u64) {
        self.end.send_replace(end);
    }

    pub(crate) fn watch_end(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }
}
