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

/// What the consumer does with each entry.
#[derive(Clone, Copy)]
struct Consumer {
    acknowledges: bool,
    pause: Duration,
}

async fn measure(label: &str, mut stream: Box<dyn ChangeStream>, target: &Position, consumer: Consumer) {
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let (mut changes, mut entries) = (0, 0);
    loop {
        let StreamEvent::Entry(entry) = next(stream.as_mut()).await.unwrap() else { panic!() };
        changes += entry.changes();
        entries += 1;
        if consumer.acknowledges {
            stream.acknowledge(&entry.to);
        }
        if !consumer.pause.is_zero() {
            tokio::time::sleep(consumer.pause).await;
        }
        if entry.to >= *target {
            break;
        }
    }
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let rate = f64::from(u32::try_from(changes).unwrap()) / seconds;
    println!("{label}: {changes} changes in {seconds:.2} s = {rate:.0}/s, {cpu:.2} CPU s, {entries} entries");
    stream.close().await;
}

/// The bare server: the same peek by psql, into nothing.
fn measure_psql(shop: &Shop) {
    let peek = "COPY (SELECT data FROM pg_logical_slot_peek_binary_changes('syncline_shop', NULL, NULL, \
        'proto_version', '2', 'publication_names', 'syncline_shop', 'binary', 'true')) TO STDOUT (FORMAT binary)";
    let began = Instant::now();
    let mut psql = shop.server.client_command("psql");
    psql.args(["-d", DATABASE, "-c", peek]).stdout(std::process::Stdio::null());
    assert!(psql.status().unwrap().success());
    println!("psql, peek into nothing: {:.2} s", began.elapsed().as_secs_f64());
}

async fn measure_all(of_transactions: u32) {
    let Some(shop) = backlog(of_transactions).await else { return };
    println!("transactions of {of_transactions}");
    let target = shop.end().await;
    let reads = Consumer { acknowledges: false, pause: Duration::ZERO };
    measure_psql(&shop);
    measure("walsender", Box::new(shop.walsender(&target).await), &target, reads).await;
    let busy = Consumer { pause: Duration::from_millis(5), ..reads };
    measure("walsender, busy consumer", Box::new(shop.walsender(&target).await), &target, busy).await;
    let stream = shop.stream(&shop.begin, Some(&target)).await.unwrap();
    measure("peeks", stream, &target, Consumer { acknowledges: true, ..reads }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn one_million_changes_in_transactions_of_a_thousand() {
    measure_all(1000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn one_million_changes_in_transactions_of_one() {
    measure_all(1).await;
}
