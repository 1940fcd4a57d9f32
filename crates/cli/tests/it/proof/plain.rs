//! PostgreSQL to PostgreSQL as a user runs it: everything there, then changes, then again; options; what stays.

use syncline_testkit::compare::postgres::{Comparison, Definitions};
use syncline_testkit::workload::{pgbench, shop, wide};

use super::pair::{NAME, Pair, SHOP};
use crate::process::EndsWith;

/// Writers do this many transactions between two runs.
const TRANSACTIONS: u64 = 300;

#[tokio::test(flavor = "multi_thread")]
async fn everything_with_its_definitions_then_changes_then_nothing_left() {
    let Some(pair) = Pair::start().await else { return };
    wide::create(&pair.source, SHOP).await;
    wide::insert(&pair.source, SHOP, 1..=500).await;
    shop::create(&pair.source, SHOP, 2_000).await;
    pgbench::init(&pair.source, SHOP, 1);

    let ended = pair.run_well(&[]);
    assert!(ended.stdout.starts_with("proof: done. "), "{}", ended.stdout);
    assert!(
        ended.stderr.contains("slot syncline_proof stays") && ended.stderr.contains("syncline drop proof"),
        "{}",
        ended.stderr
    );
    pair.assert_same().await;

    wide::update(&pair.source, SHOP, 1..=200).await;
    pair.source.execute(SHOP, "DELETE FROM wide.everything WHERE id BETWEEN 300 AND 320 OR id = -3").await;
    pair.source
        .execute(SHOP, "UPDATE wide.everything SET id = id + 10000 WHERE id BETWEEN 400 AND 420")
        .await;
    let writer = shop::start(&pair.source, SHOP, 7);
    writer.wait_until_done(TRANSACTIONS).await;
    writer.stop();
    pgbench::run(&pair.source, SHOP, 2, 200);
    let ended = pair.run_well(&["--output", "json"]);
    let summary = summary(&ended.stdout);
    let sum = |part: &str| summary["sum"][part].as_u64().unwrap();
    let parts = ["applied", "superseded", "unchanged", "skipped", "waiting", "let_go", "letters"];
    assert_eq!(sum("read"), parts.iter().map(|part| sum(part)).sum::<u64>(), "{summary}");
    assert!(sum("read") > 1_000 && sum("waiting") == 0 && sum("let_go") == 0, "{summary}");
    pair.assert_same().await;

    let ended = pair.run_well(&[]);
    assert!(ended.stdout.contains("0 read"), "{}", ended.stdout);
    let status = pair.room.status(NAME).unwrap();
    assert_eq!((&status["running"], &status["run"]["outcome"]), (&false.into(), &"done".into()));
    pair.drop_pipeline();
    pair.assert_nothing_left();
    assert!(pair.room.status(NAME).is_none() && !pair.room.path("state/journals/proof").exists());
    pair.assert_same().await;
}

/// The summary of a run with `--output json`.
fn summary(stdout: &str) -> serde_json::Value {
    let last: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "summary", "{last}");
    last["summary"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn excluded_columns_and_tables_never_leave_and_schemas_are_mapped() {
    let Some(pair) = Pair::start().await else { return };
    pair.source
        .execute(
            SHOP,
            "CREATE TYPE standing AS ENUM ('new', 'old');
             CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE, ssn text NOT NULL, standing standing DEFAULT 'new');
             CREATE TABLE notes (user_id int REFERENCES users, n int, note text, PRIMARY KEY (user_id, n));
             CREATE TABLE audit_1 (id int); CREATE TABLE audit_2 (id int); CREATE SCHEMA other; CREATE TABLE other.t (id int);
             INSERT INTO users SELECT i, i || '@example.org', 'hidden-' || i FROM generate_series(1, 1000) i;
             INSERT INTO notes SELECT i, 1, 'note' FROM generate_series(1, 1000) i",
        )
        .await;
    let options = [
        "--table",
        "public.*",
        "--exclude",
        "public.audit_*",
        "--exclude-column",
        "public.users.ssn",
        "--schema-map",
        "public=mapped",
    ];
    let comparison = Comparison::new()
        .only(["public.users", "public.notes"])
        .excluded_column("public.users.ssn")
        .schema("public", "mapped");
    pair.run_well(&options);
    pair.assert_equal(&comparison).await;
    pair.source
        .execute(
            SHOP,
            "UPDATE users SET ssn = 'hidden-too' WHERE id < 100; UPDATE users SET email = NULL, ssn = 'hidden-x' WHERE id = 500;
             UPDATE users SET standing = 'old' WHERE id % 7 = 0; DELETE FROM notes WHERE user_id = 3; DELETE FROM users WHERE id = 3;
             INSERT INTO users VALUES (2000, 'new@example.org', 'hidden-new'); INSERT INTO audit_1 VALUES (1)",
        )
        .await;
    pair.run_well(&options);
    pair.assert_equal(&comparison).await;
    let tables = "SELECT string_agg(table_schema || '.' || table_name, ' ' ORDER BY table_name)
        FROM information_schema.tables WHERE table_schema NOT IN ('pg_catalog', 'information_schema', 'syncline')";
    assert_eq!(pair.ask_destination(tables), "mapped.notes mapped.users");
    let constraint = "SELECT confrelid::regclass FROM pg_constraint WHERE contype = 'f'";
    assert_eq!(pair.ask_destination(constraint), "mapped.users");
    for (what, folder) in
        [("state", pair.room.path("state")), ("destination", pair.destination.data_directory())]
    {
        assert!(!holds(&folder, b"hidden-"), "an excluded value is in the files of the {what}");
    }
}

/// Whether any file under a folder has these bytes.
fn holds(folder: &std::path::Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).any(|path| match path.is_dir() {
        true => holds(&path, bytes),
        // A file that is gone by now has nothing.
        false => std::fs::read(&path)
            .is_ok_and(|content| content.windows(bytes.len()).any(|window| window == bytes)),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_alone_leaves_nothing_at_the_source() {
    let Some(pair) = Pair::start().await else { return };
    shop::create(&pair.source, SHOP, 3_000).await;
    pair.source
        .execute(SHOP, "CREATE TABLE shop.keyless (a int); INSERT INTO shop.keyless VALUES (1), (1)")
        .await;
    pair.run_well(&["--mode", "snapshot"]);
    pair.assert_nothing_at_source();
    pair.assert_same().await;
    pair.drop_pipeline();
    pair.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_at_the_destination_are_touched_only_as_prepare_says() {
    let Some(pair) = Pair::start().await else { return };
    let table = "CREATE TABLE item (id int PRIMARY KEY, name text, price numeric(8, 2))";
    pair.source
        .execute(
            SHOP,
            &format!("{table}; INSERT INTO item SELECT i, 'item ' || i, i FROM generate_series(1, 500) i"),
        )
        .await;
    let there = format!(
        "DROP TABLE IF EXISTS item; {table}; CREATE INDEX item_price ON item (price);
        INSERT INTO item VALUES (1, 'old', 0), (9999, 'kept', 1)"
    );
    let indexes = "SELECT count(*) FROM pg_indexes WHERE indexname = 'item_price'";

    pair.ask_destination(&there);
    let refused = pair.run(&[]).ends_with(2);
    for choice in ["recreate", "truncate", "keep"] {
        assert!(refused.stderr.contains(choice), "{}", refused.stderr);
    }
    assert_eq!(pair.ask_destination("SELECT string_agg(name, ' ' ORDER BY id) FROM item"), "old kept");
    pair.drop_pipeline();
    pair.assert_nothing_left();

    for (how, kept, index) in [("truncate", "0", "1"), ("recreate", "0", "0"), ("keep", "1", "1")] {
        pair.ask_destination(&there);
        pair.run_well(&["--prepare", how]);
        pair.source.execute(SHOP, "UPDATE item SET price = price + 1; DELETE FROM item WHERE id = 400").await;
        pair.run_well(&[]);
        assert_eq!(pair.ask_destination("SELECT count(*) FROM item WHERE id = 9999"), kept, "{how}");
        assert_eq!(pair.ask_destination(indexes), index, "{how}");
        pair.ask_destination("DELETE FROM item WHERE id = 9999");
        pair.assert_equal(&Comparison::new().definitions(Definitions::ColumnsAndKeys)).await;
        pair.drop_pipeline();
        pair.assert_nothing_left();
        pair.source.execute(SHOP, "INSERT INTO item VALUES (400, 'again', 1)").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_alone_carries_changes_to_tables_that_were_equal() {
    let Some(pair) = Pair::start().await else { return };
    let table = "CREATE TABLE item (id int PRIMARY KEY, name text);
        INSERT INTO item SELECT i, 'item ' || i FROM generate_series(1, 300) i";
    pair.source.execute(SHOP, table).await;
    pair.ask_destination(table);
    pair.run_well(&["--mode", "stream"]);
    pair.source
        .execute(SHOP, "UPDATE item SET name = 'new' WHERE id < 9; DELETE FROM item WHERE id > 290")
        .await;
    let ended = pair.run_well(&["--mode", "stream"]);
    assert!(ended.stdout.contains("18 read"), "{}", ended.stdout);
    pair.assert_same().await;
    pair.drop_pipeline();
    pair.assert_nothing_left();
}
