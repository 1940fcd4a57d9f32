//! Every kind of change, as the server really sends it.

use super::*;

const TABLES: &str = "CREATE TABLE t (k int PRIMARY KEY, v text, big text);
     ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
     CREATE TABLE f (k int PRIMARY KEY, v text, big text);
     ALTER TABLE f ALTER big SET STORAGE EXTERNAL;
     ALTER TABLE f REPLICA IDENTITY FULL;
     CREATE TABLE keyless (v text, big text);
     ALTER TABLE keyless ALTER big SET STORAGE EXTERNAL;
     ALTER TABLE keyless REPLICA IDENTITY FULL;
     CREATE TABLE i (k int PRIMARY KEY, a int NOT NULL, b text NOT NULL);
     CREATE UNIQUE INDEX i_ba ON i (b, a);
     ALTER TABLE i ALTER b SET STORAGE EXTERNAL;
     ALTER TABLE i REPLICA IDENTITY USING INDEX i_ba;
     CREATE TABLE p (k int PRIMARY KEY, v text) PARTITION BY RANGE (k);
     CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
     CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20);
     CREATE TABLE other (k int PRIMARY KEY);";

async fn shop() -> Option<Shop> {
    Shop::open(Postgres::builder(), TABLES, &["t", "f", "keyless", "i", "p"]).await
}

#[tokio::test]
async fn inserts_updates_deletes_truncates() {
    let Some(shop) = shop().await else { return };
    shop.run("INSERT INTO t VALUES (1, 'a', NULL), (2, 'b', 'c')").await;
    shop.run("UPDATE t SET v = NULL WHERE k = 1").await;
    shop.run("DELETE FROM t WHERE k = 2; INSERT INTO other VALUES (1)").await;
    shop.run("TRUNCATE t, f").await;
    assert_eq!(
        shop.read().await,
        [
            "t insert 1,a,-",
            "t insert 2,b,c",
            "t update 1,-,-",
            "t delete 2,-,-",
            "t truncate -,-,-",
            "f truncate -,-,-"
        ]
    );
}

#[tokio::test]
async fn trap_8_unchanged_toast() {
    let Some(shop) = shop().await else { return };
    shop.run(
        "INSERT INTO t VALUES (1, 'a', repeat('x', 5000)); INSERT INTO f VALUES (1, 'a', repeat('y', 5000))",
    )
    .await;
    shop.run("UPDATE t SET v = 'b'; UPDATE f SET v = 'b'").await;
    shop.run("UPDATE t SET k = 2; UPDATE f SET k = 2").await;
    shop.run("INSERT INTO i VALUES (1, 7, repeat('z', 2400))").await;
    shop.run("UPDATE i SET k = 2").await;
    shop.run("UPDATE i SET a = 8").await;
    assert_eq!(
        shop.read().await,
        [
            "t insert 1,a,x*5000",
            "f insert 1,a,y*5000",
            "t update 1,b,- without [2]",
            "f update 1,b,y*5000",
            "t update 2,b,- without [2] was 1",
            "f update 2,b,y*5000 was 1",
            "i insert 1,7,z*2400",
            "i update 2,7,z*2400",
            "i update 2,8,z*2400 was z*2400,7",
        ]
    );
}

#[tokio::test]
async fn trap_10_keys_that_change_swap_and_come_back() {
    let Some(shop) = shop().await else { return };
    shop.run("INSERT INTO t VALUES (1, 'a'), (2, 'b')").await;
    shop.run("BEGIN; UPDATE t SET k = 3 WHERE k = 1; UPDATE t SET k = 1 WHERE k = 2; UPDATE t SET k = 2 WHERE k = 3; COMMIT").await;
    shop.run("BEGIN; DELETE FROM t WHERE k = 1; INSERT INTO t VALUES (1, 'c'); COMMIT").await;
    assert_eq!(
        shop.read().await,
        [
            "t insert 1,a,-",
            "t insert 2,b,-",
            "t update 3,a,- was 1",
            "t update 1,b,- was 2",
            "t update 2,a,- was 3",
            "t delete 1,-,-",
            "t insert 1,c,-",
        ]
    );
}

#[tokio::test]
async fn a_table_without_a_key_sends_whole_old_rows() {
    let Some(shop) = shop().await else { return };
    shop.run("INSERT INTO keyless VALUES ('a', repeat('x', 5000)), ('a', NULL)").await;
    shop.run("UPDATE keyless SET v = 'b' WHERE big IS NOT NULL").await;
    shop.run("DELETE FROM keyless").await;
    assert_eq!(
        shop.read().await,
        [
            "keyless insert a,x*5000",
            "keyless insert a,-",
            "keyless update b,x*5000 was a,x*5000",
            "keyless delete a,-",
            "keyless delete b,x*5000",
        ]
    );
}

#[tokio::test]
async fn trap_12_partitions_are_their_root() {
    let Some(shop) = shop().await else { return };
    shop.run("INSERT INTO p VALUES (1, 'a'), (11, 'b')").await;
    shop.run("UPDATE p SET k = 12 WHERE k = 1; UPDATE p SET k = 13 WHERE k = 11").await;
    assert_eq!(
        shop.read().await,
        ["p insert 1,a", "p insert 11,b", "p delete 1,-", "p insert 12,a", "p update 13,b was 11"]
    );
}

#[tokio::test]
async fn entries_name_their_transactions_and_follow_each_other() {
    let Some(shop) = shop().await else { return };
    let xid = shop.text("INSERT INTO t VALUES (1, 'a') RETURNING pg_current_xact_id()").await;
    shop.run("SELECT pg_logical_emit_message(true, 'other', 'x')").await;
    shop.run("INSERT INTO t VALUES (2, 'b')").await;
    let events = shop.read_from(&shop.begin).await;
    let mut stands_at = shop.begin.clone();
    for entry in entries(&events) {
        assert_eq!(entry.from, stands_at);
        assert!(entry.to > entry.from);
        stands_at = entry.to.clone();
    }
    let transactions: Vec<_> = entries(&events).flat_map(|entry| &entry.transactions).collect();
    assert_eq!(transactions.len(), 2);
    assert_eq!(transactions[0].id.to_string(), xid);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let age_us = i64::try_from(now.as_micros()).unwrap() - transactions[0].committed_at_us;
    assert!((0..60_000_000).contains(&age_us), "{age_us}");
}

#[tokio::test]
async fn trap_9_a_large_transaction_comes_in_pieces_and_memory_stays_bounded() {
    let Some(shop) = shop().await else { return };
    shop.run("INSERT INTO t VALUES (0, 'first')").await;
    shop.run("INSERT INTO t SELECT g, repeat('v', 900) FROM generate_series(1, 30000) g").await;
    let events = shop.read_from(&shop.begin).await;
    let pieces = entries(&events).filter(|entry| entry.is_piece()).count();
    assert!(pieces >= 2, "{pieces}");
    assert!(entries(&events).all(|entry| entry.bytes() < 24 << 20));
    assert_eq!(entries(&events).map(Entry::changes).sum::<usize>(), 30_001);
    let keys: Vec<_> =
        lines(&events).iter().map(|line| line.split([' ', ',']).nth(2).unwrap().to_owned()).collect();
    assert!(keys.iter().enumerate().all(|(index, key)| *key == index.to_string()));
}
