//! Wrong usage: exit 2, one line that says what, one that says what to do, no stack trace, no secret.

use crate::process::{EndsWith, Room};

#[test]
fn wrong_usage_ends_with_2() {
    let room = Room::new();
    for args in [
        &["no-such-command"][..],
        &[][..],
        &["sync", "--no-such-option"],
        &["sync"],
        &["sync", "sqlite:a.db"],
        &["sync", "sqlite:a.db", "sqlite:b.db", "sqlite:c.db"],
        &["sync", "sqlite:a.db", "sqlite:b.db", "--name", "Not A Name"],
        &["sync", "sqlite:a.db", "sqlite:b.db", "--mode", "sideways"],
        &["sync", "sqlite:a.db", "sqlite:b.db", "--mode", "snapshot", "--follow"],
        &["sync", "sqlite:a.db", "sqlite:b.db", "--workers", "0"],
        &["sync", "sqlite:a.db", "sqlite:b.db", "--journal-budget", "plenty"],
        &["sync", "sqlite:a.db", "sqlite:b.db", "--exclude-column", "ssn"],
        &["sync", "sqlite:a.db", "sqlite:b.db", "--schema-map", "main"],
        &["sync", "oracle://x", "sqlite:b.db"],
        &["sync", "--config", "none.yaml"],
        &["sync", "--config", "none.yaml", "--follow"],
        &["drop"],
        &["drop", "unknown"],
        &["drop", "unknown", "sqlite:a.db"],
        &["status", "unknown"],
        &["discover"],
        &["demo", "--rows", "1"],
    ] {
        let ended = room.run(args).ends_with(2);
        assert!(ended.stdout.is_empty(), "{args:?} said on stdout: {}", ended.stdout);
        assert!(
            !ended.stderr.contains("panicked") && !ended.stderr.contains("RUST_BACKTRACE"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn an_error_says_what_to_do() {
    let room = Room::new();
    let ended = room.run(&["sync", "sqlite:a.db"]).ends_with(2);
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines[0], "error: the destination is missing");
    assert!(lines[1].starts_with("  remedy: give two URLs"), "{}", lines[1]);
    assert_eq!(lines.len(), 2);
}

#[test]
fn an_error_is_json_too() {
    let room = Room::new();
    let ended = room.run(&["sync", "oracle://me:secret@x", "sqlite:b.db", "--output", "json"]).ends_with(2);
    let event: serde_json::Value = serde_json::from_str(ended.stdout.trim()).unwrap();
    assert_eq!(
        (&event["event"], &event["kind"], &event["exit_code"]),
        (&"error".into(), &"configuration".into(), &2.into())
    );
    assert!(event["remedy"].is_string());
    assert!(!format!("{ended:?}").contains("secret"), "{ended:?}");
}

#[test]
fn a_file_that_is_not_there_is_one_clear_error() {
    let room = Room::new();
    let ended = room.run(&["discover", &room.url("none.db")]);
    assert!([Some(1), Some(2)].contains(&ended.code()), "{ended:?}");
    assert!(ended.stderr.starts_with("error: ") && !ended.stderr.contains("panicked"), "{}", ended.stderr);
    assert!(!room.path("none.db").exists(), "reading must not make a file");
}

#[test]
fn a_reader_that_went_away_is_no_reason_to_stop() {
    let room = Room::new();
    let binary = env!("CARGO_BIN_EXE_syncline");
    let status = std::process::Command::new("sh")
        .args(["-c", &format!("{{ '{binary}' status --state-dir state; echo $? > code; }} | true")])
        .current_dir(room.path("."))
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read_to_string(room.path("code")).unwrap().trim(), "0");
}
