//! `sync`, `status`, `check`, `discover` and `drop` between two SQLite files.

use rusqlite::Connection;
use syncline_testkit::process::{Outcome, Running};

use crate::process::{EndsWith, RUN_MAX, Room};

fn shop(room: &Room) -> Connection {
    let connection = Connection::open(room.path("a.db")).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = wal;
             CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT UNIQUE, ssn TEXT);
             CREATE TABLE notes (user_id INTEGER REFERENCES users (id), n INTEGER, body, PRIMARY KEY (user_id, n));
             WITH RECURSIVE k (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k WHERE n < 500)
             INSERT INTO users SELECT n, 'user' || n || '@example.com', 'secret' || n FROM k;
             INSERT INTO notes SELECT id, 1, CASE id % 3 WHEN 0 THEN NULL WHEN 1 THEN id ELSE x'00ff' END FROM users;",
        )
        .unwrap();
    connection
}

/// Every row of a query, as text.
fn rows(room: &Room, file: &str, sql: &str) -> Vec<String> {
    let connection = Connection::open(room.path(file)).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let row = |row: &rusqlite::Row<'_>| {
        Ok((0..columns).map(|n| format!("{:?}", row.get_ref(n).unwrap())).collect::<Vec<_>>().join("|"))
    };
    statement.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap()
}

#[track_caller]
fn assert_equal(room: &Room) {
    for sql in ["SELECT * FROM users ORDER BY id", "SELECT * FROM notes ORDER BY user_id, n"] {
        assert_eq!(rows(room, "a.db", sql), rows(room, "b.db", sql));
    }
}

fn sync_args(room: &Room, more: &[&str]) -> Vec<String> {
    let base = ["sync", &room.url("a.db"), &room.url("b.db"), "--name", "shop", "--capture", "triggers"];
    base.iter().chain(more).map(|&arg| arg.to_owned()).collect()
}

fn run(room: &Room, more: &[&str]) -> Outcome {
    room.run(&sync_args(room, more))
}

fn follow(room: &Room) -> Running {
    let mut running = room.syncline(&sync_args(room, &["--follow"])).start();
    room.wait_for_phase("shop", "streaming", &mut running);
    running
}

#[test]
fn copy_then_changes_then_nothing_left_behind() {
    let room = Room::new();
    let source = shop(&room);
    let ended = run(&room, &[]).ends_with(0);
    assert!(ended.stdout.starts_with("shop: done."), "{}", ended.stdout);
    assert!(
        ended.stderr.contains("stays at the source") && ended.stderr.contains("syncline drop shop"),
        "{}",
        ended.stderr
    );
    assert_equal(&room);

    source
        .execute_batch(
            "DELETE FROM notes WHERE user_id IN (2, 3); INSERT INTO notes VALUES (4, 2, 'new');
             UPDATE users SET email = 'x' WHERE id = 1; UPDATE users SET id = 9000 WHERE id = 2;",
        )
        .unwrap();
    let ended = run(&room, &[]).ends_with(0);
    assert!(ended.stdout.contains("read = "), "{}", ended.stdout);
    assert_equal(&room);

    let status = room.status("shop").unwrap();
    assert_eq!((&status["running"], &status["run"]["outcome"]), (&false.into(), &"done".into()));
    room.run(&["drop", "shop"]).ends_with(0);
    let left = "SELECT name FROM sqlite_schema WHERE name LIKE '%syncline%'";
    assert_eq!(rows(&room, "a.db", left), Vec::<String>::new());
    assert_eq!(rows(&room, "b.db", left), Vec::<String>::new());
    assert!(room.status("shop").is_none());
    assert!(!room.path("state/journals/shop").exists());
}

#[test]
fn excluded_tables_and_columns_never_arrive() {
    let room = Room::new();
    shop(&room);
    run(&room, &["--exclude", "notes", "--exclude-column", "main.users.ssn"]).ends_with(0);
    let columns = "SELECT name FROM pragma_table_info('users')";
    assert_eq!(rows(&room, "b.db", columns).len(), 2);
    assert!(rows(&room, "b.db", "SELECT name FROM sqlite_schema WHERE name = 'notes'").is_empty());
}

#[test]
fn a_snapshot_alone_leaves_nothing_at_the_source() {
    let room = Room::new();
    shop(&room);
    let before = rows(&room, "a.db", "SELECT name FROM sqlite_schema ORDER BY name");
    room.run(&["sync", &room.url("a.db"), &room.url("b.db"), "--mode", "snapshot"]).ends_with(0);
    assert_equal(&room);
    assert_eq!(rows(&room, "a.db", "SELECT name FROM sqlite_schema ORDER BY name"), before);
}

#[test]
fn triggers_are_made_only_with_consent() {
    let room = Room::new();
    shop(&room);
    let ended = room.run(&["sync", &room.url("a.db"), &room.url("b.db")]).ends_with(2);
    assert!(ended.stderr.contains("--capture triggers"), "{}", ended.stderr);
    assert!(rows(&room, "a.db", "SELECT name FROM sqlite_schema WHERE type = 'trigger'").is_empty());
}

#[test]
fn a_table_with_rows_is_refused_with_the_choices() {
    let room = Room::new();
    shop(&room);
    Connection::open(room.path("b.db"))
        .unwrap()
        .execute_batch("CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT UNIQUE, ssn TEXT); INSERT INTO users VALUES (77777, 'a', 'b');")
        .unwrap();
    let ended = run(&room, &[]).ends_with(2);
    for choice in ["recreate", "truncate", "keep"] {
        assert!(ended.stderr.contains(choice), "{}", ended.stderr);
    }
    run(&room, &["--prepare", "recreate"]).ends_with(0);
    assert_equal(&room);
}

#[test]
fn a_second_run_is_refused_with_who_holds_it_and_ctrl_c_drains() {
    let room = Room::new();
    let source = shop(&room);
    let running = follow(&room);
    let ended = run(&room, &[]).ends_with(2);
    assert!(ended.stderr.contains(&running.pid().to_string()), "{}", ended.stderr);
    let ended = room.run(&["drop", "shop"]).ends_with(2);
    assert!(ended.stderr.contains("running"), "{}", ended.stderr);
    assert_eq!(room.status("shop").unwrap()["running"], true, "the refused run changes nothing");

    source.execute_batch("INSERT INTO notes SELECT id, 5, 'later' FROM users").unwrap();
    running.interrupt();
    let ended = running.wait(RUN_MAX).ends_with(0);
    assert!(ended.stdout.contains("stopped as asked"), "{}", ended.stdout);
    run(&room, &[]).ends_with(0);
    assert_equal(&room);
}

#[test]
fn sigterm_twice_stops_at_once_and_loses_nothing() {
    let room = Room::new();
    let source = shop(&room);
    let running = follow(&room);
    source.execute_batch("UPDATE notes SET body = 'again'").unwrap();
    running.terminate();
    running.terminate();
    let ended = running.wait(RUN_MAX);
    assert!([Some(0), Some(143)].contains(&ended.code()), "{ended:?}");
    run(&room, &[]).ends_with(0);
    assert_equal(&room);
}

#[test]
fn check_and_discover() {
    let room = Room::new();
    shop(&room);
    let ended = room.run(&["discover", &room.url("a.db"), "--table", "main.u*"]).ends_with(0);
    assert!(ended.stdout.contains("main.users  (row key id"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("notes"), "{}", ended.stdout);
    let ended =
        room.run(&["check", &room.url("a.db"), &room.url("b.db"), "--capture", "triggers"]).ends_with(0);
    assert!(ended.stdout.contains("ready to run"), "{}", ended.stdout);
    assert!(!room.path("b.db").exists(), "a check changes nothing");
    let ended = room.run(&["discover", &room.url("a.db"), "--output", "json"]).ends_with(0);
    assert_eq!(ended.stdout.lines().count(), 2);
}

#[test]
fn json_events_from_start_to_summary() {
    let room = Room::new();
    shop(&room);
    let ended = run(&room, &["--output", "json"]).ends_with(0);
    let events: Vec<serde_json::Value> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.first().unwrap()["event"], "started");
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["exit_code"]), (&"summary".into(), &0.into()));
    assert_eq!(last["summary"]["tables"].as_array().unwrap().len(), 2);
}
