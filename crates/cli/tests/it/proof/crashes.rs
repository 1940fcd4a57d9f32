//! The crash matrix: SIGKILL at every durable step, at the first and at the third pass of it, with a writer at work; then
//! restart until the end. The end state is equal, and nothing is read or written twice in between that shows.

use std::time::Duration;

use syncline_testkit::process::Outcome;
use syncline_testkit::workload::chaos::{Chaos, Keyless};
use syncline_testkit::workload::{Writer, shop};

use super::pair::{Pair, SHOP};
use crate::process::{EndsWith, RUN_MAX};

const SIGKILL: i32 = 9;

/// So small that little data makes several chunks.
const SMALL_CHUNKS: &str = "chunk_bytes=size:262144";
/// So small that what is written in a moment is far behind and is peeked at in several pieces. The server decodes from the
/// same place for every piece, so this is for short backlogs only.
const SMALL_PEEKS: &str = "far_bytes=size:65536,peek_bytes=size:131072";

/// Writers beside the pipeline.
struct Writers(Vec<Writer>);

impl Writers {
    fn start(pair: &Pair, seed: u64) -> Self {
        let chaos = Chaos::new(seed).rows(600).start(&pair.source, SHOP);
        Self(vec![chaos, shop::start(&pair.source, SHOP, seed)])
    }

    /// Blocks until each has done so many transactions more.
    async fn go_on_for(&self, transactions: u64) {
        for writer in &self.0 {
            writer.wait_until_done(writer.tally().done + transactions).await;
        }
    }

    fn stop(self) {
        self.0.into_iter().for_each(|writer| {
            writer.stop();
        });
    }
}

async fn filled(seed: u64) -> Option<Pair> {
    let pair = Pair::start().await?;
    // What a writer does while nobody reads must be far behind, and nothing may be analysed meanwhile: a matrix of ways.
    pair.source.execute("postgres", "ALTER SYSTEM SET autovacuum = off").await;
    pair.source.execute("postgres", "SELECT pg_reload_conf()").await;
    Chaos::new(seed).rows(600).create(&pair.source, SHOP).await;
    shop::create(&pair.source, SHOP, 300).await;
    Some(pair)
}

/// One run that is killed at the `n`-th pass of a place.
fn killed_at(pair: &Pair, place: &str, n: u32, more: &[&str]) -> Outcome {
    killed_with(pair, &format!("{SMALL_CHUNKS},{place}=kill@{n}"), more)
}

fn killed_with(pair: &Pair, failpoint: &str, more: &[&str]) -> Outcome {
    let ended = pair.sync(more).env("SYNCLINE_FAILPOINT", failpoint).run(RUN_MAX);
    assert_eq!(ended.signal(), Some(SIGKILL), "{failpoint} was not passed: {ended:?}");
    ended
}

/// Restarts until the end; the first restart must already take over what the dead run held.
fn restart(pair: &Pair, more: &[&str]) {
    let _ = pair.sync(more).env("SYNCLINE_FAILPOINT", SMALL_CHUNKS).run(RUN_MAX).ends_with(0);
}

/// Kills at a place of the snapshot or of the stream, restarts, and lets the writers go on; at last both sides are equal.
async fn survives(place: &str, passes: &[u32], more: &[&str], seed: u64) {
    let Some(pair) = filled(seed).await else { return };
    for &n in passes {
        let writers = Writers::start(&pair, seed + u64::from(n));
        let _ = killed_at(&pair, place, n, more);
        restart(&pair, more);
        writers.go_on_for(50).await;
        writers.stop();
        restart(&pair, more);
        pair.assert_same().await;
        // The next number of passes meets a new pipeline.
        if n != *passes.last().unwrap_or(&0) {
            start_anew(&pair);
        }
    }
}

/// Drops the pipeline and what it loaded.
fn start_anew(pair: &Pair) {
    let _ = pair.drop_pipeline();
    pair.ask_destination("DROP SCHEMA chaos CASCADE; DROP SCHEMA shop CASCADE");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_the_slot_is_made() {
    survives("slot_made", &[1], &[], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_a_chunk_is_read() {
    survives("chunk_read", &[1, 3], &["--snapshot", "resumable"], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_a_chunk_of_one_snapshot_is_read() {
    survives("chunk_read", &[3], &[], 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_a_chunk_is_committed() {
    survives("chunk_committed", &[1, 3], &["--snapshot", "resumable"], 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_a_chunk_of_one_snapshot_is_committed() {
    survives("chunk_committed", &[3], &[], 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_the_journal_is_synced() {
    survives("journal_synced", &[1, 3], &[], 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_a_load_commits() {
    survives("before_commit", &[1, 3], &[], 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_a_commit_and_its_answer() {
    survives("load_committed", &[1, 3], &[], 8).await;
}

/// The same places, when the tables are consistent and only changes come, far behind: peeks, advances, change-over.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_step_of_the_stream() {
    let Some(pair) = filled(9).await else { return };
    restart(&pair, &[]);
    for (place, n) in [
        ("slot_advanced", 1_u64),
        ("slot_advanced", 3),
        ("change_over", 1),
        // Small entries are synced in groups, so a short backlog has one sync for certain.
        ("journal_synced", 1),
        ("before_commit", 1),
        ("before_commit", 3),
        ("load_committed", 1),
        ("load_committed", 3),
    ] {
        let mut writers = Some(Writers::start(&pair, n));
        if let Some(writers) = &writers {
            writers.go_on_for(150).await;
        }
        // The end of the log is not near before the writers rest.
        if place == "change_over"
            && let Some(writers) = writers.take()
        {
            writers.stop();
        }
        // A run that has reached its end by peeks alone needs no walsender; one that follows does.
        let more: &[&str] = if place == "change_over" { &["--follow"] } else { &[] };
        let _ = killed_with(&pair, &format!("{SMALL_PEEKS},{place}=kill@{n}"), more);
        if let Some(writers) = writers {
            writers.stop();
        }
        restart(&pair, &[]);
        pair.assert_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_that_was_killed_half_done_is_finished_by_the_next() {
    let Some(pair) = filled(10).await else { return };
    restart(&pair, &[]);
    let dropping = pair.room.syncline(&["drop", super::pair::NAME]);
    let ended = dropping.env("SYNCLINE_FAILPOINT", "drop_half_done=kill").run(RUN_MAX);
    assert_eq!(ended.signal(), Some(SIGKILL), "{ended:?}");
    let _ = pair.drop_pipeline();
    pair.assert_nothing_left();
    // Dropping what is gone is said to be wrong, and breaks nothing.
    let _ = pair.room.run(&["drop", super::pair::NAME]).ends_with(2);
}

/// The dead holder's sessions are ended by its successor, which neither waits for them nor for a time to pass.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_is_taken_over_at_once() {
    let Some(pair) = filled(11).await else { return };
    let writers = Writers::start(&pair, 11);
    for _ in 0..3 {
        let running = pair.follow(&[]);
        let _ = running.kill_9();
        let begun = std::time::Instant::now();
        let _ = pair.run_well(&[]);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
    writers.stop();
    let _ = pair.run_well(&[]);
    pair.assert_same().await;
}

/// Keys that move while their chunk is read by another snapshot, with a kill between every two steps of the window.
#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_within_one_window() {
    let Some(pair) = filled(12).await else { return };
    let writer = Chaos::new(12).rows(600).keyless(Keyless::LeftAlone).start(&pair.source, SHOP);
    let more = ["--snapshot", "resumable", "--workers", "2"];
    for (place, n) in
        [("chunk_read", 2), ("chunk_committed", 2), ("load_committed", 4), ("journal_synced", 2)]
    {
        let failpoint = format!("{SMALL_CHUNKS},{place}=kill@{n}");
        // A run may be done before it passes the place so often; the next one begins where it ended.
        let _ = pair.sync(&more).env("SYNCLINE_FAILPOINT", failpoint).run(RUN_MAX);
    }
    restart(&pair, &more);
    writer.stop();
    restart(&pair, &more);
    pair.assert_same().await;
}
