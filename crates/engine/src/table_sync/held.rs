//! A destination that is held for a table sync, by whoever stands beside it: the run itself, or an agent in its place.
//!
//! Not here: which rows are written, and in which order. That is decided where the source is.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use serde::{Deserialize, Serialize};
use syncline_core::error::Context as _;
use syncline_core::{
    Change, Checkpoint, Delta, Destination, DestinationSession, Error, FinishStep, Lane, LoadIdentity,
    LoadKind, PipelineName, Prepare, Result, SchemaMap, Severity, TableId, TablePhase, TableSchema,
};

use super::local::LocalReplica;
use super::near::VersionSide;
use crate::diff::ComparedColumn;

/// What the checkpoint has for the identity of a log: such a pipeline has none, and no stream may go on from it.
const NO_LOG: &str = "table sync";

/// In whose name a destination is held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Holding {
    pub(crate) pipeline: PipelineName,
    pub(crate) schema_map: SchemaMap,
    /// The number of the run.
    pub(crate) run: i64,
}

/// The destination, held.
pub(crate) struct Held {
    session: Arc<dyn DestinationSession>,
    checkpoint: Checkpoint,
    holding: Holding,
    loads: Arc<AtomicU32>,
}

impl Held {
    /// Takes the pipeline. `tables`: all that it is about.
    ///
    /// # Errors
    /// Configuration with the remedy if it was begun in another mode, if somebody else holds it, or if these tables would
    /// hurt; as any connection.
    pub(crate) async fn open(
        destination: &Arc<dyn Destination>,
        holding: Holding,
        tables: &[Arc<TableSchema>],
    ) -> Result<Self> {
        let holder = syncline_store::this_process()?;
        let session = destination.open(&holding.pipeline, &holder, &holding.schema_map).await;
        let session = session.doing(|| format!("opening {}", destination.address()))?;
        let checkpoint = match session.checkpoint().await {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                session.close().await;
                return Err(error);
            }
        };
        let held = Self { checkpoint, session, holding, loads: Arc::default() };
        match held.admit(destination, tables).await {
            Ok(()) => Ok(held),
            Err(error) => {
                held.session.close().await;
                Err(error)
            }
        }
    }

    /// Refuses the pipeline of a stream, and a new one that would hurt.
    async fn admit(&self, destination: &Arc<dyn Destination>, tables: &[Arc<TableSchema>]) -> Result<()> {
        let name = &self.holding.pipeline;
        let other = self.checkpoint.origin.as_deref() != Some(NO_LOG);
        if other && !(self.checkpoint.tables.is_empty() && self.checkpoint.lanes.is_empty()) {
            return Err(Error::configuration(format!("pipeline {name} was begun in another mode"))
                .with_remedy("give this one another --name, or drop that one: syncline drop NAME"));
        }
        if !self.checkpoint.tables.is_empty() {
            return Ok(());
        }
        let findings = destination.check(tables, &self.holding.schema_map).await?;
        let Some(first) = findings.into_iter().find(|finding| finding.severity == Severity::Error) else {
            return Ok(());
        };
        self.session.close().await;
        destination.drop_pipeline(name).await?;
        let error = Error::configuration(first.message);
        let error = first.table.iter().fold(error, Error::with_table);
        Err(first.remedy.into_iter().fold(error, Error::with_remedy))
    }

    /// Tables that were brought in before.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &TableId> {
        self.checkpoint.tables.keys()
    }

    pub(crate) fn knows(&self, table: &TableId) -> bool {
        self.checkpoint.tables.contains_key(table)
    }

    /// Makes a table, or finds it fit as `prepare` says.
    ///
    /// # Errors
    /// As [`DestinationSession::prepare`].
    pub(crate) async fn bring_in(
        &mut self,
        table: &Arc<TableSchema>,
        prepare: Option<Prepare>,
    ) -> Result<()> {
        self.session.prepare(table, prepare).await?;
        self.session.finish(table, FinishStep::Key).await?;
        self.session.finish(table, FinishStep::Indexes).await?;
        let mark = Change::Mark { table: table.id.clone(), phase: TablePhase::Consistent, generation: 1 };
        let delta = Delta::of(vec![Change::Origin(NO_LOG.to_owned()), mark]);
        let pipeline = self.holding.pipeline.clone();
        let identity = LoadIdentity { pipeline, lane: Lane::Main, kind: LoadKind::Bookkeeping };
        self.session.begin(&identity).await?.commit(&delta).await?;
        self.checkpoint
            .apply(&delta)
            .map_err(|misfit| Error::bug(format!("bringing in a table: {}", misfit.0)))
    }

    /// A table of it. `right`: as it is read; `left`: the source's shape of it, cut to what is compared, the key first.
    pub(crate) fn replica(
        &self,
        right: VersionSide,
        left: Arc<TableSchema>,
        key: Vec<ComparedColumn>,
    ) -> LocalReplica {
        LocalReplica {
            right,
            left,
            key,
            session: Arc::clone(&self.session),
            pipeline: self.holding.pipeline.clone(),
            run: self.holding.run,
            loads: Arc::clone(&self.loads),
        }
    }

    /// Gives it back.
    pub(crate) async fn close(self) {
        self.session.close().await;
    }
}
