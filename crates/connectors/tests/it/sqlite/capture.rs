//! Whatever SQLite can do to a row is captured, and capturing never stands in the application's way.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use syncline_core::{Carry, ErrorKind, Operation, Selection, Severity, StreamEvent};

use super::world::{World, connect, one, pipeline, request};

const UNIQUES: &str = "
CREATE TABLE u(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b INT, c TEXT, UNIQUE (b, c));
CREATE TABLE w(k TEXT PRIMARY KEY, a TEXT COLLATE NOCASE, b, c) WITHOUT ROWID;
CREATE UNIQUE INDEX w_a ON w(a);
CREATE UNIQUE INDEX w_lower ON w(lower(b)) WHERE c = 'active';
CREATE TABLE g(id INTEGER PRIMARY KEY, v, h AS (v % 10) UNIQUE);
INSERT INTO u VALUES (1, 'a', 1, 'x'), (2, 'b', 1, 'y'), (3, NULL, NULL, 'z'), (4, NULL, NULL, 'z');
INSERT INTO w VALUES ('1', 'A', 'Q', 'active'), ('2', 'b', 'q', 'no'), ('3', NULL, 'r', 'active');
INSERT INTO g(id, v) VALUES (1, 11), (2, 22), (3, 33);";

/// `INSERT OR REPLACE fires no delete trigger`: with and without recursive triggers, by every kind of unique index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_replace_removes_are_captured() {
    for recursive in [false, true] {
        let world = World::new(UNIQUES);
        world.app.pragma_update(None, "recursive_triggers", recursive).unwrap();
        let mut running = world.start().await;
        for step in [
            "REPLACE INTO u VALUES (1, 'new', 7, 'x')",
            "REPLACE INTO u VALUES (9, 'b', 8, 'q')",
            "REPLACE INTO u VALUES (10, 'new', 8, 'q')",
            "INSERT INTO u VALUES (20, 'p', 20, 'p'), (21, 'q', 21, 'q'), (22, 'r', 22, 'r')",
            "UPDATE OR REPLACE u SET a = 'q' WHERE id = 22",
            "UPDATE OR REPLACE u SET id = 20 WHERE id = 22",
            "UPDATE OR REPLACE u SET rowid = 3 WHERE id = 20",
            "UPDATE OR REPLACE u SET b = 1, c = 'same'",
            "REPLACE INTO w VALUES ('9', 'a', 'zz', 'active')",
            "REPLACE INTO w VALUES ('8', 'eight', 'R', 'active')",
            "REPLACE INTO w VALUES ('7', 'seven', 'Q', 'no')",
            "UPDATE OR REPLACE w SET c = 'active'",
            "INSERT INTO w VALUES ('30', 'c', 's', 'no') ON CONFLICT (k) DO UPDATE SET b = 's'",
            "UPDATE OR REPLACE w SET k = '30', a = 'SEVEN'",
            "REPLACE INTO g(id, v) VALUES (9, 51), (8, 62)",
            "INSERT OR IGNORE INTO g(id, v) VALUES (7, 53)",
        ] {
            world.write(step);
            running.catch_up().await;
            world.assert_equal();
        }
    }
}

/// Cascades are writes like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_key_actions_and_the_applications_triggers_are_captured() {
    let world = World::new(
        "CREATE TABLE p(id INTEGER PRIMARY KEY);
         CREATE TABLE c(id INTEGER PRIMARY KEY, p INT REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE);
         CREATE TABLE n(id INTEGER PRIMARY KEY, p INT REFERENCES p ON DELETE SET NULL);
         CREATE TABLE log(id INTEGER PRIMARY KEY, what);
         CREATE TRIGGER own AFTER UPDATE ON c BEGIN INSERT INTO log(what) VALUES (NEW.p); UPDATE n SET p = NULL WHERE id = 2; END;
         INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1, 1), (2, 2); INSERT INTO n VALUES (1, 1), (2, 2);",
    );
    world.app.pragma_update(None, "foreign_keys", true).unwrap();
    let mut running = world.start().await;
    world.write("DELETE FROM p WHERE id = 1; UPDATE p SET id = 5");
    running.catch_up().await;
    world.assert_equal();
    assert_eq!(
        one::<i64>(&world.destination(), "SELECT count(*) FROM log"),
        1,
        "only the source's trigger fired"
    );
    assert_eq!(one::<i64>(&world.destination(), "SELECT p FROM c"), 5);
}

/// TRAPS 1.10: keys that swap, chains, and a key deleted and used again, in one transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_unique_values_that_change_hands() {
    let world = World::new(
        "CREATE TABLE s(id INTEGER PRIMARY KEY, u INT UNIQUE, v TEXT);
         WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO s SELECT i, i, 'row ' || i FROM n;",
    );
    let mut running = world.start().await;
    for step in [
        "BEGIN; UPDATE s SET id = -1 WHERE id = 1; UPDATE s SET id = 1 WHERE id = 2; UPDATE s SET id = 2 WHERE id = -1; COMMIT",
        "BEGIN; UPDATE s SET u = -u; UPDATE s SET u = -u + 1; COMMIT",
        "BEGIN; UPDATE s SET u = -u; UPDATE s SET u = 600 + u; COMMIT",
        "BEGIN; DELETE FROM s WHERE id = 7; INSERT INTO s VALUES (7, 9001, 'again'); COMMIT",
        "BEGIN; UPDATE s SET id = id + 100000; UPDATE s SET u = u + 10000 WHERE id = 100500; UPDATE s SET id = id - 100001; COMMIT",
        "BEGIN; INSERT INTO s VALUES (777, 777777, 'not for long'); DELETE FROM s WHERE id = 777; COMMIT",
        "BEGIN; DELETE FROM s; INSERT INTO s VALUES (1, 1, 'only'); COMMIT",
    ] {
        world.write(step);
        running.catch_up().await;
        world.assert_equal();
    }
}

/// More than a megabyte of keys and rows: pieces in one read, whose unique values meet across the pieces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unique_values_change_hands_across_the_pieces_of_a_large_transaction() {
    let world = World::new("CREATE TABLE s(id INTEGER PRIMARY KEY, u INT UNIQUE, v BLOB)");
    world.write(
        "WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO s SELECT i, i, randomblob(900) FROM n",
    );
    let mut running = world.start().await;
    world.write("BEGIN; UPDATE s SET u = -u; UPDATE s SET u = 3001 + u, v = randomblob(900); COMMIT");
    let mut pieces = Vec::new();
    loop {
        let StreamEvent::Entry(entry) = running.next().await else { panic!("a table stopped") };
        pieces.push(entry);
        if !pieces[pieces.len() - 1].is_piece() {
            break;
        }
    }
    assert!(pieces.len() >= 3, "{} entries", pieces.len());
    let ids: Vec<_> = pieces.iter().map(|entry| entry.transactions[0].id).collect();
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "one transaction");
    let durable = running.load(pieces).await.unwrap();
    assert_eq!(durable.counts.applied, 3000);
    world.assert_equal();
}

/// The log keeps what is needed and no more, and its numbers never turn back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_pruned_and_numbers_never_turn_back() {
    let world = World::new("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    let mut running = world.start().await;
    world.write("INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)");
    running.catch_up().await;
    let end = running.at.as_u64().unwrap();
    assert!(end >= 3);
    let until = Instant::now() + Duration::from_secs(10);
    while one::<i64>(&world.app, "SELECT count(*) FROM _syncline_log_p") > 0 {
        assert!(Instant::now() < until, "the log is not pruned");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.write("VACUUM; UPDATE t SET v = 9");
    let StreamEvent::Entry(entry) = running.next().await else { panic!("a table stopped") };
    assert_eq!(entry.from, running.at);
    assert!(entry.to.as_u64().unwrap() > end);
    assert_eq!(entry.batches[0].operations, [Operation::Upsert; 3]);
    let at_us = entry.transactions[0].committed_at_us;
    let now_us: i64 = one(&world.app, "SELECT CAST(unixepoch('subsec') * 1000000 AS INTEGER)");
    assert!((now_us - 60_000_000..=now_us + 1_000_000).contains(&at_us), "{at_us} {now_us}");
    // Before what was pruned, and after the end: both are gaps.
    let streams = running.source.streams().unwrap();
    for gone in [1, end + 1000] {
        let from = syncline_core::Position::from_u64(gone);
        let error = streams.stream(&request(&running.tables), &from, None).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }
}

/// Invariant 13: a writer that waits for nobody longer than usual is never refused, and SQLite of ten years ago can
/// run what we leave.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capturing_never_fails_a_write_of_the_application() {
    let world = World::new("CREATE TABLE t(id INTEGER PRIMARY KEY, v INT UNIQUE, w TEXT)");
    let path = world.path("source.db");
    let writer = std::thread::spawn(move || {
        let app = connect(&path);
        app.busy_timeout(Duration::from_secs(5)).unwrap();
        let until = Instant::now() + Duration::from_secs(4);
        let mut written = 0;
        while Instant::now() < until {
            let n = written % 300;
            let sql = format!(
                "INSERT OR REPLACE INTO t VALUES ({n}, {}, 'w'); UPDATE t SET w = w || 'x' WHERE id = {}; DELETE FROM t WHERE id = {}",
                (written * 7) % 500,
                (n + 150) % 300,
                (n + 200) % 300
            );
            app.execute_batch(&sql).unwrap_or_else(|error| panic!("write {written} failed: {error}"));
            written += 1;
        }
        written
    });
    let mut running = world.start().await;
    while !writer.is_finished() {
        running.catch_up().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(writer.join().unwrap() > 100);
    running.catch_up().await;
    world.assert_equal();
    let mut statement = world
        .app
        .prepare("SELECT sql FROM sqlite_schema WHERE name LIKE '\\_syncline%' ESCAPE '\\'")
        .unwrap();
    let texts: Vec<Option<String>> =
        statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap();
    for new in ["unixepoch", "subsec", "RETURNING", "STRICT", "WITHOUT ROWID", "GENERATED", "UPSERT", "json"]
    {
        assert!(!texts.iter().flatten().any(|sql| sql.contains(new)), "{new} is unknown to older versions");
    }
}

/// Nothing without consent, and nothing left after a drop: not even of a pipeline whose name begins another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggers_come_with_consent_only_and_go_without_trace() {
    let world = World::new("CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE)");
    let source = world.source();
    let streams = source.streams().unwrap();
    let tables = world.discover().await;
    let mut wanted = request(&tables);
    wanted.capture_triggers = false;
    let error = streams.open(&wanted).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.remedy().unwrap().contains("--capture triggers"));
    let ours = |app: &Connection| -> i64 {
        one(app, "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%syncline%' OR sql LIKE '%syncline%'")
    };
    assert_eq!(ours(&world.app), 0);
    wanted.capture_triggers = true;
    streams.open(&wanted).await.unwrap();
    let alone = ours(&world.app);
    let mut other = wanted.clone();
    other.pipeline = syncline_core::PipelineName::new("p_1").unwrap();
    streams.open(&other).await.unwrap();
    streams.drop_pipeline(&other.pipeline).await.unwrap();
    assert_eq!(ours(&world.app), alone);
    streams.open(&other).await.unwrap();
    streams.drop_pipeline(&pipeline()).await.unwrap();
    assert_eq!(ours(&world.app), alone);
    // The statement that a person would use does the same.
    let retained = streams.retained(&other.pipeline).await.unwrap().unwrap();
    assert!(retained.what.contains("5 capture triggers"), "{}", retained.what);
    world.write(&retained.drop_statement);
    assert!(streams.retained(&other.pipeline).await.unwrap().is_none());
    streams.drop_pipeline(&other.pipeline).await.unwrap();
    assert_eq!(ours(&world.app), 0);
}

/// A table without a primary key is refused before anything is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_without_a_key_is_refused_before_anything_is_made() {
    let world = World::new("CREATE TABLE t(id INTEGER PRIMARY KEY); CREATE TABLE k(a)");
    let source = world.source();
    let error = source.streams().unwrap().open(&request(&world.discover().await)).await.err().unwrap();
    assert_eq!((error.kind(), error.table().unwrap().name.as_str()), (ErrorKind::Configuration, "k"));
    assert_eq!(one::<i64>(&world.app, "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%syncline%'"), 0);
    let findings = source.check(&Selection::all(Carry::Native), true).await.unwrap();
    let found = findings.iter().find(|finding| finding.code == "primary_key").unwrap();
    assert_eq!((found.severity, found.table.as_ref().unwrap().name.as_str()), (Severity::Error, "k"));
    assert!(found.remedy.is_some());
}

/// In the old journal modes readers and writers take turns; what arrives is the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_with_a_rollback_journal_is_followed_too() {
    let world = World::new(
        "PRAGMA journal_mode = delete; CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 1)",
    );
    let findings = world.source().check(&Selection::all(Carry::Native), true).await.unwrap();
    let found = findings.iter().find(|finding| finding.code == "journal_mode").unwrap();
    assert_eq!(
        (found.severity, found.remedy.as_deref()),
        (Severity::Warning, Some("PRAGMA journal_mode = WAL"))
    );
    let mut running = world.start().await;
    for round in 0..20 {
        world.write(&format!("INSERT INTO t(v) VALUES ({round}); UPDATE t SET v = v + 1 WHERE id % 3 = 0; DELETE FROM t WHERE id = {round}"));
        running.catch_up().await;
    }
    world.assert_equal();
    assert_eq!(
        one::<String>(&world.app, "PRAGMA journal_mode"),
        "delete",
        "the source's file is left as it is"
    );
}
