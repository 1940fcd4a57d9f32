//! The loader: takes from the journal whatever waits and brings it to the destination, lane by lane.
//!
//! Natural batching: while a load is in flight the next one accumulates; when it is done, everything waiting is the next
//! load, up to a byte target. One loader per run; loads of different lanes follow each other, chunks run beside it.

pub(crate) mod closing;
pub(crate) mod fill;
pub(crate) mod mending;
mod parts;
mod pressure;
mod reread;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use syncline_core::{
    Change, Delta, Error, ErrorKind, FinishStep, Lane, LoadKind, Position, Reaction, Result, TableId,
    TablePhase, failpoint,
};
use syncline_journal::{Journal, Need};

use crate::attempt::Attempt;
use crate::lane::LaneReader;
use crate::letters::care::Care;
use crate::letters::retry;
use crate::loader::closing::{Closing, Task};
use crate::loader::fill::Filled;
use crate::loader::pressure::Pressure;
use crate::progress::Phase;
use crate::summary::Sum;

/// How long a range without changes may wait for its commit.
const PROGRESS_COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How often the source is asked whether it still captures every table.
const WATCH_EVERY_MS: u64 = 30_000;
/// How often the journal hears what is still needed.
const RETAIN_EVERY: Duration = Duration::from_millis(200);

/// The loader of an attempt.
pub(crate) struct Loader {
    attempt: Arc<Attempt>,
    journal: Journal,
    main: LaneReader,
    /// Lanes of tables in their window, of tables that wait, and of tables that come back.
    apart: BTreeMap<TableId, LaneReader>,
    closing: BTreeMap<TableId, Closing>,
    /// Tables whose lane has passed the window of every chunk: ledger entries below this number are history.
    settled: BTreeMap<TableId, u32>,
    /// Parts that are being read into their tables.
    joining: BTreeMap<TableId, Task<()>>,
    /// What tables are made of is to be looked at now.
    parts_due: bool,
    pressure: Pressure,
    foreign_keys_done: bool,
    progress_committed_at: Instant,
    retained_at: Instant,
    watched_at: Instant,
    /// The tables apart at the last `retain`, in the order in which the journal counts them.
    retained: Vec<TableId>,
}

/// Runs until the target is reached, or the run drains.
pub(crate) async fn run(attempt: Arc<Attempt>) -> Result<()> {
    let mut loader = Loader::new(attempt)?;
    let ended = loader.run().await;
    loader.retain().await?;
    ended
}

impl Loader {
    fn new(attempt: Arc<Attempt>) -> Result<Self> {
        let journal =
            attempt.context.open_journal().ok_or_else(|| Error::bug("a loader without a journal"))?;
        let lanes = attempt.checkpoint().lanes.clone();
        let at = lanes.get(&Lane::Main).ok_or_else(|| Error::bug("a loader without a main lane"))?;
        let main = LaneReader::new(&journal, Lane::Main, at);
        let apart = lanes
            .iter()
            .filter_map(|(lane, at)| match lane {
                Lane::Table(id) => Some((id.clone(), LaneReader::new(&journal, lane.clone(), at))),
                Lane::Main => None,
            })
            .collect();
        let now = Instant::now();
        Ok(Self {
            attempt,
            journal,
            main,
            apart,
            closing: BTreeMap::new(),
            settled: BTreeMap::new(),
            joining: BTreeMap::new(),
            parts_due: true,
            pressure: Pressure::default(),
            foreign_keys_done: false,
            progress_committed_at: now,
            retained_at: now,
            watched_at: now,
            retained: Vec::new(),
        })
    }

    async fn run(&mut self) -> Result<()> {
        self.resume_joining();
        retry::of_earlier_runs(&self.attempt).await?;
        loop {
            self.attempt.watch.turn(&self.main.passed);
            if self.attempt.context.control.draining().is_cancelled() {
                self.attempt.context.board.phase(Phase::Draining);
                return self.commit_progress().await;
            }
            self.mark_undecodable().await?;
            self.step_joining().await?;
            if self.parts_due {
                self.look_at_parts().await?;
            }
            let mut worked = self.load_main().await?;
            worked |= self.step_tables().await?;
            worked |= self.relieve().await?;
            worked |= self.reread_of_main().await?;
            self.step_mending().await?;
            self.housekeeping().await?;
            if self.is_done().await? {
                return self.commit_progress().await;
            }
            if !worked {
                self.wait().await?;
            }
        }
    }

    /// Waits for changes, for a table's phase, or for the next bit of housekeeping.
    async fn wait(&mut self) -> Result<()> {
        let busy = !self.closing.is_empty() || self.pressure.is_building();
        let pause = if busy { Duration::from_millis(10) } else { RETAIN_EVERY };
        let attempt = Arc::clone(&self.attempt);
        tokio::select! {
            waited = self.main.wait() => waited,
            () = attempt.changed.notified() => Ok(()),
            () = attempt.context.control.draining().cancelled() => Ok(()),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// Tables whose changes the main lane leaves alone.
    fn apart_ids(&self) -> BTreeSet<TableId> {
        self.apart.keys().cloned().collect()
    }

    async fn load_main(&mut self) -> Result<bool> {
        // While a table is apart, the main lane may not run ahead of what the journal has on disk: after a crash the
        // journal must still join every lane to the source without a gap and without cutting an entry.
        self.journal.set_urgent(!self.apart.is_empty());
        let limit = if self.apart.is_empty() { None } else { Some(self.journal.durable().borrow().clone()) };
        let mut care = Care::Usual;
        loop {
            let error = match self.load_range(limit.as_ref(), &care).await {
                Err(error) => error,
                loaded => return loaded,
            };
            care = match care.after(&self.attempt, &error) {
                Some(more) => more,
                None => return self.set_apart(error).await,
            };
            self.main.rewind(&self.journal);
        }
    }

    async fn load_range(&mut self, limit: Option<&Position>, care: &Care) -> Result<bool> {
        let attempt = Arc::clone(&self.attempt);
        let apart = self.apart_ids();
        let filled = fill::fill(&attempt, &self.journal, &mut self.main, &apart, None, limit, care).await?;
        match filled {
            None => Ok(false),
            Some(filled) if filled.is_progress() => Ok(true),
            Some(filled) => self.commit_main(filled).await.map(|()| true),
        }
    }

    async fn commit_main(&mut self, filled: Filled) -> Result<()> {
        let attempt = Arc::clone(&self.attempt);
        filled.commit(&attempt, &mut self.main, Vec::new()).await?;
        self.progress_committed_at = Instant::now();
        self.show_position();
        Ok(())
    }

    /// A load of the main lane failed. If that is one table's fault, the table goes apart and waits; the others go on.
    async fn set_apart(&mut self, error: Error) -> Result<bool> {
        let Some(error) = self.attempt.make_missing_part(error).await? else {
            self.main.rewind(&self.journal);
            self.parts_due = true;
            return Ok(true);
        };
        let table = match error.table() {
            Some(table) if error.kind().reaction() == Reaction::StopTable => table.clone(),
            _ => return Err(error),
        };
        self.attempt.context.board.stop_table(&table, &error);
        self.main.rewind(&self.journal);
        let lane = Lane::Table(table.clone());
        let at = self.main.committed.clone();
        let open = Change::Open { lane: lane.clone(), at: at.clone() };
        self.attempt.commit_changes(lane.clone(), vec![open]).await?;
        self.apart.insert(table, LaneReader::new(&self.journal, lane, &at));
        Ok(true)
    }

    /// Commits ranges without changes that the main lane has passed.
    async fn commit_progress(&mut self) -> Result<()> {
        self.progress_committed_at = Instant::now();
        if self.main.passed == self.main.committed {
            return Ok(());
        }
        let (from, to) = (self.main.committed.clone(), self.main.passed.clone());
        let kind = LoadKind::Changes { from: from.clone(), to: to.clone() };
        let load = self.attempt.begin(Lane::Main, kind).await?;
        let delta = Delta::of(vec![Change::Advance { lane: Lane::Main, from, to: to.clone() }]);
        self.attempt.commit(load, &delta).await?;
        self.main.committed = to;
        self.show_position();
        Ok(())
    }

    /// Tables whose changes no longer come are marked before anything later is loaded; see [`crate::reader`].
    async fn mark_undecodable(&mut self) -> Result<()> {
        let tables =
            std::mem::take(&mut *self.attempt.undecodable.lock().unwrap_or_else(PoisonError::into_inner));
        for table in tables {
            self.let_go(&table).await?;
        }
        self.attempt.marked.notify_waiters();
        Ok(())
    }

    /// Gives a table up: durably marked, its lane closed, what waited for it counted.
    async fn let_go(&mut self, table: &TableId) -> Result<()> {
        let attempt = Arc::clone(&self.attempt);
        let _phases = attempt.phases.lock().await;
        let generation = self.attempt.table_state(table).map_or(1, |state| state.generation);
        let mut changes = Vec::new();
        let mut lost = Sum::default();
        if let Some(mut reader) = self.apart.remove(table) {
            lost = fill::count_waiting(&self.attempt, &self.journal, &mut reader, &self.main.passed).await?;
            changes.push(Change::Close { lane: reader.lane.clone(), at: reader.committed.clone() });
        }
        self.closing.remove(table);
        self.joining.remove(table);
        changes.push(Change::Mark { table: table.clone(), phase: TablePhase::NeedsSnapshot, generation });
        self.attempt.commit_changes(Lane::Table(table.clone()), changes).await?;
        self.attempt.context.board.tally(|sum| {
            sum.read += lost.read;
            sum.let_go += lost.let_go;
        });
        Ok(())
    }

    async fn housekeeping(&mut self) -> Result<()> {
        if self.progress_committed_at.elapsed() >= PROGRESS_COMMIT_EVERY {
            self.commit_progress().await?;
        }
        if self.retained_at.elapsed() >= RETAIN_EVERY {
            self.retain().await?;
            self.let_go_if_pinning().await?;
        }
        let watch_every = Duration::from_millis(failpoint::size("watch_every_ms", WATCH_EVERY_MS));
        if self.watched_at.elapsed() >= watch_every {
            self.watch_capture().await?;
            self.parts_due = true;
        }
        Ok(())
    }

    /// Stops tables whose changes silently no longer come: a table that is dropped, or dropped and made again, leaves the
    /// source's log without a word.
    async fn watch_capture(&mut self) -> Result<()> {
        self.watched_at = Instant::now();
        let attempt = Arc::clone(&self.attempt);
        let context = &attempt.context;
        let Some(streams) = context.pipeline.source.streams() else { return Ok(()) };
        let Some(captured) = streams.captured(&context.pipeline.name).await? else { return Ok(()) };
        let is_lost = |id: &&TableId| {
            !captured.contains(*id)
                && attempt.phase_of(id).is_some_and(|phase| phase != TablePhase::NeedsSnapshot)
        };
        let lost: Vec<TableId> = attempt.tables.keys().filter(is_lost).cloned().collect();
        for table in lost {
            let error = Error::new(
                ErrorKind::Data,
                "its changes no longer come: it was dropped, made again, or taken out of what is captured",
            )
            .with_table(&table)
            .with_remedy("if the table is still wanted, run again with --prepare truncate");
            context.board.stop_table(&table, &error);
            self.let_go(&table).await?;
        }
        Ok(())
    }

    /// Tells the journal what is still needed; the main lane comes first.
    async fn retain(&mut self) -> Result<()> {
        self.retained_at = Instant::now();
        let apart = self.apart_ids();
        let need = |lane: &LaneReader| Need { after: lane.committed.clone(), tables: lane.interest(&apart) };
        let needs = std::iter::once(&self.main).chain(self.apart.values()).map(need).collect();
        self.retained = self.apart.keys().cloned().collect();
        self.journal.retain(needs).await
    }

    fn show_position(&self) {
        if let Some(streams) = self.attempt.context.pipeline.source.streams() {
            let shown = streams.show(&self.main.committed);
            self.attempt.context.board.edit(|progress| progress.position = Some(shown));
        }
    }

    /// Whether everything that was committed when the run started is at the destination, and every table is consistent
    /// or stopped.
    async fn is_done(&mut self) -> Result<bool> {
        let board = &self.attempt.context.board;
        let unfinished = self.apart.keys().any(|id| !board.is_stopped(id));
        if unfinished || self.parts_due || self.attempt.is_recovering() {
            return Ok(false);
        }
        self.create_foreign_keys().await?;
        let context = &self.attempt.context;
        context.board.phase(Phase::Streaming);
        let reached = context.target.get().is_some_and(|target| self.main.passed >= *target);
        let must_go_on = context.pipeline.follow || context.must_verify();
        Ok(!must_go_on && reached && self.rows_to_read_again().is_empty())
    }

    /// Whether rows are set aside, which others may refer to.
    fn has_letters(&self) -> bool {
        !self.attempt.checkpoint().letters.is_empty()
    }

    /// Foreign keys come when all tables are consistent. Those that miss a row that is set aside come in a later run.
    async fn create_foreign_keys(&mut self) -> Result<()> {
        if self.foreign_keys_done || !self.attempt.context.pipeline.mode.snapshots() {
            return Ok(());
        }
        self.foreign_keys_done = true;
        for table in self.attempt.tables_in(TablePhase::Consistent) {
            if let Err(error) = self.attempt.session.finish(&table, FinishStep::ForeignKeys).await {
                match error.kind().reaction() {
                    Reaction::StopTable if error.breaks_reference() && self.has_letters() => {
                        tracing::warn!(error = %error, table = %table.id, "a foreign key waits for dead letters");
                    }
                    Reaction::StopTable => {
                        self.attempt.context.board.stop_table(&table.id, &error.with_table(&table.id));
                    }
                    Reaction::Retry | Reaction::EndRun => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// The end of the source's log right now, as a limit for a window.
pub(crate) async fn source_end(attempt: &Attempt) -> Result<Position> {
    let source = Arc::clone(&attempt.context.pipeline.source);
    let streams = source.streams().ok_or_else(|| Error::bug("a window without a stream"))?;
    streams.end().await
}
