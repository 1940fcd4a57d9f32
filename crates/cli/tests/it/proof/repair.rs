//! `diff --repair`: what differs is written as the source has it, no more than the guard lets pass, and just what was
//! approved.

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use rusqlite::Connection;
use serde_json::Value;
use syncline_testkit::compare::postgres::Comparison;
use syncline_testkit::process::Outcome;

use super::diff::{PLANTED, TABLES, counts, diff, tables, two_equal_sides};
use super::pair::{COPY, NAME, Pair, SHOP};
use crate::process::{EndsWith, RUN_MAX, Room};

/// A table of 1,000 rows on both sides.
const THOUSAND: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 1000) i; ANALYZE";

async fn a_thousand_rows() -> Option<Pair> {
    let pair = Pair::start().await?;
    pair.source.execute(SHOP, THOUSAND).await;
    pair.destination.execute(COPY, THOUSAND).await;
    Some(pair)
}

/// The token that a run ended with.
fn token(outcome: &Outcome) -> String {
    let last = outcome.stdout.lines().last().expect("a last line");
    let end: Value = serde_json::from_str(last).expect("JSON");
    end["approve"].as_str().unwrap_or_else(|| panic!("no token: {}", outcome.stdout)).to_owned()
}

fn approve(pair: &Pair, token: &str) -> Outcome {
    diff(pair, &["--approve", token, "--output", "json"])
}

/// What `t` holds at the destination, as one number.
fn digest(pair: &Pair) -> String {
    pair.ask_destination("SELECT md5(string_agg(t::text, ';' ORDER BY id)) FROM t")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_written_for_every_kind_of_key() {
    let Some(pair) = two_equal_sides().await else { return };
    pair.destination.execute(COPY, PLANTED).await;
    let repaired = diff(&pair, &["--repair"]).ends_with(0);
    assert!(repaired.stdout.contains("EQUAL NOW: 7 tables, 7 repaired"), "{}", repaired.stdout);
    assert!(repaired.stdout.contains("repaired: 3 inserted, 13 updated, 2 deleted"), "{}", repaired.stdout);
    assert!(repaired.stdout.contains("repaired: 2 inserted, 0 updated, 4 deleted"), "{}", repaired.stdout);
    pair.assert_equal(&Comparison::new()).await;
    pair.assert_nothing_left();
    diff(&pair, &["--repair"]).ends_with(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_a_unique_column_may_be_exchanged() {
    let Some(pair) = Pair::start().await else { return };
    let table = "CREATE TABLE t (id int PRIMARY KEY, v int UNIQUE, note text)";
    let rows = "INSERT INTO t SELECT i, i, repeat('x', 3000) FROM generate_series(1, 3000) i";
    pair.source.execute(SHOP, &format!("{table}; {rows}")).await;
    pair.destination.execute(COPY, &format!("{table}; {rows}")).await;
    // Every value belongs to another row, far beyond what is read at once.
    pair.destination.execute(COPY, "UPDATE t SET v = -v; UPDATE t SET v = 3001 + v").await;
    diff(&pair, &["--repair", "--guard", "all=off"]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_stops_before_a_row_is_written_and_an_approval_runs_just_the_plan() {
    let Some(pair) = a_thousand_rows().await else { return };
    pair.source.execute(SHOP, "DELETE FROM t WHERE id <= 201").await;
    let before = digest(&pair);
    let stopped = diff(&pair, &["--repair", "--output", "json"]).ends_with(4);
    assert_eq!(digest(&pair), before);
    let exceeded = &tables_decision(&stopped)["stopped"]["exceeded"][0];
    assert_eq!((exceeded["operations"].as_str(), exceeded["count"].as_u64()), (Some("deletes"), Some(201)));
    let token = token(&stopped);
    approve(&pair, &token).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
    // A token is good for one time.
    let again = approve(&pair, &token).ends_with(2);
    assert!(again.stderr.contains("no plan"), "{}", again.stderr);
    // Bounds that a person sets.
    pair.source.execute(SHOP, "UPDATE t SET v = 'w' WHERE id > 990").await;
    diff(&pair, &["--repair", "--guard", "updates=9"]).ends_with(4);
    diff(&pair, &["--repair", "--guard", "updates=1%"]).ends_with(4);
    diff(&pair, &["--repair", "--guard", "updates=10"]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
    let wrong = diff(&pair, &["--repair", "--guard", "updates"]).ends_with(2);
    assert!(wrong.stderr.contains("KIND=BOUND"), "{}", wrong.stderr);
}

fn tables_decision(outcome: &Outcome) -> Value {
    let lines = outcome.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.into_iter().find(|line| line["event"] == "table").unwrap()["decision"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_is_for_nothing_that_came_later() {
    let Some(pair) = a_thousand_rows().await else { return };
    pair.source.execute(SHOP, "UPDATE t SET v = 'w' WHERE id <= 300").await;
    let first = token(&diff(&pair, &["--repair", "--output", "json"]).ends_with(4));
    // Another row, another value of a planned row, another value at the destination: each makes it another plan.
    for later in ["UPDATE t SET v = 'x' WHERE id = 999", "UPDATE t SET v = 'y' WHERE id = 1"] {
        pair.source.execute(SHOP, later).await;
        let token = token(&diff(&pair, &["--plan", "--output", "json"]).ends_with(4));
        pair.source.execute(SHOP, "UPDATE t SET v = v || '!' WHERE id = 500").await;
        let before = digest(&pair);
        let refused = approve(&pair, &token).ends_with(4);
        assert_eq!(digest(&pair), before);
        assert!(self::token(&refused) != token);
    }
    // An old plan lacks what came since.
    approve(&pair, &first).ends_with(4);
    let newest = token(&diff(&pair, &["--plan", "--output", "json"]).ends_with(4));
    // What became equal meanwhile has dropped out of the plan.
    pair.destination.execute(COPY, "UPDATE t SET v = 'w' WHERE id = 7").await;
    approve(&pair, &newest).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_others_or_one_that_was_written_in_is_refused() {
    let Some(pair) = a_thousand_rows().await else { return };
    pair.source.execute(SHOP, "DELETE FROM t WHERE id <= 300").await;
    let token = token(&diff(&pair, &["--plan", "--output", "json"]).ends_with(4));
    pair.source.create_database("other").await;
    pair.source.execute("other", THOUSAND).await;
    let (other, copy) = (pair.source.url("other"), pair.destination.url(COPY));
    let refused = pair.room.run(&["diff", &other, &copy, "--approve", &token]).ends_with(2);
    assert!(refused.stderr.contains("is of"), "{}", refused.stderr);
    let plan = pair.room.path("state").join("plans").join(format!("{token}.plan"));
    let text = std::fs::read_to_string(&plan).unwrap();
    std::fs::write(&plan, format!("{text}{:024x}\n", 7)).unwrap();
    let before = digest(&pair);
    approve(&pair, &token).ends_with(2);
    approve(&pair, "../../etc/passwd").ends_with(2);
    assert_eq!(digest(&pair), before);
}

/// The rows of a Parquet file, read column by column without Arrow.
fn parquet_rows(path: &std::path::Path) -> Vec<String> {
    let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap().map(|row| {
        let row = row.unwrap();
        let fields = row.get_column_iter().map(|(_, field)| match field {
            Field::Str(text) => text.clone(),
            other => other.to_string(),
        });
        fields.collect::<Vec<_>>().join(" ")
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_changes_nothing_and_a_report_names_every_row() {
    let Some(pair) = a_thousand_rows().await else { return };
    pair.destination
        .execute(
            COPY,
            "DELETE FROM t WHERE id = 1; UPDATE t SET v = NULL WHERE id = 2; INSERT INTO t VALUES (2000)",
        )
        .await;
    let before = digest(&pair);
    let report = pair.room.path("report.ndjson");
    let shown = diff(&pair, &["--plan", "--report", report.to_str().unwrap()]).ends_with(3);
    assert_eq!(digest(&pair), before);
    assert!(shown.stdout.contains("--repair would write these rows"), "{}", shown.stdout);
    assert!(shown.stdout.contains("--approve "), "{}", shown.stdout);
    let rows = std::fs::read_to_string(&report).unwrap();
    let mut rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    rows.sort_by_key(|row| row["key"]["id"].to_string());
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert_eq!((&rows[0]["kind"], &rows[0]["columns"]["v"]["source"]), (&"missing".into(), &"v1".into()));
    assert_eq!((&rows[2]["kind"], &rows[2]["key"]["id"]), (&"surplus".into(), &"2000".into()));
    let changed = &rows[1]["columns"]["v"];
    assert_eq!((&changed["source"], &changed["destination"]), (&"v2".into(), &Value::Null));
    let report = pair.room.path("report.parquet");
    diff(&pair, &["--plan", "--report", report.to_str().unwrap()]).ends_with(3);
    let mut rows = parquet_rows(&report);
    rows.sort();
    let changed = r#"public.t changed {"id" -> "2"} {"v" -> "v2"} {"v" -> null}"#;
    let missing = r#"public.t missing {"id" -> "1"} {"v" -> "v1"} null"#;
    let surplus = r#"public.t surplus {"id" -> "2000"} null {"v" -> null}"#;
    assert_eq!(rows, [changed, missing, surplus]);
    let same = pair.room.path("repair.ndjson");
    diff(&pair, &["--repair", "--report", same.to_str().unwrap()]).ends_with(0);
    assert_eq!(std::fs::read_to_string(&same).unwrap().lines().count(), 3);
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_destination_keeps_unique_is_looked_at_before_a_row_is_written() {
    let Some(pair) = Pair::start().await else { return };
    let table = "CREATE TABLE t (id int PRIMARY KEY, mail text, code int, note text)";
    pair.source
        .execute(SHOP, &format!("{table}; INSERT INTO t SELECT i, 'm' || i % 900, nullif(i, 1), 'n' FROM generate_series(1, 1000) i"))
        .await;
    let version = pair.destination.installation().major();
    let nulls = if version >= 15 { "NULLS NOT DISTINCT" } else { "" };
    pair.destination
        .execute(COPY, &format!(
            "{table}; CREATE UNIQUE INDEX by_mail ON t (mail); CREATE UNIQUE INDEX by_code ON t (code) {nulls};
             CREATE UNIQUE INDEX by_part ON t (note) WHERE id < 1; CREATE UNIQUE INDEX by_text ON t (lower(note || id))"
        ))
        .await;
    for how in [&[][..], &["--digest", "in-database"]] {
        let repair = |more: &[&str]| diff(&pair, &[&["--guard", "all=off"], how, more].concat());
        // Whoever only compares is not told.
        assert!(!repair(&[]).ends_with(3).stdout.contains("unique"));
        for writes in ["--plan", "--repair"] {
            let refused = repair(&[writes]).ends_with(1);
            for said in ["(mail) is not unique at the source, 100 values", "' in 2 rows", "by_part, by_text"]
            {
                assert!(refused.stdout.contains(said), "{said}: {}", refused.stdout);
            }
            assert!(!refused.stdout.contains("(code)"), "one NULL is one: {}", refused.stdout);
        }
        assert_eq!(pair.ask_destination("SELECT count(*) FROM t").trim(), "0");
    }
    pair.source.execute(SHOP, "UPDATE t SET mail = id, code = nullif(code, 2)").await;
    if version >= 15 {
        for how in [&[][..], &["--digest", "in-database"]] {
            let refused = diff(&pair, &[&["--repair", "--guard", "all=off"], how].concat()).ends_with(1);
            assert!(
                refused.stdout.contains("(code) is not unique at the source, 1 value"),
                "{}",
                refused.stdout
            );
            assert!(refused.stdout.contains("'NULL' in 2 rows"), "{}", refused.stdout);
        }
    }
    pair.source.execute(SHOP, "UPDATE t SET code = -1 WHERE id = 1").await;
    diff(&pair, &["--repair", "--guard", "all=off"]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_not_valid_or_has_another_equality_proves_nothing() {
    let Some(pair) = Pair::start().await else { return };
    let table = "CREATE TABLE t (id int PRIMARY KEY, mail text, price numeric, code text)";
    let rows = "INSERT INTO t SELECT i, 'm' || i % 900, i, i FROM generate_series(1, 1000) i";
    pair.source.execute(SHOP, &format!("{table}; {rows}; CREATE UNIQUE INDEX code ON t (code)")).await;
    let client = pair.source.client(SHOP).await;
    let broken = client.batch_execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON t (mail)").await;
    assert!(broken.is_err(), "a hundred values are there twice");
    let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    assert_eq!(pair.ask_source(invalid).trim(), "1");
    let indexes = "CREATE UNIQUE INDEX by_mail ON t (mail); CREATE UNIQUE INDEX by_price ON t (price); CREATE UNIQUE INDEX by_code ON t (code)";
    pair.destination.execute(COPY, &format!("{table}; {indexes}")).await;
    let refused = diff(&pair, &["--repair", "--guard", "all=off"]).ends_with(1);
    for said in ["(mail) is not unique at the source, 100 values", "by_price"] {
        assert!(refused.stdout.contains(said), "{said}: {}", refused.stdout);
    }
    assert!(
        !refused.stdout.contains("by_code"),
        "the source keeps it apart by the same rule: {}",
        refused.stdout
    );
    assert_eq!(pair.ask_destination("SELECT count(*) FROM t").trim(), "0");
    pair.source.execute(SHOP, "UPDATE t SET mail = id").await;
    diff(&pair, &["--repair", "--guard", "all=off"]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_unique_is_looked_at_over_the_whole_source_before_a_row_is_written() {
    let Some(pair) = a_thousand_rows().await else { return };
    // Two rows of the same value, of which neither differs, and three of another, of which one does; NULL is no value.
    for server in [(&pair.source, SHOP), (&pair.destination, COPY)] {
        server
            .0
            .execute(server.1, "UPDATE t SET v = 'v2' WHERE id = 1; UPDATE t SET v = 'v4' WHERE id = 3")
            .await;
        server.0.execute(server.1, "UPDATE t SET v = NULL WHERE id > 990").await;
    }
    pair.source.execute(SHOP, "UPDATE t SET v = 'v4' WHERE id = 5").await;
    let before = digest(&pair);
    let refused = diff(&pair, &["--repair", "--unique", "public.t(v)"]).ends_with(1);
    assert_eq!(digest(&pair), before);
    for said in ["(v) is not unique at the source, 2 values", "'v2' in 2 rows", "'v4' in 3 rows"] {
        assert!(refused.stdout.contains(said), "{said}: {}", refused.stdout);
    }
    diff(&pair, &["--repair", "--unique", "public.t(id, v)"]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
    let wrong = diff(&pair, &["--repair", "--unique", "public.t(other)"]).ends_with(2);
    assert!(wrong.stderr.contains("no column other"), "{}", wrong.stderr);
    diff(&pair, &["--repair", "--unique", "public.t"]).ends_with(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_comparison_can_be_reconstructed() {
    let Some(pair) = a_thousand_rows().await else { return };
    pair.destination.execute(COPY, "DELETE FROM t WHERE id IN (1, 2)").await;
    diff(&pair, &["--repair", "--table", "public.t"]).ends_with(0);
    let list = pair.room.run(&["runs", "list"]).ends_with(0);
    assert!(list.stdout.contains("diff") && list.stdout.contains("done"), "{}", list.stdout);
    let show = pair.room.run(&["runs", "show", "1"]).ends_with(0);
    for said in ["public.t: 1,000 and 998 rows, 2 missing", "digests", "\"inserted\":2", "[\"public.t\"]"] {
        assert!(show.stdout.contains(said), "{said}: {}", show.stdout);
    }
    let json = pair.room.run(&["runs", "show", "1", "--output", "json"]).ends_with(0);
    let run: Value = serde_json::from_str(json.stdout.trim()).unwrap();
    assert_eq!(run["summary"]["tables"][0]["decision"]["repaired"]["inserted"], 2);
    // Values of rows are not kept.
    assert!(!json.stdout.contains("'v1'") && !json.stdout.contains("\"v1\""), "{}", json.stdout);
    let unknown = pair.room.run(&["runs", "show", "77"]).ends_with(2);
    assert!(unknown.stderr.contains("runs list"), "{}", unknown.stderr);
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_repair_has_done_nothing_or_all_and_the_next_one_finishes() {
    let Some(pair) = two_equal_sides().await else { return };
    pair.destination.execute(COPY, PLANTED).await;
    let (source, copy) = (pair.source.url(SHOP), pair.destination.url(COPY));
    for place in ["before_commit=kill@3", "load_committed=kill@1", "before_commit=kill@1"] {
        let killed = pair.room.syncline(&["diff", &source, &copy, "--repair"]);
        let killed = killed.env("SYNCLINE_FAILPOINT", place).run(RUN_MAX);
        assert_ne!(killed.code(), Some(0), "{place}: {}", killed.stdout);
    }
    diff(&pair, &["--repair"]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
    pair.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_pipeline_is_repaired_as_that_pipeline_and_not_beside_it() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, TABLES).await;
    pair.source.execute(SHOP, "ALTER TABLE keyless REPLICA IDENTITY FULL").await;
    pair.run_well(&[]);
    let planted = "DELETE FROM by_int WHERE id = 5; UPDATE by_pair SET note = 'x' WHERE b = 79; INSERT INTO moods VALUES (9001)";
    pair.destination.execute(COPY, planted).await;
    // Changes that the pipeline has not brought over yet are differences, too; it brings them over once more later.
    let ahead = "UPDATE by_int SET name = 'later' WHERE id = 6; DELETE FROM by_int WHERE id = 7;
        UPDATE by_pair SET a = 'moved' WHERE b = 80";
    pair.source.execute(SHOP, ahead).await;
    let running = pair.follow(&[]);
    let refused = diff(&pair, &["--repair"]);
    assert!(refused.stdout.contains("syncline verify proof --repair"), "{}", refused.stdout);
    refused.ends_with(2);
    running.terminate();
    let _ = running.wait(RUN_MAX).ends_with(0);
    pair.source.execute(SHOP, "UPDATE by_int SET name = 'even later' WHERE id IN (6, 8)").await;
    diff(&pair, &["--repair"]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
    let status = pair.room.status(NAME);
    assert!(status.is_some());
    pair.run_well(&[]);
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_of_another_family_is_repaired() {
    let Some(pair) = two_equal_sides().await else { return };
    let file = pair.room.url("copy.db");
    let source = pair.source.url(SHOP);
    pair.room.run(&["sync", &source, &file, "--mode", "snapshot", "--exclude", "keyless"]).ends_with(0);
    let copy = Connection::open(pair.room.path("copy.db")).unwrap();
    copy.execute_batch(
        "UPDATE by_int SET at = '1970-01-01 01:00:00.5+00:00', amount = '9.010' WHERE id = 1;
         DELETE FROM by_uuid WHERE seen < '2000-01-10'; DELETE FROM by_bytes WHERE rowid < 5;
         INSERT INTO by_pair(a, b, note) VALUES ('zzz', 9999, NULL);
         DELETE FROM by_numeric WHERE id = '5.50'; UPDATE by_numeric SET note = 'x' WHERE id = '6.50';",
    )
    .unwrap();
    let compared = ["diff", &source, &file, "--exclude", "keyless", "--output", "json"];
    let found = tables(&pair.room.run(&compared).ends_with(3));
    assert_eq!(counts(&found["by_int"]), [0, 0, 1, 0]);
    // A key that this file writes in another way than it is compared (6.50) is left, and that is said.
    let repaired = pair.room.run(&[&compared[..], &["--repair"]].concat()).ends_with(3);
    assert!(repaired.stdout.contains("\"left\":1"), "{}", repaired.stdout);
    let rows = |sql: &str| copy.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(rows("SELECT amount FROM by_int WHERE id = 1"), "1.01");
    assert_eq!(rows("SELECT count(*) || '' FROM by_pair WHERE a = 'zzz'"), "0");
    assert_eq!(rows("SELECT count(*) || '' FROM by_uuid"), "3000");
    pair.room.run(&[&compared[..], &["--exclude", "by_numeric"]].concat()).ends_with(0);
}

#[test]
fn sqlite_rows_without_a_key_and_with_one_are_repaired() {
    let room = Room::new();
    let tables = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 1), (2, 'a'), (3, x'61'), (4, NULL);
        CREATE TABLE k (a INTEGER, b TEXT); INSERT INTO k VALUES (1, 'x'), (1, 'x'), (2, 'y'), (NULL, 'z');";
    for file in ["a.db", "b.db"] {
        Connection::open(room.path(file)).unwrap().execute_batch(tables).unwrap();
    }
    let copy = Connection::open(room.path("b.db")).unwrap();
    copy.execute_batch(
        "UPDATE t SET v = 2 WHERE id = 1; DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (9, 9);
         DELETE FROM k WHERE rowid IN (SELECT min(rowid) FROM k); INSERT INTO k VALUES (3, 'w'), (2, 'y'); DELETE FROM k WHERE b = 'z';",
    )
    .unwrap();
    let compared = ["diff", &room.url("a.db"), &room.url("b.db")];
    room.run(&[&compared[..], &["--repair"]].concat()).ends_with(0);
    room.run(&compared).ends_with(0);
    let rows = |sql: &str| copy.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(
        rows("SELECT group_concat(id || quote(v), ' ') FROM (SELECT * FROM t ORDER BY id)"),
        "11 2'a' 3X'61' 4NULL"
    );
    assert_eq!(
        rows("SELECT group_concat(quote(a) || b, ' ') FROM (SELECT * FROM k ORDER BY a, b)"),
        "NULLz 1x 1x 2y"
    );
    // Nothing of ours stays.
    assert_eq!(rows("SELECT count(*) || '' FROM sqlite_schema WHERE name LIKE '%syncline%'"), "0");
}
