//! The stream against a real server.

mod catching_up;
mod changes;
mod connection;
mod resuming;
mod speed;
mod stopping;
mod tls;

use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use syncline_core::{
    Carriage, ChangeBatch, ChangeStream, Column, DataType, Entry, ErrorKind, PipelineName, Position, Result,
    StreamEvent, StreamRequest, TableId, TableSchema,
};
use syncline_testkit::postgres::{Builder, Postgres};

use super::*;

const DATABASE: &str = "shop";
/// No event may take longer than this.
const EVENT_MAX: Duration = Duration::from_secs(30);

/// A server with a published database.
struct Shop {
    server: Postgres,
    request: StreamRequest,
    /// Where the slot began.
    begin: Position,
}

impl Shop {
    /// Starts a server, runs `ddl`, publishes `tables`, makes the slot. `None` without PostgreSQL.
    async fn open(server: Builder, ddl: &str, tables: &[&str]) -> Option<Self> {
        let server = server.start()?;
        server.create_database(DATABASE).await;
        server.execute(DATABASE, ddl).await;
        let mut schemas = Vec::new();
        for table in tables {
            schemas.push(Arc::new(schema(&server, table).await));
        }
        let request = StreamRequest {
            pipeline: PipelineName::new("shop").unwrap(),
            tables: schemas,
            capture_triggers: false,
        };
        let publish = format!(
            "CREATE PUBLICATION syncline_shop FOR TABLE {} WITH (publish_via_partition_root = true)",
            tables.join(", ")
        );
        server.execute(DATABASE, &publish).await;
        let mut shop = Self { server, request, begin: Position::start() };
        shop.make_slot("syncline_shop").await;
        Some(shop)
    }

    async fn make_slot(&mut self, name: &str) {
        let made = format!("SELECT lsn FROM pg_create_logical_replication_slot('{name}', 'pgoutput')");
        self.begin = self.lsn(&made).await;
    }

    fn address(&self) -> Address {
        Address::parse(&self.server.url(DATABASE)).unwrap()
    }

    async fn run(&self, sql: &str) {
        self.server.execute(DATABASE, sql).await;
    }

    async fn text(&self, sql: &str) -> String {
        let client = self.server.client(DATABASE).await;
        for message in client.simple_query(sql).await.unwrap() {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                return row.get(0).unwrap_or_default().to_owned();
            }
        }
        String::new()
    }

    async fn lsn(&self, sql: &str) -> Position {
        self.text(sql).await.parse::<Lsn>().unwrap().position()
    }

    /// A position at or after everything committed now.
    async fn end(&self) -> Position {
        self.lsn("SELECT pg_current_wal_insert_lsn()").await
    }

    async fn confirmed(&self) -> Position {
        self.lsn("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'syncline_shop'")
            .await
    }

    /// Waits until the server counts the slot as unused.
    async fn until_free(&self) {
        for _ in 0..500 {
            if self.text("SELECT bool_or(active) FROM pg_replication_slots").await == "f" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the slot stays in use");
    }

    async fn stream(&self, from: &Position, target: Option<&Position>) -> Result<Box<dyn ChangeStream>> {
        open(&self.address(), &self.request, from, target).await
    }

    /// A stream by walsender from the beginning, whatever the distance.
    async fn walsender(&self, target: &Position) -> PgStream {
        let (address, subscription) = (self.address(), Subscription::new(&self.request.pipeline, true));
        let mut sql = startup::connect(&address, Purpose::Sql).await.unwrap();
        let sizes = PageSizes::read(&mut sql).await.unwrap();
        let from = Lsn::of(&self.begin).unwrap();
        let catalogue = slot::catalogue(&mut sql, &self.request.tables).await.unwrap();
        let assembler = Assembler::new(&self.request.tables, catalogue, from).unwrap();
        let handover = Arc::new(Handover::new(from));
        let target = Some(Target::new(Lsn::of(target).unwrap(), sizes));
        let pump = Pump::new(assembler, handover.clone(), target);
        let walsender = walsender::start(&address, &subscription, from).await.unwrap();
        let reader = Reader { address, subscription, pump };
        let task = tokio::spawn(reader.run(Way::Walsender(walsender)));
        PgStream { handover, task: Some(task) }
    }

    /// Everything from `from` to now, read by a stream of its own.
    async fn read_from(&self, from: &Position) -> Vec<StreamEvent> {
        let target = self.end().await;
        let mut stream = self.stream(from, Some(&target)).await.unwrap();
        let events = read_to(stream.as_mut(), &target).await;
        stream.close().await;
        events
    }

    /// Everything until now.
    async fn read(&self) -> Vec<String> {
        lines(&self.read_from(&self.begin).await)
    }
}

async fn next(stream: &mut dyn ChangeStream) -> Result<StreamEvent> {
    tokio::time::timeout(EVENT_MAX, stream.next()).await.expect("an event in time")
}

/// Reads to `target`, acknowledging as it goes.
async fn read_to(stream: &mut dyn ChangeStream, target: &Position) -> Vec<StreamEvent> {
    let mut events = Vec::new();
    loop {
        let event = next(stream).await.unwrap();
        let reached = match &event {
            StreamEvent::Entry(entry) => {
                stream.acknowledge(&entry.to);
                entry.to >= *target
            }
            StreamEvent::TableStopped { .. } => false,
        };
        events.push(event);
        if reached {
            return events;
        }
    }
}

fn entries(events: &[StreamEvent]) -> impl Iterator<Item = &Entry> {
    events.iter().filter_map(|event| match event {
        StreamEvent::Entry(entry) => Some(entry),
        StreamEvent::TableStopped { .. } => None,
    })
}

/// Every change in the source's order, as `t insert 1,a [without 2] [was 0]`, and every stop.
fn lines(events: &[StreamEvent]) -> Vec<String> {
    let mut lines = Vec::new();
    for event in events {
        match event {
            StreamEvent::TableStopped { table, .. } => lines.push(format!("stopped {}", table.name)),
            StreamEvent::Entry(entry) => {
                let mut changes: Vec<_> = entry.batches.iter().flat_map(changes_of).collect();
                changes.sort_unstable();
                lines.extend(changes.into_iter().map(|(_, line)| line));
            }
        }
    }
    lines
}

fn changes_of(batch: &ChangeBatch) -> Vec<(u64, String)> {
    let columns: Vec<_> = (0..batch.table.columns.len()).collect();
    (0..batch.len())
        .map(|row| {
            let operation = format!("{:?}", batch.operations[row]).to_lowercase();
            let mut line = format!(
                "{} {operation} {}",
                batch.table.id.name,
                row_text(batch, &batch.rows, &columns, row)
            );
            if let Some(mask) = batch.mask(row) {
                line += &format!(" without {:?}", mask.iter().collect::<Vec<_>>());
            }
            if let Some(old) = batch.old_row(row) {
                let images = &batch.old.as_ref().unwrap().keys;
                line += &format!(" was {}", row_text(batch, images, &batch.table.old_columns(), old));
            }
            (batch.ordinals[row], line)
        })
        .collect()
}

fn row_text(batch: &ChangeBatch, rows: &RecordBatch, columns: &[usize], row: usize) -> String {
    let value = |(place, column): (usize, &usize)| {
        let array = rows.column(place).as_binary::<i32>();
        if array.is_null(row) {
            return "-".to_owned();
        }
        let bytes = array.value(row);
        match (batch.table.columns[*column].native_type.as_str(), bytes.len()) {
            ("integer", 4) => i32::from_be_bytes(bytes.try_into().unwrap()).to_string(),
            (_, 33..) => format!("{}*{}", char::from(bytes[0]), bytes.len()),
            _ => String::from_utf8_lossy(bytes).into_owned(),
        }
    };
    columns.iter().enumerate().map(value).collect::<Vec<_>>().join(",")
}

/// The table as a pipeline would know it, with every column carried in its binary form.
async fn schema(server: &Postgres, table: &str) -> TableSchema {
    let client = server.client(DATABASE).await;
    let columns = client
        .query(
            "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute \
             WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
            &[&table],
        )
        .await
        .unwrap();
    let key = client
        .query(
            "SELECT a.attname::text FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(attnum, n), pg_attribute a \
             WHERE i.indrelid = $1::text::regclass AND (i.indisreplident OR (i.indisprimary AND NOT EXISTS \
               (SELECT FROM pg_index o WHERE o.indrelid = i.indrelid AND o.indisreplident))) \
               AND a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.n",
            &[&table],
        )
        .await
        .unwrap();
    let columns: Vec<Column> = columns
        .iter()
        .map(|row| Column {
            name: row.get(0),
            data_type: DataType::Text,
            nullable: true,
            native_type: row.get(1),
            carriage: Carriage::Native,
        })
        .collect();
    let place = |row: &tokio_postgres::Row| {
        let name: String = row.get(0);
        columns.iter().position(|column| column.name == name).unwrap()
    };
    TableSchema {
        id: TableId::new("public", table),
        row_key: key.iter().map(place).collect(),
        columns,
        version: 1,
        rows_estimated: None,
        native: None,
    }
}
