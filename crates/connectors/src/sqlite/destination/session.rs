//! A pipeline held at its destination.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use syncline_core::{
    Checkpoint, DestinationSession, FinishStep, Guarantee, Holder, Letter, LetterId, Load, LoadIdentity,
    PipelineName, Prepare, Prepared, Result, TableId, TableSchema,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::super::connect::{Shared, blocking, open_reader};
use super::super::error::During;
use super::load::SqliteLoad;
use super::lock::{self, Lock};
use super::writer::{Transaction, Writer};
use super::{bookkeeping, finish, letters, prepare};

/// What session and loads share.
pub(super) struct Inner {
    path: PathBuf,
    pipeline: PipelineName,
    fence: u64,
    /// Tokio's, because it is held from a load's first write to its commit, across awaits.
    writer: Arc<Mutex<Writer>>,
    /// Until `close`, or until session and loads are gone.
    lock: Shared<Option<Lock>>,
}

impl Inner {
    pub(super) fn pipeline(&self) -> &PipelineName {
        &self.pipeline
    }

    pub(super) fn fence(&self) -> u64 {
        self.fence
    }

    /// The writer, when nobody else has it.
    pub(super) async fn writer(&self) -> OwnedMutexGuard<Writer> {
        Arc::clone(&self.writer).lock_owned().await
    }

    /// A write transaction of its own, under the fence.
    async fn transact<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Writer, &PipelineName) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let writer = self.writer().await;
        let (pipeline, fence) = (self.pipeline.clone(), self.fence);
        blocking(move || {
            let transaction = Transaction::begin(writer, &pipeline, fence)?;
            let done = work(&transaction, &pipeline)?;
            transaction.commit()?;
            Ok(done)
        })
        .await
    }
}

/// Takes a pipeline: file, lock, fence.
pub(super) fn open(
    path: &Path,
    pipeline: &PipelineName,
    holder: &Holder,
) -> Result<Arc<dyn DestinationSession>> {
    let writer = Writer::open(path)?;
    let lock = lock::take(path, pipeline, Some(holder))?;
    let doing = "taking the pipeline";
    writer.conn.execute_batch("BEGIN IMMEDIATE").during(doing)?;
    let fence = bookkeeping::raise_fence(&writer.conn, pipeline, holder)?;
    writer.conn.execute_batch("COMMIT").during(doing)?;
    Ok(Arc::new(SqliteSession(Arc::new(Inner {
        path: path.to_owned(),
        pipeline: pipeline.clone(),
        fence,
        writer: Arc::new(Mutex::new(writer)),
        lock: Shared::new(Some(lock)),
    }))))
}

/// Forgets a pipeline that nobody holds.
pub(super) fn forget(path: &Path, pipeline: &PipelineName) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let lock = lock::take(path, pipeline, None)?;
    let writer = Writer::open(path)?;
    let doing = "forgetting the pipeline";
    writer.conn.execute_batch("BEGIN IMMEDIATE").during(doing)?;
    if bookkeeping::exists(&writer.conn)? {
        bookkeeping::forget(&writer.conn, pipeline)?;
    }
    writer.conn.execute_batch("COMMIT").during(doing)?;
    drop(lock);
    Ok(())
}

/// The pipelines that write these tables.
pub(super) fn owners(path: &Path, tables: &[TableId]) -> Result<BTreeMap<TableId, PipelineName>> {
    let mut owners = BTreeMap::new();
    if !path.exists() {
        return Ok(owners);
    }
    let conn = open_reader(path)?;
    if !bookkeeping::exists(&conn)? {
        return Ok(owners);
    }
    for table in tables {
        if let Some(owner) = bookkeeping::owner(&conn, table)? {
            owners.insert(table.clone(), owner);
        }
    }
    Ok(owners)
}

/// The letters of a pipeline, whoever holds it.
pub(super) fn letters(path: &Path, pipeline: &PipelineName) -> Result<BTreeMap<LetterId, Letter>> {
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let conn = open_reader(path)?;
    if letters::exist(&conn)? { letters::read(&conn, pipeline) } else { Ok(BTreeMap::new()) }
}

/// A held pipeline.
struct SqliteSession(Arc<Inner>);

#[async_trait]
impl DestinationSession for SqliteSession {
    fn fence(&self) -> u64 {
        self.0.fence
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Atomic
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let conn = open_reader(&inner.path)?;
            conn.execute_batch("BEGIN").during("reading the checkpoint")?;
            bookkeeping::check_fence(&conn, &inner.pipeline, inner.fence)?;
            bookkeeping::read(&conn, &inner.pipeline)
        })
        .await
    }

    async fn prepare(&self, table: &Arc<TableSchema>, mode: Option<Prepare>) -> Result<Prepared> {
        let table = Arc::clone(table);
        let work = move |writer: &Writer, pipeline: &PipelineName| {
            prepare::prepare(&writer.conn, pipeline, &table, mode)
                .map_err(|error| error.with_table(&table.id))
        };
        self.0.transact(work).await
    }

    async fn begin(&self, identity: &LoadIdentity) -> Result<Box<dyn Load>> {
        Ok(Box::new(SqliteLoad::new(Arc::clone(&self.0), identity.clone())))
    }

    async fn finish(&self, table: &Arc<TableSchema>, step: FinishStep) -> Result<()> {
        let table = Arc::clone(table);
        let work = move |writer: &Writer, pipeline: &PipelineName| {
            finish::finish(&writer.conn, pipeline, &table, step).map_err(|error| error.with_table(&table.id))
        };
        self.0.transact(work).await
    }

    async fn close(&self) {
        let released = self.0.lock.run(|lock| {
            lock.take();
            Ok(())
        });
        // Only a runtime that shuts down cancels it; then the lock ends with the session.
        let _ = released.await;
    }
}
