//! The end of a table's window: waiting changes, re-reads, indexes, and the return to the main lane.
//!
//! The window ends when the lane has passed the log's end as read after the last chunk or re-read. Then indexes are
//! built beside the loader, and when the lane stands exactly where the main lane stands, one commit closes it.

use std::collections::BTreeSet;
use std::sync::Arc;

use syncline_core::{
    Change, CutPlan, Error, ErrorKind, FinishStep, Lane, Position, Reaction, Result, TableId, TablePhase,
    TableSchema, TableState,
};
use tokio::task::JoinHandle;

use crate::attempt::{Applied, Attempt};
use crate::chunks;
use crate::letters::care::Care;
use crate::loader::fill::{self, Window};
use crate::loader::{Loader, source_end};

/// How far a table's return to the main lane has come, in this attempt.
pub(crate) enum Closing {
    /// Waiting changes and re-reads are applied until the lane has passed this place.
    Window(Position),
    /// Indexes are being built.
    Indexing(Task<()>),
    /// Only the way to the main lane's place is left.
    Returning,
}

/// A task that ends with its owner.
pub(crate) struct Task<T>(JoinHandle<Result<T>>);

impl<T: Send + 'static> Task<T> {
    pub(crate) fn spawn(future: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    pub(crate) async fn join(&mut self) -> Result<T> {
        (&mut self.0)
            .await
            .map_err(|error| Error::bug("a task of the loader broke off").with_source(error))?
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a truncate in the window that part of the snapshot saw comes to.
pub(crate) fn truncated(table: &TableId) -> Error {
    Error::new(
        ErrorKind::Retriable,
        "the table was truncated while its snapshot was read; the snapshot starts over",
    )
    .with_code(TRUNCATED)
    .with_table(table)
}

const TRUNCATED: &str = "truncated";

impl Loader {
    /// One step for each table on its way back to the main lane.
    pub(crate) async fn step_tables(&mut self) -> Result<bool> {
        let mut worked = false;
        for id in self.apart.keys().cloned().collect::<Vec<_>>() {
            let (Some(table), Some(state)) =
                (self.attempt.tables.get(&id).cloned(), self.attempt.table_state(&id))
            else {
                continue;
            };
            // A window that is held for relief would be waited for here, by the only one who can give it back.
            if self.attempt.context.board.is_stopped(&id) || self.pressure.holds(&id) {
                continue;
            }
            let stepped = match state.phase {
                TablePhase::Closing | TablePhase::Consistent | TablePhase::Recovering => {
                    self.step_closing(&table, &state).await
                }
                TablePhase::Snapshot | TablePhase::NeedsSnapshot => Ok(false),
            };
            worked |= match stepped {
                Ok(stepped) => stepped,
                Err(error) => self.stop_apart(&table, error).await?,
            };
        }
        Ok(worked)
    }

    async fn stop_apart(&mut self, table: &Arc<TableSchema>, error: Error) -> Result<bool> {
        if error.code() == Some(TRUNCATED) {
            let generation = self.attempt.table_state(&table.id).map_or(1, |state| state.generation + 1);
            chunks::start_over(&self.attempt, table, generation).await?;
            return Err(error);
        }
        let Some(error) = self.attempt.make_missing_part(error).await? else {
            if let Some(lane) = self.apart.get_mut(&table.id) {
                lane.rewind(&self.journal);
            }
            return Ok(true);
        };
        if error.kind().reaction() != Reaction::StopTable {
            return Err(error);
        }
        self.attempt.context.board.stop_table(&table.id, &error.with_table(&table.id));
        self.closing.remove(&table.id);
        if let Some(lane) = self.apart.get_mut(&table.id) {
            lane.rewind(&self.journal);
        }
        Ok(true)
    }

    async fn step_closing(&mut self, table: &Arc<TableSchema>, state: &TableState) -> Result<bool> {
        if !self.closing.contains_key(&table.id) {
            let stage = match state.phase {
                TablePhase::Closing => Closing::Window(source_end(&self.attempt).await?),
                _ => Closing::Returning,
            };
            self.closing.insert(table.id.clone(), stage);
            self.attempt.context.board.phase(crate::progress::Phase::Closing);
        }
        // A lane goes no further than the main lane's checkpoint; ranges without changes must not hold it up.
        self.commit_progress().await?;
        let loaded = self.load_apart(table, None).await?;
        let passed = self.apart.get(&table.id).map(|lane| lane.passed.clone());
        // What was just loaded may have listed rows to be read again.
        let waits_for_rows = self.attempt.table_state(&table.id).is_some_and(|now| !now.rereads.is_empty());
        let next = match (self.closing.get_mut(&table.id), passed) {
            (Some(Closing::Window(end)), Some(passed)) if passed >= *end => {
                // No read of the ledger saw anything that is still to come: from here it judges only what is read again.
                self.settled.insert(table.id.clone(), next_number(state));
                if waits_for_rows {
                    Some(self.reread_in_window(table).await?)
                } else if state.phase == TablePhase::Recovering {
                    // Its rows are not right yet: indexes come at the end of the recovery.
                    Some(Closing::Returning)
                } else {
                    Some(Closing::Indexing(index(&self.attempt, table)))
                }
            }
            (Some(Closing::Indexing(task)), _) if task.is_finished() => {
                task.join().await?;
                Some(Closing::Returning)
            }
            (Some(Closing::Returning), Some(_)) if waits_for_rows => {
                Some(self.reread_in_window(table).await?)
            }
            (Some(Closing::Returning), Some(_)) => return Ok(self.rejoin(table, state).await? || loaded),
            _ => None,
        };
        let advanced = next.is_some();
        if let Some(next) = next {
            self.closing.insert(table.id.clone(), next);
        }
        Ok(loaded || advanced)
    }

    /// Reads listed rows again; the window then ends at the log's end as it is after that.
    async fn reread_in_window(&mut self, table: &Arc<TableSchema>) -> Result<Closing> {
        let enters = self.attempt.table_state(&table.id).is_some_and(|s| enters_ledger(s.phase));
        self.reread(table, enters).await?;
        Ok(Closing::Window(source_end(&self.attempt).await?))
    }

    /// Applies what waits for a table's lane, up to the main lane's place; cut by its ledger while it is in its window.
    /// `held` is the window, if the caller holds it. Rows that are refused are set aside.
    pub(crate) async fn load_apart(
        &mut self,
        table: &Arc<TableSchema>,
        mut held: Option<&mut Applied>,
    ) -> Result<bool> {
        let mut care = Care::Usual;
        loop {
            let error = match self.try_load_apart(table, held.as_deref_mut(), &care).await {
                Err(error) => error,
                loaded => return loaded,
            };
            care = care.after(&self.attempt, &error).ok_or(error)?;
            if let Some(lane) = self.apart.get_mut(&table.id) {
                lane.rewind(&self.journal);
            }
        }
    }

    async fn try_load_apart(
        &mut self,
        table: &Arc<TableSchema>,
        held: Option<&mut Applied>,
        care: &Care,
    ) -> Result<bool> {
        let limit = self.main.committed.clone();
        let attempt = Arc::clone(&self.attempt);
        let (Some(lane), Some(window)) = (self.apart.get_mut(&table.id), attempt.windows.get(&table.id))
        else {
            return Ok(false);
        };
        let mut own;
        let applied = match held {
            Some(held) => held,
            None => {
                own = window.write().await;
                &mut *own
            }
        };
        // The ledger is read with the window held: no chunk can enter it between the cut and what the lane remembers.
        let settled = self.settled.get(&table.id).copied();
        let judge = judge_of(&attempt, table, settled)?;
        let window = Some(Window { judge: judge.as_deref(), settled: settled.is_some(), applied });
        let filled =
            fill::fill(&attempt, &self.journal, lane, &BTreeSet::new(), window, Some(&limit), care).await?;
        match filled {
            None => Ok(false),
            Some(filled) if filled.is_progress() => Ok(true),
            Some(filled) => filled.commit(&attempt, lane, Vec::new()).await.map(|()| true),
        }
    }

    /// Closes the lane when it stands exactly where the main lane stands.
    async fn rejoin(&mut self, table: &Arc<TableSchema>, state: &TableState) -> Result<bool> {
        self.commit_progress().await?;
        let Some(lane) = self.apart.get(&table.id) else { return Ok(false) };
        if lane.passed != self.main.committed {
            return Ok(false);
        }
        let (name, from, to) = (Lane::Table(table.id.clone()), lane.committed.clone(), lane.passed.clone());
        let changes = vec![
            Change::Advance { lane: name.clone(), from, to: to.clone() },
            Change::Close { lane: name.clone(), at: to },
            Change::Mark {
                table: table.id.clone(),
                phase: match state.phase {
                    TablePhase::Recovering => TablePhase::Recovering,
                    _ => TablePhase::Consistent,
                },
                generation: state.generation,
            },
        ];
        self.attempt.commit_changes(name, changes).await?;
        self.apart.remove(&table.id);
        self.closing.remove(&table.id);
        self.parts_due = true;
        let shown = if state.phase == TablePhase::Recovering { "recovering" } else { "streaming" };
        self.attempt.context.board.table_state(&table.id, shown);
        Ok(true)
    }
}

/// Whether re-reads of a table in this phase are remembered, so that later changes are cut by them.
fn enters_ledger(phase: TablePhase) -> bool {
    matches!(phase, TablePhase::Closing | TablePhase::Recovering)
}

/// The number that the next chunk or re-read of a table gets.
pub(crate) fn next_number(state: &TableState) -> u32 {
    state.chunks.keys().next_back().map_or(0, |n| n + 1)
}

/// The judge of a table in its window. None once nothing that its ledger speaks of is still to come; a consistent table
/// has none either. `settled`: entries below this number have nothing to say any more.
fn judge_of(
    attempt: &Attempt,
    table: &Arc<TableSchema>,
    settled: Option<u32>,
) -> Result<Option<Box<dyn CutPlan>>> {
    let Some(state) = attempt.ledger_since(&table.id, settled.unwrap_or(0)) else { return Ok(None) };
    let has_none = matches!(state.phase, TablePhase::Consistent | TablePhase::Recovering);
    if has_none || (settled.is_some() && state.chunks.is_empty()) {
        return Ok(None);
    }
    match attempt.context.pipeline.source.snapshots() {
        Some(snapshots) => snapshots.cut(table, &state).map(Some),
        None => Ok(None),
    }
}

fn index(attempt: &Arc<Attempt>, table: &Arc<TableSchema>) -> Task<()> {
    let (attempt, table) = (Arc::clone(attempt), Arc::clone(table));
    Task::spawn(async move { attempt.session.finish(&table, FinishStep::Indexes).await })
}
