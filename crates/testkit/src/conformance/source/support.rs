//! What the cases of a source share: a pipeline over a fixture, and reading chunks and streams to an end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use syncline_core::{
    ChangeStream, Chunk, ChunkEntry, ChunkPart, ChunkPlan, ChunkRead, Entry, Error, ErrorKind, Moment,
    Origin, PipelineName, Position, ReadMark, Selection, SnapshotOptions, Snapshots, Source, StreamEvent,
    StreamRequest, Streams, TablePattern, TablePhase, TableSchema, TableState,
};

use crate::conformance::tables::{Row, Standard};
use crate::conformance::{PATIENCE, patiently};

use super::{SourceFixture, SourceHarness};

/// Snapshot options of a pipeline that streams.
pub(crate) fn streamed(resumable: bool) -> SnapshotOptions {
    SnapshotOptions { resumable, moment: Moment::OfTable, readers: 2 }
}

/// A pipeline's source over a fixture, as one process has it.
pub(crate) struct Pipeline {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) request: StreamRequest,
}

impl Pipeline {
    /// A pipeline over these tables.
    pub(crate) async fn new(
        harness: &dyn SourceHarness,
        fixture: &dyn SourceFixture,
        name: &str,
        tables: &[Standard],
    ) -> Self {
        let source = fixture.source();
        let selection = select(harness, fixture, tables);
        let found = ok(patiently("discover", source.discover(&selection)).await);
        assert_eq!(found.len(), tables.len(), "discover gives the selected tables");
        let request = StreamRequest {
            pipeline: ok(PipelineName::new(name)),
            tables: found.into_iter().map(Arc::new).collect(),
            capture_triggers: true,
        };
        Self { source, request }
    }

    /// The same pipeline in a process that has just started.
    pub(crate) fn restarted(&self, fixture: &dyn SourceFixture) -> Self {
        Self { source: fixture.source(), request: self.request.clone() }
    }

    pub(crate) fn snapshots(&self) -> &dyn Snapshots {
        self.source.snapshots().unwrap_or_else(|| panic!("the source has no snapshots"))
    }

    pub(crate) fn streams(&self) -> &dyn Streams {
        self.source.streams().unwrap_or_else(|| panic!("the source has no streams"))
    }

    /// The stream's origin. What a start that was given up has left half made may be in the way for a moment.
    pub(crate) async fn origin(&self) -> Origin {
        insistently("open", || self.streams().open(&self.request)).await
    }

    /// Opens the stream's origin and waits until chunks may be read.
    pub(crate) async fn open(&self) -> Origin {
        let origin = self.origin().await;
        patiently("settling", async {
            while ok(self.streams().settled(&origin).await).is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        origin
    }

    pub(crate) async fn end(&self) -> Position {
        ok(patiently("the end", self.streams().end()).await)
    }

    /// Streams from a position. The process before may not have let go of the log yet: that is worth waiting for.
    pub(crate) async fn stream(&self, from: &Position, target: Option<&Position>) -> Box<dyn ChangeStream> {
        insistently("opening the stream", || self.streams().stream(&self.request, from, target)).await
    }

    /// All entries from a position until everything committed now has come.
    pub(crate) async fn entries(&self, from: &Position) -> Vec<Entry> {
        let target = self.end().await;
        let mut stream = self.stream(from, Some(&target)).await;
        read_to(stream.as_mut(), from, &target).await
    }

    pub(crate) fn table(&self, standard: Standard) -> &Arc<TableSchema> {
        let found = self.request.tables.iter().find(|table| table.id.name == standard.name());
        found.unwrap_or_else(|| panic!("{} is not in the pipeline", standard.name()))
    }
}

/// What must succeed once whatever is in the way has gone: tried again after each retriable error, as the engine does.
async fn insistently<T, F: Future<Output = syncline_core::Result<T>>>(
    what: &str,
    attempt: impl Fn() -> F,
) -> T {
    patiently(what, async {
        loop {
            match attempt().await {
                Ok(value) => return value,
                Err(error) if error.kind() == ErrorKind::Retriable => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => panic!("{what}: {error:?}"),
            }
        }
    })
    .await
}

/// A selection of exactly these tables.
pub(crate) fn select(
    harness: &dyn SourceHarness,
    fixture: &dyn SourceFixture,
    tables: &[Standard],
) -> Selection {
    let mut selection = Selection::all(harness.carry());
    let pattern = |table: &Standard| ok(TablePattern::new(&format!("{}.{}", fixture.schema(), table.name())));
    selection.include = tables.iter().map(pattern).collect();
    selection
}

/// Every standard table that the source offers to stream.
pub(crate) fn offered(harness: &dyn SourceHarness) -> Vec<Standard> {
    let keyless = harness.offers().keyless;
    Standard::ALL.into_iter().filter(|table| keyless || table.key_columns() > 0).collect()
}

/// The next entry of a stream.
pub(crate) async fn next(stream: &mut dyn ChangeStream) -> Entry {
    entry(patiently("the next entry", stream.next()).await)
}

pub(crate) fn entry(event: syncline_core::Result<StreamEvent>) -> Entry {
    match ok(event) {
        StreamEvent::Entry(entry) => entry,
        StreamEvent::TableStopped { table, error } => panic!("table {table} stopped: {error:?}"),
    }
}

/// Reads a stream until it has passed `target`, and checks that its ranges are a chain.
pub(crate) async fn read_to(stream: &mut dyn ChangeStream, from: &Position, target: &Position) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut at = from.clone();
    let deadline = tokio::time::Instant::now() + 2 * PATIENCE;
    while at < *target {
        assert!(tokio::time::Instant::now() < deadline, "the stream does not reach its target");
        let entry = next(stream).await;
        check_link(&at, &entry);
        at = entry.to.clone();
        entries.push(entry);
    }
    entries
}

/// Checks that an entry follows a position and is well made.
pub(crate) fn check_link(at: &Position, entry: &Entry) {
    assert_eq!(entry.from, *at, "a range begins where the one before ended");
    assert!(entry.to >= entry.from, "a range does not end before it begins");
    assert!(entry.to > entry.from || !entry.batches.is_empty(), "an entry that says nothing");
    let mut shapes = BTreeSet::new();
    for batch in &entry.batches {
        ok(batch.clone().check());
        let shape = (batch.table.id.clone(), batch.table.version);
        assert!(shapes.insert(shape), "at most one batch per table and shape");
        assert!(batch.ordinals.is_sorted_by(|a, b| a < b), "ordinals ascend");
        assert!(batch.transactions.is_sorted(), "changes are in commit order");
        let listed = batch.transactions.iter().all(|&number| (number as usize) < entry.transactions.len());
        assert!(listed, "every change is of a listed transaction");
        assert_eq!(batch.rows.schema(), batch.table.arrow(), "rows have the table's Arrow schema");
    }
}

/// A chunk as it was read.
pub(crate) struct ReadChunk {
    pub(crate) mark: ReadMark,
    pub(crate) rows: Vec<RecordBatch>,
}

/// Begins to read a chunk, does `between`, and reads it to its end.
pub(crate) async fn read_chunk(
    fixture: &dyn SourceFixture,
    snapshots: &dyn Snapshots,
    table: &Arc<TableSchema>,
    chunk: &Chunk,
    between: impl Future<Output = ()>,
) -> ReadChunk {
    let mut reader = match ok(patiently("reading a chunk", snapshots.read(table, chunk)).await) {
        ChunkRead::Reading(reader) => reader,
        ChunkRead::StartOver(why) => panic!("nothing was rewritten, and yet: {why}"),
    };
    let mark = reader.mark().clone();
    between.await;
    let mut rows = Vec::new();
    let mut bulk: Option<(&'static str, Vec<u8>)> = None;
    while let Some(part) = ok(patiently("the rest of a chunk", reader.next()).await) {
        match part {
            ChunkPart::Rows(batch) => rows.push(batch),
            ChunkPart::Bulk(piece) => {
                let (form, stream) = bulk.get_or_insert((piece.form, Vec::new()));
                assert_eq!(*form, piece.form, "pieces of one stream have one form");
                stream.extend_from_slice(&piece.bytes);
            }
        }
    }
    if let Some((form, stream)) = bulk {
        assert!(rows.is_empty(), "a chunk comes in one form");
        rows.push(fixture.unbulk(table, form, &stream));
    }
    assert_eq!(*reader.mark(), mark, "a chunk's mark is fixed before its first row");
    ReadChunk { mark, rows }
}

/// The chunks that remain.
pub(crate) async fn plan(
    snapshots: &dyn Snapshots,
    table: &Arc<TableSchema>,
    state: &TableState,
    options: SnapshotOptions,
) -> Vec<Chunk> {
    match ok(patiently("planning", snapshots.plan(table, state, options)).await) {
        ChunkPlan::Chunks(chunks) => chunks,
        ChunkPlan::StartOver(why) => panic!("nothing was lost, and yet: {why}"),
    }
}

/// A ledger without chunks.
pub(crate) fn fresh_ledger() -> TableState {
    TableState {
        phase: TablePhase::Snapshot,
        generation: 1,
        chunks: BTreeMap::new(),
        rereads: BTreeSet::new(),
        parts: syncline_core::Parts::default(),
    }
}

/// Enters a chunk as a destination would.
pub(crate) fn enter(state: &mut TableState, chunk: &Chunk, read: &ReadChunk) {
    let rows = read.rows.iter().map(|batch| batch.num_rows() as u64).sum();
    let entry = ChunkEntry { range: chunk.range.clone(), mark: read.mark.0.clone(), rows };
    assert!(state.chunks.insert(chunk.n, entry).is_none(), "chunk {} comes twice", chunk.n);
}

/// The harness's own view of a table, sorted.
pub(crate) async fn truth(fixture: &dyn SourceFixture, table: Standard) -> Vec<Row> {
    let mut rows = fixture.truth(table).await;
    rows.sort();
    rows
}

/// Asserts that two sorted lists of rows are equal, and says where they are not rather than showing all.
pub(crate) fn assert_rows(what: &str, found: &[Row], expected: &[Row]) {
    let short = |rows: &[Row], others: &[Row]| {
        let row = rows.iter().find(|row| !others.contains(row));
        row.map(|row| row.iter().map(|cell| cell.as_deref().map(shorten)).collect::<Vec<_>>())
    };
    assert!(
        found == expected,
        "{what}: {} rows, expected {}; only found: {:?}; only expected: {:?}",
        found.len(),
        expected.len(),
        short(found, expected),
        short(expected, found)
    );
}

fn shorten(text: &str) -> String {
    text.chars().take(24).collect()
}

/// The value of what must succeed.
pub(crate) fn ok<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| panic!("{error:?}"))
}
