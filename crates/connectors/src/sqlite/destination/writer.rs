//! The one connection that writes, and its transactions.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use syncline_core::{Error, ErrorKind, PipelineName, Result, TableId, TableSchema};
use tokio::sync::OwnedMutexGuard;

use super::super::connect::open_or_create;
use super::super::error::During;
use super::bookkeeping;
use super::plan::Plan;

/// The connection, and what it knows of the file as long as the file's schema does not change.
pub(super) struct Writer {
    pub(super) conn: Connection,
    plans: HashMap<(TableId, u32), Arc<Plan>>,
    schema_version: Option<i64>,
}

impl Writer {
    /// Opens or creates the file for writing.
    ///
    /// Every commit is synced: what the source is told to forget must survive a loss of power. Foreign keys and checks
    /// were the source's business; here rows arrive in another order, table by table.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let doing = "opening the destination";
        let conn = open_or_create(path)?;
        // Where the file system has no shared memory it stays as it is; loads are transactions either way.
        conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).during(doing)?;
        conn.pragma_update(None, "synchronous", "FULL").during(doing)?;
        conn.pragma_update(None, "foreign_keys", false).during(doing)?;
        conn.pragma_update(None, "ignore_check_constraints", true).during(doing)?;
        conn.pragma_update(None, "recursive_triggers", false).during(doing)?;
        conn.pragma_update(None, "cache_size", -16_384).during(doing)?;
        Ok(Self { conn, plans: HashMap::new(), schema_version: None })
    }

    /// The statements for a table.
    pub(super) fn plan(&mut self, table: &Arc<TableSchema>) -> Result<Arc<Plan>> {
        let key = (table.id.clone(), table.version);
        if let Some(plan) = self.plans.get(&key) {
            return Ok(Arc::clone(plan));
        }
        let plan = Arc::new(Plan::new(&self.conn, table)?);
        self.plans.insert(key, Arc::clone(&plan));
        Ok(plan)
    }

    /// Looks at the file again if somebody changed its schema.
    ///
    /// Triggers of the application do not fire, as in every replication: what they did at the source comes with the
    /// source's rows. But a file that is itself the source of another pipeline has capture triggers, and those must: then
    /// all fire, which `check` says.
    fn refresh(&mut self) -> Result<()> {
        let doing = "reading the schema of the destination";
        let version = self.conn.pragma_query_value(None, "schema_version", |row| row.get(0)).during(doing)?;
        if self.schema_version == Some(version) {
            return Ok(());
        }
        self.plans.clear();
        let captured = self
            .conn
            .prepare("SELECT 1 FROM main.sqlite_schema WHERE type = 'trigger' AND name LIKE '\\_syncline\\_%' ESCAPE '\\'")
            .and_then(|mut statement| statement.exists([]))
            .during(doing)?;
        self.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, captured).during(doing)?;
        self.schema_version = Some(version);
        Ok(())
    }
}

/// A write transaction under the fence. Dropped, it is rolled back.
pub(super) struct Transaction(OwnedMutexGuard<Writer>);

impl Transaction {
    /// Begins; waits for writers of other processes.
    pub(super) fn begin(
        writer: OwnedMutexGuard<Writer>,
        pipeline: &PipelineName,
        fence: u64,
    ) -> Result<Self> {
        let mut transaction = Self(writer);
        transaction.conn.execute_batch("BEGIN IMMEDIATE").during("beginning a load")?;
        bookkeeping::check_fence(&transaction.conn, pipeline, fence)?;
        transaction.refresh()?;
        Ok(transaction)
    }

    /// Commits. If that fails the transaction is rolled back, unless the disk failed in the middle of it.
    pub(super) fn commit(self) -> Result<()> {
        self.conn.execute_batch("COMMIT").during("committing").map_err(|error| {
            if error.kind() == ErrorKind::Resource && self.conn.is_autocommit() {
                return Error::new(ErrorKind::Unknown, "the disk failed while a load was committed")
                    .with_source(error);
            }
            error
        })
    }
}

impl Deref for Transaction {
    type Target = Writer;
    fn deref(&self) -> &Writer {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Writer {
        &mut self.0
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.0.conn.is_autocommit()
            && let Err(error) = self.0.conn.execute_batch("ROLLBACK")
        {
            tracing::warn!(error = %error, "a load could not be rolled back; the next one will try");
        }
    }
}
