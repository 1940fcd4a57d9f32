//! The PostgreSQL stream through the connector as a pipeline uses it: what was set up is what is streamed, and a value is
//! the same whichever way it comes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use syncline_connectors::registry;
use syncline_core::{
    Carriage, Carry, ChangeBatch, Operation, PipelineName, RowKey, Selection, Source, StreamEvent,
    StreamRequest, TableId, TablePattern,
};
use syncline_testkit::postgres::Postgres;
use syncline_testkit::workload::wide;

const DATABASE: &str = "shop";
/// Columns of types whose binary values hold OIDs, or are a user's own; without them the stream is binary.
const NOT_PORTABLE: [&str; 8] = [
    "a_regtype",
    "regtypes",
    "a_float_range",
    "a_float_multirange",
    "a_place",
    "places",
    "moods",
    "a_one_byte",
];
/// What all rows of the wide table get again, so that each of them is in the stream as an insert.
const AGAIN: &str = "DO $$ DECLARE columns text; BEGIN
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns FROM pg_attribute
      WHERE attrelid = 'wide.everything'::regclass AND attnum > 0 AND attgenerated = '';
    CREATE TEMP TABLE kept AS SELECT * FROM wide.everything;
    DELETE FROM wide.everything;
    EXECUTE format('INSERT INTO wide.everything (%1$s) SELECT %1$s FROM kept', columns);
  END $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_the_same_in_snapshot_and_stream_as_native_text() {
    let carriage = compare_values(Selection::all(Carry::Native), "TABLE wide.everything").await;
    assert!(carriage.is_none_or(|carriage| carriage == Carriage::NativeText));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_the_same_in_snapshot_and_stream_as_native_binary() {
    let mut selection = Selection::all(Carry::Native);
    let wide = TablePattern::new("wide.everything").unwrap();
    selection.exclude_columns = NOT_PORTABLE.map(|column| (wide.clone(), column.to_owned())).to_vec();
    let carriage = compare_values(selection, "TABLE wide.everything").await;
    assert!(carriage.is_none_or(|carriage| carriage == Carriage::Native));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_the_same_in_snapshot_and_stream_as_a_typed_one() {
    // Infinite dates and the like have no typed form.
    let carriage =
        compare_values(Selection::all(Carry::Typed), "DELETE FROM wide.everything WHERE id < 0").await;
    assert!(carriage.is_none_or(|carriage| carriage == Carriage::Typed));
}

/// Compares every value of the wide table, after `prepare`; returns how its key is carried. `None` without PostgreSQL.
async fn compare_values(selection: Selection, prepare: &str) -> Option<Carriage> {
    // Older publications cannot leave columns out.
    let major_min = if selection.exclude_columns.is_empty() { 14 } else { 15 };
    let server = Postgres::builder().at_least(major_min).start()?;
    server.create_database(DATABASE).await;
    wide::create(&server, DATABASE).await;
    wide::insert(&server, DATABASE, 1..=40).await;
    server.execute(DATABASE, prepare).await;
    let source = registry::source(&server.url(DATABASE)).unwrap();
    let request = request(source.as_ref(), &selection).await;
    let streams = source.streams().unwrap();
    let origin = streams.open(&request).await.unwrap();
    server.execute(DATABASE, AGAIN).await;
    let batches = read(source.as_ref(), &request, &origin.confirmed).await;
    let table = &request.tables[0];
    let mut compared = 0;
    for batch in &batches {
        let inserted: Vec<_> =
            (0..batch.len()).filter(|&row| batch.operations[row] == Operation::Insert).collect();
        let keys = batch.rows.project(&table.row_key).unwrap();
        let keys = keys.slice(inserted[0], inserted.len());
        let (rows, _) = source.snapshots().unwrap().read_keys(table, &keys).await.unwrap();
        let by_key: HashMap<_, _> = by_key(&rows, &table.row_key);
        for &row in &inserted {
            let streamed = batch.rows.slice(row, 1);
            let read = rows.slice(by_key[&key(&batch.rows, &table.row_key, row)], 1);
            for (index, column) in table.columns.iter().enumerate() {
                assert_eq!(streamed.column(index), read.column(index), "{} of row {row}", column.name);
            }
            compared += 1;
        }
    }
    assert!(compared >= 40, "{compared}");
    Some(table.columns[0].carriage)
}

async fn request(source: &dyn Source, selection: &Selection) -> StreamRequest {
    let tables = source.discover(selection).await.unwrap().into_iter().map(Arc::new).collect();
    StreamRequest { pipeline: PipelineName::new("shop").unwrap(), tables, capture_triggers: false }
}

/// Everything from `from` to now.
async fn read(
    source: &dyn Source,
    request: &StreamRequest,
    from: &syncline_core::Position,
) -> Vec<ChangeBatch> {
    let streams = source.streams().unwrap();
    let target = streams.end().await.unwrap();
    let mut stream = streams.stream(request, from, Some(&target)).await.unwrap();
    let mut batches = Vec::new();
    loop {
        let event =
            tokio::time::timeout(Duration::from_secs(30), stream.next()).await.expect("an event in time");
        let StreamEvent::Entry(entry) = event.unwrap() else { panic!("a table stopped") };
        stream.acknowledge(&entry.to);
        batches.extend(entry.batches);
        if entry.to >= target {
            stream.close().await;
            return batches;
        }
    }
}

fn key(rows: &RecordBatch, row_key: &[usize], row: usize) -> RowKey {
    let columns: Vec<_> = row_key.iter().map(|&column| rows.column(column).clone()).collect();
    RowKey::of(&columns, row).unwrap()
}

fn by_key(rows: &RecordBatch, row_key: &[usize]) -> HashMap<RowKey, usize> {
    (0..rows.num_rows()).map(|row| (key(rows, row_key, row), row)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_up_is_what_is_streamed_and_dropped() {
    // Older publications cannot leave columns out.
    let Some(server) = Postgres::builder().at_least(15).start() else { return };
    server.create_database(DATABASE).await;
    let tables =
        "CREATE TABLE t (k int PRIMARY KEY, secret text, v text); CREATE TABLE left_out (k int PRIMARY KEY)";
    server.execute(DATABASE, tables).await;
    let source = registry::source(&server.url(DATABASE)).unwrap();
    let mut selection = Selection::all(Carry::Native);
    selection.exclude = vec![TablePattern::new("public.left_out").unwrap()];
    selection.exclude_columns = vec![(TablePattern::new("public.t").unwrap(), "secret".to_owned())];
    let request = request(source.as_ref(), &selection).await;
    let streams = source.streams().unwrap();
    let origin = streams.open(&request).await.unwrap();
    let writes =
        "INSERT INTO t VALUES (1, 'hidden', 'a'); INSERT INTO left_out VALUES (1); UPDATE t SET secret = 'x'";
    server.execute(DATABASE, writes).await;
    let batches = read(source.as_ref(), &request, &origin.confirmed).await;
    let operations: Vec<_> = batches.iter().flat_map(|batch| batch.operations.clone()).collect();
    assert_eq!(operations, [Operation::Insert, Operation::Update]);
    assert!(
        batches
            .iter()
            .all(|batch| batch.table.id == TableId::new("public", "t") && batch.rows.num_columns() == 2)
    );
    streams.drop_pipeline(&request.pipeline).await.unwrap();
    let gone = streams.stream(&request, &origin.confirmed, None).await.err().unwrap();
    assert_eq!(gone.kind(), syncline_core::ErrorKind::Conflict);
}
