//! The testkit's own servers: they start, survive what tests do to them, and leave nothing behind.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use syncline_testkit::postgres::Postgres;
use syncline_testkit::process::alive;

#[tokio::test]
async fn a_server_keeps_committed_rows_over_a_kill_and_a_restart() {
    let Some(server) = Postgres::start() else { return };
    server.create_database("shop").await;
    server
        .execute("shop", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)")
        .await;
    let port = server.port();
    server.kill_9();
    assert!(server.pid().is_none());
    server.restart();
    server.restart();
    assert_eq!(server.port(), port);
    assert_eq!(server.psql("shop", "SELECT count(*) FROM t"), "1000");
    let client = server.client("shop").await;
    let settings = client.query_one("SELECT current_setting('wal_level')", &[]).await.unwrap();
    assert_eq!(settings.get::<_, String>(0), "logical");
}

#[tokio::test]
async fn settings_and_password_are_what_was_asked() {
    let builder = Postgres::builder().setting("wal_sender_timeout", "2s").password("it's");
    let Some(server) = builder.start() else { return };
    assert_eq!(server.psql("postgres", "SHOW wal_sender_timeout"), "2s");
    let wrong = server.url_as("postgres", "wrong", "postgres");
    assert!(tokio_postgres::connect(&wrong, tokio_postgres::NoTls).await.is_err());
    server.execute("postgres", "SELECT 1").await;
    let (client, connection) =
        tokio_postgres::connect(&server.socket_url("postgres"), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("SELECT 1").await.unwrap();
}

#[test]
fn a_server_with_tls_is_trusted_by_its_certificate() {
    let Some(server) = Postgres::builder().tls().start() else { return };
    let mut psql = server.client_command("psql");
    psql.env("PGHOST", "localhost")
        .env("PGSSLMODE", "verify-full")
        .env("PGSSLROOTCERT", server.certificate());
    let output = psql
        .args(["-XAt", "-d", "postgres", "-c", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"])
        .output();
    assert_eq!(String::from_utf8_lossy(&output.unwrap().stdout), "t\n");
}

#[test]
fn a_dropped_server_leaves_no_process_and_no_directory() {
    let Some(server) = Postgres::start() else { return };
    let (pid, directory) = (server.pid().unwrap(), server.data_directory());
    assert!(alive(pid) && directory.exists());
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _server = server;
        panic!("a test that fails");
    }));
    assert!(unwound.is_err());
    assert!(!alive(pid) && !directory.exists());
}

/// Set for the test process that the test below starts and kills.
const INNER: &str = "SYNCLINE_TESTKIT_INNER";

#[test]
fn a_server_dies_with_a_killed_test_process() {
    let Some(server) = Postgres::start() else { return };
    if std::env::var_os(INNER).is_some() {
        println!("server {}", server.pid().unwrap());
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let mut inner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "postgres::a_server_dies_with_a_killed_test_process"])
        .env(INNER, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(inner.stdout.take().unwrap()).lines().map_while(Result::ok);
    let pid = lines.find_map(|line| line.split_once("server ")?.1.parse::<u32>().ok()).unwrap();
    inner.kill().unwrap();
    inner.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while alive(pid) {
        assert!(Instant::now() < end, "server {pid} outlived its test process");
        std::thread::sleep(Duration::from_millis(20));
    }
}
