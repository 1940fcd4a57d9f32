//! The demo, smaller than a person sees it.

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
