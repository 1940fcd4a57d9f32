//! A table whose changes are no longer captured stops, alone, and stays stopped.

use syncline_core::{ErrorKind, StreamEvent};

use super::world::{Running, World, request, rows};

const TWO: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE other(id INTEGER PRIMARY KEY, v);
                   INSERT INTO t VALUES (1, 1), (2, 2); INSERT INTO other VALUES (1, 1)";

/// Does something to `t`, writes to both tables, and sees `t` stop and the other go on; also after a restart.
async fn stops_after(harm: &str) {
    let world = World::new(TWO);
    let mut running = world.start().await;
    world.write("UPDATE t SET v = 5 WHERE id = 1");
    running.catch_up().await;
    let before = rows(&world.destination(), "t");
    world.write(harm);
    world.write("INSERT INTO other VALUES (7, 7)");
    running.catch_up().await;
    let error = running.stopped.pop().unwrap_or_else(|| panic!("{harm}: the table did not stop"));
    assert_eq!((error.kind(), error.table().unwrap().name.as_str()), (ErrorKind::Data, "t"), "{harm}");
    assert!(error.remedy().unwrap().contains("syncline drop"), "{harm}");
    assert!(running.stopped.is_empty(), "{harm}: said once");
    let destination = world.destination();
    assert_eq!(rows(&destination, "t"), before, "{harm}: nothing of it comes any more");
    assert_eq!(rows(&destination, "other"), rows(&world.app, "other"), "{harm}");
    restarted_says_it_again(&world, &running, harm).await;
}

/// The next process opens with what it discovers then, where the table looks healthy again.
async fn restarted_says_it_again(world: &World, running: &Running, harm: &str) {
    let source = world.source();
    let streams = source.streams().unwrap();
    let mut tables = world.discover().await;
    tables.retain(|table| table.id.name == "t" || table.id.name == "other");
    let known = tables.iter().any(|table| table.id.name == "t");
    streams.open(&request(&tables)).await.unwrap();
    let mut stream = streams.stream(&request(&tables), &running.at, None).await.unwrap();
    world.write("INSERT INTO other VALUES (8, 8)");
    if known {
        let StreamEvent::TableStopped { table, .. } = stream.next().await.unwrap() else {
            panic!("{harm}: the hole in the log is forgotten")
        };
        assert_eq!(table.name, "t", "{harm}");
    }
    let StreamEvent::Entry(entry) = stream.next().await.unwrap() else {
        panic!("{harm}: another table stopped")
    };
    assert!(entry.batches.iter().all(|batch| batch.table.id.name == "other"), "{harm}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_recreated_stops() {
    stops_after("DROP TABLE t; CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'new')")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_swapped_by_renames_stops() {
    stops_after(
        "BEGIN; CREATE TABLE n(id INTEGER PRIMARY KEY, v); INSERT INTO n SELECT * FROM t; ALTER TABLE t RENAME TO o;
         ALTER TABLE n RENAME TO t; DROP TABLE o; COMMIT; UPDATE t SET v = 0",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_renamed_or_dropped_stops() {
    stops_after("ALTER TABLE t RENAME TO u; INSERT INTO u VALUES (9, 9)").await;
    stops_after("DROP TABLE t").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_gets_or_renames_a_column_stops() {
    stops_after("ALTER TABLE t ADD COLUMN w; UPDATE t SET w = 1").await;
    stops_after("ALTER TABLE t RENAME COLUMN v TO w").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_whose_triggers_are_dropped_stops() {
    stops_after("DROP TRIGGER _syncline_p_2_au; UPDATE t SET v = 77").await;
}

/// From the moment it is there, REPLACE could remove rows by it that no trigger names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_gets_a_unique_index_stops() {
    stops_after("CREATE UNIQUE INDEX u ON t(v)").await;
}

/// What changes the schema's version and nothing that matters stops nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_changes_of_the_schema_stop_nobody() {
    let world = World::new(TWO);
    let mut running = world.start().await;
    for step in [
        "VACUUM",
        "CREATE INDEX i ON t(v)",
        "CREATE TABLE third(x)",
        "DROP INDEX i",
        "DROP TABLE third",
        "ANALYZE",
        "CREATE TRIGGER own AFTER INSERT ON t BEGIN UPDATE other SET v = v + 1; END",
    ] {
        world.write(step);
        world.write("INSERT INTO t(v) VALUES (1)");
        running.catch_up().await;
        assert!(running.stopped.is_empty(), "{step}: {:?}", running.stopped);
    }
    world.write("DROP TABLE IF EXISTS sqlite_stat1; DROP TABLE IF EXISTS sqlite_stat4");
    for table in ["t", "other"] {
        assert_eq!(rows(&world.destination(), table), rows(&world.app, table));
    }
}

/// Nothing identifies a row by NULL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_null_in_a_key_stops_its_table() {
    let world = World::new(
        "CREATE TABLE t(k TEXT PRIMARY KEY, v); CREATE TABLE other(id INTEGER PRIMARY KEY); INSERT INTO t VALUES ('a', 1)",
    );
    let mut running = world.start().await;
    world.write("INSERT INTO t VALUES (NULL, 2); INSERT INTO other VALUES (1)");
    running.catch_up().await;
    let error = running.stopped.pop().unwrap();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("NULL in its primary key"), "{error}");
    assert_eq!(rows(&world.destination(), "other").len(), 1);
}
