//! All tables of a pipeline, once or again and again. The destination is opened only when there is something to say to it.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::Serialize;
use syncline_core::error::Context as _;
use syncline_core::{
    Bound, Change, Checkpoint, Delta, DestinationSession, Error, ErrorKind, FinishStep, Lane, LoadIdentity,
    LoadKind, PipelineName, Reaction, Result, Severity, Source, TableId, TablePattern, TablePhase,
    TableSchema, VersionRange, VersionState, Versions,
};
use syncline_store::Store;

use super::local::LocalReplica;
use super::memory::{Keep, Memory};
use super::near::{VersionSide, cannot};
use super::table::{Limits, Looked, Passed, look, pass, settled};
use crate::control::Control;
use crate::diff;
use crate::pipeline::Pipeline;
use crate::retry::Backoff;

/// How long a run that ends by itself waits for rows that were there at its start and whose transactions are just ending.
const WAIT_MAX: Duration = Duration::from_secs(3);
const WAIT_EVERY: Duration = Duration::from_millis(200);
/// What the checkpoint has for the identity of a log: such a pipeline has none, and no stream may go on from it.
const NO_LOG: &str = "table sync";

/// Which column is the version of which tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionColumns(pub Vec<(Option<TablePattern>, String)>);

impl VersionColumns {
    /// The place of a table's version column. A column that is named for the table goes before one named for all.
    ///
    /// # Errors
    /// Configuration, with the remedy, if the table has no such column or no key.
    pub fn of(&self, table: &TableSchema) -> Result<usize> {
        let named = self.0.iter().find(|(of, _)| of.as_ref().is_some_and(|of| of.matches(&table.id)));
        let named = named.or_else(|| self.0.iter().find(|(of, _)| of.is_none()));
        let refused = |message: String| {
            Error::configuration(message).with_table(&table.id).with_remedy(format!(
                "name its version column with --version-column {0}.COLUMN, or leave it out with --exclude {0}",
                table.id
            ))
        };
        let Some((_, name)) = named else {
            return Err(refused("no version column is named for it".to_owned()));
        };
        let place = table.columns.iter().position(|column| column.name == *name);
        let place = place.ok_or_else(|| refused(format!("it has no column {name}")))?;
        if !table.has_row_key() {
            return Err(Error::configuration("it has no key, by which rows could be replaced")
                .with_table(&table.id)
                .with_remedy(format!("give it a primary key, or leave it out with --exclude {}", table.id)));
        }
        Ok(place)
    }
}

/// Everything that a run of table syncs needs.
#[derive(Clone)]
pub struct TableSync {
    /// What is kept equal. Of its mode nothing is used.
    pub pipeline: Pipeline,
    /// The destination as it is read.
    pub destination: Arc<dyn Source>,
    /// The versions.
    pub columns: VersionColumns,
    /// Bounds of what may be deleted, and refused.
    pub limits: Limits,
    /// Where is remembered what was known last.
    pub store: Store,
    /// The number of the run.
    pub run: i64,
    /// Between two rounds of a pipeline that follows.
    pub pause: Duration,
}

/// What became of a table in a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableSynced {
    /// Which.
    pub table: TableId,
    /// What was done.
    #[serde(flatten)]
    pub passed: Passed,
    /// Why it was not finished.
    pub error: Option<String>,
    /// What to do about that.
    pub remedy: Option<String>,
    /// What the process is to end with if that is the worst.
    #[serde(skip)]
    pub error_kind: Option<ErrorKind>,
}

/// Runs rounds until one is done, or, if the pipeline follows, until asked to stop. `told` hears of every table after each
/// round in which there was something to do, and after the first.
///
/// # Errors
/// What ends a run as a whole. An error of a table is in its outcome.
pub async fn run(
    sync: &TableSync,
    control: &Control,
    told: &mut (dyn FnMut(&[TableSynced]) + Send),
) -> Result<Vec<TableSynced>> {
    let aborted = control.aborting().clone();
    tokio::select! {
        ended = rounds(sync, control, told) => ended,
        () = aborted.cancelled() => Err(Error::new(ErrorKind::Cancelled, "stopped at once, as asked")),
    }
}

async fn rounds(
    sync: &TableSync,
    control: &Control,
    told: &mut (dyn FnMut(&[TableSynced]) + Send),
) -> Result<Vec<TableSynced>> {
    let mut backoff = Backoff::new(sync.pipeline.retry, u64::from(std::process::id()));
    let (mut opened, mut first) = (false, true);
    loop {
        let delay = match round(sync, control, &mut opened).await {
            Ok(outcomes) => {
                backoff.reset();
                if first
                    || outcomes.iter().any(|outcome| outcome.passed.requests > 0 || outcome.error.is_some())
                {
                    told(&outcomes);
                }
                first = false;
                if !sync.pipeline.follow || control.draining().is_cancelled() {
                    return Ok(outcomes);
                }
                sync.pause
            }
            Err(error) if error.kind().reaction() == Reaction::Retry => {
                let Some(delay) = backoff.next(opened, sync.pipeline.follow) else { return Err(error) };
                tracing::warn!(%error, "the round ended; trying again");
                delay
            }
            Err(error) => return Err(error),
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = control.draining().cancelled() => return Ok(Vec::new()),
        }
    }
}

/// A table as it is looked at before anybody is asked: nothing of the far side is known or needed.
struct Alone<'a> {
    versions: &'a dyn Versions,
    table: Arc<TableSchema>,
    column: usize,
}

#[async_trait]
impl Looked for Alone<'_> {
    async fn bound(&self) -> Result<Bound> {
        self.versions.bound(&self.table, self.column).await
    }

    async fn state(&self, range: &VersionRange) -> Result<VersionState> {
        self.versions.state(&self.table, self.column, range).await
    }
}

async fn round(sync: &TableSync, control: &Control, opened: &mut bool) -> Result<Vec<TableSynced>> {
    let (source, selection) = (&sync.pipeline.source, &sync.pipeline.selection);
    let tables =
        source.discover(selection).await.doing(|| format!("reading the tables of {}", source.address()))?;
    if tables.is_empty() {
        return Err(Error::configuration("the selection takes no table")
            .with_remedy("see `syncline discover URL` for what is there"));
    }
    let tables: Vec<_> = tables.into_iter().map(Arc::new).collect();
    let columns = tables.iter().map(|table| sync.columns.of(table)).collect::<Result<Vec<_>>>()?;
    let versions = source.versions().ok_or_else(|| cannot(source.as_ref()))?;
    let mut far = None;
    let mut outcomes = Vec::with_capacity(tables.len());
    for (table, column) in tables.iter().zip(columns) {
        if control.draining().is_cancelled() {
            break;
        }
        let alone = Alone { versions, table: Arc::clone(table), column };
        let outcome = one(sync, &alone, &mut far, &tables).await;
        if outcome.is_ok() {
            *opened = true;
        }
        match outcome {
            Err(error) if ends_the_round(&error, &table.id) => {
                close(far).await;
                return Err(error);
            }
            outcome => outcomes.push(told_of(&table.id, outcome)),
        }
    }
    close(far).await;
    Ok(outcomes)
}

/// What has nothing to do with the table at which it showed.
fn ends_the_round(error: &Error, table: &TableId) -> bool {
    match error.kind() {
        ErrorKind::Data | ErrorKind::DeadLetters | ErrorKind::Guard => false,
        ErrorKind::Configuration => error.table() != Some(table),
        _ => true,
    }
}

fn told_of(table: &TableId, outcome: Result<Passed>) -> TableSynced {
    let table = table.clone();
    match outcome {
        Ok(passed) => TableSynced { table, passed, error: None, remedy: None, error_kind: None },
        Err(error) => TableSynced {
            table,
            passed: Passed::default(),
            error: Some(error.to_string()),
            remedy: error.remedy().map(str::to_owned),
            error_kind: Some(error.kind()),
        },
    }
}

async fn one(
    sync: &TableSync,
    alone: &Alone<'_>,
    far: &mut Option<Far>,
    tables: &[Arc<TableSchema>],
) -> Result<Passed> {
    let table = &alone.table;
    let kept = Kept { sync, table: &table.id };
    let mut memory = kept.read()?.if_of(&subject(sync, table, alone.column));
    let of_table = |error: Error| match error.table() {
        Some(_) => error,
        None if matches!(error.kind(), ErrorKind::Configuration | ErrorKind::Data) => {
            error.with_table(&table.id)
        }
        None => error,
    };
    let begun = Instant::now();
    let seen = loop {
        let (seen, bound) = look(alone).await.map_err(of_table)?;
        if let Some(passed) = settled(&seen, &bound, &memory) {
            return Ok(passed);
        }
        if seen.waiting() == 0 || sync.pipeline.follow || begun.elapsed() > WAIT_MAX {
            break seen;
        }
        tokio::time::sleep(WAIT_EVERY).await;
    };
    tracing::debug!(table = %table.id, rows = seen.all.rows, "there is something to do");
    if far.is_none() {
        *far = Some(Far::open(sync, tables).await?);
    }
    let far = far.as_mut().ok_or_else(|| Error::bug("a far side that was not opened"))?;
    let (near, replica) = far.pair(sync, table, alone.column).await?;
    pass(near.as_ref(), &replica, &mut memory, &kept, &sync.limits).await.map_err(of_table)
}

/// Between what is kept equal: another destination, or a table that has changed its columns, is not what was known last.
fn subject(sync: &TableSync, table: &TableSchema, column: usize) -> String {
    let columns: Vec<String> =
        table.columns.iter().map(|column| format!("{:?} {}", column.name, column.native_type)).collect();
    format!(
        "{} → {} {}: {}; key {:?}, version {column}",
        sync.pipeline.source.address(),
        sync.destination.address(),
        sync.pipeline.schema_map.map(&table.id),
        columns.join(", "),
        table.row_key,
    )
}

/// What is remembered of one table.
struct Kept<'a> {
    sync: &'a TableSync,
    table: &'a TableId,
}

impl Kept<'_> {
    /// What cannot be read any more costs requests only.
    fn read(&self) -> Result<Memory> {
        let (store, name) = (&self.sync.store, &self.sync.pipeline.name);
        let value = tokio::task::block_in_place(|| store.table_sync(name, self.table))?;
        Ok(value.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default())
    }
}

impl Keep for Kept<'_> {
    fn keep(&self, memory: &Memory) -> Result<()> {
        let value = serde_json::to_value(memory)
            .map_err(|error| Error::bug("what is remembered cannot be written as JSON").with_source(error))?;
        let (store, name) = (&self.sync.store, &self.sync.pipeline.name);
        tokio::task::block_in_place(|| store.save_table_sync(name, self.table, &value))
    }
}

/// The destination, held.
struct Far {
    session: Arc<dyn DestinationSession>,
    checkpoint: Checkpoint,
    loads: Arc<AtomicU32>,
}

async fn close(far: Option<Far>) {
    if let Some(far) = far {
        far.session.close().await;
    }
}

impl Far {
    async fn open(sync: &TableSync, tables: &[Arc<TableSchema>]) -> Result<Self> {
        let pipeline = &sync.pipeline;
        let holder = syncline_store::this_process()?;
        let session = pipeline.destination.open(&pipeline.name, &holder, &pipeline.schema_map).await;
        let session = session.doing(|| format!("opening {}", pipeline.destination.address()))?;
        let far = Self { checkpoint: session.checkpoint().await?, session, loads: Arc::default() };
        match far.admit(sync, tables).await {
            Ok(()) => Ok(far),
            Err(error) => {
                far.session.close().await;
                Err(error)
            }
        }
    }

    /// Refuses the pipeline of a stream, and a new one that would hurt.
    async fn admit(&self, sync: &TableSync, tables: &[Arc<TableSchema>]) -> Result<()> {
        let (name, destination) = (&sync.pipeline.name, &sync.pipeline.destination);
        let other = self.checkpoint.origin.as_deref() != Some(NO_LOG);
        if other && !(self.checkpoint.tables.is_empty() && self.checkpoint.lanes.is_empty()) {
            return Err(Error::configuration(format!("pipeline {name} was begun in another mode"))
                .with_remedy("give this one another --name, or drop that one: syncline drop NAME"));
        }
        if !self.checkpoint.tables.is_empty() {
            return Ok(());
        }
        let findings = destination.check(tables, &sync.pipeline.schema_map).await?;
        let Some(first) = findings.into_iter().find(|finding| finding.severity == Severity::Error) else {
            return Ok(());
        };
        self.session.close().await;
        destination.drop_pipeline(name).await?;
        let error = Error::configuration(first.message);
        let error = first.table.iter().fold(error, Error::with_table);
        Err(first.remedy.into_iter().fold(error, Error::with_remedy))
    }

    /// Both sides of a table, which is made at the destination if it is not there yet.
    async fn pair(
        &mut self,
        sync: &TableSync,
        table: &Arc<TableSchema>,
        column: usize,
    ) -> Result<(Arc<VersionSide>, LocalReplica)> {
        if !self.checkpoint.tables.contains_key(&table.id) {
            self.bring_in(&sync.pipeline.name, sync, table).await?;
        }
        let Pipeline { source, selection, schema_map, name, .. } = &sync.pipeline;
        let is_this = |id: &TableId| *id == table.id;
        let pairings = diff::pair_some(source, &sync.destination, selection, schema_map, is_this).await?;
        let pairing = pairings.into_iter().next().ok_or_else(|| Error::bug("a table without a pair"))?;
        let version = &table.columns[column].name;
        let column = pairing.left.columns.iter().position(|column| column.name == *version);
        let column = column.ok_or_else(|| Error::bug("the version column is not compared"))?;
        let side = |of: &Arc<dyn Source>, table: &Arc<TableSchema>| {
            VersionSide::new(Arc::clone(of), Arc::clone(table), &pairing, column)
        };
        let near = Arc::new(side(source, &pairing.left));
        let replica = LocalReplica {
            right: side(&sync.destination, &pairing.right),
            left: Arc::clone(&near),
            session: Arc::clone(&self.session),
            pipeline: name.clone(),
            run: sync.run,
            loads: Arc::clone(&self.loads),
        };
        Ok((near, replica))
    }

    async fn bring_in(
        &mut self,
        name: &PipelineName,
        sync: &TableSync,
        table: &Arc<TableSchema>,
    ) -> Result<()> {
        self.session.prepare(table, sync.pipeline.prepare).await?;
        self.session.finish(table, FinishStep::Key).await?;
        self.session.finish(table, FinishStep::Indexes).await?;
        let mark = Change::Mark { table: table.id.clone(), phase: TablePhase::Consistent, generation: 1 };
        let delta = Delta::of(vec![Change::Origin(NO_LOG.to_owned()), mark]);
        let identity = LoadIdentity { pipeline: name.clone(), lane: Lane::Main, kind: LoadKind::Bookkeeping };
        self.session.begin(&identity).await?.commit(&delta).await?;
        self.checkpoint
            .apply(&delta)
            .map_err(|misfit| Error::bug(format!("bringing in a table: {}", misfit.0)))
    }
}
