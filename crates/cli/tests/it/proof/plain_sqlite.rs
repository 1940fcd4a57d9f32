//! SQLite to SQLite, the same in small.

use rusqlite::Connection;
use syncline_testkit::compare::sqlite;

use crate::process::{EndsWith, Room};

#[test]
fn sqlite_everything_then_changes_then_nothing_left() {
    let room = Room::new();
    let source = Connection::open(room.path("a.db")).unwrap();
    source
        .execute_batch(
            "PRAGMA journal_mode = wal;
             CREATE TABLE kinds (id INTEGER PRIMARY KEY, whole INTEGER, real REAL, words TEXT COLLATE NOCASE UNIQUE, bytes BLOB, any);
             CREATE TABLE pairs (a TEXT, b INTEGER, c, PRIMARY KEY (a, b)) WITHOUT ROWID;
             CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES kinds (id) ON DELETE CASCADE);
             CREATE INDEX pairs_c ON pairs (c);
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO kinds SELECT i, i * 4294967311, i / 7.0, 'word ' || i, randomblob(i % 50),
                 CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN i WHEN 2 THEN i / 3.0 WHEN 3 THEN 'text' ELSE x'00ff' END FROM n;
             INSERT INTO kinds VALUES (-1, -9223372036854775808, 1e308, '', x'', 9e999), (-2, 0, -0.0, NULL, NULL, char(0));
             INSERT INTO pairs SELECT 'p' || id % 10, id, any FROM kinds;
             INSERT INTO child SELECT id, id FROM kinds WHERE id > 0;",
        )
        .unwrap();
    let sync = ["sync", &room.url("a.db"), &room.url("b.db"), "--name", "small", "--capture", "triggers"];
    room.run(&sync).ends_with(0);
    sqlite::assert_equal(&room.path("a.db"), &room.path("b.db"));
    source
        .execute_batch(
            "PRAGMA foreign_keys = on;
             UPDATE kinds SET any = 1.0 WHERE id = 1; UPDATE kinds SET any = x'31' WHERE id = 2; UPDATE kinds SET id = 100000 WHERE id = -1;
             DELETE FROM kinds WHERE id BETWEEN 50 AND 70; INSERT OR REPLACE INTO kinds VALUES (7, 1, 1, 'WORD 8', NULL, NULL);
             UPDATE pairs SET b = -b WHERE a = 'p3'; DELETE FROM pairs WHERE a = 'p4';
             REPLACE INTO pairs SELECT a, b, 'again' FROM pairs WHERE a = 'p5';",
        )
        .unwrap();
    room.run(&sync).ends_with(0);
    sqlite::assert_equal(&room.path("a.db"), &room.path("b.db"));
    room.run(&["drop", "small"]).ends_with(0);
    for file in ["a.db", "b.db"] {
        let left = "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%syncline%' OR sql LIKE '%syncline%'";
        let left: i64 =
            Connection::open(room.path(file)).unwrap().query_row(left, [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0, "{file}");
    }
    sqlite::assert_equal(&room.path("a.db"), &room.path("b.db"));
}
