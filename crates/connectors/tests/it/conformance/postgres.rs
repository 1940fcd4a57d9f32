//! PostgreSQL: one server for a suite, one database for a case.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch};
use async_trait::async_trait;
use syncline_connectors::registry;
use syncline_core::{Carriage, Carry, Column, Destination, Selection, Source, TableSchema};
use syncline_testkit::conformance::destination::{DestinationFixture, DestinationHarness, Encode};
use syncline_testkit::conformance::source::{OpenWrite, SourceFixture, SourceHarness, SourceOffers};
use syncline_testkit::conformance::{Cell, Decode, Row, Standard, Write, destination, source};
use syncline_testkit::postgres::Postgres;
use tokio_postgres::{Client, SimpleQueryMessage};

/// A server and the databases of its cases. Only one case runs at a time, so each begins by sweeping up after the last.
struct Databases {
    server: Postgres,
    made: AtomicU64,
}

impl Databases {
    /// Of this major version or a later one.
    fn start(major_min: u32) -> Option<Self> {
        // A case's pipelines are ended by dropping them, not by their slots: a few may be there at once.
        let server =
            Postgres::builder().at_least(major_min).setting("max_replication_slots", "20").start()?;
        Some(Self { server, made: AtomicU64::new(0) })
    }

    async fn fresh(&self) -> (String, Client) {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        if number > 0 {
            self.sweep(&format!("case{}", number - 1)).await;
        }
        let name = format!("case{number}");
        self.server.create_database(&name).await;
        let client = self.server.client(&name).await;
        (name, client)
    }

    /// Ends what a case left running, and drops its slots and its database.
    async fn sweep(&self, database: &str) {
        let ended = "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE active";
        self.server.execute("postgres", ended).await;
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active";
        self.server.execute("postgres", drop).await;
        self.server.execute("postgres", &format!("DROP DATABASE {database} WITH (FORCE)")).await;
    }
}

async fn create(client: &Client, tables: &[Standard]) {
    for table in tables {
        client.batch_execute(table.create_statement()).await.expect("a standard table");
        if table.key_columns() == 0 {
            let full = format!("ALTER TABLE {} REPLICA IDENTITY FULL", table.name());
            client.batch_execute(&full).await.expect("a replica identity");
        }
    }
}

async fn query(client: &Client, sql: &str) -> Vec<Row> {
    let messages = client.simple_query(sql).await.expect("a query");
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

async fn names(client: &Client, sql: &str) -> Vec<String> {
    query(client, sql).await.into_iter().map(|row| row.into_iter().flatten().collect()).collect()
}

fn sql_of(writes: &[Write]) -> String {
    writes.iter().map(|write| write.to_sql("ctid")).collect::<Vec<_>>().join(";\n")
}

fn is_integer(column: &Column) -> bool {
    assert_eq!(column.carriage, Carriage::Native, "built-in types travel as they are");
    match column.native_type.as_str() {
        "integer" => true,
        "text" => false,
        other => panic!("a standard table has no column of type {other}"),
    }
}

struct Values;

impl Decode for Values {
    fn decode(&self, column: &Column, array: &ArrayRef, row: usize) -> Cell {
        let array = array.as_binary::<i32>();
        array.is_valid(row).then(|| {
            let bytes = array.value(row);
            if is_integer(column) {
                i32::from_be_bytes(bytes.try_into().expect("four bytes")).to_string()
            } else {
                String::from_utf8(bytes.to_vec()).expect("UTF-8")
            }
        })
    }
}

impl Encode for Values {
    fn encode(&self, column: &Column, cells: &[Cell]) -> ArrayRef {
        let bytes = |text: &String| {
            if is_integer(column) {
                text.parse::<i32>().expect("an integer").to_be_bytes().to_vec()
            } else {
                text.clone().into_bytes()
            }
        };
        let values: Vec<Option<Vec<u8>>> = cells.iter().map(|cell| cell.as_ref().map(bytes)).collect();
        Arc::new(values.iter().map(Option::as_deref).collect::<BinaryArray>())
    }
}

/// What COPY's binary form begins with: its signature, no flags, no extension.
const COPY_HEADER: [u8; 19] = *b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, after) = rest.split_at(count);
    *rest = after;
    taken
}

/// The rows of a stream in COPY's binary form, values as they stand in it.
fn from_copy(table: &TableSchema, form: &str, stream: &[u8]) -> RecordBatch {
    assert_eq!(form, "binary", "the standard tables need no other form");
    let mut rest = stream.strip_prefix(&COPY_HEADER).expect("the header of COPY");
    let mut columns: Vec<Vec<Option<&[u8]>>> = vec![Vec::new(); table.columns.len()];
    loop {
        let count = i16::from_be_bytes(take(&mut rest, 2).try_into().expect("two bytes"));
        if count == -1 {
            break;
        }
        assert_eq!(usize::try_from(count).ok(), Some(columns.len()), "one field for each column");
        for column in &mut columns {
            let length = i32::from_be_bytes(take(&mut rest, 4).try_into().expect("four bytes"));
            column.push(usize::try_from(length).ok().map(|length| take(&mut rest, length)));
        }
    }
    assert!(rest.is_empty(), "nothing follows the trailer");
    let arrays = columns.into_iter().map(|column| Arc::new(BinaryArray::from(column)) as ArrayRef);
    RecordBatch::try_new(table.arrow(), arrays.collect()).expect("rows of the table")
}

fn to_copy(table: &TableSchema, rows: &[Row]) -> Vec<u8> {
    let mut stream = COPY_HEADER.to_vec();
    for row in rows {
        stream.extend(i16::try_from(row.len()).expect("few columns").to_be_bytes());
        for (column, cell) in table.columns.iter().zip(row) {
            let array = Values.encode(column, std::slice::from_ref(cell));
            let array = array.as_binary::<i32>();
            let length = if array.is_null(0) { -1 } else { array.value_length(0) };
            stream.extend(length.to_be_bytes());
            stream.extend(array.value(0));
        }
    }
    stream.extend((-1_i16).to_be_bytes());
    stream
}

struct Reading {
    url: String,
    client: Client,
    other: tokio::sync::Mutex<Vec<Client>>,
}

impl Decode for Reading {
    fn decode(&self, column: &Column, array: &ArrayRef, row: usize) -> Cell {
        Values.decode(column, array, row)
    }
}

#[async_trait]
impl SourceFixture for Reading {
    fn source(&self) -> Arc<dyn Source> {
        registry::source(&self.url).expect("a source")
    }

    fn schema(&self) -> String {
        "public".to_owned()
    }

    async fn write(&self, writes: &[Write]) {
        let sql = format!("BEGIN;\n{};\nCOMMIT", sql_of(writes));
        self.client.batch_execute(&sql).await.expect("a valid write");
    }

    async fn analyze(&self) {
        self.client.batch_execute("ANALYZE").await.expect("statistics");
    }

    async fn write_open(&self, writes: &[Write]) -> Box<dyn OpenWrite> {
        let client = self.other.lock().await.pop().expect("one open transaction in a case");
        client.batch_execute(&format!("BEGIN;\n{}", sql_of(writes))).await.expect("a valid write");
        Box::new(Open(client))
    }

    fn unbulk(&self, table: &TableSchema, form: &str, stream: &[u8]) -> RecordBatch {
        from_copy(table, form, stream)
    }

    async fn truth(&self, table: Standard) -> Vec<Row> {
        query(&self.client, &format!("SELECT * FROM {}", table.name())).await
    }

    async fn leftovers(&self) -> Vec<String> {
        let sql = "SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
            UNION ALL SELECT 'publication ' || pubname FROM pg_publication
            UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal
            UNION ALL SELECT 'table ' || relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
                WHERE relkind = 'r' AND nspname !~ '^pg_|^information_schema$'
                AND relname NOT IN ('items', 'pairs', 'codes', 'log')";
        names(&self.client, sql).await
    }
}

struct Open(Client);

#[async_trait]
impl OpenWrite for Open {
    async fn commit(self: Box<Self>) {
        self.0.batch_execute("COMMIT").await.expect("a commit");
    }
}

struct SourceOnServer(Databases);

#[async_trait]
impl SourceHarness for SourceOnServer {
    fn offers(&self) -> SourceOffers {
        SourceOffers { keyless: true, truncate: true, every_change: true, open_transactions: true }
    }

    fn carry(&self) -> Carry {
        Carry::Native
    }

    fn chunks_min(&self) -> usize {
        if super::sizes_are_small() { 2 } else { 1 }
    }

    async fn fixture(&self) -> Box<dyn SourceFixture> {
        let (database, client) = self.0.fresh().await;
        create(&client, &Standard::ALL).await;
        let other = self.0.server.client(&database).await;
        let url = self.0.server.url(&database);
        Box::new(Reading { url, client, other: tokio::sync::Mutex::new(vec![other]) })
    }
}

struct Writing {
    url: String,
    client: Client,
    tables: Vec<Arc<TableSchema>>,
}

impl Encode for Writing {
    fn encode(&self, column: &Column, cells: &[Cell]) -> ArrayRef {
        Values.encode(column, cells)
    }
}

#[async_trait]
impl DestinationFixture for Writing {
    fn destination(&self) -> Arc<dyn Destination> {
        registry::destination(&self.url).expect("a destination")
    }

    fn table(&self, table: Standard) -> Arc<TableSchema> {
        let found = self.tables.iter().find(|schema| schema.id.name == table.name());
        Arc::clone(found.expect("a standard table"))
    }

    async fn create(&self, table: Standard, rows: &[Row]) {
        create(&self.client, &[table]).await;
        for row in rows {
            let sql = Write::Insert(table, row.clone()).to_sql("ctid");
            self.client.batch_execute(&sql).await.expect("a row");
        }
    }

    fn bulk(&self, table: &TableSchema, rows: &[Row]) -> Option<(&'static str, Vec<u8>)> {
        Some(("binary", to_copy(table, rows)))
    }

    async fn truth(&self, table: Standard) -> Option<Vec<Row>> {
        let there = format!("SELECT 1 FROM pg_class WHERE oid = to_regclass('public.{}')", table.name());
        if query(&self.client, &there).await.is_empty() {
            return None;
        }
        Some(query(&self.client, &format!("SELECT * FROM public.{}", table.name())).await)
    }

    async fn written(&self, table: Standard) -> Option<Vec<(Row, String)>> {
        let sql = format!("SELECT xmin::text || ctid::text, * FROM public.{}", table.name());
        let split = |mut row: Row| {
            let mark = row.remove(0).unwrap_or_default();
            (table.identity(&row), mark)
        };
        Some(query(&self.client, &sql).await.into_iter().map(split).collect())
    }

    async fn leftovers(&self) -> Vec<String> {
        let sql = "SELECT 'schema ' || nspname FROM pg_namespace
                WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public')
            UNION ALL SELECT 'relation ' || nspname || '.' || relname FROM pg_class c
                JOIN pg_namespace n ON n.oid = relnamespace
                WHERE relkind IN ('r', 'v', 'S') AND nspname !~ '^pg_' AND nspname <> 'information_schema'
                AND relname NOT IN ('items', 'pairs', 'codes', 'log')";
        names(&self.client, sql).await
    }
}

struct DestinationOnServer {
    databases: Databases,
    tables: Vec<Arc<TableSchema>>,
}

impl DestinationOnServer {
    async fn new(databases: Databases) -> Self {
        databases.server.create_database("shapes").await;
        let client = databases.server.client("shapes").await;
        create(&client, &Standard::ALL).await;
        let source = registry::source(&databases.server.url("shapes")).expect("a source");
        let tables = source.discover(&Selection::all(Carry::Native)).await.expect("tables");
        Self { databases, tables: tables.into_iter().map(Arc::new).collect() }
    }
}

#[async_trait]
impl DestinationHarness for DestinationOnServer {
    async fn fixture(&self) -> Box<dyn DestinationFixture> {
        let (database, client) = self.databases.fresh().await;
        let url = self.databases.server.url(&database);
        Box::new(Writing { url, client, tables: self.tables.clone() })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_source_conforms() {
    let Some(databases) = Databases::start(14) else { return };
    source::run_all(&SourceOnServer(databases)).await.assert_passed(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_destination_conforms() {
    let Some(databases) = Databases::start(15) else { return };
    let harness = DestinationOnServer::new(databases).await;
    destination::run_all(&harness).await.assert_passed(&[]);
}

#[cfg(feature = "failpoints")]
#[test]
fn the_source_conforms_in_several_chunks() {
    if syncline_testkit::postgres::Installation::find_or_skip(None).is_some() {
        super::run_with_small_sizes("conformance::postgres::the_source_conforms", "chunk_bytes=size:65536");
    }
}
