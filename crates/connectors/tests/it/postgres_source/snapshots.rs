//! Chunks: how a table is cut, what is held meanwhile, and what makes a snapshot start over.

use std::collections::BTreeSet;
use std::sync::Arc;

use syncline_core::{ChunkPlan, TableSchema};

use super::world::{
    ALONE, RESUMABLE, Row, SLICES, STREAMED, World, all, begin, enter, int, ledger, plan, read, rows,
    starts_over,
};

/// About 100 MB, which is three chunks: four rows a page, in the order that `order` gives.
fn large(name: &str, order: &str) -> String {
    format!(
        "CREATE TABLE {name} (id int PRIMARY KEY, x int, pad text); ALTER TABLE {name} ALTER pad SET STORAGE PLAIN;
         INSERT INTO {name} SELECT i, 0, repeat('x', 1950) FROM generate_series(1, 50000) i ORDER BY {order};
         ANALYZE {name}"
    )
}

fn ids(rows: &[Row]) -> Vec<i32> {
    rows.iter().map(|row| int(row[0].as_ref())).collect()
}

fn mode(chunk: &syncline_core::Chunk) -> String {
    serde_json::from_str::<serde_json::Value>(&chunk.range).unwrap()["mode"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_table_in_its_keys_order_is_cut_by_key_and_goes_on_after_a_restart() {
    let Some(world) = World::new(&large("t", "i")).await else { return };
    let table = world.table("t").await;
    let mut state = ledger(1);
    let chunks = plan(world.snapshots(), &table, &state, STREAMED).await;
    assert_eq!(chunks.iter().map(mode).collect::<BTreeSet<_>>(), BTreeSet::from(["keys".to_owned()]));
    assert!(chunks.len() >= 3, "{}", chunks.len());
    assert!(!world.snapshots().reads_one_snapshot(&table.id));
    let (loaded, mark) = read(world.snapshots(), &table, &chunks[1]).await;
    enter(&mut state, &chunks[1], &mark);
    let mut seen = ids(&loaded);
    // Another process, which knows the ledger only; VACUUM FULL does not matter to it.
    world.sql("VACUUM FULL t").await;
    world.sql("INSERT INTO t VALUES (-5, 1, ''), (60000, 1, '')").await;
    let source = world.again();
    let snapshots = source.snapshots().unwrap();
    for chunk in plan(snapshots, &table, &state, STREAMED).await {
        assert!(chunk.n > chunks[1].n);
        let (loaded, mark) = read(snapshots, &table, &chunk).await;
        seen.extend(ids(&loaded));
        enter(&mut state, &chunk, &mark);
    }
    assert_eq!(plan(snapshots, &table, &state, STREAMED).await, []);
    seen.sort_unstable();
    let expected: Vec<i32> = std::iter::once(-5).chain(1..=50000).chain([60000]).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn trap_5_a_table_out_of_order_is_read_in_one_snapshot() {
    let Some(world) = World::new(&large("t", "hashint4(i)")).await else { return };
    let table = world.table("t").await;
    let state = ledger(1);
    let chunks = plan(world.snapshots(), &table, &state, STREAMED).await;
    assert!(chunks.len() >= 3 && chunks.iter().all(|chunk| mode(chunk) == "blocks"), "{chunks:?}");
    assert!(world.snapshots().reads_one_snapshot(&table.id));
    let (mut seen, mut marks) = (Vec::new(), BTreeSet::new());
    for chunk in &chunks {
        // Rows move to other blocks while it is read; what is seen is the state of the first chunk's begin.
        let reader = begin(world.snapshots(), &table, chunk).await;
        marks.insert(reader.mark().0.clone());
        world.sql("UPDATE t SET x = x + 1 WHERE id % 100 = 0; DELETE FROM t WHERE id % 1000 = 1").await;
        seen.extend(rows(reader).await);
    }
    assert_eq!(marks.len(), 1);
    assert!(seen.iter().all(|row| int(row[1].as_ref()) == 0));
    let mut seen = ids(&seen);
    seen.sort_unstable();
    assert_eq!(seen, (1..=50000).collect::<Vec<_>>());
    world.snapshots().finish(&table.id).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let held = "SELECT pid FROM pg_stat_activity WHERE application_name = 'syncline/snapshot'";
    assert_eq!(world.texts(held).await, Vec::<String>::new(), "nothing is held any more");
}

/// For who looks again: a table that takes an hour to read keeps its server from cleaning up for a slice of it only.
#[tokio::test]
async fn slices_hold_nothing_between_them_and_start_over_when_the_table_is_rewritten() {
    let Some(world) = World::new(&large("t", "hashint4(i)")).await else { return };
    let table = world.table("t").await;
    let chunks = plan(world.snapshots(), &table, &ledger(1), SLICES).await;
    assert!(chunks.len() >= 3 && chunks.iter().all(|chunk| mode(chunk) == "blocks"), "{chunks:?}");
    assert!(!world.snapshots().reads_one_snapshot(&table.id));
    let held = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND \
                (backend_xmin IS NOT NULL OR state LIKE 'idle in transaction%') AND backend_type = 'client backend'";
    let (mut seen, mut marks) = (Vec::new(), BTreeSet::new());
    for chunk in &chunks {
        let (loaded, mark) = read(world.snapshots(), &table, chunk).await;
        seen.extend(ids(&loaded));
        marks.insert(mark.0);
        assert_eq!(world.texts(held).await, Vec::<String>::new(), "between two slices");
        world.sql("INSERT INTO t SELECT max(id) + 1, 0, '' FROM t").await;
    }
    assert_eq!(marks.len(), chunks.len(), "each has a moment of its own");
    seen.sort_unstable();
    assert_eq!(seen[..50000], (1..=50000).collect::<Vec<_>>());
    world.sql("VACUUM FULL t").await;
    assert!(starts_over(world.snapshots(), &table, &chunks[1]).await.contains("rewritten"));
}

#[tokio::test]
async fn trap_5b_a_rewritten_table_starts_over_and_takes_key_ranges() {
    let Some(world) = World::new(&large("t", "hashint4(i)")).await else { return };
    let table = world.table("t").await;
    let mut state = ledger(1);
    let chunks = plan(world.snapshots(), &table, &state, STREAMED).await;
    let (_, mark) = read(world.snapshots(), &table, &chunks[0]).await;
    enter(&mut state, &chunks[0], &mark);
    world.sql("VACUUM FULL t").await;
    let why = starts_over(world.snapshots(), &table, &chunks[1]).await;
    assert!(why.contains("rewritten"), "{why}");
    let again = plan(world.snapshots(), &table, &ledger(2), STREAMED).await;
    assert!(again.iter().all(|chunk| mode(chunk) == "keys"));
}

#[tokio::test]
async fn trap_5_a_lost_holder_starts_over_and_a_live_one_goes_on() {
    let Some(world) = World::new(&large("t", "hashint4(i)")).await else { return };
    let table = world.table("t").await;
    let mut state = ledger(1);
    let chunks = plan(world.snapshots(), &table, &state, STREAMED).await;
    let (_, mark) = read(world.snapshots(), &table, &chunks[0]).await;
    enter(&mut state, &chunks[0], &mark);
    assert_eq!(plan(world.snapshots(), &table, &state, STREAMED).await, chunks[1..]);
    let other = world.again();
    let plan_of_other = other.snapshots().unwrap().plan(&table, &state, STREAMED).await.unwrap();
    assert!(matches!(plan_of_other, ChunkPlan::StartOver(_)), "another process does not hold it");
    let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'syncline/snapshot'";
    world.sql(end).await;
    assert!(starts_over(world.snapshots(), &table, &chunks[1]).await.contains("lost"));
    let plan = world.snapshots().plan(&table, &state, STREAMED).await.unwrap();
    assert!(matches!(plan, ChunkPlan::StartOver(_)));
    // A complete ledger needs nothing any more.
    for chunk in &chunks[1..] {
        enter(&mut state, chunk, &mark);
    }
    let plan = other.snapshots().unwrap().plan(&table, &state, STREAMED).await.unwrap();
    assert_eq!(plan, ChunkPlan::Chunks(vec![]));
}

#[tokio::test]
async fn without_a_stream_all_tables_are_read_in_one_snapshot() {
    let Some(world) = World::new("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int)").await else {
        return;
    };
    let tables = world.tables(&all()).await;
    let mut marks = BTreeSet::new();
    for table in &tables {
        for chunk in plan(world.snapshots(), table, &ledger(1), ALONE).await {
            let (rows, mark) = read(world.snapshots(), table, &chunk).await;
            assert_eq!(rows.len(), 0);
            marks.insert(mark.0);
        }
        world.sql("INSERT INTO a SELECT coalesce(max(id), 0) + 1 FROM a; INSERT INTO b VALUES (1)").await;
    }
    assert_eq!(marks.len(), 1);
    assert_eq!(world.leftovers().await, Vec::<String>::new());
}

#[tokio::test]
async fn trap_12_a_partitioned_table_is_read_once_leaf_by_leaf() {
    let Some(world) = World::new(
        "CREATE TABLE p (id int, x int, pad text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (30000) PARTITION BY RANGE (id);
         CREATE TABLE p11 (x int, id int NOT NULL, pad text); ALTER TABLE p1 ATTACH PARTITION p11 FOR VALUES FROM (0) TO (20000);
         CREATE TABLE p12 PARTITION OF p1 DEFAULT; CREATE TABLE p2 PARTITION OF p DEFAULT;
         CREATE TABLE empty PARTITION OF p FOR VALUES FROM (90000) TO (99999);
         INSERT INTO p SELECT i, 0, repeat(md5(i::text), 60) FROM generate_series(1, 50000) i; ANALYZE",
    )
    .await
    else {
        return;
    };
    world.sql("ALTER TABLE p ALTER pad SET STORAGE PLAIN").await;
    let table = world.table("p").await;
    let mut seen = Vec::new();
    for chunk in plan(world.snapshots(), &table, &ledger(1), STREAMED).await {
        let reader = begin(world.snapshots(), &table, &chunk).await;
        // A row that moves to another partition meanwhile is read where it was.
        world.sql("UPDATE p SET id = id + 40000 WHERE id = 15000; UPDATE p SET id = id - 40000 WHERE id = 55000").await;
        seen.extend(ids(&rows(reader).await));
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=50000).collect::<Vec<_>>());
}

#[tokio::test]
async fn small_tables_of_every_kind_are_one_chunk_and_hold_nothing() {
    let Some(world) = World::new(
        "CREATE TABLE keyed (id int PRIMARY KEY, x int); CREATE TABLE keyless (id int);
         CREATE TABLE collated (id text COLLATE \"C\" PRIMARY KEY); CREATE TABLE numbers (id numeric PRIMARY KEY);
         CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF parts DEFAULT;
         CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent);
         INSERT INTO keyed VALUES (1, 2); INSERT INTO keyless VALUES (1), (1); INSERT INTO collated VALUES ('b'), ('B');
         INSERT INTO numbers VALUES (1.0); INSERT INTO parts VALUES (1); INSERT INTO parent VALUES (1);
         INSERT INTO child VALUES (2)",
    )
    .await
    else {
        return;
    };
    for (name, how, count) in [
        ("keyed", "keys", 1),
        ("keyless", "whole", 2),
        ("collated", "keys", 2),
        ("numbers", "whole", 1),
        ("parts", "whole", 1),
        ("child", "whole", 1),
    ] {
        let table = world.table(name).await;
        let chunks = plan(world.snapshots(), &table, &ledger(1), STREAMED).await;
        assert_eq!(chunks.iter().map(mode).collect::<Vec<_>>(), [how], "{name}");
        let (rows, _) = read(world.snapshots(), &table, &chunks[0]).await;
        assert_eq!(rows.len(), count, "{name}");
    }
    let table = world.table("parent").await;
    for options in [STREAMED, ALONE] {
        let chunks = plan(world.snapshots(), &table, &ledger(1), options).await;
        assert_eq!(read(world.snapshots(), &table, &chunks[0]).await.0.len(), 1, "without its children");
    }
    let held = "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'
                AND application_name = 'syncline/source'";
    assert_eq!(world.texts(held).await, Vec::<String>::new());
}

async fn chunked(world: &World, table: &Arc<TableSchema>) -> Vec<Row> {
    let mut all = Vec::new();
    let chunks = plan(world.snapshots(), table, &ledger(1), RESUMABLE).await;
    assert!(chunks.len() > 1, "{} is one chunk", table.id);
    for chunk in chunks {
        assert_eq!(mode(&chunk), "keys");
        all.extend(read(world.snapshots(), table, &chunk).await.0);
    }
    all
}

#[tokio::test]
async fn every_order_we_reproduce_is_the_servers_own() {
    let pad = "repeat('x', 1950) AS pad FROM generate_series(1, 26000) i";
    for (key, value) in [
        ("int2", "i - 13000"),
        (
            "date",
            "CASE i WHEN 1 THEN 'infinity' WHEN 2 THEN '-infinity' WHEN 3 THEN '0044-03-15 BC' ELSE date '1990-01-01' + i END",
        ),
        (
            "timestamptz",
            "CASE i WHEN 1 THEN 'infinity' ELSE timestamptz '1999-12-01' + i * interval '1.5 hour' END",
        ),
        ("uuid", "md5(i::text)::uuid"),
        ("bytea", "decode(md5(i::text), 'hex')"),
        ("text COLLATE \"C\"", "chr(60 + i % 90) || i"),
        ("time", "time '00:00' + i * interval '3 second'"),
    ] {
        // Once without statistics and once with them: bounds come from another place.
        let Some(world) = World::new(&format!("CREATE TABLE t (k {key}, pad text); ALTER TABLE t ALTER pad SET STORAGE PLAIN; INSERT INTO t SELECT {value}, {pad}; ALTER TABLE t ADD PRIMARY KEY (k)")).await
        else {
            return;
        };
        world.sql("ALTER TABLE t SET (autovacuum_enabled = off)").await;
        for analyze in ["", "ANALYZE t"] {
            world.sql(analyze).await;
            let table = world.table("t").await;
            let rows = chunked(&world, &table).await;
            let keys: BTreeSet<_> = rows.iter().map(|row| row[0].clone()).collect();
            assert_eq!((rows.len(), keys.len()), (26000, 26000), "{key} {analyze}");
        }
    }
}

#[tokio::test]
async fn a_dropped_reader_leaves_nothing_running() {
    let Some(world) = World::new(&large("t", "i")).await else { return };
    let table = world.table("t").await;
    let chunks = plan(world.snapshots(), &table, &ledger(1), STREAMED).await;
    let mut reader = begin(world.snapshots(), &table, &chunks[0]).await;
    assert!(reader.next().await.unwrap().is_some());
    drop(reader);
    for _ in 0..100 {
        let running =
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'syncline/%' AND state <> 'idle'";
        if world.texts(running).await.is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("a read goes on that nobody waits for");
}
