//! Addresses, passwords and TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use syncline_connectors::registry;
use syncline_core::{ErrorKind, Result, TableSchema};
use syncline_testkit::ports;
use syncline_testkit::postgres::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::world::all;

async fn discover(url: &str) -> Result<Vec<TableSchema>> {
    registry::source(url)?.discover(&all()).await
}

#[tokio::test]
async fn sslmode_means_what_libpq_means() {
    let Some(server) = Postgres::builder().tls().start() else { return };
    let (port, root) = (server.port(), server.certificate().display().to_string());
    let url = |host: &str, query: &str| format!("postgres://postgres@{host}:{port}/postgres?{query}");
    for query in [
        "sslmode=disable",
        "sslmode=prefer",
        "sslmode=require",
        &format!("sslmode=verify-full&sslrootcert={root}"),
    ] {
        discover(&url("127.0.0.1", query)).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    }
    discover(&url("localhost", &format!("sslmode=verify-full&sslrootcert={root}"))).await.unwrap();
    let strange = tempfile::NamedTempFile::new().unwrap();
    for query in [
        // Not vouched for by the system's roots.
        "sslmode=verify-ca".to_owned(),
        "sslmode=verify-full".to_owned(),
        format!("sslmode=verify-ca&sslrootcert={}", strange.path().display()),
        "sslmode=verify-ca&sslrootcert=/nowhere.pem".to_owned(),
    ] {
        let error = discover(&url("127.0.0.1", &query)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{query}: {error:?}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_only_where_tls_is_demanded() {
    let Some(server) = Postgres::start() else { return };
    let url = |mode: &str| format!("{}?sslmode={mode}", server.url("postgres"));
    discover(&url("prefer")).await.unwrap();
    let error = discover(&url("require")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    discover(&server.socket_url("postgres")).await.unwrap();
}

#[tokio::test]
async fn tls_that_fails_is_gone_without_only_where_it_is_preferred() {
    // Versions that nobody speaks any more.
    let old = Postgres::builder()
        .tls()
        .setting("ssl_min_protocol_version", "TLSv1")
        .setting("ssl_max_protocol_version", "TLSv1.1");
    let (Some(old), Some(server)) = (old.start(), Postgres::start()) else { return };
    let broken = breaks_off_in_the_handshake(server.port()).await;
    for port in [old.port(), broken] {
        let url = |mode: &str| format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode={mode}");
        for mode in ["prefer", "allow"] {
            discover(&url(mode)).await.unwrap_or_else(|error| panic!("{mode}: {error:?}"));
        }
        discover(&url("require")).await.unwrap_err();
    }
    let error =
        discover(&format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=require", old.port())).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Configuration);
}

/// In front of a server: says yes to TLS and hangs up then; connections without TLS go through.
async fn breaks_off_in_the_handshake(server: u16) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut first = [0; 8];
                client.read_exact(&mut first).await.unwrap();
                if first[4..] == 80_877_103_u32.to_be_bytes() {
                    client.write_all(b"S").await.unwrap();
                    return;
                }
                let mut there = tokio::net::TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                there.write_all(&first).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut there).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn each_way_to_fail_has_its_kind_and_none_tells_the_password() {
    let Some(server) = Postgres::builder().password("right").start() else { return };
    discover(&server.url("postgres")).await.unwrap();
    let wrong = server.url_as("postgres", "wr0ng-secret", "postgres");
    let nowhere = server.url("nowhere");
    let refused = "postgres://postgres:wr0ng-secret@127.0.0.1:1/postgres".to_owned();
    let socket = "postgres://postgres:wr0ng-secret@/postgres?host=/nowhere".to_owned();
    for (url, kind) in [
        (wrong, ErrorKind::Configuration),
        (nowhere, ErrorKind::Configuration),
        (refused, ErrorKind::Retriable),
        (socket, ErrorKind::Retriable),
    ] {
        let error = discover(&url).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(!format!("{error:?} {:?}", error.remedy()).contains("wr0ng-secret"));
        assert!(error.remedy().is_some());
    }
}

#[tokio::test]
async fn text_forms_do_not_depend_on_the_servers_settings() {
    let Some(server) = Postgres::start() else { return };
    server.create_database("odd").await;
    let set = "ALTER DATABASE odd SET datestyle = 'German'; ALTER DATABASE odd SET timezone = 'Asia/Tokyo';
               ALTER DATABASE odd SET bytea_output = 'escape'; ALTER DATABASE odd SET search_path = 'x';
               ALTER DATABASE odd SET statement_timeout = '1ms'; ALTER DATABASE odd SET extra_float_digits = -3";
    server.execute("odd", "CREATE TABLE public.t (at timestamptz PRIMARY KEY, c regclass)").await;
    server.execute("odd", "INSERT INTO public.t VALUES ('2024-02-29 01:02:03.25+00', 'public.t')").await;
    server.execute("odd", set).await;
    let source = registry::source(&server.url("odd")).unwrap();
    let table = Arc::new(source.discover(&all()).await.unwrap().remove(0));
    let snapshots = source.snapshots().unwrap();
    let ledger = super::world::ledger(1);
    let chunk = super::world::plan(snapshots, &table, &ledger, super::world::STREAMED).await.remove(0);
    let (rows, _) = super::world::read(snapshots, &table, &chunk).await;
    let text: Vec<String> =
        rows[0].iter().map(|value| String::from_utf8(value.clone().unwrap()).unwrap()).collect();
    assert_eq!(text, ["2024-02-29 01:02:03.25+00", "public.t"]);
}

/// The test servers are copies of one template, so they share even the identifier of their cluster.
#[tokio::test]
async fn trap_5_all_sessions_are_at_one_server_which_may_restart() {
    let (Some(one), Some(other)) = (Postgres::start(), Postgres::start()) else { return };
    let leads_to = Arc::new(AtomicU16::new(one.port()));
    let target = Arc::clone(&leads_to);
    let port = ports::passed_on(move || target.load(Ordering::Relaxed)).await;
    let source = registry::source(&format!("postgres://postgres@127.0.0.1:{port}/postgres")).unwrap();
    // A session that broke is found out by using it; the engine tries again then.
    let insistently = async || loop {
        match source.discover(&all()).await {
            Err(error) if error.kind() == ErrorKind::Retriable => tokio::task::yield_now().await,
            ended => return ended,
        }
    };
    insistently().await.unwrap();
    for _ in 0..2 {
        one.restart();
        insistently().await.unwrap();
    }
    leads_to.store(other.port(), Ordering::Relaxed);
    one.stop_fast();
    let error = insistently().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    assert!(error.to_string().contains("more than one server"), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("the one server")));
    // Whoever begins now knows of no other.
    discover(&format!("postgres://postgres@127.0.0.1:{port}/postgres")).await.unwrap();
}
