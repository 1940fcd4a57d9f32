//! A table that is written hard all the time, a small journal and a slow snapshot: another table's lag stays flat.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use syncline_testkit::process::Running;
use tokio_postgres::Client;

use super::pair::{COPY, NAME, Pair, SHOP};
use crate::process::{EndsWith, RUN_MAX};

const BUDGET: &str = "64MiB";
const BUDGET_BYTES: u64 = 64 << 20;
/// More than a transaction of the hot table takes in the journal.
const TRANSACTION_BYTES_MAX: u64 = 2 << 20;
/// How long the other table is watched.
const WATCHED: Duration = Duration::from_secs(25);
/// How often a row is written to it.
const EVERY: Duration = Duration::from_millis(200);
/// How often the hot table is written to: 101 rows of 1 kB each time. Faster, and one walsender on two busy cores has no
/// time left for anyone; a lag that comes from there says nothing about us.
const HOT_EVERY: Duration = Duration::from_millis(10);
/// 95 of 100 rows are at the destination within this time. A debug build on two busy cores; a table held up by the hot
/// one would take as long as its snapshot.
const P95_MAX: Duration = Duration::from_millis(1_500);

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_table_under_a_slow_snapshot_does_not_hold_up_another() {
    let Some(pair) = Pair::start().await else { return };
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE beat (n int PRIMARY KEY, note text); INSERT INTO beat VALUES (0, 'first');
             CREATE TABLE hot (id int PRIMARY KEY, touched int NOT NULL DEFAULT 0, body text);
             INSERT INTO hot SELECT i, 0, (SELECT string_agg(md5(i::text || g), '') FROM generate_series(1, 30) g)
                 FROM generate_series(1, 20000) i",
        )
        .await;
    let slow = "chunk_bytes=size:524288,chunk_read=pause-each:3000";
    let options = ["--snapshot", "resumable", "--journal-budget", BUDGET, "--workers", "2", "--follow"];
    let mut running = pair.sync(&options).env("SYNCLINE_FAILPOINT", slow).start();
    let writing = Arc::new(AtomicBool::new(true));
    let writer = tokio::spawn(write_hard(pair.source.client(SHOP).await, Arc::clone(&writing)));
    wait_for_beat(&pair, &mut running).await;

    let (mut lags, journal_bytes_max) = watch(&pair).await;
    let hot = "SELECT phase || ' ' || (SELECT count(*) FROM syncline.chunks WHERE name = 'hot')
        FROM syncline.tables WHERE name = 'hot'";
    let hot = pair.ask_destination(hot);
    writing.store(false, Ordering::Relaxed);
    let transactions = writer.await.unwrap();
    let written = pair.ask_source("SELECT pg_size_pretty(pg_current_wal_lsn() - '0/0'::pg_lsn)");
    lags.sort_unstable();
    let at = |percent: usize| lags[(lags.len() - 1) * percent / 100];
    println!(
        "lag of the other table over {} rows: p50 {:?}, p95 {:?}, max {:?}; hot: {transactions} transactions, {hot}; journal at most \
         {journal_bytes_max} bytes; log {written}",
        lags.len(),
        at(50),
        at(95),
        at(100)
    );
    assert!(hot.starts_with("snapshot "), "the snapshot must outlast the watch: {hot}");
    assert!(at(95) < P95_MAX, "p95 is {:?}", at(95));
    assert!(
        journal_bytes_max > BUDGET_BYTES / 8,
        "the journal was never under pressure: {journal_bytes_max}"
    );
    // A transaction that has begun is taken to its end.
    assert!(
        journal_bytes_max <= BUDGET_BYTES + TRANSACTION_BYTES_MAX,
        "the journal holds {journal_bytes_max} bytes"
    );

    running.terminate();
    let _ = running.wait(RUN_MAX).ends_with(0);
    let _ = pair.run_well(&options[..4]);
    pair.assert_same().await;
}

/// Updates many rows, all the time; how many transactions that were.
async fn write_hard(client: Client, writing: Arc<AtomicBool>) -> u64 {
    let mut done = 0;
    let mut beat = tokio::time::interval(HOT_EVERY);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while writing.load(Ordering::Relaxed) {
        let _ = beat.tick().await;
        let from = done * 37 % 19_900;
        let update = format!(
            "UPDATE hot SET touched = touched + 1, body = body || '' WHERE id BETWEEN {from} AND {from} + 100"
        );
        client.batch_execute(&update).await.unwrap();
        done += 1;
    }
    done
}

/// Waits until the other table streams while the hot one is still being read.
async fn wait_for_beat(pair: &Pair, running: &mut Running) {
    let end = Instant::now() + RUN_MAX;
    let (known, phase) = (
        "SELECT to_regclass('syncline.tables') IS NOT NULL",
        "SELECT phase FROM syncline.tables WHERE name = 'beat'",
    );
    while pair.ask_destination(known) == "f" || pair.ask_destination(phase) != "consistent" {
        assert!(running.is_running() && Instant::now() < end, "{}", running.stderr_so_far());
        tokio::time::sleep(EVERY).await;
    }
}

/// Writes rows to the other table and waits for each at the destination; the lags, and the most bytes in the journal.
async fn watch(pair: &Pair) -> (Vec<Duration>, u64) {
    let (source, destination) = (pair.source.client(SHOP).await, pair.destination.client(COPY).await);
    let (mut lags, mut journal_bytes_max) = (Vec::new(), 0);
    let begun = Instant::now();
    let mut n = 0_i32;
    let (mut written, mut asked_at) = (std::collections::VecDeque::new(), Instant::now());
    while begun.elapsed() < WATCHED || !written.is_empty() {
        if begun.elapsed() < WATCHED && begun.elapsed() > EVERY * n.unsigned_abs() {
            n += 1;
            source.execute("INSERT INTO beat VALUES ($1, 'later')", &[&n]).await.unwrap();
            written.push_back((n, Instant::now()));
        }
        let seen: i32 = destination.query_one("SELECT max(n) FROM beat", &[]).await.unwrap().get(0);
        while written.front().is_some_and(|(n, _)| *n <= seen) {
            lags.extend(written.pop_front().map(|(_, at)| at.elapsed()));
        }
        if asked_at.elapsed() > Duration::from_secs(1) {
            asked_at = Instant::now();
            let status = pair.room.status(NAME).unwrap();
            journal_bytes_max =
                journal_bytes_max.max(status["status"]["journal_bytes"].as_u64().unwrap_or(0));
        }
        assert!(begun.elapsed() < WATCHED + RUN_MAX, "rows do not arrive: {written:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (lags, journal_bytes_max)
}
