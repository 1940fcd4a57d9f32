//! A run: attempts until it is done, drained, or out of patience.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use syncline_core::error::Context as _;
use syncline_core::{Error, ErrorKind, FinishStep, Lane, Position, Reaction, Result, TablePhase};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::attempt::{Attempt, Context};
use crate::board::Board;
use crate::control::Control;
use crate::pipeline::Pipeline;
use crate::progress::{Phase, Progress};
use crate::retry::Backoff;
use crate::summary::{Sum, Summary, TableSummary};
use crate::{chunks, gap, loader, opening, reader, verify};

/// How often observers see new figures.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Runs a pipeline to its end: until everything the source had committed at the start is at the destination, or, if it
/// follows, until it is stopped. Broken connections and restarts are ridden out from the checkpoint.
///
/// # Errors
/// The error that ended the last attempt. Tables that stopped alone are in [`Summary::stopped`] instead.
pub async fn run(pipeline: Pipeline, control: Control, progress: watch::Sender<Progress>) -> Result<Summary> {
    let begun = Instant::now();
    let context = Arc::new(Context {
        pipeline,
        control,
        board: Board::default(),
        journal: Mutex::default(),
        carried: OnceLock::new(),
        target: OnceLock::new(),
        in_doubt: Mutex::default(),
        lanes: Mutex::default(),
        source_end: Mutex::default(),
        verified: Mutex::default(),
    });
    let outcome = {
        let aborted = context.control.aborting().cancelled();
        let showing = show(&context, &progress);
        tokio::select! {
            outcome = attempts(&context) => outcome,
            () = aborted => Err(Error::new(ErrorKind::Cancelled, "stopped at once, as asked")),
            never = showing => match never {},
        }
    };
    let summary = match &outcome {
        Ok(()) => summarise(&context, begun).await,
        Err(_) => Err(Error::bug("unused")),
    };
    if let Some(journal) = context.take_journal() {
        journal.close().await?;
    }
    outcome?;
    context.board.phase(Phase::Done);
    progress.send_replace(context.board.progress());
    summary
}

/// Publishes figures until dropped.
async fn show(context: &Arc<Context>, progress: &watch::Sender<Progress>) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(PROGRESS_EVERY).await;
        if let Some(journal) = context.open_journal() {
            let usage = journal.usage();
            context.board.edit(|progress| {
                progress.journal_bytes = usage.bytes;
                progress.journal_budget_bytes = usage.budget_bytes;
            });
        }
        show_lag(context);
        progress.send_replace(context.board.progress());
    }
}

/// Lag in the source's own measure; while a load is under way, its oldest change's age.
fn show_lag(context: &Context) {
    let source_end = context.source_end.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let main = context.lanes.lock().unwrap_or_else(PoisonError::into_inner).get(&Lane::Main).cloned();
    let (Some(streams), Some(end), Some(at)) = (context.pipeline.source.streams(), source_end, main) else {
        return;
    };
    let behind = if end > at { streams.distance(&at, &end) } else { 0 };
    context.board.edit(|progress| progress.lag_bytes = Some(behind));
    context.board.age_lag(behind == 0);
}

async fn attempts(context: &Arc<Context>) -> Result<()> {
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |d| u64::from(d.subsec_nanos()));
    let mut backoff = Backoff::new(context.pipeline.retry, seed);
    let mut opened = false;
    let mut last_error = None;
    for number in 1.. {
        context.board.attempt(number, last_error.as_ref());
        let before = progress_mark(context);
        let error = match attempt(context, &mut opened).await {
            Ok(()) => return Ok(()),
            Err(error) => gap::with_choices(context, error),
        };
        if error.kind() == ErrorKind::Cancelled && context.control.draining().is_cancelled() {
            return Ok(());
        }
        // A log that is lost under a running stream is made anew when the next attempt opens.
        let goes_on = error.kind().reaction() == Reaction::Retry || gap::is_recovered(context, &error);
        if !goes_on || context.control.draining().is_cancelled() {
            return Err(error);
        }
        if progress_mark(context) != before {
            backoff.reset();
        }
        let Some(delay) = backoff.next(opened, context.pipeline.follow) else { return Err(error) };
        tracing::warn!(error = %error, attempt = number, "the attempt ended; trying again");
        context.board.waiting_for(Some(format!("next attempt in {} ms, after: {error}", delay.as_millis())));
        last_error = Some(error);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = context.control.draining().cancelled() => return Ok(()),
        }
        context.board.waiting_for(None);
    }
    Ok(())
}

/// Changes when there is progress.
fn progress_mark(context: &Context) -> (Sum, u64) {
    (context.board.sum(), context.board.progress().tables.iter().map(|table| table.rows_done).sum())
}

async fn attempt(context: &Arc<Context>, opened: &mut bool) -> Result<()> {
    let attempt = Arc::new(opening::open(context).await?);
    *opened = true;
    let ended =
        if context.pipeline.mode.streams() { stream(&attempt).await } else { snapshot(&attempt).await };
    attempt.session.close().await;
    ended
}

async fn snapshot(attempt: &Arc<Attempt>) -> Result<()> {
    chunks::load_all(attempt).await?;
    if attempt.context.control.draining().is_cancelled() {
        return Ok(());
    }
    for table in attempt.tables_in(TablePhase::Consistent) {
        attempt.session.finish(&table, FinishStep::ForeignKeys).await?;
    }
    Ok(())
}

/// Reader, snapshot workers, verification and loader side by side. The loader's end is the end; the first error ends all.
async fn stream(attempt: &Arc<Attempt>) -> Result<()> {
    set_target(attempt).await?;
    attempt.context.board.phase(Phase::Streaming);
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(reader::read(Arc::clone(attempt), stop.clone()));
    tasks.spawn(load_snapshot(Arc::clone(attempt)));
    tasks.spawn(verify::run(Arc::clone(attempt), stop.clone()));
    tasks.spawn(load(Arc::clone(attempt), stop));
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        outcome =
            ended.unwrap_or_else(|error| Err(Error::bug("a task of the run broke off").with_source(error)));
        if outcome.is_err() {
            break;
        }
    }
    // Nothing of this attempt may still run when the next one begins.
    tasks.shutdown().await;
    outcome
}

async fn load_snapshot(attempt: Arc<Attempt>) -> Result<()> {
    chunks::load_all(&attempt).await
}

async fn load(attempt: Arc<Attempt>, stop: CancellationToken) -> Result<()> {
    let ended = loader::run(attempt).await;
    stop.cancel();
    ended
}

/// What the run must reach, read once: everything that was committed when it started.
async fn set_target(attempt: &Attempt) -> Result<()> {
    let context = &attempt.context;
    if context.target.get().is_none() {
        let end =
            loader::source_end(attempt).await.doing(|| "reading the end of the source's log".to_owned())?;
        let _ = context.target.set(end);
    }
    Ok(())
}

async fn summarise(context: &Arc<Context>, begun: Instant) -> Result<Summary> {
    let name = &context.pipeline.name;
    let mut sum = context.board.sum();
    if context.open_journal().is_some() {
        sum.waiting = waiting(context).await?;
        if !sum.is_complete() {
            return Err(Error::bug(format!("the sum of the run does not come out: {sum:?}")));
        }
    }
    let retained = match context.pipeline.source.streams() {
        Some(streams) if context.pipeline.mode.streams() => streams.retained(name).await.unwrap_or_default(),
        _ => None,
    };
    let progress = context.board.progress();
    let tables = progress.tables.iter().map(|table| TableSummary {
        table: table.table.clone(),
        state: table.state.clone(),
        snapshot_rows: table.rows_done,
    });
    Ok(Summary {
        tables: tables.collect(),
        sum,
        seconds: begun.elapsed().as_secs_f64(),
        retained,
        stopped: context.board.stopped(),
        dead_letters: context.board.table_letters(),
        position: progress.position,
        drained: context.control.draining().is_cancelled(),
        verified: context.last_verified().clone(),
    })
}

/// Changes this run has read that no lane has taken: counted in the journal, not by subtraction, so that the sum can be
/// wrong.
pub(crate) async fn waiting(context: &Arc<Context>) -> Result<u64> {
    let (Some(journal), Some(carried)) = (context.open_journal(), context.carried.get()) else {
        return Ok(0);
    };
    let lanes = context.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let lowest: Position = lanes.values().min().cloned().unwrap_or_default();
    let mut reader = journal.reader(&lowest.max(carried.clone()));
    let (mut waiting, mut pieces) = (0, 0);
    while let Some(entry) = reader.try_next().await? {
        for batch in &entry.batches {
            let lane = lanes.get(&Lane::Table(batch.table.id.clone())).or_else(|| lanes.get(&Lane::Main));
            let taken = lane.is_some_and(|at| *at > entry.to || (*at == entry.to && !entry.is_piece()));
            if !taken {
                pieces += batch.len() as u64;
            }
        }
        // Pieces of a transaction that never closed are not counted as read either: they come again.
        if !entry.is_piece() {
            waiting += std::mem::take(&mut pieces);
        }
    }
    Ok(waiting)
}
