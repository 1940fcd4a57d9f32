//! `diff --digest in-database`: what the databases find themselves is what is found by reading them, whatever their settings
//! are, and rows that are equal do not move.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use syncline_testkit::compare::postgres::Comparison;
use syncline_testkit::process::Outcome;

use super::agents::Agent;
use super::diff::{PLANTED, counts, diff, tables, two_equal_sides};
use super::pair::{COPY, Pair, SHOP};
use crate::process::EndsWith;

const INSIDE: [&str; 2] = ["--digest", "in-database"];

/// Everything that changes how a value is written, set to what nobody expects.
const HOSTILE: &str = "
    ALTER ROLE ALL SET datestyle = 'SQL, DMY'; ALTER ROLE ALL SET intervalstyle = 'iso_8601';
    ALTER ROLE ALL SET timezone = 'Asia/Kathmandu'; ALTER ROLE ALL SET extra_float_digits = -15;
    ALTER ROLE ALL SET bytea_output = 'escape'; ALTER ROLE ALL SET client_encoding = 'LATIN1';
    ALTER ROLE ALL SET xmlbinary = 'hex'; ALTER ROLE ALL SET lc_monetary = 'C';
    ALTER ROLE ALL SET standard_conforming_strings = off; ALTER ROLE ALL SET escape_string_warning = off;
    ALTER ROLE ALL SET quote_all_identifiers = on; ALTER ROLE ALL SET search_path = 'evil', 'pg_catalog';
    ALTER ROLE ALL SET jit = on; ALTER ROLE ALL SET work_mem = '64kB';
    ALTER ROLE ALL SET parallel_setup_cost = 0; ALTER ROLE ALL SET parallel_tuple_cost = 0;
    ALTER ROLE ALL SET min_parallel_table_scan_size = 0;
    CREATE SCHEMA evil; CREATE FUNCTION evil.sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$";

/// A way to a server that counts what goes over it.
pub(super) struct Counted {
    port: u16,
    bytes: Arc<AtomicU64>,
}

impl Counted {
    fn before(port: u16) -> Self {
        Self::holding(port, u64::MAX)
    }

    /// One that lets so many bytes pass, and then none.
    pub(super) fn holding(port: u16, bytes_max: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&bytes);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let counted = Arc::clone(&counted);
                    std::thread::spawn(move || carry(from, to, &counted, bytes_max));
                }
            }
        });
        Self { port: own, bytes }
    }

    /// The same address by way of this one.
    pub(super) fn url(&self, url: &str, port: u16) -> String {
        let by = url.replace(&format!(":{port}/"), &format!(":{}/", self.port));
        assert_ne!(by, url);
        by
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes since this was asked last.
    fn take(&self) -> u64 {
        self.bytes.swap(0, Ordering::Relaxed)
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, counted: &AtomicU64, bytes_max: u64) {
    let mut buffer = [0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if counted.fetch_add(count as u64, Ordering::Relaxed) > bytes_max {
            // Neither goes on nor ends, until the test does.
            std::thread::sleep(std::time::Duration::from_secs(3600));
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// What is found, without how.
fn found(outcome: &Outcome) -> Vec<Value> {
    let of = |mut table: Value| {
        let known = table.as_object_mut().unwrap();
        for name in ["digest_source", "digest_destination", "scans", "inside"] {
            known.remove(name);
        }
        known["samples"].as_array_mut().unwrap().sort_by_key(ToString::to_string);
        table
    };
    tables(outcome).into_values().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_databases_find_themselves_is_what_is_found_here_whatever_their_settings() {
    let Some(pair) = two_equal_sides().await else { return };
    pair.source.execute(SHOP, HOSTILE).await;
    let equal = diff(&pair, &INSIDE).ends_with(0);
    assert!(equal.stdout.contains("EQUAL: 7 tables"), "{}", equal.stdout);
    assert!(equal.stdout.contains("hashed in the databases: 1 pass; exchanged for it "), "{}", equal.stdout);
    pair.destination.execute(COPY, PLANTED).await;
    let asked = ["--output", "json", "--samples", "1000"];
    let here = found(&diff(&pair, &asked).ends_with(3));
    let inside = diff(&pair, &[&asked[..], &INSIDE].concat()).ends_with(3);
    assert_eq!(found(&inside), here);
    assert_eq!(tables(&inside)["by_int"]["counts"]["changed"], 13);
    // What is planned is recognised again by hashes of the same kind, and by no others.
    let planned = diff(&pair, &[&["--plan", "--output", "json"], &INSIDE[..]].concat()).ends_with(3);
    let end: Value = serde_json::from_str(planned.stdout.lines().last().unwrap()).unwrap();
    let token = end["approve"].as_str().unwrap();
    let refused = diff(&pair, &["--approve", token]).ends_with(2);
    assert!(refused.stderr.contains("digests in the databases"), "{}", refused.stderr);
    let repaired = diff(&pair, &[&["--approve", token], &INSIDE[..]].concat()).ends_with(0);
    assert!(repaired.stdout.contains("EQUAL NOW: 7 tables, 7 repaired"), "{}", repaired.stdout);
    diff(&pair, &INSIDE).ends_with(0);
    pair.source.execute(SHOP, "ALTER ROLE ALL RESET ALL").await;
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_equal_do_not_move() {
    let Some(pair) = Pair::start().await else { return };
    let rows = "CREATE TABLE t (id bigint PRIMARY KEY, note text, at timestamptz);
        INSERT INTO t SELECT i, repeat(md5(i::text), 10), 'epoch'::timestamptz + i * interval '1 s'
            FROM generate_series(1, 60000) i;
        ANALYZE t";
    pair.source.execute(SHOP, rows).await;
    pair.destination.execute(COPY, rows).await;
    let ports = [pair.source.port(), pair.destination.port()];
    let ways = ports.map(Counted::before);
    let source = ways[0].url(&pair.source.url(SHOP), ports[0]);
    let copy = ways[1].url(&pair.destination.url(COPY), ports[1]);
    let run = |more: &[&str]| {
        let outcome = pair.room.run(&[&["diff", &source, &copy, "--output", "json"], more].concat());
        (outcome, ways.each_ref().map(Counted::take))
    };
    let (outcome, read) = run(&[]);
    outcome.ends_with(0);
    assert!(read.iter().all(|bytes| *bytes > 20_000_000), "{read:?}");
    let (outcome, equal) = run(&INSIDE);
    println!("equal: {equal:?} bytes");
    let table = tables(&outcome.ends_with(0))["t"].clone();
    assert_eq!(table["scans"], 1);
    assert!(equal.iter().all(|bytes| *bytes < 30_000), "{equal:?}");
    // What is said to be exchanged is most of what really is; the rest is the catalogue and the beginning of sessions.
    let said = table["inside"]["source"]["received_bytes"].as_u64().unwrap();
    assert!((256 * 28..equal[0]).contains(&said), "{said} of {equal:?}");
    pair.destination
        .execute(COPY, "UPDATE t SET note = 'x' WHERE id % 12000 = 7; DELETE FROM t WHERE id = 9")
        .await;
    let (outcome, few) = run(&INSIDE);
    println!("six differences: {few:?} bytes");
    let table = tables(&outcome.ends_with(3))["t"].clone();
    assert_eq!((counts(&table), &table["scans"]), ([1, 0, 5, 0], &Value::from(2)));
    assert!(few.iter().all(|bytes| *bytes < 130_000), "{few:?}");
    pair.destination.execute(COPY, "UPDATE t SET note = 'y' WHERE id % 60 = 11").await;
    let (outcome, thousand) = run(&INSIDE);
    println!("a thousand differences: {thousand:?} bytes");
    let table = tables(&outcome.ends_with(3))["t"].clone();
    assert_eq!((counts(&table), &table["scans"]), ([1, 0, 1005, 0], &Value::from(3)));
    assert!(thousand.iter().all(|bytes| *bytes < 2_000_000), "{thousand:?}");
}

/// Types differ, so values are compared by what they mean.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_other_types_are_equal_by_what_they_mean() {
    let Some(pair) = Pair::start().await else { return };
    let table = |types: [&str; 9]| {
        let [id, a, b, c, d, e, f, g, h] = types;
        format!(
            "CREATE TABLE t (id {id} PRIMARY KEY, a {a}, b {b}, c {c}, d {d}, e {e}, f {f}, g {g}, h {h}, day date, tod time,
                at timestamp, seen timestamptz, u uuid, bin bytea);
             INSERT INTO t SELECT i, i + 1.5, i / 4.0, i % 2, 'ü ' || i, i, '{{\"k\": 1}}', i, i * 1000,
                date '0044-03-15 BC' + i, time '00:00' + i * interval '1.000001 s',
                timestamp '1969-12-31 23:59:59.999999' + i * interval '1 us',
                timestamptz '0001-01-01 00:00+00' + i * interval '1 h', md5(i::text)::uuid, decode(md5(i::text), 'hex')
                FROM generate_series(-400, 400) i;
             INSERT INTO t (id, a, b, e) VALUES (1001, NULL, '-0', 0), (1002, 'NaN', 'NaN', 0), (1003, 0.0, 'Infinity', 0),
                (1004, NULL, NULL, NULL);"
        )
    };
    let here =
        table(["int", "numeric(10, 2)", "float8", "smallint", "text", "int", "json", "float8", "bigint"]);
    let there = table([
        "bigint",
        "numeric(14, 6)",
        "float4",
        "int",
        "varchar(20)",
        "numeric",
        "text",
        "float8",
        "float8",
    ]);
    pair.source.execute(SHOP, &format!("{HOSTILE}; {here}")).await;
    pair.destination.execute(COPY, &there).await;
    // Zero has two signs and one value.
    pair.destination.execute(COPY, "UPDATE t SET b = 0 WHERE id = 1001").await;
    diff(&pair, &[]).ends_with(0);
    let equal = diff(&pair, &INSIDE);
    let equal = equal.ends_with(0);
    assert!(equal.stdout.contains("EQUAL: 1 table"), "{}", equal.stdout);
    pair.destination
        .execute(
            COPY,
            "UPDATE t SET a = a + 0.01 WHERE id = 3; UPDATE t SET at = at + interval '1 us' WHERE id = -3",
        )
        .await;
    let asked = ["--output", "json", "--samples", "10"];
    let read = found(&diff(&pair, &asked).ends_with(3));
    assert_eq!(found(&diff(&pair, &[&asked[..], &INSIDE].concat()).ends_with(3)), read);
    // A file is here: its rows are hashed by this process in the same way.
    let file = pair.room.url("copy.db");
    pair.room
        .run(&["sync", &pair.source.url(SHOP), &file, "--mode", "snapshot", "--exclude-column", "public.t.b"])
        .ends_with(0);
    let without = [
        "--exclude-column",
        "public.t.b",
        "--exclude-column",
        "public.t.day",
        "--exclude-column",
        "public.t.seen",
    ];
    let mixed = |more: &[&str]| {
        let source = pair.source.url(SHOP);
        pair.room.run(&[&["diff", &source, &file], &without[..], &INSIDE, more].concat())
    };
    mixed(&[]).ends_with(0);
    let copy = rusqlite::Connection::open(pair.room.path("copy.db")).unwrap();
    copy.execute_batch("UPDATE t SET d = 'other' WHERE id IN (5, 6); DELETE FROM t WHERE id = -1").unwrap();
    drop(copy);
    assert_eq!(counts(&tables(&mixed(&["--output", "json"]).ends_with(3))["t"]), [1, 0, 2, 0]);
    mixed(&["--repair"]).ends_with(0);
    mixed(&[]).ends_with(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_database_cannot_hash_as_the_other_does_is_refused() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, "CREATE TABLE t (id int PRIMARY KEY, day date)").await;
    pair.destination.execute(COPY, "CREATE TABLE t (id int PRIMARY KEY, day text)").await;
    let refused = diff(&pair, &INSIDE).ends_with(2);
    assert!(refused.stderr.contains("column day of public.t is compared as date"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--digest default"), "{}", refused.stderr);
    diff(&pair, &[]).ends_with(0);
    diff(&pair, &[&INSIDE[..], &["--exclude-column", "public.t.day"]].concat()).ends_with(0);
    // What no value of the class stands for is told with the remedy.
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE late (id int PRIMARY KEY, day date); INSERT INTO late VALUES (1, 'infinity')",
        )
        .await;
    pair.destination.execute(COPY, "CREATE TABLE late (id bigint PRIMARY KEY, day date)").await;
    let late = [&INSIDE[..], &["--table", "public.late"]].concat();
    let refused = diff(&pair, &late);
    assert!(refused.code().is_some_and(|code| ![0, 3].contains(&code)), "{refused:?}");
    assert!(
        refused.stderr.contains("late") && refused.stderr.contains("--exclude-column"),
        "{}",
        refused.stderr
    );
    diff(&pair, &[&late[..], &["--exclude-column", "public.late.day"]].concat()).ends_with(3);
    // There is nothing to be won beside an agent.
    let agent = Agent::start(&pair.room, &pair.source.url(SHOP), &[]);
    let refused =
        pair.room.run(&[&["diff", &agent.url(), &pair.destination.url(COPY)], &INSIDE[..]].concat());
    assert!(refused.ends_with(2).stderr.contains("an agent sums its rows up itself"));
    // Nor can a file.
    let [left, right] = ["a.db", "b.db"].map(|name| {
        let file = rusqlite::Connection::open(pair.room.path(name)).unwrap();
        file.execute_batch("CREATE TABLE t (id int PRIMARY KEY)").unwrap();
        pair.room.url(name)
    });
    let refused = pair.room.run(&[&["diff", &left, &right], &INSIDE[..]].concat()).ends_with(2);
    assert!(refused.stderr.contains("neither of these databases"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_repeated_values_and_rows_without_a_key_are_looked_at_there_as_well() {
    let Some(pair) = Pair::start().await else { return };
    let keyless =
        "CREATE TABLE t (a int, b text); INSERT INTO t SELECT i % 100, 'b' FROM generate_series(1, 5000) i";
    pair.source.execute(SHOP, keyless).await;
    pair.destination.execute(COPY, keyless).await;
    let ports = [pair.source.port(), pair.destination.port()];
    let way = Counted::before(ports[0]);
    let (source, copy) = (way.url(&pair.source.url(SHOP), ports[0]), pair.destination.url(COPY));
    let run = |more: &[&str]| pair.room.run(&[&["diff", &source, &copy], &INSIDE[..], more].concat());
    pair.destination.execute(COPY, "UPDATE t SET b = 'c' WHERE a = 7; INSERT INTO t VALUES (1, 'b')").await;
    let found = run(&["--output", "json"]).ends_with(3);
    assert_eq!(counts(&tables(&found)["t"]), [50, 51, 0, 0]);
    way.take();
    let repaired = run(&["--repair"]).ends_with(0);
    assert!(repaired.stdout.contains("50 inserted, 0 updated, 51 deleted"), "{}", repaired.stdout);
    pair.assert_equal(&Comparison::new()).await;
    let query = ["--query", "t=SELECT a, 'b' AS b FROM t WHERE a < 50", "--guard", "all=off", "--repair"];
    let repaired = run(&query).ends_with(0);
    assert!(repaired.stdout.contains("0 inserted, 0 updated, 2,500 deleted"), "{}", repaired.stdout);
    assert_eq!(pair.ask_destination("SELECT count(*) FROM t").trim(), "2500");
    let refused = run(&["--repair", "--unique", "public.t(a)", "--guard", "all=off"]).ends_with(1);
    assert!(refused.stdout.contains("(a) is not unique at the source, 100 values"), "{}", refused.stdout);
    assert!(refused.stdout.contains("0 in 50 rows"), "{}", refused.stdout);
}
