//! Cases: reading what exists.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch};
use syncline_core::{ChunkPlan, Moment, RowKey, SnapshotOptions, TableSchema};

use crate::conformance::patiently;
use crate::conformance::replica::decode_full;
use crate::conformance::report::Outcome;
use crate::conformance::tables::{Row, Standard, Write, cells};
use crate::conformance::workload::Workload;

use super::support::{
    Pipeline, assert_rows, enter, fresh_ledger, offered, ok, plan, read_chunk, streamed, truth,
};
use super::{SourceFixture, SourceHarness};

const ROWS: u64 = 500;

/// Every row is in exactly one chunk, whichever way the table is cut, and a plan may be asked for again.
pub async fn chunks_tile_each_table(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    fill(harness, fixture.as_ref()).await;
    let ways = [
        (false, Moment::OfRun),
        (true, Moment::OfRun),
        (false, Moment::OfTable),
        (true, Moment::OfTable),
        (false, Moment::OfChunk),
    ];
    for (resumable, moment) in ways {
        let options = SnapshotOptions { resumable, moment, readers: 2 };
        let pipeline = Pipeline::new(harness, fixture.as_ref(), "tiles", &offered(harness)).await;
        if moment != Moment::OfRun {
            pipeline.open().await;
        }
        for &standard in &offered(harness) {
            let table = pipeline.table(standard);
            let rows = read_all(fixture.as_ref(), &pipeline, table, options).await;
            let expected = truth(fixture.as_ref(), standard).await;
            assert_rows(&format!("{} with {options:?}", standard.name()), &rows, &expected);
            pipeline.snapshots().finish(&table.id).await;
        }
    }
    Outcome::Passed
}

async fn read_all(
    fixture: &dyn SourceFixture,
    pipeline: &Pipeline,
    table: &Arc<TableSchema>,
    options: SnapshotOptions,
) -> Vec<Row> {
    let mut state = fresh_ledger();
    let snapshots = pipeline.snapshots();
    let mut rows = Vec::new();
    let chunks = plan(snapshots, table, &state, options).await;
    assert!(!chunks.is_empty(), "a table that is not in the ledger has a chunk");
    for chunk in &chunks {
        let read = read_chunk(fixture, snapshots, table, chunk, async {}).await;
        rows.extend(read.rows.iter().flat_map(|batch| decode_full(fixture, table, batch)));
        enter(&mut state, chunk, &read);
    }
    let rest = plan(snapshots, table, &state, options).await;
    assert!(rest.is_empty(), "chunks remain although all are loaded: {rest:?}");
    rows.sort();
    rows
}

/// With half of its chunks in the ledger a restarted process reads exactly the rest, or says that it must start over;
/// with resumable chunks it must not.
pub async fn a_snapshot_goes_on_after_its_ledger(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    fill(harness, fixture.as_ref()).await;
    for resumable in [false, true] {
        let pipeline = Pipeline::new(harness, fixture.as_ref(), "goes_on", &[Standard::Items]).await;
        pipeline.open().await;
        let table = pipeline.table(Standard::Items);
        let mut state = fresh_ledger();
        let mut rows = Vec::new();
        let chunks = plan(pipeline.snapshots(), table, &state, streamed(resumable)).await;
        for chunk in &chunks[..chunks.len() / 2] {
            let read = read_chunk(fixture.as_ref(), pipeline.snapshots(), table, chunk, async {}).await;
            rows.extend(read.rows.iter().flat_map(|batch| decode_full(fixture.as_ref(), table, batch)));
            enter(&mut state, chunk, &read);
        }
        let restarted = pipeline.restarted(fixture.as_ref());
        restarted.open().await;
        let snapshots = restarted.snapshots();
        let rest = match ok(patiently("plan", snapshots.plan(table, &state, streamed(resumable))).await) {
            ChunkPlan::Chunks(rest) => rest,
            ChunkPlan::StartOver(_) if !resumable && !state.chunks.is_empty() => continue,
            ChunkPlan::StartOver(why) => panic!("a resumable snapshot started over: {why}"),
        };
        for chunk in &rest {
            let read = read_chunk(fixture.as_ref(), snapshots, table, chunk, async {}).await;
            rows.extend(read.rows.iter().flat_map(|batch| decode_full(fixture.as_ref(), table, batch)));
            enter(&mut state, chunk, &read);
        }
        rows.sort();
        assert_rows("both halves", &rows, &truth(fixture.as_ref(), Standard::Items).await);
    }
    Outcome::Passed
}

/// An empty table has a chunk: its mark is what the stream is cut by.
pub async fn an_empty_table_is_cut_too(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "empty", &offered(harness)).await;
    pipeline.open().await;
    for &standard in &offered(harness) {
        for resumable in [false, true] {
            let table = pipeline.table(standard);
            let rows = read_all(fixture.as_ref(), &pipeline, table, streamed(resumable)).await;
            assert!(rows.is_empty());
            pipeline.snapshots().finish(&table.id).await;
        }
    }
    Outcome::Passed
}

/// One row comes as the same bytes out of a chunk, the stream, and a read by key; and they mean what was written.
pub async fn values_are_the_same_in_every_form(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "values", &[Standard::Items]).await;
    let origin = pipeline.open().await;
    fixture.write(&odd_rows()).await;
    let table = pipeline.table(Standard::Items);

    let entries = pipeline.entries(&origin.confirmed).await;
    let streamed_rows: Vec<RecordBatch> =
        entries.iter().flat_map(|entry| entry.batches.iter().map(|batch| batch.rows.clone())).collect();
    let chunks = plan(pipeline.snapshots(), table, &fresh_ledger(), streamed(false)).await;
    let mut chunk_rows = Vec::new();
    for chunk in &chunks {
        chunk_rows
            .extend(read_chunk(fixture.as_ref(), pipeline.snapshots(), table, chunk, async {}).await.rows);
    }
    pipeline.snapshots().finish(&table.id).await;
    let streamed_rows = by_key(table, &streamed_rows);
    let chunk_rows = by_key(table, &chunk_rows);
    let keys: Vec<RowKey> = streamed_rows.iter().map(|(key, _)| key.clone()).collect();
    let keys = ok(RowKey::to_batch(&keys, table));
    let (read, _) = ok(patiently("reading keys", pipeline.snapshots().read_keys(table, &keys)).await);
    let read_rows = by_key(table, std::slice::from_ref(&read));

    assert_eq!(streamed_rows.len(), odd_rows().len(), "every row came through the stream");
    assert!(streamed_rows == chunk_rows, "stream and snapshot give other bytes");
    assert!(streamed_rows == read_rows, "stream and read by key give other bytes");
    let mut decoded = decode_full(fixture.as_ref(), table, &read);
    decoded.sort();
    let mut written: Vec<Row> = odd_rows()
        .into_iter()
        .filter_map(|write| match write {
            Write::Insert(_, row) => Some(row),
            _ => None,
        })
        .collect();
    written.sort();
    assert_rows("what was written", &decoded, &written);
    assert_rows("the database's own view", &truth(fixture.as_ref(), Standard::Items).await, &written);
    Outcome::Passed
}

/// A key that nobody has gives no row and no error.
pub async fn keys_without_a_row_are_left_out(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "left_out", &[Standard::Pairs]).await;
    pipeline.open().await;
    let table = pipeline.table(Standard::Pairs);
    let row = |a: &str, b: &str| Write::Insert(Standard::Pairs, cells(&[a, b, "1"]));
    fixture.write(&[row("1", "x"), row("1", "y"), row("2", "x")]).await;
    let chunks = plan(pipeline.snapshots(), table, &fresh_ledger(), streamed(false)).await;
    let mut rows = Vec::new();
    for chunk in &chunks {
        rows.extend(read_chunk(fixture.as_ref(), pipeline.snapshots(), table, chunk, async {}).await.rows);
    }
    pipeline.snapshots().finish(&table.id).await;
    let keys: Vec<RowKey> = by_key(table, &rows).into_iter().map(|(key, _)| key).collect();
    fixture.write(&[Write::Delete(Standard::Pairs, cells(&["1", "y"]))]).await;
    let keys = ok(RowKey::to_batch(&keys, table));
    let (read, _) = ok(patiently("reading keys", pipeline.snapshots().read_keys(table, &keys)).await);
    let mut read = decode_full(fixture.as_ref(), table, &read);
    read.sort();
    assert_rows("the rows that are left", &read, &truth(fixture.as_ref(), Standard::Pairs).await);
    Outcome::Passed
}

fn odd_rows() -> Vec<Write> {
    let long = "0123456789abcdef".repeat(1000);
    let rows = [
        cells(&["0", "", "0", ""]),
        cells(&["-2147483648", "null", "-1", "∅"]),
        cells(&["2147483647", "'quoted' \"twice\" \\ and \\n", "2147483647", "tab\tand\nline"]),
        cells(&["7", "žluťoučký 漢字 🦀 e\u{301}", "∅", &long]),
        cells(&["8", " spaces before and after ", "-2147483648", "NULL"]),
    ];
    rows.into_iter().map(|row| Write::Insert(Standard::Items, row)).collect()
}

/// Rows as one-row arrays, by key.
fn by_key(table: &TableSchema, batches: &[RecordBatch]) -> Vec<(RowKey, Vec<ArrayRef>)> {
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<ArrayRef> = table.row_key.iter().map(|&c| Arc::clone(batch.column(c))).collect();
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| column.slice(row, 1)).collect();
            rows.push((ok(RowKey::of(&columns, row)), cells));
        }
    }
    rows.sort_by(|(left, _), (right, _)| left.cmp(right));
    rows
}

async fn fill(harness: &dyn SourceHarness, fixture: &dyn SourceFixture) {
    let mut workload = Workload::new(1, &offered(harness));
    for table in offered(harness) {
        fixture.write(&workload.fill(table, ROWS)).await;
    }
}
