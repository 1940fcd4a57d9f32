//! Waiting changes need not wait for the whole table.
//!
//! When all waiting lanes together pin a quarter of the journal's budget, the largest goes first: no new chunk of its
//! table starts, the key is built, and waiting changes are applied; those of keys whose chunk is still unread are
//! skipped, for it will be read later under a snapshot that must have seen them. A table that has stopped and pins as
//! much is let go.

use std::sync::Arc;

use syncline_core::{FinishStep, Result, TableId, TablePhase};
use tokio::sync::OwnedRwLockWriteGuard;

use crate::attempt::Applied;
use crate::loader::Loader;
use crate::loader::closing::Task;

/// Part of the budget that waiting lanes may pin.
const SHARE: u64 = 4;

/// The table that is being relieved, if any.
#[derive(Default)]
pub(crate) struct Pressure {
    relieving: Option<(TableId, Task<OwnedRwLockWriteGuard<Applied>>)>,
}

impl Pressure {
    /// Whether this table's window is held, or about to be, for its relief.
    pub(crate) fn holds(&self, table: &TableId) -> bool {
        self.relieving.as_ref().is_some_and(|(relieved, _)| relieved == table)
    }

    /// Whether chunks are being waited for, or a key is being built.
    pub(crate) fn is_building(&self) -> bool {
        self.relieving.is_some()
    }
}

impl Loader {
    /// Applies waiting changes of the table that pins most, when together they pin too much.
    pub(crate) async fn relieve(&mut self) -> Result<bool> {
        if self.pressure.relieving.is_none() {
            if let Some(table) = self.heaviest_waiting() {
                self.pressure.relieving = self.begin_relief(table);
            }
            return Ok(false);
        }
        let finished = self.pressure.relieving.as_ref().is_some_and(|(_, task)| task.is_finished());
        let Some((id, mut task)) = self.pressure.relieving.take_if(|_| finished) else { return Ok(false) };
        let mut held = task.join().await?;
        let (Some(table), Some(state)) =
            (self.attempt.tables.get(&id).cloned(), self.attempt.table_state(&id))
        else {
            return Ok(false);
        };
        if state.phase != TablePhase::Snapshot {
            return Ok(false);
        }
        self.commit_progress().await?;
        while self.load_apart(&table, Some(&mut held)).await? {}
        self.retain().await?;
        Ok(true)
    }

    fn begin_relief(&self, id: TableId) -> Option<(TableId, Task<OwnedRwLockWriteGuard<Applied>>)> {
        let window = Arc::clone(self.attempt.windows.get(&id)?);
        let table = Arc::clone(self.attempt.tables.get(&id)?);
        let attempt = Arc::clone(&self.attempt);
        let task = Task::spawn(async move {
            let held = window.write_owned().await;
            attempt.session.finish(&table, FinishStep::Key).await?;
            Ok(held)
        });
        Some((id, task))
    }

    /// The waiting lane that pins most of the journal, if all together pin too much and its chunks are read anew.
    fn heaviest_waiting(&self) -> Option<TableId> {
        let usage = self.journal.usage();
        let pinned: Vec<(u64, &TableId)> = usage.needed.iter().skip(1).copied().zip(&self.retained).collect();
        if pinned.iter().map(|(bytes, _)| bytes).sum::<u64>() < usage.budget_bytes / SHARE {
            return None;
        }
        let source = Arc::clone(&self.attempt.context.pipeline.source);
        let snapshots = source.snapshots()?;
        let waits = |id: &TableId| {
            self.attempt.table_state(id).is_some_and(|state| state.phase == TablePhase::Snapshot)
                && !self.attempt.context.board.is_stopped(id)
                && !snapshots.reads_one_snapshot(id)
        };
        pinned.into_iter().filter(|(_, id)| waits(id)).max().map(|(_, id)| id.clone())
    }

    /// A stopped table that pins a quarter of the budget is let go.
    pub(crate) async fn let_go_if_pinning(&mut self) -> Result<()> {
        let usage = self.journal.usage();
        for (bytes, id) in usage.needed.iter().skip(1).zip(self.retained.clone()) {
            let waits = self.apart.contains_key(&id) && self.attempt.context.board.is_stopped(&id);
            if waits && *bytes >= usage.budget_bytes / SHARE {
                self.let_go(&id).await?;
            }
        }
        Ok(())
    }
}
