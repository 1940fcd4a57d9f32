//! `verify`: under a live stream, what is on its way is no drift, and drift is found, all of it, and repaired.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;
use syncline_testkit::process::Outcome;
use syncline_testkit::workload::pgbench;

use super::pair::{COPY, NAME, Pair, SHOP, wait_until};
use crate::process::EndsWith;

const TABLES: &str = "
    CREATE TABLE by_int (id int PRIMARY KEY, v text, at timestamptz DEFAULT now());
    CREATE TABLE by_pair (a text, b bigint, v text, PRIMARY KEY (b, a));
    CREATE TABLE by_numeric (id numeric PRIMARY KEY, v text);
    CREATE TABLE by_bytes (id bytea PRIMARY KEY, v text);
    CREATE TABLE keyless (a int, b text); ALTER TABLE keyless REPLICA IDENTITY FULL;
    INSERT INTO by_int SELECT i, 'v' || i FROM generate_series(1, 3000) i;
    INSERT INTO by_pair SELECT 'a' || i % 7, i, 'v' FROM generate_series(1, 3000) i;
    INSERT INTO by_numeric SELECT i + 0.50, 'v' FROM generate_series(1, 3000) i;
    INSERT INTO by_bytes SELECT decode(md5(i::text) || md5('x' || i) || md5('y' || i), 'hex'), 'v' FROM generate_series(1, 3000) i;
    INSERT INTO keyless SELECT i % 500, 'b' || i % 500 FROM generate_series(1, 3000) i";

/// Done to the copy only, of tables with a key.
const PLANTED: &str = "
    UPDATE by_int SET v = 'drift' WHERE id IN (7, 77, 777); DELETE FROM by_int WHERE id IN (5, 2999); INSERT INTO by_int VALUES (9001, 'x');
    UPDATE by_pair SET v = NULL WHERE b = 10; DELETE FROM by_pair WHERE b = 11; UPDATE by_pair SET a = 'A' WHERE b = 12;
    UPDATE by_numeric SET v = 'drift' WHERE id = 17.5; UPDATE by_numeric SET id = 18.500 WHERE id = 18.5;
    DELETE FROM by_bytes WHERE id = (SELECT id FROM by_bytes ORDER BY id LIMIT 1); UPDATE by_bytes SET v = 'drift' WHERE id = (SELECT id FROM by_bytes ORDER BY id DESC LIMIT 1)";

/// What a verification said of each table, by name.
fn tables(outcome: &Outcome) -> BTreeMap<String, Value> {
    let lines =
        outcome.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    let tables = lines.filter(|line| line["event"] == "table");
    tables.map(|line| (line["verified"]["table"]["name"].as_str().unwrap().to_owned(), line)).collect()
}

/// `missing, surplus, changed, repeated`.
fn drift(table: &Value) -> [u64; 4] {
    ["missing", "surplus", "changed", "repeated"]
        .map(|kind| table["verified"]["drift"][kind].as_u64().unwrap())
}

fn number(table: &Value, what: &str) -> u64 {
    table["verified"][what].as_u64().unwrap()
}

/// The keys that are shown.
fn keys(table: &Value) -> BTreeSet<String> {
    let key = |sample: &Value| {
        let values = sample["key"].as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned());
        values.collect::<Vec<_>>().join(",")
    };
    table["samples"].as_array().unwrap().iter().map(key).collect()
}

fn set(values: &[&str]) -> BTreeSet<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn verify(pair: &Pair, more: &[&str]) -> Outcome {
    pair.room.run(&[&["verify", NAME, "--output", "json", "--samples", "1000"], more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_drifted_is_found_and_repaired_and_then_all_is_equal() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, TABLES).await;
    pair.run_well(&[]);
    let equal = pair.room.run(&["verify", NAME]).ends_with(0);
    assert!(equal.stdout.contains("EQUAL: proof, 5 tables"), "{}", equal.stdout);
    // What came since is streamed first, and is no drift.
    pair.source.execute(SHOP, "UPDATE by_int SET v = 'later' WHERE id < 500").await;
    verify(&pair, &[]).ends_with(0);
    pair.destination.execute(COPY, PLANTED).await;
    let found = tables(&verify(&pair, &[]).ends_with(3));
    assert_eq!(drift(&found["by_int"]), [2, 1, 3, 0]);
    assert_eq!(keys(&found["by_int"]), set(&["5", "2999", "9001", "7", "77", "777"]));
    assert_eq!(drift(&found["by_pair"]), [2, 1, 1, 0]);
    assert_eq!(drift(&found["by_numeric"]), [1, 1, 1, 0]);
    assert_eq!(drift(&found["by_bytes"]), [1, 0, 1, 0]);
    assert_eq!(drift(&found["keyless"]), [0; 4]);
    let one = tables(&verify(&pair, &["--table", "by_pair", "--repair"]).ends_with(0));
    assert_eq!(
        (one.len(), drift(&one["by_pair"]), number(&one["by_pair"], "repaired")),
        (1, [2, 1, 1, 0], 4)
    );
    verify(&pair, &["--repair"]).ends_with(0);
    verify(&pair, &[]).ends_with(0);
    pair.assert_same().await;
    // The remembered pipeline is still the one that was said.
    pair.run_well(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_runs_is_asked() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, TABLES).await;
    pair.run_well(&[]);
    let running = pair.follow(&[]);
    verify(&pair, &[]).ends_with(0);
    pair.destination.execute(COPY, PLANTED).await;
    let found = tables(&verify(&pair, &["--table", "by_int"]).ends_with(3));
    assert_eq!(keys(&found["by_int"]), set(&["5", "2999", "9001", "7", "77", "777"]));
    verify(&pair, &["--repair"]).ends_with(0);
    verify(&pair, &[]).ends_with(0);
    let nothing = pair.room.run(&["verify", NAME, "--table", "nothing"]).ends_with(1);
    assert!(nothing.stderr.contains("no table of the pipeline"), "{}", nothing.stderr);
    running.terminate();
    let _ = running.wait(Duration::from_secs(30)).ends_with(0);
    pair.assert_same().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_is_judged_and_not_repaired() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, TABLES).await;
    pair.run_well(&[]);
    pair.destination.execute(COPY, "INSERT INTO keyless VALUES (4, 'b4'), (4, 'b4'), (4, 'b5')").await;
    let found = tables(&verify(&pair, &[]).ends_with(3));
    assert_eq!(drift(&found["keyless"]), [0, 3, 0, 0]);
    let refused = verify(&pair, &["--repair"]).ends_with(4);
    assert!(refused.stdout.contains("it has no row key"), "{}", refused.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_guard_lets_pass_is_not_repaired() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, TABLES).await;
    pair.run_well(&[]);
    pair.destination.execute(COPY, "DELETE FROM by_int WHERE id <= 1000").await;
    let refused = tables(&verify(&pair, &["--repair"]).ends_with(4));
    assert_eq!((drift(&refused["by_int"]), number(&refused["by_int"], "repaired")), ([1000, 0, 0, 0], 0));
    assert_eq!(pair.ask_destination("SELECT count(*) FROM by_int"), "2000");
}

/// `synchronous_standby_names` names a standby that never comes: a commit is in the log, and applied here, long before
/// anybody at the source can see it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_before_it_is_visible_is_no_drift() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, TABLES).await;
    pair.run_well(&[]);
    pair.source.execute(SHOP, "ALTER DATABASE shop SET synchronous_commit = local").await;
    pair.source.execute(SHOP, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    pair.source.execute(SHOP, "SELECT pg_reload_conf()").await;
    let running = pair.follow(&["--verify", "every=1s"]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let writer = pair.source.client(SHOP).await;
    writer.batch_execute("SET synchronous_commit = on").await.unwrap();
    let waiting = tokio::spawn(async move {
        writer.batch_execute("UPDATE by_int SET v = 'held'; UPDATE by_numeric SET v = 'held'").await
    });
    wait_until("what is held is applied", Duration::from_secs(20), || {
        pair.ask_destination("SELECT count(*) FROM by_int WHERE v = 'held'") == "3000"
    });
    assert_eq!(pair.ask_source("SELECT count(*) FROM by_int WHERE v = 'held'"), "0");
    let verified = || pair.room.status(NAME).unwrap_or_default()["status"]["verified"].clone();
    let now = verified()["number"].as_u64().unwrap_or_default();
    // The next one that ends may have begun before; the one after it has not.
    wait_until("a verification", Duration::from_secs(90), || {
        verified()["number"].as_u64().unwrap_or_default() >= now + 2
    });
    let held = verified();
    assert_eq!(held["error"], Value::Null, "{held}");
    for table in held["tables"].as_array().unwrap() {
        assert_eq!(table["drift"]["changed"], 0, "{held}");
    }
    assert!(held["tables"].to_string().contains("\"undecided\":3000"), "{held}");
    pair.source.execute(SHOP, "ALTER SYSTEM RESET synchronous_standby_names").await;
    pair.source.execute(SHOP, "SELECT pg_reload_conf()").await;
    waiting.await.unwrap().unwrap();
    let now = verified()["number"].as_u64().unwrap_or_default();
    wait_until("all is equal", Duration::from_secs(60), || {
        let verified = verified();
        verified["number"].as_u64().unwrap_or_default() >= now + 2
            && !verified["tables"].to_string().contains("\"undecided\":3000")
    });
    running.terminate();
    let ended = running.wait(Duration::from_secs(30)).ends_with(0);
    assert!(!ended.stderr.contains("DRIFT"), "{}", ended.stderr);
    assert!(ended.stderr.contains("verified 5 tables"), "{}", ended.stderr);
}

/// pgbench as it is, one row that every transaction updates, and a table out of its key's order, of which every transaction
/// moves a row to another page.
const HOT: &str = "
    CREATE TABLE hot (id int PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO hot VALUES (1, 0);
    CREATE TABLE moving (id text PRIMARY KEY, pad text);
    INSERT INTO moving SELECT md5(i::text), repeat('x', 300) FROM generate_series(1, 20000) i;
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE hot SET n = n + 1 WHERE id = 1;
        UPDATE moving SET pad = repeat('y', 300 + (random() * 300)::int) WHERE id = md5((1 + (random() * 9999)::int)::text);
        RETURN NULL; END $$;
    CREATE TRIGGER touch AFTER INSERT ON pgbench_history EXECUTE FUNCTION touch()";

/// Many slices of a table, so that rows move from one that was read into one that was not, and back.
const SLICES: &str = "chunk_bytes=size:262144";

/// Verifications of a pipeline that follows pgbench, `runs` of them; then drift in `planted` rows. `more`: options of it.
async fn under_load(runs: u64, planted: u64, more: &[&str]) {
    let Some(pair) = Pair::start().await else { return };
    pgbench::init(&pair.source, SHOP, 1);
    pair.source.execute(SHOP, HOT).await;
    pair.run_well(more);
    let load = pgbench::Load::start(&pair.source, SHOP, 4, Some(400));
    let options = [&["--verify", "every=1s", "--output", "json", "--follow"], more].concat();
    let mut running = pair.sync(&options).env("SYNCLINE_FAILPOINT", SLICES).start();
    pair.room.wait_for_phase(NAME, "streaming", &mut running);
    let verified = || pair.room.status(NAME).unwrap_or_default()["status"]["verified"].clone();
    let of = |verified: &Value| verified["number"].as_u64().unwrap_or_default();
    wait_until("verifications", Duration::from_secs(60 + 30 * runs), || {
        // To ask is to start a process, which takes from the load.
        std::thread::sleep(Duration::from_secs(1));
        of(&verified()) >= runs
    });
    // Rows that no transaction of the load touches, on the destination only.
    let last = of(&verified());
    pair.destination
        .execute(
            COPY,
            &format!(
                "INSERT INTO pgbench_accounts SELECT 100000 + i, 1, 0, 'planted' FROM generate_series(1, {planted}) i;
                 UPDATE moving SET pad = 'planted' WHERE id IN (SELECT md5((10000 + i)::text) FROM generate_series(1, {planted}) i)"
            ),
        )
        .await;
    let found = |verified: &Value, name: &str, kind: &str| {
        let tables = verified["tables"].as_array().cloned().unwrap_or_default();
        let table = tables.iter().find(|table| table["table"]["name"] == name).cloned();
        table.map_or(0, |table| table["drift"][kind].as_u64().unwrap_or_default())
    };
    wait_until("what was planted is found", Duration::from_secs(60), || {
        let verified = verified();
        let in_order = found(&verified, "pgbench_accounts", "surplus");
        of(&verified) > last && in_order == planted && found(&verified, "moving", "changed") == planted
    });
    running.terminate();
    let ended = running.wait(Duration::from_secs(60)).ends_with(0);
    load.stop();
    let mut looked_at = 0;
    let mut undecided = Vec::new();
    let mut numbers = BTreeSet::new();
    for line in ended.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let verified = &line["verified"];
        let number = of(verified);
        if number == 0 || number > runs || !numbers.insert(number) {
            continue;
        }
        assert_eq!(verified["error"], Value::Null, "{verified}");
        for table in verified["tables"].as_array().unwrap() {
            assert_eq!(table["skipped"], Value::Null, "{table}");
            assert_eq!(
                table["drift"].to_string(),
                r#"{"changed":0,"missing":0,"repeated":0,"surplus":0}"#,
                "false drift: {table}"
            );
            looked_at += table["candidates"].as_u64().unwrap();
            undecided.push(table["undecided"].as_u64().unwrap());
        }
    }
    println!(
        "{} verifications under load: {looked_at} rows looked at, {} undecided, no false drift; {planted} planted in each of two tables, all found",
        numbers.len(),
        undecided.iter().sum::<u64>()
    );
    assert_eq!(numbers.len() as u64, runs, "a verification was not told");
    assert!(looked_at > 0, "nothing was under way");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_there_is_no_false_drift_and_what_was_planted_is_found() {
    under_load(5, 100, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: minutes of load"]
async fn under_load_a_hundred_times() {
    // The history has no key and only grows: scanning it again and again would be all there is to measure.
    under_load(100, 100, &["--exclude", "public.pgbench_history"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_and_sqlite_are_verified_and_repaired() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, TABLES).await;
    let (source, file) = (pair.source.url(SHOP), pair.room.url("copy.db"));
    pair.room.run(&["sync", &source, &file, "--name", NAME]).ends_with(0);
    verify(&pair, &[]).ends_with(0);
    let copy = Connection::open(pair.room.path("copy.db")).unwrap();
    copy.execute_batch("UPDATE by_int SET v = 'drift' WHERE id = 7; DELETE FROM by_pair WHERE b = 10")
        .unwrap();
    let repaired = tables(&verify(&pair, &["--repair"]).ends_with(0));
    assert_eq!((drift(&repaired["by_int"]), drift(&repaired["by_pair"])), ([0, 0, 1, 0], [1, 0, 0, 0]));
    verify(&pair, &[]).ends_with(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_verified_is_refused_with_the_remedy() {
    let Some(pair) = Pair::start().await else { return };
    let unknown = pair.room.run(&["verify", NAME]).ends_with(2);
    assert!(unknown.stderr.contains("syncline status"), "{}", unknown.stderr);
    pair.source.execute(SHOP, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let without = pair.run(&["--verify", "every=1h"]).ends_with(2);
    assert!(without.stderr.contains("--follow"), "{}", without.stderr);
    pair.run_well(&[]);
    pair.destination.execute(COPY, "DROP TABLE t").await;
    verify(&pair, &[]).ends_with(2);
}
