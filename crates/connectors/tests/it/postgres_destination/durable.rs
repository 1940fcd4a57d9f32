//! What a commit's answer is worth when the server dies right after it.

use std::time::Duration;

use syncline_core::{LoadKind, Position, SchemaMap, Standing};
use syncline_testkit::postgres::Postgres;

use super::world::{World, insert, open, table};

/// A server whose log writer sleeps, and a database of it: what no commit waits for is not written for a long while.
async fn sleepy_server() -> Option<(Postgres, World)> {
    let server = Postgres::builder()
        .at_least(15)
        .setting("wal_writer_delay", "10s")
        .setting("wal_writer_flush_after", "1GB")
        .setting("autovacuum", "off")
        .start()?;
    server.create_database("d").await;
    let world = World { url: server.url("d"), client: server.client("d").await };
    Some((server, world))
}

#[tokio::test]
async fn trap_21_a_commit_outlives_a_crash_where_the_database_would_not_wait_for_the_disk() {
    let Some((server, mut world)) = sleepy_server().await else { return };
    world.sql("ALTER DATABASE d SET synchronous_commit = off").await;
    world.client = server.client("d").await;
    world.sql("CREATE TABLE lost (id int)").await;
    let t = table(("public", "t"), &[("id", "integer"), ("v", "text")], 1);
    let mut held = world.held("p").await;
    held.ready(&t).await;
    held.load(&t, &[vec![insert(&["1", "a"])]]).await.unwrap();
    // No heartbeat of ours may write the log out in place of the load.
    world
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'syncline/lock/p'")
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut load = held.session.begin(&held.identity(LoadKind::Bookkeeping)).await.unwrap();
    load.write(held.part(&t, &[insert(&["2", "b"])]).await).await.unwrap();
    let delta = held.advance();
    load.commit(&delta).await.unwrap();
    // The application's own commit does not wait: it shows that the server forgets what nobody waited for.
    world.sql("INSERT INTO lost VALUES (1)").await;
    server.kill_9();
    server.restart();

    let again = World { url: server.url("d"), client: server.client("d").await };
    assert_eq!(
        again.rows("SELECT * FROM lost").await,
        [""; 0],
        "this server loses nothing, so it proves nothing"
    );
    assert_eq!(again.rows("SELECT * FROM t ORDER BY id").await, ["(1,a)", "(2,b)"]);
    let fence = held.session.fence();
    let session = open(&again.url, "p", &SchemaMap::default()).await.unwrap();
    assert!(session.fence() > fence, "the token that was given out is not given out again");
    let checkpoint = session.checkpoint().await.unwrap();
    assert!(matches!(checkpoint.standing(&delta), Standing::Stands), "{checkpoint:?}");
    assert!(checkpoint.lanes.values().all(|at| *at == Position::from_u64(3)), "{checkpoint:?}");
}

/// A standby that never comes: a commit that waits for it does not return.
#[tokio::test]
async fn waiting_for_the_own_disk_only_stays_the_operators_choice() {
    let Some((server, world)) = sleepy_server().await else { return };
    let t = table(("public", "t"), &[("id", "integer"), ("v", "text")], 1);
    let mut held = world.held("p").await;
    held.ready(&t).await;
    held.session.close().await;
    world.sql("SET synchronous_commit = local; ALTER DATABASE d SET synchronous_commit = local").await;
    world.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    world.sql("SELECT pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let loading = async {
        let session = open(&server.url("d"), "p", &SchemaMap::default()).await.unwrap();
        let mut load = session.begin(&held.identity(LoadKind::Bookkeeping)).await.unwrap();
        load.write(held.part(&t, &[insert(&["1", "a"])]).await).await.unwrap();
        load.commit(&held.advance()).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(20), loading).await.expect("the commit waits for a standby");
    assert_eq!(world.rows("SELECT * FROM t").await, ["(1,a)"]);
}
