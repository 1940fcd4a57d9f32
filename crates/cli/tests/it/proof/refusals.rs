//! What cannot work is refused with one clear error, the right exit code, and nothing created; and what is created never
//! makes a write of the application fail.

use std::process::Command;
use std::time::{Duration, Instant};

use syncline_testkit::compare::postgres::Comparison;
use syncline_testkit::postgres::Postgres;
use syncline_testkit::process::Outcome;
use syncline_testkit::workload::{pgbench, shop, wide};

use super::pair::{NAME, Pair, SHOP};
use crate::process::{EndsWith, RUN_MAX, Room};

const SECRET: &str = "s3cr3t-of-the-test";

/// Requires one error with a remedy, without a backtrace or a secret, that says all of `needles`.
#[track_caller]
pub(super) fn assert_clear(refused: &Outcome, needles: &[&str]) {
    let stderr = &refused.stderr;
    let count = |prefix: &str| stderr.lines().filter(|line| line.trim_start().starts_with(prefix)).count();
    assert_eq!(count("error: "), 1, "one error: {stderr}");
    assert!(count("remedy: ") >= 1, "a remedy: {stderr}");
    for unwanted in ["panicked", "backtrace", SECRET, "src/", "Error {"] {
        assert!(!stderr.contains(unwanted) && !refused.stdout.contains(unwanted), "`{unwanted}` in {stderr}");
    }
    for needle in needles {
        assert!(stderr.contains(needle), "no `{needle}` in {stderr}");
    }
}

/// Requires `sync` with these arguments to be refused, clearly, with nothing created on either side.
#[track_caller]
fn assert_refused(pair: &Pair, more: &[&str], code: i32, needles: &[&str]) {
    assert_clear(&pair.run(more).ends_with(code), needles);
    pair.assert_nothing_left();
}

/// As [`assert_refused`], with other URLs than the pair's.
#[track_caller]
pub(super) fn assert_urls_refused(pair: &Pair, urls: [&str; 2], code: i32, needles: &[&str]) {
    assert_clear(&pair.room.run(&["sync", urls[0], urls[1], "--name", NAME]).ends_with(code), needles);
    pair.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_lead_nowhere() {
    let destination = Postgres::builder().password(SECRET);
    let Some(pair) = Pair::with(Postgres::builder().password(SECRET), destination).await else { return };
    pair.source.execute(SHOP, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let (source, copy) = (pair.source.url("shop"), pair.destination.url("copy"));
    let wrong = |server: &Postgres, database| server.url_as("postgres", "wrong", database);
    assert_urls_refused(&pair, [&wrong(&pair.source, "shop"), &copy], 2, &["password"]);
    assert_urls_refused(&pair, [&source, &wrong(&pair.destination, "copy")], 2, &["password"]);
    assert_urls_refused(&pair, [&pair.source.url("nowhere"), &copy], 2, &["nowhere"]);
    assert_urls_refused(&pair, [&source, &pair.destination.url("nowhere")], 2, &["nowhere"]);
    for malformed in [
        "postgres://user@127.0.0.1:port/shop",
        "postgres://user@127.0.0.1/shop?sslmode=sideways",
        "postgres:/shop",
        "mysql://root@127.0.0.1/shop",
    ] {
        assert_urls_refused(&pair, [malformed, &copy], 2, &["source"]);
        assert_urls_refused(&pair, [&source, malformed], 2, &["destination"]);
    }
    let secret_in_a_broken_url = format!("postgres://user:{SECRET}@127.0.0.1:99999999/shop");
    assert_urls_refused(&pair, [&secret_in_a_broken_url, &copy], 2, &["source"]);
    assert_urls_refused(&pair, [&wrong(&pair.source, "shop"), &copy], 2, &["password"]);
    let begun = Instant::now();
    let nobody = format!("postgres://postgres@127.0.0.1:{}/shop", syncline_testkit::ports::free());
    assert_urls_refused(&pair, [&nobody, &copy], 1, &["127.0.0.1"]);
    assert!(begun.elapsed() < Duration::from_secs(60), "a wrong host should not look like work");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_would_break_the_application_or_are_not_there() {
    let Some(pair) = Pair::start().await else { return };
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE good (id int PRIMARY KEY, a text); CREATE TABLE naked (id int, a text);
             CREATE TABLE whole (id int PRIMARY KEY, a text); ALTER TABLE whole REPLICA IDENTITY FULL;
             CREATE TABLE other_key (id int PRIMARY KEY, a text NOT NULL UNIQUE);
             ALTER TABLE other_key REPLICA IDENTITY USING INDEX other_key_a_key;
             INSERT INTO good VALUES (1, 'a'); INSERT INTO naked VALUES (1, 'a'); INSERT INTO whole VALUES (1, 'a')",
        )
        .await;
    let table = |name| ["--table", name];
    assert_refused(&pair, &[], 2, &["naked", "replica identity", "REPLICA IDENTITY FULL"]);
    assert_refused(&pair, &table("public.naked"), 2, &["public.naked", "ADD PRIMARY KEY"]);
    let excluded = |table, column| ["--table", table, "--exclude-column", column];
    assert_refused(
        &pair,
        &excluded("public.good", "public.good.id"),
        2,
        &["public.good", "UPDATE and DELETE"],
    );
    assert_refused(&pair, &excluded("public.whole", "public.whole.a"), 2, &["public.whole", "FULL"]);
    assert_refused(&pair, &excluded("public.other_key", "public.other_key.a"), 2, &["public.other_key"]);
    assert_refused(&pair, &table("public.nothing"), 2, &["no table matches"]);
    assert_refused(&pair, &["--table", "not a pattern"], 2, &["not a pattern"]);
    // Nothing of this stands in the way of the good one.
    pair.run_well(&table("public.good"));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_privileges_are_named_with_the_grant() {
    let Some(pair) = Pair::start().await else { return };
    pair.source
        .execute(
            SHOP,
            &format!(
                "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);
                 CREATE ROLE reader LOGIN REPLICATION; CREATE ROLE bystander LOGIN REPLICATION; CREATE ROLE owner LOGIN;
                 GRANT CREATE ON DATABASE {SHOP} TO reader, bystander, owner; GRANT SELECT ON t TO reader;
                 CREATE TABLE owned (id int PRIMARY KEY); ALTER TABLE owned OWNER TO owner"
            ),
        )
        .await;
    pair.destination.execute("copy", "CREATE ROLE guest LOGIN").await;
    let copy = pair.destination.url("copy");
    let as_role = |role| pair.source.url_as(role, "", SHOP);
    let sync = |source: &str, destination: &str, table: &str, code, needles: &[&str]| {
        let refused = pair.room.run(&["sync", source, destination, "--name", NAME, "--table", table]);
        assert_clear(&refused.ends_with(code), needles);
        pair.assert_nothing_left();
    };
    sync(&as_role("bystander"), &copy, "public.t", 2, &["public.t", "GRANT SELECT"]);
    sync(&as_role("reader"), &copy, "public.t", 2, &["public.t", "owner"]);
    sync(&as_role("owner"), &copy, "public.owned", 2, &["REPLICATION"]);
    let guest = pair.destination.url_as("guest", "", "copy");
    sync(&pair.source.url(SHOP), &guest, "public.t", 2, &["grant the missing privilege"]);
    let checked = pair.room.run(&["check", &pair.source.url(SHOP), &guest, "--table", "public.t"]);
    assert!(checked.stdout.contains("GRANT CREATE ON DATABASE"), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_stream() {
    let replica = Postgres::builder().setting("wal_level", "replica");
    let Some(pair) = Pair::with_source(replica).await else { return };
    pair.source.execute(SHOP, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    assert_refused(&pair, &[], 2, &["wal_level", "ALTER SYSTEM SET wal_level"]);
    pair.run_well(&["--mode", "snapshot"]);

    let full = Postgres::builder().setting("max_replication_slots", "1");
    let Some(pair) = Pair::with_source(full).await else { return };
    pair.source.execute(SHOP, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    pair.ask_source("SELECT pg_create_physical_replication_slot('of_somebody_else')");
    assert_refused(&pair, &[], 2, &["max_replication_slots"]);
    pair.ask_source("SELECT pg_drop_replication_slot('of_somebody_else')");
    pair.run_well(&[]);
}

/// Trap 2c: a published table without replica identity, or with a column list under REPLICA IDENTITY FULL, makes every
/// UPDATE and DELETE of the source's users fail.
#[tokio::test(flavor = "multi_thread")]
async fn trap_2c_the_application_updates_and_deletes_in_every_published_table() {
    let Some(pair) = Pair::start().await else { return };
    wide::create(&pair.source, SHOP).await;
    shop::create(&pair.source, SHOP, 50).await;
    pgbench::init(&pair.source, SHOP, 1);
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE by_index (a int NOT NULL, b int NOT NULL, c text); CREATE UNIQUE INDEX by_index_b ON by_index (b);
             ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_b; INSERT INTO by_index VALUES (1, 1, 'x'), (2, 2, 'y');
             CREATE TABLE parent (id int, at date, x text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
             CREATE TABLE child PARTITION OF parent DEFAULT; INSERT INTO parent VALUES (1, '2020-01-01', 'x'), (2, '2020-01-01', 'y');
             CREATE TABLE base (id int PRIMARY KEY, x text); CREATE TABLE derived () INHERITS (base);
             ALTER TABLE derived ADD PRIMARY KEY (id); INSERT INTO base VALUES (1, 'x'); INSERT INTO derived VALUES (2, 'y');
             CREATE TABLE computed (id int PRIMARY KEY, x int, y int GENERATED ALWAYS AS (x * 2) STORED); INSERT INTO computed VALUES (1, 1);
             CREATE TABLE hiding (id int PRIMARY KEY, open text, secret text); INSERT INTO hiding VALUES (1, 'a', 'b'), (2, 'c', 'd')",
        )
        .await;
    let options = ["--exclude-column", "public.hiding.secret"];
    pair.run_well(&options);
    let published = "SELECT string_agg(format('%I.%I', schemaname, tablename), ' ' ORDER BY 1) FROM pg_publication_tables";
    let published = pair.ask_source(published);
    assert!(published.split(' ').count() >= 14, "{published}");
    for table in published.split(' ') {
        let column = format!(
            "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0
             AND attgenerated = '' AND attidentity = '' ORDER BY attnum DESC LIMIT 1"
        );
        let column = pair.ask_source(&column);
        pair.ask_source(&format!("UPDATE {table} SET {column} = {column}"));
    }
    // Children before parents.
    for table in ["shop.line", "shop.purchase", "shop.product", "shop.customer", "derived", "base"] {
        pair.ask_source(&format!("DELETE FROM {table}"));
    }
    for table in published.split(' ').filter(|table| !table.starts_with("shop.")) {
        pair.ask_source(&format!("DELETE FROM {table}"));
    }
    pair.run_well(&options);
    let comparison = Comparison::new().excluded_column("public.hiding.secret");
    pair.assert_equal(&comparison).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_is_refused_with_who_holds_it_also_from_another_machine() {
    let Some(pair) = Pair::start().await else { return };
    shop::create(&pair.source, SHOP, 100).await;
    let mut running = pair.follow(&[]);
    let pid = running.pid().to_string();
    assert_clear(&pair.run(&[]).ends_with(2), &["held by process", &pid]);
    let other = Room::new();
    let urls = [pair.source.url(SHOP), pair.destination.url("copy")];
    let refused = other.run(&["sync", &urls[0], &urls[1], "--name", NAME]).ends_with(2);
    assert_clear(&refused, &["held by process", &pid]);
    assert_clear(&other.run(&["drop", NAME, &urls[0], &urls[1]]).ends_with(2), &["held by process", &pid]);
    assert!(running.is_running(), "{}", running.stderr_so_far());
    pair.source.execute(SHOP, "UPDATE shop.customer SET name = 'still in sync'").await;
    running.terminate();
    let _ = running.wait(RUN_MAX).ends_with(0);
    pair.run_well(&[]);
    pair.assert_same().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_the_run_and_with_room_again_nothing_is_missing() {
    let Some(pair) = Pair::start().await else { return };
    let state = pair.room.path("state");
    std::fs::create_dir(&state).unwrap();
    let Some(small) = SmallDisk::mount(&state, "3m") else {
        eprintln!("SKIPPED refusals::a_full_disk: no right to mount a file system");
        return;
    };
    pair.source.execute(SHOP, "CREATE TABLE t (id int PRIMARY KEY, body text)").await;
    pair.run_well(&[]);
    let incompressible = "(SELECT string_agg(md5(i::text || g), '') FROM generate_series(1, 100) g)";
    let fill = format!("INSERT INTO t SELECT i, {incompressible} FROM generate_series(1, 5000) i");
    pair.source.execute(SHOP, &fill).await;
    assert_clear(&pair.run(&[]).ends_with(1), &["space"]);
    assert_eq!(pair.ask_destination("SELECT count(*) FROM t WHERE length(body) <> 3200"), "0");
    small.grow("200m");
    pair.run_well(&[]);
    pair.assert_same().await;
}

/// A file system of its own size in a folder, gone when it is dropped.
struct SmallDisk {
    folder: std::path::PathBuf,
}

impl SmallDisk {
    fn mount(folder: &std::path::Path, size: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| Self { folder: folder.to_owned() })
    }

    fn grow(&self, size: &str) {
        let grown =
            Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.folder).status();
        assert!(grown.is_ok_and(|status| status.success()));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A folder that stays mounted would keep the temporary directory from going.
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}
