//! What a recovery asks of the loader, because it holds only between two loads: that from here on a table's rows are right, and
//! that its mark goes.
//!
//! Until a table is *mended*, nothing is completed from its rows ([`Decision::Again`]). Rows that were read again may be ahead
//! of the lane. Those read before the number at which the table is mended are behind it, and later ones are in the ledger, by
//! which the changes that they saw are skipped. A listed row that still stands at the destination may be wrong, and a move would
//! carry that on: the list is empty when the table is mended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use syncline_core::{Change, CutPlan, Error, Lane, Result, TableId, TablePhase, TableSchema};
use tokio::sync::oneshot;

use crate::attempt::Attempt;
use crate::cut::Decision;
use crate::loader::Loader;
use crate::loader::closing::next_number;

/// What is asked for a table. The number is the one that the next re-read had before the lane passed the log's end.
pub(crate) enum Step {
    /// Every row is right, or listed to be read again.
    Mend(u32),
    /// The table is as the source has it. Refused if rows were read again since the number.
    Unmark(u32),
}

/// Shared by the loader and the recovery of an attempt.
#[derive(Default)]
pub(crate) struct Mending {
    mended: Mutex<BTreeMap<TableId, u32>>,
    asked: Mutex<Option<(TableId, Step, oneshot::Sender<bool>)>>,
}

impl Mending {
    /// Asks the loader for a step, which it makes between two loads; `false`: not yet.
    pub(crate) async fn ask(&self, attempt: &Attempt, table: &TableId, step: Step) -> Result<bool> {
        let (sender, receiver) = oneshot::channel();
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some((table.clone(), step, sender));
        attempt.changed.notify_one();
        receiver.await.map_err(|_| Error::bug("a recovery outlived the loader"))
    }

    fn take(&self) -> Option<(TableId, Step, oneshot::Sender<bool>)> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The number of the first re-read that may be ahead of the lane, if the table is mended.
    fn since(&self, table: &TableId) -> Option<u32> {
        self.mended.lock().unwrap_or_else(PoisonError::into_inner).get(table).copied()
    }
}

/// How the changes of a table in recovery are to be taken.
pub(crate) enum Course {
    /// Nothing may come from a row of the destination.
    Again,
    /// As the re-reads have it that may be ahead.
    Judged(Box<dyn CutPlan>),
    /// As they are.
    AsTheyAre,
}

impl Course {
    /// The course of a table, as long as no load commits.
    pub(crate) fn of(attempt: &Attempt, table: &Arc<TableSchema>) -> Result<Self> {
        if attempt.phase_of(&table.id) != Some(TablePhase::Recovering) {
            return Ok(Self::AsTheyAre);
        }
        let Some(since) = attempt.mending.since(&table.id) else { return Ok(Self::Again) };
        let ledger = attempt.ledger_since(&table.id, since).filter(|state| !state.chunks.is_empty());
        match (ledger, attempt.context.pipeline.source.snapshots()) {
            (Some(ledger), Some(snapshots)) => Ok(Self::Judged(snapshots.cut(table, &ledger)?)),
            _ => Ok(Self::AsTheyAre),
        }
    }

    /// Every change of so many is applied again.
    pub(crate) fn again(changes: usize) -> Vec<Decision> {
        vec![Decision::Again; changes]
    }
}

impl Loader {
    /// Makes the step that a recovery asks for.
    pub(super) async fn step_mending(&mut self) -> Result<()> {
        let attempt = Arc::clone(&self.attempt);
        let Some((id, step, answer)) = attempt.mending.take() else { return Ok(()) };
        let done = match attempt.tables.get(&id).filter(|_| attempt.is_in_main_lane(&id)) {
            Some(table) => self.make_step(table, &step).await?,
            None => false,
        };
        // Who asked may have broken off.
        let _ = answer.send(done);
        Ok(())
    }

    async fn make_step(&mut self, table: &Arc<TableSchema>, step: &Step) -> Result<bool> {
        let attempt = Arc::clone(&self.attempt);
        while attempt.is_in_main_lane(&table.id) && attempt.lists_rows(&table.id) {
            if let Err(error) = self.reread(table, true).await {
                self.set_apart(error).await?;
            }
        }
        let _phases = attempt.phases.lock().await;
        let state = attempt.table_state(&table.id).filter(|state| state.phase == TablePhase::Recovering);
        let Some(state) = state.filter(|_| attempt.is_in_main_lane(&table.id)) else { return Ok(false) };
        match *step {
            Step::Mend(since) => {
                let mut mended = attempt.mending.mended.lock().unwrap_or_else(PoisonError::into_inner);
                mended.insert(table.id.clone(), since);
                Ok(true)
            }
            Step::Unmark(number) if number == next_number(&state) => {
                let (table, generation) = (table.id.clone(), state.generation);
                let mark = Change::Mark { table, phase: TablePhase::Consistent, generation };
                attempt.commit_changes(Lane::Main, vec![mark]).await.map(|()| true)
            }
            Step::Unmark(_) => Ok(false),
        }
    }
}
