//! Tables that must stop while the others go on.

use super::*;

const TABLES: &str =
    "CREATE TABLE t (k int PRIMARY KEY, v text); CREATE TABLE u (k int PRIMARY KEY, v text);";

async fn shop() -> Option<Shop> {
    let shop = Shop::open(Postgres::builder(), TABLES, &["t", "u"]).await?;
    shop.run("INSERT INTO t VALUES (1, 'a'); INSERT INTO u VALUES (1, 'a')").await;
    Some(shop)
}

/// Changes both tables after `ddl` and reads while the stream stands.
async fn read_over(ddl: &str) -> Option<Vec<String>> {
    let shop = shop().await?;
    let first = shop.end().await;
    let mut stream = shop.stream(&shop.begin, Some(&first)).await.unwrap();
    let mut events = read_to(stream.as_mut(), &first).await;
    shop.run(ddl).await;
    shop.run("INSERT INTO u VALUES (2, 'b')").await;
    shop.run("INSERT INTO t (k) VALUES (3)").await;
    shop.run("INSERT INTO u VALUES (4, 'd')").await;
    let end = shop.end().await;
    events.extend(read_to(stream.as_mut(), &end).await);
    Some(lines(&events))
}

const STOPPED: [&str; 5] = ["t insert 1,a", "u insert 1,a", "u insert 2,b", "stopped t", "u insert 4,d"];

#[tokio::test]
async fn trap_7_a_new_column_stops_the_table() {
    let Some(lines) = read_over("ALTER TABLE t ADD w int").await else { return };
    assert_eq!(lines, STOPPED);
}

#[tokio::test]
async fn trap_7_a_lost_column_stops_the_table() {
    let Some(lines) = read_over("ALTER TABLE t DROP v").await else { return };
    assert_eq!(lines, STOPPED);
}

#[tokio::test]
async fn trap_7_another_type_stops_the_table() {
    let Some(lines) = read_over("ALTER TABLE t ALTER k TYPE bigint").await else { return };
    assert_eq!(lines, STOPPED);
}

#[tokio::test]
async fn trap_7_another_name_stops_the_table() {
    let Some(lines) = read_over("ALTER TABLE t RENAME TO t2; CREATE VIEW t AS SELECT * FROM t2").await else {
        return;
    };
    assert_eq!(lines, STOPPED);
}

#[tokio::test]
async fn trap_7_a_table_made_again_under_the_same_name_stops() {
    let made_again = "DROP TABLE t; CREATE TABLE t (k int PRIMARY KEY, v text); ALTER PUBLICATION syncline_shop ADD TABLE t";
    let Some(lines) = read_over(made_again).await else { return };
    assert_eq!(lines, STOPPED);
}

#[tokio::test]
async fn trap_11_another_replica_identity_stops_the_table() {
    let other_key = "ALTER TABLE t DROP CONSTRAINT t_pkey; UPDATE u SET v = v WHERE k = -1";
    let Some(lines) = read_over(other_key).await else { return };
    assert_eq!(lines, STOPPED);
}

#[tokio::test]
async fn a_type_changed_while_nobody_read_stops_the_table_too() {
    let Some(mut shop) = shop().await else { return };
    shop.run("ALTER TABLE t ALTER k TYPE bigint").await;
    // The pipeline looks its tables up at each start; the backlog is older.
    shop.request.tables[0] = Arc::new(schema(&shop.server, "t").await);
    assert_eq!(shop.read().await, ["stopped t", "u insert 1,a"]);
}

#[tokio::test]
async fn published_tables_that_are_not_in_the_pipeline_are_left_out() {
    let Some(mut shop) = shop().await else { return };
    shop.request.tables.remove(0);
    assert_eq!(shop.read().await, ["u insert 1,a"]);
}

#[tokio::test]
async fn generated_and_excluded_columns_are_not_in_the_stream() {
    let ddl = "CREATE TABLE t (k int PRIMARY KEY, secret text, twice int GENERATED ALWAYS AS (k * 2) STORED, v text)";
    // Older publications cannot leave columns out.
    let Some(mut shop) = Shop::open(Postgres::builder().at_least(15), ddl, &["t"]).await else { return };
    shop.run("ALTER PUBLICATION syncline_shop SET TABLE t (k, v)").await;
    shop.make_slot("syncline_other").await;
    shop.run(
        "SELECT pg_drop_replication_slot('syncline_shop'); SELECT pg_drop_replication_slot('syncline_other')",
    )
    .await;
    shop.make_slot("syncline_shop").await;
    let mut table = TableSchema::clone(&shop.request.tables[0]);
    table.columns.retain(|column| column.name != "secret");
    shop.request.tables[0] = Arc::new(table);
    shop.run("INSERT INTO t VALUES (1, 'hidden', DEFAULT, 'a'); UPDATE t SET secret = 'x', v = 'b'").await;
    assert_eq!(shop.read().await, ["t insert 1,a", "t update 1,b"]);
}
