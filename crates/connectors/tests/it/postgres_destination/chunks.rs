//! Chunks: by COPY, in parallel, merged where rows were kept.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;
use syncline_core::{
    Bulk, Change, ChunkEntry, Delta, Durable, ErrorKind, Family, FinishStep, LoadKind, Part, Prepare,
    Prepared, Result, TableSchema,
};

use super::world::{Held, World, insert, table};

fn columns() -> Arc<TableSchema> {
    table(("public", "t"), &[("id", "integer"), ("v", "text")], 1)
}

fn chunk(table: &TableSchema, n: u32) -> (LoadKind, Delta) {
    let kind = LoadKind::Chunk { table: table.id.clone(), generation: 1, n };
    let entry = ChunkEntry { range: format!("{n}"), mark: "m".into(), rows: 0 };
    (kind, Delta::of(vec![Change::Chunk { table: table.id.clone(), generation: 1, n, entry }]))
}

async fn load(held: &Held<'_>, table: &TableSchema, n: u32, parts: Vec<Part>) -> Result<Durable> {
    let (kind, delta) = chunk(table, n);
    let mut load = held.session.begin(&held.identity(kind)).await?;
    for part in parts {
        load.write(part).await?;
    }
    load.commit(&delta).await
}

fn bulk(table: &Arc<TableSchema>, form: &'static str, bytes: &[u8]) -> Part {
    let bulk = Bulk { family: Family::POSTGRES, form, bytes: Bytes::copy_from_slice(bytes) };
    Part::Bulk { table: Arc::clone(table), bulk }
}

/// The bytes of `COPY (query) TO STDOUT`.
async fn copied(world: &World, query: &str, form: &str) -> Vec<u8> {
    use futures::TryStreamExt;
    let stream = world.client.copy_out(&format!("COPY ({query}) TO STDOUT (FORMAT {form})")).await.unwrap();
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
    pieces.concat()
}

#[tokio::test]
async fn bulk_pieces_cut_anywhere_make_one_stream() {
    for form in ["binary", "text"] {
        let Some(world) = World::new().await else { return };
        let mut held = world.held("p").await;
        let t = columns();
        assert_eq!(held.prepare(&t, None).await, Prepared::Empty);
        held.open_table(&t).await;
        let query = "SELECT n, repeat('x', n % 50) || E'\\n\\t\\\\' FROM generate_series(1, 10000) n";
        let bytes = copied(&world, query, form).await;
        let parts = bytes.chunks(7_777).map(|piece| bulk(&t, form, piece)).collect();
        let durable = load(&held, &t, 0, parts).await.unwrap();
        assert_eq!(durable.counts.applied, 10_000);
        let checkpoint = held.session.checkpoint().await.unwrap();
        assert_eq!(checkpoint.tables[&t.id].chunks[&0].rows, 10_000, "the ledger holds what was loaded");
        let differing = format!("({query} EXCEPT TABLE t) UNION ALL (TABLE t EXCEPT {query})");
        assert_eq!(world.rows(&differing).await, [""; 0]);
        held.session.finish(&t, FinishStep::Key).await.unwrap();
        held.session.finish(&t, FinishStep::Key).await.unwrap();
    }
}

#[tokio::test]
async fn parallel_chunks_do_not_wait_for_each_other() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = columns();
    held.prepare(&t, None).await;
    held.open_table(&t).await;
    // All loads are open, with rows written, before the first commits: were one waiting for another, none would end.
    let mut loads = Vec::new();
    for n in 0..6_u32 {
        let (kind, delta) = chunk(&t, n);
        let mut load = held.session.begin(&held.identity(kind)).await.unwrap();
        let id = n.to_string();
        load.write(held.rows(&t, &[&[&id, "a"]]).await).await.unwrap();
        loads.push((load, delta));
    }
    let commits = loads.into_iter().map(|(load, delta)| async move { load.commit(&delta).await });
    let durable = try_join_all(commits).await.unwrap();
    assert!(durable.iter().all(|durable| durable.counts.applied == 1));
    assert_eq!(world.rows("SELECT count(*) FROM t").await, ["(6)"]);
    let again = load(&held, &t, 3, vec![held.rows(&t, &[&["99", "a"]]).await]).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(world.rows("SELECT count(*) FROM t").await, ["(6)"]);
}

#[tokio::test]
async fn chunks_are_merged_into_rows_that_stay() {
    let Some(world) = World::new().await else { return };
    world.sql("CREATE TABLE t (id integer, v text); INSERT INTO t VALUES (1, 'mine'), (2, 'theirs')").await;
    let mut held = world.held("p").await;
    let t = columns();
    assert_eq!(held.prepare(&t, Some(Prepare::Keep)).await, Prepared::HasRows);
    held.open_table(&t).await;
    load(&held, &t, 0, vec![held.rows(&t, &[&["2", "new"], &["3", "c"]]).await]).await.unwrap();
    held.session.close().await;
    // Another process goes on: that rows were kept is remembered at the destination.
    let held = world.held("p").await;
    let bytes = copied(&world, "SELECT 3, 'cc' UNION ALL SELECT 4, 'd'", "binary").await;
    load(&held, &t, 1, vec![bulk(&t, "binary", &bytes)]).await.unwrap();
    let bytes = copied(&world, "SELECT 4, 'dd'", "text").await;
    load(&held, &t, 2, vec![bulk(&t, "text", &bytes)]).await.unwrap();
    let rows = ["(1,mine)", "(2,new)", "(3,cc)", "(4,dd)"];
    assert_eq!(world.rows("SELECT * FROM t ORDER BY id").await, rows);
}

#[tokio::test]
async fn a_snapshot_that_starts_over_empties_the_table_in_one_commit() {
    let Some(world) = World::new().await else { return };
    world.sql("CREATE TABLE t (id int4 PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'mine')").await;
    let mut held = world.held("p").await;
    let t = columns();
    held.prepare(&t, Some(Prepare::Keep)).await;
    held.open_table(&t).await;
    load(&held, &t, 0, vec![held.rows(&t, &[&["2", "b"]]).await]).await.unwrap();
    let reset = Delta::of(vec![Change::Reset { table: t.id.clone(), generation: 2 }]);
    let mut over = held.session.begin(&held.identity(LoadKind::Bookkeeping)).await.unwrap();
    over.write(Part::Empty(Arc::clone(&t))).await.unwrap();
    over.commit(&reset).await.unwrap();
    assert_eq!(world.rows("SELECT * FROM t").await, [""; 0]);
    let checkpoint = held.session.checkpoint().await.unwrap();
    assert!(checkpoint.tables[&t.id].chunks.is_empty());
    let late = load(&held, &t, 1, vec![held.rows(&t, &[&["3", "c"]]).await]).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Conflict, "a chunk of the older generation");
    assert_eq!(world.rows("SELECT * FROM t").await, [""; 0]);
    assert_eq!(world.rows("SELECT kept FROM syncline.tables").await, ["(f)"]);
}

#[tokio::test]
async fn key_and_changes_before_the_last_chunk() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = columns();
    held.prepare(&t, None).await;
    held.open_table(&t).await;
    load(&held, &t, 0, vec![held.rows(&t, &[&["1", "a"], &["2", "b"]]).await]).await.unwrap();
    held.session.finish(&t, FinishStep::Key).await.unwrap();
    held.load(&t, &[vec![insert(&["3", "c"])]]).await.unwrap();
    load(&held, &t, 1, vec![held.rows(&t, &[&["10", "j"]]).await]).await.unwrap();
    assert_eq!(world.rows("SELECT count(*) FROM t").await, ["(4)"]);
    let twice = load(&held, &t, 2, vec![held.rows(&t, &[&["10", "j"]]).await]).await.unwrap_err();
    assert_eq!((twice.kind(), twice.table()), (ErrorKind::Data, Some(&t.id)));
}

#[tokio::test]
async fn a_key_that_the_rows_do_not_allow_is_a_data_error() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = columns();
    held.prepare(&t, None).await;
    held.open_table(&t).await;
    load(&held, &t, 0, vec![held.rows(&t, &[&["1", "a"], &["1", "b"]]).await]).await.unwrap();
    let error = held.session.finish(&t, FinishStep::Key).await.unwrap_err();
    assert_eq!((error.kind(), error.table()), (ErrorKind::Data, Some(&t.id)));
}

#[tokio::test]
async fn trap_copy_meets_the_columns_it_was_meant_for() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("v", "bigint")], 1);
    held.prepare(&t, None).await;
    held.open_table(&t).await;
    load(&held, &t, 0, vec![held.rows(&t, &[&["1", "1"]]).await]).await.unwrap();
    // The same eight bytes are a time to this type, and COPY would take them for one.
    world.sql("ALTER TABLE t ALTER v TYPE timestamp USING NULL").await;
    let row = held.rows(&t, &[&["2", "2"]]).await;
    let error = load(&held, &t, 1, vec![row.clone()]).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Retriable | ErrorKind::Configuration), "{error:?}");
    let error = load(&held, &t, 1, vec![row]).await.unwrap_err();
    assert_eq!((error.kind(), error.table()), (ErrorKind::Configuration, Some(&t.id)));
    assert_eq!(world.rows("SELECT * FROM t").await, ["(1,)"]);
}
