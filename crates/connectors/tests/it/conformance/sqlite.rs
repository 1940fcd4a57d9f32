//! SQLite: one file for a case.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BinaryArray};
use async_trait::async_trait;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use syncline_connectors::registry;
use syncline_core::{Carriage, Carry, Column, Destination, Selection, Source, TableSchema};
use syncline_testkit::conformance::destination::{DestinationFixture, DestinationHarness, Encode};
use syncline_testkit::conformance::source::{OpenWrite, SourceFixture, SourceHarness, SourceOffers};
use syncline_testkit::conformance::{Cell, Decode, Row, Standard, Write, destination, source};
use tempfile::TempDir;

/// The tables that a stream can follow: without a primary key nothing says which row a change is about.
const KEYED: [Standard; 3] = [Standard::Items, Standard::Pairs, Standard::Codes];

/// A file that ends with its case.
struct File {
    directory: TempDir,
}

impl File {
    fn new() -> Self {
        let file = Self { directory: TempDir::new().expect("a directory") };
        file.connect().pragma_update(None, "journal_mode", "wal").expect("WAL");
        file
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("case.db")
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.path().display())
    }

    fn connect(&self) -> Connection {
        connect(&self.path())
    }

    /// As an application that waits for its turn, and needs no durability in a test.
    fn execute(&self, sql: &str) {
        let connection = self.connect();
        connection.execute_batch(sql).unwrap_or_else(|error| panic!("{error}"));
    }

    fn rows(&self, sql: &str) -> Vec<Row> {
        let connection = self.connect();
        let mut statement = connection.prepare(sql).expect("a query");
        let width = statement.column_count();
        let rows =
            statement.query_map([], |row| (0..width).map(|column| row.get_ref(column).map(cell)).collect());
        rows.expect("a query").collect::<Result<_, _>>().expect("rows")
    }

    fn names(&self, sql: &str) -> Vec<String> {
        self.rows(sql).into_iter().map(|row| row.into_iter().flatten().collect()).collect()
    }
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("a file");
    connection.busy_timeout(Duration::from_secs(20)).expect("a timeout");
    connection.pragma_update(None, "synchronous", "off").expect("a setting");
    connection
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Text(bytes) => Some(String::from_utf8(bytes.to_vec()).expect("UTF-8")),
        ValueRef::Real(_) | ValueRef::Blob(_) => panic!("a standard table has only integers and texts"),
    }
}

struct Values;

impl Decode for Values {
    /// Storage class 1 is an integer with its sign turned, 3 is text.
    fn decode(&self, column: &Column, array: &ArrayRef, row: usize) -> Cell {
        assert_eq!(column.carriage, Carriage::Native);
        let array = array.as_binary::<i32>();
        array.is_valid(row).then(|| match array.value(row).split_first() {
            Some((1, bytes)) => {
                let turned = i64::from_be_bytes(bytes.try_into().expect("eight bytes"));
                (turned ^ i64::MIN).to_string()
            }
            Some((3, bytes)) => String::from_utf8(bytes.to_vec()).expect("UTF-8"),
            other => panic!("not an integer and not a text: {other:?}"),
        })
    }
}

impl Encode for Values {
    fn encode(&self, column: &Column, cells: &[Cell]) -> ArrayRef {
        let integer = column.native_type.eq_ignore_ascii_case("integer");
        let bytes = |text: &String| {
            if integer {
                let number: i64 = text.parse().expect("an integer");
                [&[1], (number ^ i64::MIN).to_be_bytes().as_slice()].concat()
            } else {
                [&[3], text.as_bytes()].concat()
            }
        };
        let values: Vec<Option<Vec<u8>>> = cells.iter().map(|cell| cell.as_ref().map(bytes)).collect();
        Arc::new(values.iter().map(Option::as_deref).collect::<BinaryArray>())
    }
}

struct Reading(File);

impl Decode for Reading {
    fn decode(&self, column: &Column, array: &ArrayRef, row: usize) -> Cell {
        Values.decode(column, array, row)
    }
}

#[async_trait]
impl SourceFixture for Reading {
    fn source(&self) -> Arc<dyn Source> {
        registry::source(&self.0.url()).expect("a source")
    }

    fn schema(&self) -> String {
        "main".to_owned()
    }

    async fn write(&self, writes: &[Write]) {
        let sql: Vec<String> = writes.iter().map(|write| write.to_sql("rowid")).collect();
        let (path, sql) = (self.0.path(), format!("BEGIN IMMEDIATE;\n{};\nCOMMIT", sql.join(";\n")));
        // Waits for its turn while the connector reads, so never on a thread of the runtime.
        let written = tokio::task::spawn_blocking(move || connect(&path).execute_batch(&sql));
        written.await.expect("a thread").unwrap_or_else(|error| panic!("{error}"));
    }

    async fn write_open(&self, _writes: &[Write]) -> Box<dyn OpenWrite> {
        panic!("not offered")
    }

    async fn truth(&self, table: Standard) -> Vec<Row> {
        self.0.rows(&format!("SELECT * FROM {}", table.name()))
    }

    async fn leftovers(&self) -> Vec<String> {
        self.0.names(
            "SELECT type || ' ' || name FROM sqlite_schema
             WHERE name NOT LIKE 'sqlite_%' AND name NOT IN ('items', 'pairs', 'codes', 'log')",
        )
    }
}

struct SourceOnFile;

#[async_trait]
impl SourceHarness for SourceOnFile {
    fn offers(&self) -> SourceOffers {
        SourceOffers { keyless: false, truncate: false, every_change: false, open_transactions: false }
    }

    fn carry(&self) -> Carry {
        Carry::Native
    }

    fn chunks_min(&self) -> usize {
        if super::sizes_are_small() { 2 } else { 1 }
    }

    async fn fixture(&self) -> Box<dyn SourceFixture> {
        let file = File::new();
        KEYED.iter().for_each(|table| file.execute(table.create_statement()));
        Box::new(Reading(file))
    }
}

struct Writing {
    file: File,
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
        registry::destination(&self.file.url()).expect("a destination")
    }

    fn table(&self, table: Standard) -> Arc<TableSchema> {
        let found = self.tables.iter().find(|schema| schema.id.name == table.name());
        Arc::clone(found.expect("a standard table"))
    }

    async fn create(&self, table: Standard, rows: &[Row]) {
        self.file.execute(table.create_statement());
        for row in rows {
            self.file.execute(&Write::Insert(table, row.clone()).to_sql("rowid"));
        }
    }

    async fn truth(&self, table: Standard) -> Option<Vec<Row>> {
        let there = format!("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '{}'", table.name());
        if self.file.rows(&there).is_empty() {
            return None;
        }
        Some(self.file.rows(&format!("SELECT * FROM {}", table.name())))
    }

    async fn written(&self, _table: Standard) -> Option<Vec<(Row, String)>> {
        None
    }

    async fn leftovers(&self) -> Vec<String> {
        self.file.names(
            "SELECT type || ' ' || name FROM sqlite_schema
             WHERE name NOT LIKE 'sqlite_%' AND name NOT IN ('items', 'pairs', 'codes', 'log')",
        )
    }
}

struct DestinationOnFile(Vec<Arc<TableSchema>>);

#[async_trait]
impl DestinationHarness for DestinationOnFile {
    async fn fixture(&self) -> Box<dyn DestinationFixture> {
        Box::new(Writing { file: File::new(), tables: self.0.clone() })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_source_conforms() {
    let not_offered = ["stream::truncates_are_told", "life::settled_waits_for_open_transactions"];
    // With small sizes only the cases about chunks run.
    let not_offered = if super::sizes_are_small() { &[][..] } else { &not_offered };
    source::run_all(&SourceOnFile).await.assert_passed(not_offered);
}

#[cfg(feature = "failpoints")]
#[test]
fn the_source_conforms_in_several_chunks() {
    super::run_with_small_sizes("conformance::sqlite::the_source_conforms", "chunk_rows=size:40");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_destination_conforms() {
    let shapes = File::new();
    Standard::ALL.iter().for_each(|table| shapes.execute(table.create_statement()));
    let source = registry::source(&shapes.url()).expect("a source");
    let tables = source.discover(&Selection::all(Carry::Native)).await.expect("tables");
    let harness = DestinationOnFile(tables.into_iter().map(Arc::new).collect());
    // That SQLite leaves unchanged rows alone is shown by its own tests: it has no mark that a row was written again.
    let not_offered =
        ["chunk::pieces_of_bulk_are_one_stream", "changes::unchanged_rows_are_counted_and_left_alone"];
    destination::run_all(&harness).await.assert_passed(&not_offered);
}
