//! Two pipelines in a circle over the same table (trap 21). Nothing marks a change as ours, but a row that already is as a
//! change wants it is not written: a change goes round once and comes to rest.
//!
//! This holds for rows that are left alone while their change goes round. A row that is written again meanwhile is met by
//! its own older state coming back.

use std::time::{Duration, Instant};

use syncline_testkit::process::{Running, Syncline};

use super::pair::{COPY, Pair, SHOP, wait_until};
use crate::process::{EndsWith, RUN_MAX};

const BACK: &str = "back";
/// Nothing is written for so long: at rest. Both pipelines look at the log several times in it.
const REST: Duration = Duration::from_secs(3);

/// Far more log than the notes of so long a time take, with a page or two after a checkpoint.
const NOTES_BYTES_MAX: u64 = 128 << 10;

/// The other half of the circle: what changes in the copy, to the shop.
fn back(pair: &Pair) -> Syncline {
    let (from, to) = (pair.destination.url(COPY), pair.source.url(SHOP));
    let table = ["--mode", "stream", "--table", "public.item", "--follow"];
    let base = ["sync", &from, &to, "--name", BACK];
    pair.room.syncline(&base.iter().chain(&table).copied().collect::<Vec<_>>())
}

/// How far the logs of both have come, in bytes.
fn logs(pair: &Pair) -> (u64, u64) {
    let sql = "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn";
    (pair.ask_source(sql).parse().unwrap(), pair.ask_destination(sql).parse().unwrap())
}

/// Rows written so far, at the shop and at the copy, by whomever.
fn written(pair: &Pair) -> (u64, u64) {
    let sql = "SELECT n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE relname = 'item'";
    (pair.ask_source(sql).parse().unwrap(), pair.ask_destination(sql).parse().unwrap())
}

/// Waits until this many more rows are written on both sides, and sees that it stays so.
#[track_caller]
fn comes_to_rest(pair: &Pair, halves: &mut [Running; 2], since: (u64, u64), rows: u64) -> (u64, u64) {
    let wanted = (since.0 + rows, since.1 + rows);
    let (mut last, mut still_since) = (written(pair), Instant::now());
    wait_until("rest", RUN_MAX, || {
        assert!(halves.iter_mut().all(Running::is_running), "a half ended");
        let now = written(pair);
        assert!(now.0 <= wanted.0 && now.1 <= wanted.1, "{now:?} rows were written, not {wanted:?}");
        if now != last {
            (last, still_since) = (now, Instant::now());
        }
        now == wanted && still_since.elapsed() >= REST
    });
    wanted
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_21_a_change_goes_round_a_circle_once_and_comes_to_rest() {
    let Some(pair) = Pair::start().await else { return };
    let table = "CREATE TABLE item (id int PRIMARY KEY, name text, price numeric, body text);
        INSERT INTO item SELECT i, 'item ' || i, i, repeat(md5(i::text), 100) FROM generate_series(1, 300) i";
    pair.source.execute(SHOP, table).await;
    let options = ["--table", "public.item"];
    let there = pair.follow(&options);
    let mut again = back(&pair).start();
    pair.room.wait_for_phase(BACK, "streaming", &mut again);
    let mut halves = [there, again];
    let at = written(&pair);
    // The counts are of the statistics, which come a moment later.
    wait_until("the copy to be counted", RUN_MAX, || written(&pair) == (300, 300));
    let at = comes_to_rest(&pair, &mut halves, at.max((300, 300)), 0);

    // 10 new, 20 changed, 5 gone, 3 under another key (which may be written as one row or as two).
    let changes = |from: u32| {
        let key = |n: u32| from + n;
        format!(
            "BEGIN; INSERT INTO item SELECT {} + i, 'new', i, 'new' FROM generate_series(1, 10) i;
             UPDATE item SET price = price + 0.50 WHERE id BETWEEN {} AND {};
             DELETE FROM item WHERE id BETWEEN {} AND {}; COMMIT",
            from + 1_000,
            key(1),
            key(20),
            key(31),
            key(35)
        )
    };
    pair.source.execute(SHOP, &changes(0)).await;
    let at = comes_to_rest(&pair, &mut halves, at, 35);
    pair.destination.execute(COPY, &changes(100)).await;
    let at = comes_to_rest(&pair, &mut halves, at, 35);
    pair.assert_same().await;

    // Both sides at once, other rows; values that only look the same; TOAST that is not in the change.
    pair.source.execute(SHOP, "UPDATE item SET name = 'here' WHERE id BETWEEN 201 AND 210").await;
    pair.destination.execute(COPY, "UPDATE item SET price = price + 0.00 WHERE id BETWEEN 211 AND 220").await;
    let _ = comes_to_rest(&pair, &mut halves, at, 20);
    pair.assert_same().await;

    // Each half's own note of how far it is wakes the other, once a second; nothing else is in the logs any more.
    let before = logs(&pair);
    std::thread::sleep(REST);
    let after = logs(&pair);
    for (before, after) in [(before.0, after.0), (before.1, after.1)] {
        assert!(after - before < NOTES_BYTES_MAX, "{} bytes of log at rest", after - before);
    }
    for half in halves {
        half.terminate();
        let _ = half.wait(RUN_MAX).ends_with(0);
    }
    pair.assert_same().await;
    let _ = pair.room.run(&["drop", BACK]).ends_with(0);
    let _ = pair.drop_pipeline();
    pair.assert_nothing_left();
}
