//! How fast the stream is: run by hand, in a release build.
//!
//! `cargo test --release -p syncline-connectors --lib stream::tests::speed -- --ignored --nocapture`

use std::time::Instant;

use super::*;

/// Changes in the backlog: half inserts, a third updates, the rest deletes.
const CHANGES: u32 = 1_000_000;

async fn backlog(of_transactions: u32) -> Option<Shop> {
    let server = Postgres::builder().setting("synchronous_commit", "off").setting("max_wal_size", "8GB");
    let ddl = "CREATE TABLE t (id int PRIMARY KEY, a int, b text, c timestamptz, d numeric);
         INSERT INTO t SELECT -g, g, 'row ' || g, now(), g FROM generate_series(1, 500000) g;";
    let shop = Shop::open(server, ddl, &["t"]).await?;
    shop.run(&format!(
        "CREATE PROCEDURE churn() LANGUAGE plpgsql AS $$ BEGIN
           FOR i IN 1..{CHANGES} LOOP
             IF i % 20 < 10 THEN INSERT INTO t VALUES (i, i, 'new row ' || i, now(), i);
             ELSIF i % 20 < 17 THEN UPDATE t SET a = a + 1, b = 'changed ' || i WHERE id = -(i / 2);
             ELSE DELETE FROM t WHERE id = i - 10; END IF;
             IF i % {of_transactions} = 0 THEN COMMIT; END IF;
           END LOOP; END $$"
    ))
    .await;
    shop.run("CALL churn()").await;
    Some(shop)
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap().split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
    (fields[11] + fields[12]) / 100.0
}

async fn measure(label: &str, shop: &Shop, from: &Position) {
    let target = shop.end().await;
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let mut stream = shop.stream(from, Some(&target)).await.unwrap();
    let (mut changes, mut events) = (0, 0);
    loop {
        let StreamEvent::Entry(entry) = next(stream.as_mut()).await.unwrap() else { panic!() };
        changes += entry.changes();
        events += 1;
        stream.acknowledge(&entry.to);
        if entry.to >= target {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{label}: {changes} changes in {seconds:.2} s = {:.0}/s, {:.2} CPU s, {events} entries",
        changes as f64 / seconds,
        cpu_seconds() - cpu
    );
}

async fn measure_both(of_transactions: u32) {
    let Some(shop) = backlog(of_transactions).await else { return };
    measure(&format!("peeks, transactions of {of_transactions}"), &shop, &shop.begin).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn one_million_changes_in_transactions_of_a_thousand() {
    measure_both(1000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn one_million_changes_in_transactions_of_one() {
    measure_both(1).await;
}
