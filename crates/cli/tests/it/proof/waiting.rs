//! Transactions of others hold up the beginning: it is said whose they are, wherever somebody may look (trap 1.6).

use std::time::{Duration, Instant};

use syncline_testkit::process::Running;
use tokio_postgres::Client;

use super::pair::{NAME, Pair, SHOP};
use crate::process::{EndsWith, RUN_MAX};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)";

/// A session with an open transaction that has written, and the words that name it.
async fn open_transaction(pair: &Pair) -> (Client, [String; 3]) {
    pair.source.execute(SHOP, "CREATE ROLE clerk SUPERUSER").await;
    let client = pair.source.client(SHOP).await;
    let write =
        "SET SESSION AUTHORIZATION clerk; SET application_name = 'billing'; BEGIN; INSERT INTO t VALUES (2)";
    client.batch_execute(write).await.unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    // `usename` is who logged in.
    (client, [format!("process {pid} "), "of user postgres".to_owned(), "(billing)".to_owned()])
}

fn names_all(text: &str, words: &[String]) -> bool {
    words.iter().all(|word| text.contains(word))
}

/// Waits until `status` says who is waited for, in JSON and as text.
fn wait_until_status_names(pair: &Pair, words: &[String], running: &mut Running) {
    let begun = Instant::now();
    loop {
        let status = pair.room.status(NAME).unwrap_or_default();
        let status = &status["status"];
        if status["waiting_for"].as_str().is_some_and(|who| names_all(who, words)) {
            assert_eq!(status["phase"], "settling");
            break;
        }
        assert!(running.is_running(), "{}", running.stderr_so_far());
        assert!(begun.elapsed() < Duration::from_secs(30), "{status}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let text = pair.room.run(&["status", NAME]).ends_with(0).stdout;
    let line = text.lines().find(|line| line.trim_start().starts_with("waiting for"));
    assert!(line.is_some_and(|line| names_all(line, words)), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_6_while_the_slot_is_made_it_is_said_who_is_waited_for() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, TABLE).await;
    let (billing, words) = open_transaction(&pair).await;
    let mut running = pair.sync(&[]).start();
    wait_until_status_names(&pair, &words, &mut running);
    running.wait_for_output("waiting for process", RUN_MAX);
    std::thread::sleep(Duration::from_secs(3));
    let said = running.stderr_so_far();
    let lines: Vec<_> = said.lines().filter(|line| line.contains("waiting for")).collect();
    assert!(matches!(lines[..], [line] if names_all(line, &words)), "once: {said}");
    billing.batch_execute("COMMIT").await.unwrap();
    let _ = running.wait(RUN_MAX).ends_with(0);
    pair.assert_same().await;
    assert!(pair.room.status(NAME).unwrap()["status"]["waiting_for"].is_null());
}

/// The slot is there already, and a table is new: its snapshot waits.
#[tokio::test(flavor = "multi_thread")]
async fn trap_6_before_a_snapshot_it_is_said_who_is_waited_for() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, TABLE).await;
    pair.run_well(&[]);
    pair.source.execute(SHOP, "CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1)").await;
    let (billing, words) = open_transaction(&pair).await;
    let mut running = pair.sync(&["--output", "json"]).start();
    wait_until_status_names(&pair, &words, &mut running);
    let event = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let named = |line: &str| event(line)["waiting_for"].as_str().is_some_and(|who| names_all(who, &words));
    running.wait_for_output(&words[0], RUN_MAX);
    assert!(running.stdout_so_far().lines().any(named), "{}", running.stdout_so_far());
    billing.batch_execute("COMMIT").await.unwrap();
    let _ = running.wait(RUN_MAX).ends_with(0);
    pair.assert_same().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_6_a_run_that_waits_for_its_slot_stops_when_asked() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, TABLE).await;
    let (billing, words) = open_transaction(&pair).await;
    let mut running = pair.sync(&[]).start();
    wait_until_status_names(&pair, &words, &mut running);
    running.terminate();
    let ended = running.wait(Duration::from_secs(20)).ends_with(0);
    assert!(ended.stdout.contains("stopped as asked"), "{}", ended.stdout);
    billing.batch_execute("COMMIT").await.unwrap();
    pair.run_well(&[]);
    pair.assert_same().await;
}
