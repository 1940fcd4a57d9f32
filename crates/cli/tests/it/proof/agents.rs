//! `diff` through agents: the same is found as without them, few bytes are exchanged for it, and whoever has no token or no
//! agent any more is told so.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use syncline_testkit::compare::postgres::Comparison;
use syncline_testkit::process::{Outcome, Running};

use super::diff::{PLANTED, counts, diff, tables, two_equal_sides};
use super::digests::Counted;
use super::pair::{COPY, Pair, SHOP, wait_until};
use crate::process::{EndsWith, RUN_MAX, Room};

const TOKEN: &str = "a-token-of-these-tests-0123456789";

/// An agent that runs, and where it listens.
pub(crate) struct Agent {
    pub(crate) running: Running,
    pub(crate) address: String,
}

impl Agent {
    /// Starts one beside a database, with more arguments.
    pub(crate) fn start(room: &Room, connection: &str, more: &[&str]) -> Self {
        Self::start_with(room, connection, more, ("SYNCLINE_LOG", "error"))
    }

    /// As [`Agent::start`], in this environment.
    pub(crate) fn start_with(room: &Room, connection: &str, more: &[&str], env: (&str, &str)) -> Self {
        std::fs::write(room.path("token"), format!("{TOKEN}\n")).unwrap();
        let named = format!("db={connection}");
        let base = ["agent", "--connection", &named, "--token-file", "token", "--output", "json"];
        let base: Vec<_> = base.iter().chain(more).copied().collect();
        let listens = more.contains(&"--listen");
        let listen: &[&str] = if listens { &[] } else { &["--listen", "127.0.0.1:0"] };
        let mut running = room.syncline(&[&base[..], listen].concat()).env(env.0, env.1).start();
        running.wait_for_output("listening", RUN_MAX);
        let said: Value = serde_json::from_str(running.stdout_so_far().lines().next().unwrap()).unwrap();
        Self { running, address: said["address"].as_str().unwrap().to_owned() }
    }

    pub(crate) fn url(&self) -> String {
        format!("syncline://{}/db?token-file=token", self.address)
    }
}

/// Two servers with an agent each.
struct Apart {
    pair: Pair,
    source: Agent,
    destination: Agent,
}

impl Apart {
    fn of(pair: Pair) -> Self {
        let source = Agent::start(&pair.room, &pair.source.url(SHOP), &[]);
        let destination = Agent::start(&pair.room, &pair.destination.url(COPY), &[]);
        Self { pair, source, destination }
    }

    fn diff(&self, more: &[&str]) -> Outcome {
        let (source, destination) = (self.source.url(), self.destination.url());
        self.pair.room.run(&[&["diff", &source, &destination], more].concat())
    }
}

/// The last line of a comparison.
fn end(outcome: &Outcome) -> Value {
    serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap()
}

/// Bytes in both directions for these purposes.
fn exchanged(outcome: &Outcome, side: &str, purposes: &[&str]) -> u64 {
    let traffic = &end(outcome)["traffic"][side];
    let of = |purpose: &&str| {
        let of = &traffic[*purpose];
        of["sent_bytes"].as_u64().unwrap() + of["received_bytes"].as_u64().unwrap()
    };
    purposes.iter().map(of).sum()
}

/// What is found, without what differs from comparison to comparison.
fn found(outcome: &Outcome) -> Vec<Value> {
    let of = |mut table: Value| {
        let known = table.as_object_mut().unwrap();
        known.remove("digest_source");
        known.remove("digest_destination");
        let samples = known["samples"].as_array_mut().unwrap();
        samples.sort_by_key(ToString::to_string);
        table
    };
    tables(outcome).into_values().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_is_the_same_wherever_the_sides_are_read() {
    let Some(pair) = two_equal_sides().await else { return };
    let apart = Apart::of(pair);
    let equal = apart.diff(&[]).ends_with(0);
    assert!(equal.stdout.contains("EQUAL: 7 tables"), "{}", equal.stdout);
    assert!(equal.stdout.contains("with the agent of the source: sketches "), "{}", equal.stdout);
    let equal = apart.diff(&["--output", "json"]).ends_with(0);
    for side in ["source", "destination"] {
        assert_eq!(exchanged(&equal, side, &["keys", "rows"]), 0);
        assert!(exchanged(&equal, side, &["sketches"]) < 7 * 1_000, "{}", equal.stdout);
    }
    apart.pair.destination.execute(COPY, PLANTED).await;
    let asked = ["--output", "json", "--samples", "1000"];
    let here = found(&diff(&apart.pair, &asked).ends_with(3));
    let both = apart.diff(&asked).ends_with(3);
    assert_eq!(found(&both), here);
    assert_eq!(tables(&both)["by_int"]["counts"]["changed"], 13);
    // Two of its keys are too long for a sketch.
    assert!(exchanged(&both, "source", &["rows"]) > 0);
    let (source, copy) = (apart.source.url(), apart.pair.destination.url(COPY));
    let half = apart.pair.room.run(&[&["diff", &source, &copy], &asked[..]].concat()).ends_with(3);
    assert_eq!(found(&half), here);
    assert!(end(&half)["traffic"]["destination"].is_null());
    let (source, copy) = (apart.pair.source.url(SHOP), apart.destination.url());
    let half = apart.pair.room.run(&[&["diff", &source, &copy], &asked[..]].concat()).ends_with(3);
    assert_eq!(found(&half), here);
    let shown = apart.pair.room.run(&["runs", "show", &end(&both)["run"].to_string(), "--output", "json"]);
    assert!(shown.ends_with(0).stdout.contains("received_bytes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_scattered_differences_cost_less_than_200_kb() {
    let Some(pair) = Pair::start().await else { return };
    let rows = "CREATE TABLE t (id int PRIMARY KEY, v int, note text);
        INSERT INTO t SELECT i, i, 'note ' || i FROM generate_series(1, 300000) i";
    pair.source.execute(SHOP, rows).await;
    pair.destination.execute(COPY, rows).await;
    pair.destination.execute(COPY, "UPDATE t SET v = -v WHERE id % 300 = 7").await;
    let apart = Apart::of(pair);
    let (source, copy) = (apart.source.url(), apart.pair.destination.url(COPY));
    let found = apart.pair.room.run(&["diff", &source, &copy, "--output", "json"]).ends_with(3);
    assert_eq!(counts(&tables(&found)["t"]), [0, 0, 1000, 0]);
    let bytes = exchanged(&found, "source", &["sketches", "keys", "rest"]);
    println!("{bytes} bytes besides the rows");
    assert!((20_000..200_000).contains(&bytes), "{bytes} bytes besides the rows");
    // With two agents and somebody between them, each of the two ways.
    let both = apart.diff(&["--output", "json"]).ends_with(3);
    let links = ["source", "destination"].map(|side| exchanged(&both, side, &["sketches", "keys", "rest"]));
    println!("{links:?} bytes besides the rows, between two agents");
    assert!(links[0] > 20_000 && links[1] > 20_000 && links[0] + links[1] < 190_000, "{links:?}");
}

/// Its description alone is longer than the head of a message may be.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_thousand_columns_is_compared_through_agents() {
    let Some(pair) = Pair::start().await else { return };
    let columns: String =
        (1..=1000).map(|at| format!(", a_column_with_a_rather_long_name_of_its_own_{at} smallint")).collect();
    let wide = format!(
        "CREATE TABLE t (id int PRIMARY KEY{columns}); INSERT INTO t SELECT i, i FROM generate_series(1, 50) i"
    );
    pair.source.execute(SHOP, &wide).await;
    pair.destination.execute(COPY, &wide).await;
    let last = "UPDATE t SET a_column_with_a_rather_long_name_of_its_own_1000 = 1 WHERE id = 7";
    pair.destination.execute(COPY, last).await;
    let apart = Apart::of(pair);
    assert_eq!(counts(&tables(&apart.diff(&["--output", "json"]).ends_with(3))["t"]), [0, 0, 1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_finds_no_room_at_an_agent_is_told_so() {
    let room = Room::new();
    let file = rusqlite::Connection::open(room.path("a.db")).unwrap();
    file.execute_batch("CREATE TABLE t (id int PRIMARY KEY)").unwrap();
    drop(file);
    let agent = Agent::start(&room, &room.url("a.db"), &[]);
    // Those who have not said who they are take a place, too, for ten seconds.
    let silent: Vec<_> = (0..16).map(|_| std::net::TcpStream::connect(&agent.address).unwrap()).collect();
    let (url, file) = (agent.url(), room.url("a.db"));
    let refused = room.run(&["diff", &url, &file]).ends_with(1);
    assert!(refused.stderr.contains("it has 16 sessions already"), "{}", refused.stderr);
    assert!(refused.stderr.contains("wait until another comparison has ended"), "{}", refused.stderr);
    drop(silent);
    wait_until("there is room again", RUN_MAX, || room.run(&["diff", &url, &file]).code() == Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_difference_is_cut_into_ranges_at_the_agents() {
    let Some(pair) = Pair::start().await else { return };
    let table = "CREATE TABLE t (id int PRIMARY KEY, v int)";
    let all = "INSERT INTO t SELECT i, i FROM generate_series(1, 150000) i";
    pair.source.execute(SHOP, &format!("{table}; {all}")).await;
    pair.destination
        .execute(COPY, &format!("{table}; {all} WHERE i % 3 > 0; UPDATE t SET v = 0 WHERE id <= 30000"))
        .await;
    let apart = Apart::of(pair);
    let found = tables(&apart.diff(&["--output", "json"]).ends_with(3));
    assert_eq!(counts(&found["t"]), [50_000, 0, 20_000, 0]);
    assert!(found["t"]["scans"].as_u64().unwrap() > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_an_agent_reads_is_what_a_repair_writes() {
    let Some(pair) = two_equal_sides().await else { return };
    pair.destination.execute(COPY, PLANTED).await;
    let apart = Apart::of(pair);
    let (source, copy) = (apart.source.url(), apart.pair.destination.url(COPY));
    // Nothing is written by an agent.
    for how in ["--repair", "--plan"] {
        let refused = apart.diff(&[how]).ends_with(2);
        assert!(refused.stderr.contains("beside the destination"), "{}", refused.stderr);
    }
    // Nor anything that the guard or the source's own duplicates speak against.
    let not_unique = ["diff", &source, &copy, "--repair", "--table", "by_pair", "--unique", "by_pair(a)"];
    let refused = apart.pair.room.run(&not_unique).ends_with(1);
    assert!(refused.stdout.contains("(a) is not unique at the source, 7 values"), "{}", refused.stdout);
    assert!(refused.stdout.contains("'a0' in 428 rows"), "{}", refused.stdout);
    let repaired = apart.pair.room.run(&["diff", &source, &copy, "--repair"]).ends_with(0);
    assert!(repaired.stdout.contains("EQUAL NOW: 7 tables, 7 repaired"), "{}", repaired.stdout);
    apart.pair.assert_equal(&Comparison::new()).await;
    apart.diff(&[]).ends_with(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn between_two_families_rows_are_fetched_as_typed_values() {
    let Some(pair) = two_equal_sides().await else { return };
    let file = pair.room.url("copy.db");
    let without = ["--exclude", "keyless", "--exclude", "moods"];
    let copied = ["sync", &pair.source.url(SHOP), &file, "--mode", "snapshot"];
    pair.room.run(&[&copied[..], &without[..]].concat()).ends_with(0);
    let copy = rusqlite::Connection::open(pair.room.path("copy.db")).unwrap();
    copy.execute_batch(
        "UPDATE by_int SET name = 'x' WHERE id = 1; DELETE FROM by_uuid WHERE seen = '2000-01-02';
         INSERT INTO by_numeric VALUES ('7000.5', 'surplus')",
    )
    .unwrap();
    drop(copy);
    let apart = Apart::of(pair);
    let source = apart.source.url();
    let compared = [&["diff", &source, &file][..], &without[..]].concat();
    let repaired = apart.pair.room.run(&[&compared[..], &["--repair"]].concat()).ends_with(0);
    assert!(repaired.stdout.contains("EQUAL NOW: 5 tables, 3 repaired"), "{}", repaired.stdout);
    apart.pair.room.run(&compared).ends_with(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_token_or_asks_for_something_else_is_told_so() {
    let Some(pair) = two_equal_sides().await else { return };
    let apart = Apart::of(pair);
    let room = &apart.pair.room;
    let copy = apart.pair.destination.url(COPY);
    std::fs::write(room.path("other"), "another-token-0123456789").unwrap();
    let says = |url: &str, code: i32, words: &str| {
        let refused = room.run(&["diff", url, &copy]).ends_with(code);
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
        for secret in [TOKEN, "another-token"] {
            assert!(!refused.stderr.contains(secret) && !refused.stdout.contains(secret));
        }
    };
    let address = &apart.source.address;
    says(&format!("syncline://{address}/db?token-file=other"), 2, "the token is not the agent's");
    says(&format!("syncline://{address}/db"), 2, "there is no token");
    says(&format!("syncline://{address}/nothing?token-file=token"), 2, "no connection of this name");
    says(&format!("syncline://{address}/db?token-file=token&tls=on"), 2, "does not speak TLS");
    says("syncline://127.0.0.1:1/db?token-file=token", 1, "cannot be connected to");
    // What listens there is PostgreSQL.
    let port = apart.pair.source.port();
    says(&format!("syncline://127.0.0.1:{port}/db?token-file=token"), 1, "no agent");
    for command in ["sync", "check"] {
        let refused = room.run(&[command, &apart.source.url(), &copy]).ends_with(2);
        assert!(refused.stderr.contains("is for `syncline diff`"), "{}", refused.stderr);
    }
    room.run(&["discover", &apart.source.url()]).ends_with(2);
    // It is still there for whoever is let in.
    apart.diff(&[]).ends_with(0);
}

#[test]
fn nothing_is_listened_to_that_others_could_use_without_tls_and_a_token() {
    let room = Room::new();
    let named = format!("db={}", room.url("a.db"));
    let base = ["agent", "--connection", &named];
    let refused = room.run(&base).ends_with(2);
    assert!(refused.stderr.contains("no token"), "{}", refused.stderr);
    std::fs::write(room.path("short"), "short").unwrap();
    room.run(&[&base[..], &["--token-file", "short"]].concat()).ends_with(2);
    std::fs::write(room.path("token"), TOKEN).unwrap();
    let open = [&base[..], &["--token-file", "token", "--listen", "0.0.0.0:0"]].concat();
    let refused = room.run(&open).ends_with(2);
    assert!(refused.stderr.contains("--tls-cert"), "{}", refused.stderr);
}

/// A certificate of one's own making, for this name.
pub(crate) fn certificate(room: &Room, name: &str) -> [PathBuf; 2] {
    let files = [room.path(&format!("{name}.pem")), room.path(&format!("{name}.key"))];
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")])
        .arg("-out")
        .arg(&files[0])
        .arg("-keyout")
        .arg(&files[1])
        .output()
        .expect("openssl makes a certificate");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_ones_own_making_is_believed_if_it_was_given() {
    let Some(pair) = two_equal_sides().await else { return };
    let [ours, key] = certificate(&pair.room, "agent.example");
    let [other, _] = certificate(&pair.room, "other.example");
    let tls = ["--tls-cert", ours.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let everywhere = [&tls[..], &["--listen", "0.0.0.0:0"]].concat();
    let agent = Agent::start(&pair.room, &pair.source.url(SHOP), &everywhere);
    let port = agent.address.rsplit(':').next().unwrap();
    let copy = pair.destination.url(COPY);
    let url = |more: &str| format!("syncline://127.0.0.1:{port}/db?token-file=token{more}");
    let run = |more: &str| pair.room.run(&["diff", &url(more), &copy]);
    run(&format!("&ca={}", ours.display())).ends_with(0);
    let refused = run(&format!("&ca={}", other.display())).ends_with(2);
    assert!(refused.stderr.contains("certificate is not believed"), "{}", refused.stderr);
    assert!(refused.stderr.contains("?ca="), "{}", refused.stderr);
    run("&tls=on").ends_with(2);
    let refused = run("").ends_with(1);
    assert!(refused.stderr.contains("tls=on"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_at_work_is_an_error_that_says_so() {
    let Some(pair) = two_equal_sides().await else { return };
    let apart = Apart::of(pair);
    let source = apart.pair.source.client(SHOP).await;
    source.batch_execute("BEGIN; LOCK TABLE by_int IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let (url, copy) = (apart.source.url(), apart.pair.destination.url(COPY));
    let compared = ["diff", &url, &copy, "--table", "by_int"];
    let running = apart.pair.room.syncline(&compared).start();
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    wait_until("the agent waits", RUN_MAX, || apart.pair.ask_source(waits).trim() != "0");
    let _ = apart.source.running.kill_9();
    let ended = running.wait(RUN_MAX).ends_with(1);
    assert!(ended.stderr.contains("agent syncline://127.0.0.1:"), "{}", ended.stderr);
    assert!(ended.stderr.contains("the connection to the agent was lost"), "{}", ended.stderr);
    assert!(!ended.stdout.contains("EQUAL"), "{}", ended.stdout);
    let ended = apart.pair.room.run(&compared).ends_with(1);
    assert!(ended.stderr.contains("cannot be connected to"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_in_the_middle_of_a_scan_leaves_no_result_and_nothing_written() {
    let Some(pair) = Pair::start().await else { return };
    let rows = "CREATE TABLE t (id int PRIMARY KEY, note text);
        INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 50000) i";
    pair.source.execute(SHOP, rows).await;
    pair.destination.execute(COPY, rows).await;
    pair.destination.execute(COPY, "DELETE FROM t WHERE id > 49000").await;
    // A third of the table comes to the agent.
    let way = Counted::holding(pair.source.port(), 2_000_000);
    let agent = Agent::start(&pair.room, &way.url(&pair.source.url(SHOP), pair.source.port()), &[]);
    let (url, copy) = (agent.url(), pair.destination.url(COPY));
    let running = pair.room.syncline(&["diff", &url, &copy, "--repair", "--guard", "all=off"]).start();
    wait_until("the agent reads", RUN_MAX, || way.bytes() > 2_000_000);
    let _ = agent.running.kill_9();
    let ended = running.wait(RUN_MAX).ends_with(1);
    assert!(ended.stderr.contains("comparing it again"), "{}", ended.stderr);
    assert!(ended.stderr.contains("it cannot be connected to"), "{}", ended.stderr);
    assert!(ended.stderr.contains("see whether the agent runs"), "{}", ended.stderr);
    assert!(!ended.stdout.contains("EQUAL") && !ended.stdout.contains("DIFFERENT"), "{}", ended.stdout);
    assert_eq!(pair.ask_destination("SELECT count(*) FROM t").trim(), "49000");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_ends_when_it_is_asked_to_and_holds_nothing() {
    let Some(pair) = two_equal_sides().await else { return };
    let agent = Agent::start(&pair.room, &pair.source.url(SHOP), &[]);
    let copy = pair.destination.url(COPY);
    pair.room.run(&["diff", &agent.url(), &copy]).ends_with(0);
    agent.running.terminate();
    let ended = agent.running.wait(RUN_MAX).ends_with(0);
    assert!(ended.stderr.contains("stopping"), "{}", ended.stderr);
    pair.assert_nothing_left();
}

#[test]
fn an_agent_is_what_its_file_says() {
    let room = Room::new();
    let file = rusqlite::Connection::open(room.path("a.db")).unwrap();
    file.execute_batch("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").unwrap();
    drop(file);
    std::fs::write(room.path("token"), TOKEN).unwrap();
    let config = "agent:\n  listen: 127.0.0.1:0\n  connections: {shop: 'sqlite:${FOLDER}/a.db'}\n  token_file: token\n";
    std::fs::write(room.path("agent.yaml"), config).unwrap();
    let mut running = room
        .syncline(&["agent", "--config", "agent.yaml", "--output", "json"])
        .env("FOLDER", room.path("").to_str().unwrap())
        .start();
    running.wait_for_output("listening", RUN_MAX);
    let said: Value = serde_json::from_str(running.stdout_so_far().lines().next().unwrap()).unwrap();
    assert_eq!(said["connections"], serde_json::json!(["shop"]));
    let url = format!("syncline://{}/shop?token-file=token", said["address"].as_str().unwrap());
    room.run(&["diff", &url, &room.url("a.db")]).ends_with(0);
    let wrong = room.run(&["agent", "--config", "agent.yaml"]).ends_with(2);
    assert!(wrong.stderr.contains("agent.yaml:3:") && wrong.stderr.contains("FOLDER"), "{}", wrong.stderr);
    room.run(&["agent", "--config", "agent.yaml", "--listen", "127.0.0.1:0"]).ends_with(2);
    room.run(&["agent"]).ends_with(2);
}

#[test]
fn files_are_compared_through_an_agent_too() {
    let room = Room::new();
    let table = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 1), (2, 'a'), (3, x'61'), (4, NULL);
        CREATE TABLE long (k TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO long VALUES (printf('%0100d', 1), 1), (printf('%0100d', 2), 2);";
    for file in ["a.db", "b.db"] {
        rusqlite::Connection::open(room.path(file)).unwrap().execute_batch(table).unwrap();
    }
    let change =
        "UPDATE t SET v = 1.0 WHERE id = 1; UPDATE t SET v = '' WHERE id = 4; DELETE FROM long WHERE v = 2;";
    rusqlite::Connection::open(room.path("b.db")).unwrap().execute_batch(change).unwrap();
    let agent = Agent::start(&room, &room.url("a.db"), &[]);
    let compared = ["diff", &agent.url(), &room.url("b.db"), "--output", "json"];
    let outcome = room.run(&compared).ends_with(3);
    let found = tables(&outcome);
    assert_eq!(counts(&found["t"]), [0, 0, 2, 0]);
    assert_eq!(counts(&found["long"]), [1, 0, 0, 0]);
    let repaired =
        room.run(&["diff", &agent.url(), &room.url("b.db"), "--repair", "--output", "json"]).ends_with(0);
    assert!(exchanged(&repaired, "source", &["keys"]) > 0, "keys that are too long for a sketch");
    room.run(&compared).ends_with(0);
}
