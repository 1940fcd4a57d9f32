//! A pipeline held at the memory destination, and its loads.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::Array;
use async_trait::async_trait;
use syncline_core::{
    Change, Checkpoint, Delta, DestinationSession, Durable, Error, ErrorKind, FinishStep, Guarantee, Load,
    LoadIdentity, LoadKind, Part, PipelineName, Prepare, Prepared, Result, SchemaMap, TableSchema,
};

use super::apply::Applied;
use super::destination::{Committed, Inner, Stored, StoredTable, UniqueCheck};
use super::faults::Step;
use super::rows::TableRows;
use super::verify;

pub(crate) struct Session {
    inner: Arc<Inner>,
    pipeline: PipelineName,
    fence: u64,
    map: SchemaMap,
}

impl Session {
    pub(crate) fn new(inner: Arc<Inner>, pipeline: PipelineName, fence: u64, map: SchemaMap) -> Self {
        Self { inner, pipeline, fence, map }
    }

    fn release(&self) {
        let mut stored = self.inner.stored();
        let Some(bookkeeping) = stored.pipelines.get_mut(&self.pipeline) else { return };
        if bookkeeping.holder.as_ref().is_some_and(|(_, fence)| *fence == self.fence) {
            bookkeeping.holder = None;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.release();
    }
}

fn check_fence(stored: &Stored, pipeline: &PipelineName, fence: u64) -> Result<()> {
    let newest = stored.pipelines.get(pipeline).map(|bookkeeping| bookkeeping.fence);
    if newest == Some(fence) {
        return Ok(());
    }
    let message = format!("pipeline {pipeline} was taken by another holder");
    Err(Error::new(ErrorKind::Fenced, message))
}

#[async_trait]
impl DestinationSession for Session {
    fn fence(&self) -> u64 {
        self.fence
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Atomic
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let read = || {
            let stored = self.inner.stored();
            check_fence(&stored, &self.pipeline, self.fence)?;
            Ok(stored.pipelines.get(&self.pipeline).map(|b| b.checkpoint.clone()).unwrap_or_default())
        };
        self.inner.faults.around(Step::Checkpoint, read).await
    }

    async fn prepare(&self, table: &Arc<TableSchema>, mode: Option<Prepare>) -> Result<Prepared> {
        let prepare = || {
            let mut stored = self.inner.stored();
            check_fence(&stored, &self.pipeline, self.fence)?;
            prepare(&mut stored, &self.map, table, mode)
        };
        self.inner.faults.around(Step::Prepare, prepare).await
    }

    async fn begin(&self, identity: &LoadIdentity) -> Result<Box<dyn Load>> {
        let begin = || {
            if identity.pipeline != self.pipeline {
                return Err(Error::bug("a load of another pipeline"));
            }
            let alone = alone(identity);
            let mut stored = self.inner.stored();
            if let Some(alone) = &alone
                && !stored.open.insert(format!("{} {alone}", self.fence))
            {
                return Err(Error::bug(format!("two loads at once: {identity}")));
            }
            let alone = alone.map(|alone| format!("{} {alone}", self.fence));
            let load = OpenLoad {
                inner: Arc::clone(&self.inner),
                identity: identity.clone(),
                fence: self.fence,
                map: self.map.clone(),
                alone,
                parts: Vec::new(),
            };
            Ok(Box::new(load) as Box<dyn Load>)
        };
        self.inner.faults.around(Step::Begin, begin).await
    }

    async fn finish(&self, table: &Arc<TableSchema>, step: FinishStep) -> Result<()> {
        let finish = || {
            let mut stored = self.inner.stored();
            check_fence(&stored, &self.pipeline, self.fence)?;
            let id = self.map.map(&table.id);
            let stored = stored.tables.get_mut(&id);
            finish(stored.ok_or_else(|| unprepared(table))?, step)
        };
        self.inner.faults.around(Step::Finish, finish).await
    }

    async fn close(&self) {
        self.release();
    }
}

fn unprepared(table: &TableSchema) -> Error {
    Error::bug("a table that was not prepared").with_table(&table.id)
}

/// What must not be open twice: the changes of one lane, one chunk.
fn alone(identity: &LoadIdentity) -> Option<String> {
    match &identity.kind {
        LoadKind::Changes { .. } => Some(format!("{} changes {}", identity.pipeline, identity.lane)),
        LoadKind::Chunk { table, n, .. } | LoadKind::Reread { table, n, .. } => {
            Some(format!("{} chunk {table} {n}", identity.pipeline))
        }
        LoadKind::Repair { table, .. } => Some(format!("{} repair {table}", identity.pipeline)),
        LoadKind::Letters => Some(format!("{} letters", identity.pipeline)),
        LoadKind::Bookkeeping => None,
    }
}

fn prepare(
    stored: &mut Stored,
    map: &SchemaMap,
    table: &Arc<TableSchema>,
    mode: Option<Prepare>,
) -> Result<Prepared> {
    let id = map.map(&table.id);
    let Some(existing) = stored.tables.get_mut(&id).filter(|_| mode != Some(Prepare::Recreate)) else {
        stored.tables.insert(id, StoredTable::new(Arc::clone(table)));
        return Ok(Prepared::Empty);
    };
    let names = |schema: &TableSchema| schema.columns.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    if names(&existing.schema) != names(table) || existing.schema.row_key != table.row_key {
        return Err(Error::configuration("the columns at the destination do not fit")
            .with_table(&table.id)
            .with_remedy("use --prepare recreate"));
    }
    if existing.rows.is_empty() || mode == Some(Prepare::Truncate) {
        existing.rows = Arc::new(TableRows::none(table));
        existing.indexes_built = false;
        return Ok(Prepared::Empty);
    }
    if mode == Some(Prepare::Keep) {
        existing.merged = true;
        existing.indexes_built = false;
        return Ok(Prepared::HasRows);
    }
    Err(Error::configuration("the table has rows at the destination")
        .with_table(&table.id)
        .with_remedy("use --prepare recreate, truncate or keep"))
}

fn finish(table: &mut StoredTable, step: FinishStep) -> Result<()> {
    match step {
        FinishStep::Key => table.key_built = true,
        FinishStep::Indexes => {
            super::apply::check_unique(table)?;
            table.indexes_built = true;
        }
        FinishStep::ForeignKeys => {}
    }
    Ok(())
}

struct OpenLoad {
    inner: Arc<Inner>,
    identity: LoadIdentity,
    fence: u64,
    map: SchemaMap,
    alone: Option<String>,
    parts: Vec<Part>,
}

impl Drop for OpenLoad {
    fn drop(&mut self) {
        if let Some(alone) = &self.alone {
            self.inner.stored().open.remove(alone);
        }
    }
}

#[async_trait]
impl Load for OpenLoad {
    async fn write(&mut self, part: Part) -> Result<()> {
        let faults = self.inner.faults.clone();
        let write = || {
            verify::part(&self.identity, &part)?;
            self.inner.faults.take_part(&schema_of(&part).id)?;
            self.parts.push(part);
            Ok(())
        };
        faults.around(Step::Write, write).await
    }

    async fn offer(&mut self, part: Part) -> Result<Option<Error>> {
        let faults = self.inner.faults.clone();
        let offer = || {
            verify::part(&self.identity, &part)?;
            self.inner.faults.take_part(&schema_of(&part).id)?;
            self.parts.push(part);
            match self.try_parts() {
                Err(error) if error.rows_at_fault() => {
                    let _ = self.parts.pop();
                    Ok(Some(error))
                }
                tried => tried.map(|()| None),
            }
        };
        faults.around(Step::Offer, offer).await
    }

    async fn commit(mut self: Box<Self>, delta: &Delta) -> Result<Durable> {
        let faults = self.inner.faults.clone();
        faults.around(Step::Commit, || self.commit_now(delta)).await
    }
}

impl OpenLoad {
    /// What all parts so far would do, without doing it.
    fn try_parts(&self) -> Result<()> {
        let stored = self.inner.stored();
        let (mut changed, mut durable) = (BTreeMap::new(), Durable::default());
        let delta = Delta { changes: Vec::new(), reread_missing: true };
        for part in &self.parts {
            self.apply(&stored, &mut changed, part.clone(), &delta, &mut durable)?;
        }
        self.check_tables(&stored, &changed)
    }

    /// Unique indexes, and the checks that the faults' script put on tables.
    fn check_tables(
        &self,
        stored: &Stored,
        changed: &BTreeMap<syncline_core::TableId, StoredTable>,
    ) -> Result<()> {
        for (id, table) in changed {
            if table.indexes_built {
                super::apply::check_unique(table)?;
            }
            self.inner.faults.check_rows(table, stored.tables.get(id).map(|before| before.rows.as_ref()))?;
        }
        Ok(())
    }

    fn commit_now(&mut self, delta: &Delta) -> Result<Durable> {
        let parts = std::mem::take(&mut self.parts);
        let mut stored = self.inner.stored();
        check_fence(&stored, &self.identity.pipeline, self.fence)?;
        let bookkeeping = stored.pipelines.get(&self.identity.pipeline);
        let before = bookkeeping.map(|b| b.checkpoint.clone()).unwrap_or_default();
        let mut after = before.clone();
        after.apply(delta)?;
        verify::load(&self.identity, &parts, delta, &before, self.inner.source.as_ref())?;
        let mut changed = BTreeMap::new();
        let mut durable = Durable::default();
        for part in parts {
            self.apply(&stored, &mut changed, part, delta, &mut durable)?;
        }
        self.check_tables(&stored, &changed)?;
        if !durable.rereads.is_empty() {
            after.apply(&reread_delta(&durable))?;
        }
        enter_rows(&mut after, &self.identity, durable.counts.applied);
        stored.tables.extend(changed);
        let bookkeeping = stored.pipelines.entry(self.identity.pipeline.clone()).or_default();
        bookkeeping.checkpoint = after.clone();
        let tables = stored.tables.iter().map(|(id, table)| (id.clone(), Arc::clone(&table.rows))).collect();
        stored.history.push(Committed {
            identity: self.identity.clone(),
            fence: self.fence,
            checkpoint: after,
            tables,
            durable: durable.clone(),
            map: self.map.clone(),
        });
        Ok(durable)
    }

    /// Applies a part to the load's own copy of its table.
    fn apply(
        &self,
        stored: &Stored,
        changed: &mut BTreeMap<syncline_core::TableId, StoredTable>,
        part: Part,
        delta: &Delta,
        durable: &mut Durable,
    ) -> Result<()> {
        let schema = Arc::clone(schema_of(&part));
        let id = self.map.map(&schema.id);
        if !changed.contains_key(&id) {
            let table = stored.tables.get(&id).ok_or_else(|| unprepared(&schema))?;
            changed.insert(id.clone(), table.clone());
        }
        let table = changed.get_mut(&id).ok_or_else(|| unprepared(&schema))?;
        let reread = matches!(self.identity.kind, LoadKind::Reread { .. });
        let applied = match part {
            Part::Changes(batch) => super::apply::changes(table, &batch, delta.reread_missing)?,
            Part::Rows { rows, .. } => super::apply::rows(table, &rows, reread)?,
            Part::Bulk { .. } => return Err(Error::bug("the memory source offers no bulk form")),
            Part::Empty(_) => {
                table.rows = Arc::new(TableRows::none(&schema));
                Applied::default()
            }
        };
        if self.inner.unique_check == UniqueCheck::EachPart && table.indexes_built {
            super::apply::check_unique(table)?;
        }
        durable.counts += applied.counts;
        durable.rereads.extend(applied.rereads.into_iter().map(|key| (schema.id.clone(), key)));
        Ok(())
    }
}

fn schema_of(part: &Part) -> &Arc<TableSchema> {
    match part {
        Part::Changes(batch) => &batch.table,
        Part::Rows { table, .. } | Part::Bulk { table, .. } | Part::Empty(table) => table,
    }
}

fn reread_delta(durable: &Durable) -> Delta {
    let change = |(table, key): &(syncline_core::TableId, syncline_core::RowKey)| Change::AddReread {
        table: table.clone(),
        keys: vec![key.clone()],
    };
    Delta::of(durable.rereads.iter().map(change).collect())
}

/// Writes into the ledger how many rows a chunk had: only the destination knows.
fn enter_rows(checkpoint: &mut Checkpoint, identity: &LoadIdentity, rows: u64) {
    let (LoadKind::Chunk { table, n, .. } | LoadKind::Reread { table, n, .. }) = &identity.kind else {
        return;
    };
    if let Some(entry) = checkpoint.tables.get_mut(table).and_then(|state| state.chunks.get_mut(n)) {
        entry.rows = rows;
    }
}

/// Whether every row of a key column has a value.
pub(crate) fn key_is_whole(table: &TableSchema, rows: &arrow_array::RecordBatch) -> bool {
    table.row_key.iter().all(|&column| rows.column(column).null_count() == 0)
}
