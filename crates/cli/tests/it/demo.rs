//! The demo, smaller than a person sees it.

use std::time::Duration;

use rusqlite::Connection;

use crate::process::{EndsWith, RUN_MAX, Room};

#[test]
fn the_demo_ends_equal_and_leaves_nothing() {
    let room = Room::new();
    let ended = room.run(&["demo", "--rows", "4000", "--seconds", "3"]).ends_with(0);
    assert!(ended.stdout.starts_with("EQUAL: "), "{}", ended.stdout);
    assert!(ended.stdout.contains("rows/s") && ended.stdout.contains("read = "), "{}", ended.stdout);
    assert!(room.left_in_tmp().is_empty(), "{:?}", room.left_in_tmp());
    assert!(!room.path("state").exists(), "the demo has a state directory of its own");
}

#[test]
fn the_demo_in_json_has_the_figures() {
    let room = Room::new();
    let ended = room.run(&["demo", "--rows", "1000", "--seconds", "1", "--output", "json"]).ends_with(0);
    let events: Vec<serde_json::Value> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["equal"]), (&"demo".into(), &true.into()));
    assert!(last["writer"]["transactions"].as_u64().unwrap() > 0);
    assert!(last["changes"]["applied"].as_u64().unwrap() > 0);
    assert!(events.iter().any(|event| event["event"] == "progress"));
}

#[test]
fn ctrl_c_ends_the_demo_and_leaves_nothing() {
    let room = Room::new();
    let mut running = room.syncline(&["demo", "--rows", "4000", "--seconds", "60"]).start();
    running.wait_for_output("streaming", RUN_MAX);
    running.interrupt();
    running.wait(RUN_MAX).ends_with(130);
    assert!(room.left_in_tmp().is_empty(), "{:?}", room.left_in_tmp());
}

#[test]
fn kept_files_are_named_and_can_be_gone_on_with() {
    let room = Room::new();
    let ended = room.run(&["demo", "--rows", "500", "--seconds", "1", "--keep"]).ends_with(0);
    let [dir] = room.left_in_tmp().try_into().unwrap();
    let next = ended.stderr.lines().find(|line| line.contains("syncline sync ")).unwrap();
    assert!(next.contains(&dir.display().to_string()), "{next}");
    let args: Vec<_> = next.split_whitespace().skip(1).filter(|word| *word != "--follow").collect();
    room.run(&args).ends_with(0);
}

/// Somebody writes into the copy while it is kept: the comparison at the end says so.
#[test]
fn a_copy_that_was_tampered_with_ends_the_demo_with_3() {
    let room = Room::new();
    let mut running = room.syncline(&["demo", "--rows", "1000", "--seconds", "3"]).start();
    running.wait_for_output("streaming", RUN_MAX);
    let [dir] = room.left_in_tmp().try_into().unwrap();
    let copy = Connection::open(dir.join("copy.db")).unwrap();
    copy.busy_timeout(Duration::from_secs(60)).unwrap();
    let row = "INSERT INTO products VALUES ('not in the shop', 'stranger', 1, NULL, NULL, 1)";
    assert_eq!(copy.execute(row, []).unwrap(), 1);
    drop(copy);
    let ended = running.wait(RUN_MAX).ends_with(3);
    assert!(!ended.stdout.starts_with("EQUAL"), "{}", ended.stdout);
    let products = ended.stdout.lines().find(|line| line.trim_start().starts_with("products: "));
    assert!(
        products.is_some_and(|line| line.ends_with("0 missing, 0 differ, 1 too many")),
        "{}",
        ended.stdout
    );
    assert!(room.left_in_tmp().is_empty(), "{:?}", room.left_in_tmp());
}
