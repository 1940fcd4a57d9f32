//! Reading rows again: those whose masked columns had no row to come from.
//!
//! A re-read is a chunk of a few keys. It is loaded only if it saw everything its lane has applied, and the lane does not
//! move meanwhile: the loader does both. In a window it enters the ledger, so that later changes of its keys are cut by
//! it. Outside one, later changes that the read already saw are applied once more and end in the same state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::take::take_record_batch;
use syncline_core::{
    Change, ChangeBatch, ChunkEntry, Delta, Error, Lane, LoadKind, Part, ReadMark, Result, RowKey, TableId,
    TablePhase, TableSchema,
};

use crate::collapse::Collapse;
use crate::letters::care::Care;
use crate::letters::clerk::{self, Clerk};
use crate::loader::Loader;
use crate::loader::closing::next_number;
use crate::restoring;

/// Keys read at once.
const KEYS_MAX: usize = 1000;
/// How long a read may fail to see what the lane has applied before that is an error.
const PATIENCE: Duration = Duration::from_secs(30);

impl Loader {
    /// Re-reads of tables that are in the main lane.
    pub(crate) async fn reread_of_main(&mut self) -> Result<bool> {
        let tables = self.rows_to_read_again();
        for table in &tables {
            // What a recovery is to skip of later changes stands in the ledger. One that has stopped skips nothing: it will
            // be mended, and read its ledger from then on, in another run.
            let enters = self.attempt.phase_of(&table.id) == Some(TablePhase::Recovering)
                && !self.attempt.context.board.is_stopped(&table.id);
            if let Err(error) = self.reread(table, enters).await {
                self.set_apart(error).await?;
            }
        }
        Ok(!tables.is_empty())
    }

    /// Tables in the main lane with listed rows. Asked after every load, so it must cost little where there are none.
    pub(crate) fn rows_to_read_again(&self) -> Vec<Arc<TableSchema>> {
        if !self.attempt.has_rereads() {
            return Vec::new();
        }
        let mut tables = self.attempt.tables_in(TablePhase::Consistent);
        // Also those whose recovery has stopped: their changes go on, and would list rows without end.
        let recovers = |id: &TableId| self.attempt.phase_of(id) == Some(TablePhase::Recovering);
        tables.extend(self.attempt.tables.values().filter(|table| recovers(&table.id)).cloned());
        tables.retain(|table| self.attempt.lists_rows(&table.id) && !self.apart.contains_key(&table.id));
        tables
    }

    /// Reads some listed rows of a table again and loads them. `enters`: into the ledger.
    pub(crate) async fn reread(&mut self, table: &Arc<TableSchema>, enters: bool) -> Result<()> {
        let Some(state) = self.attempt.table_state(&table.id) else { return Ok(()) };
        let keys: Vec<RowKey> = state.rereads.iter().take(KEYS_MAX).cloned().collect();
        let source = Arc::clone(&self.attempt.context.pipeline.source);
        let snapshots =
            source.snapshots().ok_or_else(|| Error::bug("a re-read of a source without snapshots"))?;
        let wanted = RowKey::to_batch(&keys, table)?;
        let (rows, mark) = self.read_what_was_applied(table, &wanted).await?;
        let n = next_number(&state);
        let mut changes = vec![Change::RemoveReread { table: table.id.clone(), keys: keys.clone() }];
        if enters {
            let range = snapshots.range_of_keys(table, &wanted)?;
            let entry = ChunkEntry { range, mark: mark.0, rows: 0 };
            changes.push(Change::Chunk { table: table.id.clone(), generation: state.generation, n, entry });
        }
        let lane = match state.phase {
            TablePhase::Closing => Lane::Table(table.id.clone()),
            _ => Lane::Main,
        };
        self.attempt.watch.touch_keys(&table.id, &keys);
        let reread = Reread {
            rows: reread_changes(table, &keys, &rows)?,
            identity: LoadKind::Reread { table: table.id.clone(), generation: state.generation, n },
            lane,
            changes,
        };
        let mut care = Care::Usual;
        loop {
            let Err(error) = self.load_reread(&reread, &care).await else { return Ok(()) };
            care = care.after(&self.attempt, &error).ok_or(error)?;
        }
    }

    /// Loads rows that were read again. They take the place of what was set aside of them before.
    async fn load_reread(&self, reread: &Reread, care: &Care) -> Result<()> {
        let attempt = &self.attempt;
        let table = &reread.rows.table;
        let position = attempt.checkpoint().position_of(&table.id).cloned().unwrap_or_default();
        let mut clerk = Clerk::new(attempt, position);
        let taken_up = clerk.take_up(&reread.rows, None)?;
        let sifts = *care != Care::Usual || !taken_up.letters.is_empty();
        let mut collapse = Collapse::new(Arc::clone(table));
        collapse.seed(taken_up.letters)?;
        collapse.push(reread.rows.clone(), None)?;
        let collapsed = collapse.finish()?;
        let mut load = attempt.begin(reread.lane.clone(), reread.identity.clone()).await?;
        if care.withholds(&table.id) {
            let _ = load.check_now().await?;
        }
        if let Some(waiting) = collapsed.waiting {
            clerk.put_behind(&table.id, &waiting)?;
        }
        match collapsed.batch {
            Some(lines) if sifts => {
                let _ = clerk.sift(load.as_mut(), &table.id, &lines).await?;
            }
            Some(lines) => load.write(Part::Changes(lines.batch)).await?,
            None => {}
        }
        let settled = clerk.settle(Some(load.as_mut())).await?;
        clerk::warn_of(&settled.changes);
        let changes = reread.changes.iter().cloned().chain(settled.changes).collect();
        attempt.commit_with_letters(load, &Delta { changes, reread_missing: true }, &clerk).await?;
        attempt.context.board.tally(|sum| {
            sum.read += settled.taken_up;
            sum.superseded += settled.taken_up;
        });
        Ok(())
    }

    async fn read_what_was_applied(
        &self,
        table: &Arc<TableSchema>,
        keys: &RecordBatch,
    ) -> Result<(RecordBatch, ReadMark)> {
        let source = Arc::clone(&self.attempt.context.pipeline.source);
        let snapshots =
            source.snapshots().ok_or_else(|| Error::bug("a re-read of a source without snapshots"))?;
        let window =
            self.attempt.windows.get(&table.id).ok_or_else(|| Error::bug("a re-read of an unknown table"))?;
        let applied = window.read().await.transactions();
        let begun = std::time::Instant::now();
        loop {
            let (rows, mark) = snapshots.read_keys(table, keys).await?;
            if snapshots.saw(&mark, &applied)? {
                return Ok((rows, mark));
            }
            if begun.elapsed() > PATIENCE {
                return Err(Error::new(
                    syncline_core::ErrorKind::Retriable,
                    "rows to be read again wait for a transaction that is in the log but not yet visible",
                )
                .with_table(&table.id));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Rows that were read again, on their way.
struct Reread {
    rows: ChangeBatch,
    identity: LoadKind,
    lane: Lane,
    /// What becomes of the list and of the ledger.
    changes: Vec<Change>,
}

/// Found rows as upserts, keys without a row as deletes. A row may be there once for each key that finds it (18.5 and 18.50).
fn reread_changes(table: &Arc<TableSchema>, keys: &[RowKey], rows: &RecordBatch) -> Result<ChangeBatch> {
    let found: BTreeMap<RowKey, u32> = restoring::keys_of(table, rows)?.into_iter().zip(0..).collect();
    let gone: Vec<RowKey> = keys.iter().filter(|key| !found.contains_key(*key)).cloned().collect();
    let once: UInt32Array = found.into_values().collect();
    let rows = take_record_batch(rows, &once)
        .map_err(|error| Error::bug("rows read again cannot be taken").with_source(error))?;
    restoring::changes(table, &rows, &RowKey::to_batch(&gone, table)?)
}
