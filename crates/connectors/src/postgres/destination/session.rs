//! A pipeline held at its destination.

use std::sync::Arc;

use async_trait::async_trait;
use syncline_core::{
    Checkpoint, DestinationSession, FinishStep, Guarantee, Load, LoadIdentity, LoadKind, PipelineName,
    Prepare, Prepared, Result, SchemaMap, TableSchema,
};
use tokio::sync::Mutex;

use super::super::url::Address;
use super::fence::{Held, Lock};
use super::sessions::{Purpose, Sessions};
use super::shape::Shapes;
use super::{bookkeeping, finish, load, partitions, prepare};

/// What all parts of a held pipeline share.
pub(super) struct Pipeline {
    pub(super) name: PipelineName,
    pub(super) fence: u64,
    pub(super) map: SchemaMap,
    pub(super) sessions: Arc<Sessions>,
    pub(super) shapes: Shapes,
}

/// The session. Its lock ends with it.
pub(super) struct PostgresSession {
    pipeline: Arc<Pipeline>,
    lock: Mutex<Option<Lock>>,
}

impl PostgresSession {
    pub(super) fn new(address: &Address, name: &PipelineName, map: &SchemaMap, held: Held) -> Self {
        let pipeline = Pipeline {
            name: name.clone(),
            fence: held.fence,
            map: map.clone(),
            sessions: Arc::new(Sessions::new(address, name)),
            shapes: Shapes::default(),
        };
        Self { pipeline: Arc::new(pipeline), lock: Mutex::new(Some(held.lock)) }
    }
}

#[async_trait]
impl DestinationSession for PostgresSession {
    fn fence(&self) -> u64 {
        self.pipeline.fence
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Atomic
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let lease = self.pipeline.sessions.lease(Purpose::Definition).await?;
        self.pipeline.sessions.end_lost(lease.client()?).await?;
        let checkpoint =
            bookkeeping::checkpoint(lease.client()?, &self.pipeline.name, self.pipeline.fence).await?;
        lease.give_back();
        Ok(checkpoint)
    }

    async fn prepare(&self, table: &Arc<TableSchema>, mode: Option<Prepare>) -> Result<Prepared> {
        self.pipeline.shapes.forget(&table.id);
        let prepared = prepare::prepare(&self.pipeline, table, mode).await;
        self.pipeline.shapes.forget(&table.id);
        prepared
    }

    async fn extend(&self, table: &Arc<TableSchema>) -> Result<bool> {
        let made = partitions::extend(&self.pipeline, table).await;
        self.pipeline.shapes.forget(&table.id);
        made
    }

    async fn begin(&self, identity: &LoadIdentity) -> Result<Box<dyn Load>> {
        let purpose = match identity.kind {
            LoadKind::Chunk { .. } | LoadKind::Reread { .. } => Purpose::Chunk,
            LoadKind::Changes { .. }
            | LoadKind::Repair { .. }
            | LoadKind::Letters
            | LoadKind::Bookkeeping => Purpose::Changes,
        };
        let lease = self.pipeline.sessions.lease(purpose).await?;
        Ok(Box::new(load::PostgresLoad::new(&self.pipeline, lease)))
    }

    async fn finish(&self, table: &Arc<TableSchema>, step: FinishStep) -> Result<()> {
        let finished = finish::finish(&self.pipeline, table, step).await;
        // A foreign key changes how the table it references is emptied, so all shapes are read again.
        self.pipeline.shapes.clear();
        finished
    }

    async fn close(&self) {
        self.pipeline.sessions.close();
        let lock = self.lock.lock().await.take();
        if let Some(lock) = lock {
            lock.release().await;
        }
    }
}
