//! `--recover diff`: changes were lost, and the tables come to equal the source all the same, while others write to it.

use std::time::Duration;

use rusqlite::Connection;
use syncline_testkit::compare::sqlite;
use syncline_testkit::postgres::Postgres;
use syncline_testkit::process::Outcome;
use syncline_testkit::workload::chaos::{Chaos, Keyless};
use syncline_testkit::workload::{Writer, shop};

use super::pair::{NAME, Pair, SHOP, wait_until};
use crate::process::{EndsWith, RUN_MAX, Room};

const QUIET: &str = "
    CREATE TABLE quiet (id int PRIMARY KEY, v text UNIQUE, body text);
    INSERT INTO quiet SELECT i, 'v' || i, repeat('x', 50) FROM generate_series(1, 20000) i";
/// What happens to it in the gap: 30 rows change, ten of them hand their unique values round, 20 go, 25 come.
const IN_THE_GAP: &str = "
    UPDATE quiet SET body = 'changed' WHERE id BETWEEN 101 AND 120;
    UPDATE quiet SET v = 'held' WHERE id = 201;
    UPDATE quiet SET v = 'v' || id - 1 WHERE id BETWEEN 202 AND 210;
    UPDATE quiet SET v = 'v210' WHERE id = 201;
    DELETE FROM quiet WHERE id BETWEEN 301 AND 320;
    INSERT INTO quiet SELECT i, 'v' || i, 'new' FROM generate_series(30001, 30025) i";

const DROP_SLOT: &str =
    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'syncline_proof'";

/// What is written to the source while nobody reads, and beside the recovery.
struct Writers(Vec<Writer>);

impl Writers {
    fn start(source: &Postgres, seed: u64) -> Self {
        let chaos = Chaos::new(seed).rows(600).keyless(Keyless::LeftAlone).start(source, SHOP);
        Self(vec![chaos, shop::start(source, SHOP, seed)])
    }

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

/// Tables that are written hard, and a quiet one; all of it copied.
async fn copied(seed: u64) -> Option<Pair> {
    let pair = Pair::start().await?;
    Chaos::new(seed).rows(600).keyless(Keyless::LeftAlone).create(&pair.source, SHOP).await;
    shop::create(&pair.source, SHOP, 300).await;
    pair.source.execute(SHOP, QUIET).await;
    pair.source.execute(SHOP, "ALTER TABLE chaos.loose ADD PRIMARY KEY (item)").await;
    pair.run_well(&[]);
    Some(pair)
}

fn no(bounds: &'static str) -> [&'static str; 4] {
    ["--recover", "diff", "--guard", bounds]
}

/// The phase of a table at the destination.
fn phase(pair: &Pair, table: &str) -> String {
    pair.ask_destination(&format!("SELECT phase FROM syncline.tables WHERE name = '{table}'"))
}

/// Rows of the quiet table that were written since a transaction.
fn written_since(pair: &Pair, transaction: &str) -> String {
    pair.ask_destination(&format!("SELECT count(*) FROM quiet WHERE xmin::text::bigint >= {transaction}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_6_3_a_lost_slot_is_recovered_under_writers_and_what_did_not_change_is_not_written() {
    let Some(pair) = copied(1).await else { return };
    let writers = Writers::start(&pair.source, 1);
    writers.go_on_for(100).await;
    pair.source.execute(SHOP, DROP_SLOT).await;
    pair.source.execute(SHOP, IN_THE_GAP).await;
    writers.go_on_for(300).await;
    // Without the user's word nothing is recovered, and the way is named.
    let refused = pair.run(&[]).ends_with(1);
    assert!(refused.stderr.contains("--recover diff"), "{}", refused.stderr);
    assert_eq!(phase(&pair, "quiet"), "consistent");
    let before = pair.ask_destination("SELECT txid_current()");
    let mut running = pair.sync(&[&no("all=off")[..], &["--follow"]].concat()).start();
    wait_until("all are consistent again", Duration::from_secs(120), || {
        assert!(running.is_running(), "it ended");
        pair.ask_destination("SELECT count(*) FROM syncline.tables WHERE phase <> 'consistent'") == "0"
            && pair.ask_source("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'syncline_proof'")
                == "1"
            && pair.room.status(NAME).unwrap()["status"]["verified"]["tables"]
                .to_string()
                .contains("recovered")
    });
    writers.go_on_for(100).await;
    writers.stop();
    running.terminate();
    let ended = running.wait(Duration::from_secs(60)).ends_with(0);
    let told = "public.quiet: recovered, 25 missing, 20 surplus, 30 changed, 75 repaired";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
    pair.run_well(&[]);
    pair.assert_same().await;
    assert_eq!(written_since(&pair, &before), "55");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_stops_a_recovery_and_a_wider_one_lets_it_pass() {
    let Some(pair) = copied(2).await else { return };
    pair.source.execute(SHOP, DROP_SLOT).await;
    pair.source.execute(SHOP, "DELETE FROM quiet WHERE id <= 5000; UPDATE chaos.item SET number = 0").await;
    let stopped = pair.run(&["--recover", "diff", "--guard", "updates=off"]).ends_with(4);
    assert!(stopped.stdout.contains("5,000 deletes"), "{}", stopped.stdout);
    assert!(stopped.stdout.contains("wider --guard"), "{}", stopped.stdout);
    assert_eq!((phase(&pair, "quiet"), phase(&pair, "item")), ("recovering".into(), "consistent".into()));
    assert_eq!(pair.ask_destination("SELECT count(*) FROM quiet"), "20000");
    // Its changes go on meanwhile; without the user's word it stays as it is, and says so.
    pair.source.execute(SHOP, "UPDATE quiet SET body = 'later' WHERE id > 19990").await;
    let unfinished = pair.run(&[]).ends_with(1);
    assert!(unfinished.stdout.contains("recovery is not finished"), "{}", unfinished.stdout);
    assert_eq!(pair.ask_destination("SELECT count(*) FROM quiet WHERE body = 'later'"), "10");
    pair.run_well(&no("all=off"));
    pair.assert_same().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_lost_its_log_and_a_publication_that_is_gone_are_recovered() {
    let source = Postgres::builder().setting("max_slot_wal_keep_size", "1MB").setting("min_wal_size", "32MB");
    let Some(pair) = Pair::with_source(source.setting("max_wal_size", "32MB")).await else { return };
    pair.source.execute(SHOP, QUIET).await;
    pair.run_well(&[]);
    pair.source.execute(SHOP, IN_THE_GAP).await;
    wait_until("the slot loses its log", Duration::from_secs(60), || {
        pair.ask_source(
            "CREATE TABLE IF NOT EXISTS filler (t text); INSERT INTO filler SELECT repeat(md5(i::text), 20) FROM generate_series(1, 20000) i; DROP TABLE filler; SELECT pg_switch_wal(); CHECKPOINT",
        );
        pair.ask_source("SELECT wal_status FROM pg_replication_slots") == "lost"
    });
    let refused = pair.run(&[]).ends_with(1);
    assert!(
        refused.stderr.contains("lost its log") && refused.stderr.contains("--recover diff"),
        "{}",
        refused.stderr
    );
    pair.run_well(&["--recover", "diff"]);
    pair.assert_same().await;
    pair.source
        .execute(SHOP, "DROP PUBLICATION syncline_proof; UPDATE quiet SET body = 'gone' WHERE id < 10")
        .await;
    let _ = pair.run(&[]).ends_with(1);
    pair.run_well(&["--recover", "diff"]);
    pair.assert_same().await;
    // What was recovered goes on as ever.
    pair.source.execute(SHOP, "UPDATE quiet SET body = 'after' WHERE id < 10").await;
    pair.run_well(&[]);
    pair.assert_same().await;
}

/// A running pipeline whose slot is dropped under it goes on by itself, if that was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_lost_under_a_running_stream_is_recovered() {
    let Some(pair) = copied(3).await else { return };
    let running = pair.follow(&no("all=off"));
    let writers = Writers::start(&pair.source, 3);
    writers.go_on_for(50).await;
    pair.source
        .execute(
            SHOP,
            "BEGIN; SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots; COMMIT; SELECT pg_sleep(0.2)",
        )
        .await;
    wait_until("the slot is dropped", Duration::from_secs(30), || {
        let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL;
                   SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE NOT active";
        pair.ask_source(sql).ends_with('1')
    });
    pair.source.execute(SHOP, IN_THE_GAP).await;
    writers.go_on_for(100).await;
    wait_until("it is recovered", Duration::from_secs(120), || {
        pair.room.status(NAME).unwrap()["status"]["verified"]["tables"].to_string().contains("recovered")
    });
    writers.stop();
    running.terminate();
    let _ = running.wait(Duration::from_secs(60)).ends_with(0);
    pair.run_well(&[]);
    pair.assert_same().await;
}

/// A table without a row key cannot be repaired row by row: it says so, and comes back by a new snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_needs_a_new_snapshot() {
    let Some(pair) = Pair::start().await else { return };
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE t (a int); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1), (1)",
        )
        .await;
    pair.source.execute(SHOP, QUIET).await;
    pair.run_well(&[]);
    pair.source.execute(SHOP, DROP_SLOT).await;
    pair.source.execute(SHOP, "INSERT INTO t VALUES (2)").await;
    pair.source.execute(SHOP, IN_THE_GAP).await;
    let stopped = pair.run(&["--recover", "diff"]).ends_with(1);
    assert!(stopped.stdout.contains("without a row key"), "{}", stopped.stdout);
    assert_eq!((phase(&pair, "t"), phase(&pair, "quiet")), ("needs_snapshot".into(), "consistent".into()));
    pair.run_well(&["--prepare", "truncate"]);
    pair.assert_same().await;
}

/// A table that was let go (left out for a run) comes back by a comparison, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_let_go_is_recovered_instead_of_read_again() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, QUIET).await;
    pair.source.execute(SHOP, "CREATE TABLE other (id int PRIMARY KEY)").await;
    pair.run_well(&[]);
    pair.run_well(&["--exclude", "public.quiet"]);
    pair.source.execute(SHOP, IN_THE_GAP).await;
    let _ = pair.run(&[]).ends_with(1);
    let before = pair.ask_destination("SELECT txid_current()");
    pair.run_well(&["--recover", "diff"]);
    pair.assert_same().await;
    assert_eq!(written_since(&pair, &before), "55");
}

/// A row that was set aside before the gap is compared like any other: what the letter holds is older than the gap.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_from_before_the_gap_does_not_come_back() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, QUIET).await;
    pair.run_well(&[]);
    pair.ask_destination("ALTER TABLE quiet ADD CONSTRAINT no_bad CHECK (body <> 'bad')");
    pair.source.execute(SHOP, "UPDATE quiet SET body = 'bad' WHERE id IN (7, 8)").await;
    pair.run_well(&[]);
    assert_eq!(pair.ask_destination("SELECT count(*) FROM syncline.letters"), "2");
    pair.source.execute(SHOP, DROP_SLOT).await;
    pair.source
        .execute(SHOP, "UPDATE quiet SET body = 'good' WHERE id = 7; DELETE FROM quiet WHERE id = 8")
        .await;
    pair.run_well(&["--recover", "diff"]);
    assert_eq!(pair.ask_destination("SELECT count(*) FROM syncline.letters"), "0");
    pair.ask_destination("ALTER TABLE quiet DROP CONSTRAINT no_bad");
    pair.run_well(&[]);
    pair.assert_same().await;
}

/// SQLite's own ways to lose changes: triggers that somebody drops, and a log that is gone with them.
#[test]
fn sqlite_triggers_and_a_log_that_are_gone_are_recovered() {
    let room = Room::new();
    let source = Connection::open(room.path("a.db")).unwrap();
    let fill =
        "CREATE TABLE item (id INTEGER PRIMARY KEY, code TEXT); CREATE UNIQUE INDEX item_code ON item (code);
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
        INSERT INTO item SELECT i, 'code ' || i FROM n";
    source.execute_batch(fill).unwrap();
    let urls = [room.url("a.db"), room.url("b.db")];
    let sync = ["sync", &urls[0], &urls[1], "--name", "small", "--capture", "triggers"];
    room.run(&sync).ends_with(0);
    let drop_all = |kind: &str| {
        let sql = format!("SELECT name FROM sqlite_schema WHERE type = '{kind}' AND name LIKE '%syncline%'");
        let mut found = source.prepare(&sql).unwrap();
        let names: Vec<String> = found.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        drop(found);
        assert!(!names.is_empty());
        names.iter().for_each(|name| source.execute_batch(&format!("DROP {kind} \"{name}\"")).unwrap());
    };
    for (round, kinds) in [(10, &["trigger"][..]), (20, &["trigger", "table"])] {
        kinds.iter().for_each(|kind| drop_all(kind));
        let gap = format!(
            "UPDATE item SET code = 'changed {round}' WHERE id = {round}; DELETE FROM item WHERE id = {round} + 1;
             INSERT INTO item VALUES ({round} + 10000, 'code ' || ({round} + 1))"
        );
        source.execute_batch(&gap).unwrap();
        let refused = room.run(&sync).ends_with(1);
        let told = format!("{}{}", refused.stdout, refused.stderr);
        assert!(told.contains("--recover diff"), "{told}");
        room.run(&[&sync[..], &["--recover", "diff"]].concat()).ends_with(0);
        sqlite::assert_equal(&room.path("a.db"), &room.path("b.db"));
        source.execute_batch(&format!("UPDATE item SET code = 'after {round}' WHERE id = 1")).unwrap();
        room.run(&sync).ends_with(0);
        sqlite::assert_equal(&room.path("a.db"), &room.path("b.db"));
    }
}

#[cfg(feature = "failpoints")]
mod killed {
    use super::*;

    const SIGKILL: i32 = 9;

    fn killed_at(pair: &Pair, place: &str) -> Outcome {
        let run = pair.sync(&no("all=off")).env("SYNCLINE_FAILPOINT", format!("{place}=kill"));
        let ended = run.run(RUN_MAX);
        assert_eq!(ended.signal(), Some(SIGKILL), "{place} was not passed: {ended:?}");
        ended
    }

    /// Killed at a place, with writers at work before, between and after; then recovered.
    async fn survives(place: &str, seed: u64) {
        let Some(pair) = copied(seed).await else { return };
        let writers = Writers::start(&pair.source, seed);
        pair.source.execute(SHOP, DROP_SLOT).await;
        pair.source.execute(SHOP, IN_THE_GAP).await;
        writers.go_on_for(100).await;
        let _ = killed_at(&pair, place);
        writers.go_on_for(50).await;
        // Nobody calls it consistent: without the user's word the run fails.
        let _ = pair.run(&[]).ends_with(1);
        pair.run_well(&no("all=off"));
        writers.stop();
        pair.run_well(&[]);
        pair.assert_same().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn killed_when_the_new_slot_is_made() {
        survives("gap_slot_made", 11).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn killed_when_what_is_left_of_the_old_one_is_dropped() {
        survives("gap_dropped", 12).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn killed_when_the_journal_is_empty_and_the_lanes_have_not_moved() {
        survives("gap_journal_emptied", 13).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn killed_when_the_tables_are_marked() {
        survives("gap_marked", 14).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn killed_when_some_rows_are_repaired() {
        survives("recovery_repaired", 15).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn killed_when_the_indexes_are_there_and_the_mark_is() {
        survives("recovery_indexed", 16).await;
    }
}

/// What changed after a copy that was made without a stream is in no log of ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_not_streamed_on_as_if_nothing_had_changed() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, QUIET).await;
    pair.run_well(&["--mode", "snapshot"]);
    pair.source.execute(SHOP, IN_THE_GAP).await;
    let refused = pair.run(&[]).ends_with(1);
    assert!(refused.stderr.contains("copied without a stream"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--recover diff"), "{}", refused.stderr);
    pair.assert_nothing_at_source();
    pair.run_well(&["--recover", "diff"]);
    pair.assert_same().await;
    pair.source.execute(SHOP, "DELETE FROM quiet WHERE id < 50").await;
    pair.run_well(&[]);
    pair.assert_same().await;
    // Or it is read again.
    pair.drop_pipeline();
    pair.run_well(&["--mode", "snapshot", "--prepare", "truncate"]);
    pair.source.execute(SHOP, "UPDATE quiet SET body = 'later' WHERE id = 60").await;
    pair.run_well(&["--prepare", "truncate"]);
    pair.assert_same().await;
}
