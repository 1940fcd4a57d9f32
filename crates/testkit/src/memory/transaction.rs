//! Writing to the source side's database, one transaction at a time or several interleaved.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use syncline_core::{Operation, TableId};

use super::database::{Database, NEVER, State, Table, TableDefinition, Version};
use super::log::{Logged, LoggedChange};
use super::rows::{Row, Value};

/// Why a write was refused. The transaction goes on without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteError {
    /// There is no such table.
    NoSuchTable(TableId),
    /// There is no such row.
    NoSuchRow,
    /// Another row has the key, or another unique value, already.
    Duplicate,
    /// Another open transaction holds the row or the table; a real database would wait.
    Locked,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchTable(id) => write!(f, "table {id} does not exist"),
            Self::NoSuchRow => f.write_str("no such row"),
            Self::Duplicate => f.write_str("another row has this key or unique value"),
            Self::Locked => f.write_str("another open transaction holds this row or table"),
        }
    }
}

impl std::error::Error for WriteError {}

/// A transaction under way. Rows are named by their key, in tables without one by all their values.
#[derive(Debug)]
pub struct OpenTransaction {
    database: Database,
    xid: u64,
    changes: Vec<LoggedChange>,
    ended: bool,
}

impl OpenTransaction {
    pub(crate) fn new(database: Database, xid: u64) -> Self {
        Self { database, xid, changes: Vec::new(), ended: false }
    }

    /// Its number.
    #[must_use]
    pub fn xid(&self) -> u64 {
        self.xid
    }

    /// Inserts a row.
    ///
    /// # Errors
    /// [`WriteError::Duplicate`], [`WriteError::Locked`].
    pub fn insert(&mut self, table: &TableId, row: Row) -> Result<(), WriteError> {
        let row = Arc::new(row);
        self.with_table(table, |xid, access| access.insert(xid, Arc::clone(&row)))?;
        self.log(table, Operation::Insert, Some(row), None, Vec::new());
        Ok(())
    }

    /// Changes columns of a row; key columns too, which moves it. The log leaves out the table's toast columns that are
    /// not set.
    ///
    /// # Errors
    /// [`WriteError::NoSuchRow`], [`WriteError::Duplicate`], [`WriteError::Locked`].
    pub fn update(
        &mut self,
        table: &TableId,
        key: &[Value],
        set: &[(usize, Value)],
    ) -> Result<(), WriteError> {
        let definition = Arc::clone(&self.database.state().table(table)?.definition);
        let unset = |column: &&usize| !set.iter().any(|(c, _)| c == *column);
        let left_out: Vec<usize> = definition.toast.iter().filter(unset).copied().collect();
        self.update_leaving_out(table, key, set, &left_out)
    }

    /// As [`OpenTransaction::update`], with exactly these columns left out of the log (none of them may be set, or be of
    /// the key). Tables without a key always log everything.
    ///
    /// # Errors
    /// As [`OpenTransaction::update`].
    ///
    /// # Panics
    /// If a column is both set and left out: a test's mistake.
    pub fn update_leaving_out(
        &mut self,
        table: &TableId,
        key: &[Value],
        set: &[(usize, Value)],
        left_out: &[usize],
    ) -> Result<(), WriteError> {
        assert!(
            !set.iter().any(|(column, _)| left_out.contains(column)),
            "a column is set and left out of the log"
        );
        let (definition, old, new) = self.with_table(table, |xid, access| {
            let definition = Arc::clone(&access.table.definition);
            let old = access.take(xid, &key.to_vec())?;
            let mut new = old.as_ref().clone();
            for (column, value) in set {
                new[*column].clone_from(value);
            }
            let new = Arc::new(new);
            if let Err(error) = access.insert(xid, Arc::clone(&new)) {
                access.give_back(xid, &old);
                return Err(error);
            }
            Ok((definition, old, new))
        })?;
        let keyless = definition.key.is_empty();
        let moved = definition.identity(&old) != definition.identity(&new);
        let left_out = if keyless { Vec::new() } else { left_out.to_vec() };
        let old = (keyless || moved).then_some(old);
        self.log(table, Operation::Update, Some(new), old, left_out);
        Ok(())
    }

    /// Deletes a row.
    ///
    /// # Errors
    /// [`WriteError::NoSuchRow`], [`WriteError::Locked`].
    pub fn delete(&mut self, table: &TableId, key: &[Value]) -> Result<(), WriteError> {
        let old = self.with_table(table, |xid, access| access.take(xid, &key.to_vec()))?;
        self.log(table, Operation::Delete, Some(old), None, Vec::new());
        Ok(())
    }

    /// Deletes every row at once.
    ///
    /// # Errors
    /// [`WriteError::Locked`] if another open transaction has written the table.
    pub fn truncate(&mut self, table: &TableId) -> Result<(), WriteError> {
        self.with_table(table, |xid, access| access.truncate(xid))?;
        self.log(table, Operation::Truncate, None, None, Vec::new());
        Ok(())
    }

    /// Commits: into the log, and visible (unless the database holds commits). Returns the commit's position.
    ///
    /// # Errors
    /// [`WriteError::Duplicate`] if a unique index does not hold; the transaction is then rolled back.
    pub fn commit(mut self) -> Result<u64, WriteError> {
        self.ended = true;
        let result = commit(&mut self.database.state(), self.xid, std::mem::take(&mut self.changes));
        if let Ok(end) = result {
            self.database.announce(end);
        }
        result
    }

    /// Undoes everything.
    pub fn rollback(self) {}

    fn with_table<R>(
        &self,
        table: &TableId,
        work: impl FnOnce(u64, &mut Access<'_>) -> Result<R, WriteError>,
    ) -> Result<R, WriteError> {
        let mut state = self.database.state();
        let State { tables, running, .. } = &mut *state;
        let table = tables.get_mut(table).ok_or_else(|| WriteError::NoSuchTable(table.clone()))?;
        if table.truncated_by.is_some_and(|xid| xid != self.xid) {
            return Err(WriteError::Locked);
        }
        let locked = |xid: u64| xid != self.xid && running.contains(&xid);
        work(self.xid, &mut Access { table, locked: &locked })
    }

    fn log(
        &mut self,
        table: &TableId,
        operation: Operation,
        row: Option<Arc<Row>>,
        old: Option<Arc<Row>>,
        left_out: Vec<usize>,
    ) {
        self.changes.push(LoggedChange { table: table.clone(), operation, row, old, left_out });
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        if !self.ended {
            rollback(&mut self.database.state(), self.xid);
        }
    }
}

/// A table as one transaction may write it.
struct Access<'a> {
    table: &'a mut Table,
    /// Whether a transaction is another one that is under way.
    locked: &'a dyn Fn(u64) -> bool,
}

impl Access<'_> {
    fn insert(&mut self, xid: u64, row: Arc<Row>) -> Result<(), WriteError> {
        assert_eq!(row.len(), self.table.definition.columns.len(), "a row of another table");
        let identity = self.table.definition.identity(&row);
        if !self.table.definition.key.is_empty() && self.live(&identity)?.is_some() {
            return Err(WriteError::Duplicate);
        }
        let index = self.table.versions.len();
        self.table.versions.push(Version { row, created: xid, deleted: None });
        self.table.by_identity.entry(identity).or_default().push(index);
        Ok(())
    }

    fn take(&mut self, xid: u64, identity: &Row) -> Result<Arc<Row>, WriteError> {
        let index = self.live(identity)?.ok_or(WriteError::NoSuchRow)?;
        let version = &mut self.table.versions[index];
        version.deleted = Some(xid);
        Ok(Arc::clone(&version.row))
    }

    /// Undoes a `take` of this transaction.
    fn give_back(&mut self, xid: u64, row: &Arc<Row>) {
        let taken = |v: &&mut Version| v.deleted == Some(xid) && Arc::ptr_eq(&v.row, row);
        if let Some(version) = self.table.versions.iter_mut().rev().find(taken) {
            version.deleted = None;
        }
    }

    fn truncate(&mut self, xid: u64) -> Result<(), WriteError> {
        let locked = |v: &Version| (self.locked)(v.created) || v.deleted.is_some_and(self.locked);
        if self.table.versions.iter().any(locked) {
            return Err(WriteError::Locked);
        }
        for version in self.table.versions.iter_mut().filter(|v| v.created != NEVER && v.deleted.is_none()) {
            version.deleted = Some(xid);
        }
        self.table.truncated_by = Some(xid);
        Ok(())
    }

    /// A row of this identity that is there for this transaction; refused if another one holds it.
    fn live(&self, identity: &Row) -> Result<Option<usize>, WriteError> {
        let keyed = !self.table.definition.key.is_empty();
        let mut held = false;
        for &index in self.table.by_identity.get(identity).into_iter().flatten() {
            let version = &self.table.versions[index];
            if version.created == NEVER {
                continue;
            }
            if (self.locked)(version.created) || version.deleted.is_some_and(self.locked) {
                held = true;
            } else if version.deleted.is_none() {
                return Ok(Some(index));
            }
            if held && keyed {
                return Err(WriteError::Locked);
            }
        }
        if held { Err(WriteError::Locked) } else { Ok(None) }
    }
}

fn commit(state: &mut State, xid: u64, changes: Vec<LoggedChange>) -> Result<u64, WriteError> {
    if let Err(error) = check_unique(state, xid, &changes) {
        rollback(state, xid);
        return Err(error);
    }
    let start = state.end;
    let position = start + changes.len() as u64 + 1;
    state.end = position;
    state.committed.insert(xid, position);
    let logged = Logged { start, position, xid, committed_at_us: now_us(), changes };
    state.log.push(Arc::new(logged));
    for table in state.tables.values_mut().filter(|table| table.truncated_by == Some(xid)) {
        table.truncated_by = None;
    }
    if state.hold_commits {
        state.unseen.insert(xid);
    } else {
        state.running.remove(&xid);
    }
    Ok(position)
}

/// Every unique index of the written tables, over what everybody would see then. A row that another open transaction
/// wrote counts too: the real database would wait for it, and a test has no use for the wait.
fn check_unique(state: &State, xid: u64, changes: &[LoggedChange]) -> Result<(), WriteError> {
    let mut written: Vec<&TableId> = changes.iter().map(|change| &change.table).collect();
    written.sort();
    written.dedup();
    for table in written {
        let table = state.table(table)?;
        for index in &table.definition.unique {
            check_index(state, xid, table, index)?;
        }
    }
    Ok(())
}

fn check_index(state: &State, xid: u64, table: &Table, index: &[usize]) -> Result<(), WriteError> {
    let there = |v: &&Version| {
        v.created != NEVER
            && v.deleted.is_none_or(|deleted| deleted != xid && state.running.contains(&deleted))
    };
    let mut seen = std::collections::HashSet::new();
    for version in table.versions.iter().filter(there) {
        let value: Row = index.iter().map(|&column| version.row[column].clone()).collect();
        if value.iter().all(Option::is_some) && !seen.insert(value) {
            return Err(WriteError::Duplicate);
        }
    }
    Ok(())
}

fn rollback(state: &mut State, xid: u64) {
    for table in state.tables.values_mut() {
        for version in &mut table.versions {
            if version.created == xid {
                version.created = NEVER;
            }
            if version.deleted == Some(xid) {
                version.deleted = None;
            }
        }
        if table.truncated_by == Some(xid) {
            table.truncated_by = None;
        }
    }
    state.running.remove(&xid);
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The columns of a definition that a schema takes, by name.
pub(crate) fn projection(definition: &TableDefinition, columns: &[String]) -> Vec<usize> {
    columns.iter().filter_map(|name| definition.columns.iter().position(|column| column == name)).collect()
}
