//! The in-memory pair against the suites that real connectors pass, and what only it has: commits that are in the log
//! before they are visible, lost slots, and its strictness about the engine.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BinaryArray};
use async_trait::async_trait;
use syncline_core::{
    Carry, Change, Chunk, ChunkEntry, ChunkPlan, Column, Delta, Destination, ErrorKind, Holder, Lane,
    LoadIdentity, LoadKind, Part, PipelineName, Position, Selection, SnapshotOptions, Snapshots, Source,
    StreamRequest, Streams, TableId, TablePhase, TableSchema, TableState,
};
use syncline_testkit::conformance::destination::{DestinationFixture, DestinationHarness, Encode};
use syncline_testkit::conformance::source::{OpenWrite, SourceFixture, SourceHarness, SourceOffers};
use syncline_testkit::conformance::{Cell, Decode, Row, Standard, Write, destination, source};
use syncline_testkit::memory::{
    Cutting, Database, MemoryDestination, MemorySource, OpenTransaction, TableDefinition, text,
};

fn definition(table: Standard) -> TableDefinition {
    let columns: Vec<&str> = table.columns().iter().map(|(name, _)| *name).collect();
    let definition =
        TableDefinition::new("public", table.name(), &columns).key(&columns[..table.key_columns()]);
    match table {
        Standard::Items => definition.toast(&["big"]),
        Standard::Codes => definition.unique(&["code"]),
        Standard::Pairs | Standard::Log => definition,
    }
}

fn id(table: Standard) -> TableId {
    TableId::new("public", table.name())
}

fn to_bytes(row: &[Cell]) -> Vec<Option<Vec<u8>>> {
    row.iter().map(|cell| cell.as_ref().map(|text| text.clone().into_bytes())).collect()
}

fn to_text(row: &[Option<Vec<u8>>]) -> Row {
    row.iter()
        .map(|value| value.as_ref().map(|bytes| String::from_utf8(bytes.clone()).expect("text")))
        .collect()
}

fn database() -> Database {
    let database = Database::new();
    for table in Standard::ALL {
        let _ = database.create_table(definition(table));
    }
    database
}

struct MemoryFixture {
    database: Database,
    cutting: Cutting,
}

impl Decode for MemoryFixture {
    fn decode(&self, _column: &Column, array: &ArrayRef, row: usize) -> Cell {
        let array = array.as_binary::<i32>();
        array.is_valid(row).then(|| String::from_utf8(array.value(row).to_vec()).expect("text"))
    }
}

#[async_trait]
impl SourceFixture for MemoryFixture {
    fn source(&self) -> Arc<dyn Source> {
        let source = MemorySource::new(&self.database)
            .with_cutting(self.cutting)
            .with_rows_per_chunk(13)
            .with_rows_per_part(5)
            .with_transactions_per_entry(3)
            .with_changes_per_piece(9);
        Arc::new(source)
    }

    fn schema(&self) -> String {
        "public".to_owned()
    }

    async fn write(&self, writes: &[Write]) {
        self.database.transaction(|tx| writes.iter().try_for_each(|w| write(tx, w))).expect("a valid write");
        tokio::task::yield_now().await;
    }

    async fn write_open(&self, writes: &[Write]) -> Box<dyn OpenWrite> {
        let mut tx = self.database.begin();
        writes.iter().try_for_each(|w| write(&mut tx, w)).expect("a valid write");
        Box::new(Open(tx))
    }

    async fn truth(&self, table: Standard) -> Vec<Row> {
        self.database.rows(&id(table)).iter().map(|row| to_text(row)).collect()
    }

    async fn leftovers(&self) -> Vec<String> {
        let name = |name: &str| PipelineName::new(name).expect("a name");
        ["drops", "one", "other"]
            .iter()
            .filter(|pipeline| self.database.confirmed(&name(pipeline)).is_some())
            .map(|pipeline| (*pipeline).to_owned())
            .collect()
    }
}

fn write(tx: &mut OpenTransaction, write: &Write) -> Result<(), syncline_testkit::memory::WriteError> {
    let table = id(write.table());
    match write {
        Write::Insert(_, row) => tx.insert(&table, to_bytes(row)),
        Write::Delete(_, key) => tx.delete(&table, &to_bytes(key)),
        Write::Truncate(_) => tx.truncate(&table),
        Write::Update(_, key, set) => {
            let set: Vec<_> =
                set.iter().map(|(c, cell)| (*c, cell.as_ref().map(|t| t.clone().into_bytes()))).collect();
            tx.update(&table, &to_bytes(key), &set)
        }
    }
}

struct Open(OpenTransaction);

#[async_trait]
impl OpenWrite for Open {
    async fn commit(self: Box<Self>) {
        self.0.commit().expect("a valid transaction");
    }
}

struct MemoryHarness(Cutting);

#[async_trait]
impl SourceHarness for MemoryHarness {
    fn offers(&self) -> SourceOffers {
        SourceOffers { keyless: true, truncate: true, open_transactions: true }
    }

    fn carry(&self) -> Carry {
        Carry::Native
    }

    async fn fixture(&self) -> Box<dyn SourceFixture> {
        Box::new(MemoryFixture { database: database(), cutting: self.0 })
    }
}

struct MemoryTarget {
    destination: MemoryDestination,
    tables: Vec<Arc<TableSchema>>,
}

impl Decode for MemoryTarget {
    fn decode(&self, _column: &Column, array: &ArrayRef, row: usize) -> Cell {
        let array = array.as_binary::<i32>();
        array.is_valid(row).then(|| String::from_utf8(array.value(row).to_vec()).expect("text"))
    }
}

impl Encode for MemoryTarget {
    fn encode(&self, _column: &Column, cells: &[Cell]) -> ArrayRef {
        Arc::new(cells.iter().map(|cell| cell.as_ref().map(String::as_bytes)).collect::<BinaryArray>())
    }
}

#[async_trait]
impl DestinationFixture for MemoryTarget {
    fn destination(&self) -> Arc<dyn Destination> {
        Arc::new(self.destination.clone())
    }

    fn table(&self, table: Standard) -> Arc<TableSchema> {
        let found = self.tables.iter().find(|schema| schema.id == id(table));
        Arc::clone(found.expect("a standard table"))
    }

    async fn create(&self, table: Standard, rows: &[Row]) {
        let rows: Vec<_> = rows.iter().map(|row| to_bytes(row)).collect();
        let _ = self.destination.clone().with_table(&definition(table), &rows);
    }

    async fn truth(&self, table: Standard) -> Option<Vec<Row>> {
        let rows = self.destination.rows(&id(table))?;
        Some(rows.iter().map(|row| to_text(row)).collect())
    }

    async fn written(&self, table: Standard) -> Option<Vec<(Row, String)>> {
        let rows = self.destination.placed(&id(table))?;
        Some(rows.iter().map(|(row, place)| (table.identity(&to_text(row)), place.to_string())).collect())
    }

    async fn leftovers(&self) -> Vec<String> {
        self.destination.pipelines().iter().map(ToString::to_string).collect()
    }
}

struct TargetHarness;

#[async_trait]
impl DestinationHarness for TargetHarness {
    async fn fixture(&self) -> Box<dyn DestinationFixture> {
        let tables = MemorySource::new(&database()).discover(&Selection::all(Carry::Native)).await;
        let tables = tables.expect("tables").into_iter().map(Arc::new).collect();
        Box::new(MemoryTarget { destination: MemoryDestination::new(), tables })
    }
}

#[tokio::test]
async fn the_source_conforms_with_key_ranges() {
    source::run_all(&MemoryHarness(Cutting::KeyRanges)).await.assert_passed(&[]);
}

#[tokio::test]
async fn the_source_conforms_with_one_snapshot() {
    source::run_all(&MemoryHarness(Cutting::OneSnapshot)).await.assert_passed(&[]);
}

#[tokio::test]
async fn the_destination_conforms() {
    destination::run_all(&TargetHarness).await.assert_passed(&[]);
}

fn pipeline() -> PipelineName {
    PipelineName::new("shop").expect("a name")
}

async fn request(source: &MemorySource, table: Standard) -> StreamRequest {
    let tables = source.discover(&Selection::all(Carry::Native)).await.expect("tables");
    let tables = tables.into_iter().filter(|found| found.id == id(table)).map(Arc::new).collect();
    StreamRequest { pipeline: pipeline(), tables, capture_triggers: false }
}

fn insert(database: &Database, key: &str) {
    let row = vec![text(key), text("name"), None, None];
    database.transaction(|tx| tx.insert(&id(Standard::Items), row)).expect("a valid write");
}

/// TRAPS 5a: a commit may be in the log before a slot's consistent point and still be invisible to a snapshot.
#[tokio::test]
async fn a_commit_may_be_in_the_log_before_it_is_visible() {
    let database = database();
    let source = MemorySource::new(&database);
    database.hold_commits();
    insert(&database, "1");
    let request = request(&source, Standard::Items).await;
    let origin = source.open(&request).await.expect("an origin");
    assert_eq!(
        origin.confirmed.as_u64(),
        Some(database.end()),
        "the commit lies before the consistent point"
    );
    assert!(database.rows(&id(Standard::Items)).is_empty(), "and a snapshot does not see it");
    assert!(source.settled(&origin).await.expect("an answer").is_some(), "so chunks have to wait");
    database.show_commits();
    assert_eq!(source.settled(&origin).await.expect("an answer"), None);
    assert_eq!(database.rows(&id(Standard::Items)).len(), 1);
}

/// TRAPS 3: a slot that was lost and made again is another one.
#[tokio::test]
async fn a_lost_slot_is_seen() {
    let database = database();
    let source = MemorySource::new(&database);
    let request = request(&source, Standard::Items).await;
    let first = source.open(&request).await.expect("an origin");
    let mut stream = source.stream(&request, &first.confirmed, None).await.expect("a stream");
    database.lose_slot(&pipeline());
    insert(&database, "1");
    assert_eq!(stream.next().await.err().map(|error| error.kind()), Some(ErrorKind::Conflict));
    drop(stream);
    let second = source.open(&request).await.expect("an origin");
    assert!(second.created && second.identity != first.identity);
    let stream = source.stream(&request, &first.confirmed, None).await;
    assert_eq!(stream.err().map(|error| error.kind()), Some(ErrorKind::Conflict), "a gap is not skipped");
}

/// TRAPS 5b: a rewritten table cannot be read on in the snapshot of its first chunks.
#[tokio::test]
async fn a_rewritten_table_starts_over() {
    let database = database();
    (0..30).for_each(|key| insert(&database, &key.to_string()));
    let source = MemorySource::new(&database).with_cutting(Cutting::OneSnapshot).with_rows_per_chunk(10);
    let request = request(&source, Standard::Items).await;
    let table = &request.tables[0];
    let options = SnapshotOptions { resumable: false, streamed: true };
    let mut state = TableState {
        phase: TablePhase::Snapshot,
        generation: 1,
        chunks: std::collections::BTreeMap::new(),
        rereads: std::collections::BTreeSet::new(),
    };
    let chunks = |plan: ChunkPlan| -> Vec<Chunk> {
        match plan {
            ChunkPlan::Chunks(chunks) => chunks,
            ChunkPlan::StartOver(why) => panic!("{why}"),
        }
    };
    let first = chunks(source.plan(table, &state, options).await.expect("a plan"));
    assert_eq!(first.len(), 3);
    assert!(source.reads_one_snapshot(&table.id));
    source.rewrite(&table.id);
    let read = source.read(table, &first[0]).await.expect("an answer");
    assert!(matches!(read, syncline_core::ChunkRead::StartOver(_)));
    state.generation = 2;
    let again = chunks(source.plan(table, &state, options).await.expect("a plan"));
    assert_eq!(again.len(), 3);
    assert!(!source.reads_one_snapshot(&table.id), "the second time in key ranges");
}

/// What the destination says of an engine that breaks the contract.
#[tokio::test]
async fn the_destination_refuses_what_the_engine_must_not_do() {
    let database = database();
    insert(&database, "1");
    let source = MemorySource::new(&database);
    let request = request(&source, Standard::Items).await;
    let table = Arc::clone(&request.tables[0]);
    let destination = MemoryDestination::new().checked_against(&database);
    let holder = Holder { host: "h".into(), boot_id: "b".into(), pid: 1, process_start: 1 };
    let session = destination.open(&pipeline(), &holder, &Default::default()).await.expect("a session");
    let identity = |kind| LoadIdentity { pipeline: pipeline(), lane: Lane::Main, kind };
    session.prepare(&table, None).await.expect("prepared");
    let load = session.begin(&identity(LoadKind::Bookkeeping)).await.expect("a load");
    let mark = Change::Mark { table: table.id.clone(), phase: TablePhase::Snapshot, generation: 1 };
    let stale = database.snapshot().to_string();
    insert(&database, "2");
    let at = Position::from_u64(database.end());
    let open = Change::Open { lane: Lane::Main, at: at.clone() };
    load.commit(&Delta::of(vec![mark, open])).await.expect("a commit");

    // A chunk that missed what its lane has applied.
    let chunk = LoadKind::Chunk { table: table.id.clone(), generation: 1, n: 0 };
    let entry = ChunkEntry { range: "keys:..*".into(), mark: stale, rows: 0 };
    let delta = Delta::of(vec![Change::Chunk { table: table.id.clone(), generation: 1, n: 0, entry }]);
    let load = session.begin(&identity(chunk.clone())).await.expect("a load");
    assert!(session.begin(&identity(chunk)).await.is_err(), "one chunk in two loads at once");
    let error = load.commit(&delta).await.expect_err("a stale chunk");
    assert_eq!(error.kind(), ErrorKind::Bug);

    // A commit inside a transaction.
    database
        .transaction(|tx| (3..9).try_for_each(|k| tx.delete(&id(Standard::Items), &[text(&k.to_string())])))
        .expect_err("no such rows");
    database
        .transaction(|tx| {
            (3..9).try_for_each(|key| {
                tx.insert(&id(Standard::Items), vec![text(&key.to_string()), text("n"), None, None])
            })
        })
        .expect("a valid write");
    let inside = Position::from_u64(at.as_u64().expect("a number") + 3);
    let kind = LoadKind::Changes { from: at.clone(), to: inside.clone() };
    let load = session.begin(&identity(kind)).await.expect("a load");
    let delta = Delta::of(vec![Change::Advance { lane: Lane::Main, from: at.clone(), to: inside }]);
    assert_eq!(load.commit(&delta).await.expect_err("half a transaction").kind(), ErrorKind::Bug);

    // A part that is not collapsed.
    let to = Position::from_u64(database.end());
    let mut stream = {
        database.lose_slot(&pipeline());
        let origin = source.open(&request).await.expect("an origin");
        source.stream(&request, &origin.confirmed, None).await.expect("a stream")
    };
    insert(&database, "20");
    database
        .transaction(|tx| tx.update(&id(Standard::Items), &[text("20")], &[(1, text("b"))]))
        .expect("a valid write");
    let syncline_core::StreamEvent::Entry(entry) = stream.next().await.expect("an entry") else {
        panic!("a stopped table")
    };
    let kind = LoadKind::Changes { from: at, to };
    let mut load = session.begin(&identity(kind)).await.expect("a load");
    let part = Part::Changes(entry.batches[0].clone());
    assert_eq!(load.write(part).await.expect_err("two changes of one key").kind(), ErrorKind::Bug);
}
