//! What `check` finds, and the statement it offers.

use syncline_core::{Finding, Severity};
use syncline_testkit::postgres::Postgres;

use super::world::{World, all, only, without};

fn codes(findings: &[Finding], severity: Severity) -> Vec<&'static str> {
    findings.iter().filter(|finding| finding.severity == severity).map(|finding| finding.code).collect()
}

fn find<'a>(findings: &'a [Finding], code: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.code == code).unwrap_or_else(|| panic!("{code} in {findings:#?}"))
}

#[tokio::test]
async fn trap_13_what_the_log_cannot_carry_is_said() {
    let Some(world) = World::new(
        "CREATE TABLE t (id serial PRIMARY KEY, g int GENERATED ALWAYS AS (1) STORED); CREATE UNLOGGED TABLE u (id int);
         CREATE MATERIALIZED VIEW m AS SELECT 1 AS x; SELECT lo_create(0);
         CREATE TABLE p (id int PRIMARY KEY) PARTITION BY LIST (id)",
    )
    .await
    else {
        return;
    };
    let findings = world.source.check(&all(), true).await.unwrap();
    assert_eq!(codes(&findings, Severity::Error), Vec::<&str>::new());
    assert_eq!(codes(&findings, Severity::Warning), ["unlogged"]);
    for code in ["ddl", "sequences", "large_objects", "materialized_views", "generated_columns", "partitions"]
    {
        assert_eq!(find(&findings, code).severity, Severity::Note);
    }
    assert_eq!(
        findings.iter().filter(|finding| finding.code == "ddl").count(),
        1,
        "once, not for each table"
    );
    let unstreamed = world.source.check(&all(), false).await.unwrap();
    assert!(unstreamed.iter().all(|finding| finding.code != "ddl"), "{unstreamed:#?}");
    assert_eq!(
        find(&findings, "unlogged").remedy.as_deref(),
        Some("ALTER TABLE \"public\".\"u\" SET LOGGED;")
    );
}

#[tokio::test]
async fn a_server_that_is_not_set_up_is_an_error_only_for_a_stream() {
    let builder = Postgres::builder().setting("wal_level", "replica").setting("max_replication_slots", "0");
    let Some(world) = World::on(builder, "CREATE TABLE t (id int PRIMARY KEY)").await else { return };
    let findings = world.source.check(&all(), true).await.unwrap();
    assert_eq!(codes(&findings, Severity::Error), ["wal_level", "replication_slots"]);
    assert!(find(&findings, "wal_level").remedy.as_ref().unwrap().contains("ALTER SYSTEM SET wal_level"));
    assert!(world.source.check(&all(), false).await.unwrap().iter().all(|f| f.severity == Severity::Note));
    let error = world.open("p", &all()).await.unwrap_err();
    assert_eq!(error.kind(), syncline_core::ErrorKind::Configuration);
    assert_eq!(world.leftovers().await, Vec::<String>::new());
}

#[tokio::test]
async fn missing_rights_come_with_the_statements_that_grant_them() {
    let Some(world) = World::new(
        "CREATE ROLE reader LOGIN PASSWORD 'x'; CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t ENABLE ROW LEVEL SECURITY;
         CREATE TABLE p (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT;
         GRANT SELECT ON p TO reader",
    )
    .await
    else {
        return;
    };
    let reader = world.as_user("reader");
    let findings = reader.check(&all(), true).await.unwrap();
    let mut errors = codes(&findings, Severity::Error);
    errors.sort_unstable();
    assert_eq!(
        errors,
        [
            "create_privilege",
            "ownership",
            "ownership",
            "replication_privilege",
            "row_security",
            "select_privilege",
            "select_privilege"
        ]
    );
    for finding in findings.iter().filter(|finding| finding.severity == Severity::Error) {
        let remedy = finding.remedy.as_ref().unwrap();
        let remedy = if finding.code == "ownership" { "GRANT postgres TO reader;" } else { remedy };
        world.sql(remedy).await;
    }
    // Row-level security binds the owner's member no more than the owner; it is mended by BYPASSRLS all the same.
    let findings = reader.check(&all(), true).await.unwrap();
    assert_eq!(codes(&findings, Severity::Error), Vec::<&str>::new(), "{findings:#?}");
}

#[tokio::test]
async fn trap_2c_identities_that_publishing_would_break_are_found() {
    let Some(world) = World::new(
        "CREATE TABLE none (id int); CREATE TABLE keyed (id int PRIMARY KEY, x int);
         CREATE TABLE whole (id int PRIMARY KEY, x int); ALTER TABLE whole REPLICA IDENTITY FULL;
         CREATE TABLE part (id int) PARTITION BY LIST (id); CREATE TABLE part1 PARTITION OF part DEFAULT;
         ALTER TABLE part REPLICA IDENTITY FULL",
    )
    .await
    else {
        return;
    };
    let check = async |selection| {
        let findings = world.source.check(&selection, true).await.unwrap();
        let errors = findings.iter().filter(|f| f.severity == Severity::Error);
        errors
            .map(|f| (f.table.as_ref().unwrap().name.clone(), f.remedy.clone().unwrap()))
            .collect::<Vec<_>>()
    };
    assert!(check(only("none")).await[0].1.contains("ALTER TABLE \"public\".\"none\" REPLICA IDENTITY FULL"));
    assert_eq!(check(only("keyed")).await, []);
    assert_eq!(check(without("keyed", "id")).await.iter().filter(|f| f.0 == "keyed").count(), 1);
    // Older publications cannot leave columns out at all.
    let refused = usize::from(world.server.installation().major() < 15);
    assert_eq!(check(without("keyed", "x")).await.iter().filter(|f| f.0 == "keyed").count(), refused);
    assert_eq!(check(without("whole", "x")).await.iter().filter(|f| f.0 == "whole").count(), 1);
    // The root is FULL, but the log goes by the leaf, whose own identity is none.
    assert_eq!(check(only("part")).await[0].0, "part1");
}
