//! Loads: all or nothing, under the fence, and never a row lost to make room for another.

use std::sync::Arc;

use syncline_core::{Change, Delta, ErrorKind, Lane, LoadKind, Moment, Part, Position, Prepare, Prepared};

use super::world::{World, bookkeeping, copy, identity, one, rows, try_copy};

/// A chunk larger than what a load gathers: it has the writer when it is dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_dropped_in_the_middle_leaves_nothing_and_frees_the_writer() {
    let world = World::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v); WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO t SELECT i, randomblob(1000) FROM n",
    );
    let session = world.open_destination().await.unwrap();
    let table = world.discover().await.remove(0);
    session.prepare(&table, None).await.unwrap();
    let source = world.source();
    let before = session.checkpoint().await.unwrap();
    for cancelled in [false, true] {
        let snapshots = source.snapshots().unwrap();
        let state = syncline_core::TableState {
            phase: syncline_core::TablePhase::Snapshot,
            generation: 1,
            chunks: std::collections::BTreeMap::new(),
            rereads: std::collections::BTreeSet::new(),
            parts: syncline_core::Parts::default(),
        };
        let options =
            syncline_core::SnapshotOptions { resumable: false, moment: Moment::OfTable, readers: 2 };
        let syncline_core::ChunkPlan::Chunks(chunks) = snapshots.plan(&table, &state, options).await.unwrap()
        else {
            panic!("started over")
        };
        let syncline_core::ChunkRead::Reading(mut reader) = snapshots.read(&table, &chunks[0]).await.unwrap()
        else {
            panic!("started over")
        };
        let kind = LoadKind::Chunk { table: table.id.clone(), generation: 1, n: 0 };
        let mut load = session.begin(&identity(kind)).await.unwrap();
        for _ in 0..12 {
            let Some(syncline_core::ChunkPart::Rows(rows)) = reader.next().await.unwrap() else {
                panic!("too few rows")
            };
            let write = load.write(Part::Rows { table: Arc::clone(&table), rows });
            if cancelled {
                let _ = tokio::time::timeout(std::time::Duration::from_micros(300), write).await;
            } else {
                write.await.unwrap();
            }
        }
        if cancelled {
            // Some write was cut short: then nothing of the load may be committed.
            let outcome = load.commit(&Delta::default()).await;
            let count = rows(&world.destination(), "t").len();
            assert!(outcome.is_err() == (count == 0), "{outcome:?} and {count} rows");
            if count > 0 {
                world.destination().execute_batch("DELETE FROM t").unwrap();
            }
        } else {
            drop(load);
        }
    }
    assert_eq!(rows(&world.destination(), "t").len(), 0);
    assert_eq!(session.checkpoint().await.unwrap(), before);
    copy(source.as_ref(), &session, &table, Moment::OfTable).await;
    world.assert_equal();
}

/// The lock is lost (somebody removed its file): two sessions think they hold the pipeline, and only the newer one writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_sessions_only_the_newer_one_writes() {
    let world = World::new("CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)");
    let older = world.open_destination().await.unwrap();
    let refused = world.open_destination().await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Configuration);
    assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
    std::fs::remove_file(world.path("destination.db.p.syncline-lock")).unwrap();
    let newer = world.open_destination().await.unwrap();
    let open = |at| Change::Open { lane: Lane::Main, at: Position::from_u64(at) };
    bookkeeping(&newer, vec![open(5)]).await;
    let table = world.discover().await.remove(0);
    let error = older.prepare(&table, Some(Prepare::Recreate)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    let load = older.begin(&identity(LoadKind::Bookkeeping)).await.unwrap();
    let error =
        load.commit(&Delta::of(vec![Change::Close { lane: Lane::Main, at: Position::from_u64(5) }])).await;
    assert_eq!(error.err().unwrap().kind(), ErrorKind::Fenced);
    assert_eq!(one::<i64>(&world.destination(), "SELECT count(*) FROM sqlite_schema WHERE name = 't'"), 0);
    older.close().await;
    assert!(
        world.path("destination.db.p.syncline-lock").exists(),
        "the newer one's lock is not the older one's"
    );
    newer.close().await;
    assert!(!world.path("destination.db.p.syncline-lock").exists(), "nothing is left");
}

/// A row of the user's at the destination has a unique value that the source gives to another: the load fails, by name,
/// and the user's row stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_in_the_way_is_not_lost() {
    let world = World::new("CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE); INSERT INTO t VALUES (1, 'a')");
    let mut running = world.start().await;
    world.destination().execute_batch("INSERT INTO t VALUES (99, 'mine')").unwrap();
    world.write("INSERT INTO t VALUES (2, 'mine')");
    let syncline_core::StreamEvent::Entry(entry) = running.next().await else { panic!("a table stopped") };
    let error = running.load(vec![entry.clone()]).await.err().unwrap();
    assert_eq!((error.kind(), error.table().unwrap().name.as_str()), (ErrorKind::Data, "t"));
    assert!(!format!("{error} {error:?}").contains("mine"), "a value in an error: {error:?}");
    assert_eq!(rows(&world.destination(), "t").len(), 2);
    world.destination().execute_batch("DELETE FROM t WHERE id = 99").unwrap();
    running.load(vec![entry]).await.unwrap();
    world.assert_equal();
}

/// What is unchanged is not written again: a row's place in the write-ahead log would show it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unchanged_rows_are_counted_and_not_written() {
    let world = World::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES (1, 1, 'x'), (2, 1.0, 'y'), (3, NULL, x'00')",
    );
    let mut running = world.start().await;
    world.destination().execute_batch(
        "CREATE TABLE seen(id); CREATE TRIGGER _syncline_spy AFTER UPDATE ON t BEGIN INSERT INTO seen VALUES (NEW.id); END",
    ).unwrap();
    world.write("UPDATE t SET a = a; UPDATE t SET a = 1.0 WHERE id = 1");
    let syncline_core::StreamEvent::Entry(entry) = running.next().await else { panic!("a table stopped") };
    let counts = running.load(vec![entry]).await.unwrap().counts;
    assert_eq!((counts.applied, counts.unchanged), (1, 2), "1 and 1.0 are not the same");
    assert_eq!(rows(&world.destination(), "seen"), ["Integer(1)"]);
}

/// A user's own table without a key is given one when rows are to be merged into it, and unique indexes come back after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_tables_get_a_key_and_their_unique_indexes_back() {
    let world = World::new(
        "CREATE TABLE t(id INTEGER NOT NULL, v TEXT, PRIMARY KEY (id, v)); INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    );
    world.destination().execute_batch(
        "CREATE TABLE t(v TEXT, id INTEGER, extra DEFAULT 7); CREATE UNIQUE INDEX mine ON t(v); INSERT INTO t VALUES ('a', 1, 0), ('z', 9, 0)",
    ).unwrap();
    let session = world.open_destination().await.unwrap();
    let table = world.discover().await.remove(0);
    let refused = session.prepare(&table, None).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Configuration);
    assert_eq!(session.prepare(&table, Some(Prepare::Keep)).await.unwrap(), Prepared::HasRows);
    let index = "SELECT count(*) FROM sqlite_schema WHERE name = 'mine'";
    assert_eq!(one::<i64>(&world.destination(), index), 0, "it waits for the end of the window");
    // A restarted process prepares again, keeps the rows and knows the index.
    assert_eq!(session.prepare(&table, Some(Prepare::Keep)).await.unwrap(), Prepared::HasRows);
    let error = try_copy(world.source().as_ref(), &session, &table, Moment::OfTable).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration, "without a mode it still has rows");
    session.prepare(&table, Some(Prepare::Truncate)).await.unwrap();
    copy(world.source().as_ref(), &session, &table, Moment::OfTable).await;
    assert_eq!(one::<i64>(&world.destination(), index), 1);
    assert_eq!(
        one::<i64>(&world.destination(), "SELECT sum(extra) FROM t"),
        14,
        "its own column has its default"
    );
    assert_eq!(rows(&world.destination(), "t").len(), 2);
}

/// Without the right to write, without a folder, with something that is no database: one clear error each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_opened_says_why() {
    let world = World::new("CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let open = async |path: std::path::PathBuf| {
        let destination =
            syncline_connectors::registry::destination(&format!("sqlite:{}", path.display())).unwrap();
        destination
            .open(&super::world::pipeline(), &super::world::holder(), &syncline_core::SchemaMap::default())
            .await
    };
    let error = open(world.path("no/such/folder/x.db")).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.remedy().is_some());
    std::fs::write(world.path("text.db"), "certainly not a database\n".repeat(100)).unwrap();
    let error = open(world.path("text.db")).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Permanent);
    let missing = syncline_connectors::registry::source("sqlite:/no/such/file.db").unwrap();
    let error =
        missing.discover(&syncline_core::Selection::all(syncline_core::Carry::Native)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let map = syncline_core::SchemaMap(vec![("main".into(), "other".into())]);
    let destination =
        syncline_connectors::registry::destination(&format!("sqlite:{}", world.path("x.db").display()))
            .unwrap();
    let error =
        destination.open(&super::world::pipeline(), &super::world::holder(), &map).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(!world.path("x.db").exists());
}

/// A destination that is the source of the next pipeline: what is loaded is captured there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_may_be_a_source() {
    let world = World::new("CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE); INSERT INTO t VALUES (1, 'a')");
    let mut running = world.start().await;
    let middle =
        syncline_connectors::registry::source(&format!("sqlite:{}", world.path("destination.db").display()))
            .unwrap();
    let tables = middle.discover(&syncline_core::Selection::all(syncline_core::Carry::Native)).await.unwrap();
    assert_eq!(tables.len(), 1, "our own tables are not the user's");
    let tables: Vec<_> = tables.into_iter().map(Arc::new).collect();
    let streams = middle.streams().unwrap();
    let origin = streams.open(&super::world::request(&tables)).await.unwrap();
    let mut stream = streams.stream(&super::world::request(&tables), &origin.confirmed, None).await.unwrap();
    world.write("INSERT INTO t VALUES (2, 'b'); REPLACE INTO t VALUES (3, 'a')");
    running.catch_up().await;
    let syncline_core::StreamEvent::Entry(entry) = stream.next().await.unwrap() else {
        panic!("a table stopped")
    };
    assert_eq!(entry.changes(), 3, "two rows written, one gone");
}
