//! The writers do what they say, and their servers take it.

use syncline_testkit::compare::postgres::{Comparison, Definitions};
use syncline_testkit::postgres::Postgres;
use syncline_testkit::workload::chaos::Chaos;
use syncline_testkit::workload::pgbench::{self, Load};
use syncline_testkit::workload::{shop, wide};

#[tokio::test]
async fn chaos_moves_keys_with_unchanged_toast_and_survives_a_restart() {
    let Some(server) = Postgres::start() else { return };
    let chaos = Chaos::new(7).rows(300);
    chaos.create(&server, "postgres").await;
    server.psql("postgres", "SELECT pg_create_logical_replication_slot('s', 'test_decoding')");
    let writer = chaos.start(&server, "postgres");
    writer.wait_until_done(800).await;
    server.restart();
    let before = writer.tally().done;
    writer.wait_until_done(before + 800).await;
    let tally = writer.stop();
    assert!(tally.reconnected > 0 && tally.refused < tally.done / 10, "{tally:?}");
    let count = |pattern: &str| {
        let sql = format!(
            "SELECT count(*) FROM pg_logical_slot_peek_changes('s', NULL, NULL) WHERE data ~ '{pattern}'"
        );
        server.psql("postgres", &sql).parse::<u32>().unwrap()
    };
    assert!(count("item: UPDATE: old-key.*unchanged-toast") > 50);
    for seen in ["item: DELETE", "item: INSERT", "scratch: TRUNCATE", "loose: DELETE", "loose: UPDATE"] {
        assert!(count(seen) > 0, "{seen}");
    }
    assert_eq!(server.psql("postgres", "SELECT count(*) > 100 FROM chaos.item"), "t");
}

#[tokio::test]
async fn every_type_is_written_updated_and_equal_to_its_own_dump() {
    let Some(server) = Postgres::start() else { return };
    server.create_database("copy").await;
    for database in ["postgres", "copy"] {
        wide::create(&server, database).await;
        wide::insert(&server, database, 1..=300).await;
        wide::update(&server, database, 50..=100).await;
    }
    Comparison::new()
        .definitions(Definitions::ForeignKeys)
        .assert_equal((&server, "postgres"), (&server, "copy"))
        .await;
    assert_eq!(
        server.psql("copy", "SELECT count(*), max(an_int4) FROM wide.everything WHERE id > 0"),
        "300|300"
    );
    assert_eq!(server.psql("copy", "SELECT an_int4 FROM wide.everything WHERE id = 60"), "67");
}

#[tokio::test]
async fn pgbench_and_the_shop_write_until_stopped() {
    let Some(server) = Postgres::start() else { return };
    pgbench::init(&server, "postgres", 1);
    shop::create(&server, "postgres", 50).await;
    pgbench::run(&server, "postgres", 2, 50);
    let load = Load::start(&server, "postgres", 2, Some(200));
    let orders = shop::start(&server, "postgres", 5);
    orders.wait_until_done(200).await;
    server.restart();
    let before = orders.tally().done;
    let history = "SELECT count(*) FROM pgbench_history";
    let rows: u32 = server.psql("postgres", history).parse().unwrap();
    orders.wait_until_done(before + 200).await;
    let tally = orders.stop();
    assert!(tally.refused < tally.done / 10, "{tally:?}");
    while server.psql("postgres", history).parse::<u32>().unwrap() <= rows {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    load.stop();
    assert_eq!(server.psql("postgres", "SELECT count(*) > 20 FROM shop.line"), "t");
}
