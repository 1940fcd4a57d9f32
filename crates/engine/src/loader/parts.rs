//! Parts of a table that come and go without a word in the log: partitions that are attached, detached and dropped.
//!
//! The source is asked what its tables are made of when the loader begins, now and then while it runs, and before it is
//! done. A new part that is empty is taken: its rows come by the log. One that came with rows is read: the table goes apart
//! again, with a ledger that covers the new parts alone; their chunks are merged into what is there. A part that is gone
//! took rows along that the destination still has, so its table needs a new snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use syncline_core::{
    Change, Error, ErrorKind, Lane, Parts, Reaction, Result, TableId, TablePhase, TableSchema, TableState,
};

use crate::chunks;
use crate::lane::LaneReader;
use crate::loader::Loader;
use crate::loader::closing::Task;

const REMEDY: &str = "run again with --prepare truncate";

impl Loader {
    /// Compares what tables are made of with what is known of them.
    pub(super) async fn look_at_parts(&mut self) -> Result<()> {
        self.parts_due = false;
        let attempt = Arc::clone(&self.attempt);
        let source = Arc::clone(&attempt.context.pipeline.source);
        let Some(streams) = source.streams() else { return Ok(()) };
        let tables = self.tables_with_settled_parts();
        let ids: Vec<TableId> = tables.iter().map(|table| table.id.clone()).collect();
        let mut found = streams.parts(&ids).await?;
        for table in tables {
            // What left the source with all its parts is the business of `watch_capture`.
            let (Some(now), Some(state)) = (found.remove(&table.id), attempt.table_state(&table.id)) else {
                continue;
            };
            let known = &state.parts.known;
            let gone: Vec<&str> = known
                .iter()
                .filter(|(part, _)| !now.contains_key(*part))
                .map(|(_, name)| name.as_str())
                .collect();
            let new: BTreeSet<String> =
                now.keys().filter(|part| !known.contains_key(*part)).cloned().collect();
            if !gone.is_empty() {
                self.lose_parts(&table.id, &gone).await?;
            } else if !new.is_empty() && !self.apart.contains_key(&table.id) {
                self.take_parts(&table, &state, now, &new).await?;
            }
        }
        Ok(())
    }

    /// Tables of whose known parts all rows are at the destination, but for those that join. In a snapshot of the whole
    /// table parts may come and go; it is looked at when it is over.
    fn tables_with_settled_parts(&self) -> Vec<Arc<TableSchema>> {
        let settled = |id: &TableId| {
            self.attempt.table_state(id).is_some_and(|state| match state.phase {
                TablePhase::Consistent => !self.apart.contains_key(id),
                TablePhase::Snapshot | TablePhase::Closing => !state.parts.joining.is_empty(),
                // A recovery looks at them itself.
                TablePhase::NeedsSnapshot | TablePhase::Recovering => false,
            })
        };
        self.attempt.tables.values().filter(|table| settled(&table.id)).cloned().collect()
    }

    async fn lose_parts(&mut self, table: &TableId, gone: &[&str]) -> Result<()> {
        let error = Error::new(
            ErrorKind::Data,
            format!(
                "partitions were detached or dropped, whose rows the destination may still have: {}",
                gone.join(", ")
            ),
        );
        self.give_up(table, error).await
    }

    async fn give_up(&mut self, table: &TableId, error: Error) -> Result<()> {
        let error = error.with_table(table).with_remedy(REMEDY);
        tracing::warn!(table = %table, "{error}");
        self.attempt.context.board.stop_table(table, &error);
        self.let_go(table).await
    }

    async fn take_parts(
        &mut self,
        table: &Arc<TableSchema>,
        state: &TableState,
        now: BTreeMap<String, String>,
        new: &BTreeSet<String>,
    ) -> Result<()> {
        let attempt = Arc::clone(&self.attempt);
        let filled = match attempt.take_in(&table.id, new).await {
            Err(error) if error.kind().reaction() == Reaction::StopTable => {
                return self.set_apart(error.with_table(&table.id)).await.map(|_| ());
            }
            filled => filled?,
        };
        let names: Vec<&str> = filled.iter().filter_map(|part| now.get(part)).map(String::as_str).collect();
        let names = names.join(", ");
        if filled.is_empty() {
            let parts = Parts { known: now, joining: BTreeSet::new() };
            let change = Change::Parts { table: table.id.clone(), parts };
            return attempt.commit_changes(Lane::Main, vec![change]).await;
        }
        if !table.has_row_key() {
            let why = format!(
                "partitions came with rows, which cannot be merged into a table without a key: {names}"
            );
            return self.give_up(&table.id, Error::new(ErrorKind::Data, why)).await;
        }
        tracing::info!(table = %table.id, partitions = names, "new partitions came with rows; they are read");
        self.open_window(table, state, Parts { known: now, joining: filled }).await
    }

    /// The table goes apart where the main lane stands.
    async fn open_window(
        &mut self,
        table: &Arc<TableSchema>,
        state: &TableState,
        parts: Parts,
    ) -> Result<()> {
        self.main.rewind(&self.journal);
        let at = self.main.committed.clone();
        let lane = Lane::Table(table.id.clone());
        let changes = vec![
            Change::Open { lane: lane.clone(), at: at.clone() },
            Change::Mark {
                table: table.id.clone(),
                phase: TablePhase::Snapshot,
                generation: state.generation + 1,
            },
            Change::Parts { table: table.id.clone(), parts },
        ];
        self.attempt.commit_changes(lane.clone(), changes).await?;
        self.closing.remove(&table.id);
        self.settled.remove(&table.id);
        self.apart.insert(table.id.clone(), LaneReader::new(&self.journal, lane, &at));
        // Those that rely on a unique index of the table were set aside with it.
        self.foreign_keys_done = false;
        self.read_joining(table);
        Ok(())
    }

    /// Goes on with the parts that an earlier attempt began to read.
    pub(super) fn resume_joining(&mut self) {
        for table in self.attempt.tables_in(TablePhase::Snapshot) {
            let joins =
                self.attempt.table_state(&table.id).is_some_and(|state| !state.parts.joining.is_empty());
            if joins {
                self.read_joining(&table);
            }
        }
    }

    fn read_joining(&mut self, table: &Arc<TableSchema>) {
        let task = Task::spawn(chunks::load_joining(Arc::clone(&self.attempt), Arc::clone(table)));
        self.joining.insert(table.id.clone(), task);
    }

    /// Joins the tasks that have read their parts.
    pub(super) async fn step_joining(&mut self) -> Result<()> {
        let finished: Vec<TableId> =
            self.joining.iter().filter(|(_, task)| task.is_finished()).map(|(id, _)| id.clone()).collect();
        for id in finished {
            if let Some(mut task) = self.joining.remove(&id) {
                task.join().await?;
                // What could not be read may be gone.
                self.parts_due |= self.attempt.context.board.is_stopped(&id);
            }
        }
        Ok(())
    }
}
