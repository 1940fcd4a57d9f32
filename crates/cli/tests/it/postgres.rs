//! `sync`, `check`, `status` and `drop` between two PostgreSQL databases, and what a person hears when something is wrong.

use syncline_testkit::compare::postgres::{Comparison, Definitions};
use syncline_testkit::postgres::Postgres;
use syncline_testkit::process::Outcome;

use crate::process::{EndsWith, RUN_MAX, Room};

const SHOP: &str = "
    CREATE TYPE mood AS ENUM ('fine', 'cross');
    CREATE TABLE users (id bigint PRIMARY KEY, email text UNIQUE NOT NULL, ssn text, mood mood, tags text[], at timestamptz);
    CREATE TABLE orders (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id bigint REFERENCES users, total numeric(12, 2), doc jsonb);
    INSERT INTO users SELECT n, 'user' || n, 'ssn' || n, 'fine', ARRAY['a', NULL], '2024-02-29 12:00+00' FROM generate_series(1, 5000) n;
    INSERT INTO orders (user_id, total, doc) SELECT n, n / 7.0, jsonb_build_object('n', n) FROM generate_series(1, 5000) n;
";

struct Shop {
    server: Postgres,
    room: Room,
}

impl Shop {
    async fn open() -> Option<Self> {
        let server = Postgres::start()?;
        server.create_database("shop").await;
        server.create_database("copy").await;
        server.execute("shop", SHOP).await;
        Some(Self { server, room: Room::new() })
    }

    fn run(&self, command: &str, more: &[&str]) -> Outcome {
        let (source, destination) = (self.server.url("shop"), self.server.url("copy"));
        let args: Vec<&str> =
            [command, &source, &destination].into_iter().chain(more.iter().copied()).collect();
        self.room.run(&args)
    }

    async fn assert_equal(&self) {
        let comparison = Comparison::new().definitions(Definitions::ForeignKeys);
        comparison.assert_equal((&self.server, "shop"), (&self.server, "copy")).await;
    }

    fn left_at_source(&self) -> String {
        self.server.psql(
            "shop",
            "SELECT count(*) FROM pg_replication_slots UNION ALL SELECT count(*) FROM pg_publication",
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_then_changes_then_nothing_left_behind() {
    let Some(shop) = Shop::open().await else { return };
    let ready = shop.run("check", &[]).ends_with(0);
    assert!(ready.stdout.contains("ready to run"), "{}", ready.stdout);
    let ended = shop.run("sync", &["--name", "shop"]).ends_with(0);
    assert!(ended.stdout.contains("10,000 rows"), "{}", ended.stdout);
    assert!(
        ended.stderr.contains("replication slot") && ended.stderr.contains("syncline drop shop"),
        "{}",
        ended.stderr
    );
    shop.assert_equal().await;

    let changes = "
        UPDATE users SET mood = 'cross', tags = '{}' WHERE id % 3 = 0;
        DELETE FROM orders WHERE user_id % 5 = 0;
        UPDATE orders SET user_id = NULL WHERE user_id = 7;
        UPDATE users SET id = -id WHERE id = 7;
        INSERT INTO users VALUES (9999, 'late', NULL, NULL, NULL, 'infinity');";
    shop.server.execute("shop", changes).await;
    let ended = shop.run("sync", &["--name", "shop"]).ends_with(0);
    assert!(ended.stdout.contains("read = "), "{}", ended.stdout);
    shop.assert_equal().await;

    let status = shop.room.status("shop").unwrap();
    assert_eq!((&status["running"], &status["run"]["outcome"]), (&false.into(), &"done".into()));
    shop.room.run(&["drop", "shop"]).ends_with(0);
    assert_eq!(shop.left_at_source(), "0\n0");
    let bookkeeping =
        shop.server.psql("copy", "SELECT count(*) FROM pg_namespace WHERE nspname LIKE '%syncline%'");
    assert_eq!(bookkeeping, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_alone_leaves_nothing_at_the_source() {
    let Some(shop) = Shop::open().await else { return };
    let ended = shop.run("sync", &["--mode", "snapshot"]).ends_with(0);
    assert!(!ended.stderr.contains("stays at the source"), "{}", ended.stderr);
    shop.assert_equal().await;
    assert_eq!(shop.left_at_source(), "0\n0");
}

#[tokio::test(flavor = "multi_thread")]
async fn excluded_columns_and_mapped_schemas() {
    let Some(shop) = Shop::open().await else { return };
    let ended = shop.run("sync", &["--exclude-column", "public.users.ssn", "--schema-map", "public=shop"]);
    ended.ends_with(0);
    let comparison = Comparison::new().excluded_column("public.users.ssn").schema("public", "shop");
    comparison.assert_equal((&shop.server, "shop"), (&shop.server, "copy")).await;
    let columns =
        "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'shop' AND column_name = 'ssn'";
    assert_eq!(shop.server.psql("copy", columns), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_would_break_the_application_is_refused_before_anything_is_made() {
    let Some(shop) = Shop::open().await else { return };
    shop.server.execute("shop", "CREATE TABLE logs (line text)").await;
    let ended = shop.run("sync", &[]).ends_with(2);
    assert!(ended.stderr.contains("REPLICA IDENTITY"), "{}", ended.stderr);
    assert_eq!(shop.left_at_source(), "0\n0");
    let found = shop.run("check", &[]).ends_with(2);
    assert!(found.stdout.contains("public.logs"), "{}", found.stdout);
    shop.run("sync", &["--exclude", "public.logs"]).ends_with(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_connection_is_one_clear_error() {
    let Some(server) = Postgres::builder().password("right").start() else { return };
    let room = Room::new();
    let port = server.port();
    let wrong = [
        (format!("postgres://postgres:not-right@127.0.0.1:{port}/postgres"), 2),
        (server.url("no_such_database"), 2),
        ("postgres://postgres@127.0.0.1:port/postgres".to_owned(), 2),
    ];
    for (url, code) in wrong {
        let ended = room.run(&["discover", &url]).ends_with(code);
        let said = ended.stderr;
        assert!(said.starts_with("error: ") && said.contains("\n  remedy: "), "{said}");
        assert!(!said.contains("not-right") && !said.contains("panicked"), "{said}");
        assert!(said.lines().count() <= 2, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_is_refused_and_sigterm_drains() {
    let Some(shop) = Shop::open().await else { return };
    let (source, destination) = (shop.server.url("shop"), shop.server.url("copy"));
    let args = ["sync", &source, &destination, "--name", "shop", "--follow"];
    let mut running = shop.room.syncline(&args).start();
    shop.room.wait_for_phase("shop", "streaming", &mut running);
    let refused = shop.run("sync", &["--name", "shop"]).ends_with(2);
    assert!(refused.stderr.contains(&running.pid().to_string()), "{}", refused.stderr);
    shop.server.execute("shop", "UPDATE users SET ssn = 'x'; DELETE FROM orders WHERE user_id < 100").await;
    running.terminate();
    running.wait(RUN_MAX).ends_with(0);
    shop.run("sync", &["--name", "shop"]).ends_with(0);
    shop.assert_equal().await;
}
