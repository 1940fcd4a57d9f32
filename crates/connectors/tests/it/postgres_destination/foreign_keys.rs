//! Foreign keys at the destination, also under a user who may not switch them off.

use std::sync::Arc;

use serde_json::json;
use syncline_connectors::registry;
use syncline_core::{ErrorKind, Finding, FinishStep, Prepare, SchemaMap, Severity, TableSchema};

use super::world::{World, defined, delete, insert, moved, server, table, truncate, update};

/// The same database as a user with every right but the one to switch triggers off. Its name.
async fn limited(world: &mut World) -> Option<String> {
    let server = server()?;
    let database = world.rows("SELECT current_database()").await[0].trim_matches(['(', ')']).to_owned();
    let role = format!("keys_{database}");
    world
        .sql(&format!(
            "CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {database} TO {role}; CREATE SCHEMA mine AUTHORIZATION {role}"
        ))
        .await;
    world.url = server.url_as(&role, "", &database);
    Some(role)
}

/// A child that comes before its parent in the order of names, in which the engine writes a load's parts.
fn family(suffix: &str) -> (Arc<TableSchema>, Arc<TableSchema>) {
    let child = table(("mine", "a_child"), &[("id", "integer"), ("parent", "integer")], 1);
    let key = json!({"name": "child_parent", "columns": ["parent"], "referenced": {"schema": "mine", "name": "b_parent"},
        "referenced_columns": ["id"], "suffix": suffix});
    let child = defined(&child, &json!({"foreign_keys": [key]}));
    let parent = table(("mine", "b_parent"), &[("id", "integer"), ("v", "text")], 1);
    (child, defined(&parent, &json!({})))
}

async fn check(world: &World, tables: &[Arc<TableSchema>]) -> Vec<Finding> {
    let destination = registry::destination(&world.url).unwrap();
    destination.check(tables, &SchemaMap::default()).await.unwrap()
}

fn codes(findings: &[Finding], severity: Severity) -> Vec<&'static str> {
    findings.iter().filter(|finding| finding.severity == severity).map(|finding| finding.code).collect()
}

#[tokio::test]
async fn trap_10_a_child_before_its_parent_under_a_user_who_may_not_switch_foreign_keys_off() {
    let Some(mut world) = World::new().await else { return };
    let Some(role) = limited(&mut world).await else { return };
    let (child, parent) = family("");
    let findings = check(&world, &[Arc::clone(&child), Arc::clone(&parent)]).await;
    assert_eq!(codes(&findings, Severity::Error), [""; 0], "{findings:?}");
    assert_eq!(codes(&findings, Severity::Note), ["foreign_keys_deferrable"]);
    let mut held = world.held("p").await;
    held.ready(&child).await;
    held.ready(&parent).await;
    for table in [&child, &parent, &child] {
        held.session.finish(table, FinishStep::ForeignKeys).await.unwrap();
    }
    let keys = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f'";
    let expected = "(\"FOREIGN KEY (parent) REFERENCES mine.b_parent(id) DEFERRABLE\")";
    assert_eq!(world.rows(keys).await, [expected]);

    let load = async |held: &mut super::world::Held<'_>, parts: Vec<(&Arc<TableSchema>, Vec<_>)>| {
        let kind = syncline_core::LoadKind::Bookkeeping;
        let mut load = held.session.begin(&held.identity(kind)).await?;
        for (table, says) in parts {
            load.write(held.part(table, &says).await).await?;
        }
        load.commit(&syncline_core::Delta::default()).await
    };
    let family =
        "SELECT c.id, p.id, v FROM mine.a_child c FULL JOIN mine.b_parent p ON c.parent = p.id ORDER BY 1";
    load(&mut held, vec![(&child, vec![insert(&["10", "1"])]), (&parent, vec![insert(&["1", "a"])])])
        .await
        .unwrap();
    assert_eq!(world.rows(family).await, ["(10,1,a)"]);
    // The parent's key moves, which is a delete and an insert, and its child follows it, before it or behind it.
    let follow = (&child, vec![update(&["10", "2"])]);
    load(&mut held, vec![follow, (&parent, vec![moved(&["1"], &["2", "b"])])]).await.unwrap();
    let follow = (&child, vec![update(&["10", "3"])]);
    load(&mut held, vec![(&parent, vec![moved(&["2"], &["3", "c"])]), follow]).await.unwrap();
    assert_eq!(world.rows(family).await, ["(10,3,c)"]);
    // More than go as arrays: through staging tables.
    let many = |from: i32| (from..from + 600).map(move |n| [n.to_string(), n.to_string()]);
    let says = |from| many(from).map(|row| insert(&[&row[0], &row[1]])).collect::<Vec<_>>();
    load(&mut held, vec![(&child, says(1000)), (&parent, says(1000))]).await.unwrap();
    assert_eq!(world.rows("SELECT count(*) FROM mine.a_child").await, ["(601)"]);
    // A truncate comes behind rows of the same table whose checks still wait.
    let parts = vec![
        (&child, vec![insert(&["5", "5"])]),
        (&child, vec![truncate()]),
        (&parent, vec![truncate(), insert(&["7", "z"])]),
        (&child, vec![insert(&["70", "7"])]),
    ];
    load(&mut held, parts).await.unwrap();
    assert_eq!(world.rows(family).await, ["(70,7,z)"]);
    load(&mut held, vec![(&parent, vec![delete(&["7"])]), (&child, vec![delete(&["70"])])]).await.unwrap();
    assert_eq!(world.rows(family).await, [""; 0]);

    // What is wrong at the end is refused, names its table and leaves nothing.
    let before = held.session.checkpoint().await.unwrap();
    let error = held.load(&child, &[vec![insert(&["1", "99"])]]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code(), error.table()),
        (ErrorKind::Data, Some("23503"), Some(&child.id))
    );
    assert!(error.remedy().unwrap().contains("session_replication_role"), "{error:?}");
    assert!(!format!("{error:?}").contains("99"), "{error:?}");
    assert_eq!(held.session.checkpoint().await.unwrap(), before);
    assert_eq!(world.rows(family).await, [""; 0]);
    held.session.close().await;
    world.sql(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn foreign_keys_that_could_not_wait_are_found_before_anything_is_made() {
    let Some(mut world) = World::new().await else { return };
    let Some(role) = limited(&mut world).await else { return };
    for (suffix, code) in [("ON DELETE RESTRICT", "foreign_key"), ("ON UPDATE CASCADE", "cascade")] {
        let (child, parent) = family(suffix);
        let findings = check(&world, &[Arc::clone(&child), Arc::clone(&parent)]).await;
        assert_eq!(codes(&findings, Severity::Error), [code], "{findings:?}");
        let alone = check(&world, &[Arc::clone(&child)]).await;
        assert_eq!(
            codes(&alone, Severity::Error),
            [""; 0],
            "a key to a table that does not come is not made"
        );
        let held = world.held("p").await;
        held.session.prepare(&child, None).await.unwrap();
        held.session.prepare(&parent, None).await.unwrap();
        held.session.finish(&parent, FinishStep::Key).await.unwrap();
        let error = held.session.finish(&child, FinishStep::ForeignKeys).await.unwrap_err();
        assert_eq!((error.kind(), error.table()), (ErrorKind::Configuration, Some(&child.id)), "{error:?}");
        held.session.close().await;
        registry::destination(&world.url).unwrap().drop_pipeline(&held.name).await.unwrap();
        world.sql("DROP TABLE mine.a_child, mine.b_parent").await;
    }
    world
        .sql(&format!(
            "SET ROLE {role}; CREATE TABLE mine.b_parent (id int4 PRIMARY KEY, v text); \
             CREATE TABLE mine.a_child (id int4 PRIMARY KEY, parent int4 REFERENCES mine.b_parent DEFERRABLE); \
             CREATE TABLE mine.stranger (parent int4 REFERENCES mine.b_parent); RESET ROLE"
        ))
        .await;
    let (child, parent) = family("");
    let findings = check(&world, &[Arc::clone(&child), Arc::clone(&parent)]).await;
    assert_eq!(codes(&findings, Severity::Error), ["foreign_key"], "{findings:?}");
    assert_eq!(codes(&findings, Severity::Warning), ["referenced"], "{findings:?}");
    let error = findings.iter().find(|finding| finding.code == "foreign_key").unwrap();
    world.sql(error.remedy.as_ref().unwrap()).await;
    let findings = check(&world, &[child, parent]).await;
    assert_eq!(findings.len(), 0, "the statement that is offered mends it: {findings:?}");
    world.sql(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn emptying_a_table_for_its_snapshot_leaves_the_rows_that_point_to_it() {
    let Some(mut world) = World::new().await else { return };
    let Some(role) = limited(&mut world).await else { return };
    let tables = format!(
        "SET ROLE {role}; CREATE TABLE mine.b_parent (id int4 PRIMARY KEY, v text); \
         CREATE TABLE mine.a_child (id int4 PRIMARY KEY, parent int4 REFERENCES mine.b_parent ON DELETE CASCADE); \
         INSERT INTO mine.b_parent VALUES (1, 'a'); INSERT INTO mine.a_child VALUES (10, 1); RESET ROLE"
    );
    world.sql(&tables).await;
    let (_, parent) = family("");
    let held = world.held("p").await;
    let error = held.session.prepare(&parent, Some(Prepare::Truncate)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    assert!(error.remedy().unwrap().contains("GRANT SET"), "{error:?}");
    world.sql("ALTER TABLE mine.a_child DROP CONSTRAINT a_child_parent_fkey; ALTER TABLE mine.a_child ADD CONSTRAINT k FOREIGN KEY (parent) REFERENCES mine.b_parent").await;
    let error = held.session.prepare(&parent, Some(Prepare::Truncate)).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Data, Some("23503")), "{error:?}");
    assert_eq!(world.rows("SELECT * FROM mine.b_parent, mine.a_child").await, ["(1,a,10,1)"]);
    world.sql(&format!("ALTER TABLE mine.a_child DROP CONSTRAINT k; ALTER TABLE mine.a_child ADD CONSTRAINT k FOREIGN KEY (parent) REFERENCES mine.b_parent ON DELETE CASCADE; GRANT SET ON PARAMETER session_replication_role TO {role}")).await;
    held.prepare(&parent, Some(Prepare::Truncate)).await;
    assert_eq!(world.rows("SELECT * FROM mine.b_parent").await, [""; 0]);
    assert_eq!(
        world.rows("SELECT * FROM mine.a_child").await,
        ["(10,1)"],
        "its source still has it, and sends it no more"
    );
    held.session.close().await;
    world.sql(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
}
