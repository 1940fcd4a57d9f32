//! A suite that catches nothing proves nothing: each flaw that real connectors have had must fail the case that is about
//! it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, RecordBatch};
use async_trait::async_trait;
use syncline_core::{
    Carry, ChangeBatch, ChangeStream, Checkpoint, Chunk, ChunkPlan, ChunkRead, Column, Cut, CutPlan, Delta,
    Destination, DestinationSession, Durable, Error, Family, Finding, FinishStep, Guarantee, Holder, Letter,
    LetterId, Load, LoadIdentity, Origin, Part, PipelineName, Position, Prepare, Prepared, ReadMark, Result,
    Retained, SchemaMap, Selection, SnapshotOptions, Snapshots, Source, StreamEvent, StreamRequest, Streams,
    TableId, TableSchema, TableState, Transaction, Verdict,
};
use syncline_testkit::conformance::destination::{DestinationFixture, DestinationHarness, Encode};
use syncline_testkit::conformance::source::{OpenWrite, SourceFixture, SourceHarness, SourceOffers};
use syncline_testkit::conformance::{Cell, Decode, Report, Row, Standard, Write, destination, source};
use syncline_testkit::memory::Cutting;

use crate::harness::{MemoryFixture, MemoryHarness, TargetHarness, database};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// Changes that a chunk saw are applied once more.
    CutsNothing,
    /// Changes that no chunk saw are skipped.
    CutsEverything,
    /// The last chunk of a plan is left out.
    LosesAChunk,
    /// A chunk says that it saw less than it did.
    StaleMark,
    /// `read_keys` gives no rows.
    LosesKeys,
    /// What `next` has taken is lost if it is dropped then.
    DroppedNext,
    /// From a position that is gone it silently starts where the log begins now.
    SkipsGaps,
    /// Absent columns are sent as if they were null.
    LosesMasks,
    /// An open transaction is not waited for.
    SettlesAtOnce,
    /// Nothing is dropped.
    LeavesAll,
}

struct Flawed {
    inner: Arc<dyn Source>,
    flaw: Flaw,
}

impl Flawed {
    fn snapshots(&self) -> &dyn Snapshots {
        self.inner.snapshots().expect("snapshots")
    }

    fn streams(&self) -> &dyn Streams {
        self.inner.streams().expect("streams")
    }
}

#[async_trait]
impl Source for Flawed {
    fn family(&self) -> Family {
        self.inner.family()
    }
    fn address(&self) -> String {
        self.inner.address()
    }
    async fn check(&self, selection: &Selection, streamed: bool) -> Result<Vec<Finding>> {
        self.inner.check(selection, streamed).await
    }
    async fn discover(&self, selection: &Selection) -> Result<Vec<TableSchema>> {
        self.inner.discover(selection).await
    }
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }
    fn streams(&self) -> Option<&dyn Streams> {
        Some(self)
    }
}

#[async_trait]
impl Snapshots for Flawed {
    async fn plan(
        &self,
        table: &Arc<TableSchema>,
        state: &TableState,
        options: SnapshotOptions,
    ) -> Result<ChunkPlan> {
        let plan = self.snapshots().plan(table, state, options).await?;
        Ok(match plan {
            ChunkPlan::Chunks(mut chunks) if self.flaw == Flaw::LosesAChunk => {
                chunks.pop();
                ChunkPlan::Chunks(chunks)
            }
            plan => plan,
        })
    }
    async fn read(&self, table: &Arc<TableSchema>, chunk: &Chunk) -> Result<ChunkRead> {
        let read = self.snapshots().read(table, chunk).await?;
        Ok(match read {
            ChunkRead::Reading(inner) if self.flaw == Flaw::StaleMark => {
                ChunkRead::Reading(Box::new(Stale { inner, mark: ReadMark("1:1:".into()) }))
            }
            read => read,
        })
    }
    fn show(&self, column: &Column, value: &[u8]) -> String {
        self.snapshots().show(column, value)
    }
    async fn read_keys(
        &self,
        table: &Arc<TableSchema>,
        keys: &RecordBatch,
    ) -> Result<(RecordBatch, ReadMark)> {
        let (rows, mark) = self.snapshots().read_keys(table, keys).await?;
        let rows = if self.flaw == Flaw::LosesKeys { rows.slice(0, 0) } else { rows };
        Ok((rows, mark))
    }
    fn range_of_keys(&self, table: &TableSchema, keys: &RecordBatch) -> Result<String> {
        self.snapshots().range_of_keys(table, keys)
    }
    fn cut(&self, table: &Arc<TableSchema>, state: &TableState) -> Result<Box<dyn CutPlan>> {
        match self.flaw {
            Flaw::CutsNothing => Ok(Box::new(Always(Verdict::Apply))),
            Flaw::CutsEverything => Ok(Box::new(Always(Verdict::Seen))),
            _ => self.snapshots().cut(table, state),
        }
    }
    fn saw(&self, mark: &ReadMark, transactions: &[u64]) -> Result<bool> {
        self.snapshots().saw(mark, transactions)
    }
    fn reads_one_snapshot(&self, table: &TableId) -> bool {
        self.snapshots().reads_one_snapshot(table)
    }
    async fn finish(&self, table: &TableId) {
        self.snapshots().finish(table).await;
    }
}

struct Always(Verdict);

impl CutPlan for Always {
    fn judge(&self, batch: &ChangeBatch, _transactions: &[Transaction]) -> Result<Vec<Cut>> {
        Ok(vec![Cut { new: self.0, old: self.0 }; batch.len()])
    }
}

struct Stale {
    inner: Box<dyn syncline_core::ChunkReader>,
    mark: ReadMark,
}

#[async_trait]
impl syncline_core::ChunkReader for Stale {
    fn mark(&self) -> &ReadMark {
        &self.mark
    }
    async fn next(&mut self) -> Result<Option<syncline_core::ChunkPart>> {
        self.inner.next().await
    }
}

#[async_trait]
impl Streams for Flawed {
    async fn open(&self, request: &StreamRequest) -> Result<Origin> {
        self.streams().open(request).await
    }
    async fn settled(&self, origin: &Origin) -> Result<Option<String>> {
        if self.flaw == Flaw::SettlesAtOnce {
            return Ok(None);
        }
        self.streams().settled(origin).await
    }
    async fn stream(
        &self,
        request: &StreamRequest,
        from: &Position,
        target: Option<&Position>,
    ) -> Result<Box<dyn ChangeStream>> {
        let mut inner = self.streams().stream(request, from, target).await;
        if inner.is_err() && self.flaw == Flaw::SkipsGaps {
            let confirmed = self.streams().open(request).await?.confirmed;
            inner = self.streams().stream(request, &confirmed, target).await;
        }
        let inner = inner?;
        Ok(Box::new(FlawedStream { inner, flaw: self.flaw }))
    }
    async fn end(&self) -> Result<Position> {
        self.streams().end().await
    }
    fn distance(&self, from: &Position, to: &Position) -> u64 {
        self.streams().distance(from, to)
    }
    fn show(&self, position: &Position) -> String {
        self.streams().show(position)
    }
    async fn retained(&self, pipeline: &PipelineName) -> Result<Option<Retained>> {
        self.streams().retained(pipeline).await
    }
    async fn drop_pipeline(&self, pipeline: &PipelineName) -> Result<()> {
        if self.flaw == Flaw::LeavesAll { Ok(()) } else { self.streams().drop_pipeline(pipeline).await }
    }
}

struct FlawedStream {
    inner: Box<dyn ChangeStream>,
    flaw: Flaw,
}

#[async_trait]
impl ChangeStream for FlawedStream {
    async fn next(&mut self) -> Result<StreamEvent> {
        let mut event = self.inner.next().await?;
        if self.flaw == Flaw::DroppedNext {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if let (Flaw::LosesMasks, StreamEvent::Entry(entry)) = (self.flaw, &mut event) {
            entry.batches.iter_mut().for_each(|batch| batch.masks = None);
        }
        Ok(event)
    }
    fn acknowledge(&mut self, position: &Position) {
        self.inner.acknowledge(position);
    }
    fn source_end(&self) -> Option<Position> {
        self.inner.source_end()
    }
}

struct FlawedFixture {
    inner: MemoryFixture,
    flaw: Flaw,
}

impl Decode for FlawedFixture {
    fn decode(&self, column: &Column, array: &ArrayRef, row: usize) -> Cell {
        self.inner.decode(column, array, row)
    }
}

#[async_trait]
impl SourceFixture for FlawedFixture {
    fn source(&self) -> Arc<dyn Source> {
        Arc::new(Flawed { inner: self.inner.source(), flaw: self.flaw })
    }
    fn schema(&self) -> String {
        self.inner.schema()
    }
    async fn write(&self, writes: &[Write]) {
        self.inner.write(writes).await;
    }
    async fn write_open(&self, writes: &[Write]) -> Box<dyn OpenWrite> {
        self.inner.write_open(writes).await
    }
    async fn truth(&self, table: Standard) -> Vec<Row> {
        self.inner.truth(table).await
    }
    async fn leftovers(&self) -> Vec<String> {
        self.inner.leftovers().await
    }
}

struct FlawedHarness(Flaw);

#[async_trait]
impl SourceHarness for FlawedHarness {
    fn offers(&self) -> SourceOffers {
        MemoryHarness(Cutting::KeyRanges).offers()
    }
    fn carry(&self) -> Carry {
        Carry::Native
    }
    async fn fixture(&self) -> Box<dyn SourceFixture> {
        let inner = MemoryFixture { database: database(), cutting: Cutting::KeyRanges };
        Box::new(FlawedFixture { inner, flaw: self.0 })
    }
}

fn assert_caught(what: &str, report: &Report, case: &str) {
    let failed: Vec<&str> = report.failed.iter().map(|(name, _)| *name).collect();
    assert!(failed.contains(&case), "{what} is not caught by {case}, only by {failed:?}");
    assert!(!report.passed.is_empty(), "{what} fails everything, so the case says nothing");
}

/// Runs one case, named in full, over a flawed source.
async fn source_fails(flaw: Flaw, case: &str) {
    let cases = source::cases();
    let one = cases.into_iter().filter(|c| c.name == case || c.name == "discover::the_selection_is_kept");
    let report = source::run(&FlawedHarness(flaw), &one.collect::<Vec<_>>()).await;
    assert_caught(&format!("{flaw:?}"), &report, case);
}

#[tokio::test]
async fn flaws_of_a_source_are_caught() {
    source_fails(Flaw::CutsNothing, "window::each_row_comes_exactly_once").await;
    source_fails(Flaw::CutsEverything, "window::each_row_comes_exactly_once").await;
    source_fails(Flaw::StaleMark, "window::each_row_comes_exactly_once").await;
    source_fails(Flaw::StaleMark, "window::a_chunk_sees_what_was_streamed_before").await;
    source_fails(Flaw::LosesKeys, "window::each_row_comes_exactly_once").await;
    source_fails(Flaw::LosesKeys, "snapshot::values_are_the_same_in_every_form").await;
    source_fails(Flaw::LosesAChunk, "snapshot::chunks_tile_each_table").await;
    source_fails(Flaw::LosesMasks, "stream::ranges_are_a_chain_of_states").await;
    source_fails(Flaw::DroppedNext, "stream::next_may_be_dropped").await;
    source_fails(Flaw::SettlesAtOnce, "life::settled_waits_for_open_transactions").await;
    source_fails(Flaw::LeavesAll, "life::dropping_leaves_nothing").await;
    source_fails(Flaw::SkipsGaps, "stream::what_is_acknowledged_is_gone_and_nothing_else").await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Miss {
    /// Absent columns become null.
    Masks,
    /// The last part of a load.
    LastPart,
    /// Parts are applied in the wrong order.
    Order,
    /// Unchanged rows are counted as applied.
    Counts,
    /// What is remembered is not what was committed.
    Memory,
    /// Rows without an origin are written as they are.
    Rereads,
    /// `prepare` without a mode takes everything.
    Refusal,
    /// A part that is refused is said to be written.
    Offer,
}

struct Missing<T> {
    inner: T,
    miss: Miss,
}

#[async_trait]
impl Destination for Missing<Arc<dyn Destination>> {
    fn family(&self) -> Family {
        self.inner.family()
    }
    fn address(&self) -> String {
        self.inner.address()
    }
    async fn check(&self, tables: &[Arc<TableSchema>], map: &SchemaMap) -> Result<Vec<Finding>> {
        self.inner.check(tables, map).await
    }
    async fn open(
        &self,
        pipeline: &PipelineName,
        holder: &Holder,
        map: &SchemaMap,
    ) -> Result<Arc<dyn DestinationSession>> {
        let inner = self.inner.open(pipeline, holder, map).await?;
        Ok(Arc::new(Missing { inner, miss: self.miss }))
    }
    async fn owners(&self, tables: &[TableId], map: &SchemaMap) -> Result<BTreeMap<TableId, PipelineName>> {
        self.inner.owners(tables, map).await
    }
    async fn drop_pipeline(&self, pipeline: &PipelineName) -> Result<()> {
        self.inner.drop_pipeline(pipeline).await
    }
    async fn letters(&self, pipeline: &PipelineName) -> Result<BTreeMap<LetterId, Letter>> {
        self.inner.letters(pipeline).await
    }
}

#[async_trait]
impl DestinationSession for Missing<Arc<dyn DestinationSession>> {
    fn fence(&self) -> u64 {
        self.inner.fence()
    }
    fn guarantee(&self) -> Guarantee {
        self.inner.guarantee()
    }
    async fn checkpoint(&self) -> Result<Checkpoint> {
        let mut checkpoint = self.inner.checkpoint().await?;
        if self.miss == Miss::Memory {
            checkpoint.origin = None;
        }
        Ok(checkpoint)
    }
    async fn prepare(&self, table: &Arc<TableSchema>, mode: Option<Prepare>) -> Result<Prepared> {
        let mode = if self.miss == Miss::Refusal { mode.or(Some(Prepare::Truncate)) } else { mode };
        self.inner.prepare(table, mode).await
    }
    async fn begin(&self, identity: &LoadIdentity) -> Result<Box<dyn Load>> {
        let inner = self.inner.begin(identity).await?;
        Ok(Box::new(MissingLoad { inner, miss: self.miss, parts: Vec::new() }))
    }
    async fn finish(&self, table: &Arc<TableSchema>, step: FinishStep) -> Result<()> {
        self.inner.finish(table, step).await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

struct MissingLoad {
    inner: Box<dyn Load>,
    miss: Miss,
    parts: Vec<Part>,
}

#[async_trait]
impl Load for MissingLoad {
    async fn write(&mut self, mut part: Part) -> Result<()> {
        if let (Miss::Masks, Part::Changes(batch)) = (self.miss, &mut part) {
            batch.masks = None;
        }
        self.parts.push(part);
        Ok(())
    }
    async fn offer(&mut self, part: Part) -> Result<Option<Error>> {
        if self.miss == Miss::Offer {
            self.inner.write(part).await?;
            return Ok(None);
        }
        for part in self.parts.drain(..) {
            self.inner.write(part).await?;
        }
        self.inner.offer(part).await
    }
    async fn commit(mut self: Box<Self>, delta: &Delta) -> Result<Durable> {
        let mut delta = delta.clone();
        match self.miss {
            Miss::LastPart if self.parts.len() > 1 => {
                self.parts.pop();
            }
            Miss::Order => self.parts.reverse(),
            Miss::Rereads => delta.reread_missing = false,
            _ => {}
        }
        for part in self.parts.drain(..) {
            self.inner.write(part).await?;
        }
        let mut durable = self.inner.commit(&delta).await?;
        if self.miss == Miss::Counts {
            durable.counts.applied += std::mem::take(&mut durable.counts.unchanged);
        }
        Ok(durable)
    }
}

struct MissingFixture(Box<dyn DestinationFixture>, Miss);

impl Encode for MissingFixture {
    fn encode(&self, column: &Column, cells: &[Cell]) -> ArrayRef {
        self.0.encode(column, cells)
    }
}

#[async_trait]
impl DestinationFixture for MissingFixture {
    fn destination(&self) -> Arc<dyn Destination> {
        Arc::new(Missing { inner: self.0.destination(), miss: self.1 })
    }
    fn table(&self, table: Standard) -> Arc<TableSchema> {
        self.0.table(table)
    }
    async fn create(&self, table: Standard, rows: &[Row]) {
        self.0.create(table, rows).await;
    }
    async fn truth(&self, table: Standard) -> Option<Vec<Row>> {
        self.0.truth(table).await
    }
    async fn written(&self, table: Standard) -> Option<Vec<(Row, String)>> {
        self.0.written(table).await
    }
    async fn leftovers(&self) -> Vec<String> {
        self.0.leftovers().await
    }
}

struct MissingHarness(Miss);

#[async_trait]
impl DestinationHarness for MissingHarness {
    async fn fixture(&self) -> Box<dyn DestinationFixture> {
        Box::new(MissingFixture(TargetHarness.fixture().await, self.0))
    }
}

async fn destination_fails(miss: Miss, case: &str) {
    let report = destination::run_all(&MissingHarness(miss)).await;
    assert_caught(&format!("{miss:?}"), &report, case);
}

#[tokio::test]
async fn flaws_of_a_destination_are_caught() {
    destination_fails(Miss::Masks, "changes::absent_columns_come_from_the_old_key").await;
    destination_fails(Miss::LastPart, "chunk::many_parts_are_one_commit").await;
    destination_fails(Miss::Order, "changes::parts_apply_in_order").await;
    destination_fails(Miss::Counts, "changes::unchanged_rows_are_counted_and_left_alone").await;
    destination_fails(Miss::Offer, "letters::a_part_that_is_refused_leaves_the_load_as_it_was").await;
    destination_fails(Miss::Memory, "checkpoint::everything_in_a_delta_is_remembered").await;
    destination_fails(Miss::Rereads, "changes::rows_without_an_origin_are_read_again").await;
    destination_fails(Miss::Refusal, "prepare::a_table_with_rows_is_refused_untouched").await;
}
