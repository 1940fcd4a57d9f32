//! Publication and slot.

use std::time::{Duration, Instant};

use syncline_core::{ErrorKind, PipelineName, Selection, TablePattern};
use syncline_testkit::postgres::Postgres;

use super::world::{World, all, only, without};

fn name(pipeline: &str) -> PipelineName {
    PipelineName::new(pipeline).unwrap()
}

#[tokio::test]
async fn trap_2c_our_publication_never_stops_a_write_of_the_application() {
    let Some(world) = World::new(
        "CREATE TABLE keyed (id int PRIMARY KEY, x int, ssn text); CREATE TABLE whole (id int, x int);
         ALTER TABLE whole REPLICA IDENTITY FULL;
         CREATE TABLE indexed (id int PRIMARY KEY, u int NOT NULL UNIQUE, x int);
         ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_u_key;
         CREATE TABLE parts (id int PRIMARY KEY, x int) PARTITION BY RANGE (id);
         CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (5); CREATE TABLE parts2 PARTITION OF parts DEFAULT;
         CREATE TABLE parent (id int PRIMARY KEY, x int); CREATE TABLE child (y int) INHERITS (parent);
         ALTER TABLE child REPLICA IDENTITY FULL; CREATE TABLE generated (id int PRIMARY KEY, x int,
             g int GENERATED ALWAYS AS (x + 1) STORED);
         CREATE TABLE \"odd \"\" name\" (\"a b\" int PRIMARY KEY, x int)",
    )
    .await
    else {
        return;
    };
    // Older publications cannot leave columns out.
    let selection = if world.server.installation().major() < 15 { all() } else { without("keyed", "ssn") };
    world.open("app", &selection).await.unwrap();
    for table in ["keyed", "whole", "indexed", "parts", "parent", "child", "generated", "\"odd \"\" name\""] {
        let key = if table.contains(' ') { "\"a b\"" } else { "id" };
        let columns = if table == "indexed" {
            "id, u, x"
        } else if table == "child" {
            "id, x, y"
        } else {
            &format!("{key}, x")
        };
        let third = if columns.matches(',').count() == 2 { ", 1" } else { "" };
        world.sql(&format!("INSERT INTO {table} ({columns}) VALUES (1, 1{third})")).await;
        world.sql(&format!("UPDATE {table} SET x = 7")).await;
        world.sql(&format!("UPDATE {table} SET {key} = 9")).await;
        world.sql(&format!("DELETE FROM {table}")).await;
    }
    // An excluded column can be written, and never reaches the log's reader.
    world.sql("INSERT INTO keyed VALUES (2, 2, 'secret'); UPDATE keyed SET ssn = 'other'").await;
}

#[tokio::test]
async fn trap_2c_what_would_stop_a_write_is_refused_before_anything_is_made() {
    let Some(world) = World::new(
        "CREATE TABLE none (id int); CREATE TABLE keyed (id int PRIMARY KEY, x int);
         CREATE TABLE whole (id int PRIMARY KEY, x int); ALTER TABLE whole REPLICA IDENTITY FULL;
         CREATE TABLE leafless (id int) PARTITION BY LIST (id); ALTER TABLE leafless REPLICA IDENTITY FULL;
         CREATE TABLE leaf PARTITION OF leafless DEFAULT",
    )
    .await
    else {
        return;
    };
    let keyed_and = |table: &str| Selection {
        include: ["keyed", table].map(|t| TablePattern::new(t).unwrap()).to_vec(),
        ..all()
    };
    let excluding =
        |table: &str, column: &str| Selection { include: only(table).include, ..without(table, column) };
    for (selection, table) in [
        (keyed_and("none"), "none"),
        (excluding("keyed", "id"), "keyed"),
        (excluding("whole", "x"), "whole"),
        (keyed_and("leafless"), "leaf"),
    ] {
        let error = world.open("app", &selection).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
        assert_eq!(error.table().unwrap().name, table);
        assert!(error.remedy().is_some());
        assert_eq!(world.leftovers().await, Vec::<String>::new());
        world
            .sql("UPDATE none SET id = 2; DELETE FROM keyed; UPDATE whole SET x = 1; DELETE FROM leafless")
            .await;
    }
}

#[tokio::test]
async fn opening_again_finds_what_was_made_and_adds_what_is_missing() {
    let Some(world) = World::new(
        "CREATE TABLE a (id int PRIMARY KEY, x int); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY)",
    )
    .await
    else {
        return;
    };
    let first = world.open("app", &only("a")).await.unwrap();
    assert!(first.created);
    assert!(first.confirmed <= world.streams().end().await.unwrap());
    let published = "SELECT tablename::text FROM pg_publication_tables ORDER BY 1";
    assert_eq!(world.texts(published).await, ["(a)"]);
    let second = world.open("app", &all()).await.unwrap();
    assert!(!second.created);
    assert_eq!((&second.identity, &second.confirmed), (&first.identity, &first.confirmed));
    assert_eq!(world.texts(published).await, ["(a)", "(b)", "(c)"]);
    if world.server.installation().major() >= 15 {
        let selection = Selection { include: only("a").include, ..without("a", "x") };
        world.open("app", &selection).await.unwrap();
        let columns = "SELECT attnames::text FROM pg_publication_tables";
        assert_eq!(world.texts(columns).await, ["({id})"]);
    }
    world
        .sql("ALTER PUBLICATION syncline_app SET (publish = 'insert', publish_via_partition_root = false)")
        .await;
    world.open("app", &all()).await.unwrap();
    let options = "SELECT pubdelete AND pubtruncate AND pubviaroot FROM pg_publication";
    assert_eq!(world.texts(options).await, ["(t)"]);
}

#[tokio::test]
async fn trap_11_a_row_filter_that_somebody_puts_on_the_publication_is_removed() {
    // Older publications cannot have row filters.
    let builder = Postgres::builder().at_least(15);
    let tables = "CREATE TABLE a (id int PRIMARY KEY, x int); CREATE TABLE b (id int PRIMARY KEY)";
    let Some(world) = World::on(builder, tables).await else { return };
    world.open("app", &without("a", "x")).await.unwrap();
    let filters = "SELECT tablename || ' ' || attnames::text || coalesce(rowfilter, '') FROM pg_publication_tables ORDER BY 1";
    let ours = ["(\"a {id}\")", "(\"b {id}\")"];
    assert_eq!(world.texts(filters).await, ours);
    world
        .sql("ALTER PUBLICATION syncline_app SET TABLE ONLY a (id) WHERE (id > 5), ONLY b WHERE (id > 5)")
        .await;
    assert_ne!(world.texts(filters).await, ours);
    let again = world.open("app", &without("a", "x")).await.unwrap();
    assert!(!again.created);
    assert_eq!(world.texts(filters).await, ours);
}

#[tokio::test]
async fn a_crash_between_publication_and_slot_is_mended() {
    let Some(world) = World::new("CREATE TABLE a (id int PRIMARY KEY)").await else { return };
    world.sql("CREATE PUBLICATION syncline_app FOR TABLE a").await;
    assert!(world.open("app", &all()).await.unwrap().created);
}

#[tokio::test]
async fn trap_3_a_slot_that_is_not_ours_or_has_lost_its_log_is_a_conflict() {
    let builder =
        Postgres::builder().setting("max_slot_wal_keep_size", "1MB").setting("max_wal_size", "32MB");
    let Some(world) = World::on(builder, "CREATE TABLE a (id int PRIMARY KEY)").await else { return };
    world.sql("SELECT pg_create_logical_replication_slot('syncline_foreign', 'test_decoding')").await;
    assert_eq!(world.open("foreign", &all()).await.unwrap_err().kind(), ErrorKind::Conflict);
    world.server.create_database("elsewhere").await;
    world
        .server
        .execute("elsewhere", "SELECT pg_create_logical_replication_slot('syncline_there', 'pgoutput')")
        .await;
    assert_eq!(world.open("there", &all()).await.unwrap_err().kind(), ErrorKind::Conflict);

    world.open("lost", &all()).await.unwrap();
    let read = world.streams().end().await.unwrap();
    world.sql("SELECT pg_drop_replication_slot('syncline_lost')").await;
    world.sql("INSERT INTO a VALUES (1)").await;
    let after = world.open("lost", &all()).await.unwrap();
    assert!(after.created, "a slot made anew says so");
    assert!(after.confirmed > read, "and stands beyond what was read, which is a gap");
    world.sql("DROP PUBLICATION syncline_lost").await;
    let error = world.open("lost", &all()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "what was written without a publication cannot be decoded");

    world.streams().drop_pipeline(&name("lost")).await.unwrap();
    world.open("lost", &all()).await.unwrap();
    for _ in 0..4 {
        world.sql("INSERT INTO a SELECT max(id) + generate_series(1, 1000) FROM a").await;
        world.sql("SELECT pg_switch_wal()").await;
    }
    world.sql("CHECKPOINT").await;
    let error = world.open("lost", &all()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("lost its log"), "{error}");
}

#[tokio::test]
async fn trap_6_making_the_slot_waits_for_running_transactions_and_then_goes_on() {
    let Some(world) = World::new("CREATE TABLE a (id int PRIMARY KEY)").await else { return };
    let other = world.server.client("shop").await;
    other.batch_execute("BEGIN; INSERT INTO a VALUES (1)").await.unwrap();
    let selection = all();
    let opening = world.open("app", &selection);
    let began = Instant::now();
    let commit = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        other.batch_execute("COMMIT").await.unwrap();
    };
    let (origin, ()) = tokio::join!(opening, commit);
    assert!(began.elapsed() >= Duration::from_millis(700));
    assert!(origin.unwrap().created);
}

#[tokio::test]
async fn trap_6_a_timeout_of_the_role_does_not_end_the_making_of_the_slot() {
    let Some(world) = World::new(
        "CREATE TABLE a (id int PRIMARY KEY); ALTER ROLE postgres SET statement_timeout = '200ms';
         ALTER ROLE postgres SET lock_timeout = '200ms'",
    )
    .await
    else {
        return;
    };
    let other = world.server.client("shop").await;
    other.batch_execute("SET statement_timeout = 0; BEGIN; INSERT INTO a VALUES (1)").await.unwrap();
    let proof = world.server.client("shop").await.batch_execute("SELECT pg_sleep(1)").await;
    assert_eq!(
        proof.unwrap_err().code().unwrap().code(),
        "57014",
        "the role's timeout ends what does not lift it"
    );
    if world.server.installation().major() >= 17 {
        world.sql("ALTER ROLE postgres SET transaction_timeout = '200ms'").await;
    }
    let request = world.request("app", &all()).await;
    let source = world.again();
    let commit = async {
        tokio::time::sleep(Duration::from_millis(900)).await;
        other.batch_execute("COMMIT").await.unwrap();
    };
    let (origin, ()) = tokio::join!(source.streams().unwrap().open(&request), commit);
    assert!(origin.unwrap().created);
}

#[tokio::test]
async fn trap_6_a_slot_that_a_cancelled_start_left_half_made_is_made_anew() {
    let Some(world) = World::new("CREATE TABLE a (id int PRIMARY KEY)").await else { return };
    let other = world.server.client("shop").await;
    other.batch_execute("BEGIN; INSERT INTO a VALUES (1)").await.unwrap();
    let selection = all();
    let cancelled = tokio::time::timeout(Duration::from_millis(500), world.open("app", &selection)).await;
    assert!(cancelled.is_err());
    let slots = "SELECT count(*)::int FROM pg_replication_slots WHERE confirmed_flush_lsn IS NULL";
    assert_eq!(world.texts(slots).await, ["(1)"], "the server goes on making it");
    let again = world.open("app", &selection);
    let commit = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        other.batch_execute("COMMIT").await.unwrap();
    };
    let (origin, ()) = tokio::join!(again, commit);
    assert!(origin.unwrap().created);
}

#[tokio::test]
async fn trap_5a_no_chunk_is_read_before_older_transactions_have_ended() {
    let builder = Postgres::builder().setting("max_prepared_transactions", "2");
    let Some(world) = World::on(builder, "CREATE TABLE a (id int PRIMARY KEY)").await else { return };
    world.open("app", &all()).await.unwrap();
    let other = world.server.client("shop").await;
    other.batch_execute("SET application_name = 'billing'; BEGIN; INSERT INTO a VALUES (1)").await.unwrap();
    let origin = world.open("app", &all()).await.unwrap();
    let who = world.streams().settled(&origin).await.unwrap().unwrap();
    assert!(who.contains("billing") && who.contains("postgres"), "{who}");
    other.batch_execute("PREPARE TRANSACTION 'half'").await.unwrap();
    let who = world.streams().settled(&origin).await.unwrap().unwrap();
    assert!(who.contains("prepared transaction 'half'"), "{who}");
    other.batch_execute("COMMIT PREPARED 'half'").await.unwrap();
    assert_eq!(world.streams().settled(&origin).await.unwrap(), None);
    // A later one is not waited for.
    other.batch_execute("BEGIN; INSERT INTO a VALUES (2)").await.unwrap();
    assert_eq!(world.streams().settled(&origin).await.unwrap(), None);
}

/// A commit that waits for a standby which never comes. The slot's making waits twice for running transactions; one that
/// begins between those it waits for and its consistent point is before that point in the log, and still invisible.
#[tokio::test]
async fn trap_5a_a_commit_that_is_in_the_log_and_not_yet_visible_is_waited_for() {
    let Some(world) = World::new("CREATE TABLE a (id int PRIMARY KEY)").await else { return };
    let moment = || tokio::time::sleep(Duration::from_millis(500));
    world.sql("ALTER DATABASE shop SET synchronous_commit = local").await;
    world.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    world.sql("SELECT pg_reload_conf()").await;
    moment().await;
    let (first, second, third) = (
        world.server.client("shop").await,
        world.server.client("shop").await,
        world.server.client("shop").await,
    );
    first.batch_execute("BEGIN; INSERT INTO a VALUES (1)").await.unwrap();
    let request = world.request("app", &all()).await;
    let source = world.again();
    let opening = tokio::spawn(async move { source.streams().unwrap().open(&request).await });
    moment().await;
    second.batch_execute("BEGIN; INSERT INTO a VALUES (2)").await.unwrap();
    first.batch_execute("ROLLBACK").await.unwrap();
    moment().await;
    third.batch_execute("SET synchronous_commit = on").await.unwrap();
    let waiting = tokio::spawn(async move { third.batch_execute("INSERT INTO a VALUES (3)").await });
    moment().await;
    assert!(!opening.is_finished(), "the slot waits for the second transaction");
    second.batch_execute("ROLLBACK").await.unwrap();
    let origin = opening.await.unwrap().unwrap();
    assert_eq!(world.texts("SELECT count(*) FROM a").await, ["(0)"]);
    let who = world.streams().settled(&origin).await.unwrap();
    assert!(who.is_some(), "a snapshot now would miss it, and the stream begins behind it");
    world.sql("ALTER SYSTEM RESET synchronous_standby_names").await;
    world.sql("SELECT pg_reload_conf()").await;
    waiting.await.unwrap().unwrap();
    assert_eq!(world.streams().settled(&origin).await.unwrap(), None);
    assert_eq!(world.texts("SELECT count(*) FROM a").await, ["(1)"]);
}

#[tokio::test]
async fn what_stays_is_measured_and_dropping_leaves_nothing() {
    let Some(world) = World::new("CREATE TABLE a (id int PRIMARY KEY)").await else { return };
    let app = name("app");
    assert_eq!(world.streams().retained(&app).await.unwrap(), None);
    world.streams().drop_pipeline(&app).await.unwrap();
    let request = world.request("app", &all()).await;
    let origin = world.streams().open(&request).await.unwrap();
    world.sql("INSERT INTO a SELECT generate_series(1, 20000)").await;
    let retained = world.streams().retained(&app).await.unwrap().unwrap();
    assert!(retained.bytes.unwrap() > 1_000_000 && retained.what.contains("syncline_app"), "{retained:?}");
    let end = world.streams().end().await.unwrap();
    assert!(world.streams().distance(&origin.confirmed, &end) > 1_000_000);
    assert!(world.streams().show(&end).contains('/'));

    let stream = world.streams().stream(&request, &origin.confirmed, None).await.unwrap();
    let active = "SELECT active::text FROM pg_replication_slots";
    for _ in 0..100 {
        if world.texts(active).await == ["(true)"] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.streams().drop_pipeline(&app).await.unwrap();
    drop(stream);
    assert_eq!(world.leftovers().await, Vec::<String>::new());
    assert_eq!(world.streams().retained(&app).await.unwrap(), None);

    world.streams().open(&request).await.unwrap();
    let by_hand = world.streams().retained(&app).await.unwrap().unwrap().drop_statement;
    for statement in by_hand.split("; ") {
        world.sql(statement).await;
    }
    assert_eq!(world.leftovers().await, Vec::<String>::new(), "the statement that is offered does it");
}

/// Trap 12: a leaf is told by how it came to be one, not by its name.
#[tokio::test]
async fn trap_12_leaves_are_known_by_how_they_came() {
    let Some(world) = World::new(
        "CREATE TABLE plain (id int PRIMARY KEY); CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
         CREATE TABLE p11 PARTITION OF p1 FOR VALUES FROM (0) TO (5); CREATE TABLE p2 PARTITION OF p DEFAULT;
         CREATE TABLE nothing (id int PRIMARY KEY) PARTITION BY LIST (id); INSERT INTO p VALUES (1)",
    )
    .await
    else {
        return;
    };
    let tables = ["plain", "p", "nothing"].map(|name| syncline_core::TableId::new("public", name));
    let p = tables[1].clone();
    let streams = world.source.streams().unwrap();
    let look = async || streams.parts(&tables).await.unwrap();
    let first = look().await;
    assert_eq!(first.keys().map(|table| table.name.as_str()).collect::<Vec<_>>(), ["nothing", "p"]);
    assert!(first[&tables[2]].is_empty());
    let names = |found: &std::collections::BTreeMap<String, String>| {
        let mut names: Vec<_> = found.values().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&first[&p]), ["public.p11", "public.p2"]);
    let filled = streams.filled(&p, &first[&p].keys().cloned().collect()).await.unwrap();
    assert_eq!(filled.iter().map(|part| first[&p][part].as_str()).collect::<Vec<_>>(), ["public.p11"]);
    for statement in
        ["ALTER TABLE p11 RENAME TO renamed", "VACUUM FULL renamed", "ALTER TABLE renamed ADD CHECK (id < 7)"]
    {
        world.sql(statement).await;
    }
    let same = look().await;
    assert_eq!(same[&p].keys().collect::<Vec<_>>(), first[&p].keys().collect::<Vec<_>>());
    assert_eq!(names(&same[&p]), ["public.p2", "public.renamed"]);
    world.sql("ALTER TABLE p DETACH PARTITION p1; ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10)").await;
    let again = look().await;
    assert_eq!(names(&again[&p]), names(&same[&p]));
    assert_eq!(again[&p].keys().filter(|part| first[&p].contains_key(*part)).count(), 1, "{again:?}");
    world.sql("ALTER TABLE p DETACH PARTITION p1").await;
    assert_eq!(names(&look().await[&p]), ["public.p2"]);
}
