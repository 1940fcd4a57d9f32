//! The same value comes out of chunk, stream and read by key, bit for bit.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use syncline_core::{Operation, Selection, StreamEvent, TablePattern, TableSchema};

use super::world::{Row, STREAMED, World, all, ledger, plan, read};

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let value = |column: usize, row: usize| {
        let array = batch.column(column).as_binary::<i32>();
        array.is_valid(row).then(|| array.value(row).to_vec())
    };
    (0..batch.num_rows())
        .map(|row| (0..batch.num_columns()).map(|column| value(column, row)).collect())
        .collect()
}

async fn streamed(
    world: &World,
    request: &syncline_core::StreamRequest,
    from: &syncline_core::Position,
) -> Vec<Row> {
    let target = world.streams().end().await.unwrap();
    let mut stream = world.streams().stream(request, from, Some(&target)).await.unwrap();
    let mut rows = Vec::new();
    loop {
        let event =
            tokio::time::timeout(std::time::Duration::from_secs(30), stream.next()).await.unwrap().unwrap();
        let StreamEvent::Entry(entry) = event else { panic!("{event:?}") };
        for batch in &entry.batches {
            assert!(batch.operations.iter().all(|operation| *operation == Operation::Insert));
            rows.extend(rows_of(&batch.rows));
        }
        if entry.to >= target {
            return rows;
        }
    }
}

/// Inserts under a slot, then reads the rows in the three ways.
async fn three_ways(world: &World, selection: &Selection, insert: &str) -> Arc<TableSchema> {
    let request = world.request("values", selection).await;
    let table = request.tables[0].clone();
    let origin = world.streams().open(&request).await.unwrap();
    world.sql(insert).await;
    let chunks = plan(world.snapshots(), &table, &ledger(1), STREAMED).await;
    assert_eq!(chunks.len(), 1);
    let (mut from_chunk, _) = read(world.snapshots(), &table, &chunks[0]).await;
    assert!(!from_chunk.is_empty());
    let mut from_stream = streamed(world, &request, &origin.confirmed).await;
    let key = |rows: &[Row]| {
        let values = |&column: &usize| -> arrow_array::ArrayRef {
            Arc::new(rows.iter().map(|row| row[column].as_deref()).collect::<arrow_array::BinaryArray>())
        };
        RecordBatch::try_new(table.arrow_old(), table.row_key.iter().map(values).collect()).unwrap()
    };
    let (by_key, _) = world.snapshots().read_keys(&table, &key(&from_chunk)).await.unwrap();
    let mut by_key = rows_of(&by_key);
    from_chunk.sort();
    from_stream.sort();
    by_key.sort();
    for ((chunk, stream), key) in from_chunk.iter().zip(&from_stream).zip(&by_key) {
        for (number, column) in table.columns.iter().enumerate() {
            assert_eq!(chunk[number], stream[number], "{} from chunk and stream", column.name);
            assert_eq!(chunk[number], key[number], "{} from chunk and by key", column.name);
        }
    }
    assert_eq!((from_stream.len(), by_key.len()), (from_chunk.len(), from_chunk.len()));
    table
}

const BUILT_IN: &str = "
    id int8, k text COLLATE \"C\", b bool, i2 int2, f4 float4, f8 float8, n numeric, m money, c char(6), \"char\" \"char\",
    nm name, v varchar(9), by bytea, d date, t time, tz timetz, ts timestamp, tstz timestamptz, iv interval, u uuid,
    j json, jb jsonb, jp jsonpath, x xml, i inet, ci cidr, ma macaddr, m8 macaddr8, bi bit(3), vb varbit, p point,
    ln line, ls lseg, bx box, pa path, po polygon, cl circle, tv tsvector, tq tsquery, o oid, ti tid, xi xid, x8 xid8,
    l pg_lsn, sn pg_snapshot, r int4range, mr datemultirange, a int[], at text[], ar numrange[]";

const VALUES: &str = "
    (1, 'k', true, -3, 'NaN', 1e-300, 'NaN', '-12.34', 'ab', 'q', 'nm', 'v', '\\x00ff', 'infinity', '24:00', '01:02:03+05:30',
     '4713-01-01 BC', '2024-02-29 12:00+00', '1 mon -2 days 03:04:05.000006', '00112233-4455-6677-8899-aabbccddeeff',
     '{ \"a\" : 1 }', '{\"a\": 1.10}', '$.a', '<a/>', '10.0.0.1', '10.0.0.0/8', '08:00:2b:01:02:03',
     '08:00:2b:01:02:03:04:05', '101', '1', '(1,2)', '{1,2,3}', '((0,0),(1,1))', '((0,0),(1,1))', '((0,0),(1,1))',
     '((0,0),(1,1),(2,0))', '<(1,1),5>', 'a:1A b', 'a & b', 42, '(1,2)', '7', '77', '16/B374D848', '10:20:10,14',
     '[1,5)', '{[2024-01-01,2024-02-01)}', '[0:2]={1,NULL,3}', '{\"a b\",NULL}', '{\"[1.0,2.00)\"}'),
    (2, 'k2', false, 3, '-Infinity', '-0', 1.10, '0', '', ' ', '', '', '', '-infinity', '00:00', '00:00+00', 'infinity',
     '-infinity', '0', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'null', 'null', '$', '', '::1/64', '::/0',
     '00:00:00:00:00:00', '00:00:00:00:00:00:00:00', '000', '', '(NaN,0)', '{0,1,0}', '((0,0),(0,0))', '((0,0),(0,0))',
     '[(0,0)]', '((0,0))', '<(0,0),0>', '', '', 0, '(0,0)', '0', '0', '0/0', '1:1:', 'empty', '{}', '{}', '{}', '{}')";

#[tokio::test]
async fn every_built_in_type_is_the_same_in_binary() {
    let Some(world) = World::new(&format!("CREATE TABLE t ({BUILT_IN}, PRIMARY KEY (id, k))")).await else {
        return;
    };
    let table = three_ways(&world, &all(), &format!("INSERT INTO t VALUES {VALUES}")).await;
    assert!(table.columns[0].carriage == syncline_core::Carriage::Native);
}

#[tokio::test]
async fn every_type_is_the_same_in_text() {
    let sql = format!(
        "CREATE TYPE mood AS ENUM ('ok', 'it''s \\ \" odd'); CREATE TYPE pair AS (x int, m mood);
         CREATE TYPE moods AS RANGE (subtype = mood); CREATE DOMAIN few AS mood[];
         CREATE TABLE t ({BUILT_IN}, acl aclitem, e mood, es mood[], pr pair, mo moods, fe few, c1 regclass, c2 regtype[],
                         PRIMARY KEY (id, k, e))"
    );
    let Some(world) = World::new(&sql).await else { return };
    let odd = "'it''s \\ \" odd'";
    let rest = format!(
        "'postgres=r/postgres', {odd}, ARRAY[{odd}, NULL]::mood[], ROW(1, {odd})::pair, moods('ok', {odd}), ARRAY['ok']::mood[], 't', '{{int,mood}}'"
    );
    let nulls = "NULL, 'ok', NULL, ROW(NULL, NULL)::pair, 'empty', '{}', 't', '{}'";
    let values = VALUES.trim().trim_end_matches(')').replacen("\"}'),", &format!("\"}}', {rest}),"), 1);
    // Types are looked up where the session of the test looks.
    let table = three_ways(&world, &all(), &format!("INSERT INTO t VALUES {values}, {nulls})")).await;
    assert!(table.columns.iter().all(|column| column.carriage == syncline_core::Carriage::NativeText));
}

#[tokio::test]
async fn keys_of_every_kind_find_their_rows() {
    let Some(world) = World::new(
        "CREATE EXTENSION IF NOT EXISTS plpgsql; CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN code AS varchar(5);
         CREATE TABLE k_enum (k mood PRIMARY KEY, x int); INSERT INTO k_enum VALUES ('ok', 1);
         CREATE TABLE k_domain (k code PRIMARY KEY, x int); INSERT INTO k_domain VALUES ('ab', 1);
         CREATE TABLE k_char (k char(5) PRIMARY KEY, x int); INSERT INTO k_char VALUES ('ab', 1);
         CREATE TABLE k_numeric (k numeric PRIMARY KEY, x int); INSERT INTO k_numeric VALUES (1.00, 1);
         CREATE TABLE k_range (k int4range PRIMARY KEY, x int); INSERT INTO k_range VALUES ('[1,5)', 1);
         CREATE TABLE k_name (k name PRIMARY KEY, x int); INSERT INTO k_name VALUES ('n', 1);
         CREATE TABLE k_array (k int[] PRIMARY KEY, x int); INSERT INTO k_array VALUES ('{1,2}', 1);
         CREATE TABLE \"odd \"\" name\" (\"a \"\" b\" timestamptz PRIMARY KEY, x int);
         INSERT INTO \"odd \"\" name\" VALUES (now(), 1);
         CREATE TABLE z_regs (c regclass PRIMARY KEY, x int); INSERT INTO z_regs VALUES ('k_enum', 1);
         CREATE TABLE parted (k int PRIMARY KEY) PARTITION BY LIST (k); CREATE TABLE part1 PARTITION OF parted DEFAULT;
         INSERT INTO parted VALUES (3)",
    )
    .await
    else {
        return;
    };
    let native = Selection { exclude: vec![TablePattern::new("z_regs").unwrap()], ..all() };
    for selection in [native, all()] {
        for table in world.tables(&selection).await {
            let chunks = plan(world.snapshots(), &table, &ledger(1), STREAMED).await;
            let (rows, _) = read(world.snapshots(), &table, &chunks[0]).await;
            let key: arrow_array::ArrayRef =
                Arc::new(arrow_array::BinaryArray::from(vec![rows[0][table.row_key[0]].as_deref()]));
            let keys = RecordBatch::try_new(table.arrow_old(), vec![key]).unwrap();
            let (found, mark) = world.snapshots().read_keys(&table, &keys).await.unwrap();
            assert_eq!(rows_of(&found), rows, "{}", table.id);
            assert!(!mark.0.is_empty());
            assert!(world.snapshots().range_of_keys(&table, &keys).unwrap().contains("rows"));
        }
    }
}
