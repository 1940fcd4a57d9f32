//! The snapshot: chunks of all tables, read and loaded by a bounded number of workers.
//!
//! A chunk commits together with its ledger entry. It is loaded only if its read saw every transaction that the table's
//! lane has applied, and the lane does not move until the load has committed: the worker holds the table's window
//! shared, the loader takes it alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use syncline_core::error::Context as _;
use syncline_core::failpoint;
use syncline_core::source::{ChunkPart, ChunkRead};
use syncline_core::{
    Change, Chunk, ChunkEntry, ChunkPlan, ChunkReader, Delta, Error, FinishStep, Lane, Load, LoadKind,
    Moment, Part, Prepare, Reaction, Result, SnapshotOptions, Snapshots, TablePhase, TableSchema,
};
use tokio::sync::{Semaphore, mpsc};

use crate::attempt::Attempt;
use crate::letters::care::Care;
use crate::letters::clerk::{self, Clerk};
use crate::letters::gathered::Gathered;
use crate::progress::Phase;

/// Chunk pieces on their way from source to destination; each is about a megabyte at most.
const PIECES_IN_FLIGHT_MAX: usize = 4;
/// How often a table may start over in one attempt before that is an error.
const STARTS_MAX: u32 = 20;

/// The workers of a snapshot. Tables come before the chunks of one table: several loads into one table wait for each other
/// at many destinations (PostgreSQL extends a table under a lock), loads into different tables do not.
struct Workers {
    count: usize,
    tables: Semaphore,
    tables_left: AtomicUsize,
}

impl Workers {
    fn new(count: usize, tables: usize) -> Self {
        let count = count.max(1);
        Self { count, tables: Semaphore::new(count), tables_left: AtomicUsize::new(tables) }
    }

    /// Chunks of one table that may be under way now; those of all tables together are no more than the workers.
    fn share(&self) -> usize {
        let tables = self.tables_left.load(Ordering::Relaxed).clamp(1, self.count);
        self.count / tables
    }
}

/// What became of a table's chunks.
enum Outcome {
    Loaded,
    Drained,
    StartOver(String),
}

/// Loads the chunks of all tables in their snapshot phase. Returns when none is left, or when asked to drain.
pub(crate) async fn load_all(attempt: &Arc<Attempt>) -> Result<()> {
    let mut tables = attempt.tables_in(TablePhase::Snapshot);
    // Parts that join a table are the loader's business.
    tables.retain(|table| attempt.table_state(&table.id).is_some_and(|state| state.parts.joining.is_empty()));
    if tables.is_empty() {
        return Ok(());
    }
    let source = Arc::clone(&attempt.context.pipeline.source);
    let Some(snapshots) = source.snapshots() else {
        return Err(
            Error::configuration("this source cannot be snapshotted").with_remedy("use --mode stream")
        );
    };
    if !wait_until_settled(attempt).await? {
        return Ok(());
    }
    attempt.context.board.phase(Phase::Snapshot);
    let workers = Workers::new(attempt.context.pipeline.workers, tables.len());
    let mut running: FuturesUnordered<_> =
        tables.iter().map(|table| load_table(attempt, snapshots, table, &workers)).collect();
    while let Some(done) = running.next().await {
        done?;
    }
    Ok(())
}

/// Reads the parts that join a table, and merges them into what is there.
pub(crate) async fn load_joining(attempt: Arc<Attempt>, table: Arc<TableSchema>) -> Result<()> {
    let source = Arc::clone(&attempt.context.pipeline.source);
    let snapshots = source.snapshots().ok_or_else(|| Error::bug("a window without a snapshot"))?;
    if !wait_until_settled(&attempt).await? {
        return Ok(());
    }
    attempt.session.prepare(&table, Some(Prepare::Keep)).await?;
    let workers = Workers::new(attempt.context.pipeline.workers, 1);
    load_table(&attempt, snapshots, &table, &workers).await
}

/// Waits for transactions that ran when the stream was set up; `false` if asked to drain meanwhile.
pub(crate) async fn wait_until_settled(attempt: &Attempt) -> Result<bool> {
    let (Some(streams), Some(origin)) = (attempt.context.pipeline.source.streams(), &attempt.origin) else {
        return Ok(true);
    };
    let board = &attempt.context.board;
    while let Some(who) = streams.settled(origin).await? {
        board.phase(Phase::Settling);
        board.waiting_for(Some(who));
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
            () = attempt.context.control.draining().cancelled() => return Ok(false),
        }
    }
    board.waiting_for(None);
    Ok(true)
}

async fn load_table(
    attempt: &Arc<Attempt>,
    snapshots: &dyn Snapshots,
    table: &Arc<TableSchema>,
    workers: &Workers,
) -> Result<()> {
    let _permit = workers.tables.acquire().await.map_err(|_| Error::bug("the workers are gone"))?;
    let board = &attempt.context.board;
    board.table_state(&table.id, "snapshot");
    let loaded = loop {
        match load_generations(attempt, snapshots, table, workers).await {
            Err(error) => match attempt.make_missing_part(error).await {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => break Err(error),
            },
            loaded => break loaded,
        }
    };
    let _ = workers.tables_left.fetch_sub(1, Ordering::Relaxed);
    // What the source holds for the table (an exported snapshot) outlives a broken attempt: the next one goes on with it.
    if !matches!(&loaded, Err(error) if error.kind().reaction() == Reaction::Retry) {
        snapshots.finish(&table.id).await;
    }
    let closing = match loaded {
        Ok(true) => close(attempt, table).await,
        Ok(false) => return Ok(()),
        Err(error) => Err(error),
    };
    match closing {
        Err(error) if error.kind().reaction() == Reaction::StopTable => {
            board.stop_table(&table.id, &error.with_table(&table.id));
            attempt.changed.notify_one();
            Ok(())
        }
        other => other.doing(|| format!("snapshot of table {}", table.id)),
    }
}

/// Loads what the plan says until nothing is left (`true`) or the run drains (`false`).
async fn load_generations(
    attempt: &Arc<Attempt>,
    snapshots: &dyn Snapshots,
    table: &Arc<TableSchema>,
    workers: &Workers,
) -> Result<bool> {
    let pipeline = &attempt.context.pipeline;
    let options = SnapshotOptions {
        resumable: pipeline.resumable,
        moment: if pipeline.mode.streams() { Moment::OfTable } else { Moment::OfRun },
        readers: workers.share(),
    };
    let mut starts = 0;
    loop {
        let state =
            attempt.table_state(&table.id).ok_or_else(|| Error::bug("a snapshot of an unknown table"))?;
        // The loader may have given the table up.
        if state.phase != TablePhase::Snapshot {
            return Ok(false);
        }
        let why = match snapshots.plan(table, &state, options).await? {
            ChunkPlan::StartOver(why) => why,
            ChunkPlan::Chunks(chunks) => {
                match load_chunks(attempt, snapshots, table, &chunks, state.generation, workers).await? {
                    Outcome::Loaded => return Ok(true),
                    Outcome::Drained => return Ok(false),
                    Outcome::StartOver(why) => why,
                }
            }
        };
        starts += 1;
        if starts >= STARTS_MAX {
            return Err(Error::conflict(format!("the snapshot started over {STARTS_MAX} times, at last: {why}"))
                .with_remedy("keep VACUUM FULL, CLUSTER and rewriting ALTERs away from the table meanwhile, or use --snapshot resumable"));
        }
        tracing::warn!(table = %table.id, why, "the snapshot starts over");
        snapshots.finish(&table.id).await;
        start_over(attempt, table, state.generation + 1).await?;
    }
}

/// One commit empties the table, resets its ledger and raises its generation; not if the table was given up.
pub(crate) async fn start_over(attempt: &Attempt, table: &Arc<TableSchema>, generation: u32) -> Result<()> {
    let _phases = attempt.phases.lock().await;
    if attempt.phase_of(&table.id) == Some(TablePhase::NeedsSnapshot) {
        return Ok(());
    }
    let lane = Lane::Table(table.id.clone());
    let mut load = attempt.begin(lane, LoadKind::Bookkeeping).await?;
    load.write(Part::Empty(Arc::clone(table))).await?;
    let mut changes = vec![Change::Reset { table: table.id.clone(), generation }];
    changes.extend(attempt.parts_now(std::slice::from_ref(&table.id)).await?);
    attempt.commit(load, &Delta::of(changes)).await?;
    attempt.context.board.table(&table.id, "snapshot", 0, table.rows_estimated);
    Ok(())
}

async fn load_chunks(
    attempt: &Arc<Attempt>,
    snapshots: &dyn Snapshots,
    table: &Arc<TableSchema>,
    chunks: &[Chunk],
    generation: u32,
    workers: &Workers,
) -> Result<Outcome> {
    let mut running: FuturesUnordered<_> = FuturesUnordered::new();
    let mut waiting = chunks.iter();
    let mut outcome = Outcome::Loaded;
    loop {
        let may_start = matches!(outcome, Outcome::Loaded);
        let next = if may_start && running.len() < workers.share() { waiting.next() } else { None };
        if let Some(chunk) = next {
            running.push(load_chunk(attempt, snapshots, table, chunk, generation));
            continue;
        }
        match running.next().await {
            None => return Ok(outcome),
            Some(Ok(Outcome::Loaded)) => {}
            Some(Ok(Outcome::Drained)) if may_start => outcome = Outcome::Drained,
            Some(Ok(Outcome::Drained)) => {}
            Some(Ok(Outcome::StartOver(why))) => outcome = Outcome::StartOver(why),
            Some(Err(error)) => return Err(error),
        }
    }
}

async fn load_chunk(
    attempt: &Arc<Attempt>,
    snapshots: &dyn Snapshots,
    table: &Arc<TableSchema>,
    chunk: &Chunk,
    generation: u32,
) -> Result<Outcome> {
    let mut care = Care::Usual;
    loop {
        if attempt.context.control.draining().is_cancelled() || attempt.context.board.is_stopped(&table.id) {
            return Ok(Outcome::Drained);
        }
        let window =
            attempt.windows.get(&table.id).ok_or_else(|| Error::bug("a chunk of an unknown table"))?;
        let applied = window.read().await;
        let mut reader = match snapshots.read(table, chunk).await? {
            ChunkRead::Reading(reader) => reader,
            ChunkRead::StartOver(why) => return Ok(Outcome::StartOver(why)),
        };
        if !snapshots.saw(reader.mark(), &applied.transactions())? {
            drop(applied);
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        failpoint::pass("chunk_read").await?;
        attempt.watch.touch_table(&table.id);
        let entry = ChunkEntry { range: chunk.range.clone(), mark: reader.mark().0.clone(), rows: 0 };
        let change = Change::Chunk { table: table.id.clone(), generation, n: chunk.n, entry };
        let loaded = load_read(attempt, snapshots, table, reader.as_mut(), change, &care).await;
        drop(applied);
        let Err(error) = loaded else {
            failpoint::hit("chunk_committed")?;
            return Ok(Outcome::Loaded);
        };
        // It is read once more, and those of its rows that are at fault are set aside.
        care = care.after(attempt, &error).ok_or(error)?;
    }
}

/// Loads a chunk that is being read, with its entry in the ledger.
async fn load_read(
    attempt: &Arc<Attempt>,
    snapshots: &dyn Snapshots,
    table: &Arc<TableSchema>,
    reader: &mut dyn ChunkReader,
    entered: Change,
    care: &Care,
) -> Result<()> {
    let Change::Chunk { generation, n, .. } = entered else {
        return Err(Error::bug("a chunk without an entry"));
    };
    let kind = LoadKind::Chunk { table: table.id.clone(), generation, n };
    let load = attempt.begin(Lane::Table(table.id.clone()), kind).await?;
    let mut changes = vec![entered];
    let position = attempt.checkpoint().position_of(&table.id).cloned().unwrap_or_default();
    let mut clerk = Clerk::new(attempt, position);
    let load = match care {
        Care::Usual => carry(table, reader, load).await?,
        Care::Sift | Care::Refer(_) => {
            let mut load = load;
            if care.withholds(&table.id) {
                let _ = load.check_now().await?;
            }
            let load = sift_chunk(&mut clerk, snapshots, table, reader, load).await?;
            let settled = clerk.settle(None).await?;
            clerk::warn_of(&settled.changes);
            changes.extend(settled.changes);
            load
        }
    };
    let durable = attempt.commit_with_letters(load, &Delta::of(changes), &clerk).await?;
    attempt.context.board.rows_done(&table.id, durable.counts.applied);
    Ok(())
}

/// As [`carry`], with each piece offered: rows that are refused are letters.
async fn sift_chunk(
    clerk: &mut Clerk,
    snapshots: &dyn Snapshots,
    table: &Arc<TableSchema>,
    reader: &mut dyn ChunkReader,
    mut load: Box<dyn Load>,
) -> Result<Box<dyn Load>> {
    let mut gathered = Gathered::new(snapshots, table);
    while let Some(piece) = reader.next().await? {
        if let Some(rows) = gathered.take(piece)? {
            clerk.sift_rows(load.as_mut(), table, &rows).await?;
        }
    }
    if let Some(rows) = gathered.end()? {
        clerk.sift_rows(load.as_mut(), table, &rows).await?;
    }
    Ok(load)
}

/// Carries a chunk's pieces to the load; reading and writing overlap.
async fn carry(
    table: &Arc<TableSchema>,
    reader: &mut dyn ChunkReader,
    mut load: Box<dyn Load>,
) -> Result<Box<dyn Load>> {
    let (sender, mut receiver) = mpsc::channel(PIECES_IN_FLIGHT_MAX);
    let reading = async move {
        while let Some(piece) = reader.next().await? {
            if sender.send(piece).await.is_err() {
                break;
            }
        }
        Ok::<(), Error>(())
    };
    let writing = async {
        while let Some(piece) = receiver.recv().await {
            let part = match piece {
                ChunkPart::Rows(rows) => Part::Rows { table: Arc::clone(table), rows },
                ChunkPart::Bulk(bulk) => Part::Bulk { table: Arc::clone(table), bulk },
            };
            load.write(part).await?;
        }
        Ok(load)
    };
    let ((), load) = futures::future::try_join(reading, writing).await?;
    Ok(load)
}

/// All chunks are loaded: build the key and hand the table to the loader.
async fn close(attempt: &Attempt, table: &Arc<TableSchema>) -> Result<()> {
    attempt.context.board.table_state(&table.id, "closing");
    attempt.session.finish(table, FinishStep::Key).await?;
    let generation = attempt.table_state(&table.id).map_or(1, |state| state.generation);
    let followed = attempt.origin.is_some();
    let phase = if followed { TablePhase::Closing } else { TablePhase::Consistent };
    if !followed {
        attempt.session.finish(table, FinishStep::Indexes).await?;
    }
    // The loader may have given the table up meanwhile; that mark must not be overwritten.
    let _phases = attempt.phases.lock().await;
    if attempt.phase_of(&table.id) != Some(TablePhase::Snapshot) {
        return Ok(());
    }
    let mark = Change::Mark { table: table.id.clone(), phase, generation };
    attempt.commit_changes(Lane::Table(table.id.clone()), vec![mark]).await?;
    if !followed {
        attempt.context.board.table_state(&table.id, "done");
    }
    attempt.changed.notify_one();
    Ok(())
}
