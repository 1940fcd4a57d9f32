//! Values of every kind arrive as they are, whichever way a part goes.

use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray,
    RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use syncline_core::{
    Carriage, ChangeBatch, Column, DataType, ErrorKind, Operation, Part, TableId, TableSchema,
};

use super::world::{Say, World, counts, defined, delete, insert, moved, table, update, upsert};

const TYPES: &[(&str, &str)] = &[
    ("smallint", "-32768"),
    ("bigint", "9223372036854775807"),
    ("numeric", "-123456789012345678901234567890.000100"),
    ("numeric(10,2)", "1.50"),
    ("real", "1.1"),
    ("double precision", "NaN"),
    ("boolean", "t"),
    ("text", "a\tb\\\n\"'ü"),
    ("character varying(5)", "ab   "),
    ("character(5)", "ab"),
    ("\"char\"", "x"),
    ("name", "n"),
    ("bytea", "\\x00ff"),
    ("date", "infinity"),
    ("time without time zone", "23:59:59.999999"),
    ("time with time zone", "12:00:00+02"),
    ("timestamp without time zone", "-infinity"),
    ("timestamp with time zone", "2024-02-29 12:00:00.000001+00"),
    ("interval", "1 mon -3 days 00:00:01"),
    ("uuid", "00000000-0000-0000-0000-000000000001"),
    ("json", "{\"b\": 1,  \"a\":2}"),
    ("jsonb", "{\"a\": 1}"),
    ("inet", "10.0.0.1/8"),
    ("macaddr", "08:00:2b:01:02:03"),
    ("bit(3)", "101"),
    ("bit varying", "10101"),
    ("money", "$1.50"),
    ("point", "(1,2)"),
    ("xml", "<a/>"),
    ("tsvector", "'a':1"),
    ("int4range", "[1,5)"),
    ("integer[]", "{{1,2},{3,NULL}}"),
    ("text[]", "{a,\"b,c\",NULL}"),
    ("pg_lsn", "16/B374D848"),
];

#[tokio::test]
async fn every_built_in_type_by_arrays_staging_and_copy() {
    for fill in [0, 600] {
        let Some(world) = World::new().await else { return };
        let mut held = world.held("p").await;
        // Arrays of arrays cannot be unnested, so a small part with them is staged; both are tried.
        for with_arrays in [false, true] {
            let types: Vec<_> =
                TYPES.iter().filter(|(sql_type, _)| with_arrays || !sql_type.ends_with("[]")).collect();
            let names: Vec<String> = (0..types.len()).map(|n| format!("v{n}")).collect();
            let mut columns = vec![("id", "integer")];
            columns.extend(names.iter().map(String::as_str).zip(types.iter().map(|(sql_type, _)| *sql_type)));
            let t = table(("public", if with_arrays { "a" } else { "t" }), &columns, 1);
            held.ready(&t).await;
            let values: Vec<&str> = types.iter().map(|(_, value)| *value).collect();
            let row = |id: &str| -> Vec<String> {
                std::iter::once(id).chain(values.iter().copied()).map(str::to_owned).collect()
            };
            let nulls: Vec<String> =
                std::iter::once("2".to_owned()).chain(values.iter().map(|_| "NULL".to_owned())).collect();
            let say = |row: Vec<String>, how: fn(&[&str]) -> Say| {
                how(&row.iter().map(String::as_str).collect::<Vec<_>>())
            };
            let mut part = vec![say(row("1"), upsert), say(nulls, upsert)];
            part.extend((0..fill).map(|n: usize| say(row(&(n + 100).to_string()), upsert)));
            let part_len = part.len() as u64;
            assert_eq!(counts(&held.load(&t, &[part.clone()]).await.unwrap()), (part_len, 0, 0));
            let expected: Vec<String> =
                types.iter().map(|(ty, v)| format!("(SELECT $v${v}$v$::{ty}::text)")).collect();
            let got: Vec<String> = names.iter().map(|name| format!("{name}::text")).collect();
            let sql =
                format!("SELECT ARRAY[{}] = ARRAY[{}] FROM {}", got.join(","), expected.join(","), t.id.name);
            let equal = world.rows(&format!("{sql} WHERE id <> 2")).await;
            assert!(equal.iter().all(|row| row == "(t)"), "{equal:?}");
            let unchanged = held.load(&t, &[part]).await.unwrap();
            assert_eq!(counts(&unchanged), (0, part_len, 0), "the same image is not written");
        }
        held.session.close().await;
    }
}

#[tokio::test]
async fn user_types_travel_as_text() {
    let types = serde_json::json!({"types": [
        {"schema": "public", "name": "mood", "kind": {"Enum": {"labels": ["sad", "it's \\ok", "happy"]}}},
        {"schema": "public", "name": "pair", "kind": {"Composite": {"attributes": [["a", "integer"], ["m", "public.mood"]]}}},
        {"schema": "public", "name": "small", "kind": {"Domain": {"base": "integer", "not_null": false, "checks": ["CHECK ((VALUE < 100))"]}}},
        {"schema": "public", "name": "span", "kind": {"Range": {"subtype": "double precision"}}},
    ]});
    for fill in [0, 600] {
        let Some(world) = World::new().await else { return };
        let mut held = world.held("p").await;
        let t = table(
            ("public", "t"),
            &[
                ("id", "public.mood[]!"),
                ("m", "public.mood!"),
                ("p", "public.pair!"),
                ("s", "public.small!"),
                ("r", "public.span!"),
            ],
            1,
        );
        let t = defined(&t, &types);
        held.ready(&t).await;
        let first = ["{sad,happy}", "it's \\ok", "(1,\"it's \\\\ok\")", "5", "[1,2.5)"];
        let filler = |n: usize| {
            let id = format!("{{{}}}", vec!["happy"; n + 3].join(","));
            upsert(&[&id, "sad", "NULL", "1", "empty"])
        };
        let mut part = vec![upsert(&first)];
        part.extend((0..fill).map(filler));
        held.load(&t, &[part]).await.unwrap();
        let mut part = vec![moved(&["{sad,happy}"], &["{happy}", "~", "(2,happy)", "5", "~"])];
        part.extend((0..fill).map(filler));
        let durable = held.load(&t, &[part]).await.unwrap();
        assert_eq!(counts(&durable), (1, fill as u64, 0));
        let rows = world.rows("SELECT m, p, s, r FROM t WHERE id = '{happy}'").await;
        assert_eq!(rows, ["(\"it's \\\\ok\",\"(2,happy)\",5,\"[1,2.5)\")"]);
        assert_eq!(held.load(&t, &[vec![delete(&["{happy}"])]]).await.unwrap().counts.applied, 1);
        let error =
            held.load(&t, &[vec![insert(&["{sad}", "sad", "NULL", "100", "empty"])]]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        let chunk = held.rows(&t, &[&["{sad}", "sad", "(1,sad)", "7", "(,)"]]).await;
        let mut load =
            held.session.begin(&held.identity(syncline_core::LoadKind::Bookkeeping)).await.unwrap();
        load.write(chunk).await.unwrap();
        load.commit(&syncline_core::Delta::default()).await.unwrap();
        assert_eq!(world.rows("SELECT p, s, r FROM t WHERE id = '{sad}'").await, ["(\"(1,sad)\",7,\"(,)\")"]);
        // Without a key they are found by their image.
        held.session.close().await;
    }
}

#[tokio::test]
async fn keys_with_a_collation_or_an_operator_of_their_own() {
    for fill in [0, 600] {
        let Some(world) = World::new().await else { return };
        world
            .sql(
                "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
                 CREATE TABLE t (k text COLLATE loose PRIMARY KEY, v text); \
                 CREATE TABLE d (k text COLLATE \"POSIX\" PRIMARY KEY, v text)",
            )
            .await;
        let mut held = world.held("p").await;
        for name in ["t", "d"] {
            let t = table(("public", name), &[("k", "text"), ("v", "text")], 1);
            held.ready(&t).await;
            held.load(&t, &[vec![insert(&["a", "1"]), insert(&["b", "2"])]]).await.unwrap();
            let mut part = vec![moved(&["a"], &["A", "1"]), update(&["b", "22"])];
            part.extend((0..fill).map(|n: usize| upsert(&[&format!("x{n}"), "x"])));
            held.load(&t, &[part]).await.unwrap();
            let rows = world.rows(&format!("SELECT * FROM {name} WHERE v <> 'x' ORDER BY v")).await;
            assert_eq!(rows, ["(A,1)", "(b,22)"]);
        }
        held.session.close().await;
    }
}

#[tokio::test]
async fn trap_21_nul_bytes_and_broken_text_are_refused_by_table() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("v", "text")], 1);
    held.ready(&t).await;
    for bad in [&b"a\0b"[..], b"\xff"] {
        let part = held.part(&t, &[insert(&["1", "x"])]).await;
        let Part::Changes(batch) = part else { panic!("not changes") };
        let value: ArrayRef = Arc::new(BinaryArray::from(vec![Some(bad)]));
        let rows = RecordBatch::try_new(t.arrow(), vec![Arc::clone(batch.rows.column(0)), value]).unwrap();
        let mut load =
            held.session.begin(&held.identity(syncline_core::LoadKind::Bookkeeping)).await.unwrap();
        load.write(Part::Changes(ChangeBatch { rows, ..batch })).await.unwrap();
        let error = load.commit(&syncline_core::Delta::default()).await.unwrap_err();
        assert_eq!((error.kind(), error.table()), (ErrorKind::Data, Some(&t.id)), "{error:?}");
    }
}

#[tokio::test]
async fn large_absent_values_are_not_written_again() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("n", "integer"), ("big", "text")], 1);
    held.ready(&t).await;
    world.sql("ALTER TABLE t ALTER big SET STORAGE EXTERNAL").await;
    let big = "x".repeat(500_000);
    held.load(&t, &[vec![insert(&["1", "1", &big])]]).await.unwrap();
    let size = "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE relname = 't'";
    let before = world.rows(size).await;
    held.load(&t, &[vec![update(&["1", "2", "~"])]]).await.unwrap();
    assert_eq!(world.rows(size).await, before);
    assert_eq!(world.rows("SELECT n, length(big) FROM t").await, ["(2,500000)"]);
}

fn typed(columns: &[(&str, DataType)]) -> Arc<TableSchema> {
    let columns = columns.iter().map(|(name, data_type)| Column {
        name: (*name).to_owned(),
        data_type: data_type.clone(),
        nullable: *name != "id",
        native_type: "whatever".into(),
        carriage: Carriage::Typed,
    });
    Arc::new(TableSchema {
        id: TableId::new("main", "t"),
        columns: columns.collect(),
        row_key: vec![0],
        version: 1,
        rows_estimated: None,
        native: None,
    })
}

#[tokio::test]
async fn typed_values_of_another_family_follow_the_published_mapping() {
    let t = typed(&[
        ("id", DataType::Int(64)),
        ("b", DataType::Bool),
        ("u", DataType::UInt(64)),
        ("d", DataType::Decimal { precision: 12, scale: 4 }),
        ("n", DataType::Numeric),
        ("f", DataType::Float64),
        ("s", DataType::Text),
        ("j", DataType::Json),
        ("x", DataType::Bytes),
        ("day", DataType::Date),
        ("at", DataType::TimestampTz),
        ("l", DataType::Array(Box::new(DataType::Int(32)))),
    ]);
    let at = TimestampMicrosecondArray::from(vec![Some(1_700_000_000_000_001), None]).with_timezone("UTC");
    let lists = vec![Some(vec![Some(1), None]), None];
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![-1, 2])),
        Arc::new(BooleanArray::from(vec![Some(true), None])),
        Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])),
        Arc::new(
            Decimal128Array::from(vec![Some(-12_345_600), None]).with_precision_and_scale(12, 4).unwrap(),
        ),
        Arc::new(StringArray::from(vec![Some("1.500"), None])),
        Arc::new(Float64Array::from(vec![Some(0.1), None])),
        Arc::new(StringArray::from(vec![Some("ü"), None])),
        Arc::new(StringArray::from(vec![Some("{\"a\": 1}"), None])),
        Arc::new(BinaryArray::from(vec![Some(&b"\x00"[..]), None])),
        Arc::new(Date32Array::from(vec![Some(-1), None])),
        Arc::new(at),
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists)),
    ];
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    held.ready(&t).await;
    let rows = RecordBatch::try_new(t.arrow(), arrays).unwrap();
    let batch = ChangeBatch {
        table: Arc::clone(&t),
        rows: rows.clone(),
        operations: vec![Operation::Upsert; 2],
        ordinals: vec![0, 1],
        transactions: vec![0, 0],
        masks: None,
        old: None,
    };
    let expected = [
        "(-1,t,18446744073709551615,-1234.5600,1.500,0.1,ü,\"{\"\"a\"\": 1}\",\"\\\\x00\",1969-12-31,\"2023-11-14 22:13:20.000001+00\",\"{1,NULL}\")",
        "(2,,,,,,,,,,,)",
    ];
    world.sql("SET timezone = 'UTC'").await;
    for part in [Part::Changes(batch.clone()), Part::Changes(batch)] {
        let mut load =
            held.session.begin(&held.identity(syncline_core::LoadKind::Bookkeeping)).await.unwrap();
        load.write(part).await.unwrap();
        load.commit(&syncline_core::Delta::default()).await.unwrap();
        assert_eq!(world.rows("SELECT * FROM main.t ORDER BY id").await, expected);
    }
    world.sql("DELETE FROM main.t").await;
    let mut load = held.session.begin(&held.identity(syncline_core::LoadKind::Bookkeeping)).await.unwrap();
    load.write(Part::Rows { table: Arc::clone(&t), rows }).await.unwrap();
    load.commit(&syncline_core::Delta::default()).await.unwrap();
    assert_eq!(world.rows("SELECT * FROM main.t ORDER BY id").await, expected);
}
