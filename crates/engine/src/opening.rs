//! The beginning of an attempt: take the pipeline, read its checkpoint, set up the source, and bring tables into it.
//!
//! Order matters. The destination's lock and fence come first, so that nobody else sets up the same source. What refuses
//! comes before what creates. The start position is durable at the destination before the first row is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use syncline_core::error::Context as _;
use syncline_core::{
    Change, Checkpoint, Delta, DestinationSession, Error, ErrorKind, Finding, FinishStep, Lane, LoadIdentity,
    LoadKind, Origin, Part, Position, Prepare, Result, Severity, Standing, StreamRequest, Streams, TableId,
    TablePhase, TableSchema, TableState,
};
use syncline_journal::{Journal, Options};

use crate::attempt::{Attempt, Context};
use crate::gap::{self, gap};
use crate::pipeline::Mode;
use crate::progress::Phase;

/// How often it is looked what the opening of the stream waits for.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// Opens an attempt.
pub(crate) async fn open(context: &Arc<Context>) -> Result<Attempt> {
    let pipeline = &context.pipeline;
    context.board.phase(Phase::Opening);
    let tables =
        discover(context).await.doing(|| format!("reading the tables of {}", pipeline.source.address()))?;
    let holder = syncline_store::this_process()?;
    let session = pipeline.destination.open(&pipeline.name, &holder, &pipeline.schema_map).await;
    let session = session.doing(|| format!("opening {}", pipeline.destination.address()))?;
    let opened = match open_under_lock(context, &session, &tables).await {
        Err(error) if gap::is_recovered(context, &error) => reopen(context, &session, &tables, &error).await,
        opened => opened,
    };
    if opened.is_err() {
        session.close().await;
    }
    opened
}

/// Opens an attempt over a gap.
async fn reopen(
    context: &Arc<Context>,
    session: &Arc<dyn DestinationSession>,
    tables: &BTreeMap<TableId, Arc<TableSchema>>,
    why: &Error,
) -> Result<Attempt> {
    gap::begin_anew(context, session, tables, why).await?;
    open_under_lock(context, session, tables).await
}

async fn open_under_lock(
    context: &Arc<Context>,
    session: &Arc<dyn DestinationSession>,
    tables: &BTreeMap<TableId, Arc<TableSchema>>,
) -> Result<Attempt> {
    let mut checkpoint = session.checkpoint().await?;
    settle_doubt(context, &checkpoint)?;
    if checkpoint.tables.is_empty() && checkpoint.lanes.is_empty() {
        refuse_findings(context, session, tables).await?;
    }
    let mode = context.pipeline.mode;
    if mode == Mode::Snapshot && !checkpoint.lanes.is_empty() {
        return Err(Error::configuration(format!("pipeline {} has a stream", context.pipeline.name))
            .with_remedy("give the snapshot another --name, or leave out --mode snapshot"));
    }
    let holds_rows = |state: &TableState| state.phase != TablePhase::Snapshot || !state.chunks.is_empty();
    if had_no_stream(mode, &checkpoint)
        && checkpoint.tables.values().any(holds_rows)
        && context.pipeline.prepare.is_none()
    {
        return Err(gap("its tables were copied without a stream, and nobody knows what changed since"));
    }
    let origin = match context.pipeline.source.streams().filter(|_| mode.streams()) {
        Some(streams) => {
            mark_holes(context, session, streams, tables, &mut checkpoint).await?;
            Some(open_stream(context, streams, &checkpoint, tables).await?)
        }
        None if mode.streams() => {
            return Err(
                Error::configuration("this source has no change stream").with_remedy("use --mode snapshot")
            );
        }
        None => None,
    };
    let attempt = Attempt::new(Arc::clone(context), Arc::clone(session), tables.clone(), origin, checkpoint);
    bring_in_tables(&attempt).await?;
    if mode.streams() {
        open_journal(&attempt).await?;
    }
    show_tables(&attempt);
    Ok(attempt)
}

/// Whether a stream is to follow a snapshot that was made without one: what changed in between is in no log of ours. Who asks
/// for the stream alone says that the tables are equal now.
fn had_no_stream(mode: Mode, checkpoint: &Checkpoint) -> bool {
    mode.streams() && mode.snapshots() && checkpoint.lanes.is_empty() && !checkpoint.tables.is_empty()
}

async fn discover(context: &Context) -> Result<BTreeMap<TableId, Arc<TableSchema>>> {
    let tables = context.pipeline.source.discover(&context.pipeline.selection).await?;
    if tables.is_empty() {
        return Err(Error::configuration("the selection takes no table")
            .with_remedy("see `syncline discover URL` for what is there"));
    }
    Ok(tables.into_iter().map(|table| (table.id.clone(), Arc::new(table))).collect())
}

/// A commit whose answer was lost: the checkpoint tells whether it stands.
fn settle_doubt(context: &Context, checkpoint: &Checkpoint) -> Result<()> {
    let doubt = context.in_doubt.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let Some((delta, sum)) = doubt else { return Ok(()) };
    match checkpoint.standing(&delta) {
        Standing::Stands => context.board.tally(|total| {
            total.read += sum.read;
            total.applied += sum.applied;
            total.superseded += sum.superseded;
            total.skipped += sum.skipped;
            total.let_go += sum.let_go;
            total.letters += sum.letters;
        }),
        Standing::Fits => {}
        Standing::Neither(misfit) => return Err(Error::from(misfit).context("after a lost answer")),
    }
    Ok(())
}

/// A new pipeline with an error among its findings is refused before anything is made for it.
async fn refuse_findings(
    context: &Context,
    session: &Arc<dyn DestinationSession>,
    tables: &BTreeMap<TableId, Arc<TableSchema>>,
) -> Result<()> {
    let pipeline = &context.pipeline;
    let tables: Vec<_> = tables.values().cloned().collect();
    let mut findings = pipeline.source.check(&pipeline.selection, pipeline.mode.streams()).await?;
    findings.extend(pipeline.destination.check(&tables, &pipeline.schema_map).await?);
    let errors: Vec<Finding> = findings.into_iter().filter(|f| f.severity == Severity::Error).collect();
    let Some(first) = errors.first() else { return Ok(()) };
    session.close().await;
    pipeline.destination.drop_pipeline(&pipeline.name).await?;
    let more = match errors.len() - 1 {
        0 => String::new(),
        n => format!(" (and {n} more: run `syncline check`)"),
    };
    let mut error = Error::configuration(format!("{}{more}", first.message));
    if let Some(table) = &first.table {
        error = error.with_table(table);
    }
    Err(match &first.remedy {
        Some(remedy) => error.with_remedy(remedy.clone()),
        None => error,
    })
}

pub(crate) fn stream_request(
    context: &Context,
    tables: &BTreeMap<TableId, Arc<TableSchema>>,
) -> StreamRequest {
    StreamRequest {
        pipeline: context.pipeline.name.clone(),
        tables: tables.values().cloned().collect(),
        capture_triggers: context.pipeline.capture_triggers,
    }
}

/// Tables that left the selection, or that the source no longer captures (dropped and made again, taken out of the
/// publication by hand), miss changes from now on. That is durable before the source is asked to capture anything else:
/// a table that comes back later must not go on as if nothing had been.
async fn mark_holes(
    context: &Context,
    session: &Arc<dyn DestinationSession>,
    streams: &dyn Streams,
    tables: &BTreeMap<TableId, Arc<TableSchema>>,
    checkpoint: &mut Checkpoint,
) -> Result<()> {
    let name = &context.pipeline.name;
    let captured = streams.captured(name).await.doing(|| "looking at what is captured".to_owned())?;
    let is_whole =
        |id: &TableId| tables.contains_key(id) && captured.as_ref().is_none_or(|known| known.contains(id));
    let holes = checkpoint
        .tables
        .iter()
        .filter(|(id, state)| state.phase != TablePhase::NeedsSnapshot && !is_whole(id));
    let mut changes = Vec::new();
    for (id, state) in holes {
        tracing::warn!(table = %id, "its changes are no longer captured; it needs a new snapshot");
        let lane = Lane::Table(id.clone());
        changes.extend(
            checkpoint.lanes.get(&lane).map(|at| Change::Close { lane: lane.clone(), at: at.clone() }),
        );
        changes.push(Change::Mark {
            table: id.clone(),
            phase: TablePhase::NeedsSnapshot,
            generation: state.generation,
        });
    }
    if changes.is_empty() {
        return Ok(());
    }
    let delta = Delta::of(changes);
    let identity = LoadIdentity { pipeline: name.clone(), lane: Lane::Main, kind: LoadKind::Bookkeeping };
    let _ = session.begin(&identity).await?.commit(&delta).await?;
    checkpoint.apply(&delta).map_err(|misfit| Error::bug(format!("marking holes: {}", misfit.0)))
}

async fn open_stream(
    context: &Context,
    streams: &dyn Streams,
    checkpoint: &Checkpoint,
    tables: &BTreeMap<TableId, Arc<TableSchema>>,
) -> Result<Origin> {
    let origin = set_up_stream(context, streams, tables).await;
    context.board.waiting_for(None);
    let origin = origin.doing(|| "setting up the stream".to_owned())?;
    let Some(known) = &checkpoint.origin else { return Ok(origin) };
    if origin.created {
        streams.drop_pipeline(&context.pipeline.name).await?;
    }
    if origin.created || *known != origin.identity {
        return Err(gap("the source's log is not the one this pipeline has read so far"));
    }
    Ok(origin)
}

/// Sets the stream up. That may wait for transactions of others without end: meanwhile it is said for whom, and a drain
/// ends it.
pub(crate) async fn set_up_stream(
    context: &Context,
    streams: &dyn Streams,
    tables: &BTreeMap<TableId, Arc<TableSchema>>,
) -> Result<Origin> {
    let request = stream_request(context, tables);
    tokio::select! {
        opened = streams.open(&request) => opened,
        never = show_waiting(context, streams) => match never {},
        () = context.control.draining().cancelled() => {
            Err(Error::new(ErrorKind::Cancelled, "stopped as asked"))
        }
    }
}

/// Shows what the opening of the stream waits for, until dropped.
async fn show_waiting(context: &Context, streams: &dyn Streams) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match streams.opening_waits_for(&context.pipeline.name).await {
            Ok(Some(who)) => {
                context.board.phase(Phase::Settling);
                context.board.waiting_for(Some(who));
            }
            Ok(None) => context.board.waiting_for(None),
            // What broke the look breaks the opening too, which returns it.
            Err(error) => tracing::debug!(%error, "it cannot be seen what the opening waits for"),
        }
    }
}

/// Tables that this pipeline does not have yet, or that must be read again, get their lane and their ledger.
async fn bring_in_tables(attempt: &Attempt) -> Result<()> {
    let mut changes = Vec::new();
    let main = attempt.lane_at(&Lane::Main);
    if let (Some(origin), None) = (&attempt.origin, &main) {
        changes.push(Change::Origin(origin.identity.clone()));
        changes.push(Change::Open { lane: Lane::Main, at: origin.confirmed.clone() });
    }
    // Where the main lane stands, also for a table it never had: a renamed one is captured before we know it, so its
    // changes may be in the log from there on. Its chunks, read after everything that ran at the opening, have seen them.
    let begin = main.or_else(|| attempt.origin.as_ref().map(|origin| origin.confirmed.clone()));
    let again =
        snapshot_again(attempt) || had_no_stream(attempt.context.pipeline.mode, &attempt.checkpoint());
    let mut begun = Vec::new();
    for table in attempt.tables.values() {
        match attempt.table_state(&table.id) {
            None => {
                changes.extend(bring_in(attempt, table, begin.as_ref()).await?);
                begun.push(table.id.clone());
            }
            Some(state) if again || reread_wanted(attempt, table, state.phase) => {
                attempt.session.prepare(table, attempt.context.pipeline.prepare).await?;
                // One in recovery may have gone apart.
                let lane = Lane::Table(table.id.clone());
                changes.extend(attempt.lane_at(&lane).map(|at| Change::Close { lane, at }));
                changes.push(Change::Reset { table: table.id.clone(), generation: state.generation + 1 });
                begun.push(table.id.clone());
                changes.extend(open_lane(table, begin.as_ref()));
            }
            Some(state)
                if state.phase == TablePhase::Recovering
                    || gap::is_wanted(&attempt.context, table, state.phase) =>
            {
                // Rows may collide in unique indexes until all of them are right.
                attempt.session.prepare(table, Some(Prepare::Keep)).await?;
                if state.phase != TablePhase::Recovering {
                    changes.extend(gap::marked(&attempt.checkpoint(), &table.id, &state));
                }
            }
            Some(_) => {}
        }
    }
    changes.extend(attempt.parts_now(&begun).await?);
    attempt.commit_changes(Lane::Main, changes).await
}

/// A finished snapshot without a stream is made anew by the next run.
fn snapshot_again(attempt: &Attempt) -> bool {
    let checkpoint = attempt.checkpoint();
    attempt.context.pipeline.mode == Mode::Snapshot
        && attempt.context.board.progress().attempt <= 1
        && attempt
            .tables
            .keys()
            .all(|id| checkpoint.tables.get(id).is_some_and(|state| state.phase == TablePhase::Consistent))
}

fn reread_wanted(attempt: &Attempt, table: &TableSchema, phase: TablePhase) -> bool {
    !gap::is_wanted(&attempt.context, table, phase)
        && matches!(phase, TablePhase::NeedsSnapshot | TablePhase::Recovering)
        && attempt.context.pipeline.prepare.is_some()
}

async fn bring_in(
    attempt: &Attempt,
    table: &Arc<TableSchema>,
    begin: Option<&Position>,
) -> Result<Vec<Change>> {
    let pipeline = &attempt.context.pipeline;
    if pipeline.mode.snapshots() {
        attempt.session.prepare(table, pipeline.prepare).await?;
        let mark = Change::Mark { table: table.id.clone(), phase: TablePhase::Snapshot, generation: 1 };
        return Ok([mark].into_iter().chain(open_lane(table, begin)).collect());
    }
    attempt.session.prepare(table, Some(pipeline.prepare.unwrap_or(Prepare::Keep))).await?;
    attempt.session.finish(table, FinishStep::Key).await?;
    attempt.session.finish(table, FinishStep::Indexes).await?;
    Ok(vec![Change::Mark { table: table.id.clone(), phase: TablePhase::Consistent, generation: 1 }])
}

fn open_lane(table: &TableSchema, begin: Option<&Position>) -> Option<Change> {
    begin.map(|at| Change::Open { lane: Lane::Table(table.id.clone()), at: at.clone() })
}

/// Opens the journal, anew if it is open.
pub(crate) async fn journal_of(context: &Context) -> Result<Journal> {
    if let Some(before) = context.take_journal() {
        before.close().await.doing(|| "closing the journal".to_owned())?;
    }
    let options = Options::new(context.pipeline.journal_dir.clone(), context.pipeline.journal_budget_bytes);
    let journal = Journal::open(options).await.doing(|| "opening the journal".to_owned())?;
    *context.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(journal.clone());
    Ok(journal)
}

/// Fits the journal to the checkpoint.
async fn open_journal(attempt: &Attempt) -> Result<()> {
    let context = &attempt.context;
    let main = attempt.lane_at(&Lane::Main).ok_or_else(|| Error::bug("a stream without a main lane"))?;
    let journal = journal_of(context).await?;
    if journal.end().is_none_or(|end| end < main) {
        start_windows_over(attempt, &main).await?;
        journal.reset(main.clone()).await?;
    }
    if let Some(lane) = lane_set_back(attempt, &journal)? {
        return Err(gap(format!(
            "lane {lane} of the destination stands before changes that were let go after it had them: the destination was set back"
        )));
    }
    let end = journal.end().ok_or_else(|| Error::bug("an opened journal has no end"))?;
    if attempt.origin.as_ref().is_some_and(|origin| origin.confirmed > end) {
        return Err(gap("the source has forgotten changes that were never read"));
    }
    let _ = context.carried.set(end);
    Ok(())
}

/// A lane that stands before the place from which on the journal has everything for it.
fn lane_set_back(attempt: &Attempt, journal: &Journal) -> Result<Option<Lane>> {
    let Some(needs) = journal.freed_by()? else { return Ok(None) };
    let needed = |lane: &Lane| needs.iter().find(|need| need.tables.lane() == *lane).map(|need| &need.after);
    // Then in no lane of its own, a table's changes were the main lane's.
    let main = needed(&Lane::Main);
    let checkpoint = attempt.checkpoint();
    let is_before = |(lane, at): &(&Lane, &Position)| needed(lane).or(main).is_some_and(|after| *at < after);
    Ok(checkpoint.lanes.iter().find(is_before).map(|(lane, _)| lane.clone()))
}

/// The journal ends before the main lane: it is new, was lost, or its last entries were loaded from memory before they
/// were on disk. Tables in their window, whose waiting changes it held, start over at the main lane's place.
async fn start_windows_over(attempt: &Attempt, main: &Position) -> Result<()> {
    let behind: Vec<(TableId, Position)> = {
        let checkpoint = attempt.checkpoint();
        let lanes = checkpoint.lanes.iter().filter(|(_, at)| *at < main);
        lanes
            .filter_map(|(lane, at)| match lane {
                Lane::Table(id) => Some((id.clone(), at.clone())),
                Lane::Main => None,
            })
            .collect()
    };
    for (id, at) in behind {
        let (Some(table), Some(state)) = (attempt.tables.get(&id), attempt.table_state(&id)) else {
            continue;
        };
        tracing::warn!(table = %id, "the journal of the table's window is lost; its snapshot starts over");
        let lane = Lane::Table(id.clone());
        let mut load = attempt.begin(lane.clone(), LoadKind::Bookkeeping).await?;
        load.write(Part::Empty(Arc::clone(table))).await?;
        let mut changes = vec![
            Change::Close { lane: lane.clone(), at },
            Change::Open { lane, at: main.clone() },
            Change::Reset { table: id.clone(), generation: state.generation + 1 },
        ];
        changes.extend(attempt.parts_now(std::slice::from_ref(&id)).await?);
        attempt.commit(load, &Delta::of(changes)).await?;
    }
    Ok(())
}

fn show_tables(attempt: &Attempt) {
    let checkpoint = attempt.checkpoint().clone();
    attempt.context.board.letters(&checkpoint.letters);
    for table in attempt.tables.values() {
        let state = checkpoint.tables.get(&table.id);
        let rows = state.map_or(0, |state| state.chunks.values().map(|chunk| chunk.rows).sum());
        let name = match state.map(|state| state.phase) {
            Some(TablePhase::Consistent) if checkpoint.lanes.contains_key(&Lane::Table(table.id.clone())) => {
                "closing"
            }
            Some(TablePhase::Consistent) if attempt.origin.is_none() => "done",
            Some(TablePhase::Consistent) => "streaming",
            Some(TablePhase::Closing) => "closing",
            Some(TablePhase::Snapshot) | None => "waiting",
            Some(phase @ (TablePhase::NeedsSnapshot | TablePhase::Recovering)) => {
                match gap::is_wanted(&attempt.context, table, phase) {
                    true => "recovering",
                    false => "stopped",
                }
            }
        };
        attempt.context.board.table(&table.id, name, rows, table.rows_estimated);
        if let Some(state) = state.filter(|_| name == "stopped") {
            attempt.context.board.stop_table(&table.id, &gap::stopped(table, state.phase));
        }
    }
}
