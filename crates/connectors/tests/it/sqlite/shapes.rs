//! Tables and values of every shape arrive exactly, in the snapshot and in the stream.

use syncline_core::{Carry, ErrorKind, Moment, Selection, TablePattern};

use super::world::{World, copy, one, rows, try_copy};

/// Every storage class in every kind of column, some of them where nobody expects them.
const VALUES: &str = "
CREATE TABLE loose(id INTEGER PRIMARY KEY, a, b TEXT, c INTEGER, d REAL, e BLOB, f NUMERIC, g DATE, h ANY);
CREATE TABLE tight(id INTEGER PRIMARY KEY, a ANY, b TEXT, c INT, d REAL, e BLOB) STRICT;";

const ROWS: [&str; 9] = [
    "1, '1', 1, 1, 1, 1, 1, 1",
    "1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0",
    "'abc', 'abc', 'abc', 'abc', 'abc', 'abc', 'abc', 'abc'",
    "'12', '12', '12', '12', '12', '12', '12', '12'",
    "x'00ff00', x'00', x'', x'0031', x'3100', x'', x'31', x'00'",
    "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL",
    "9223372036854775807, -9223372036854775808, 9223372036854775807, 9e999, -9e999, 1e-320, 1e300, -0.0",
    "'', '', '', '', '', '', '', ''",
    "CAST(x'610062' AS TEXT), CAST(x'ff00fe' AS TEXT), 'ž🦀', 0.1, x'ff', 1e15, '2024-02-30', 'NaN'",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_storage_class_arrives_as_it_is_by_snapshot_and_by_stream() {
    let world = World::new(VALUES);
    let insert = || {
        for row in ROWS {
            world.write(&format!("INSERT INTO loose(a, b, c, d, e, f, g, h) VALUES ({row})"));
        }
        world.write(
            "INSERT INTO tight(a, b, c, d, e) VALUES ('1', '1', 1, 1, x'00'), (1, '', -1, 0.5, x''), (1.0, NULL, NULL, NULL, NULL)",
        );
    };
    insert();
    let mut running = world.start().await;
    world.assert_equal();
    insert();
    world.write("UPDATE loose SET a = 1.0 WHERE a IS 1 AND typeof(a) = 'integer'; UPDATE loose SET b = x'31' WHERE b = '1'");
    running.catch_up().await;
    world.assert_equal();
    let classes: i64 = one(&world.destination(), "SELECT count(DISTINCT typeof(a)) FROM loose");
    assert_eq!(classes, 5);
}

/// An integer in a TEXT column, brought there by an edited schema: SQLite would convert it, so it is refused, by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_integer_in_a_text_column_is_refused_not_converted() {
    let world = World::new("CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES (1, 5)");
    world.write("PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = 'CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT)'
                 WHERE name = 't'; PRAGMA writable_schema = RESET");
    assert_eq!(one::<String>(&world.app, "SELECT typeof(a) FROM t"), "integer");
    let session = world.open_destination().await.unwrap();
    let table = world.discover().await.remove(0);
    let error = try_copy(world.source().as_ref(), &session, &table, Moment::OfRun).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("main.t") && error.to_string().contains("column a"), "{error}");
    assert_eq!(rows(&world.destination(), "t").len(), 0);
}

/// Keys of every kind, equal for SQLite and yet not the same.
const KEYS: &str = "
CREATE TABLE composite(b TEXT, a INTEGER NOT NULL, v, PRIMARY KEY (a, b));
CREATE TABLE bare(a TEXT, b BLOB, v, PRIMARY KEY (b, a)) WITHOUT ROWID;
CREATE TABLE nocase(k TEXT PRIMARY KEY COLLATE NOCASE, v);
CREATE TABLE mixed(k TEXT, l TEXT COLLATE NOCASE, v, PRIMARY KEY (k COLLATE NOCASE, l COLLATE BINARY)) WITHOUT ROWID;
CREATE TABLE anything(k PRIMARY KEY, v);
CREATE TABLE real(k REAL PRIMARY KEY, v);
CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT, v, g AS (v || '!'), s TEXT AS (v || '?') STORED);
INSERT INTO composite VALUES ('x', 1, 1), ('y', 1, 2), ('', 2, 3);
INSERT INTO bare VALUES ('x', x'00', 1), ('', x'', 2), ('z', 'text', 3), ('z', 7, 4);
INSERT INTO nocase VALUES ('a', 1), ('B', 2);
INSERT INTO mixed VALUES ('a', 'x', 1), ('a', 'X', 2), ('b', 'x', 3);
INSERT INTO anything VALUES (1, 1), ('1', 2), (x'31', 3), (2.5, 4);
INSERT INTO real VALUES (1, 1), (1.5, 2), (-9e999, 3);
INSERT INTO auto(v) VALUES ('a'), ('b'), (NULL);";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_every_kind_and_keys_that_only_look_alike() {
    let world = World::new(KEYS);
    let mut running = world.start().await;
    world.assert_equal();
    for step in [
        "UPDATE nocase SET k = 'A' WHERE k = 'a'; UPDATE nocase SET v = 9 WHERE k = 'b'",
        "UPDATE mixed SET k = 'A' WHERE k = 'a' AND l = 'X'; DELETE FROM mixed WHERE k = 'b'",
        "UPDATE anything SET k = 1.0 WHERE k = 1; UPDATE anything SET k = 2 WHERE typeof(k) = 'blob'",
        "DELETE FROM nocase; INSERT INTO nocase VALUES ('b', 1), ('A', 2)",
        "UPDATE composite SET a = a + 1; UPDATE composite SET b = 'q' WHERE b = 'x'; DELETE FROM composite WHERE v = 3",
        "UPDATE bare SET b = CAST(b AS BLOB); INSERT INTO bare VALUES ('z', 8, 5); DELETE FROM bare WHERE a = ''",
        "UPDATE real SET k = k + 0.25; DELETE FROM real WHERE k < 0; INSERT INTO real VALUES (9, 9)",
        "UPDATE auto SET id = id + 100; INSERT INTO auto(v) VALUES (1), (x'00'); DELETE FROM auto WHERE v IS NULL",
        "REPLACE INTO nocase VALUES ('B', 'replaced'), ('a', 'replaced')",
        "REPLACE INTO anything VALUES (1, 'replaced'); INSERT INTO anything VALUES (3, 0) ON CONFLICT DO NOTHING",
        "UPDATE bare SET v = 'all'; VACUUM; DELETE FROM auto; INSERT INTO auto(v) VALUES ('after')",
    ] {
        world.write(step);
        running.catch_up().await;
        world.assert_equal();
    }
    assert!(running.stopped.is_empty());
}

/// Names that end a statement if they are pasted into it; and the application writes through an attached name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_names_and_attached_files() {
    let world = World::new(
        r#"CREATE TABLE "t""; DROP TABLE x; --"("order""' ]" INTEGER, "select" TEXT, "ü b" UNIQUE, PRIMARY KEY("order""' ]", "select"));
           CREATE TABLE x([group] INTEGER PRIMARY KEY, `a``b` TEXT, 'c''d' TEXT DEFAULT ('it''s')) /* ( */ -- )
           ;
           CREATE UNIQUE INDEX "i""(" ON x(`a``b`, "c'd" COLLATE NOCASE DESC);
           INSERT INTO "t""; DROP TABLE x; --" VALUES (1, 'a', 1), (2, 'b', NULL);
           INSERT INTO x VALUES (1, 'a', 'b'), (2, 'a', 'c')"#,
    );
    let mut running = world.start().await;
    world.assert_equal();
    let other = rusqlite::Connection::open_in_memory().unwrap();
    let path = world.path("source.db");
    other.execute("ATTACH ?1 AS \"main data\"", [path.to_str().unwrap()]).unwrap();
    other
        .execute_batch(
            r#"REPLACE INTO "main data"."t""; DROP TABLE x; --" VALUES (3, 'c', 1);
               REPLACE INTO "main data".x VALUES (9, 'a', 'B');
               UPDATE "main data".x SET 'c''d' = 'z' WHERE [group] = 2"#,
        )
        .unwrap();
    running.catch_up().await;
    world.assert_equal();
    assert_eq!(rows(&world.destination(), "x").len(), 2);
}

/// What only the definition knows is there too, and excluded columns are nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_arrive_and_excluded_columns_do_not() {
    let world = World::new(
        "CREATE TABLE people(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT COLLATE NOCASE NOT NULL CHECK (name <> ''),
           ssn TEXT UNIQUE, up TEXT AS (upper(ssn)), boss INTEGER REFERENCES people(id) ON DELETE CASCADE, UNIQUE(name, id));
         CREATE INDEX by_boss ON people(boss) WHERE boss IS NOT NULL;
         CREATE UNIQUE INDEX by_ssn ON people(ssn COLLATE NOCASE);
         INSERT INTO people VALUES (1, 'a', 'secret-1', NULL), (2, 'b', 'secret-2', 1);",
    );
    let mut selection = Selection::all(Carry::Native);
    selection.exclude_columns = vec![(TablePattern::new("people").unwrap(), "SSN".to_owned())];
    let mut running = world.start_selection(&selection).await;
    world.write("INSERT INTO people VALUES (3, 'c', 'secret-3', 2); DELETE FROM people WHERE id = 2; ");
    running.catch_up().await;
    let destination = world.destination();
    assert_eq!(rows(&destination, "people").len(), 1, "the delete cascaded at the source");
    let text = std::fs::read(world.path("destination.db")).unwrap();
    let wal = std::fs::read(world.path("destination.db-wal")).unwrap_or_default();
    for bytes in [text, wal] {
        assert!(!bytes.windows(7).any(|window| window == b"secret-"), "an excluded value left the source");
    }
    let definition: String = one(&destination, "SELECT sql FROM sqlite_schema WHERE name = 'people'");
    for part in ["AUTOINCREMENT", "COLLATE NOCASE", "ON DELETE CASCADE", "CHECK", "UNIQUE(name, id)"] {
        assert!(definition.contains(part), "{definition}");
    }
    let indexes: String = one(
        &destination,
        "SELECT group_concat(name) FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL",
    );
    assert!(indexes.contains("by_boss") && !indexes.contains("by_ssn"), "{indexes}");
}

/// Tables of one run without a stream show one state, whatever is written meanwhile; also those without a key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_without_a_stream_is_one_state() {
    let world = World::new(
        "CREATE TABLE a(x); CREATE TABLE b(id INTEGER PRIMARY KEY, y); INSERT INTO a VALUES (1), (1), (NULL); INSERT INTO b VALUES (1, 1)",
    );
    let session = world.open_destination().await.unwrap();
    let source = world.source();
    let tables = world.discover().await;
    copy(source.as_ref(), &session, &tables[0], Moment::OfRun).await;
    let before = (rows(&world.app, "a"), rows(&world.app, "b"));
    world.write("BEGIN; INSERT INTO a VALUES (2); INSERT INTO b VALUES (2, 2); UPDATE b SET y = 9; COMMIT");
    copy(source.as_ref(), &session, &tables[1], Moment::OfRun).await;
    let destination = world.destination();
    assert_eq!((rows(&destination, "a"), rows(&destination, "b")), before);
    assert_eq!(one::<i64>(&world.app, "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%syncline%'"), 0);
}
