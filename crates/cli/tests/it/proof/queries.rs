//! `diff --query`: a state that the source computes is what the destination should be.

use rusqlite::Connection;
use syncline_testkit::process::Outcome;

use super::diff::{counts, diff, tables};
use super::pair::{COPY, Pair, SHOP};
use crate::process::{EndsWith, Room};

/// Orders of 400 customers, and what a report makes of them.
const ORDERS: &str =
    "CREATE TABLE orders (id int PRIMARY KEY, customer text NOT NULL, amount numeric(12, 3) NOT NULL);
    INSERT INTO orders SELECT i, 'customer ' || i % 400, i * 1.125 FROM generate_series(1, 5000) i";
const TOTALS: &str = "CREATE TABLE totals (customer text PRIMARY KEY, orders bigint, amount numeric(20, 5), note text DEFAULT 'kept')";
const QUERY: &str = "totals=SELECT customer, count(*) AS orders, sum(amount)::numeric(20, 5) AS amount FROM orders GROUP BY customer;";
/// The same, computed by nobody but the databases.
const TRUTH: &str =
    "SELECT md5(string_agg(customer || ' ' || orders || ' ' || trim_scale(amount), ';' ORDER BY customer))";

fn of_query(pair: &Pair, more: &[&str]) -> Outcome {
    diff(pair, &[&["--query", QUERY, "--key", "customer"], more].concat())
}

fn assert_totals(pair: &Pair) {
    let computed =
        "FROM (SELECT customer, count(*) AS orders, sum(amount) AS amount FROM orders GROUP BY customer) t";
    assert_eq!(
        pair.ask_destination(&format!("{TRUTH} FROM totals")),
        pair.ask_source(&format!("{TRUTH} {computed}"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_a_query_stand_for_a_table() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, ORDERS).await;
    pair.destination.execute(COPY, TOTALS).await;
    let filled = of_query(&pair, &["--repair"]).ends_with(0);
    assert!(filled.stdout.contains("400 inserted"), "{}", filled.stdout);
    assert_totals(&pair);
    of_query(&pair, &[]).ends_with(0);
    pair.source.execute(SHOP, "DELETE FROM orders WHERE customer = 'customer 7'").await;
    pair.source.execute(SHOP, "INSERT INTO orders VALUES (9001, 'new', 2.5)").await;
    pair.source.execute(SHOP, "UPDATE orders SET amount = amount + 1 WHERE id IN (1, 2, 401)").await;
    let differs = of_query(&pair, &["--output", "json"]).ends_with(3);
    assert_eq!(counts(&tables(&differs)["totals"]), [1, 1, 2, 0]);
    of_query(&pair, &["--repair"]).ends_with(0);
    assert_totals(&pair);
    assert_eq!(pair.ask_destination("SELECT count(*) FROM totals WHERE note = 'kept'"), "400");
    pair.assert_nothing_left();
}

/// A number that the destination's column might round is not written into it; whether it is equal can be said.
#[tokio::test(flavor = "multi_thread")]
async fn a_wider_number_is_compared_but_not_written() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, ORDERS).await;
    pair.destination.execute(COPY, TOTALS).await;
    of_query(&pair, &["--repair"]).ends_with(0);
    let wider = QUERY.replace("::numeric(20, 5)", "");
    // 1.5 as the source computes it and 1.50000 as the destination stores it are one number.
    diff(&pair, &["--query", &wider, "--key", "customer"]).ends_with(0);
    pair.source
        .execute(
            SHOP,
            "DELETE FROM orders WHERE customer = 'customer 7'; INSERT INTO orders VALUES (0, 'new', 1)",
        )
        .await;
    let refused = diff(&pair, &["--query", &wider, "--key", "customer", "--repair"]).ends_with(2);
    assert!(refused.stdout.contains("cast the columns of the query"), "{}", refused.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_a_query_is_approved_with_the_same_query_only() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, ORDERS).await;
    pair.destination.execute(COPY, TOTALS).await;
    of_query(&pair, &["--repair"]).ends_with(0);
    pair.source.execute(SHOP, "DELETE FROM orders WHERE id % 400 < 300").await;
    let stopped = of_query(&pair, &["--repair", "--output", "json"]).ends_with(4);
    let last: serde_json::Value = serde_json::from_str(stopped.stdout.lines().last().unwrap()).unwrap();
    let token = last["approve"].as_str().unwrap();
    diff(&pair, &["--approve", token]).ends_with(2);
    of_query(&pair, &["--approve", token]).ends_with(0);
    assert_totals(&pair);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_cannot_stand_for_a_table_is_refused_with_its_remedy() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, ORDERS).await;
    pair.destination.execute(COPY, TOTALS).await;
    pair.destination
        .execute(
            COPY,
            "CREATE SCHEMA other; CREATE TABLE other.orders (id int); CREATE TABLE orders (id int)",
        )
        .await;
    let refused = |query: &str, key: &str, expected: &str| {
        let outcome = diff(&pair, &["--query", query, "--key", key, "--repair"]);
        let code = outcome.code();
        assert!(code == Some(1) || code == Some(2), "{query}: {code:?}");
        assert!(outcome.stderr.contains(expected), "{query}: {}", outcome.stderr);
    };
    refused("totals=SELECT customer, 1 AS orders FROM orders", "nix", "no column `nix`");
    refused("totals=SELECT customer, 1 AS a, 2 AS a FROM orders", "customer", "two columns named `a`");
    refused("totals=SELECT custommer FROM orders", "customer", "correct the query");
    refused("totals=SELECT customer FROM orders; DELETE FROM orders", "customer", "correct the query");
    refused("totals=DELETE FROM orders RETURNING customer", "customer", "correct the query");
    refused("orders=SELECT id FROM orders", "id", "may be any of other.orders, public.orders");
    refused("nix=SELECT id FROM orders", "id", "nix");
    refused("SELECT id FROM orders", "id", "--query 'table=SELECT …'");
    refused("totals=SELECT customer FROM orders", "other=id", "names no query");
    // A function that writes: the transaction does not let it.
    let function =
        "CREATE FUNCTION sly() RETURNS bigint LANGUAGE sql AS 'DELETE FROM orders RETURNING 1::bigint'";
    pair.source.execute(SHOP, function).await;
    refused("totals=SELECT 'x' AS customer, sly() AS orders", "customer", "read-only");
    assert_eq!(pair.ask_source("SELECT count(*) FROM orders"), "5000");
    assert_eq!(pair.ask_destination("SELECT count(*) FROM totals"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_go_between_families() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, ORDERS).await;
    let file = pair.room.path("totals.db");
    let sqlite = Connection::open(&file).unwrap();
    sqlite
        .execute_batch("CREATE TABLE totals (customer TEXT PRIMARY KEY, orders INTEGER, amount NUMERIC)")
        .unwrap();
    let url = format!("sqlite:{}", file.display());
    let source = pair.source.url(SHOP);
    let query = [
        "--query",
        "totals=SELECT customer, count(*) AS orders, sum(amount) AS amount FROM orders GROUP BY 1",
        "--key",
        "customer",
    ];
    let there = |more: &[&str]| pair.room.run(&[&["diff", &source, &url][..], &query, more].concat());
    there(&["--repair"]).ends_with(0);
    there(&[]).ends_with(0);
    let sum: f64 = sqlite.query_row("SELECT sum(amount) FROM totals", [], |row| row.get(0)).unwrap();
    assert_eq!(format!("{sum:.3}"), pair.ask_source("SELECT sum(amount) FROM orders"));
    // And back, from a query over the copy.
    pair.destination.execute(COPY, "CREATE TABLE big (customer text PRIMARY KEY, orders bigint)").await;
    let destination = pair.destination.url(COPY);
    let back = [
        "--query",
        "big=SELECT customer, orders FROM totals WHERE orders > 12 -- the busy ones",
        "--key",
        "customer",
    ];
    let back = |more: &[&str]| pair.room.run(&[&["diff", &url, &destination][..], &back, more].concat());
    back(&["--repair"]).ends_with(0);
    sqlite.execute("UPDATE totals SET orders = 99 WHERE customer = 'customer 1'", []).unwrap();
    sqlite.execute("UPDATE totals SET orders = 1 WHERE customer = 'customer 2'", []).unwrap();
    let differs = back(&["--output", "json"]).ends_with(3);
    assert_eq!(counts(&tables(&differs)["big"]), [0, 1, 1, 0]);
    back(&["--repair"]).ends_with(0);
    let busy: i64 =
        sqlite.query_row("SELECT count(*) FROM totals WHERE orders > 12", [], |row| row.get(0)).unwrap();
    assert_eq!(pair.ask_destination("SELECT count(*) FROM big"), busy.to_string());
    assert_eq!(pair.ask_destination("SELECT orders FROM big WHERE customer = 'customer 1'"), "99");
}

#[test]
fn a_query_of_a_file_that_is_wrong_is_refused() {
    let room = Room::new();
    for name in ["a.db", "b.db"] {
        let sqlite = Connection::open(room.path(name)).unwrap();
        sqlite
            .execute_batch(
                "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'a'), (2, 'b')",
            )
            .unwrap();
    }
    let (a, b) = (
        format!("sqlite:{}", room.path("a.db").display()),
        format!("sqlite:{}", room.path("b.db").display()),
    );
    let run = |query: &str| room.run(&["diff", &a, &b, "--query", query, "--key", "id"]);
    run("t=SELECT id, v FROM t").ends_with(0);
    run("t=SELECT id, upper(v) AS v FROM t").ends_with(3);
    assert!(run("t=SELECT nix FROM t").ends_with(1).stderr.contains("correct the query"));
    assert!(run("t=SELECT id, v, v FROM t").ends_with(2).stderr.contains("v:1"));
    assert!(run("t=SELECT v FROM t").ends_with(2).stderr.contains("no column `id`"));
}
