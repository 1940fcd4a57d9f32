//! What only the in-memory pair has: commits that are in the log before they are visible, lost slots, and strictness
//! about the engine.

use std::sync::Arc;

use syncline_core::{
    Carry, Change, Chunk, ChunkEntry, ChunkPlan, Delta, Destination, ErrorKind, Holder, Lane, LoadIdentity,
    LoadKind, Moment, Part, PipelineName, Position, Selection, SnapshotOptions, Snapshots, Source,
    StreamRequest, Streams, TablePhase, TableState,
};
use syncline_testkit::conformance::Standard;
use syncline_testkit::memory::{Cutting, Database, MemoryDestination, MemorySource, text};

use crate::harness::{database, id};

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
    let options = SnapshotOptions { resumable: false, moment: Moment::OfTable, readers: 2 };
    let mut state = TableState {
        phase: TablePhase::Snapshot,
        generation: 1,
        chunks: std::collections::BTreeMap::new(),
        rereads: std::collections::BTreeSet::new(),
        parts: syncline_core::Parts::default(),
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
