//! Addresses that do not lead to one server and stay there: several servers behind one address, and poolers (traps 1.5
//! and 5.4).

use syncline_testkit::pgbouncer::PgBouncer;
use syncline_testkit::ports;
use syncline_testkit::postgres::Postgres;

use super::pair::{COPY, NAME, Pair, SHOP};
use super::refusals::{assert_clear, assert_urls_refused};
use crate::process::EndsWith;

const TABLES: &str = "CREATE TABLE a (id int PRIMARY KEY, note text); CREATE TABLE b (id int PRIMARY KEY);
    INSERT INTO a SELECT i, 'note' FROM generate_series(1, 500) i; INSERT INTO b SELECT generate_series(1, 300)";

/// Lines of a pooler's configuration.
type Settings = &'static [(&'static str, &'static str)];
const KEEPS_NO_SESSION: [Settings; 4] = [
    &[("pool_mode", "transaction")],
    &[("pool_mode", "transaction"), ("ignore_startup_parameters", "options")],
    &[("pool_mode", "transaction"), ("ignore_startup_parameters", "options"), ("server_round_robin", "1")],
    &[("pool_mode", "statement"), ("ignore_startup_parameters", "options")],
];
const KEEPS_SESSIONS: [Settings; 2] =
    [&[("pool_mode", "session")], &[("pool_mode", "session"), ("ignore_startup_parameters", "options")]];

/// Each connection goes to the next server. The test servers are copies of one template, so they share even the
/// identifier of their cluster.
async fn balanced(servers: [&Postgres; 2]) -> u16 {
    let mut ports = servers.map(Postgres::port).into_iter().cycle();
    ports::passed_on(move || ports.next().unwrap_or_default()).await
}

fn url(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}")
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_5_several_hosts_in_a_url_are_refused() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, TABLES).await;
    let (source, copy) = (pair.source.url(SHOP), pair.destination.url(COPY));
    let (one, other) = (pair.source.port(), pair.destination.port());
    for several in [
        format!("postgres://postgres@127.0.0.1:{one},127.0.0.1:{other}/shop"),
        format!("postgres://postgres@/shop?host=127.0.0.1,localhost&port={one}"),
    ] {
        assert_urls_refused(&pair, [&several, &copy], 2, &["source", "several hosts", "the one server"]);
        assert_urls_refused(
            &pair,
            [&source, &several],
            2,
            &["destination", "several hosts", "the one server"],
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_5_an_address_that_leads_to_several_servers_is_refused() {
    let (Some(pair), Some(third)) = (Pair::start().await, Postgres::start()) else { return };
    pair.source.execute(SHOP, TABLES).await;
    for database in [SHOP, COPY] {
        third.create_database(database).await;
    }
    third.execute(SHOP, TABLES).await;
    let refused = |source: String, destination: String, more: &[&str]| {
        let arguments = ["sync", &source, &destination, "--name", NAME];
        let ended = pair.room.run(&[&arguments[..], more].concat()).ends_with(2);
        assert_clear(&ended, &["more than one server", "the one server"]);
    };
    let source = balanced([&pair.source, &third]).await;
    for more in [&["--mode", "snapshot"][..], &[]] {
        refused(url(source, SHOP), pair.destination.url(COPY), more);
    }
    let destination = balanced([&pair.destination, &third]).await;
    refused(pair.source.url(SHOP), url(destination, COPY), &[]);
}

/// Several idle server connections, so that it is not always the same one that comes next.
async fn fill(pooler: &PgBouncer, database: &str) {
    let mut clients = Vec::new();
    for _ in 0..4 {
        let (client, connection) =
            tokio_postgres::connect(&pooler.url(database), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        // Statement mode takes no transaction; one connection is enough there.
        let _ = client.simple_query("BEGIN").await;
        clients.push(client);
    }
    for client in &clients {
        let _ = client.simple_query("COMMIT").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_5_4_a_pooler_that_keeps_no_session_is_refused_before_anything_is_made() {
    let Some(pair) = Pair::start().await else { return };
    pair.source.execute(SHOP, TABLES).await;
    for (settings, filled) in KEEPS_NO_SESSION.into_iter().flat_map(|s| [(s, false), (s, true)]) {
        let started =
            (PgBouncer::start(&pair.source, settings), PgBouncer::start(&pair.destination, settings));
        let (Some(source), Some(destination)) = started else { return };
        if filled {
            fill(&source, SHOP).await;
            fill(&destination, COPY).await;
        }
        let (direct_source, direct_copy) = (pair.source.url(SHOP), pair.destination.url(COPY));
        for more in [&["--mode", "snapshot"][..], &[]] {
            for urls in [[&source.url(SHOP), &direct_copy], [&direct_source, &destination.url(COPY)]] {
                let arguments = ["sync", urls[0], urls[1], "--name", NAME];
                let ended = pair.room.run(&[&arguments[..], more].concat()).ends_with(2);
                assert_clear(&ended, &["connection pooler", "connect to the server itself", "session mode"]);
            }
        }
        drop((source, destination));
        pair.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_5_4_a_pooler_that_keeps_sessions_carries_all_but_the_stream() {
    for settings in KEEPS_SESSIONS {
        let Some(pair) = Pair::start().await else { return };
        pair.source.execute(SHOP, TABLES).await;
        let started =
            (PgBouncer::start(&pair.source, settings), PgBouncer::start(&pair.destination, settings));
        let (Some(source), Some(destination)) = started else { return };
        let sync = |from: &str, to: &str, more: &[&str]| {
            pair.room.run(&[&["sync", from, to, "--name", NAME][..], more].concat())
        };
        let refused = sync(&source.url(SHOP), &pair.destination.url(COPY), &[]).ends_with(2);
        assert_clear(&refused, &["connection pooler", "cannot be streamed", "connect to the server itself"]);
        let made =
            "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)";
        assert_eq!(pair.ask_source(made), "0");

        let _ = sync(&source.url(SHOP), &destination.url(COPY), &["--mode", "snapshot"]).ends_with(0);
        pair.assert_same().await;
        let _ = pair.room.run(&["drop", NAME, &source.url(SHOP), &destination.url(COPY)]).ends_with(0);

        // Streamed from the server itself, into a destination behind a pooler.
        let through = |more: &[&str]| sync(&pair.source.url(SHOP), &destination.url(COPY), more).ends_with(0);
        let _ = through(&["--prepare", "truncate"]);
        pair.source
            .execute(SHOP, "UPDATE a SET note = 'later' WHERE id < 100; DELETE FROM b WHERE id > 200")
            .await;
        let _ = through(&[]);
        pair.assert_same().await;
    }
}
