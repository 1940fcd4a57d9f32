//! One holder, and what an older one can still do: nothing.

use std::time::{Duration, Instant};

use syncline_connectors::registry;
use syncline_core::{
    Change, ChunkEntry, Delta, ErrorKind, FinishStep, Holder, Lane, LoadKind, PipelineName, Position,
    SchemaMap, Standing, TablePhase,
};

use syncline_testkit::postgres::Postgres;

use super::world::{World, holder, insert, open, table};

#[tokio::test]
async fn a_living_holder_is_named() {
    let Some(world) = World::new().await else { return };
    let held = world.held("p").await;
    let began = Instant::now();
    let error = open(&world.url, "p", &SchemaMap::default()).await.err().unwrap();
    assert!(began.elapsed() >= Duration::from_secs(9), "it is waited for: {error:?}");
    assert_eq!((error.kind(), error.kind().exit_code()), (ErrorKind::Configuration, 2));
    let me = holder();
    assert!(
        error.to_string().contains(&me.host) && error.to_string().contains(&me.pid.to_string()),
        "{error}"
    );
    held.session.close().await;
    open(&world.url, "p", &SchemaMap::default()).await.unwrap();
}

#[tokio::test]
async fn a_dead_holder_is_ended() {
    let Some(world) = World::new().await else { return };
    let name = PipelineName::new("p").unwrap();
    let destination = registry::destination(&world.url).unwrap();
    let dead =
        [Holder { process_start: 1, ..holder() }, Holder { boot_id: "an earlier boot".into(), ..holder() }];
    let mut fence = 0;
    let mut kept = Vec::new();
    for holder in dead {
        let session = destination.open(&name, &holder, &SchemaMap::default()).await.unwrap();
        assert!(session.fence() > fence);
        fence = session.fence();
        kept.push(session);
    }
    let began = Instant::now();
    let session = open(&world.url, "p", &SchemaMap::default()).await.unwrap();
    assert!(session.fence() > fence);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn trap_25_an_older_holder_changes_nothing() {
    let Some(world) = World::new().await else { return };
    let name = PipelineName::new("p").unwrap();
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("v", "text")], 1);
    held.ready(&t).await;
    held.load(&t, &[vec![insert(&["1", "a"])]]).await.unwrap();
    let part = held.part(&t, &[insert(&["2", "b"])]).await;
    let mut begun = held.session.begin(&held.identity(LoadKind::Bookkeeping)).await.unwrap();
    begun.write(part).await.unwrap();
    // What a holder loses when its host loses the network: the lock, without knowing it.
    world
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'syncline/lock/p'")
        .await;
    let newer = open(&world.url, "p", &SchemaMap::default()).await.unwrap();
    assert!(newer.fence() > held.session.fence());
    let checkpoint = newer.checkpoint().await.unwrap();

    assert!(begun.commit(&held.advance()).await.is_err());
    let error = held.load(&t, &[vec![insert(&["3", "c"])]]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(held.session.checkpoint().await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(held.session.prepare(&t, None).await.unwrap_err().kind(), ErrorKind::Fenced);
    for step in [FinishStep::Key, FinishStep::Indexes, FinishStep::ForeignKeys] {
        assert_eq!(held.session.finish(&t, step).await.unwrap_err().kind(), ErrorKind::Fenced);
    }
    assert_eq!(newer.checkpoint().await.unwrap(), checkpoint);
    assert_eq!(world.rows("SELECT * FROM t").await, ["(1,a)"]);
    drop(name);
}

#[tokio::test]
async fn trap_25_a_holder_of_a_dropped_pipeline_changes_nothing_when_it_is_made_again() {
    let Some(world) = World::new().await else { return };
    let name = PipelineName::new("p").unwrap();
    let mut old = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("v", "text")], 1);
    old.ready(&t).await;
    old.load(&t, &[vec![insert(&["1", "a"])]]).await.unwrap();
    world
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'syncline/lock/p'")
        .await;
    registry::destination(&world.url).unwrap().drop_pipeline(&name).await.unwrap();
    world.sql("TRUNCATE t").await;
    let mut new = world.held("p").await;
    assert!(new.session.fence() > old.session.fence(), "{} {}", new.session.fence(), old.session.fence());
    new.ready(&t).await;
    new.load(&t, &[vec![insert(&["2", "b"])]]).await.unwrap();
    let checkpoint = new.session.checkpoint().await.unwrap();

    // Both stand at the same place of generation 1, so but for the token all of these would fit.
    let entry = ChunkEntry { range: "r".into(), mark: "m".into(), rows: 0 };
    let chunk = Change::Chunk { table: t.id.clone(), generation: 1, n: 0, entry };
    assert!(matches!(checkpoint.standing(&Delta::of(vec![chunk.clone()])), Standing::Fits));
    let mut late = old.session.begin(&old.identity(LoadKind::Bookkeeping)).await.unwrap();
    late.write(old.rows(&t, &[&["3", "c"]]).await).await.unwrap();
    let error = late.commit(&Delta::of(vec![chunk])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error:?}");
    let error = old.load(&t, &[vec![insert(&["4", "d"])]]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error:?}");
    assert_eq!(old.session.checkpoint().await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(new.session.checkpoint().await.unwrap(), checkpoint);
    assert_eq!(world.rows("SELECT * FROM t").await, ["(2,b)"]);
}

#[tokio::test]
async fn a_delta_that_does_not_fit_takes_its_data_back() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("v", "text")], 1);
    held.ready(&t).await;
    held.load(&t, &[vec![insert(&["1", "a"])]]).await.unwrap();
    let before = held.session.checkpoint().await.unwrap();
    let entry = ChunkEntry { range: "r".into(), mark: "m".into(), rows: 0 };
    let chunk = |generation, n| Change::Chunk { table: t.id.clone(), generation, n, entry: entry.clone() };
    held.mark(vec![chunk(1, 0)]).await.unwrap();
    let place = Position::from_u64;
    let advance = |from, to| Change::Advance { lane: Lane::Main, from: place(from), to: place(to) };
    let stranger = syncline_core::TableId::new("public", "stranger");
    let misfits = [
        advance(1, 9),
        advance(9, 10),
        advance(2, 1),
        Change::Open { lane: Lane::Main, at: place(1) },
        Change::Close { lane: Lane::Main, at: place(9) },
        Change::Close { lane: Lane::Table(t.id.clone()), at: place(2) },
        chunk(1, 0),
        chunk(2, 1),
        Change::Reset { table: t.id.clone(), generation: 3 },
        Change::Reset { table: stranger.clone(), generation: 1 },
        Change::AddReread { table: stranger.clone(), keys: Vec::new() },
        Change::RemoveReread { table: stranger, keys: Vec::new() },
    ];
    let before_misfits = held.session.checkpoint().await.unwrap();
    for misfit in misfits {
        let mut load = held.session.begin(&held.identity(LoadKind::Bookkeeping)).await.unwrap();
        load.write(held.part(&t, &[insert(&["2", "b"])]).await).await.unwrap();
        let delta = Delta::of(vec![misfit.clone()]);
        let error = load.commit(&delta).await.err().unwrap_or_else(|| panic!("{misfit:?} fitted"));
        assert_eq!(error.kind(), ErrorKind::Conflict, "{misfit:?}");
        assert!(
            !matches!(before_misfits.standing(&delta), Standing::Fits),
            "the pure function agrees: {misfit:?}"
        );
    }
    assert_eq!(held.session.checkpoint().await.unwrap(), before_misfits);
    assert_eq!(before.lanes, before_misfits.lanes);
    assert_eq!(world.rows("SELECT * FROM t").await, ["(1,a)"]);
}

#[tokio::test]
async fn a_checkpoint_is_what_its_deltas_say() {
    let Some(world) = World::new().await else { return };
    let held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer")], 1);
    held.prepare(&t, None).await;
    let id = t.id.clone();
    let place = Position::from_u64;
    let entry = |rows| ChunkEntry { range: "r".into(), mark: "m".into(), rows };
    let key = |n: u8| syncline_core::RowKey(vec![1, 0, 0, 0, n].into_boxed_slice());
    let lane = Lane::Table(id.clone());
    let deltas = vec![
        vec![Change::Origin("system/1/slot".into()), Change::Open { lane: Lane::Main, at: place(5) }],
        vec![
            Change::Mark { table: id.clone(), phase: TablePhase::Snapshot, generation: 1 },
            Change::Open { lane: lane.clone(), at: place(5) },
        ],
        vec![Change::Chunk { table: id.clone(), generation: 1, n: 0, entry: entry(0) }],
        vec![
            Change::Advance { lane: Lane::Main, from: place(5), to: place(7) },
            Change::AddReread { table: id.clone(), keys: vec![key(1), key(2), key(1)] },
        ],
        vec![Change::Reset { table: id.clone(), generation: 2 }],
        vec![
            Change::Chunk { table: id.clone(), generation: 2, n: 3, entry: entry(0) },
            Change::AddReread { table: id.clone(), keys: vec![key(3), key(4)] },
        ],
        vec![Change::RemoveReread { table: id.clone(), keys: vec![key(3), key(9)] }],
        vec![Change::Mark { table: id.clone(), phase: TablePhase::Closing, generation: 2 }],
        vec![
            Change::Advance { lane: lane.clone(), from: place(5), to: place(7) },
            Change::Close { lane, at: place(7) },
            Change::Mark { table: id.clone(), phase: TablePhase::Consistent, generation: 2 },
        ],
    ];
    let mut expected = held.session.checkpoint().await.unwrap();
    assert_eq!(
        expected,
        syncline_core::Checkpoint::default(),
        "a prepared table is not in the checkpoint yet"
    );
    for changes in deltas {
        expected.apply(&Delta::of(changes.clone())).unwrap();
        held.mark(changes.clone()).await.unwrap_or_else(|error| panic!("{changes:?}: {error:?}"));
        assert_eq!(held.session.checkpoint().await.unwrap(), expected, "{changes:?}");
    }
}

#[tokio::test]
async fn a_dropped_load_is_rolled_back_and_frees_its_rows() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("v", "text")], 1);
    held.ready(&t).await;
    held.load(&t, &[vec![insert(&["1", "a"])]]).await.unwrap();
    let mut load = held.session.begin(&held.identity(LoadKind::Bookkeeping)).await.unwrap();
    let many: Vec<_> = (0..600).map(|n: i32| insert(&[&n.to_string(), "x"])).collect();
    load.write(held.part(&t, &many).await).await.unwrap();
    drop(load);
    held.session.checkpoint().await.unwrap();
    held.load(&t, &[vec![insert(&["2", "b"])]]).await.unwrap();
    assert_eq!(world.rows("SELECT * FROM t ORDER BY id").await, ["(1,a)", "(2,b)"]);
}

#[tokio::test]
async fn a_lost_connection_before_the_commit_is_retriable_and_leaves_nothing() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("v", "text")], 1);
    held.ready(&t).await;
    let mut load = held.session.begin(&held.identity(LoadKind::Bookkeeping)).await.unwrap();
    let many: Vec<_> = (0..600).map(|n: i32| insert(&[&n.to_string(), "x"])).collect();
    load.write(held.part(&t, &many).await).await.unwrap();
    world
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'syncline/load/p'")
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let delta = held.advance();
    let error = load.commit(&delta).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Retriable | ErrorKind::Unknown), "{error:?}");
    assert_eq!(held.session.checkpoint().await.unwrap().standing(&delta), Standing::Fits);
    assert_eq!(world.rows("SELECT count(*) FROM t").await, ["(0)"]);
}

#[tokio::test]
async fn forgetting_pipelines_leaves_the_tables_and_nothing_else() {
    let Some(world) = World::new().await else { return };
    let destination = registry::destination(&world.url).unwrap();
    let name = |name: &str| PipelineName::new(name).unwrap();
    destination.drop_pipeline(&name("never")).await.unwrap();
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer")], 1);
    held.ready(&t).await;
    held.load(&t, &[vec![insert(&["1"])]]).await.unwrap();
    let other = world.held("q").await;
    let error = other.session.prepare(&t, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("`p`"), "{error}");
    held.session.close().await;
    destination.drop_pipeline(&name("p")).await.unwrap();
    assert_eq!(world.rows("SELECT name FROM syncline.pipelines").await, ["(q)"]);
    assert_eq!(world.rows("SELECT count(*) FROM syncline.tables").await, ["(0)"]);
    other.session.close().await;
    destination.drop_pipeline(&name("q")).await.unwrap();
    assert_eq!(world.rows("SELECT nspname FROM pg_namespace WHERE nspname = 'syncline'").await, [""; 0]);
    assert_eq!(world.rows("SELECT * FROM t").await, ["(1)"]);
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let Some(world) = World::new().await else { return };
    world.held("p").await.session.close().await;
    world.sql("UPDATE syncline.format SET version = 99").await;
    let error = open(&world.url, "p", &SchemaMap::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("99"), "{error}");
}

/// A server of its own whose commits wait for a standby that never comes, once [`hold_commits`] was called.
async fn server_that_can_hold() -> Option<(Postgres, World)> {
    let server = Postgres::builder().at_least(15).start()?;
    server.create_database("d").await;
    let world = World { url: server.url("d"), client: server.client("d").await };
    Some((server, world))
}

async fn hold_commits(world: &World) {
    world.sql("SET synchronous_commit = off").await;
    world.sql("ALTER SYSTEM SET synchronous_commit = on").await;
    world.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    world.sql("SELECT pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
}

async fn wait_until_held(world: &World) {
    let held = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'syncline/load/p'";
    let began = Instant::now();
    while world.rows(held).await.is_empty() {
        assert!(began.elapsed() < Duration::from_secs(10), "the commit never waited");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn trap_25_a_lost_answer_is_unknown_and_the_checkpoint_tells() {
    let Some((_server, world)) = server_that_can_hold().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("v", "text")], 1);
    held.ready(&t).await;
    held.load(&t, &[vec![insert(&["1", "a"])]]).await.unwrap();
    hold_commits(&world).await;
    let mut load = held.session.begin(&held.identity(LoadKind::Bookkeeping)).await.unwrap();
    load.write(held.part(&t, &[insert(&["2", "b"])]).await).await.unwrap();
    let delta = held.advance();
    let killer = async {
        wait_until_held(&world).await;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'syncline/load/p'";
        world.sql(end).await;
    };
    let (outcome, ()) = tokio::join!(load.commit(&delta), killer);
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unknown);
    assert_eq!(held.session.checkpoint().await.unwrap().standing(&delta), Standing::Stands);
    assert_eq!(world.rows("SELECT * FROM t ORDER BY id").await, ["(1,a)", "(2,b)"]);
}

#[tokio::test]
async fn a_commit_that_nobody_waits_for_any_more_is_settled_before_the_checkpoint_is_read() {
    let Some((_server, world)) = server_that_can_hold().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("v", "text")], 1);
    held.ready(&t).await;
    hold_commits(&world).await;
    let mut load = held.session.begin(&held.identity(LoadKind::Bookkeeping)).await.unwrap();
    load.write(held.part(&t, &[insert(&["2", "b"])]).await).await.unwrap();
    let delta = held.advance();
    tokio::select! {
        _ = load.commit(&delta) => panic!("the commit is held"),
        () = wait_until_held(&world) => {}
    }
    // Committed at the server but not visible yet: read too early, the checkpoint would say that it failed.
    assert_eq!(world.rows("SELECT * FROM t").await, [""; 0]);
    assert_eq!(held.session.checkpoint().await.unwrap().standing(&delta), Standing::Stands);
    assert_eq!(world.rows("SELECT * FROM t").await, ["(2,b)"]);
}
