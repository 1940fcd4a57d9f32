//! From a commit at the source to its being visible at the destination: one writer at a steady rate with
//! `synchronous_commit = on`, one reader that asks again and again, both by the clock of this process.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::measure::Together;
use super::native::{self, Subscription};
use super::pair::{Pair, SOURCE};
use super::scenarios::{Options, Size};
use crate::Outcome;

const OURS: &str = "ours";
const TABLE: &str = "bench.beats";
const BEATS: &str = "CREATE SCHEMA bench; CREATE TABLE bench.beats (id bigint PRIMARY KEY, at timestamptz NOT NULL, note text)";
const COMMITS_PER_SECOND: u32 = 500;
/// Not measured: the way to the end of the log, and the first statements of each session.
const WARM_UP_SECONDS: u32 = 3;
const MAX_ID: &str = "SELECT coalesce(max(id), 0) FROM bench.beats";

struct Side {
    name: &'static str,
    database: &'static str,
    /// Of each round.
    medians: Vec<Duration>,
    all: Vec<Duration>,
    peak_bytes: u64,
}

/// Runs the scenario.
pub(super) fn run(options: &Options) -> Outcome<String> {
    let seconds = match options.size {
        Size::Full => 20,
        Size::Small => 3,
    };
    let pair = Pair::start()?;
    pair.source.psql(SOURCE, BEATS);
    pair.destination.psql("postgres", &format!("CREATE DATABASE {OURS}"));
    let subscription = Subscription::create(&pair, BEATS, TABLE)?;
    subscription.disable(&pair)?;
    let mut sides = [side("syncline", OURS), side("native subscription", native::DATABASE)];
    for round in 0..options.rounds {
        for index in [round % 2, 1 - round % 2] {
            let side = &mut sides[index];
            let mut delays = if index == 0 {
                let mut running = Together::begin();
                running.add(pair.syncline(OURS, &["--table", TABLE, "--follow"])?);
                let delays = measure(&pair, side.database, seconds)?;
                running.stop()?;
                side.peak_bytes = side.peak_bytes.max(running.cost().peak_bytes);
                delays
            } else {
                subscription.enable(&pair);
                let delays = measure(&pair, side.database, seconds)?;
                subscription.disable(&pair)?;
                delays
            };
            delays.sort();
            let median = quantile(&delays, 0.5);
            eprintln!("round {}: {}: p50 {median:?} of {}", round + 1, side.name, delays.len());
            side.medians.push(median);
            side.all.append(&mut delays);
        }
    }
    Ok(report(sides))
}

fn side(name: &'static str, database: &'static str) -> Side {
    Side { name, database, medians: Vec::new(), all: Vec::new(), peak_bytes: 0 }
}

/// Writes for so long beside a reader, and gives the delay of every commit after the warm-up.
fn measure(pair: &Pair, database: &str, seconds: u32) -> Outcome<Vec<Duration>> {
    pair.runtime.block_on(async {
        let (source, destination) =
            (pair.source.client(SOURCE).await, pair.destination.client(database).await);
        let first = max_id(&source).await? + 1;
        let count = COMMITS_PER_SECOND * (seconds + WARM_UP_SECONDS);
        let last = first + i64::from(count) - 1;
        let (committed, seen) =
            tokio::try_join!(write(&source, first..=last), read(&destination, first..=last))?;
        let delays =
            committed.iter().zip(&seen).map(|(commit, seen)| seen.saturating_duration_since(*commit));
        Ok(delays.skip((COMMITS_PER_SECOND * WARM_UP_SECONDS) as usize).collect())
    })
}

/// When each commit was answered.
async fn write(source: &Client, ids: RangeInclusive<i64>) -> Outcome<Vec<Instant>> {
    let insert =
        source.prepare("INSERT INTO bench.beats VALUES ($1, now(), 'beat')").await.map_err(in_words)?;
    let mut interval = tokio::time::interval(Duration::from_secs(1) / COMMITS_PER_SECOND);
    let mut committed = Vec::new();
    for id in ids {
        let _ = interval.tick().await;
        let _ = source.execute(&insert, &[&id]).await.map_err(in_words)?;
        committed.push(Instant::now());
    }
    Ok(committed)
}

/// When each row was first seen.
async fn read(destination: &Client, ids: RangeInclusive<i64>) -> Outcome<Vec<Instant>> {
    let mut seen = Vec::new();
    let mut next = *ids.start();
    // The table appears with the first run.
    while max_id(destination).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let select = destination.prepare(MAX_ID).await.map_err(in_words)?;
    while next <= *ids.end() {
        let newest: i64 = destination.query_one(&select, &[]).await.map_err(in_words)?.get(0);
        while next <= newest {
            seen.push(Instant::now());
            next += 1;
        }
    }
    Ok(seen)
}

async fn max_id(client: &Client) -> Outcome<i64> {
    Ok(client.query_one(MAX_ID, &[]).await.map_err(in_words)?.get(0))
}

fn in_words(error: tokio_postgres::Error) -> String {
    format!("a statement of the measurement failed: {error:?}")
}

fn quantile(sorted: &[Duration], part: f64) -> Duration {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let place = ((sorted.len().saturating_sub(1)) as f64 * part) as usize;
    sorted.get(place).copied().unwrap_or_default()
}

fn report(sides: [Side; 2]) -> String {
    let mut text = format!(
        "### Commit → visible at {COMMITS_PER_SECOND} commits/s, `synchronous_commit = on`\n\n| | p50, median of rounds (min–max) | p95 | p99 | peak memory |\n|---|---|---|---|---|\n"
    );
    let mut medians = Vec::new();
    for mut side in sides {
        side.medians.sort();
        side.all.sort();
        let median = quantile(&side.medians, 0.5);
        let in_ms = |delay: Duration| format!("{:.2} ms", delay.as_secs_f64() * 1e3);
        let (least, most) = (quantile(&side.medians, 0.0), quantile(&side.medians, 1.0));
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {} | {} ({}–{}) | {} | {} | {} |",
            side.name,
            in_ms(median),
            in_ms(least),
            in_ms(most),
            in_ms(quantile(&side.all, 0.95)),
            in_ms(quantile(&side.all, 0.99)),
            if side.peak_bytes > 0 {
                format!("{} MB", side.peak_bytes / 1_000_000)
            } else {
                "–".to_owned()
            },
        );
        medians.push((side.medians.len(), median.as_secs_f64()));
    }
    if let [(rounds, ours), (_, native)] = medians[..] {
        let _ = writeln!(text, "\np50: **{:.2} ×** the native one's, {rounds} pairs.", ours / native);
    }
    text
}
