//! The far side as a local destination: read by version like any source, written by loads.
//!
//! Each upsert and each delete is one load, with the fence of the pipeline that holds the destination. What the pipeline knows
//! of the far side is read from its rows, so nothing can come apart from them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use syncline_core::{
    Delta, DestinationSession, Lane, LoadIdentity, LoadKind, Manifest, ManifestBounds, ManifestKey,
    ManifestPlace, Part, PipelineName, Replica, ReplicaState, Result, TableSchema, VersionRange,
};

use super::near::{Near, VersionSide, changes};
use crate::diff::{ComparedColumn, keys};

/// A table of a destination.
pub(crate) struct LocalReplica {
    /// As it is read.
    pub(super) right: VersionSide,
    /// The near side's shape of it, in which it is written.
    pub(super) left: Arc<TableSchema>,
    /// What its key is compared as.
    pub(super) key: Vec<ComparedColumn>,
    pub(super) session: Arc<dyn DestinationSession>,
    pub(super) pipeline: PipelineName,
    pub(super) run: i64,
    /// Loads of this run.
    pub(super) loads: Arc<AtomicU32>,
}

impl LocalReplica {
    async fn load(&self, rows: Option<&RecordBatch>, gone: Option<&RecordBatch>) -> Result<()> {
        let n = self.loads.fetch_add(1, Ordering::Relaxed) + 1;
        let kind = LoadKind::Repair { table: self.left.id.clone(), run: self.run, n };
        let identity = LoadIdentity { pipeline: self.pipeline.clone(), lane: Lane::Main, kind };
        let changes = changes(&self.left, rows, gone)?;
        let mut load = self.session.begin(&identity).await?;
        load.write(Part::Changes(changes)).await?;
        load.commit(&Delta::default()).await.map(|_| ())
    }
}

#[async_trait]
impl Replica for LocalReplica {
    async fn state(&self, range: &VersionRange) -> Result<ReplicaState> {
        let mut found = self.right.state(range).await?;
        // Rows without a version are the lowest: a comparison finds them.
        for _ in 0..found.unversioned {
            found.state.add(syncline_core::Version::NONE);
        }
        Ok(found.state)
    }

    async fn manifest(
        &self,
        range: &VersionRange,
        after: Option<&ManifestPlace>,
        bounds: ManifestBounds,
    ) -> Result<Manifest> {
        self.right.manifest(range, after, bounds).await
    }

    async fn upsert(&self, rows: &RecordBatch) -> Result<()> {
        self.load(Some(rows), None).await
    }

    async fn delete(&self, keys: &[ManifestKey]) -> Result<()> {
        let gone = keys::batch(keys, &self.key, &self.left)?;
        self.load(None, Some(&gone)).await
    }
}
