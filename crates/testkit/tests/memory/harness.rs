//! The harnesses of the in-memory pair.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BinaryArray};
use async_trait::async_trait;
use syncline_core::{Carry, Column, Destination, PipelineName, Selection, Source, TableId, TableSchema};
use syncline_testkit::conformance::destination::{DestinationFixture, DestinationHarness, Encode};
use syncline_testkit::conformance::source::{OpenWrite, SourceFixture, SourceHarness, SourceOffers};
use syncline_testkit::conformance::{Cell, Decode, Row, Standard, Write};
use syncline_testkit::memory::{
    Cutting, Database, MemoryDestination, MemorySource, OpenTransaction, TableDefinition,
};

pub(crate) fn definition(table: Standard) -> TableDefinition {
    let columns: Vec<&str> = table.columns().iter().map(|(name, _)| *name).collect();
    let definition =
        TableDefinition::new("public", table.name(), &columns).key(&columns[..table.key_columns()]);
    match table {
        Standard::Items => definition.toast(&["big"]),
        Standard::Codes => definition.unique(&["code"]),
        Standard::Pairs | Standard::Log => definition,
    }
}

pub(crate) fn id(table: Standard) -> TableId {
    TableId::new("public", table.name())
}

pub(crate) fn to_bytes(row: &[Cell]) -> Vec<Option<Vec<u8>>> {
    row.iter().map(|cell| cell.as_ref().map(|text| text.clone().into_bytes())).collect()
}

pub(crate) fn to_text(row: &[Option<Vec<u8>>]) -> Row {
    row.iter()
        .map(|value| value.as_ref().map(|bytes| String::from_utf8(bytes.clone()).expect("text")))
        .collect()
}

pub(crate) fn database() -> Database {
    let database = Database::new();
    for table in Standard::ALL {
        let _ = database.create_table(definition(table));
    }
    database
}

pub(crate) struct MemoryFixture {
    pub(crate) database: Database,
    pub(crate) cutting: Cutting,
}

impl Decode for MemoryFixture {
    fn decode(&self, _column: &Column, array: &ArrayRef, row: usize) -> Cell {
        let array = array.as_binary::<i32>();
        array.is_valid(row).then(|| String::from_utf8(array.value(row).to_vec()).expect("text"))
    }
}

#[async_trait]
impl SourceFixture for MemoryFixture {
    fn source(&self) -> Arc<dyn Source> {
        let source = MemorySource::new(&self.database)
            .with_cutting(self.cutting)
            .with_rows_per_chunk(13)
            .with_rows_per_part(5)
            .with_transactions_per_entry(3)
            .with_changes_per_piece(9);
        Arc::new(source)
    }

    fn schema(&self) -> String {
        "public".to_owned()
    }

    async fn write(&self, writes: &[Write]) {
        self.database.transaction(|tx| writes.iter().try_for_each(|w| write(tx, w))).expect("a valid write");
        tokio::task::yield_now().await;
    }

    async fn write_open(&self, writes: &[Write]) -> Box<dyn OpenWrite> {
        let mut tx = self.database.begin();
        writes.iter().try_for_each(|w| write(&mut tx, w)).expect("a valid write");
        Box::new(Open(tx))
    }

    async fn truth(&self, table: Standard) -> Vec<Row> {
        self.database.rows(&id(table)).iter().map(|row| to_text(row)).collect()
    }

    async fn leftovers(&self) -> Vec<String> {
        let name = |name: &str| PipelineName::new(name).expect("a name");
        ["drops", "one", "other"]
            .iter()
            .filter(|pipeline| self.database.confirmed(&name(pipeline)).is_some())
            .map(|pipeline| (*pipeline).to_owned())
            .collect()
    }
}

fn write(tx: &mut OpenTransaction, write: &Write) -> Result<(), syncline_testkit::memory::WriteError> {
    let table = id(write.table());
    match write {
        Write::Insert(_, row) => tx.insert(&table, to_bytes(row)),
        Write::Delete(_, key) => tx.delete(&table, &to_bytes(key)),
        Write::Truncate(_) => tx.truncate(&table),
        Write::Update(_, key, set) => {
            let set: Vec<_> =
                set.iter().map(|(c, cell)| (*c, cell.as_ref().map(|t| t.clone().into_bytes()))).collect();
            tx.update(&table, &to_bytes(key), &set)
        }
    }
}

struct Open(OpenTransaction);

#[async_trait]
impl OpenWrite for Open {
    async fn commit(self: Box<Self>) {
        self.0.commit().expect("a valid transaction");
    }
}

pub(crate) struct MemoryHarness(pub(crate) Cutting);

#[async_trait]
impl SourceHarness for MemoryHarness {
    fn offers(&self) -> SourceOffers {
        SourceOffers { keyless: true, truncate: true, every_change: true, open_transactions: true }
    }

    fn carry(&self) -> Carry {
        Carry::Native
    }

    fn chunks_min(&self) -> usize {
        5
    }

    async fn fixture(&self) -> Box<dyn SourceFixture> {
        Box::new(MemoryFixture { database: database(), cutting: self.0 })
    }
}

pub(crate) struct MemoryTarget {
    destination: MemoryDestination,
    tables: Vec<Arc<TableSchema>>,
}

impl Encode for MemoryTarget {
    fn encode(&self, _column: &Column, cells: &[Cell]) -> ArrayRef {
        Arc::new(cells.iter().map(|cell| cell.as_ref().map(String::as_bytes)).collect::<BinaryArray>())
    }
}

#[async_trait]
impl DestinationFixture for MemoryTarget {
    fn destination(&self) -> Arc<dyn Destination> {
        Arc::new(self.destination.clone())
    }

    fn table(&self, table: Standard) -> Arc<TableSchema> {
        let found = self.tables.iter().find(|schema| schema.id == id(table));
        Arc::clone(found.expect("a standard table"))
    }

    async fn create(&self, table: Standard, rows: &[Row]) {
        let rows: Vec<_> = rows.iter().map(|row| to_bytes(row)).collect();
        let _ = self.destination.clone().with_table(&definition(table), &rows);
    }

    async fn truth(&self, table: Standard) -> Option<Vec<Row>> {
        let rows = self.destination.rows(&id(table))?;
        Some(rows.iter().map(|row| to_text(row)).collect())
    }

    async fn written(&self, table: Standard) -> Option<Vec<(Row, String)>> {
        let rows = self.destination.placed(&id(table))?;
        Some(rows.iter().map(|(row, place)| (table.identity(&to_text(row)), place.to_string())).collect())
    }

    async fn leftovers(&self) -> Vec<String> {
        self.destination.pipelines().iter().map(ToString::to_string).collect()
    }
}

pub(crate) struct TargetHarness;

#[async_trait]
impl DestinationHarness for TargetHarness {
    async fn fixture(&self) -> Box<dyn DestinationFixture> {
        let tables = MemorySource::new(&database()).discover(&Selection::all(Carry::Native)).await;
        let tables = tables.expect("tables").into_iter().map(Arc::new).collect();
        Box::new(MemoryTarget { destination: MemoryDestination::new(), tables })
    }
}
