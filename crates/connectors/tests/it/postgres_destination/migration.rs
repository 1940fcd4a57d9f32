//! A destination with the bookkeeping of an older format is brought up to the present one, and goes on.

use syncline_core::{Change, Delta, Letter, LetterId, LoadKind, PipelineName, Position, SchemaMap};

use super::world::{World, insert, open, table};

/// What format 3 added to format 2.
const BACK_TO_2: &str = "DROP TABLE syncline.letters; UPDATE syncline.format SET version = 2";
/// What format 2 added to format 1.
const BACK_TO_1: &str = "ALTER TABLE syncline.tables DROP COLUMN parts, DROP COLUMN joining; UPDATE syncline.format SET version = 1";

async fn goes_on_from(older: &[&str]) {
    let Some(world) = World::new().await else { return };
    let t = table(("public", "t"), &[("id", "integer"), ("v", "text")], 1);
    let mut held = world.held("p").await;
    held.ready(&t).await;
    held.load(&t, &[vec![insert(&["1", "a"])]]).await.unwrap();
    let before = held.session.checkpoint().await.unwrap();
    held.session.close().await;
    drop(held);
    for sql in older {
        world.sql(sql).await;
    }
    let name = PipelineName::new("p").unwrap();
    let destination = syncline_connectors::registry::destination(&world.url).unwrap();
    assert!(destination.letters(&name).await.unwrap().is_empty(), "before anybody opens it");

    let session = open(&world.url, "p", &SchemaMap::default()).await.unwrap();
    assert_eq!(session.checkpoint().await.unwrap(), before);
    assert_eq!(world.rows("SELECT version FROM syncline.format").await, ["(3)"]);
    let letter = Letter {
        table: t.id.clone(),
        keys: Vec::new(),
        position: Position::from_u64(1),
        reason: "refused".to_owned(),
        code: None,
        attempts: 1,
        first_at_ms: 1,
        last_at_ms: 1,
        change: vec![1].into(),
    };
    let identity = syncline_core::LoadIdentity {
        pipeline: name.clone(),
        lane: syncline_core::Lane::Main,
        kind: LoadKind::Letters,
    };
    let delta = Delta::of(vec![Change::PutLetter { id: LetterId(1), letter: letter.clone() }]);
    session.begin(&identity).await.unwrap().commit(&delta).await.unwrap();
    assert_eq!(session.checkpoint().await.unwrap().letters[&LetterId(1)], letter);
    session.close().await;
    // Once more, from the present format; and nothing is left of it when it is dropped.
    open(&world.url, "p", &SchemaMap::default()).await.unwrap().close().await;
    destination.drop_pipeline(&name).await.unwrap();
    assert!(world.rows("SELECT nspname FROM pg_namespace WHERE nspname = 'syncline'").await.is_empty());
}

#[tokio::test]
async fn from_format_1() {
    goes_on_from(&[BACK_TO_2, BACK_TO_1]).await;
}

#[tokio::test]
async fn from_format_2() {
    goes_on_from(&[BACK_TO_2]).await;
}

#[tokio::test]
async fn a_newer_format_is_refused_and_left_alone() {
    let Some(world) = World::new().await else { return };
    open(&world.url, "p", &SchemaMap::default()).await.unwrap().close().await;
    world.sql("UPDATE syncline.format SET version = 4").await;
    let error = open(&world.url, "p", &SchemaMap::default()).await.err().unwrap();
    assert!(error.to_string().contains("format 4"), "{error}");
    assert_eq!(world.rows("SELECT version FROM syncline.format").await, ["(4)"]);
}
