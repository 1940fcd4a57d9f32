//! Kinds of tables: partitioned, without a key, changed in number or in their definition while the pipeline lives.

use syncline_testkit::compare::postgres::{Comparison, Definitions};
use syncline_testkit::process::Running;

use super::pair::{COPY, NAME, Pair, SHOP, wait_until};
use crate::process::{EndsWith, RUN_MAX};

#[tokio::test(flavor = "multi_thread")]
async fn partitioned_tables_arrive_with_their_partitions_and_rows_that_move_between_them() {
    let Some(pair) = Pair::start().await else { return };
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE event (id int, at date, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
             CREATE TABLE event_2024 PARTITION OF event FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
             CREATE TABLE event_2025 PARTITION OF event FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (id);
             CREATE TABLE event_2025_odd PARTITION OF event_2025 FOR VALUES IN (1, 3, 5, 7, 9);
             CREATE TABLE event_2025_rest PARTITION OF event_2025 DEFAULT;
             CREATE INDEX ON event (note);
             INSERT INTO event SELECT i % 100, date '2024-01-01' + i % 730, 'note ' || i FROM generate_series(1, 3000) i
                 ON CONFLICT DO NOTHING",
        )
        .await;
    pair.run_well(&[]);
    let comparison = Comparison::new().definitions(Definitions::Indexes);
    pair.assert_equal(&comparison).await;
    let partitions = "SELECT count(*) FROM pg_partition_tree('event') WHERE isleaf";
    assert_eq!(pair.ask_destination(partitions), "3");
    pair.source
        .execute(
            SHOP,
            "UPDATE event SET at = at + 365 WHERE id = 3 AND at < '2024-06-01';
             DELETE FROM event WHERE id = 9; UPDATE event SET note = 'changed' WHERE id = 50;
             CREATE TABLE event_2026 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
             INSERT INTO event SELECT i, '2026-05-05', 'later' FROM generate_series(1, 50) i",
        )
        .await;
    pair.run_well(&[]);
    pair.assert_equal(&comparison).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_loses_exactly_the_rows_that_were_deleted() {
    let Some(pair) = Pair::start().await else { return };
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE loose (a int, b text, c numeric); ALTER TABLE loose REPLICA IDENTITY FULL;
             INSERT INTO loose SELECT i % 20, CASE WHEN i % 3 > 0 THEN 'b' END, 1.0 FROM generate_series(1, 1000) i",
        )
        .await;
    pair.run_well(&[]);
    pair.assert_equal(&Comparison::new()).await;
    pair.source
        .execute(
            SHOP,
            "DELETE FROM loose WHERE ctid IN (SELECT ctid FROM loose WHERE a = 3 LIMIT 7);
             UPDATE loose SET c = 1.00 WHERE ctid IN (SELECT ctid FROM loose WHERE a = 4 LIMIT 5);
             UPDATE loose SET b = NULL WHERE ctid IN (SELECT ctid FROM loose WHERE a = 5 LIMIT 5);
             DELETE FROM loose WHERE ctid IN (SELECT ctid FROM loose WHERE b IS NULL LIMIT 11);
             INSERT INTO loose VALUES (1, 'b', 1.0), (1, 'b', 1.0), (NULL, NULL, NULL)",
        )
        .await;
    pair.run_well(&[]);
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_appear_later_are_taken_and_tables_that_go_are_left() {
    let Some(pair) = Pair::start().await else { return };
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE first (id int PRIMARY KEY); INSERT INTO first SELECT generate_series(1, 300)",
        )
        .await;
    pair.run_well(&[]);
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE second (id int PRIMARY KEY, first int REFERENCES first);
             INSERT INTO second SELECT i, i FROM generate_series(1, 200) i; DELETE FROM first WHERE id > 250",
        )
        .await;
    pair.run_well(&[]);
    pair.assert_same().await;
    pair.source
        .execute(SHOP, "UPDATE second SET first = 1 WHERE id < 50; INSERT INTO first VALUES (1000)")
        .await;
    pair.run_well(&[]);
    pair.assert_same().await;
    let frozen = pair.ask_destination("SELECT count(*), sum(first) FROM second");
    pair.source.execute(SHOP, "DELETE FROM second WHERE id < 100; DELETE FROM first WHERE id = 1000").await;
    pair.run_well(&["--exclude", "public.second"]);
    pair.assert_equal(&Comparison::new().except("public.second")).await;
    assert_eq!(pair.ask_destination("SELECT count(*), sum(first) FROM second"), frozen);
}

/// Trap 7: what was not captured for a while does not go on as if nothing had been.
#[tokio::test(flavor = "multi_thread")]
async fn trap_7_a_table_left_out_for_one_run_needs_a_new_snapshot() {
    let Some(pair) = two_tables().await else { return };
    pair.run_well(&["--exclude", "public.other"]);
    pair.source.execute(SHOP, "DELETE FROM other WHERE id < 10; INSERT INTO item VALUES (1000, 'x')").await;
    pair.run_well(&["--exclude", "public.other"]);
    assert_stopped_until_prepared(&pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_7_a_table_made_again_while_nobody_read_needs_a_new_snapshot() {
    let Some(pair) = two_tables().await else { return };
    pair.source.execute(SHOP, "DROP TABLE other; CREATE TABLE other (id int PRIMARY KEY, note text)").await;
    pair.source
        .execute(SHOP, "INSERT INTO other SELECT i, 'again' FROM generate_series(50, 90) i; DELETE FROM item WHERE id = 5")
        .await;
    assert_stopped_until_prepared(&pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_7_a_table_made_again_under_a_running_stream_is_noticed() {
    let Some(pair) = two_tables().await else { return };
    let mut running = pair.sync(&["--follow"]).env("SYNCLINE_FAILPOINT", "watch_every_ms=size:200").start();
    pair.room.wait_for_phase(NAME, "streaming", &mut running);
    pair.source.execute(SHOP, "DROP TABLE other; CREATE TABLE other (id int PRIMARY KEY, note text)").await;
    pair.source
        .execute(SHOP, "INSERT INTO other VALUES (7, 'again'); INSERT INTO item VALUES (2000, 'goes on')")
        .await;
    running.wait_for_output("public.other", RUN_MAX);
    wait_until("the other table goes on", RUN_MAX, || {
        pair.ask_destination("SELECT count(*) FROM item WHERE id = 2000") == "1"
    });
    running.terminate();
    let ended = running.wait(RUN_MAX).ends_with(1);
    assert!(ended.stderr.contains("--prepare"), "{}", ended.stderr);
    assert_stopped_until_prepared(&pair).await;
}

/// The publication goes with a renamed table, so its changes under the new name were in the log before the pipeline knew
/// it: its window begins where the main lane stands, and they are counted there.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_renamed_between_runs_is_a_new_one_and_every_change_is_counted() {
    let Some(pair) = two_tables().await else { return };
    let rename = "ALTER TABLE other RENAME TO another; UPDATE another SET note = 'since' WHERE id < 5;
        DELETE FROM another WHERE id = 9; DELETE FROM item WHERE id = 3";
    pair.source.execute(SHOP, rename).await;
    // More than the stream hands over at once, so that some of it is an entry of its own.
    for thousand in 1..=6 {
        let insert = format!(
            "INSERT INTO another SELECT i, repeat('x', 3000) FROM generate_series({thousand}000, {thousand}299) i"
        );
        pair.source.execute(SHOP, &insert).await;
    }
    let ended = pair.run_well(&["--output", "json"]);
    let summary: serde_json::Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert!(summary["summary"]["sum"]["read"].as_u64() > Some(1_800), "{summary}");
    pair.destination.execute(COPY, "DROP TABLE other").await;
    pair.assert_same().await;
    pair.source.execute(SHOP, "UPDATE another SET note = 'later' WHERE id > 6250").await;
    pair.run_well(&[]);
    pair.assert_same().await;
}

/// Tables `item` and `other`, equal at both sides.
async fn two_tables() -> Option<Pair> {
    let pair = Pair::start().await?;
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE item (id int PRIMARY KEY, note text); CREATE TABLE other (id int PRIMARY KEY, note text);
             INSERT INTO item SELECT i, 'note' FROM generate_series(1, 100) i; INSERT INTO other SELECT * FROM item",
        )
        .await;
    pair.run_well(&[]);
    pair.assert_same().await;
    Some(pair)
}

/// A run says that `other` needs a snapshot and carries the rest; `--prepare` brings it back.
async fn assert_stopped_until_prepared(pair: &Pair) {
    let ended = pair.run(&[]).ends_with(1);
    assert!(ended.stderr.contains("public.other: stopped"), "{}", ended.stderr);
    assert!(ended.stderr.contains("remedy: run again with --prepare"), "{}", ended.stderr);
    pair.assert_equal(&Comparison::new().except("public.other")).await;
    pair.run_well(&["--prepare", "truncate"]);
    pair.assert_same().await;
    pair.source.execute(SHOP, "UPDATE other SET note = 'live'; UPDATE item SET note = 'live'").await;
    pair.run_well(&[]);
    pair.assert_same().await;
}

const PEOPLE: &str = "CREATE TYPE mood AS ENUM ('sad', 'fine'); CREATE TABLE person (id int PRIMARY KEY, mood mood);
    CREATE TABLE pet (id int PRIMARY KEY, name text); INSERT INTO person SELECT i, 'sad' FROM generate_series(1, 100) i;
    INSERT INTO pet SELECT i, 'pet ' || i FROM generate_series(1, 100) i";
/// A label that the destination does not know, in rows of its own, in a changed row, and beside rows that have nothing new.
const HAPPY: &str = "INSERT INTO person VALUES (101, 'fine'); INSERT INTO person VALUES (102, 'happy');
    UPDATE person SET mood = 'happy' WHERE id = 7; DELETE FROM person WHERE id = 8; INSERT INTO pet VALUES (101, 'later')";
/// What is refused then stops its table; that it is set aside otherwise is proven in `letters`.
const NO_LETTERS: [&str; 2] = ["--dead-letters-max", "0"];
const UNHAPPY: &str = "SELECT count(*) FROM person WHERE mood NOT IN ('sad', 'fine') OR mood IS NULL";

/// What the operator is told of a table that stopped: why, and what to do.
#[track_caller]
fn assert_told(told: &str, table: &str, needles: &[&str]) {
    let (_, after) = told.split_once(&format!("{table}: ")).unwrap_or_else(|| panic!("no {table} in {told}"));
    for needle in ["remedy"].iter().chain(needles) {
        assert!(after.contains(needle), "no `{needle}` about {table} in {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_7_a_label_added_to_an_enum_between_runs_stops_its_table_until_it_is_added_there_too() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, PEOPLE).await;
    pair.run_well(&[]);
    pair.source.execute(SHOP, "ALTER TYPE mood ADD VALUE 'happy' BEFORE 'fine'").await;
    pair.source.execute(SHOP, HAPPY).await;
    for _ in 0..2 {
        let ended = pair.run(&NO_LETTERS).ends_with(1);
        assert_told(&ended.stdout, "public.person", &["labels of enums"]);
        assert_eq!(pair.ask_destination(UNHAPPY), "0");
        pair.assert_equal(&Comparison::new().except("public.person")).await;
    }
    pair.ask_destination("ALTER TYPE mood ADD VALUE 'happy' BEFORE 'fine'");
    pair.run_well(&[]);
    pair.assert_same().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_7_a_label_added_to_an_enum_while_following_stops_its_table_alone() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, PEOPLE).await;
    let mut running = pair.follow(&NO_LETTERS);
    pair.source.execute(SHOP, "ALTER TYPE mood ADD VALUE 'happy'").await;
    pair.source.execute(SHOP, HAPPY).await;
    running.wait_for_output("public.person: stopped: ", RUN_MAX);
    others_go_on(&pair, &mut running).await;
    assert_told(&running.stderr_so_far(), "public.person", &["labels of enums"]);
    running.terminate();
    assert_told(&running.wait(RUN_MAX).ends_with(1).stdout, "public.person", &["labels of enums"]);
    assert_eq!(pair.ask_destination(UNHAPPY), "0");
    pair.ask_destination("ALTER TYPE mood ADD VALUE 'happy'");
    pair.run_well(&[]);
    pair.assert_same().await;
}

/// A row of the other table that is written now arrives.
async fn others_go_on(pair: &Pair, running: &mut Running) {
    pair.source.execute(SHOP, "INSERT INTO pet SELECT max(id) + 1, 'and later' FROM pet").await;
    let pets = pair.ask_source("SELECT count(*) FROM pet");
    wait_until("the other table", RUN_MAX, || {
        assert!(running.is_running(), "{}", running.stderr_so_far());
        pair.ask_destination("SELECT count(*) FROM pet") == pets
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_7_a_column_added_while_following_stops_its_table_alone_until_it_is_prepared_anew() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, PEOPLE).await;
    let mut running = pair.follow(&[]);
    pair.source.execute(SHOP, "INSERT INTO person VALUES (200, 'fine')").await;
    pair.source.execute(SHOP, "ALTER TABLE person ADD COLUMN height numeric DEFAULT 1.70").await;
    pair.source
        .execute(SHOP, "UPDATE person SET height = 1.80 WHERE id = 7; DELETE FROM person WHERE id = 8")
        .await;
    running.wait_for_output("public.person: stopped: ", RUN_MAX);
    others_go_on(&pair, &mut running).await;
    assert_told(&running.stderr_so_far(), "public.person", &["--prepare recreate"]);
    // It is written down once a second.
    let status = || pair.room.run(&["status", NAME]).ends_with(0).stdout;
    wait_until("the status", RUN_MAX, || status().contains("stopped "));
    assert_told(&status(), "public.person", &["--prepare recreate"]);
    running.terminate();
    assert_told(&running.wait(RUN_MAX).ends_with(1).stdout, "public.person", &["--prepare recreate"]);
    // Everything before the change of the definition is there, and nothing after it.
    let there = "SELECT count(*), count(*) FILTER (WHERE id IN (7, 8, 200)) FROM person";
    assert_eq!(pair.ask_destination(there), "101|3");

    pair.source
        .execute(SHOP, "INSERT INTO person VALUES (201, 'sad', 1.60); INSERT INTO pet VALUES (300, 'x')")
        .await;
    let ended = pair.run(&[]).ends_with(1);
    assert_told(&ended.stdout, "public.person", &["--prepare"]);
    assert_eq!(pair.ask_destination(there), "101|3");
    pair.assert_equal(&Comparison::new().except("public.person")).await;

    pair.run_well(&["--prepare", "recreate"]);
    pair.assert_same().await;
    pair.source
        .execute(SHOP, "UPDATE person SET height = 2 WHERE id > 90; INSERT INTO person VALUES (202)")
        .await;
    pair.run_well(&[]);
    pair.assert_same().await;
}
