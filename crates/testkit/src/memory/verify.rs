//! What the engine must never do, as checks over its loads.

use std::collections::HashSet;

use syncline_core::{
    Change, ChangeBatch, Checkpoint, Delta, Error, Lane, LoadIdentity, LoadKind, Operation, Part, Position,
    Result, TableId, TableSchema,
};

use super::database::Database;
use super::rows::{keys_of, keys_of_old};
use super::session::key_is_whole;
use super::snapshot::Snapshot;

/// Checks the shape of a part.
pub(crate) fn part(identity: &LoadIdentity, part: &Part) -> Result<()> {
    let chunk = matches!(identity.kind, LoadKind::Chunk { .. } | LoadKind::Reread { .. });
    match part {
        Part::Changes(batch) => changes(identity, batch),
        Part::Rows { table, .. } | Part::Bulk { table, .. } if !chunk => {
            Err(bug("rows of a chunk in a load that is none", table))
        }
        Part::Rows { table, rows } if rows.num_columns() != table.columns.len() => {
            Err(bug("rows of another shape than their table", table))
        }
        Part::Empty(table) if chunk || matches!(identity.kind, LoadKind::Changes { .. }) => {
            Err(bug("a table is emptied by a load of data", table))
        }
        Part::Rows { .. } | Part::Bulk { .. } | Part::Empty(_) => Ok(()),
    }
}

fn changes(identity: &LoadIdentity, batch: &ChangeBatch) -> Result<()> {
    let table = &batch.table;
    let batch = batch.clone().check()?;
    match identity.kind {
        LoadKind::Changes { .. } | LoadKind::Reread { .. } | LoadKind::Repair { .. } | LoadKind::Letters => {}
        LoadKind::Chunk { .. } | LoadKind::Bookkeeping => {
            return Err(bug("changes in a load of another kind", table));
        }
    }
    if batch.is_empty() {
        return Err(bug("a part without changes", table));
    }
    let first = usize::from(batch.operations[0] == Operation::Truncate);
    if !table.has_row_key() {
        return Ok(());
    }
    if batch.operations[first..].contains(&Operation::Truncate) {
        return Err(bug("a truncate that does not come first", table));
    }
    if !key_is_whole(table, &batch.rows.slice(first, batch.len() - first)) {
        return Err(bug("a change without a row key", table));
    }
    let keys = keys_of(table, &batch.rows)?;
    if !keys[first..].is_sorted_by(|left, right| left < right) {
        return Err(bug("a part that is not collapsed and sorted by key", table));
    }
    masks(&batch, first)
}

/// A row that is filled from an old key is the only one that was there.
fn masks(batch: &ChangeBatch, first: usize) -> Result<()> {
    let old = batch.old.as_ref().map(|old| keys_of_old(&old.keys)).transpose()?.unwrap_or_default();
    let mut origins = HashSet::new();
    for change in first..batch.len() {
        let Some(mask) = batch.mask(change) else { continue };
        if mask.iter().any(|column| batch.table.row_key.contains(&column)) {
            return Err(bug("a change that leaves out a column of its key", &batch.table));
        }
        if batch.old_row(change).is_some_and(|at| !origins.insert(&old[at])) {
            return Err(bug("two rows with absent columns from one old key", &batch.table));
        }
    }
    Ok(())
}

/// Checks a load as it commits, against the checkpoint before it and, if known, the source.
pub(crate) fn load(
    identity: &LoadIdentity,
    parts: &[Part],
    delta: &Delta,
    before: &Checkpoint,
    source: Option<&Database>,
) -> Result<()> {
    match &identity.kind {
        LoadKind::Changes { from, to } => {
            changes_load(identity, from, to, delta)?;
            lanes(identity, parts, before)?;
            match source.zip(to.as_u64()) {
                Some((source, to)) if source.is_inside_transaction(to) => {
                    Err(Error::bug(format!("a commit inside a transaction: {identity}")))
                }
                _ => Ok(()),
            }
        }
        LoadKind::Chunk { .. } | LoadKind::Reread { .. } => {
            chunk_load(identity, delta)?;
            source.map_or(Ok(()), |source| marks(delta, before, source))
        }
        LoadKind::Bookkeeping if delta.changes.is_empty() => {
            Err(Error::bug(format!("a load without a delta: {identity}")))
        }
        LoadKind::Letters => letters_load(identity, delta),
        LoadKind::Repair { .. } | LoadKind::Bookkeeping => Ok(()),
    }
}

/// A load of letters changes nothing but letters.
fn letters_load(identity: &LoadIdentity, delta: &Delta) -> Result<()> {
    let fits = |change: &Change| matches!(change, Change::PutLetter { .. } | Change::RemoveLetter { .. });
    if !delta.changes.is_empty() && delta.changes.iter().all(fits) {
        return Ok(());
    }
    Err(Error::bug(format!("a load of letters that changes something else: {identity}")))
}

fn changes_load(identity: &LoadIdentity, from: &Position, to: &Position, delta: &Delta) -> Result<()> {
    let advances = |change: &Change| matches!(change, Change::Advance { lane, from: f, to: t } if *lane == identity.lane && f == from && t == to);
    if !delta.changes.iter().any(advances) {
        return Err(Error::bug(format!("a load that does not move its lane: {identity}")));
    }
    if from >= to {
        return Err(Error::bug(format!("a load of a piece of a transaction: {identity}")));
    }
    Ok(())
}

/// Changes of a table come on its own lane while it has one, else on the main lane.
fn lanes(identity: &LoadIdentity, parts: &[Part], before: &Checkpoint) -> Result<()> {
    for part in parts {
        let Part::Changes(batch) = part else { continue };
        if !before.tables.contains_key(&batch.table.id) {
            return Err(bug("changes of a table that the pipeline does not own", &batch.table));
        }
        let own = Lane::Table(batch.table.id.clone());
        let lane = if before.lanes.contains_key(&own) { own } else { Lane::Main };
        if lane != identity.lane {
            return Err(bug("changes on a lane that is not the table's", &batch.table));
        }
    }
    Ok(())
}

/// A chunk enters the ledger; a re-read takes its keys off the list, and enters the ledger too while its table is in
/// its window.
fn chunk_load(identity: &LoadIdentity, delta: &Delta) -> Result<()> {
    let fits = |change: &Change| match (&identity.kind, change) {
        (
            LoadKind::Chunk { table, generation, n },
            Change::Chunk { table: entered, generation: of, n: number, .. },
        ) => entered == table && of == generation && number == n,
        (LoadKind::Reread { table, .. }, Change::RemoveReread { table: of, .. }) => of == table,
        _ => false,
    };
    if delta.changes.iter().any(fits) {
        return Ok(());
    }
    Err(Error::bug(format!("a load that the ledger does not show: {identity}")))
}

/// A chunk is loaded only if its read saw every transaction that the table's lane has applied.
fn marks(delta: &Delta, before: &Checkpoint, source: &Database) -> Result<()> {
    for change in &delta.changes {
        let Change::Chunk { table, entry, .. } = change else { continue };
        let mark = Snapshot::parse(&entry.mark)?;
        let Some(applied) = before.position_of(table).and_then(Position::as_u64) else { continue };
        if let Some(xid) = unseen(source, table, &mark, applied) {
            return Err(Error::bug(format!(
                "a chunk whose read missed transaction {xid}, which its lane has applied"
            ))
            .with_table(table));
        }
    }
    Ok(())
}

fn unseen(source: &Database, table: &TableId, mark: &Snapshot, applied: u64) -> Option<u64> {
    let state = source.state();
    let applied = state.log.iter().take_while(|logged| logged.position <= applied);
    applied
        .filter(|logged| logged.changes.iter().any(|change| change.table == *table))
        .map(|logged| logged.xid)
        .find(|&xid| !mark.saw(xid))
}

fn bug(message: &str, table: &TableSchema) -> Error {
    Error::bug(message).with_table(&table.id)
}
