//! Two files and the shortest possible way from one to the other: what the engine does, without its cleverness.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use syncline_connectors::registry;
use syncline_core::{
    Carry, Change, ChangeStream, ChunkEntry, ChunkPart, ChunkPlan, ChunkRead, Delta, DestinationSession,
    Durable, Entry, Error, FinishStep, Holder, Lane, LoadIdentity, LoadKind, Moment, Part, PipelineName,
    Position, Result, SchemaMap, Selection, SnapshotOptions, Source, StreamEvent, StreamRequest, TablePhase,
    TableSchema, TableState,
};
use tempfile::TempDir;

/// Source and destination, the pipeline `p` between them.
pub(crate) struct World {
    directory: TempDir,
    /// The application at the source.
    pub(crate) app: Connection,
}

/// A pipeline that runs.
pub(crate) struct Running {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) session: Arc<dyn DestinationSession>,
    pub(crate) tables: Vec<Arc<TableSchema>>,
    pub(crate) stream: Box<dyn ChangeStream>,
    pub(crate) at: Position,
    pub(crate) stopped: Vec<Error>,
}

impl World {
    /// Two files; the source with these statements run.
    pub(crate) fn new(sql: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let app = connect(&directory.path().join("source.db"));
        app.pragma_update(None, "journal_mode", "wal").unwrap();
        app.execute_batch(sql).unwrap_or_else(|error| panic!("{error}"));
        Self { directory, app }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn source(&self) -> Arc<dyn Source> {
        registry::source(&format!("sqlite:{}", self.path("source.db").display())).unwrap()
    }

    /// The application writes.
    pub(crate) fn write(&self, sql: &str) {
        self.app.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// A second pair of eyes on the destination.
    pub(crate) fn destination(&self) -> Connection {
        connect(&self.path("destination.db"))
    }

    pub(crate) async fn open_destination(&self) -> Result<Arc<dyn DestinationSession>> {
        let url = format!("sqlite:{}", self.path("destination.db").display());
        let destination = registry::destination(&url)?;
        destination.open(&pipeline(), &holder(), &SchemaMap::default()).await
    }

    pub(crate) async fn discover(&self) -> Vec<Arc<TableSchema>> {
        let tables = self.source().discover(&Selection::all(Carry::Native)).await;
        tables.unwrap_or_else(|error| panic!("{error:?}")).into_iter().map(Arc::new).collect()
    }

    /// Installs the capture, copies all tables, and stands ready to stream.
    pub(crate) async fn start(&self) -> Running {
        self.start_selection(&Selection::all(Carry::Native)).await
    }

    pub(crate) async fn start_selection(&self, selection: &Selection) -> Running {
        let source = self.source();
        let tables = source.discover(selection).await.unwrap_or_else(|error| panic!("{error:?}"));
        let tables: Vec<_> = tables.into_iter().map(Arc::new).collect();
        let streams = source.streams().unwrap();
        let origin = streams.open(&request(&tables)).await.unwrap_or_else(|error| panic!("{error:?}"));
        let session = self.open_destination().await.unwrap();
        let open = Change::Open { lane: Lane::Main, at: origin.confirmed.clone() };
        bookkeeping(&session, vec![open]).await;
        for table in &tables {
            copy(source.as_ref(), &session, table, Moment::OfTable).await;
        }
        let stream = streams.stream(&request(&tables), &origin.confirmed, None).await.unwrap();
        let at = origin.confirmed.clone();
        Running { source, session, tables, stream, at, stopped: Vec::new() }
    }

    /// All rows of all tables of both files, with storage classes, are the same.
    pub(crate) fn assert_equal(&self) {
        let (source, destination) = (&self.app, self.destination());
        let names = table_names(source);
        assert_eq!(names, table_names(&destination));
        for name in names {
            assert_eq!(rows(source, &name), rows(&destination, &name), "table {name}");
        }
    }
}

impl Running {
    /// Streams until everything that is committed now is at the destination.
    pub(crate) async fn catch_up(&mut self) {
        let end = self.source.streams().unwrap().end().await.unwrap();
        let mut pieces = Vec::new();
        while self.at < end {
            match self.next().await {
                StreamEvent::TableStopped { error, .. } => self.stopped.push(error),
                StreamEvent::Entry(entry) if entry.is_piece() => pieces.push(entry),
                StreamEvent::Entry(entry) => {
                    pieces.push(entry);
                    self.load(std::mem::take(&mut pieces)).await.unwrap_or_else(|error| panic!("{error:?}"));
                }
            }
        }
    }

    pub(crate) async fn next(&mut self) -> StreamEvent {
        let next = tokio::time::timeout(Duration::from_secs(20), self.stream.next());
        next.await.expect("an event in time").unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Loads entries of which the last one closes.
    pub(crate) async fn load(&mut self, entries: Vec<Entry>) -> Result<Durable> {
        let (from, to) = (self.at.clone(), entries.last().unwrap().to.clone());
        let kind = LoadKind::Changes { from: from.clone(), to: to.clone() };
        let mut load = self.session.begin(&identity(kind)).await?;
        for batch in entries.into_iter().flat_map(|entry| entry.batches) {
            load.write(Part::Changes(batch)).await?;
        }
        let advance = Change::Advance { lane: Lane::Main, from, to: to.clone() };
        let durable = load.commit(&Delta::of(vec![advance])).await?;
        self.at = to;
        self.stream.acknowledge(&self.at);
        Ok(durable)
    }
}

/// Prepares a table at the destination and loads all its chunks.
pub(crate) async fn copy(
    source: &dyn Source,
    session: &Arc<dyn DestinationSession>,
    table: &Arc<TableSchema>,
    moment: Moment,
) {
    try_copy(source, session, table, moment).await.unwrap_or_else(|error| panic!("{error:?}"));
}

pub(crate) async fn try_copy(
    source: &dyn Source,
    session: &Arc<dyn DestinationSession>,
    table: &Arc<TableSchema>,
    moment: Moment,
) -> Result<()> {
    session.prepare(table, None).await?;
    let mark = |phase| Change::Mark { table: table.id.clone(), phase, generation: 1 };
    bookkeeping(session, vec![mark(TablePhase::Snapshot)]).await;
    let snapshots = source.snapshots().unwrap();
    let state = TableState {
        phase: TablePhase::Snapshot,
        generation: 1,
        chunks: std::collections::BTreeMap::new(),
        rereads: std::collections::BTreeSet::new(),
        parts: syncline_core::Parts::default(),
    };
    let options = SnapshotOptions { resumable: false, moment, readers: 2 };
    let ChunkPlan::Chunks(chunks) = snapshots.plan(table, &state, options).await? else {
        panic!("a new snapshot started over")
    };
    for chunk in chunks {
        let ChunkRead::Reading(mut reader) = snapshots.read(table, &chunk).await? else {
            panic!("a chunk started over")
        };
        let kind = LoadKind::Chunk { table: table.id.clone(), generation: 1, n: chunk.n };
        let mut load = session.begin(&identity(kind)).await?;
        while let Some(part) = reader.next().await? {
            let ChunkPart::Rows(rows) = part else { panic!("SQLite has no bulk form") };
            load.write(Part::Rows { table: Arc::clone(table), rows }).await?;
        }
        let entry = ChunkEntry { range: chunk.range.clone(), mark: reader.mark().0.clone(), rows: 0 };
        let change = Change::Chunk { table: table.id.clone(), generation: 1, n: chunk.n, entry };
        load.commit(&Delta::of(vec![change])).await?;
    }
    for step in [FinishStep::Key, FinishStep::Indexes, FinishStep::ForeignKeys] {
        session.finish(table, step).await?;
    }
    bookkeeping(session, vec![mark(TablePhase::Consistent)]).await;
    snapshots.finish(&table.id).await;
    Ok(())
}

pub(crate) async fn bookkeeping(session: &Arc<dyn DestinationSession>, changes: Vec<Change>) {
    let load = session.begin(&identity(LoadKind::Bookkeeping)).await.unwrap();
    load.commit(&Delta::of(changes)).await.unwrap_or_else(|error| panic!("{error:?}"));
}

pub(crate) fn identity(kind: LoadKind) -> LoadIdentity {
    LoadIdentity { pipeline: pipeline(), lane: Lane::Main, kind }
}

pub(crate) fn pipeline() -> PipelineName {
    PipelineName::new("p").unwrap()
}

pub(crate) fn request(tables: &[Arc<TableSchema>]) -> StreamRequest {
    StreamRequest { pipeline: pipeline(), tables: tables.to_vec(), capture_triggers: true }
}

pub(crate) fn holder() -> Holder {
    Holder { host: "here".into(), boot_id: "now".into(), pid: std::process::id(), process_start: 1 }
}

pub(crate) fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    connection.pragma_update(None, "synchronous", "off").unwrap();
    connection
}

fn table_names(connection: &Connection) -> Vec<String> {
    let sql =
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_syncline%' ESCAPE '\\'
               AND name NOT LIKE 'sqlite%' ORDER BY name";
    let mut statement = connection.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

/// Every value with its storage class and its bits.
pub(crate) fn rows(connection: &Connection, table: &str) -> Vec<String> {
    let sql = format!("SELECT * FROM \"{}\"", table.replace('"', "\"\""));
    let mut statement = connection.prepare(&sql).unwrap();
    let width = statement.column_count();
    let value = |value: ValueRef<'_>| match value {
        ValueRef::Real(number) => format!("real {:016x}", number.to_bits()),
        other => format!("{other:?}"),
    };
    let row = |row: &rusqlite::Row<'_>| {
        let values: rusqlite::Result<Vec<_>> =
            (0..width).map(|column| row.get_ref(column).map(value)).collect();
        values.map(|values| values.join(", "))
    };
    let mut rows: Vec<String> =
        statement.query_map([], row).unwrap().collect::<rusqlite::Result<_>>().unwrap();
    rows.sort();
    rows
}

/// One value of a query.
pub(crate) fn one<T: rusqlite::types::FromSql>(connection: &Connection, sql: &str) -> T {
    connection.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}
