//! `diff`: whether two sides are equal, and where not; with `--repair`, the rows that differ are written.
//!
//! | module | what it is for |
//! |---|---|
//! | `outcome` | what became of a table |
//! | `repairs` | guard, plan, approval; the tables that are written |
//! | `queries` | queries of the source that stand for tables |
//! | `report` | every differing row, as a file |
//! | `sides` | the two sides, read here or by agents |
//! | `render` | the text |

mod outcome;
mod queries;
mod render;
mod repairs;
mod report;
mod sides;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use syncline_connectors::registry;
use syncline_core::{ErrorKind, Result};
use syncline_engine::diff::sketches::{Difference, HashKey};
use syncline_engine::diff::{self, Comparison, Pairing, RowsRead, TableDiff, Writer};
use syncline_store::{RunId, RunKind, RunOutcome, Store};

use self::outcome::TableOutcome;
pub(crate) use self::render::{sample_line, shortened};
use self::repairs::Repairs;
use self::report::Report;
use self::sides::Sides;
use crate::args::{DiffArgs, DigestWhere, GlobalArgs, Output};
use crate::exit::{Exit, Failure};
use crate::progress::format::{count, duration, per_second};
use crate::{output, spec, state};

/// A key of one comparison's own: nobody can prepare rows that look alike under it.
pub(crate) fn random_key() -> Result<HashKey> {
    repairs::random_key().map(HashKey::new)
}

/// How often a comparison that lost its snapshot (a table rewritten meanwhile) is begun anew.
const TRIES: u32 = 3;
/// Between two lines of progress.
const TICK: Duration = Duration::from_secs(2);

/// Runs the command: 3 if any table differs, 4 if the guard stopped a repair.
///
/// # Errors
/// As any read; configuration if tables or columns have no counterpart.
pub(crate) async fn run(args: &DiffArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let sides = Sides::open(args).await?;
    let directory = state::directory(&args.state)?;
    let mut repairs = Repairs::new(args, &sides.names(), &directory)?;
    let store = Store::open(&directory)?;
    let name = spec::name_of_diff(&sides.source.address(), &sides.destination.address())?;
    let run = store.begin_run(&name, RunKind::Diff, state::now_ms())?;
    let mut outcomes = Vec::new();
    let ended = compare_all(&sides, args, global, run, &mut repairs, &mut outcomes).await;
    let token = repairs.end().await;
    let kept = keep_run(&store, run, &sides, args, &outcomes, ended.as_ref().err());
    let (token, ()) = (ended.and(token)?, kept?);
    match global.output {
        Output::Text => {
            output::to_stdout(&render::exchanged(&sides.traffic()));
            output::to_stdout(&render::end(&outcomes, token.as_deref(), args));
        }
        Output::Json => output::to_stdout_line(&json!({
            "event": "end", "run": run, "tables": outcomes.len(), "approve": token, "traffic": sides.traffic(),
            "different": outcomes.iter().filter(|outcome| outcome.is_different()).count(),
        })),
    }
    Ok(outcomes.iter().map(TableOutcome::exit).fold(Exit::DONE, Exit::worse))
}

async fn compare_all(
    sides: &Sides,
    args: &DiffArgs,
    global: &GlobalArgs,
    run: RunId,
    repairs: &mut Repairs,
    outcomes: &mut Vec<TableOutcome>,
) -> Result<()> {
    let selection = spec::selection(&args.table, &args.exclude, &args.exclude_column)?;
    let map = spec::schema_map(&args.schema_map)?;
    let mut pairings = diff::pair_tables(&sides.source, &sides.destination, &selection, &map).await?;
    pairings.retain(|pairing| repairs.takes(&pairing.left.id));
    if repairs.writes() {
        let destination = registry::destination(&sides.destination_url)?;
        let own = spec::name_of_diff(&sides.source.address(), &sides.destination.address())?;
        let tables: Vec<_> = pairings.iter().map(|pairing| pairing.left.id.clone()).collect();
        repairs.writer = Some(Writer::new(destination, map, own, run.0, &tables).await?);
    }
    let mut report = args.report.as_deref().map(Report::create).transpose()?;
    for pairing in &pairings {
        let begun = Instant::now();
        let (comparison, diff, difference) = compare(pairing, sides, repairs, args.samples).await?;
        let decision = repairs.decide(&comparison, &diff, &difference, &mut report).await?;
        let unique_not_checked = repairs.take_not_checked();
        let mut outcome = TableOutcome { diff, decision, unique_not_checked };
        match global.output {
            Output::Text => output::to_stdout(&render::table(&outcome, begun.elapsed())),
            Output::Json => output::to_stdout_line(&event(&outcome)),
        }
        outcome.forget_values();
        outcomes.push(outcome);
    }
    report.map_or(Ok(()), Report::end)
}

fn event(outcome: &TableOutcome) -> Value {
    json!({
        "event": "table", "diff": outcome.diff, "decision": outcome.decision,
        "unique_not_checked": outcome.unique_not_checked,
    })
}

/// What `runs show` tells of this run: what it was asked, what it found, decided and wrote; no values of rows.
fn keep_run(
    store: &Store,
    run: RunId,
    sides: &Sides,
    args: &DiffArgs,
    outcomes: &[TableOutcome],
    error: Option<&syncline_core::Error>,
) -> Result<()> {
    let summary = json!({
        "source": sides.source.address(),
        "destination": sides.destination.address(),
        "tables_asked": args.table,
        "queries": args.query,
        "keys": args.key,
        "exclude": args.exclude,
        "exclude_columns": args.exclude_column,
        "schema_map": args.schema_map,
        "repair": args.repair,
        "plan": args.plan,
        "approve": args.approve,
        "guard": args.guard,
        "unique": args.unique,
        "digest_in_database": args.digest == DigestWhere::InDatabase,
        "traffic": sides.traffic(),
        "tables": outcomes,
    });
    let outcome = if error.is_some() { RunOutcome::Failed } else { RunOutcome::Done };
    store.end_run(run, outcome, error.map(ToString::to_string).as_deref(), &summary)
}

/// One table, with its progress on stderr.
async fn compare(
    pairing: &Pairing,
    sides: &Sides,
    repairs: &Repairs,
    samples: usize,
) -> Result<(Comparison, TableDiff, Difference)> {
    let mut tries = 0;
    loop {
        tries += 1;
        let read = RowsRead::default();
        let (source, destination) = (&sides.source, &sides.destination);
        let hash_key = repairs.hash_key();
        let comparison = Comparison::new(pairing, source, destination, &hash_key, readers(), &read);
        let comparison = sides.read_by(comparison)?;
        match with_progress(pairing, &read, comparison.run(samples)).await {
            Err(error) if error.kind() == ErrorKind::Retriable && tries < TRIES => {
                output::to_stderr(&format!("{}: {error}; comparing it again\n", pairing.left.id));
            }
            Err(error) => return Err(error),
            Ok((diff, difference)) => return Ok((comparison, diff, difference)),
        }
    }
}

async fn with_progress(
    pairing: &Pairing,
    read: &RowsRead,
    comparing: impl Future<Output = Result<(TableDiff, Difference)>>,
) -> Result<(TableDiff, Difference)> {
    let begun = Instant::now();
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
    tokio::pin!(comparing);
    loop {
        tokio::select! {
            done = &mut comparing => return done,
            _ = tick.tick() => output::to_stderr(&progress(pairing, read, begun.elapsed())),
        }
    }
}

/// `public.users: 1,200,000 and 1,300,000 rows read of about 5,000,000, 600,000 rows/s a side, about 6 s left`.
fn progress(pairing: &Pairing, read: &RowsRead, elapsed: Duration) -> String {
    let (left, right) = (read.left.load(Ordering::Relaxed), read.right.load(Ordering::Relaxed));
    let speed = per_second(left.min(right), elapsed);
    let of = match pairing.left.rows_estimated.max(pairing.right.rows_estimated) {
        Some(rows) if rows >= left.max(right) => {
            let left = (rows - left.min(right)).checked_div(speed);
            let left = left
                .map(|s| format!(", about {} left", duration(Duration::from_secs(s))))
                .unwrap_or_default();
            format!(" of about {}, {} rows/s a side{left}", count(rows), count(speed))
        }
        _ => format!(", {} rows/s a side", count(speed)),
    };
    format!("{}: {} and {} rows read{of}\n", pairing.left.id, count(left), count(right))
}

/// Chunks of a side at the same time: both sides together keep the cores busy.
pub(crate) fn readers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)).min(8)
}
