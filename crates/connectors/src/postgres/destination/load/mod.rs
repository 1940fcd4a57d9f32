//! A load: one transaction of data and checkpoint.
//!
//! | module | what it is for |
//! |---|---|
//! | `chunk`, `copy` | rows of chunks by COPY, straight into the table or through a staging table |
//! | `changes` | what is in a part of changes, and which way it goes |
//! | `arrays` | small parts: array parameters, sent together with the commit |
//! | `staged`, `stage` | large parts: COPY into a staging table, then set statements; inserts by COPY straight in |
//! | `keyless` | tables without a row key: one change after the other |
//! | `offer` | parts that may be refused, behind a savepoint |
//! | `sql` | the statements that `arrays` and `staged` share |
//!
//! Statements of small parts wait until the commit, or until something must run after them; then all of them travel
//! together. The transaction begins with the first of them.

mod arrays;
mod changes;
mod chunk;
mod copy;
mod keyless;
mod offer;
mod sql;
mod stage;
mod staged;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use syncline_core::{
    Counts, Delta, Durable, Error, ErrorKind, Load, Part, Result, RowKey, TableId, TableSchema, failpoint,
};

use super::super::error::from_client;
use super::super::quote::table as quoted;
use super::bookkeeping;
use super::delta::{self, Step};
use super::flight::{self, Answer, Request};
use super::prepare::empty_statement;
use super::session::Pipeline;
use super::sessions::{Lease, Purpose};
use super::shape::{Shape, VERIFY};

/// Parameters that may wait for the commit.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Statements that may wait for the commit.
const WAITING_MAX: usize = 256;

const FOREIGN_KEY_REMEDY: &str = "let the user switch foreign keys off for its loads: as a superuser, GRANT SET ON \
    PARAMETER session_replication_role TO the user; or drop the foreign key at the destination";

/// A load in progress.
pub(super) struct PostgresLoad {
    pipeline: Arc<Pipeline>,
    lease: Lease,
    begun: bool,
    /// A chunk's COPY that more pieces may follow.
    copy: Option<chunk::ChunkCopy>,
    waiting: Vec<Waiting>,
    waiting_bytes: usize,
    tally: Tally,
    missing: Vec<(TableId, RowKey)>,
    /// Tables with parts in this load.
    written: HashSet<TableId>,
    /// Tables emptied by this load: nothing in them is kept.
    emptied: HashSet<TableId>,
    /// Staging tables this transaction has rows in.
    stages_used: HashSet<String>,
    /// Whether an offer checks what waits for the commit.
    checks_offers: bool,
}

/// What the load has done so far.
#[derive(Clone, Copy, Default)]
struct Tally {
    /// Changes taken.
    changes: u64,
    /// Rows of chunks.
    loaded: u64,
    /// Of the changes: written or deleted.
    applied: u64,
    /// Of the changes: put on the re-read list.
    rereads: u64,
}

/// A statement that waits.
struct Waiting {
    request: Request,
    expects: Expects,
    shape: Arc<Shape>,
}

/// What the answer of a statement says.
enum Expects {
    /// Nothing that counts.
    Nothing,
    /// As many changes were applied as rows were touched.
    Applied,
    /// Numbers (from 1) of keys that have no row to take absent columns from.
    Missing(Vec<RowKey>),
}

impl PostgresLoad {
    pub(super) fn new(pipeline: &Arc<Pipeline>, lease: Lease) -> Self {
        Self {
            pipeline: Arc::clone(pipeline),
            lease,
            begun: false,
            copy: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            tally: Tally::default(),
            missing: Vec::new(),
            written: HashSet::new(),
            emptied: HashSet::new(),
            stages_used: HashSet::new(),
            checks_offers: false,
        }
    }

    async fn shape(&self, table: &Arc<TableSchema>) -> Result<Arc<Shape>> {
        self.pipeline.shapes.get(self.lease.client()?, &self.pipeline, table).await
    }

    /// Lets a prepared statement wait for the commit.
    async fn wait(
        &mut self,
        shape: &Arc<Shape>,
        sql: &str,
        params: Vec<flight::Param>,
        expects: Expects,
    ) -> Result<()> {
        let bytes: usize = params.iter().map(flight::Param::len).sum();
        if self.waiting.len() >= WAITING_MAX || self.waiting_bytes + bytes > WAITING_BYTES_MAX {
            self.flush().await?;
        }
        let prepared = self.lease.worker()?.statement(sql).await;
        let statement = match prepared {
            Ok(statement) => statement,
            Err(error) => return Err(self.failed(shape, error, "writing changes").await),
        };
        let request = match expects {
            Expects::Missing(_) => Request::Query(statement, params),
            Expects::Nothing | Expects::Applied => Request::Execute(statement, params),
        };
        self.waiting_bytes += bytes;
        self.waiting.push(Waiting { request, expects, shape: Arc::clone(shape) });
        Ok(())
    }

    /// Sends what waits and reads all answers. The transaction has begun afterwards.
    async fn flush(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() && self.begun {
            return Ok(());
        }
        self.waiting_bytes = 0;
        let (mut requests, expected) = self.departing(waiting);
        if !self.begun {
            requests.insert(0, self.begin()?);
        }
        let mut answers = flight::send(self.lease.client()?, requests).await.into_iter();
        if !self.begun {
            began(answers.next())?;
            self.begun = true;
        }
        for ((expects, shape), answer) in expected.into_iter().zip(answers) {
            self.settle(expects, &shape, answer).await?;
        }
        Ok(())
    }

    /// The transaction's beginning. Foreign keys that cannot be switched off are checked at its end: parts come table by
    /// table, so a child may be written before its parent.
    fn begin(&mut self) -> Result<Request> {
        let replica = self.lease.worker()?.is_replica();
        let begin = if replica { "BEGIN" } else { "BEGIN; SET CONSTRAINTS ALL DEFERRED" };
        Ok(Request::Batch(begin.to_owned()))
    }

    /// The statements that empty a table. It cannot be truncated while checks of its rows wait for the commit.
    fn emptying(&mut self, shape: &Shape) -> Result<String> {
        let waits = shape.refers && !self.lease.worker()?.is_replica();
        let target = self.pipeline.map.map(&shape.table.id);
        Ok(empty_statement(&target, shape.referenced || waits))
    }

    fn departing(&self, waiting: Vec<Waiting>) -> (Vec<Request>, Vec<(Expects, Arc<Shape>)>) {
        waiting.into_iter().map(|w| (w.request, (w.expects, w.shape))).unzip()
    }

    /// Counts an answer, or tells why there is none.
    async fn settle(
        &mut self,
        expects: Expects,
        shape: &Arc<Shape>,
        answer: Result<Answer, tokio_postgres::Error>,
    ) -> Result<()> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Err(self.failed(shape, error, "writing changes").await),
        };
        match (expects, answer) {
            (Expects::Applied, Answer::Touched(rows)) => self.tally.applied += rows,
            (Expects::Missing(keys), Answer::Rows(rows)) => {
                for row in rows {
                    let number = usize::try_from(row.get::<_, i64>(0) - 1).ok();
                    let key = number.and_then(|number| keys.get(number));
                    let key =
                        key.ok_or_else(|| Error::bug("the server counted more keys than it was sent"))?;
                    self.missed(shape, key.clone());
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn missed(&mut self, shape: &Shape, key: RowKey) {
        self.tally.rereads += 1;
        self.missing.push((shape.table.id.clone(), key));
    }

    /// Lets the proof wait that COPY met the columns it was meant for.
    async fn verify(&mut self, shape: &Arc<Shape>) -> Result<()> {
        let params =
            vec![flight::Param::bytes(&shape.oid.to_be_bytes()), flight::Param::text(&shape.signature)];
        self.wait(shape, VERIFY, params, Expects::Nothing).await
    }

    /// Runs statements that answer nothing of interest.
    async fn batch(&mut self, shape: &Arc<Shape>, sql: &str, doing: &str) -> Result<()> {
        self.flush().await?;
        match self.lease.client()?.batch_execute(sql).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(shape, error, doing).await),
        }
    }

    /// The error of a statement about a table. One that the table's own change explains may be tried again.
    async fn failed(&self, shape: &Arc<Shape>, error: tokio_postgres::Error, doing: &str) -> Error {
        let error = explain_foreign_key(from_client(error, doing)).with_table(&shape.table.id);
        let explainable =
            matches!(error.kind(), ErrorKind::Data | ErrorKind::Permanent | ErrorKind::Configuration);
        if !explainable {
            return error;
        }
        let Ok(lease) = self.pipeline.sessions.lease(Purpose::Definition).await else { return error };
        let Ok(client) = lease.client() else { return error };
        let changed = self.pipeline.shapes.changed(client, &self.pipeline, shape).await;
        lease.give_back();
        match changed {
            Ok(true) => {
                let code = error.code().unwrap_or_default().to_owned();
                Error::new(ErrorKind::Retriable, "the destination's table was changed while it was loaded")
                    .with_table(&shape.table.id)
                    .with_code(code)
                    .with_source(error)
            }
            Err(misfit) if misfit.kind() == ErrorKind::Configuration => misfit.with_source(error),
            Ok(false) | Err(_) => error,
        }
    }

    async fn empty(&mut self, table: &Arc<TableSchema>) -> Result<()> {
        let shape = self.shape(table).await?;
        let statement = self.emptying(&shape)?;
        self.batch(&shape, &statement, "emptying the table").await?;
        if shape.kept {
            bookkeeping::nothing_kept(self.lease.client()?, &self.pipeline.name, &table.id).await?;
        }
        self.emptied.insert(table.id.clone());
        Ok(())
    }

    /// Whether rows of chunks must be merged with rows that were there before.
    fn is_kept(&self, shape: &Shape) -> bool {
        shape.kept && !self.emptied.contains(&shape.table.id)
    }

    /// Every step of the delta with what the load itself adds to it; the fence is the last.
    fn steps(&self, delta: &Delta) -> Result<Vec<Step>> {
        let pipeline = &self.pipeline;
        let rows = self.tally.loaded + self.tally.changes;
        let mut steps = delta::steps(&pipeline.name, &pipeline.map, delta, rows)?;
        let mut missing = self.missing.clone();
        missing.sort();
        for keys in missing.chunk_by(|left, right| left.0 == right.0) {
            let table = &keys[0].0;
            let keys: Vec<_> = keys.iter().map(|(_, key)| key.clone()).collect();
            steps.push(delta::add_reread(&pipeline.name, table, &keys));
        }
        Ok(delta::fenced(steps, &pipeline.name, pipeline.fence))
    }

    fn refuse_missing(&self, delta: &Delta) -> Result<()> {
        match self.missing.first() {
            Some((table, _)) if !delta.reread_missing => Err(Error::new(
                ErrorKind::Data,
                "a change leaves out columns of a row that the destination does not have",
            )
            .with_table(table)
            .with_remedy(
                "the table has drifted from its source: start over with `syncline drop NAME`, then sync with --prepare truncate",
            )),
            _ => Ok(()),
        }
    }

    /// The error of a step that was refused. What another holder did to the checkpoint is the fence's business.
    async fn refused(&self, refusal: delta::Refusal) -> Error {
        let Ok(lease) = self.pipeline.sessions.lease(Purpose::Definition).await else {
            return refusal.into_error();
        };
        let Ok(client) = lease.client() else { return refusal.into_error() };
        let ours = bookkeeping::is_ours(client, &self.pipeline.name, self.pipeline.fence).await;
        lease.give_back();
        match ours {
            Err(fenced) if fenced.kind() == ErrorKind::Fenced => fenced,
            Ok(()) | Err(_) => refusal.into_error(),
        }
    }

    /// Sends what waits, the delta, the fence and the commit together, and judges the answers in order: the first that
    /// failed is the reason, the rest are its echo.
    async fn depart(&mut self, steps: Vec<Step>) -> Result<()> {
        let mut requests = Vec::with_capacity(self.waiting.len() + steps.len() + 2);
        let mut refusals = Vec::with_capacity(steps.len());
        for step in steps {
            let prepared = self.lease.worker()?.statement(step.sql).await;
            let statement = prepared.map_err(|error| from_client(error, "preparing the commit"))?;
            requests.push(Request::Execute(statement, step.params));
            refusals.push(step.misfit);
        }
        let waiting = std::mem::take(&mut self.waiting);
        let (mut all, expected) = self.departing(waiting);
        if !self.begun {
            all.insert(0, self.begin()?);
        }
        all.extend(requests);
        all.push(Request::Batch("COMMIT".to_owned()));
        let mut answers = flight::send(self.lease.client()?, all).await.into_iter();
        if !self.begun {
            began(answers.next()).map_err(unknown_if_lost)?;
        }
        for (expects, shape) in expected {
            let answer = answers.next().ok_or_else(|| Error::bug("an answer is missing"))?;
            self.settle(expects, &shape, answer).await.map_err(unknown_if_lost)?;
        }
        for refusal in refusals {
            match answers.next() {
                Some(Ok(_)) => {}
                Some(Err(error)) if is_refusal(&error) => return Err(self.refused(refusal).await),
                Some(Err(error)) => {
                    return Err(unknown_if_lost(from_client(error, "changing the checkpoint")));
                }
                None => return Err(Error::bug("an answer is missing")),
            }
        }
        match answers.next() {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => {
                let table = self.table_of_constraint(&error);
                let error = explain_foreign_key(commit_error(error));
                Err(match table {
                    Some(table) => error.with_table(&table),
                    None => error,
                })
            }
            None => Err(Error::bug("an answer is missing")),
        }
    }
}

impl PostgresLoad {
    /// The table of this load whose constraint, checked at the commit, refused it. A table that the load did not write
    /// cannot be stopped by it.
    fn table_of_constraint(&self, error: &tokio_postgres::Error) -> Option<TableId> {
        let said = error.as_db_error()?;
        let target = TableId::new(said.schema()?, said.table()?);
        self.pipeline.shapes.table_at(&quoted(&target)).filter(|table| self.written.contains(table))
    }
}

fn table_of(part: &Part) -> &TableId {
    match part {
        Part::Bulk { table, .. } | Part::Rows { table, .. } | Part::Empty(table) => &table.id,
        Part::Changes(batch) => &batch.table.id,
    }
}

fn began(answer: Option<Result<Answer, tokio_postgres::Error>>) -> Result<()> {
    match answer {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(from_client(error, "beginning a transaction")),
        None => Err(Error::bug("an answer is missing")),
    }
}

/// The checkpoint is not where the delta expects it; for the owner of a table the unique index says so.
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code() == delta::MISFIT || code.code() == "23505")
}

/// The commit was on its way when the connection was lost without a word from the server: it may have arrived.
fn unknown_if_lost(error: Error) -> Error {
    let lost = error.kind() == ErrorKind::Retriable && error.code().is_none();
    if lost { unknown(error) } else { error }
}

fn unknown(error: Error) -> Error {
    Error::new(ErrorKind::Unknown, "the answer to a commit was lost").with_source(error)
}

/// The error of the commit itself: what a constraint says is certain, what ends the connection is not.
fn commit_error(error: tokio_postgres::Error) -> Error {
    let said = error.code().map(|code| code.code().to_owned());
    let error = from_client(error, "committing");
    match said {
        Some(code) if !code.starts_with("57") && !code.starts_with("08") => error,
        _ => unknown(error),
    }
}

/// A foreign key refused a row, which only happens where it could not be switched off.
fn explain_foreign_key(error: Error) -> Error {
    let refused = error.code() == Some("23503");
    if refused { error.with_remedy(FOREIGN_KEY_REMEDY) } else { error }
}

#[async_trait]
impl Load for PostgresLoad {
    async fn write(&mut self, part: Part) -> Result<()> {
        self.written.insert(table_of(&part).clone());
        match part {
            Part::Bulk { table, bulk } => self.write_bulk(&table, bulk).await,
            Part::Rows { table, rows } => self.write_rows(&table, &rows).await,
            Part::Empty(table) => {
                self.finish_copy().await?;
                self.empty(&table).await
            }
            Part::Changes(batch) => {
                self.finish_copy().await?;
                self.write_changes(&batch).await
            }
        }
    }

    async fn offer(&mut self, part: Part) -> Result<Option<Error>> {
        self.written.insert(table_of(&part).clone());
        self.finish_copy().await?;
        offer::offer(self, &part).await
    }

    async fn check_now(&mut self) -> Result<Option<Error>> {
        offer::check_now(self).await
    }

    async fn commit(mut self: Box<Self>, delta: &Delta) -> Result<Durable> {
        self.finish_copy().await?;
        // Which rows are missing decides what the checkpoint becomes, so it must be known before the commit leaves.
        if self.waiting.iter().any(|waiting| matches!(waiting.expects, Expects::Missing(_))) {
            self.flush().await?;
        }
        self.refuse_missing(delta)?;
        let steps = self.steps(delta)?;
        failpoint::hit("before_commit")?;
        self.depart(steps).await?;
        failpoint::hit("load_committed")?;
        for table in &self.emptied {
            self.pipeline.shapes.forget(table);
        }
        let Self { lease, tally, missing, .. } = *self;
        lease.give_back();
        let unchanged = tally.changes.checked_sub(tally.applied + tally.rereads);
        let unchanged =
            unchanged.ok_or_else(|| Error::bug("the server touched more rows than there were changes"))?;
        let counts = Counts { applied: tally.applied + tally.loaded, unchanged, rereads: tally.rereads };
        Ok(Durable { counts, rereads: missing })
    }
}
