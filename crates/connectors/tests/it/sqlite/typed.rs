//! Typed values: what other families send, and what SQLite sends to them.

use std::sync::Arc;

use arrow_array::builder::{Int32Builder, ListBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array,
    Float64Array, Int16Array, Int64Array, RecordBatch, StringArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, UInt64Array,
};
use syncline_core::{
    Carriage, Carry, ChunkPart, ChunkPlan, ChunkRead, Column, DataType, Delta, ErrorKind, LoadKind, Moment,
    Part, Selection, SnapshotOptions, TableId, TablePhase, TableSchema, TableState,
};

use super::world::{World, identity, one, rows};

fn column(name: &str, data_type: DataType, carriage: Carriage) -> Column {
    Column { name: name.into(), data_type, nullable: name != "id", native_type: "foreign".into(), carriage }
}

/// A table as PostgreSQL might send it, with one row of everything.
fn foreign() -> (Arc<TableSchema>, RecordBatch) {
    let mut list = ListBuilder::new(Int32Builder::new());
    list.values().append_value(1);
    list.values().append_null();
    list.append(true);
    let typed = |name, data_type, array: ArrayRef| (column(name, data_type, Carriage::Typed), array);
    let parts: Vec<(Column, ArrayRef)> = vec![
        typed("id", DataType::Int(64), Arc::new(Int64Array::from(vec![7]))),
        typed("yes", DataType::Bool, Arc::new(BooleanArray::from(vec![true]))),
        typed("small", DataType::Int(16), Arc::new(Int16Array::from(vec![-3]))),
        typed("big", DataType::UInt(64), Arc::new(UInt64Array::from(vec![u64::MAX / 2]))),
        typed("f", DataType::Float32, Arc::new(Float32Array::from(vec![0.5]))),
        typed("d", DataType::Float64, Arc::new(Float64Array::from(vec![5.0]))),
        typed(
            "dec",
            DataType::Decimal { precision: 20, scale: 2 },
            Arc::new(Decimal128Array::from(vec![110]).with_precision_and_scale(20, 2).unwrap()),
        ),
        typed(
            "num",
            DataType::Numeric,
            Arc::new(StringArray::from(vec!["123456789012345678901234567890.10"])),
        ),
        typed("t", DataType::Text, Arc::new(StringArray::from(vec!["12"]))),
        typed("b", DataType::Bytes, Arc::new(BinaryArray::from(vec![&[0_u8, 255][..]]))),
        typed("day", DataType::Date, Arc::new(Date32Array::from(vec![-1]))),
        typed("time", DataType::Time, Arc::new(Time64MicrosecondArray::from(vec![3_600_000_001]))),
        typed("ts", DataType::Timestamp, Arc::new(TimestampMicrosecondArray::from(vec![0]))),
        typed(
            "tz",
            DataType::TimestampTz,
            Arc::new(TimestampMicrosecondArray::from(vec![1]).with_timezone("UTC")),
        ),
        typed(
            "uuid",
            DataType::Uuid,
            Arc::new(FixedSizeBinaryArray::try_from_iter([[0x11_u8; 16]].into_iter()).unwrap()),
        ),
        typed("list", DataType::Array(Box::new(DataType::Int(32))), Arc::new(list.finish())),
        (
            column("native", DataType::Native("point".into()), Carriage::NativeText),
            Arc::new(BinaryArray::from(vec![&b"(1,2)"[..]])),
        ),
        typed("null", DataType::Text, Arc::new(StringArray::from(vec![None::<&str>]))),
    ];
    let (columns, arrays): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let table = TableSchema {
        id: TableId::new("public", "parcel"),
        columns,
        row_key: vec![0],
        version: 1,
        rows_estimated: None,
        native: None,
    };
    let batch = RecordBatch::try_new(table.arrow(), arrays).unwrap();
    (Arc::new(table), batch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_values_are_stored_by_the_published_mapping() {
    let world = World::new("");
    let session = world.open_destination().await.unwrap();
    let (table, batch) = foreign();
    session.prepare(&table, None).await.unwrap();
    let kind = LoadKind::Chunk { table: table.id.clone(), generation: 1, n: 0 };
    let mut load = session.begin(&identity(kind)).await.unwrap();
    load.write(Part::Rows { table: Arc::clone(&table), rows: batch }).await.unwrap();
    load.commit(&Delta::default()).await.unwrap();
    let text = |text: &str| format!("{:?}", rusqlite::types::ValueRef::Text(text.as_bytes()));
    let expected = [
        "Integer(7)".into(),
        "Integer(1)".into(),
        "Integer(-3)".into(),
        "Integer(9223372036854775807)".into(),
        format!("real {:016x}", 0.5_f64.to_bits()),
        format!("real {:016x}", 5.0_f64.to_bits()),
        text("1.10"),
        text("123456789012345678901234567890.10"),
        text("12"),
        "Blob([0, 255])".into(),
        text("1969-12-31"),
        text("01:00:00.000001"),
        text("1970-01-01 00:00:00"),
        text("1970-01-01 00:00:00.000001+00:00"),
        text("11111111-1111-1111-1111-111111111111"),
        text("[1,null]"),
        text("(1,2)"),
        "Null".into(),
    ];
    assert_eq!(rows(&world.destination(), "parcel"), [expected.join(", ")]);
    assert_eq!(
        one::<i64>(&world.destination(), "SELECT rowid FROM parcel"),
        7,
        "an integer key is the rowid"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_sqlite_cannot_hold_is_refused() {
    let world = World::new("");
    let session = world.open_destination().await.unwrap();
    let (whole, batch) = foreign();
    for (name, array) in [
        ("big", Arc::new(UInt64Array::from(vec![u64::MAX])) as ArrayRef),
        ("d", Arc::new(Float64Array::from(vec![f64::NAN]))),
    ] {
        let places = [0, whole.columns.iter().position(|column| column.name == name).unwrap()];
        let mut table = whole.as_ref().clone();
        table.columns = places.iter().map(|&place| whole.columns[place].clone()).collect();
        let table = Arc::new(table);
        session.prepare(&table, None).await.unwrap();
        let rows = RecordBatch::try_new(table.arrow(), vec![batch.column(0).clone(), array]).unwrap();
        let mut load = session.begin(&identity(LoadKind::Bookkeeping)).await.unwrap();
        load.write(Part::Rows { table: Arc::clone(&table), rows }).await.unwrap();
        let error = load.commit(&Delta::default()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Data, "{name}");
        assert!(error.to_string().contains("public.parcel") && error.to_string().contains(name), "{error}");
        session.prepare(&table, Some(syncline_core::Prepare::Recreate)).await.unwrap();
        world.destination().execute_batch("DROP TABLE parcel").unwrap();
    }
}

/// A source asked for typed values gives Arrow's types, and stops at what does not fit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_values_of_a_source() {
    let world = World::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, n BIGINT, s VARCHAR(9), d DOUBLE); INSERT INTO t VALUES (1, 5, 'x', 2.5)",
    );
    let source = world.source();
    let read = async || {
        let table = source.discover(&Selection::all(Carry::Typed)).await?.remove(0);
        let table = Arc::new(table);
        let snapshots = source.snapshots().unwrap();
        let state = TableState {
            phase: TablePhase::Snapshot,
            generation: 1,
            chunks: std::collections::BTreeMap::new(),
            rereads: std::collections::BTreeSet::new(),
            parts: syncline_core::Parts::default(),
        };
        let options = SnapshotOptions { resumable: false, moment: Moment::OfTable, readers: 2 };
        let ChunkPlan::Chunks(chunks) = snapshots.plan(&table, &state, options).await? else {
            panic!("started over")
        };
        let ChunkRead::Reading(mut reader) = snapshots.read(&table, &chunks[0]).await? else {
            panic!("started over")
        };
        reader.next().await
    };
    let Some(ChunkPart::Rows(batch)) = read().await.unwrap() else { panic!("no rows") };
    assert_eq!(batch.column(1).as_primitive::<Int64Type>().value(0), 5);
    assert_eq!(batch.column(2).as_string::<i32>().value(0), "x");
    world.write("UPDATE t SET n = 'not a number'");
    let error = read().await.err().unwrap();
    assert_eq!((error.kind(), error.table().unwrap().name.as_str()), (ErrorKind::Data, "t"));
    assert!(error.to_string().contains("column n") && !error.to_string().contains("not a number"), "{error}");
}
