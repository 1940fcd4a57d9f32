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
    TablePhase, TableSchema, TableState,
};

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
            // What a recovery is to skip of later changes stands in the ledger.
            let enters = self.attempt.phase_of(&table.id) == Some(TablePhase::Recovering);
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
        let listed =
            |id: &TableId| self.attempt.table_state(id).is_some_and(|state| !state.rereads.is_empty());
        let mut tables = self.attempt.tables_in(TablePhase::Consistent);
        tables.extend(self.attempt.tables_in(TablePhase::Recovering));
        tables.retain(|table| listed(&table.id) && !self.apart.contains_key(&table.id));
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
        self.load_reread(table, &state, n, lane, &keys, &rows, changes).await
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one load, its identity and its delta; a struct would live for one call"
    )]
    async fn load_reread(
        &self,
        table: &Arc<TableSchema>,
        state: &TableState,
        n: u32,
        lane: Lane,
        keys: &[RowKey],
        rows: &RecordBatch,
        changes: Vec<Change>,
    ) -> Result<()> {
        self.attempt.watch.touch_keys(&table.id, keys);
        let kind = LoadKind::Reread { table: table.id.clone(), generation: state.generation, n };
        let mut load = self.attempt.begin(lane, kind).await?;
        load.write(Part::Changes(reread_changes(table, keys, rows)?)).await?;
        self.attempt.commit(load, &Delta::of(changes)).await.map(|_| ())
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

/// Found rows as upserts, keys without a row as deletes. A row may be there once for each key that finds it (18.5 and 18.50).
fn reread_changes(table: &Arc<TableSchema>, keys: &[RowKey], rows: &RecordBatch) -> Result<ChangeBatch> {
    let found: BTreeMap<RowKey, u32> = restoring::keys_of(table, rows)?.into_iter().zip(0..).collect();
    let gone: Vec<RowKey> = keys.iter().filter(|key| !found.contains_key(*key)).cloned().collect();
    let once: UInt32Array = found.into_values().collect();
    let rows = take_record_batch(rows, &once)
        .map_err(|error| Error::bug("rows read again cannot be taken").with_source(error))?;
    restoring::changes(table, &rows, &RowKey::to_batch(&gone, table)?)
}
