//! A server, a source over one of its databases, and chunks turned into rows of wire bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use syncline_connectors::registry;
use syncline_core::{
    Carry, Chunk, ChunkEntry, ChunkPart, ChunkPlan, ChunkRead, ChunkReader, Moment, Origin, PipelineName,
    ReadMark, Result, Selection, SnapshotOptions, Snapshots, Source, StreamRequest, Streams, TablePattern,
    TablePhase, TableSchema, TableState,
};
use syncline_testkit::postgres::{Builder, Postgres};
use tokio_postgres::Client;

/// A row as it travels: the bytes of each value.
pub(super) type Row = Vec<Option<Vec<u8>>>;

pub(super) const STREAMED: SnapshotOptions =
    SnapshotOptions { resumable: false, moment: Moment::OfTable, readers: 2 };
pub(super) const RESUMABLE: SnapshotOptions =
    SnapshotOptions { resumable: true, moment: Moment::OfTable, readers: 2 };
pub(super) const ALONE: SnapshotOptions =
    SnapshotOptions { resumable: false, moment: Moment::OfRun, readers: 2 };

pub(super) const SLICES: SnapshotOptions =
    SnapshotOptions { resumable: false, moment: Moment::OfChunk, readers: 2 };

pub(super) struct World {
    pub(super) server: Postgres,
    pub(super) client: Client,
    pub(super) source: Arc<dyn Source>,
}

impl World {
    /// A fresh server with these statements run in its database `shop`; `None` where PostgreSQL is not installed.
    pub(super) async fn new(sql: &str) -> Option<Self> {
        Self::on(Postgres::builder(), sql).await
    }

    pub(super) async fn on(builder: Builder, sql: &str) -> Option<Self> {
        let server = builder.start()?;
        server.create_database("shop").await;
        let client = server.client("shop").await;
        let source = registry::source(&server.url("shop")).unwrap();
        let world = Self { server, client, source };
        world.sql(sql).await;
        Some(world)
    }

    pub(super) async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The first column of a query, as text.
    pub(super) async fn texts(&self, sql: &str) -> Vec<String> {
        let sql = format!("SELECT (q.*)::text FROM ({sql}) q");
        let rows = self.client.query(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The same database for a process that starts now.
    pub(super) fn again(&self) -> Arc<dyn Source> {
        registry::source(&self.server.url("shop")).unwrap()
    }

    pub(super) fn as_user(&self, user: &str) -> Arc<dyn Source> {
        registry::source(&self.server.url_as(user, "x", "shop")).unwrap()
    }

    pub(super) async fn tables(&self, selection: &Selection) -> Vec<Arc<TableSchema>> {
        self.source.discover(selection).await.unwrap().into_iter().map(Arc::new).collect()
    }

    pub(super) async fn table(&self, name: &str) -> Arc<TableSchema> {
        self.tables(&only(name)).await.remove(0)
    }

    pub(super) async fn request(&self, pipeline: &str, selection: &Selection) -> StreamRequest {
        StreamRequest {
            pipeline: PipelineName::new(pipeline).unwrap(),
            tables: self.tables(selection).await,
            capture_triggers: false,
        }
    }

    pub(super) async fn open(&self, pipeline: &str, selection: &Selection) -> Result<Origin> {
        let request = self.request(pipeline, selection).await;
        self.streams().open(&request).await
    }

    pub(super) fn streams(&self) -> &dyn Streams {
        self.source.streams().unwrap()
    }

    pub(super) fn snapshots(&self) -> &dyn Snapshots {
        self.source.snapshots().unwrap()
    }

    /// Slots and publications.
    pub(super) async fn leftovers(&self) -> Vec<String> {
        self.texts("SELECT slot_name::text FROM pg_replication_slots UNION ALL SELECT pubname::text FROM pg_publication")
            .await
    }
}

pub(super) fn all() -> Selection {
    Selection::all(Carry::Native)
}

pub(super) fn only(pattern: &str) -> Selection {
    Selection { include: vec![TablePattern::new(pattern).unwrap()], ..all() }
}

pub(super) fn without(table: &str, column: &str) -> Selection {
    Selection { exclude_columns: vec![(TablePattern::new(table).unwrap(), column.to_owned())], ..all() }
}

pub(super) fn ledger(generation: u32) -> TableState {
    TableState {
        phase: TablePhase::Snapshot,
        generation,
        chunks: BTreeMap::new(),
        rereads: BTreeSet::new(),
        parts: syncline_core::Parts::default(),
    }
}

pub(super) fn enter(state: &mut TableState, chunk: &Chunk, mark: &ReadMark) {
    let entry = ChunkEntry { range: chunk.range.clone(), mark: mark.0.clone(), rows: 0 };
    assert!(state.chunks.insert(chunk.n, entry).is_none(), "numbers are used once");
}

pub(super) async fn plan(
    snapshots: &dyn Snapshots,
    table: &Arc<TableSchema>,
    state: &TableState,
    options: SnapshotOptions,
) -> Vec<Chunk> {
    match snapshots.plan(table, state, options).await.unwrap() {
        ChunkPlan::Chunks(chunks) => chunks,
        ChunkPlan::StartOver(why) => panic!("start over: {why}"),
    }
}

pub(super) async fn begin(
    snapshots: &dyn Snapshots,
    table: &Arc<TableSchema>,
    chunk: &Chunk,
) -> Box<dyn ChunkReader> {
    match snapshots.read(table, chunk).await.unwrap() {
        ChunkRead::Reading(reader) => reader,
        ChunkRead::StartOver(why) => panic!("start over: {why}"),
    }
}

pub(super) async fn starts_over(
    snapshots: &dyn Snapshots,
    table: &Arc<TableSchema>,
    chunk: &Chunk,
) -> String {
    match snapshots.read(table, chunk).await.unwrap() {
        ChunkRead::StartOver(why) => why,
        ChunkRead::Reading(_) => panic!("it is read"),
    }
}

/// Reads a chunk to its end.
pub(super) async fn rows(mut reader: Box<dyn ChunkReader>) -> Vec<Row> {
    let (mut bytes, mut form) = (Vec::new(), "");
    while let Some(part) = reader.next().await.unwrap() {
        match part {
            ChunkPart::Bulk(bulk) => {
                form = bulk.form;
                bytes.extend_from_slice(&bulk.bytes);
            }
            ChunkPart::Rows(_) => panic!("native tables come in bulk"),
        }
    }
    match form {
        "binary" => binary(&bytes),
        "text" => text(&bytes),
        _ => Vec::new(),
    }
}

pub(super) async fn read(
    snapshots: &dyn Snapshots,
    table: &Arc<TableSchema>,
    chunk: &Chunk,
) -> (Vec<Row>, ReadMark) {
    let reader = begin(snapshots, table, chunk).await;
    let mark = reader.mark().clone();
    (rows(reader).await, mark)
}

fn binary(bytes: &[u8]) -> Vec<Row> {
    let rest = bytes.strip_prefix(b"PGCOPY\n\xff\r\n\0").expect("the signature");
    let mut rest = &rest[8..];
    let mut take = |count: usize| {
        let (head, tail) = rest.split_at(count);
        rest = tail;
        head
    };
    let mut rows = Vec::new();
    loop {
        let columns = i16::from_be_bytes(take(2).try_into().unwrap());
        let Ok(columns) = usize::try_from(columns) else { return rows };
        let value = |_| {
            let length = i32::from_be_bytes(take(4).try_into().unwrap());
            usize::try_from(length).ok().map(|length| take(length).to_vec())
        };
        rows.push((0..columns).map(value).collect());
    }
}

/// Only for values without anything to escape but backslashes.
fn text(bytes: &[u8]) -> Vec<Row> {
    let text = std::str::from_utf8(bytes).unwrap();
    let value = |field: &str| (field != "\\N").then(|| field.replace("\\\\", "\\").into_bytes());
    text.lines().map(|line| line.split('\t').map(value).collect()).collect()
}

pub(super) fn int(value: Option<&Vec<u8>>) -> i32 {
    i32::from_be_bytes(value.expect("not null").as_slice().try_into().expect("four bytes"))
}
