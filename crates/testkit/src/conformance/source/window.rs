//! Cases: snapshot and stream together. A table is read in chunks while it is written, the stream is cut by transaction,
//! per chunk, and each row must come out exactly once: nothing applied twice, nothing missing, nothing of the past.

use std::collections::BTreeMap;

use syncline_core::{
    Chunk, ChunkEntry, Cut, CutPlan, Entry, Position, ReadMark, RowKey, TableId, TableState,
};

use crate::conformance::patiently;
use crate::conformance::replica::{Replica, decode_full};
use crate::conformance::report::Outcome;
use crate::conformance::tables::{Row, Standard};
use crate::conformance::workload::Workload;
use crate::memory::Random;

use super::support::{
    Pipeline, assert_rows, enter, fresh_ledger, next, offered, ok, plan, read_chunk, streamed, truth,
};
use super::{SourceFixture, SourceHarness, SourceOffers};

/// Rows of each table before its window: several blocks, where chunks are made of those.
const ROWS: u64 = 300;

/// In whichever way the source cuts by itself.
pub async fn each_row_comes_exactly_once(harness: &dyn SourceHarness) -> Outcome {
    for seed in 0..3 {
        exactly_once(harness, 100 + seed, false).await;
    }
    Outcome::Passed
}

/// With key ranges wherever they are possible.
pub async fn each_row_comes_exactly_once_in_resumable_chunks(harness: &dyn SourceHarness) -> Outcome {
    for seed in 0..3 {
        exactly_once(harness, 200 + seed, true).await;
    }
    Outcome::Passed
}

async fn exactly_once(harness: &dyn SourceHarness, seed: u64, resumable: bool) {
    let fixture = harness.fixture().await;
    let tables = offered(harness);
    let mut workload = Workload::new(seed, &tables);
    for &table in &tables {
        let mut rows = workload.fill(table, ROWS);
        if seed % 2 == 1 {
            // Not in the order of the key: where that decides how a table is cut, both ways are taken.
            Random::new(seed).shuffle(&mut rows);
        }
        fixture.write(&rows).await;
    }
    fixture.analyze().await;
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "window", &tables).await;
    let origin = pipeline.open().await;
    let mut window = Window::new(fixture.as_ref(), harness.offers(), pipeline, origin.confirmed);
    for &table in &tables {
        let chunks = window.load(&mut workload, table, resumable).await;
        let enough = table != Standard::Items || chunks >= harness.chunks_min();
        assert!(enough, "{chunks} chunks are too few for this case");
    }
    write(fixture.as_ref(), &mut workload, 5).await;
    window.stream_to_end().await;
    while !window.replica.rereads.is_empty() {
        write(fixture.as_ref(), &mut workload, 3).await;
        window.reread().await;
        write(fixture.as_ref(), &mut workload, 3).await;
        window.stream_to_end().await;
    }
    for &table in &tables {
        let what = format!("{} with seed {seed}", table.name());
        assert_rows(&what, &window.replica.tables.rows(table), &truth(fixture.as_ref(), table).await);
    }
}

/// The tables of a pipeline between the origin and the end of their windows.
struct Window<'a> {
    fixture: &'a dyn SourceFixture,
    pipeline: Pipeline,
    ledgers: BTreeMap<TableId, TableState>,
    replica: Replica<'a>,
    at: Position,
}

impl<'a> Window<'a> {
    fn new(fixture: &'a dyn SourceFixture, offers: SourceOffers, pipeline: Pipeline, at: Position) -> Self {
        let ledgers =
            pipeline.request.tables.iter().map(|table| (table.id.clone(), fresh_ledger())).collect();
        Self { fixture, pipeline, ledgers, replica: Replica::new(fixture, offers), at }
    }

    /// Loads a table's chunks, with writes before, inside and after each; how many there were.
    async fn load(&mut self, workload: &mut Workload, standard: Standard, resumable: bool) -> usize {
        let table = self.pipeline.table(standard).clone();
        let snapshots = self.pipeline.snapshots();
        let Some(state) = self.ledgers.get_mut(&table.id) else { return 0 };
        let chunks = plan(snapshots, &table, state, streamed(resumable)).await;
        for chunk in &chunks {
            write(self.fixture, workload, 2).await;
            let inside = write(self.fixture, workload, 2);
            let read = read_chunk(self.fixture, snapshots, &table, chunk, inside).await;
            for rows in &read.rows {
                self.replica.load(&table, rows);
            }
            enter(state, chunk, &read);
        }
        write(self.fixture, workload, 1).await;
        snapshots.finish(&table.id).await;
        chunks.len()
    }

    /// Applies everything committed now, cut by the ledgers.
    async fn stream_to_end(&mut self) {
        let target = self.pipeline.end().await;
        let mut stream = self.pipeline.stream(&self.at, Some(&target)).await;
        let cuts = self.cuts();
        while self.at < target {
            let entry = next(stream.as_mut()).await;
            super::support::check_link(&self.at, &entry);
            self.apply(&entry, &cuts);
            self.at = entry.to;
        }
    }

    fn cuts(&self) -> BTreeMap<TableId, Box<dyn CutPlan>> {
        let cut = |(id, state): (&TableId, &TableState)| {
            let table = self.pipeline.request.tables.iter().find(|table| table.id == *id);
            let table = table.unwrap_or_else(|| panic!("{id} is in the pipeline"));
            (id.clone(), ok(self.pipeline.snapshots().cut(table, state)))
        };
        self.ledgers.iter().map(cut).collect()
    }

    fn apply(&mut self, entry: &Entry, cuts: &BTreeMap<TableId, Box<dyn CutPlan>>) {
        self.replica.apply_cut(entry, &mut |batch| -> Vec<Cut> {
            ok(cuts[&batch.table.id].judge(batch, &entry.transactions))
        });
    }

    /// Reads the keys of the re-read list again, each as a chunk of one key.
    async fn reread(&mut self) {
        let rereads = std::mem::take(&mut self.replica.rereads);
        for ((standard, identity), key) in rereads {
            let (row, mark, range) = self.read_key(standard, &key).await;
            self.replica.tables.remove(standard, &identity);
            if let Some(row) = row {
                self.replica.tables.insert(standard, row);
            }
            let id = self.pipeline.table(standard).id.clone();
            let Some(state) = self.ledgers.get_mut(&id) else { continue };
            let n = state.chunks.last_key_value().map_or(0, |(n, _)| n + 1);
            state.chunks.insert(n, ChunkEntry { range, mark: mark.0, rows: 1 });
        }
    }

    async fn read_key(&self, standard: Standard, key: &RowKey) -> (Option<Row>, ReadMark, String) {
        let table = self.pipeline.table(standard);
        let snapshots = self.pipeline.snapshots();
        let keys = ok(RowKey::to_batch(std::slice::from_ref(key), table));
        let range = ok(snapshots.range_of_keys(table, &keys));
        let (rows, mark) = ok(patiently("reading a key", snapshots.read_keys(table, &keys)).await);
        (decode_full(self.fixture, table, &rows).pop(), mark, range)
    }
}

/// A chunk or a read by key sees every transaction that the stream had shown before it; a chunk read before does not see
/// what came after.
pub async fn a_chunk_sees_what_was_streamed_before(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let tables = [Standard::Items];
    let mut workload = Workload::new(31, &tables);
    fixture.write(&workload.fill(Standard::Items, 40)).await;
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "sees", &tables).await;
    let origin = pipeline.open().await;
    let table = pipeline.table(Standard::Items);
    let snapshots = pipeline.snapshots();

    let early = first_mark(fixture.as_ref(), &pipeline).await;
    write(fixture.as_ref(), &mut workload, 10).await;
    let entries = pipeline.entries(&origin.confirmed).await;
    let shown: Vec<u64> = entries.iter().flat_map(|entry| entry.transactions.iter().map(|t| t.id)).collect();
    assert!(!shown.is_empty(), "the writes came through the stream");
    let late = first_mark(fixture.as_ref(), &pipeline).await;
    assert!(ok(snapshots.saw(&late, &shown)), "a later chunk saw all of them");
    for &transaction in &shown {
        assert!(!ok(snapshots.saw(&early, &[transaction])), "an earlier chunk saw none of them");
    }
    assert!(ok(snapshots.saw(&early, &[])), "nothing is always seen");
    let keys = ok(RowKey::to_batch(&[], table));
    let (_, mark) = ok(patiently("reading no key", snapshots.read_keys(table, &keys)).await);
    assert!(ok(snapshots.saw(&mark, &shown)), "a read by key saw all of them");
    Outcome::Passed
}

async fn first_mark(fixture: &dyn SourceFixture, pipeline: &Pipeline) -> ReadMark {
    let table = pipeline.table(Standard::Items);
    let chunks: Vec<Chunk> = plan(pipeline.snapshots(), table, &fresh_ledger(), streamed(true)).await;
    let read = read_chunk(fixture, pipeline.snapshots(), table, &chunks[0], async {}).await;
    pipeline.snapshots().finish(&table.id).await;
    read.mark
}

async fn write(fixture: &dyn SourceFixture, workload: &mut Workload, transactions: usize) {
    for _ in 0..transactions {
        fixture.write(&workload.transaction()).await;
    }
}
