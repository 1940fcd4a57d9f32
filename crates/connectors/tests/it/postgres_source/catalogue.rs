//! What `discover` says.

use syncline_core::{Carriage, Carry, DataType, ErrorKind, Selection, TablePattern};

use super::world::{World, all, only, without};

fn carriages(table: &syncline_core::TableSchema) -> Vec<(&str, Carriage)> {
    table.columns.iter().map(|column| (column.name.as_str(), column.carriage)).collect()
}

#[tokio::test]
async fn only_user_tables_are_found_and_partitions_belong_to_their_root() {
    let Some(world) = World::new(
        "CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE \"A b\" (id int PRIMARY KEY);
         CREATE UNLOGGED TABLE u (id int); CREATE VIEW v AS SELECT 1 AS x; CREATE MATERIALIZED VIEW m AS SELECT 1 AS x;
         CREATE SCHEMA syncline; CREATE TABLE syncline.own (id int);
         CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
         CREATE TABLE p11 PARTITION OF p1 FOR VALUES FROM (0) TO (5); CREATE TABLE p2 PARTITION OF p DEFAULT;
         INSERT INTO p SELECT generate_series(10, 20); ANALYZE",
    )
    .await
    else {
        return;
    };
    let tables = world.tables(&all()).await;
    let names: Vec<String> = tables.iter().map(|table| table.id.to_string()).collect();
    assert_eq!(names, ["public.A b", "public.b", "public.p"]);
    let native = &tables[2].native.as_ref().unwrap().definition;
    assert_eq!(native["partitioning"]["key"], "RANGE (id)");
    let partitions: Vec<&str> = native["partitioning"]["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|partition| partition["id"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(partitions, ["p1", "p2", "p11"], "parents come before children");
}

#[tokio::test]
async fn built_in_values_travel_as_they_are_and_the_rest_as_text() {
    let Some(world) = World::new(
        "CREATE TYPE mood AS ENUM ('sad', 'it''s ok'); CREATE DOMAIN short AS varchar(10) CHECK (VALUE <> '');
         CREATE TABLE plain (id int8 PRIMARY KEY, a int[], r numrange, m int4multirange, e mood, d short, j jsonb,
                             acl aclitem);
         CREATE TYPE pair AS (x int, m mood); CREATE TABLE composite (id int PRIMARY KEY, p pair);
         CREATE TABLE enums (id int PRIMARY KEY, e mood[]); CREATE TABLE regs (id int PRIMARY KEY, c regclass)",
    )
    .await
    else {
        return;
    };
    use Carriage::{Native, NativeText};
    let plain = world.table("plain").await;
    let expected = [
        ("id", Native),
        ("a", Native),
        ("r", Native),
        ("m", Native),
        ("e", Native),
        ("d", Native),
        ("j", Native),
        // It has no binary form at all, so that a binary stream brings it as text.
        ("acl", NativeText),
    ];
    assert_eq!(carriages(&plain), expected);
    assert_eq!(plain.columns[0].data_type, DataType::Int(64));
    assert_eq!(plain.columns[5].native_type, "public.short");
    for other in ["composite", "enums", "regs"] {
        // One column whose binary value holds OIDs turns `binary` off for the whole stream.
        let both = Selection {
            include: ["plain", other].map(|name| TablePattern::new(name).unwrap()).to_vec(),
            ..all()
        };
        for table in world.tables(&both).await {
            assert!(table.columns.iter().all(|column| column.carriage == NativeText), "{}", table.id);
        }
    }
    let native = &world.table("composite").await.native.clone().unwrap().definition;
    let kinds: Vec<&str> =
        native["types"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["mood", "pair"], "a type comes after those it is made of");
}

#[tokio::test]
async fn an_excluded_column_is_nowhere() {
    let Some(world) = World::new(
        "CREATE TABLE other (ssn int PRIMARY KEY);
         CREATE TABLE users (id int PRIMARY KEY, ssn int UNIQUE REFERENCES other, name text,
             tail text GENERATED ALWAYS AS (lower(name)) STORED, secret int GENERATED ALWAYS AS (ssn + 1) STORED);
         CREATE INDEX by_name ON users (lower(name)) WHERE ssn > 5; CREATE INDEX \"USING \" ON users (name DESC)",
    )
    .await
    else {
        return;
    };
    let tables = world.tables(&without("users", "ssn")).await;
    let users = &tables[1];
    assert_eq!(carriages(users), [("id", Carriage::Native), ("name", Carriage::Native)]);
    let native = &users.native.as_ref().unwrap().definition;
    assert!(!native.to_string().contains("ssn"), "{native}");
    let names: Vec<&str> =
        native["columns"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["id", "name", "tail"]);
    assert_eq!(native["indexes"][0]["ddl"]["Index"]["using"], "btree (name DESC)");
    assert_eq!(native["indexes"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn definitions_are_exact() {
    let Some(world) = World::new(
        "CREATE TABLE parent (a int, b int, PRIMARY KEY (b, a));
         CREATE TABLE child (id int CONSTRAINT \"the key\" PRIMARY KEY, a int, b int, t text COLLATE \"C\", r int4range,
             CONSTRAINT up FOREIGN KEY (b, a) REFERENCES parent (b, a) ON DELETE CASCADE DEFERRABLE,
             CONSTRAINT apart EXCLUDE USING gist (r WITH &&), CONSTRAINT once UNIQUE (t))",
    )
    .await
    else {
        return;
    };
    let child = world.table("child").await;
    let native = &child.native.as_ref().unwrap().definition;
    assert_eq!(native["primary_key"]["name"], "the key");
    let key = &native["foreign_keys"][0];
    assert_eq!(key["referenced"]["name"], "parent");
    assert_eq!(key["columns"], serde_json::json!(["b", "a"]));
    assert_eq!(key["suffix"], "ON DELETE CASCADE DEFERRABLE");
    assert_eq!(native["columns"][3]["collation"], "pg_catalog.\"C\"");
    let ddl: Vec<&str> = native["indexes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|index| index["ddl"]["Constraint"].as_str().unwrap())
        .collect();
    assert_eq!(ddl, ["EXCLUDE USING gist (r WITH &&)", "UNIQUE (t)"]);
    assert!(native["indexes"][0]["excludes"].as_bool().unwrap());
    assert_eq!(world.table("parent").await.row_key, [1, 0], "in the key's order");
}

#[tokio::test]
async fn the_row_key_is_what_deletes_come_by() {
    let Some(world) = World::new(
        "CREATE TABLE by_default (a int, id int PRIMARY KEY);
         CREATE TABLE by_index (id int PRIMARY KEY, u int NOT NULL UNIQUE);
         ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_u_key;
         CREATE TABLE full_with_key (a int, id int PRIMARY KEY); ALTER TABLE full_with_key REPLICA IDENTITY FULL;
         CREATE TABLE full_without (a int); ALTER TABLE full_without REPLICA IDENTITY FULL;
         CREATE TABLE late (id int PRIMARY KEY DEFERRABLE);
         CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING",
    )
    .await
    else {
        return;
    };
    for (name, key) in [
        ("by_default", vec![1]),
        ("by_index", vec![1]),
        ("full_with_key", vec![1]),
        ("full_without", vec![]),
        ("late", vec![]),
        ("nothing", vec![]),
    ] {
        assert_eq!(world.table(name).await.row_key, key, "{name}");
    }
}

#[tokio::test]
async fn what_matches_nothing_is_refused_by_name() {
    let Some(world) =
        World::new("CREATE TABLE users (id int PRIMARY KEY, ssn int); CREATE VIEW v AS SELECT 1").await
    else {
        return;
    };
    for (selection, named) in [
        (only("public.nobody"), "public.nobody"),
        (only("v"), "*.v"),
        (without("users", "sssn"), "*.users.sssn"),
        (without("user", "ssn"), "*.user.ssn"),
    ] {
        let error = world.source.discover(&selection).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[tokio::test]
async fn typed_values_come_typed_from_snapshot_and_by_key() {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Int64Type, TimestampMicrosecondType};
    use syncline_core::ChunkPart;

    use super::world::{STREAMED, begin, ledger, plan};
    let Some(world) = World::new(
        "CREATE TABLE t (id bigint, at timestamptz, name text, tags text[], n numeric, b bytea, PRIMARY KEY (id, at));
         INSERT INTO t VALUES (1, '1970-01-01 00:00:01.5+00', E'tab\\there', '{a,NULL}', 1.10, '\\x00ff'),
                              (-2, '2024-02-29', NULL, NULL, 'NaN', NULL)",
    )
    .await
    else {
        return;
    };
    let table = world.tables(&Selection::all(Carry::Typed)).await.remove(0);
    assert!(table.columns.iter().all(|column| column.carriage == Carriage::Typed));
    let chunk = plan(world.snapshots(), &table, &ledger(1), STREAMED).await.remove(0);
    let mut reader = begin(world.snapshots(), &table, &chunk).await;
    let Some(ChunkPart::Rows(rows)) = reader.next().await.unwrap() else { panic!("typed rows") };
    assert_eq!(rows.schema(), table.arrow());
    assert_eq!(rows.column(0).as_primitive::<Int64Type>().values(), &[1, -2]);
    assert_eq!(rows.column(1).as_primitive::<TimestampMicrosecondType>().value(0), 1_500_000);
    assert_eq!(rows.column(2).as_string::<i32>().value(0), "tab\there");
    assert!(rows.column(2).is_null(1));
    assert_eq!(rows.column(3).as_string::<i32>().value(0), "{a,NULL}");
    assert_eq!(rows.column(4).as_string::<i32>().value(1), "NaN");
    assert_eq!(rows.column(5).as_binary::<i32>().value(0), [0, 255]);
    let keys = rows.project(&[0, 1]).unwrap();
    let keys = arrow_array::RecordBatch::try_new(table.arrow_old(), keys.columns().to_vec()).unwrap();
    let (again, _) = world.snapshots().read_keys(&table, &keys).await.unwrap();
    assert_eq!(again.num_rows(), 2);
    let first = if again.column(0).as_primitive::<Int64Type>().value(0) == 1 { 0 } else { 1 };
    assert_eq!(again.slice(first, 1), rows.slice(0, 1));
}
