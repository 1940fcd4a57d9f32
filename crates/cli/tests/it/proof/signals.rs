//! Ctrl-C and SIGTERM: the first drains and loses nothing, the second stops at once and loses nothing either.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use syncline_testkit::process::Running;
use syncline_testkit::workload::chaos::{Chaos, Rewrites};
use syncline_testkit::workload::shop;

use super::pair::{Pair, SHOP, wait_until};
use crate::process::{EndsWith, RUN_MAX};

const SLOW: &str = "chunk_bytes=size:262144,chunk_read=pause-each:300";

/// The ledger of `chaos.item`, entry by entry.
fn ledger(pair: &Pair) -> BTreeSet<String> {
    if pair.ask_destination("SELECT to_regclass('syncline.chunks') IS NOT NULL") == "f" {
        return BTreeSet::new();
    }
    let entries =
        "SELECT concat_ws(' ', generation, n, range, mark, rows) FROM syncline.chunks WHERE name = 'item'";
    pair.ask_destination(entries).lines().map(str::to_owned).collect()
}

fn start(pair: &Pair, more: &[&str]) -> Running {
    pair.sync(more).env("SYNCLINE_FAILPOINT", SLOW).start()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_snapshot_goes_on_where_it_stopped() {
    let Some(pair) = Pair::start().await else { return };
    let chaos = Chaos::new(5).rows(2_000).rewrites(Rewrites::Never);
    chaos.create(&pair.source, SHOP).await;
    let writer = chaos.start(&pair.source, SHOP);
    let more = ["--snapshot", "resumable", "--workers", "2"];
    let mut before = BTreeSet::new();
    for round in 1_usize..=3 {
        let mut running = start(&pair, &more);
        let wanted = before.len() + 4;
        wait_until("more chunks", RUN_MAX, || {
            assert!(running.is_running(), "ended in round {round}: {}", running.stderr_so_far());
            ledger(&pair).len() >= wanted
        });
        if round == 2 {
            running.terminate();
        } else {
            running.interrupt();
        }
        let ended = running.wait(RUN_MAX).ends_with(0);
        assert!(ended.stdout.contains("stopped as asked"), "{}", ended.stdout);
        let after = ledger(&pair);
        assert!(before.is_subset(&after), "the snapshot began again: {before:?} became {after:?}");
        before = after;
        assert_eq!(pair.room.status("proof").unwrap()["run"]["outcome"], "stopped");
    }
    // The rest, with the writer at work; then all.
    let _ = pair.run_well(&more);
    writer.stop();
    let _ = pair.run_well(&more);
    pair.assert_same().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_at_once() {
    let Some(pair) = Pair::start().await else { return };
    shop::create(&pair.source, SHOP, 1_000).await;
    type Send = fn(&Running);
    for (send, code) in [(Running::interrupt as Send, 130), (Running::terminate as Send, 143)] {
        // A chunk that takes a minute cannot be drained at once.
        let mut running = pair.sync(&[]).env("SYNCLINE_FAILPOINT", "chunk_read=pause-each:60000").start();
        pair.room.wait_for_phase("proof", "snapshot", &mut running);
        send(&running);
        std::thread::sleep(Duration::from_millis(1_500));
        assert!(running.is_running(), "a drain lets loads end");
        let begun = Instant::now();
        send(&running);
        let ended = running.wait(RUN_MAX).ends_with(code);
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
    let _ = pair.run_well(&[]);
    pair.assert_same().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_stopped_again_and_again_loses_nothing() {
    let Some(pair) = Pair::start().await else { return };
    shop::create(&pair.source, SHOP, 500).await;
    let writer = shop::start(&pair.source, SHOP, 5);
    for round in 0..4 {
        let running = pair.follow(&[]);
        writer.wait_until_done(writer.tally().done + 100).await;
        if round % 2 == 0 {
            running.interrupt();
        } else {
            running.terminate();
        }
        let ended = running.wait(RUN_MAX).ends_with(0);
        assert!(ended.stderr.contains("stays"), "{}", ended.stderr);
    }
    writer.stop();
    let _ = pair.run_well(&[]);
    pair.assert_same().await;
    pair.drop_pipeline();
    pair.assert_nothing_left();
}
