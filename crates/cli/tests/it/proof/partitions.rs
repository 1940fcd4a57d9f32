//! Trap 12: partitions that come and go while the pipeline lives. ATTACH, DETACH and DROP are not in the log.

use syncline_testkit::compare::postgres::{Comparison, Definitions};
use syncline_testkit::process::Running;

use super::pair::{NAME, Pair, SHOP, wait_until};
use crate::process::{EndsWith, RUN_MAX};

/// A table of two partitions with long values out of line, a second unique index, and a table beside it.
const EVENTS: &str = "
    CREATE TABLE event (day int, id int, code int, body text, n int, PRIMARY KEY (day, id)) PARTITION BY LIST (day);
    CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1); CREATE TABLE event_2 PARTITION OF event FOR VALUES IN (2);
    ALTER TABLE event_1 ALTER body SET STORAGE EXTERNAL; ALTER TABLE event_2 ALTER body SET STORAGE EXTERNAL;
    CREATE UNIQUE INDEX event_code ON event (day, code);
    CREATE TABLE beside (id int PRIMARY KEY);
    INSERT INTO event SELECT 1 + i % 2, i, i, repeat(md5(i::text), 100), 0 FROM generate_series(1, 400) i;
    INSERT INTO beside SELECT generate_series(1, 100)";

/// A third one, filled before it is attached.
const FILLED: &str = "
    CREATE TABLE event_3 (LIKE event INCLUDING ALL); ALTER TABLE event_3 ALTER body SET STORAGE EXTERNAL;
    INSERT INTO event_3 SELECT 3, i, i, repeat(md5(i::text), 100), 0 FROM generate_series(1, 300) i;
    UPDATE event_3 SET n = 1 WHERE id < 10;
    ALTER TABLE event ATTACH PARTITION event_3 FOR VALUES IN (3)";

/// Every kind of change in old and new partitions: unchanged long values, moves of keys between rows and partitions, unique
/// values that change hands, and a row that takes the key of one that moved away with its long value unchanged.
const CHANGES: &[&str] = &[
    "UPDATE event SET n = n + 1 WHERE id % 7 = 0; DELETE FROM event WHERE id % 11 = 0",
    "UPDATE event e SET id = id + 10000 WHERE id % 13 = 1 AND id < 10000
        AND NOT EXISTS (SELECT FROM event o WHERE o.day = e.day AND o.id = e.id + 10000)",
    "INSERT INTO event SELECT day, id - 10000, NULL, repeat('again', 700), -1 FROM event WHERE id % 3 = 0 AND id > 10000
        ON CONFLICT DO NOTHING",
    "UPDATE event SET code = NULL WHERE id % 10 = 0",
    "UPDATE event e SET code = id - 1 WHERE id % 10 = 1
        AND NOT EXISTS (SELECT FROM event o WHERE o.day = e.day AND o.code = e.id - 1)",
    "UPDATE event SET code = NULL WHERE id % 10 = 1 AND code = id - 1",
    "UPDATE event e SET code = id WHERE id % 10 < 2 AND code IS NULL
        AND NOT EXISTS (SELECT FROM event o WHERE o.day = e.day AND o.code = e.id)",
    "UPDATE event e SET day = 4 - day, code = NULL WHERE day <> 2 AND id % 17 = 3
        AND (SELECT count(*) FROM pg_inherits WHERE inhparent = 'event'::regclass) > 2
        AND NOT EXISTS (SELECT FROM event o WHERE o.day = 4 - e.day AND o.id = e.id)",
    "INSERT INTO event SELECT (1 + i % least(3, (SELECT count(*) FROM pg_inherits WHERE inhparent = 'event'::regclass)))::int,
        (SELECT max(id) FROM event) + i, NULL, 'late', 2 FROM generate_series(1, 20) i;
     UPDATE event SET n = n + 1, body = body WHERE id % 3 = 0",
];

async fn started() -> Option<Pair> {
    let pair = Pair::start().await?;
    pair.source.execute(SHOP, EVENTS).await;
    pair.run_well(&[]);
    Some(pair)
}

async fn change(pair: &Pair) {
    for statements in CHANGES {
        pair.source.execute(SHOP, statements).await;
    }
}

fn generation(pair: &Pair) -> String {
    pair.ask_destination("SELECT generation FROM syncline.tables WHERE name = 'event'")
}

/// Follows with looks at the partitions all the time, and whatever else the failpoints say.
fn follow(pair: &Pair, failpoints: &str) -> Running {
    let failpoints = format!("watch_every_ms=size:200{failpoints}");
    let mut running = pair.sync(&["--follow"]).env("SYNCLINE_FAILPOINT", failpoints).start();
    pair.room.wait_for_phase(NAME, "streaming", &mut running);
    running
}

/// Waits until the destination has the marker that is written now, and all tables are in the main lane.
async fn settle(pair: &Pair, running: &mut Running, marker: u32) {
    pair.source.execute(SHOP, &format!("INSERT INTO beside VALUES ({marker})")).await;
    let sql = format!(
        "SELECT (SELECT count(*) FROM beside WHERE id = {marker}) = 1 AND NOT EXISTS (SELECT FROM syncline.lanes WHERE lane <> 'main')"
    );
    wait_until("the marker", RUN_MAX, || {
        assert!(running.is_running(), "{}", running.stderr_so_far());
        pair.ask_destination(&sql) == "t"
    });
}

async fn assert_equal(pair: &Pair) {
    pair.assert_equal(&Comparison::new().definitions(Definitions::Indexes)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_12_partitions_made_while_following_are_made_in_time() {
    let Some(pair) = started().await else { return };
    // The usual look comes too late for the first row of this one.
    let mut running = pair.follow(&[]);
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE event_3 PARTITION OF event FOR VALUES IN (3); INSERT INTO event VALUES (3, 1, 1, 'first', 0)",
        )
        .await;
    wait_until("the first row", RUN_MAX, || {
        assert!(running.is_running(), "{}", running.stderr_so_far());
        pair.ask_destination("SELECT count(*) FROM event WHERE day = 3") == "1"
    });
    change(&pair).await;
    settle(&pair, &mut running, 1001).await;
    running.terminate();
    running.wait(RUN_MAX).ends_with(0);
    assert_equal(&pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_12_a_partition_made_ahead_is_there_before_its_rows_and_costs_no_snapshot() {
    let Some(pair) = started().await else { return };
    let mut running = follow(&pair, "");
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE event_3 PARTITION OF event FOR VALUES IN (3); CREATE TABLE event_4 (LIKE event);
             ALTER TABLE event ATTACH PARTITION event_4 FOR VALUES IN (4)",
        )
        .await;
    wait_until("the partitions", RUN_MAX, || {
        pair.ask_destination("SELECT count(*) FROM pg_partition_tree('event') WHERE isleaf") == "4"
            && pair.ask_destination(
                "SELECT parts LIKE '%event_3%event_4%' FROM syncline.tables WHERE name = 'event'",
            ) == "t"
    });
    pair.source
        .execute(SHOP, "INSERT INTO event SELECT 3 + i % 2, i, i, 'x', 0 FROM generate_series(1, 50) i")
        .await;
    settle(&pair, &mut running, 1001).await;
    assert_eq!(generation(&pair), "1");
    running.terminate();
    running.wait(RUN_MAX).ends_with(0);
    assert_equal(&pair).await;
    pair.run_well(&[]);
    assert_eq!(generation(&pair), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_12_rows_that_attach_brings_while_following_arrive_and_so_do_their_changes() {
    let Some(pair) = started().await else { return };
    let mut running = follow(&pair, ",chunk_read=pause-each:1500");
    pair.source.execute(SHOP, FILLED).await;
    // Before it is noticed, after its snapshot was taken, and while its changes wait.
    for _ in 0..8 {
        change(&pair).await;
    }
    settle(&pair, &mut running, 1001).await;
    assert_eq!(generation(&pair), "2");
    assert_equal(&pair).await;
    change(&pair).await;
    settle(&pair, &mut running, 1002).await;
    running.terminate();
    running.wait(RUN_MAX).ends_with(0);
    assert_equal(&pair).await;
    assert_eq!(generation(&pair), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_12_rows_that_attach_brings_between_runs_arrive_whatever_kills_the_run() {
    let Some(pair) = started().await else { return };
    change(&pair).await;
    pair.source.execute(SHOP, FILLED).await;
    change(&pair).await;
    for place in ["chunk_read", "chunk_committed", "before_commit", "load_committed", "load_committed"] {
        let killed = pair.sync(&[]).env("SYNCLINE_FAILPOINT", format!("{place}=kill@1")).run(RUN_MAX);
        assert!(killed.signal().is_some() || killed.code() == Some(0), "{killed:?}");
        change(&pair).await;
    }
    pair.run_well(&[]);
    assert_equal(&pair).await;
    assert_eq!(generation(&pair), "2");
    // All of it once more, with rows that leave the partition before it is noticed.
    let fourth =
        FILLED.replace("event_3", "event_4").replace("SELECT 3,", "SELECT 4,").replace("IN (3)", "IN (4)");
    pair.source.execute(SHOP, &fourth).await;
    pair.source
        .execute(SHOP, "UPDATE event SET day = 1, id = 90000 + id, code = NULL WHERE day = 4 AND id < 50")
        .await;
    pair.run_well(&[]);
    assert_equal(&pair).await;
}

/// What must be said, and what brings the table back.
async fn assert_stopped_until_prepared(pair: &Pair, why: &str) {
    pair.source.execute(SHOP, "INSERT INTO beside VALUES (5000 + (random() * 1e6)::int)").await;
    let ended = pair.run(&[]).ends_with(1);
    assert!(ended.stderr.contains("public.event: stopped"), "{}", ended.stderr);
    assert!(ended.stdout.contains(why) && ended.stdout.contains("--prepare truncate"), "{}", ended.stdout);
    assert_eq!(
        pair.ask_destination("SELECT phase FROM syncline.tables WHERE name = 'event'"),
        "needs_snapshot"
    );
    pair.assert_equal(&Comparison::new().except("public.event")).await;
    pair.run(&[]).ends_with(1);
    pair.run_well(&["--prepare", "truncate"]);
    pair.assert_equal(&Comparison::new()).await;
    pair.source.execute(SHOP, "UPDATE event SET n = n + 1").await;
    pair.run_well(&[]);
    pair.assert_equal(&Comparison::new()).await;
}

const GONE: &str = "detached or dropped";

#[tokio::test(flavor = "multi_thread")]
async fn trap_12_a_partition_that_goes_stops_its_table_until_it_is_prepared_anew() {
    let Some(pair) = started().await else { return };
    pair.source.execute(SHOP, "ALTER TABLE event DETACH PARTITION event_1; DROP TABLE event_1").await;
    let mut running = pair.sync(&["--follow"]).start();
    running.wait_for_output("public.event: stopped", RUN_MAX);
    running.terminate();
    running.wait(RUN_MAX).ends_with(1);
    // Nothing of it was deleted by us.
    assert_eq!(pair.ask_destination("SELECT count(*) FROM event WHERE day = 1"), "200");
    assert_stopped_until_prepared(&pair, "new snapshot").await;

    let running = follow(&pair, "");
    pair.source.execute(SHOP, "DROP TABLE event_2").await;
    let mut running = running;
    running.wait_for_output("public.event: stopped", RUN_MAX);
    let status = || pair.room.run(&["status", NAME]).ends_with(0).stdout;
    wait_until("the status", RUN_MAX, || status().contains(GONE) && status().contains("--prepare truncate"));
    running.terminate();
    running.wait(RUN_MAX).ends_with(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_12_a_partition_that_left_and_came_back_is_another_one() {
    let Some(pair) = started().await else { return };
    pair.source
        .execute(
            SHOP,
            "ALTER TABLE event DETACH PARTITION event_1; DELETE FROM event_1 WHERE id % 4 = 0;
             ALTER TABLE event ATTACH PARTITION event_1 FOR VALUES IN (1)",
        )
        .await;
    assert_stopped_until_prepared(&pair, GONE).await;
    // Another name alone is none.
    pair.source
        .execute(SHOP, "ALTER TABLE event_1 RENAME TO event_one; UPDATE event SET n = 77 WHERE day = 1")
        .await;
    pair.run_well(&[]);
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_12_a_table_of_the_pipeline_that_becomes_a_partition() {
    let Some(pair) = started().await else { return };
    pair.source.execute(SHOP, &FILLED.replace("ALTER TABLE event ATTACH", "-- ")).await;
    pair.run_well(&[]);
    let mut running = follow(&pair, "");
    pair.source.execute(SHOP, "ALTER TABLE event ATTACH PARTITION event_3 FOR VALUES IN (3)").await;
    running.wait_for_output("public.event: stopped", RUN_MAX);
    running.wait_for_output("public.event_3: stopped", RUN_MAX);
    change(&pair).await;
    running.terminate();
    running.wait(RUN_MAX).ends_with(1);
    let ended = pair.run(&[]).ends_with(1);
    assert!(ended.stdout.contains("where a partition of that name belongs"), "{}", ended.stdout);
    pair.ask_destination("DROP TABLE event_3");
    pair.run_well(&[]);
    assert_equal(&pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_12_rows_that_attach_brings_to_a_table_without_a_key_need_a_new_snapshot() {
    let Some(pair) = Pair::start().await else { return };
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE event (day int, n int) PARTITION BY LIST (day); CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);
             ALTER TABLE event REPLICA IDENTITY FULL; ALTER TABLE event_1 REPLICA IDENTITY FULL;
             INSERT INTO event SELECT 1, i % 5 FROM generate_series(1, 100) i; CREATE TABLE beside (id int PRIMARY KEY)",
        )
        .await;
    pair.run_well(&[]);
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE event_3 (day int, n int); ALTER TABLE event_3 REPLICA IDENTITY FULL;
             INSERT INTO event_3 SELECT 3, i % 5 FROM generate_series(1, 100) i;
             ALTER TABLE event ATTACH PARTITION event_3 FOR VALUES IN (3); DELETE FROM event_3 WHERE n = 4",
        )
        .await;
    assert_stopped_until_prepared(&pair, "without a key").await;
}
