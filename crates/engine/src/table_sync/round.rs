//! All tables of a pipeline, once or again and again. The destination is opened only when there is something to say to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::Serialize;
use syncline_core::error::Context as _;
use syncline_core::{
    Bound, Error, ErrorKind, Reaction, Result, TableId, TablePattern, TableSchema, VersionRange,
    VersionState, Versions,
};
use syncline_store::Store;

use super::far::{Far, FarEnd};
use super::memory::{Keep, Memory};
use super::near::cannot;
use super::table::{Limits, Looked, Passed, look, pass, settled};
use crate::control::Control;
use crate::pipeline::Pipeline;
use crate::retry::Backoff;

/// How long a run that ends by itself waits for rows that were there at its start and whose transactions are just ending.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Further passes of a round over tables of which something was refused.
const AGAIN_MAX: usize = 3;
const WAIT_EVERY: Duration = Duration::from_millis(200);

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
    /// Where the far side is.
    pub far: FarEnd,
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

impl TableSynced {
    fn wrote(&self) -> bool {
        self.passed.sent + self.passed.deleted > 0
    }

    /// Whether the destination did not take something for the sake of its rows.
    fn was_refused(&self) -> bool {
        self.passed.letters > 0 || matches!(self.error_kind, Some(ErrorKind::Data | ErrorKind::DeadLetters))
    }

    /// Another pass of the same round.
    fn followed_by(&mut self, second: Self) {
        let first = std::mem::replace(self, second);
        self.passed.requests += first.passed.requests;
        self.passed.sent += first.passed.sent;
        self.passed.deleted += first.passed.deleted;
    }
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
    let alone: Vec<_> = (tables.iter().zip(columns))
        .map(|(table, column)| Alone { versions, table: Arc::clone(table), column })
        .collect();
    let mut far = None;
    let ended = passes(sync, control, &alone, &mut far, &tables, opened).await;
    if let Some(far) = far {
        far.close().await;
    }
    ended
}

/// A pass over each table. Those of which something was refused have another one after the others, as long as that helps: rows may
/// have waited for rows of other tables that they refer to.
async fn passes(
    sync: &TableSync,
    control: &Control,
    alone: &[Alone<'_>],
    far: &mut Option<Far>,
    tables: &[Arc<TableSchema>],
    opened: &mut bool,
) -> Result<Vec<TableSynced>> {
    let mut outcomes: Vec<TableSynced> = Vec::with_capacity(alone.len());
    for alone in alone {
        if control.draining().is_cancelled() {
            return Ok(outcomes);
        }
        let outcome = one(sync, alone, far, tables).await;
        *opened |= outcome.is_ok();
        match outcome {
            Err(error) if ends_the_round(&error, &alone.table.id) => return Err(error),
            outcome => outcomes.push(told_of(&alone.table.id, outcome)),
        }
    }
    let mut wrote = outcomes.iter().any(TableSynced::wrote);
    for _ in 0..AGAIN_MAX {
        let refused = |(_, outcome): &(_, &mut TableSynced)| outcome.was_refused();
        let again: Vec<_> = alone.iter().zip(&mut outcomes).filter(refused).collect();
        if again.is_empty() || !wrote || alone.len() == 1 || control.draining().is_cancelled() {
            break;
        }
        wrote = false;
        for (alone, outcome) in again {
            let second = match one(sync, alone, far, tables).await {
                Err(error) if ends_the_round(&error, &alone.table.id) => return Err(error),
                second => told_of(&alone.table.id, second),
            };
            wrote |= second.wrote() || second.passed.letters < outcome.passed.letters;
            outcome.followed_by(second);
        }
    }
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
    pass(near.as_ref(), replica.as_ref(), &mut memory, &kept, &sync.limits).await.map_err(of_table)
}

/// Between what is kept equal: another destination, or a table that has changed its columns, is not what was known last.
pub(super) fn subject(sync: &TableSync, table: &TableSchema, column: usize) -> String {
    let columns: Vec<String> =
        table.columns.iter().map(|column| format!("{:?} {}", column.name, column.native_type)).collect();
    format!(
        "{} → {} {}: {}; key {:?}, version {column}",
        sync.pipeline.source.address(),
        sync.far.address(),
        sync.pipeline.schema_map.map(&table.id),
        columns.join(", "),
        table.row_key,
    )
}

/// What is remembered of one table.
pub(super) struct Kept<'a> {
    pub(super) sync: &'a TableSync,
    pub(super) table: &'a TableId,
}

impl Kept<'_> {
    /// What cannot be read any more costs requests only.
    pub(super) fn read(&self) -> Result<Memory> {
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
