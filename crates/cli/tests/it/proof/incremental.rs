//! `sync --mode incremental`: tables kept equal by a version column alone.

use rusqlite::Connection;
use serde_json::Value;
use syncline_testkit::compare::postgres::Comparison;
use syncline_testkit::process::Outcome;

use super::pair::{COPY, NAME, Pair, SHOP, wait_until};
use crate::process::{EndsWith, RUN_MAX, Room};

pub(crate) const BY_TIME: &str = "CREATE TABLE item (id int PRIMARY KEY, note text, amount numeric(10, 2), at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX ON item (at);
    CREATE TABLE pair (a text, b int, v text, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (a, b));
    INSERT INTO item SELECT i, 'note ' || i, i, now() - interval '1 day' + i * interval '1 ms' FROM generate_series(1, 5000) i;
    INSERT INTO pair SELECT 'k' || i % 7, i, repeat('x', i % 50) FROM generate_series(1, 3000) i";

pub(crate) const CHANGES: &str =
    "UPDATE item SET note = 'new', at = now() WHERE id % 100 = 0; DELETE FROM item WHERE id % 50 = 1;
    INSERT INTO item SELECT i, 'more', i FROM generate_series(5001, 5100) i;
    UPDATE pair SET v = NULL, at = now() WHERE b < 20; DELETE FROM pair WHERE b BETWEEN 100 AND 120";

pub(crate) const MODE: [&str; 4] = ["--mode", "incremental", "--version-column", "at"];

fn sync(pair: &Pair, more: &[&str]) -> Outcome {
    pair.run(&[&MODE[..], &["--output", "json"], more].concat())
}

/// The outcome of a table, by the last line that tells of it.
pub(crate) fn told(outcome: &Outcome, table: &str) -> Value {
    let lines = outcome.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_table = |line: &Value| line["event"] == "table" && line["outcome"]["table"]["name"] == table;
    lines.rev().find(of_table).unwrap_or_else(|| panic!("{table} is not told: {outcome:?}"))["outcome"]
        .clone()
}

pub(crate) async fn two_tables() -> Option<Pair> {
    let pair = Pair::start().await?;
    pair.source.execute(SHOP, BY_TIME).await;
    Some(pair)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_then_changes_then_nothing_is_asked() {
    let Some(pair) = two_tables().await else { return };
    sync(&pair, &[]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
    pair.source.execute(SHOP, CHANGES).await;
    let changed = sync(&pair, &[]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
    let item = told(&changed, "item");
    assert_eq!(
        (&item["equal"], &item["deleted"], &item["safe_bound"]),
        (&true.into(), &100.into(), &true.into()),
        "{item}"
    );
    // The destination may be gone: nobody asks it.
    let (source, there) = (pair.source.url(SHOP), pair.destination.url(COPY));
    drop(pair.destination);
    let arguments = [&["sync", &source, &there, "--name", NAME][..], &MODE[..]].concat();
    let idle = pair.room.run(&arguments).ends_with(0);
    assert!(
        idle.stdout.contains("nobody asked") && idle.stdout.contains("2 of 2 tables equal"),
        "{}",
        idle.stdout
    );
    assert_eq!(pair.room.status(NAME).unwrap()["status"]["requests"], 0);
    let shown = pair.room.run(&["runs", "show", "2"]).ends_with(0);
    assert!(shown.stdout.contains("incremental"), "{}", shown.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_3_a_transaction_that_commits_late_is_not_lost() {
    let Some(pair) = two_tables().await else { return };
    sync(&pair, &[]).ends_with(0);
    let late = pair.source.client(SHOP).await;
    late.batch_execute("BEGIN; INSERT INTO item VALUES (9001, 'late'); UPDATE item SET note = 'late', at = now() WHERE id = 5").await.unwrap();
    pair.source.execute(SHOP, "INSERT INTO item VALUES (9002, 'soon')").await;
    let waits = sync(&pair, &[]).ends_with(0);
    assert_eq!(told(&waits, "item")["waiting"], 1, "{waits:?}");
    late.batch_execute("COMMIT").await.unwrap();
    let comes = sync(&pair, &[]).ends_with(0);
    assert_eq!(told(&comes, "item")["sent"], 3, "{comes:?}");
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_a_sequence_that_become_visible_late_are_found() {
    let Some(pair) = Pair::start().await else { return };
    let table = "CREATE SEQUENCE versions; CREATE TABLE t (id int PRIMARY KEY, v text, rev bigint NOT NULL DEFAULT nextval('versions'));
        INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 30000) i";
    pair.source.execute(SHOP, table).await;
    let sync =
        || pair.run(&["--mode", "incremental", "--version-column", "public.t.rev", "--output", "json"]);
    sync().ends_with(0);
    let late = pair.source.client(SHOP).await;
    late.batch_execute("BEGIN; UPDATE t SET v = 'late', rev = nextval('versions') WHERE id = 77")
        .await
        .unwrap();
    pair.source.execute(SHOP, "UPDATE t SET v = 'soon', rev = nextval('versions') WHERE id > 29000").await;
    sync().ends_with(0);
    late.batch_execute("COMMIT").await.unwrap();
    let found = sync().ends_with(0);
    let told = told(&found, "t");
    assert_eq!(
        (&told["equal"], &told["sent"], &told["safe_bound"]),
        (&true.into(), &1.into(), &false.into()),
        "{told}"
    );
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_keeps_surplus_rows_until_a_person_says_so() {
    let Some(pair) = two_tables().await else { return };
    sync(&pair, &[]).ends_with(0);
    pair.source.execute(SHOP, "DELETE FROM item WHERE id > 2000; DELETE FROM pair WHERE b = 7").await;
    let stopped = sync(&pair, &[]).ends_with(4);
    assert_eq!(told(&stopped, "item")["exceeded"][0]["count"], 3000);
    assert!(stopped.stderr.contains("--guard deletes=off"), "{}", stopped.stderr);
    assert_eq!(pair.ask_destination("SELECT count(*) FROM item"), "5000");
    // The other table does not wait for it.
    assert_eq!(pair.ask_destination("SELECT count(*) FROM pair"), "2999");
    sync(&pair, &["--guard", "deletes=off"]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
}

/// Halving what only the destination has comes to versions below every time that the server knows.
#[tokio::test(flavor = "multi_thread")]
async fn many_old_rows_that_are_gone_are_found_and_deleted() {
    let Some(pair) = Pair::start().await else { return };
    let table = "CREATE TABLE old (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), v text);
        INSERT INTO old SELECT i, now() - (50000 - i) * interval '1 minute', 'v' FROM generate_series(1, 45000) i";
    pair.source.execute(SHOP, table).await;
    sync(&pair, &[]).ends_with(0);
    pair.source.execute(SHOP, "DELETE FROM old WHERE id <= 44000").await;
    sync(&pair, &[]).ends_with(4);
    sync(&pair, &["--guard", "deletes=off"]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
    pair.source.execute(SHOP, "DELETE FROM old").await;
    sync(&pair, &["--guard", "deletes=off"]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
}

/// What was known of one destination says nothing of another.
#[tokio::test(flavor = "multi_thread")]
async fn another_destination_under_the_same_name_is_not_taken_for_equal() {
    let Some(pair) = two_tables().await else { return };
    sync(&pair, &[]).ends_with(0);
    pair.destination.create_database("other").await;
    let (source, other) = (pair.source.url(SHOP), pair.destination.url("other"));
    pair.room.run(&[&["sync", &source, &other, "--name", NAME][..], &MODE].concat()).ends_with(0);
    assert_eq!(
        pair.destination.psql("other", "SELECT count(*) FROM item"),
        pair.ask_source("SELECT count(*) FROM item")
    );
    // And a column that came is no reason to say that nothing changed.
    pair.source.execute(SHOP, "ALTER TABLE item ADD COLUMN more int DEFAULT 7").await;
    let other = pair.room.run(&[&["sync", &source, &other, "--name", NAME][..], &MODE].concat());
    assert_ne!(other.code(), Some(0), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_is_a_dead_letter_and_comes_when_it_may() {
    let Some(pair) = two_tables().await else { return };
    sync(&pair, &[]).ends_with(0);
    pair.ask_destination("ALTER TABLE item ADD CONSTRAINT no_bad CHECK (note NOT LIKE 'bad%') NOT VALID");
    pair.source.execute(SHOP, "UPDATE item SET note = 'bad secret', at = now() WHERE id = 7; UPDATE item SET note = 'fine', at = now() WHERE id > 4000").await;
    let refused = sync(&pair, &[]).ends_with(0);
    let item = told(&refused, "item");
    assert_eq!((&item["letters"], &item["equal"]), (&1.into(), &false.into()), "{item}");
    assert!(!refused.stdout.contains("secret") && !refused.stderr.contains("secret"), "{refused:?}");
    assert_eq!(pair.ask_destination("SELECT count(*) FROM item WHERE note = 'fine'"), "1000");
    let listed = pair.room.run(&["dead-letters", "list", NAME]).ends_with(0);
    assert!(listed.stdout.contains("public.item") && listed.stdout.contains("no_bad"), "{}", listed.stdout);
    assert!(!listed.stdout.contains("secret"), "{}", listed.stdout);
    sync(&pair, &["--dead-letters-max", "0"]).ends_with(1);
    pair.ask_destination("ALTER TABLE item DROP CONSTRAINT no_bad");
    let mended = sync(&pair, &[]).ends_with(0);
    assert_eq!(told(&mended, "item")["equal"], true, "{mended:?}");
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_so_is_refused_with_the_remedy() {
    let Some(pair) = two_tables().await else { return };
    pair.source
        .execute(SHOP, "CREATE TABLE keyless (at timestamptz); CREATE TABLE plain (id int PRIMARY KEY)")
        .await;
    for (exclude, said) in [("public.keyless", "no column at"), ("public.plain", "no key")] {
        let refused = sync(&pair, &["--exclude", exclude]).ends_with(2);
        assert!(refused.stderr.contains(said) && refused.stderr.contains("--exclude"), "{}", refused.stderr);
    }
    assert_eq!(pair.ask_destination("SELECT count(*) FROM pg_namespace WHERE nspname = 'syncline'"), "0");
    let without = pair.run(&["--mode", "incremental"]).ends_with(2);
    assert!(without.stderr.contains("--version-column"), "{}", without.stderr);
    // A row without a version, and rows at the destination that nobody spoke of.
    pair.source.execute(SHOP, "DROP TABLE keyless, plain; ALTER TABLE item ALTER at DROP NOT NULL; UPDATE item SET at = NULL WHERE id = 3").await;
    pair.destination.execute(COPY, &BY_TIME.replace("5000", "50")).await;
    let refused = sync(&pair, &["--exclude", "public.pair"]).ends_with(2);
    assert!(refused.stderr.contains("1 rows have no version"), "{}", refused.stderr);
    sync(&pair, &["--exclude", "public.item"]).ends_with(2);
    pair.source
        .execute(SHOP, "UPDATE item SET at = now() WHERE id = 3; ALTER TABLE item ALTER at SET NOT NULL")
        .await;
    sync(&pair, &["--prepare", "keep"]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
    // No stream goes on from here, as if it had had every change.
    let refused = pair.run(&[]).ends_with(1);
    assert!(refused.stderr.contains("syncline drop"), "{}", refused.stderr);
    pair.drop_pipeline();
    pair.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_follows_changes_come_by_themselves() {
    let Some(pair) = two_tables().await else { return };
    let mut running = pair.sync(&[&MODE[..], &["--follow", "--every", "1s"]].concat()).start();
    pair.room.wait_for_phase(NAME, "incremental", &mut running);
    pair.source.execute(SHOP, CHANGES).await;
    wait_until("the changes have come", RUN_MAX, || {
        pair.ask_destination("SELECT count(*) FROM item WHERE note IN ('new', 'more')") == "150"
            && pair.ask_destination("SELECT count(*) FROM pair") == "2979"
    });
    running.terminate();
    let _ = running.wait(RUN_MAX).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn to_a_file_and_from_a_file() {
    let Some(pair) = two_tables().await else { return };
    let (source, file) = (pair.source.url(SHOP), pair.room.url("copy.db"));
    let to_file = || pair.room.run(&[&["sync", &source, &file][..], &MODE[..]].concat());
    to_file().ends_with(0);
    pair.source.execute(SHOP, CHANGES).await;
    let changed = to_file().ends_with(0);
    assert!(changed.stdout.contains("2 of 2 tables equal"), "{}", changed.stdout);
    let copy = Connection::open(pair.room.path("copy.db")).unwrap();
    let at_copy = |sql: &str| copy.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    let sums = "SELECT count(*) || ' ' || sum(id) || ' ' || sum(length(note)) FROM item";
    assert_eq!(at_copy(sums), pair.ask_source(sums));
    pair.room.run(&["diff", &source, &file]).ends_with(0);

    let back = Connection::open(pair.room.path("shop.db")).unwrap();
    back.execute_batch(
        "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT, rev INTEGER NOT NULL);
         WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 4000) INSERT INTO note SELECT i, 'n' || i, i FROM n",
    )
    .unwrap();
    let (shop, there) = (pair.room.url("shop.db"), pair.destination.url(COPY));
    let from_file = || {
        pair.room.run(&[
            "sync",
            &shop,
            &there,
            "--mode",
            "incremental",
            "--version-column",
            "rev",
            "--schema-map",
            "main=public",
        ])
    };
    from_file().ends_with(0);
    back.execute_batch(
        "DELETE FROM note WHERE id < 100; UPDATE note SET text = 'x', rev = 4000 + id WHERE id > 3900",
    )
    .unwrap();
    let changed = from_file().ends_with(0);
    assert!(
        changed.stdout.contains("safe bound") && changed.stdout.contains("99 deleted"),
        "{}",
        changed.stdout
    );
    assert_eq!(pair.ask_destination("SELECT count(*), sum(rev) FROM note WHERE text = 'x'"), "100|795050");
    pair.room.run(&["diff", &shop, &there, "--schema-map", "main=public"]).ends_with(0);
    let idle = from_file().ends_with(0);
    assert!(idle.stdout.contains("nobody asked"), "{}", idle.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_of_a_file_says_the_same() {
    let room = Room::new();
    let shop = Connection::open(room.path("shop.db")).unwrap();
    shop.execute_batch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, rev INTEGER); INSERT INTO t VALUES (1, 1), (2, 2)",
    )
    .unwrap();
    let config = format!(
        "pipelines:\n- name: files\n  source: {}\n  destination: {}\n  mode: incremental\n  version_columns: [rev]\n  guard: [deletes=5%]\n  every: 10s\n",
        room.url("shop.db"),
        room.url("copy.db")
    );
    std::fs::write(room.path("pipelines.yaml"), config).unwrap();
    let ended = room.run(&["sync", "--config", "pipelines.yaml"]).ends_with(0);
    assert!(ended.stdout.contains("1 of 1 table equal"), "{}", ended.stdout);
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_the_next_run_goes_on() {
    let Some(pair) = two_tables().await else { return };
    for place in
        ["before_commit=kill@2", "table_sync_batch=kill@2", "load_committed=kill@1", "before_commit=kill@1"]
    {
        let killed = pair.sync(&MODE).env("SYNCLINE_FAILPOINT", place).run(RUN_MAX);
        assert_ne!(killed.code(), Some(0), "{place}: {}", killed.stdout);
        pair.source.execute(SHOP, CHANGES.split("INSERT").next().unwrap()).await;
    }
    sync(&pair, &["--guard", "deletes=off"]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_shown_tried_again_and_given_up_by_command() {
    let Some(pair) = two_tables().await else { return };
    sync(&pair, &[]).ends_with(0);
    pair.ask_destination("ALTER TABLE item ADD CONSTRAINT no_bad CHECK (note NOT LIKE 'bad%') NOT VALID");
    pair.ask_destination("ALTER TABLE pair ADD CONSTRAINT no_worse CHECK (v <> 'worse') NOT VALID");
    pair.source.execute(SHOP, "UPDATE item SET note = 'bad ' || id, at = now() WHERE id IN (7, 8); UPDATE pair SET v = 'worse', at = now() WHERE b = 30").await;
    sync(&pair, &[]).ends_with(0);
    let letters = |arguments: &[&str], code: i32| {
        pair.room.run(&[&["dead-letters"], arguments].concat()).ends_with(code)
    };
    let listed = letters(&["list", NAME, "--output", "json"], 0);
    let numbers = |table: &str| -> Vec<String> {
        let lines = listed.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["table"]["name"] == table).map(|line| line["letter"].to_string()).collect()
    };
    let (items, pairs) = (numbers("item"), numbers("pair"));
    assert_eq!((items.len(), pairs.len()), (2, 1), "{}", listed.stdout);
    let shown = letters(&["show", NAME, &items[0]], 0);
    assert!(shown.stdout.contains("note = bad ") && shown.stdout.contains("no_bad"), "{}", shown.stdout);
    assert!(letters(&["show", NAME, &pairs[0]], 0).stdout.contains("b = 30"));
    for command in ["show", "retry", "discard"] {
        let unknown = letters(&[command, NAME, "1"], 2);
        assert!(unknown.stderr.contains("no dead letter 1"), "{}", unknown.stderr);
    }
    // One of them may come now; the other ones are refused again.
    pair.ask_destination("ALTER TABLE pair DROP CONSTRAINT no_worse");
    let retried = letters(&["retry", NAME], 1);
    assert!(retried.stdout.contains("1 dead letter loaded, 2 refused again"), "{}", retried.stdout);
    assert_eq!(pair.ask_destination("SELECT count(*) FROM pair WHERE v = 'worse'"), "1");
    letters(&["retry", NAME, &items[0]], 1);
    // Given up, they are not sent again, and nobody is asked for them.
    letters(&["discard", NAME, &items[0], &items[1]], 0);
    assert!(letters(&["list", NAME], 0).stderr.contains("no dead letters"));
    sync(&pair, &[]).ends_with(0);
    let settled = sync(&pair, &[]).ends_with(0);
    let item = told(&settled, "item");
    assert_eq!((&item["letters"], &item["equal"], &item["requests"]), (&0.into(), &false.into(), &0.into()));
    assert_eq!(pair.ask_destination("SELECT count(*) FROM item WHERE note LIKE 'bad%'"), "0");
    // Other rows are not held up by them.
    pair.source.execute(SHOP, CHANGES).await;
    sync(&pair, &[]).ends_with(0);
    assert_eq!(pair.ask_destination("SELECT count(*) FROM item WHERE note IN ('new', 'more')"), "150");
    // Until they change.
    pair.source.execute(SHOP, "UPDATE item SET note = 'good', at = now() WHERE id IN (7, 8)").await;
    assert_eq!(told(&sync(&pair, &[]).ends_with(0), "item")["equal"], true);
    pair.assert_equal(&Comparison::new()).await;
}

/// Foreign keys that the destination was given since, and a role that may not set them aside.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_refers_to_one_of_another_table_comes_after_it() {
    let Some(pair) = Pair::start().await else { return };
    let tables = "CREATE TABLE parent (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
        CREATE TABLE a_child (id int PRIMARY KEY, parent int, at timestamptz NOT NULL DEFAULT now());
        CREATE TABLE z_child (id int PRIMARY KEY, parent int, at timestamptz NOT NULL DEFAULT now());
        INSERT INTO parent SELECT i FROM generate_series(1, 50) i;
        INSERT INTO a_child SELECT i, i % 50 + 1 FROM generate_series(1, 500) i; INSERT INTO z_child SELECT id, parent FROM a_child";
    pair.source.execute(SHOP, tables).await;
    let role = "CREATE ROLE plain LOGIN PASSWORD 'plain'; GRANT ALL ON DATABASE copy TO plain; GRANT ALL ON SCHEMA public TO plain";
    pair.destination.execute(COPY, role).await;
    let (source, there) = (pair.source.url(SHOP), pair.destination.url_as("plain", "plain", COPY));
    let base = ["sync", &source, &there, "--name", NAME, "--output", "json", "--guard", "deletes=off"];
    let run = || pair.room.run(&[&base[..], &MODE[..]].concat());
    run().ends_with(0);
    let keys = "ALTER TABLE a_child ADD FOREIGN KEY (parent) REFERENCES parent; ALTER TABLE z_child ADD FOREIGN KEY (parent) REFERENCES parent";
    pair.destination.execute(COPY, keys).await;
    // Children of parents that come, and parents whose children go, are refused at first.
    let changes = "INSERT INTO parent SELECT i FROM generate_series(51, 60) i;
        INSERT INTO a_child SELECT i, 51 + i % 10 FROM generate_series(501, 520) i;
        DELETE FROM z_child WHERE parent < 10; DELETE FROM a_child WHERE parent < 10; DELETE FROM parent WHERE id < 10";
    pair.source.execute(SHOP, changes).await;
    let changed = run().ends_with(0);
    for table in ["parent", "a_child", "z_child"] {
        let told = told(&changed, table);
        assert_eq!((&told["equal"], &told["letters"]), (&true.into(), &0.into()), "{told}");
    }
    pair.assert_equal(&Comparison::new()).await;
}
