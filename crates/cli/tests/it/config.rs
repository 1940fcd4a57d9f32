//! Pipelines in a YAML file: every problem at once with line and column, `${ENV}`, several at the same time.

use rusqlite::Connection;

use crate::process::{EndsWith, RUN_MAX, Room};

#[test]
fn every_problem_of_a_file_with_line_and_column() {
    let room = Room::new();
    let text = "pipelines:\n  - name: shop\n    source: sqlite:${NOT_SET}.db\n    destination: sqlite:b.db\n    tabels: [a]\n    workers: 900\n";
    std::fs::write(room.path("p.yaml"), text).unwrap();
    let ended = room.run(&["sync", "--config", "p.yaml"]).ends_with(2);
    let errors: Vec<_> = ended.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(
        errors,
        [
            "error: p.yaml:3:20: environment variable `NOT_SET` is not set",
            "error: p.yaml:5:5: unknown key `tabels`",
            "error: p.yaml:6:14: 900 workers are not possible",
        ]
    );
    let ended = room.run(&["check", "--config", "p.yaml", "--output", "json"]).ends_with(2);
    let places: Vec<_> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|event| (event["line"].as_u64().unwrap(), event["column"].as_u64().unwrap()))
        .collect();
    assert_eq!(places, [(3, 20), (5, 5), (6, 14)]);
}

#[test]
fn a_broken_file_is_told_with_its_place() {
    let room = Room::new();
    std::fs::write(room.path("p.yaml"), "pipelines:\n  - name: [\n").unwrap();
    let ended = room.run(&["sync", "--config", "p.yaml"]).ends_with(2);
    assert!(ended.stderr.starts_with("error: p.yaml:"), "{}", ended.stderr);
}

#[test]
fn two_pipelines_at_the_same_time_or_one_by_name() {
    let room = Room::new();
    for file in ["a.db", "b.db"] {
        Connection::open(room.path(file))
            .unwrap()
            .execute_batch(
                "CREATE TABLE t (id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES (1, 'one'), (2, NULL);",
            )
            .unwrap();
    }
    let one = |name: &str| {
        format!(
            "  - name: {name}\n    source: sqlite:${{ROOM}}/{name}.db\n    destination: sqlite:${{ROOM}}/{name}_copy.db\n    capture: triggers\n"
        )
    };
    std::fs::write(room.path("p.yaml"), format!("pipelines:\n{}{}", one("a"), one("b"))).unwrap();

    let ended = room
        .syncline(&["sync", "--config", "p.yaml", "nobody"])
        .env("ROOM", room.dir().as_os_str())
        .run(RUN_MAX)
        .ends_with(2);
    assert!(ended.stderr.contains("a, b"), "{}", ended.stderr);
    room.syncline(&["sync", "--config", "p.yaml", "b"])
        .env("ROOM", room.dir().as_os_str())
        .run(RUN_MAX)
        .ends_with(0);
    assert!(!room.path("a_copy.db").exists() && room.path("b_copy.db").exists());

    let ended = room
        .syncline(&["sync", "--config", "p.yaml"])
        .env("ROOM", room.dir().as_os_str())
        .run(RUN_MAX)
        .ends_with(0);
    assert!(ended.stdout.contains("a: done.") && ended.stdout.contains("b: done."), "{}", ended.stdout);
    let rows: i64 = Connection::open(room.path("a_copy.db"))
        .unwrap()
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 2);
}
