//! Far behind: chunks by SQL, and the change to the walsender.

use super::*;

const TABLES: &str = "CREATE TABLE t (k int PRIMARY KEY, v text); CREATE TABLE u (k int, v text); ALTER TABLE u REPLICA IDENTITY FULL;";

/// A server whose slot is about 40 MB behind, after transactions of all sizes.
async fn far_behind() -> Option<Shop> {
    let shop = Shop::open(Postgres::builder(), TABLES, &["t", "u"]).await?;
    write_backlog(&shop, 0).await;
    Some(shop)
}

async fn write_backlog(shop: &Shop, first: u32) {
    for batch in 0..20 {
        let base = first + batch * 1000;
        shop.run(&format!(
            "BEGIN; INSERT INTO t SELECT {base} + g, repeat('v', 1500) FROM generate_series(1, 1000) g; COMMIT;
             UPDATE t SET k = -k WHERE k = {base} + 1; DELETE FROM t WHERE k = {base} + 2;
             INSERT INTO u VALUES ({base}, 'x'); UPDATE u SET v = 'y' WHERE k = {base}; DELETE FROM u WHERE k = {base};"
        ))
        .await;
    }
    shop.run("TRUNCATE u").await;
}

async fn behind(shop: &Shop) -> u64 {
    Lsn::of(&shop.end().await).unwrap().0 - Lsn::of(&shop.confirmed().await).unwrap().0
}

/// What a walsender sends of the same slot, whatever the distance.
async fn read_by_walsender(shop: &Shop) -> Vec<String> {
    let target = shop.end().await;
    let mut stream = shop.walsender(&target).await;
    let mut events = Vec::new();
    loop {
        let event = next(&mut stream).await.unwrap();
        let reached = matches!(&event, StreamEvent::Entry(entry) if entry.to >= target);
        events.push(event);
        if reached {
            stream.close().await;
            return lines(&events);
        }
    }
}

#[tokio::test]
async fn both_ways_of_reading_give_the_same_changes() {
    let Some(shop) = far_behind().await else { return };
    assert!(behind(&shop).await > 16 << 20);
    let sent = read_by_walsender(&shop).await;
    assert_eq!(shop.confirmed().await, shop.begin);
    let peeked = shop.read().await;
    assert_eq!(sent.len(), 20 * 1005 + 1);
    assert!(sent == peeked);
    // And the slot was advanced, not only read.
    assert!(behind(&shop).await < 1 << 20);
}

#[tokio::test]
async fn the_stream_goes_on_by_walsender_where_the_peeks_end() {
    let Some(shop) = far_behind().await else { return };
    let target = shop.end().await;
    let mut stream = shop.stream(&shop.begin, Some(&target)).await.unwrap();
    let mut events = read_to(stream.as_mut(), &target).await;
    for key in 1..=200 {
        shop.run(&format!("INSERT INTO t VALUES (1000000 + {key}, 'near')")).await;
    }
    let end = shop.end().await;
    shop.run("SELECT pg_logical_emit_message(false, 'test', '')").await;
    events.extend(read_to(stream.as_mut(), &end).await);
    let lines = lines(&events);
    assert_eq!(lines.len(), 20 * 1005 + 1 + 200);
    assert_eq!(lines.iter().filter(|line| line.ends_with(",near")).count(), 200);
    let mut stands_at = shop.begin.clone();
    for entry in entries(&events) {
        assert_eq!(entry.from, stands_at);
        stands_at = entry.to.clone();
    }
}

#[tokio::test]
async fn trap_2a_the_slot_is_advanced_only_after_everything_peeked_is_acknowledged() {
    let Some(shop) = far_behind().await else { return };
    let mut stream = shop.stream(&shop.begin, None).await.unwrap();
    let mut last = shop.begin.clone();
    let mut changes = 0;
    while changes < 20 * 1005 + 1 {
        let StreamEvent::Entry(entry) = next(stream.as_mut()).await.unwrap() else { panic!() };
        changes += entry.changes();
        stream.acknowledge(&last);
        last = entry.to;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(shop.confirmed().await, shop.begin);
}

#[tokio::test]
async fn after_a_crash_between_peek_and_advance_nothing_is_lost_or_repeated() {
    let Some(shop) = far_behind().await else { return };
    let mut events = Vec::new();
    let mut stands_at = shop.begin.clone();
    // Each round reads a little more than the last and is then gone without a word.
    for entries in [3, 7, 12] {
        let mut stream = shop.stream(&stands_at, None).await.unwrap();
        for _ in 0..entries {
            let event = next(stream.as_mut()).await.unwrap();
            if let StreamEvent::Entry(entry) = &event {
                stands_at = entry.to.clone();
            }
            events.push(event);
        }
    }
    assert_eq!(shop.confirmed().await, shop.begin);
    write_backlog(&shop, 100_000).await;
    events.extend(shop.read_from(&stands_at).await);
    let got = lines(&events);
    assert_eq!(got.len(), 2 * (20 * 1005 + 1));
    let distinct: std::collections::HashSet<_> =
        got.iter().filter(|line| line.starts_with("t insert")).collect();
    assert_eq!(distinct.len(), 2 * 20 * 1000);
}

#[tokio::test]
async fn trap_2a_commits_during_the_peeks_are_all_read() {
    let Some(shop) = far_behind().await else { return };
    let shop = Arc::new(shop);
    let writer = tokio::spawn({
        let shop = shop.clone();
        async move {
            let client = shop.server.client(DATABASE).await;
            for key in 1..=3000 {
                client.execute("INSERT INTO t VALUES (2000000 + $1, 'meanwhile')", &[&key]).await.unwrap();
            }
        }
    });
    let mut stream = shop.stream(&shop.begin, None).await.unwrap();
    let mut meanwhile = 0;
    while meanwhile < 3000 {
        let event = next(stream.as_mut()).await.unwrap();
        if let StreamEvent::Entry(entry) = &event {
            stream.acknowledge(&entry.to);
        }
        meanwhile += lines(&[event]).iter().filter(|line| line.ends_with(",meanwhile")).count();
    }
    writer.await.unwrap();
    assert_eq!(meanwhile, 3000);
}

#[tokio::test]
async fn a_long_open_transaction_leaves_it_to_the_walsender() {
    let Some(shop) = far_behind().await else { return };
    let address = shop.address();
    let mut sql = startup::connect(&address, Purpose::Sql).await.unwrap();
    let subscription = Subscription::new(&shop.request.pipeline, true);
    let state = slot::state(&mut sql, &subscription).await.unwrap();
    assert!(catchup::next_chunk(&state, Lsn::of(&shop.begin).unwrap()).is_some());
    let pinned = SlotState { restart: Lsn(state.restart.0.saturating_sub(600 << 20)), ..state };
    let far = SlotState { flushed: Lsn(state.flushed.0 + (600 << 20)), ..pinned };
    assert!(catchup::next_chunk(&far, Lsn(state.confirmed.0 + (400 << 20))).is_none());
}
