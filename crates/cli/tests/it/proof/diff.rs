//! `diff`: what is found is exactly what was planted, for every kind of key and between families.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use serde_json::Value;
use syncline_testkit::process::Outcome;

use super::pair::{COPY, Pair, SHOP};
use crate::process::{EndsWith, Room};

/// The same on both sides: a table for each kind of key, 3,000 rows each, and one without.
pub(super) const TABLES: &str = "
    CREATE TABLE by_int (id int PRIMARY KEY, name text, amount numeric(12, 2), at timestamptz, extra jsonb);
    CREATE TABLE by_pair (a text, b bigint, note text, PRIMARY KEY (b, a));
    CREATE TABLE by_uuid (id uuid PRIMARY KEY, flags bool[], seen date);
    CREATE TABLE by_bytes (id bytea PRIMARY KEY, note varchar(40));
    CREATE TABLE by_numeric (id numeric PRIMARY KEY, note text);
    CREATE TYPE mood AS ENUM ('sad', 'fine');
    CREATE TABLE moods (id int PRIMARY KEY, m mood, r regclass);
    CREATE TABLE keyless (a int, b text);
    INSERT INTO by_int SELECT i, 'name ' || i, i * 1.01, 'epoch'::timestamptz + i * interval '1 hour', jsonb_build_object('i', i)
        FROM generate_series(1, 3000) i;
    INSERT INTO by_pair SELECT 'a' || i % 7, i, 'note' FROM generate_series(1, 3000) i;
    INSERT INTO by_uuid SELECT md5(i::text)::uuid, ARRAY[i % 2 = 0, NULL], DATE '2000-01-01' + i FROM generate_series(1, 3000) i;
    INSERT INTO by_bytes SELECT decode(md5(i::text) || md5((i + 1)::text) || md5((i + 2)::text), 'hex'), 'note' FROM generate_series(1, 3000) i;
    INSERT INTO by_numeric SELECT i + 0.50, 'note' FROM generate_series(1, 3000) i;
    INSERT INTO moods SELECT i, 'fine', 'pg_class' FROM generate_series(1, 3000) i;
    INSERT INTO keyless SELECT i % 500, 'b' || i % 500 FROM generate_series(1, 3000) i;
    ANALYZE";

/// Done to the copy only.
pub(super) const PLANTED: &str = "
    DELETE FROM by_int WHERE id IN (5, 1500, 3000);
    INSERT INTO by_int VALUES (9001), (9002);
    UPDATE by_int SET amount = amount + 0.01 WHERE id BETWEEN 100 AND 109;
    UPDATE by_int SET name = NULL WHERE id = 7;
    UPDATE by_int SET at = at + interval '1 microsecond' WHERE id = 8;
    UPDATE by_int SET extra = '{\"i\": 9.0}' WHERE id = 9;
    DELETE FROM by_pair WHERE b = 77; UPDATE by_pair SET a = 'A' WHERE b = 78; UPDATE by_pair SET note = '' WHERE b = 79;
    UPDATE by_uuid SET flags = ARRAY[NULL, true] WHERE seen = '2000-01-11';
    DELETE FROM by_bytes WHERE id = decode(md5('10') || md5('11') || md5('12'), 'hex');
    UPDATE by_bytes SET note = 'other' WHERE id = decode(md5('20') || md5('21') || md5('22'), 'hex');
    UPDATE by_numeric SET note = 'other' WHERE id = 17.5; UPDATE by_numeric SET id = 18.500 WHERE id = 18.5;
    UPDATE moods SET m = 'sad', r = 'pg_type' WHERE id = 44;
    DELETE FROM keyless WHERE ctid IN (SELECT ctid FROM keyless WHERE a = 3 LIMIT 2);
    INSERT INTO keyless VALUES (4, 'b4'), (4, 'b4'), (4, 'b4'), (4, 'b5')";

/// The tables of a comparison, by name.
pub(super) fn tables(outcome: &Outcome) -> BTreeMap<String, Value> {
    let lines =
        outcome.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    let tables = lines.filter(|line| line["event"] == "table");
    tables
        .map(|line| (line["diff"]["table"]["name"].as_str().unwrap().to_owned(), line["diff"].clone()))
        .collect()
}

/// `missing, surplus, changed, repeated`.
pub(super) fn counts(table: &Value) -> [u64; 4] {
    ["missing", "surplus", "changed", "repeated"].map(|kind| table["counts"][kind].as_u64().unwrap())
}

/// Keys of a kind among the samples.
fn keys(table: &Value, kind: &str) -> BTreeSet<String> {
    let samples = table["samples"].as_array().unwrap().iter().filter(|sample| sample["kind"] == kind);
    let key = |sample: &Value| {
        let values =
            sample["key"].as_array().unwrap().iter().map(|value| value.as_str().unwrap_or("NULL").to_owned());
        values.collect::<Vec<_>>().join(",")
    };
    samples.map(key).collect()
}

fn set(values: &[&str]) -> BTreeSet<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

pub(super) fn diff(pair: &Pair, more: &[&str]) -> Outcome {
    let (source, copy) = (pair.source.url(SHOP), pair.destination.url(COPY));
    pair.room.run(&[&["diff", &source, &copy], more].concat())
}

pub(super) async fn two_equal_sides() -> Option<Pair> {
    let pair = Pair::start().await?;
    pair.source.execute(SHOP, TABLES).await;
    pair.destination.execute(COPY, TABLES).await;
    Some(pair)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_planted_is_found_and_nothing_else() {
    let Some(pair) = two_equal_sides().await else { return };
    let equal = diff(&pair, &[]).ends_with(0);
    assert!(equal.stdout.contains("EQUAL: 7 tables"), "{}", equal.stdout);
    pair.destination.execute(COPY, PLANTED).await;
    let found = diff(&pair, &["--output", "json", "--samples", "1000"]).ends_with(3);
    let tables = tables(&found);
    let of = |name: &str| counts(&tables[name]);
    assert_eq!(of("by_int"), [3, 2, 13, 0]);
    assert_eq!(keys(&tables["by_int"], "missing"), set(&["5", "1500", "3000"]));
    assert_eq!(keys(&tables["by_int"], "surplus"), set(&["9001", "9002"]));
    let changed = ["100", "101", "102", "103", "104", "105", "106", "107", "108", "109", "7", "8", "9"];
    assert_eq!(keys(&tables["by_int"], "changed"), set(&changed));
    assert_eq!(of("by_pair"), [2, 1, 1, 0]);
    assert_eq!(keys(&tables["by_pair"], "missing"), set(&["77,a0", "78,a1"]));
    assert_eq!(keys(&tables["by_pair"], "surplus"), set(&["78,A"]));
    assert_eq!(of("by_uuid"), [0, 0, 1, 0]);
    assert_eq!(keys(&tables["by_uuid"], "changed"), set(&["d3d94468-02a4-4259-755d-38e6d163e820"]));
    assert_eq!(of("by_bytes"), [1, 0, 1, 0]);
    assert_eq!(tables["by_bytes"]["samples"].as_array().unwrap().len(), 2);
    // 18.5 and 18.500 are two values of one family: a copy that has the other is not the same.
    assert_eq!(of("by_numeric"), [1, 1, 1, 0]);
    assert_eq!(of("moods"), [0, 0, 1, 0]);
    assert_eq!(of("keyless"), [2, 4, 0, 0]);
    assert_eq!(keys(&tables["keyless"], "missing"), set(&["3,b3"]));
    assert_eq!(keys(&tables["keyless"], "surplus"), set(&["4,b4", "4,b5"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_is_shown_with_both_values() {
    let Some(pair) = two_equal_sides().await else { return };
    pair.destination.execute(COPY, "UPDATE by_int SET amount = 9.99, name = NULL WHERE id = 2").await;
    let found = diff(&pair, &["--table", "public.by_int"]).ends_with(3);
    assert!(
        found.stdout.contains("changed   id=2: name NULL → 'name 2', amount 9.99 → 2.02"),
        "{}",
        found.stdout
    );
    // What is excluded is not compared, and other tables are not looked at.
    let excluded = [
        "--table",
        "by_int",
        "--exclude-column",
        "public.by_int.amount",
        "--exclude-column",
        "public.by_int.name",
    ];
    diff(&pair, &excluded).ends_with(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_difference_is_cut_into_ranges() {
    let Some(pair) = Pair::start().await else { return };
    let table = "CREATE TABLE t (id int PRIMARY KEY, v int)";
    pair.source
        .execute(SHOP, &format!("{table}; INSERT INTO t SELECT i, i FROM generate_series(1, 150000) i"))
        .await;
    let half = "INSERT INTO t SELECT i, i FROM generate_series(1, 150000) i WHERE i % 3 > 0";
    pair.destination.execute(COPY, &format!("{table}; {half}; UPDATE t SET v = 0 WHERE id <= 30000")).await;
    let found = tables(&diff(&pair, &["--output", "json"]).ends_with(3));
    assert_eq!(counts(&found["t"]), [50_000, 0, 20_000, 0]);
    assert!(found["t"]["scans"].as_u64().unwrap() > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_counterpart_is_refused_with_the_remedy() {
    let Some(pair) = two_equal_sides().await else { return };
    pair.destination.execute(COPY, "ALTER TABLE by_int DROP COLUMN extra").await;
    let refused = diff(&pair, &[]).ends_with(2);
    assert!(
        refused.stderr.contains("no column extra") && refused.stderr.contains("--exclude-column"),
        "{}",
        refused.stderr
    );
    pair.destination.execute(COPY, "DROP TABLE by_int").await;
    let refused = diff(&pair, &[]).ends_with(2);
    assert!(refused.stderr.contains("by_int") && refused.stderr.contains("remedy"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_and_sqlite_are_equal_after_a_copy_and_differ_where_it_was_changed() {
    let Some(pair) = two_equal_sides().await else { return };
    let file = pair.room.url("copy.db");
    let source = pair.source.url(SHOP);
    let copied = ["sync", &source, &file, "--mode", "snapshot", "--exclude", "keyless"];
    pair.room.run(&copied).ends_with(0);
    let compared = ["diff", &source, &file, "--exclude", "keyless", "--output", "json"];
    pair.room.run(&compared).ends_with(0);
    let copy = Connection::open(pair.room.path("copy.db")).unwrap();
    copy.execute_batch(
        "UPDATE by_int SET at = '1970-01-01 01:00:00.5+00:00', amount = '1.010' WHERE id = 1;
         UPDATE by_uuid SET seen = '2000-01-02 ' WHERE seen = '2000-01-02';
         DELETE FROM by_numeric WHERE id = '5.50'; UPDATE by_numeric SET note = 'x' WHERE id = '6.50';",
    )
    .unwrap();
    let found = tables(&pair.room.run(&compared).ends_with(3));
    assert_eq!(counts(&found["by_int"]), [0, 0, 1, 0]);
    let column = &found["by_int"]["samples"][0]["columns"];
    assert_eq!(column.as_array().unwrap().len(), 1, "1.010 is 1.01: {column}");
    assert_eq!(counts(&found["by_uuid"]), [0, 0, 1, 0]);
    assert_eq!(counts(&found["by_numeric"]), [1, 0, 1, 0]);
    assert_eq!(keys(&found["by_numeric"], "changed"), set(&["6.5"]));
}

#[test]
fn sqlite_values_are_compared_with_their_class() {
    let room = Room::new();
    let table = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 1), (2, 'a'), (3, x'61'), (4, NULL);";
    for file in ["a.db", "b.db"] {
        Connection::open(room.path(file)).unwrap().execute_batch(table).unwrap();
    }
    let compared = ["diff", &room.url("a.db"), &room.url("b.db"), "--output", "json"];
    room.run(&compared).ends_with(0);
    let change = "UPDATE t SET v = 1.0 WHERE id = 1; UPDATE t SET v = '' WHERE id = 4;";
    Connection::open(room.path("b.db")).unwrap().execute_batch(change).unwrap();
    let found = tables(&room.run(&compared).ends_with(3));
    assert_eq!(keys(&found["t"], "changed"), set(&["1", "4"]));
}

#[test]
fn more_than_can_be_shown_is_refused_never_shown_as_something_else() {
    let room = Room::new();
    let table = "CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)";
    let rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
        INSERT INTO t SELECT i, zeroblob(1000000) FROM n";
    Connection::open(room.path("a.db")).unwrap().execute_batch(&format!("{table}; {rows}")).unwrap();
    Connection::open(room.path("b.db")).unwrap().execute_batch(table).unwrap();
    let compared = ["diff", &room.url("a.db"), &room.url("b.db"), "--samples"];
    let refused = room.run(&[&compared[..], &["40"]].concat()).ends_with(2);
    assert!(refused.stderr.contains("--samples"), "{}", refused.stderr);
    room.run(&[&compared[..], &["10"]].concat()).ends_with(3);
}
