//! What the tasks of one attempt share: the session, the tables, and the checkpoint as it stands after every commit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use syncline_core::error::MISSING_PART;
use syncline_core::{
    Change, Checkpoint, Delta, DestinationSession, Durable, Error, Lane, LetterId, Load, LoadIdentity,
    LoadKind, Parts, Position, Reaction, Result, RowKey, TableId, TablePhase, TableSchema, TableState,
};
use syncline_journal::Journal;
use tokio::sync::{Notify, RwLock};

use crate::board::Board;
use crate::control::Control;
use crate::letters::clerk::{Clerk, Pending};
use crate::letters::desk::Desk;
use crate::loader::mending::Mending;
use crate::pipeline::Pipeline;
use crate::summary::Sum;
use crate::verify::{Verified, Watch, When};

/// What lasts for a whole run, whatever its attempts do.
pub(crate) struct Context {
    pub(crate) pipeline: Pipeline,
    pub(crate) control: Control,
    pub(crate) board: Board,
    /// The journal of the attempt under way. Each attempt opens it anew: opening cuts the pieces of a transaction that
    /// broke off, which the source sends again.
    pub(crate) journal: Mutex<Option<Journal>>,
    /// Where the journal ended when this run opened it: what a lane takes up to there was read by an earlier run.
    pub(crate) carried: std::sync::OnceLock<Position>,
    /// What the run must reach to be done; fixed by the first attempt.
    pub(crate) target: std::sync::OnceLock<Position>,
    /// A commit whose answer is out, with what to add to the sum if it stands.
    pub(crate) in_doubt: Mutex<Option<(Delta, Sum)>>,
    /// Where the lanes stood after the last commit, for the sum when no attempt is open any more.
    pub(crate) lanes: Mutex<BTreeMap<Lane, Position>>,
    /// The source's end of log as last heard.
    pub(crate) source_end: Mutex<Option<Position>>,
    /// The last verification.
    pub(crate) verified: Mutex<Option<Verified>>,
}

impl Context {
    /// The journal of the attempt under way, if it streams.
    pub(crate) fn open_journal(&self) -> Option<Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last verification of this run.
    pub(crate) fn last_verified(&self) -> MutexGuard<'_, Option<Verified>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the run must not end before it was verified.
    pub(crate) fn must_verify(&self) -> bool {
        let is_asked = self.pipeline.verify.as_ref().is_some_and(|verify| verify.when == When::Once);
        is_asked && self.last_verified().is_none()
    }

    /// Takes the journal away, to close it.
    pub(crate) fn take_journal(&self) -> Option<Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Transactions a lane has applied lately, by the source's numbers. A read that goes beside the stream must have seen
/// them. Older ones than these were visible long ago: visibility lags a commit's place in the log by moments.
#[derive(Default)]
pub(crate) struct Applied(VecDeque<u64>);

/// Most transactions remembered per table (2 MiB).
const APPLIED_MAX: usize = 1 << 18;

impl Applied {
    pub(crate) fn add(&mut self, transactions: impl IntoIterator<Item = u64>) {
        self.0.extend(transactions);
        self.0.drain(..self.0.len().saturating_sub(APPLIED_MAX));
    }

    pub(crate) fn transactions(&self) -> Vec<u64> {
        self.0.iter().copied().collect()
    }
}

/// One try inside a run, opened.
pub(crate) struct Attempt {
    pub(crate) context: Arc<Context>,
    pub(crate) session: Arc<dyn DestinationSession>,
    pub(crate) tables: BTreeMap<TableId, Arc<TableSchema>>,
    /// Who may move a table's lane, and what it has applied in its window. Chunk loads hold it shared.
    pub(crate) windows: BTreeMap<TableId, Arc<RwLock<Applied>>>,
    /// What `Streams::settled` needs; `None` without a stream.
    pub(crate) origin: Option<syncline_core::Origin>,
    /// Held while a table's phase is looked at and changed.
    pub(crate) phases: tokio::sync::Mutex<()>,
    /// Wakes the loader: a table's phase changed.
    pub(crate) changed: Notify,
    /// Tables whose changes no longer come; the loader marks them before anything later is appended.
    pub(crate) undecodable: Mutex<Vec<TableId>>,
    /// Wakes the reader: such a mark is durable.
    pub(crate) marked: Notify,
    /// What a verification watches.
    pub(crate) watch: Watch,
    /// How far the recovery of tables has come.
    pub(crate) mending: Mending,
    /// Letters that open loads are about to put.
    pub(crate) pending_letters: Mutex<Pending>,
    checkpoint: Mutex<Checkpoint>,
    /// The number of the next letter.
    next_letter: AtomicU64,
}

impl Attempt {
    pub(crate) fn new(
        context: Arc<Context>,
        session: Arc<dyn DestinationSession>,
        tables: BTreeMap<TableId, Arc<TableSchema>>,
        origin: Option<syncline_core::Origin>,
        checkpoint: Checkpoint,
    ) -> Self {
        // Also what a commit of unknown outcome has done is in it.
        context.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&checkpoint.lanes);
        let windows = tables.keys().map(|id| (id.clone(), Arc::default())).collect();
        Self {
            context,
            session,
            tables,
            windows,
            origin,
            phases: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            undecodable: Mutex::default(),
            marked: Notify::new(),
            watch: Watch::default(),
            mending: Mending::default(),
            pending_letters: Mutex::default(),
            next_letter: AtomicU64::new(checkpoint.letters.keys().next_back().map_or(1, |last| last.0 + 1)),
            checkpoint: Mutex::new(checkpoint),
        }
    }

    /// The checkpoint after the last commit.
    pub(crate) fn checkpoint(&self) -> MutexGuard<'_, Checkpoint> {
        self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn table_state(&self, table: &TableId) -> Option<TableState> {
        self.checkpoint().tables.get(table).cloned()
    }

    pub(crate) fn lane_at(&self, lane: &Lane) -> Option<Position> {
        self.checkpoint().lanes.get(lane).cloned()
    }

    pub(crate) fn phase_of(&self, table: &TableId) -> Option<TablePhase> {
        self.checkpoint().tables.get(table).map(|state| state.phase)
    }

    /// Whether a table's changes are in the main lane, and its rows come by nothing else but re-reads.
    pub(crate) fn is_in_main_lane(&self, table: &TableId) -> bool {
        let checkpoint = self.checkpoint();
        let settled = |phase| matches!(phase, TablePhase::Consistent | TablePhase::Recovering);
        checkpoint.tables.get(table).is_some_and(|state| settled(state.phase))
            && !checkpoint.lanes.contains_key(&Lane::Table(table.clone()))
            && !self.context.board.is_stopped(table)
    }

    /// Whether rows of a table are to be read again.
    pub(crate) fn lists_rows(&self, table: &TableId) -> bool {
        self.checkpoint().tables.get(table).is_some_and(|state| !state.rereads.is_empty())
    }

    /// Whether tables are being recovered.
    pub(crate) fn is_recovering(&self) -> bool {
        !self.tables_in(TablePhase::Recovering).is_empty()
    }

    /// A number that no letter has.
    pub(crate) fn next_letter(&self) -> LetterId {
        LetterId(self.next_letter.fetch_add(1, Ordering::Relaxed))
    }

    /// The keys that wait behind a table's dead letters.
    pub(crate) fn keys_set_aside(&self, table: &TableId) -> BTreeSet<RowKey> {
        let checkpoint = self.checkpoint();
        let letters = checkpoint.letters.values().filter(|letter| letter.table == *table);
        letters.flat_map(|letter| letter.keys.iter().cloned()).collect()
    }

    /// A table's dead letters, `None` if it has none.
    pub(crate) fn desk(&self, table: &TableId) -> Result<Option<Desk>> {
        let checkpoint = self.checkpoint();
        if !checkpoint.letters.values().any(|letter| letter.table == *table) {
            return Ok(None);
        }
        Desk::open(table, &checkpoint.letters).map(Some)
    }

    /// Whether rows of any table are to be read again.
    pub(crate) fn has_rereads(&self) -> bool {
        self.checkpoint().tables.values().any(|state| !state.rereads.is_empty())
    }

    /// A table's state with the entries of its ledger from a number on, and without its re-read list.
    pub(crate) fn ledger_since(&self, table: &TableId, n: u32) -> Option<TableState> {
        let checkpoint = self.checkpoint();
        let state = checkpoint.tables.get(table)?;
        Some(TableState {
            phase: state.phase,
            generation: state.generation,
            chunks: state.chunks.range(n..).map(|(n, entry)| (*n, entry.clone())).collect(),
            rereads: BTreeSet::new(),
            parts: state.parts.clone(),
        })
    }

    /// Tables in a phase that have not stopped.
    pub(crate) fn tables_in(&self, phase: TablePhase) -> Vec<Arc<TableSchema>> {
        let checkpoint = self.checkpoint();
        let in_phase = |id: &TableId| checkpoint.tables.get(id).is_some_and(|state| state.phase == phase);
        self.tables
            .values()
            .filter(|table| in_phase(&table.id) && !self.context.board.is_stopped(&table.id))
            .cloned()
            .collect()
    }

    pub(crate) fn identity(&self, lane: Lane, kind: LoadKind) -> LoadIdentity {
        LoadIdentity { pipeline: self.context.pipeline.name.clone(), lane, kind }
    }

    /// Begins a load.
    pub(crate) async fn begin(&self, lane: Lane, kind: LoadKind) -> Result<Box<dyn Load>> {
        self.session.begin(&self.identity(lane, kind)).await
    }

    /// Commits a load and takes its delta, with what the destination added, into the checkpoint held here.
    pub(crate) async fn commit(&self, load: Box<dyn Load>, delta: &Delta) -> Result<Durable> {
        let durable = load.commit(delta).await?;
        self.apply(delta, &durable)?;
        Ok(durable)
    }

    /// As [`Attempt::commit`], of a load whose letters are in the delta: what the clerk has announced of them and what the
    /// checkpoint has of them changes at once for all who ask how many there may be.
    ///
    /// # Errors
    /// As [`Attempt::commit`].
    pub(crate) async fn commit_with_letters(
        &self,
        load: Box<dyn Load>,
        delta: &Delta,
        clerk: &Clerk,
    ) -> Result<Durable> {
        let durable = load.commit(delta).await?;
        let _pending = clerk.leave();
        self.apply(delta, &durable)?;
        Ok(durable)
    }

    /// Remembers what a load has committed.
    fn apply(&self, delta: &Delta, durable: &Durable) -> Result<()> {
        let mut whole = delta.clone();
        for change in &mut whole.changes {
            if let Change::Chunk { entry, .. } = change {
                entry.rows = durable.counts.applied;
            }
        }
        whole.changes.extend(rereads_of(durable));
        let mut checkpoint = self.checkpoint();
        checkpoint.apply(&whole).map_err(|misfit| Error::bug(format!("after a commit: {}", misfit.0)))?;
        self.context.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&checkpoint.lanes);
        if whole.changes.iter().any(concerns_letters) {
            self.context.board.letters(&checkpoint.letters);
        }
        Ok(())
    }

    /// What tables are made of now, as changes that follow their mark or reset. To be read before their chunks are planned:
    /// a part that comes later is then new.
    pub(crate) async fn parts_now(&self, tables: &[TableId]) -> Result<Vec<Change>> {
        let source = Arc::clone(&self.context.pipeline.source);
        let Some(streams) = source.streams().filter(|_| self.origin.is_some() && !tables.is_empty()) else {
            return Ok(Vec::new());
        };
        let parts = |known| Parts { known, joining: BTreeSet::new() };
        let found = streams.parts(tables).await?;
        Ok(found.into_iter().map(|(table, known)| Change::Parts { table, parts: parts(known) }).collect())
    }

    /// Gives the destination's table its new parts, and says which of them may have come with rows.
    pub(crate) async fn take_in(&self, table: &TableId, new: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        self.extend(table).await?;
        match self.context.pipeline.source.streams() {
            Some(streams) => streams.filled(table, new).await,
            None => Ok(BTreeSet::new()),
        }
    }

    /// Gives the destination's table what it has become at the source since; `false` if that is nothing new, or not known:
    /// what else has become of the selection is told by the next run.
    pub(crate) async fn extend(&self, table: &TableId) -> Result<bool> {
        let pipeline = &self.context.pipeline;
        let tables = match pipeline.source.discover(&pipeline.selection).await {
            Err(error) if error.kind().reaction() == Reaction::EndRun => {
                tracing::warn!(error = %error, "the tables of the source could not be read again");
                return Ok(false);
            }
            tables => tables?,
        };
        match tables.into_iter().find(|found| found.id == *table) {
            Some(found) => self.session.extend(&Arc::new(found)).await,
            None => Ok(false),
        }
    }

    /// If a load failed because the destination's table lacks a part that the source has by now, makes it: `None`, the load
    /// may be tried again. Else the error, or what stands in the way.
    pub(crate) async fn make_missing_part(&self, error: Error) -> Result<Option<Error>> {
        let Some(table) = error.table().filter(|_| error.code() == Some(MISSING_PART)).cloned() else {
            return Ok(Some(error));
        };
        match self.extend(&table).await {
            Ok(true) => Ok(None),
            Ok(false) => Ok(Some(error)),
            Err(error) if error.kind().reaction() == Reaction::StopTable => {
                Ok(Some(error.with_table(&table)))
            }
            Err(error) => Err(error),
        }
    }

    /// A commit of nothing but the checkpoint.
    pub(crate) async fn commit_changes(&self, lane: Lane, changes: Vec<Change>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let load = self.begin(lane, LoadKind::Bookkeeping).await?;
        self.commit(load, &Delta::of(changes)).await.map(|_| ())
    }
}

fn concerns_letters(change: &Change) -> bool {
    matches!(change, Change::PutLetter { .. } | Change::RemoveLetter { .. } | Change::Reset { .. })
}

fn rereads_of(durable: &Durable) -> Vec<Change> {
    let mut by_table: BTreeMap<TableId, Vec<_>> = BTreeMap::new();
    for (table, key) in &durable.rereads {
        by_table.entry(table.clone()).or_default().push(key.clone());
    }
    by_table.into_iter().map(|(table, keys)| Change::AddReread { table, keys }).collect()
}
