//! Where a stream begins, what is confirmed, and what ends it.

use super::*;

const TABLES: &str = "CREATE TABLE t (k int PRIMARY KEY, v text);";

async fn shop(server: Builder) -> Option<Shop> {
    Shop::open(server, TABLES, &["t"]).await
}

fn kind(outcome: Result<impl Sized>) -> ErrorKind {
    outcome.err().expect("an error").kind()
}

#[tokio::test]
async fn trap_2_what_comes_again_after_a_reconnect_is_dropped() {
    let Some(shop) = shop(Postgres::builder()).await else { return };
    shop.run("INSERT INTO t VALUES (1, 'a')").await;
    let middle = shop.end().await;
    shop.run("INSERT INTO t VALUES (2, 'b')").await;
    let end = shop.end().await;
    let mut stream = shop.stream(&shop.begin, Some(&end)).await.unwrap();
    let mut stands_at = shop.begin.clone();
    while stands_at < middle {
        let StreamEvent::Entry(entry) = next(stream.as_mut()).await.unwrap() else { panic!() };
        stands_at = entry.to;
    }
    drop(stream);
    // Nothing was acknowledged, so the slot still has everything.
    assert_eq!(shop.confirmed().await, shop.begin);
    assert_eq!(shop.read().await, ["t insert 1,a", "t insert 2,b"]);
}

#[tokio::test]
async fn a_stream_that_begins_after_a_commit_has_only_what_follows() {
    let Some(shop) = shop(Postgres::builder()).await else { return };
    shop.run("INSERT INTO t VALUES (1, 'a')").await;
    let mut stream = shop.stream(&shop.begin, None).await.unwrap();
    let StreamEvent::Entry(first) = next(stream.as_mut()).await.unwrap() else { panic!() };
    assert_eq!(first.changes(), 1);
    drop(stream);
    shop.run("INSERT INTO t VALUES (2, 'b')").await;
    assert_eq!(lines(&shop.read_from(&first.to).await), ["t insert 2,b"]);
}

#[tokio::test]
async fn trap_1_only_what_is_acknowledged_is_confirmed() {
    let Some(shop) = shop(Postgres::builder()).await else { return };
    shop.run("INSERT INTO t VALUES (1, 'a')").await;
    shop.run("INSERT INTO t VALUES (2, 'b')").await;
    let mut stream = shop.stream(&shop.begin, None).await.unwrap();
    let StreamEvent::Entry(entry) = next(stream.as_mut()).await.unwrap() else { panic!() };
    // Several status intervals, with keepalives in between.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(shop.confirmed().await, shop.begin);
    stream.acknowledge(&entry.to);
    for _ in 0..100 {
        if shop.confirmed().await == entry.to {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(shop.confirmed().await, entry.to);
    stream.acknowledge(&shop.begin);
    drop(stream);
    assert_eq!(shop.confirmed().await, entry.to);
}

#[tokio::test]
async fn dropping_a_stream_reports_the_last_acknowledgement_and_frees_the_slot() {
    let Some(shop) = shop(Postgres::builder()).await else { return };
    shop.run("INSERT INTO t VALUES (1, 'a')").await;
    let mut stream = shop.stream(&shop.begin, None).await.unwrap();
    let StreamEvent::Entry(entry) = next(stream.as_mut()).await.unwrap() else { panic!() };
    stream.acknowledge(&entry.to);
    drop(stream);
    shop.until_free().await;
    assert_eq!(shop.confirmed().await, entry.to);
}

#[tokio::test]
async fn trap_2_a_gap_is_refused_never_skipped() {
    let Some(shop) = shop(Postgres::builder()).await else { return };
    shop.run("INSERT INTO t VALUES (1, 'a')").await;
    assert_eq!(shop.read().await, ["t insert 1,a"]);
    assert!(shop.confirmed().await > shop.begin);
    let error = shop.stream(&shop.begin, None).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.misses_changes());
    let beyond = Lsn(Lsn::of(&shop.end().await).unwrap().0 + (1 << 30)).position();
    assert_eq!(kind(shop.stream(&beyond, None).await), ErrorKind::Conflict);
}

#[tokio::test]
async fn trap_3_a_slot_or_publication_that_is_gone_is_a_conflict() {
    let Some(shop) = shop(Postgres::builder()).await else { return };
    shop.run("ALTER PUBLICATION syncline_shop RENAME TO p").await;
    assert_eq!(kind(shop.stream(&shop.begin, None).await), ErrorKind::Conflict);
    shop.run("ALTER PUBLICATION p RENAME TO syncline_shop").await;
    let mut stream = shop.stream(&shop.begin, None).await.unwrap();
    shop.run("DROP PUBLICATION syncline_shop; INSERT INTO t VALUES (1, 'a')").await;
    let ended = loop {
        if let Err(error) = next(stream.as_mut()).await {
            break error;
        }
    };
    assert_eq!(ended.kind(), ErrorKind::Conflict, "{ended:?}");
    drop(stream);
    shop.until_free().await;
    shop.run("SELECT pg_drop_replication_slot('syncline_shop')").await;
    assert_eq!(kind(shop.stream(&shop.begin, None).await), ErrorKind::Conflict);
}

#[tokio::test]
async fn trap_3_a_publication_that_was_gone_for_a_while_is_a_conflict() {
    let Some(shop) = shop(Postgres::builder()).await else { return };
    let mut stream = shop.stream(&shop.begin, None).await.unwrap();
    shop.run("DROP PUBLICATION syncline_shop").await;
    shop.run("INSERT INTO t VALUES (1, 'a')").await;
    shop.run("CREATE PUBLICATION syncline_shop FOR TABLE t WITH (publish_via_partition_root = true)").await;
    shop.run("INSERT INTO t VALUES (2, 'b')").await;
    assert_eq!(kind(until_error(stream.as_mut()).await), ErrorKind::Conflict, "the first row is missing");
}

#[tokio::test]
async fn a_walsender_that_dies_is_retriable_and_the_next_one_goes_on() {
    let Some(shop) = shop(Postgres::builder()).await else { return };
    shop.run("INSERT INTO t VALUES (1, 'a')").await;
    let mut stream = shop.stream(&shop.begin, None).await.unwrap();
    let StreamEvent::Entry(entry) = next(stream.as_mut()).await.unwrap() else { panic!() };
    shop.run("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots").await;
    assert_eq!(kind(until_error(stream.as_mut()).await), ErrorKind::Retriable);
    assert_eq!(kind(stream.next().await), ErrorKind::Retriable);
    shop.run("INSERT INTO t VALUES (2, 'b')").await;
    assert_eq!(lines(&shop.read_from(&entry.to).await), ["t insert 2,b"]);
}

async fn until_error(stream: &mut dyn ChangeStream) -> Result<()> {
    loop {
        next(stream).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_or_dies_is_retriable() {
    let Some(shop) = shop(Postgres::builder()).await else { return };
    let stream = shop.stream(&shop.begin, None).await.unwrap();
    // An orderly stop waits until everything sent is acknowledged, so somebody reads meanwhile.
    let reader = tokio::spawn(acknowledge_until_error(stream));
    shop.run("INSERT INTO t VALUES (1, 'a')").await;
    tokio::task::block_in_place(|| shop.server.stop_fast());
    let (stands_at, error) = reader.await.unwrap();
    assert_eq!(error.kind(), ErrorKind::Retriable);
    assert_eq!(kind(shop.stream(&stands_at, None).await), ErrorKind::Retriable);
    tokio::task::block_in_place(|| shop.server.restart());
    let mut stream = shop.stream(&stands_at, None).await.unwrap();
    shop.run("INSERT INTO t VALUES (2, 'b')").await;
    tokio::task::block_in_place(|| shop.server.kill_9());
    assert_eq!(kind(until_error(stream.as_mut()).await), ErrorKind::Retriable);
    tokio::task::block_in_place(|| shop.server.restart());
    assert_eq!(lines(&shop.read_from(&stands_at).await), ["t insert 2,b"]);
}

/// Where the stream stood when it failed, and why it did.
async fn acknowledge_until_error(mut stream: Box<dyn ChangeStream>) -> (Position, Error) {
    let mut stands_at = Position::start();
    loop {
        match next(stream.as_mut()).await {
            Ok(StreamEvent::Entry(entry)) => stands_at = entry.to,
            Ok(StreamEvent::TableStopped { table, .. }) => panic!("{table} stopped"),
            Err(error) => return (stands_at, error),
        }
        stream.acknowledge(&stands_at);
    }
}

#[tokio::test]
async fn a_slot_that_is_still_busy_for_a_moment_is_waited_for() {
    let Some(shop) = shop(Postgres::builder()).await else { return };
    shop.run("INSERT INTO t VALUES (1, 'a')").await;
    let busy = shop.stream(&shop.begin, None).await.unwrap();
    let begin = shop.begin.clone();
    let release = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        drop(busy);
    };
    let ((), second) = tokio::join!(release, shop.stream(&begin, None));
    let StreamEvent::Entry(entry) = next(second.unwrap().as_mut()).await.unwrap() else { panic!() };
    assert_eq!(entry.changes(), 1);
}

/// `next` is not called for longer than the server waits for an answer, with more to read than is ever buffered.
#[tokio::test]
async fn keepalives_are_answered_while_nobody_reads() {
    let Some(shop) = shop(Postgres::builder().setting("wal_sender_timeout", "2s")).await else { return };
    let mut stream = shop.stream(&shop.begin, None).await.unwrap();
    let pid = shop.text("SELECT active_pid FROM pg_replication_slots").await;
    for batch in 0..40 {
        let rows = format!(
            "INSERT INTO t SELECT {batch} * 1000 + g, repeat('v', 1000) FROM generate_series(1, 1000) g"
        );
        shop.run(&rows).await;
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(shop.text("SELECT active_pid FROM pg_replication_slots").await, pid);
    let end = shop.end().await;
    let events = read_to_marked(&shop, stream.as_mut(), &end).await;
    assert_eq!(entries(&events).map(Entry::changes).sum::<usize>(), 40_000);
    assert_eq!(shop.text("SELECT active_pid FROM pg_replication_slots").await, pid);
}

/// Reads to `end` although the stream was not opened with it as its target.
async fn read_to_marked(shop: &Shop, stream: &mut dyn ChangeStream, end: &Position) -> Vec<StreamEvent> {
    shop.run("SELECT pg_logical_emit_message(false, 'test', '')").await;
    read_to(stream, end).await
}

#[tokio::test]
async fn trap_4_unrelated_traffic_moves_the_position_and_the_slot() {
    let Some(shop) = shop(Postgres::builder()).await else { return };
    shop.server.create_database("unrelated").await;
    shop.server
        .execute("unrelated", "CREATE TABLE x AS SELECT repeat('x', 1000) FROM generate_series(1, 10000)")
        .await;
    let end = shop.end().await;
    let mut stream = shop.stream(&shop.begin, None).await.unwrap();
    let events = read_to_marked(&shop, stream.as_mut(), &end).await;
    assert_eq!(entries(&events).map(Entry::changes).sum::<usize>(), 0);
    assert!(events.len() < 5, "progress comes rarely: {}", events.len());
    for _ in 0..150 {
        if shop.confirmed().await >= end {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the slot stands at {} and not at {end}", shop.confirmed().await);
}

#[tokio::test]
async fn a_target_that_nothing_flushes_is_reached() {
    // Without a checkpointer and a background writer in the way, the last record stays unflushed.
    let server = Postgres::builder().setting("synchronous_commit", "off").setting("wal_writer_delay", "10s");
    let Some(shop) = shop(server).await else { return };
    shop.run("INSERT INTO t VALUES (1, 'a')").await;
    shop.run("BEGIN; INSERT INTO t VALUES (2, 'b'); ROLLBACK").await;
    assert_eq!(shop.read().await, ["t insert 1,a"]);
}
