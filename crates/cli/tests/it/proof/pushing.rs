//! `sync --mode incremental` to an agent beside the destination: the same end as without it, nobody is asked while nothing
//! changes, and whichever end is killed, nothing is lost.

use rusqlite::Connection;
use syncline_testkit::compare::postgres::Comparison;
use syncline_testkit::process::Outcome;

use super::agents::{Agent, certificate};
use super::incremental::{BY_TIME, CHANGES, MODE, told, two_tables};
use super::pair::{COPY, NAME, Pair, SHOP, wait_until};
use crate::process::{EndsWith, RUN_MAX, Room};

const WRITABLE: [&str; 2] = ["--writable", "db"];

fn agent_of(pair: &Pair) -> Agent {
    // It tells of its sessions.
    Agent::start_with(&pair.room, &pair.destination.url(COPY), &WRITABLE, ("SYNCLINE_LOG", "info"))
}

fn push(pair: &Pair, url: &str, more: &[&str]) -> Outcome {
    let source = pair.source.url(SHOP);
    let base = ["sync", &source, url, "--name", NAME, "--output", "json"];
    pair.room.run(&[&base[..], &MODE[..], more].concat())
}

fn sessions(agent: &Agent) -> usize {
    agent.running.stderr_so_far().matches("a session begins").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_copy_is_filled_and_kept_and_not_asked_while_nothing_changes() {
    let Some(pair) = two_tables().await else { return };
    let agent = agent_of(&pair);
    let url = agent.url();
    push(&pair, &url, &[]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
    pair.source.execute(SHOP, CHANGES).await;
    let changed = push(&pair, &url, &[]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
    let item = told(&changed, "item");
    assert_eq!((&item["equal"], &item["deleted"]), (&true.into(), &100.into()), "{item}");
    // Nobody as much as connects.
    let before = sessions(&agent);
    assert!(before > 1, "{}", agent.running.stderr_so_far());
    for _ in 0..3 {
        push(&pair, &url, &[]).ends_with(0);
        assert_eq!(pair.room.status(NAME).unwrap()["status"]["requests"], 0);
    }
    assert_eq!(sessions(&agent), before);
    // What the guard stops is not deleted there.
    pair.source.execute(SHOP, "DELETE FROM item WHERE id > 2000").await;
    push(&pair, &url, &[]).ends_with(4);
    push(&pair, &url, &["--guard", "deletes=off"]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
    pair.drop_pipeline();
    agent.running.terminate();
    let _ = agent.running.wait(RUN_MAX).ends_with(0);
    pair.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_far_side_refuses_is_a_letter_and_the_others_come() {
    let Some(pair) = two_tables().await else { return };
    let agent = agent_of(&pair);
    push(&pair, &agent.url(), &[]).ends_with(0);
    pair.ask_destination("ALTER TABLE item ADD CONSTRAINT no_bad CHECK (note NOT LIKE 'bad%') NOT VALID");
    let bad = "UPDATE item SET note = 'bad secret', at = now() WHERE id = 7; UPDATE item SET note = 'fine', at = now() WHERE id > 4000";
    pair.source.execute(SHOP, bad).await;
    let refused = push(&pair, &agent.url(), &[]).ends_with(0);
    let item = told(&refused, "item");
    assert_eq!((&item["letters"], &item["equal"]), (&1.into(), &false.into()), "{item}");
    assert_eq!(pair.ask_destination("SELECT count(*) FROM item WHERE note = 'fine'"), "1000");
    let listed = pair.room.run(&["dead-letters", "list", NAME]).ends_with(0);
    assert!(listed.stdout.contains("no_bad") && !listed.stdout.contains("secret"), "{}", listed.stdout);
    assert!(!agent.running.stderr_so_far().contains("secret"));
    pair.ask_destination("ALTER TABLE item DROP CONSTRAINT no_bad");
    push(&pair, &agent.url(), &[]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_without_consent_and_only_so() {
    let Some(pair) = two_tables().await else { return };
    let reading = Agent::start(&pair.room, &pair.destination.url(COPY), &[]);
    let refused = push(&pair, &reading.url(), &[]).ends_with(2);
    assert!(refused.stderr.contains("--writable"), "{}", refused.stderr);
    assert_eq!(pair.ask_destination("SELECT count(*) FROM pg_class WHERE relname = 'item'"), "0");
    let agent = agent_of(&pair);
    // Only one mode, and only as the destination.
    let (source, url) = (pair.source.url(SHOP), agent.url());
    let refused = pair.room.run(&["sync", &source, &url]).ends_with(2);
    assert!(refused.stderr.contains("--mode incremental"), "{}", refused.stderr);
    let from = [&["sync", &url, &source][..], &MODE[..]].concat();
    pair.room.run(&from).ends_with(2);
    // Rows that nobody spoke of are there.
    pair.destination.execute(COPY, &BY_TIME.replace("5000", "50")).await;
    let check = [&["check", &source, &url][..], &MODE[..]].concat();
    pair.room.run(&check);
    push(&pair, &url, &[]).ends_with(2);
    push(&pair, &url, &["--prepare", "keep"]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
    // A name that the agent does not serve.
    let named = format!("no=sqlite:{}", pair.room.path("a.db").display());
    let wrong = ["agent", "--connection", &named, "--token-file", "token", "--writable", "other"];
    let refused = pair.room.run(&wrong).ends_with(2);
    assert!(refused.stderr.contains("`other` is to be writable, but is no connection"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_do_not_push_one_pipeline() {
    let Some(pair) = two_tables().await else { return };
    let agent = agent_of(&pair);
    push(&pair, &agent.url(), &[]).ends_with(0);
    // The first one waits for a row that somebody holds.
    let somebody = pair.destination.client(COPY).await;
    somebody.batch_execute("BEGIN; LOCK TABLE item IN ACCESS EXCLUSIVE MODE").await.unwrap();
    pair.source.execute(SHOP, CHANGES).await;
    let (source, url) = (pair.source.url(SHOP), agent.url());
    let arguments = [&["sync", &source, &url, "--name", NAME][..], &MODE[..]].concat();
    let first = pair.room.syncline(&arguments).start();
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    wait_until("the agent waits", RUN_MAX, || pair.ask_destination(waits) != "0");
    let other = Room::new();
    std::fs::copy(pair.room.path("token"), other.path("token")).unwrap();
    let second = other.run(&arguments).ends_with(2);
    assert!(second.stderr.contains("held by another process"), "{}", second.stderr);
    somebody.batch_execute("COMMIT").await.unwrap();
    let _ = first.wait(RUN_MAX).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_file_through_tls_into_another_family() {
    let Some(pair) = Pair::start().await else { return };
    let [certificate, key] = certificate(&pair.room, "agent.example");
    let tls = ["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let more = [&WRITABLE[..], &tls[..], &["--listen", "0.0.0.0:0"]].concat();
    let agent = Agent::start(&pair.room, &pair.destination.url(COPY), &more);
    let port = agent.address.rsplit(':').next().unwrap();
    let url = format!("syncline://127.0.0.1:{port}/db?token-file=token&ca={}", certificate.display());
    let shop = Connection::open(pair.room.path("shop.db")).unwrap();
    shop.execute_batch(
        "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT, rev INTEGER NOT NULL);
         WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 4000) INSERT INTO note SELECT i, 'n' || i, i FROM n",
    )
    .unwrap();
    let file = pair.room.url("shop.db");
    let base = ["sync", &file, &url, "--mode", "incremental", "--version-column", "rev"];
    let base = [&base[..], &["--schema-map", "main=public"]].concat();
    pair.room.run(&base).ends_with(0);
    shop.execute_batch(
        "DELETE FROM note WHERE id < 100; UPDATE note SET text = 'x', rev = 4000 + id WHERE id > 3900",
    )
    .unwrap();
    pair.room.run(&base).ends_with(0);
    assert_eq!(
        pair.ask_destination("SELECT count(*), sum(rev) FILTER (WHERE text = 'x') FROM note"),
        "3901|795050"
    );
    let copy = pair.destination.url(COPY);
    pair.room.run(&["diff", &file, &copy, "--schema-map", "main=public"]).ends_with(0);
    // And to a file.
    let to_file = Agent::start(&pair.room, &pair.room.url("copy.db"), &WRITABLE);
    let there = to_file.url();
    let rest = ["--mode", "incremental", "--version-column", "rev"];
    pair.room.run(&[&["sync", &file, &there][..], &rest].concat()).ends_with(0);
    pair.room.run(&["diff", &file, &pair.room.url("copy.db")]).ends_with(0);
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn whichever_end_is_killed_nothing_is_lost_and_nothing_invented() {
    let Some(pair) = two_tables().await else { return };
    let there = pair.destination.url(COPY);
    let deletes_and_updates = CHANGES.split("INSERT").next().unwrap();
    let first = Agent::start(&pair.room, &there, &WRITABLE);
    let (address, url) = (first.address.clone(), first.url());
    let _ = first.running.kill_9();
    let (source, off) = (pair.source.url(SHOP), ["--guard", "deletes=off"]);
    let arguments = [&["sync", &source, &url, "--name", NAME][..], &MODE[..], &off].concat();
    let at = [&WRITABLE[..], &["--listen", &address]].concat();
    for place in
        ["before_commit=kill@2", "before_commit=kill@2", "load_committed=kill@1", "before_commit=kill@1"]
    {
        let mut failing = Agent::start_with(&pair.room, &there, &at, ("SYNCLINE_FAILPOINT", place));
        let mut running = pair.room.syncline(&arguments).start();
        wait_until("the agent is killed", RUN_MAX, || {
            assert!(running.is_running(), "{place}: {} {}", running.stdout_so_far(), running.stderr_so_far());
            !failing.running.is_running()
        });
        // The other end goes on with the agent that comes after it.
        let next = Agent::start(&pair.room, &there, &at);
        let _ = running.wait(RUN_MAX).ends_with(0);
        pair.assert_equal(&Comparison::new()).await;
        drop(next);
        pair.source.execute(SHOP, deletes_and_updates).await;
    }
    let agent = Agent::start(&pair.room, &there, &at);
    for place in ["table_sync_batch=kill@1", "table_sync_batch=kill@2"] {
        let killed = pair.room.syncline(&arguments).env("SYNCLINE_FAILPOINT", place).run(RUN_MAX);
        assert_ne!(killed.code(), Some(0), "{place}: {}", killed.stdout);
        pair.source
            .execute(
                SHOP,
                &CHANGES
                    .replace("id % 50 = 1", "id % 50 = 2")
                    .replace("5001", "5101")
                    .replace("5100", "5200"),
            )
            .await;
        pair.room.run(&arguments).ends_with(0);
        pair.assert_equal(&Comparison::new()).await;
        pair.source
            .execute(SHOP, "DELETE FROM item WHERE id > 5100; UPDATE item SET at = now() WHERE id % 3 = 0")
            .await;
    }
    drop(agent);
}
