//! The independent comparison finds what differs, and nothing else.

use syncline_testkit::compare::postgres::{Comparison, Definitions};
use syncline_testkit::postgres::Postgres;

const TABLES: &str = "CREATE SCHEMA a; CREATE TABLE a.t (id int PRIMARY KEY, n numeric, j json, x float8);
    CREATE INDEX ON a.t (n); CREATE TABLE a.loose (v text); CREATE TABLE a.parts (id int, p int) PARTITION BY LIST (p);
    CREATE TABLE a.part1 PARTITION OF a.parts FOR VALUES IN (1)";
const ROWS: &str = "INSERT INTO a.t SELECT i, i / 7.0, '{}', i FROM generate_series(1, 100) i;
    INSERT INTO a.loose VALUES ('x'), ('x'), (NULL); INSERT INTO a.parts VALUES (1, 1), (2, 1)";

#[tokio::test]
async fn equal_databases_are_equal_and_each_kind_of_difference_is_found() {
    let Some(server) = Postgres::start() else { return };
    for database in ["source", "destination"] {
        server.create_database(database).await;
        server.execute(database, TABLES).await;
        server.execute(database, ROWS).await;
    }
    // Syncline's own bookkeeping at the destination is not part of the data.
    server.execute("destination", "CREATE SCHEMA syncline; CREATE TABLE syncline.checkpoint (i int)").await;
    let (source, destination) = ((&server, "source"), (&server, "destination"));
    let comparison = Comparison::new().definitions(Definitions::ForeignKeys);
    comparison.assert_equal(source, destination).await;

    for (sql, found, undo) in [
        (
            "UPDATE a.t SET n = 1.00 WHERE id = 7",
            "a.t: 1 rows only at the source, 1 only at",
            "UPDATE a.t SET n = 7 / 7.0 WHERE id = 7",
        ),
        ("UPDATE a.t SET j = '{ }' WHERE id = 7", "(7) (7,", "UPDATE a.t SET j = '{}' WHERE id = 7"),
        (
            "INSERT INTO a.loose VALUES ('x')",
            "a.loose: 0 rows only at the source, 1 only at",
            "DELETE FROM a.loose WHERE ctid = (SELECT max(ctid) FROM a.loose)",
        ),
        (
            "DELETE FROM a.parts WHERE id = 2",
            "a.parts: 1 rows only at the source",
            "INSERT INTO a.parts VALUES (2, 1)",
        ),
        ("CREATE TABLE a.more ()", "a.more: only at the destination", "DROP TABLE a.more"),
        ("CREATE INDEX more ON a.t (x)", "index only at the destination", "DROP INDEX a.more"),
        (
            "ALTER TABLE a.t ALTER n TYPE numeric(60, 50)",
            "column only at the source",
            "ALTER TABLE a.t ALTER n TYPE numeric; UPDATE a.t SET n = id / 7.0",
        ),
    ] {
        server.execute("destination", sql).await;
        let differences = comparison.differences(source, destination).await.join("\n");
        assert!(differences.contains(found), "{sql}: {differences}");
        server.execute("destination", undo).await;
        comparison.assert_equal(source, destination).await;
    }
}
