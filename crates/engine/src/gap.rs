//! A gap: changes are missing between what a pipeline has read and what its source's log still has.
//!
//! Without the user's word that ends the run. With it (`--recover diff`) the stream begins anew at once: a new slot comes
//! first, then one commit moves every lane to its beginning and marks every table as being recovered. From there on changes
//! go to the tables as ever, while they are compared with the source and repaired ([`crate::verify`]).
//!
//! A crash before that commit leaves a log that is not the checkpoint's, or begins after its lanes: the same gap. A crash
//! after it leaves the marks.

use std::collections::BTreeMap;
use std::sync::Arc;

use syncline_core::error::Context as _;
use syncline_core::{
    Change, Checkpoint, Delta, DestinationSession, Error, Lane, LoadKind, Part, Position, Result, TableId,
    TablePhase, TableSchema, TableState, failpoint,
};

use crate::attempt::{Attempt, Context};
use crate::opening;
use crate::run;

/// A gap between what is remembered and what the source still has.
pub(crate) fn gap(why: impl Into<String>) -> Error {
    Error::conflict(why).with_changes_missing()
}

/// Says of an error that changes are missing what can be done about it.
pub(crate) fn with_choices(context: &Context, error: Error) -> Error {
    if !error.misses_changes() || error.remedy().is_some() {
        return error;
    }
    let name = &context.pipeline.name;
    error.with_remedy(format!(
        "changes are missing. Run again with --recover diff: the tables are compared with the source and repaired while \
         the stream goes on; or read them again: `syncline drop {name}`, then sync with --prepare truncate"
    ))
}

/// Whether an attempt that ended with this error is to be followed by a recovery.
pub(crate) fn is_recovered(context: &Context, error: &Error) -> bool {
    error.misses_changes() && context.pipeline.recover.is_some()
}

/// Begins the stream anew. The attempt can be opened then.
pub(crate) async fn begin_anew(
    context: &Arc<Context>,
    session: &Arc<dyn DestinationSession>,
    tables: &BTreeMap<TableId, Arc<TableSchema>>,
    why: &Error,
) -> Result<()> {
    tracing::warn!(%why, "changes are missing; the stream begins anew, and the tables are compared and repaired");
    let name = &context.pipeline.name;
    let source = Arc::clone(&context.pipeline.source);
    let streams = source.streams().ok_or_else(|| Error::bug("a gap in a source without a stream"))?;
    streams.drop_pipeline(name).await.doing(|| "dropping what is left of the old stream".to_owned())?;
    failpoint::hit("gap_dropped")?;
    let origin = opening::set_up_stream(context, streams, tables).await;
    context.board.waiting_for(None);
    let origin = origin.doing(|| "setting up the stream anew".to_owned())?;
    failpoint::hit("gap_slot_made")?;
    empty_journal(context).await?;
    failpoint::hit("gap_journal_emptied")?;
    let checkpoint = session.checkpoint().await?;
    let attempt = Attempt::new(
        Arc::clone(context),
        Arc::clone(session),
        tables.clone(),
        Some(origin.clone()),
        checkpoint.clone(),
    );
    let moved = move_lanes(&attempt, &checkpoint, &origin).await;
    moved.doing(|| "marking the tables to be recovered".to_owned())?;
    failpoint::hit("gap_marked")
}

/// What waits in the journal comes before the gap: the comparison finds it. It is counted as let go.
async fn empty_journal(context: &Arc<Context>) -> Result<()> {
    let lost = run::waiting(context).await?;
    context.board.tally(|sum| sum.let_go += lost);
    let journal = match context.open_journal() {
        Some(journal) => journal,
        None => opening::journal_of(context).await?,
    };
    // Before every position: if the lanes do not move now, the next attempt finds the gap again.
    journal.reset(Position::default()).await
}

/// One commit: every lane ends, the main lane begins where the new log does, and tables get what they need to come back.
async fn move_lanes(
    attempt: &Attempt,
    checkpoint: &Checkpoint,
    origin: &syncline_core::Origin,
) -> Result<()> {
    let at = &origin.confirmed;
    let mut load = attempt.begin(Lane::Main, LoadKind::Bookkeeping).await?;
    let mut changes = vec![Change::Origin(origin.identity.clone())];
    let lanes = checkpoint.lanes.iter();
    changes.extend(lanes.map(|(lane, at)| Change::Close { lane: lane.clone(), at: at.clone() }));
    changes.push(Change::Open { lane: Lane::Main, at: at.clone() });
    let mut begun = Vec::new();
    for (id, state) in &checkpoint.tables {
        let keyed = attempt.tables.get(id).is_some_and(|table| table.has_row_key());
        match attempt.tables.get(id).filter(|_| is_unread(state)) {
            Some(table) => {
                load.write(Part::Empty(Arc::clone(table))).await?;
                changes.push(Change::Reset { table: id.clone(), generation: state.generation + 1 });
                changes.push(Change::Open { lane: Lane::Table(id.clone()), at: at.clone() });
                begun.push(id.clone());
            }
            None if keyed => changes.extend(marked(checkpoint, id, state)),
            None => changes.push(Change::Mark {
                table: id.clone(),
                phase: TablePhase::NeedsSnapshot,
                generation: state.generation,
            }),
        }
    }
    changes.extend(attempt.parts_now(&begun).await?);
    attempt.commit(load, &Delta::of(changes)).await.map(|_| ())
}

/// A table whose first rows are still being read has nothing to be compared: its snapshot starts over.
fn is_unread(state: &TableState) -> bool {
    state.phase == TablePhase::Snapshot && state.parts.joining.is_empty()
}

/// A table is to be recovered. What was set aside of it is older than the gap: its rows differ, and are read again.
pub(crate) fn marked(checkpoint: &Checkpoint, table: &TableId, state: &TableState) -> Vec<Change> {
    let letters = checkpoint.letters.iter().filter(|(_, letter)| letter.table == *table);
    let mark =
        Change::Mark { table: table.clone(), phase: TablePhase::Recovering, generation: state.generation };
    letters.map(|(&id, _)| Change::RemoveLetter { id }).chain([mark]).collect()
}

/// Whether a table is to be recovered in this run: it lost changes, the user wants it, and its rows can be told apart.
pub(crate) fn is_wanted(context: &Context, table: &TableSchema, phase: TablePhase) -> bool {
    let has_lost = matches!(phase, TablePhase::NeedsSnapshot | TablePhase::Recovering);
    has_lost && context.pipeline.recover.is_some() && table.has_row_key()
}

/// Why a table that has lost changes does not go on in this run.
pub(crate) fn stopped(table: &TableSchema, phase: TablePhase) -> Error {
    let (what, remedy) = match phase {
        TablePhase::Recovering => {
            ("changes of it were lost and its recovery is not finished", RECOVER_OR_READ)
        }
        _ if table.has_row_key() => ("its changes were let go; it needs a new snapshot", RECOVER_OR_READ),
        _ => ("its changes were let go; without a row key it needs a new snapshot", READ_AGAIN),
    };
    Error::new(syncline_core::ErrorKind::Data, what).with_table(&table.id).with_remedy(remedy)
}

const READ_AGAIN: &str = "run again with --prepare truncate";
const RECOVER_OR_READ: &str = "run again with --prepare truncate, which reads it again, or with --recover diff, which compares and repairs it";
