//! One server for all tests, a database for each, and parts made of text.
//!
//! Values become native binary ones by asking the server for their binary form, so no test trusts an encoder of ours.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arrow_array::{ArrayRef, BinaryArray, RecordBatch};
use syncline_connectors::registry;
use syncline_core::{
    Carriage, Change, ChangeBatch, Column, ColumnMask, DataType, Delta, DestinationSession, Durable, Family,
    FinishStep, Holder, Lane, LoadIdentity, LoadKind, Masks, NativeDefinition, OldKeys, Operation, Part,
    PipelineName, Position, Prepare, Result, SchemaMap, TableId, TablePhase, TableSchema,
};
use syncline_testkit::postgres::Postgres;
use tokio_postgres::Client;
use tokio_postgres::types::{FromSql, Type};

static DATABASES: AtomicU64 = AtomicU64::new(0);

/// The server of this test process; it ends with it.
pub(super) fn server() -> Option<&'static Postgres> {
    static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
    // A destination needs MERGE.
    SERVER.get_or_init(|| Postgres::builder().at_least(15).start()).as_ref()
}

/// A fresh database, and a client that looks at it.
pub(super) struct World {
    pub(super) url: String,
    pub(super) client: Client,
}

impl World {
    pub(super) async fn new() -> Option<Self> {
        let server = server()?;
        let name = format!("d{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        server.create_database(&name).await;
        Some(Self { url: server.url(&name), client: server.client(&name).await })
    }

    pub(super) async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Rows as text, one string a row.
    pub(super) async fn rows(&self, sql: &str) -> Vec<String> {
        let sql = format!("SELECT q::text FROM ({sql}) q");
        let rows = self.client.query(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    pub(super) async fn held(&self, pipeline: &str) -> Held<'_> {
        self.held_mapped(pipeline, SchemaMap::default()).await
    }

    pub(super) async fn held_mapped(&self, pipeline: &str, map: SchemaMap) -> Held<'_> {
        let session = open(&self.url, pipeline, &map).await.unwrap();
        Held { world: self, session, name: PipelineName::new(pipeline).unwrap(), at: 0 }
    }

    /// The native binary form of text values of these types.
    async fn encode(&self, columns: &[&Column], rows: &[Vec<Option<String>>]) -> Vec<ArrayRef> {
        let mut arrays = Vec::new();
        for (place, column) in columns.iter().enumerate() {
            let texts: Vec<Option<&str>> = rows.iter().map(|row| row[place].as_deref()).collect();
            let values: Vec<Option<Vec<u8>>> = if column.carriage == Carriage::NativeText {
                texts.iter().map(|text| text.map(|text| text.as_bytes().to_vec())).collect()
            } else {
                let sql = format!(
                    "SELECT v::{} FROM unnest($1::text[]) WITH ORDINALITY AS u (v, n) ORDER BY n",
                    column.native_type
                );
                let rows = self.client.query(&sql, &[&texts]).await.unwrap();
                rows.iter().map(|row| row.get::<_, Option<Raw>>(0).map(|raw| raw.0)).collect()
            };
            arrays.push(Arc::new(BinaryArray::from_iter(values)) as ArrayRef);
        }
        arrays
    }
}

struct Raw(Vec<u8>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }
    fn accepts(_: &Type) -> bool {
        true
    }
}

/// This process, as a holder.
pub(super) fn holder() -> Holder {
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let stat = read("/proc/self/stat");
    Holder {
        host: read("/proc/sys/kernel/hostname").trim().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        pid: std::process::id(),
        process_start: stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap(),
    }
}

pub(super) async fn open(url: &str, pipeline: &str, map: &SchemaMap) -> Result<Arc<dyn DestinationSession>> {
    let name = PipelineName::new(pipeline).unwrap();
    registry::destination(url).unwrap().open(&name, &holder(), map).await
}

/// A table with natively carried columns `(name, type)`; a type ending in `!` is carried as text. The first `key`
/// columns are the row key.
pub(super) fn table(id: (&str, &str), columns: &[(&str, &str)], key: usize) -> Arc<TableSchema> {
    let columns: Vec<Column> = columns
        .iter()
        .enumerate()
        .map(|(place, (name, sql_type))| Column {
            name: (*name).to_owned(),
            data_type: DataType::Native((*sql_type).to_owned()),
            nullable: place >= key,
            native_type: sql_type.trim_end_matches('!').to_owned(),
            carriage: if sql_type.ends_with('!') { Carriage::NativeText } else { Carriage::Native },
        })
        .collect();
    Arc::new(TableSchema {
        id: TableId::new(id.0, id.1),
        row_key: (0..key).collect(),
        columns,
        version: 1,
        rows_estimated: None,
        native: None,
    })
}

/// The same with a definition: `parts` overrides the plain one that follows from the columns.
pub(super) fn defined(table: &TableSchema, parts: &serde_json::Value) -> Arc<TableSchema> {
    let columns: Vec<_> = table
        .columns
        .iter()
        .map(|column| {
            serde_json::json!({
                "name": column.name, "sql_type": column.native_type, "not_null": !column.nullable,
                "collation": null, "generated": null,
            })
        })
        .collect();
    let key: Vec<_> = table.row_key.iter().map(|&column| table.columns[column].name.clone()).collect();
    let primary = (!key.is_empty())
        .then(|| serde_json::json!({"name": format!("{}_pkey", table.id.name), "columns": key}));
    let mut definition = serde_json::json!({
        "columns": columns, "types": [], "primary_key": primary, "indexes": [], "foreign_keys": [],
        "partitioning": null,
    });
    for (name, value) in parts.as_object().unwrap() {
        definition[name] = value.clone();
    }
    let native = NativeDefinition { family: Family::POSTGRES, definition };
    Arc::new(TableSchema { native: Some(native), ..table.clone() })
}

/// One change: values are text, `~` is left out, `NULL` is null.
#[derive(Clone)]
pub(super) struct Say {
    operation: Operation,
    row: Vec<String>,
    old: Option<Vec<String>>,
}

fn owned(row: &[&str]) -> Vec<String> {
    row.iter().map(|value| (*value).to_owned()).collect()
}

pub(super) fn insert(row: &[&str]) -> Say {
    Say { operation: Operation::Insert, row: owned(row), old: None }
}

pub(super) fn upsert(row: &[&str]) -> Say {
    Say { operation: Operation::Upsert, row: owned(row), old: None }
}

pub(super) fn update(row: &[&str]) -> Say {
    Say { operation: Operation::Update, row: owned(row), old: None }
}

/// An update of the row that was at `old`.
pub(super) fn moved(old: &[&str], row: &[&str]) -> Say {
    Say { operation: Operation::Update, row: owned(row), old: Some(owned(old)) }
}

/// A delete by key (by image, where there is none).
pub(super) fn delete(key: &[&str]) -> Say {
    Say { operation: Operation::Delete, row: owned(key), old: None }
}

pub(super) fn truncate() -> Say {
    Say { operation: Operation::Truncate, row: Vec::new(), old: None }
}

fn cell(text: &str) -> Option<String> {
    (text != "~" && text != "NULL").then(|| text.to_owned())
}

/// A pipeline held at a world's database.
pub(super) struct Held<'w> {
    pub(super) world: &'w World,
    pub(super) session: Arc<dyn DestinationSession>,
    pub(super) name: PipelineName,
    at: u64,
}

impl Held<'_> {
    pub(super) fn identity(&self, kind: LoadKind) -> LoadIdentity {
        LoadIdentity { pipeline: self.name.clone(), lane: Lane::Main, kind }
    }

    /// Commits changes of the checkpoint alone.
    pub(super) async fn mark(&self, changes: Vec<Change>) -> Result<Durable> {
        let load = self.session.begin(&self.identity(LoadKind::Bookkeeping)).await?;
        load.commit(&Delta::of(changes)).await
    }

    /// Prepares a table, opens its place in the checkpoint, and gives it its key.
    pub(super) async fn ready(&mut self, table: &Arc<TableSchema>) {
        self.session.prepare(table, None).await.unwrap();
        self.open_table(table).await;
        self.session.finish(table, FinishStep::Key).await.unwrap();
        self.session.finish(table, FinishStep::Indexes).await.unwrap();
    }

    pub(super) async fn open_table(&mut self, table: &Arc<TableSchema>) {
        let mut changes =
            vec![Change::Mark { table: table.id.clone(), phase: TablePhase::Snapshot, generation: 1 }];
        if self.session.checkpoint().await.unwrap().lanes.is_empty() {
            self.at = 1;
            changes.push(Change::Open { lane: Lane::Main, at: Position::from_u64(1) });
        }
        self.mark(changes).await.unwrap();
    }

    pub(super) async fn prepare(
        &self,
        table: &Arc<TableSchema>,
        mode: Option<Prepare>,
    ) -> syncline_core::Prepared {
        self.session.prepare(table, mode).await.unwrap()
    }

    /// The delta that moves the main lane one on.
    pub(super) fn advance(&mut self) -> Delta {
        let (from, to) = (Position::from_u64(self.at), Position::from_u64(self.at + 1));
        self.at += 1;
        let advance = Change::Advance { lane: Lane::Main, from, to };
        Delta { changes: vec![advance], reread_missing: true }
    }

    /// Loads one part per list and moves the main lane on.
    pub(super) async fn load(&mut self, table: &Arc<TableSchema>, parts: &[Vec<Say>]) -> Result<Durable> {
        let at = Position::from_u64(self.at);
        let kind = LoadKind::Changes { from: at.clone(), to: at };
        let mut load = self.session.begin(&self.identity(kind)).await?;
        for part in parts {
            load.write(self.part(table, part).await).await?;
        }
        let delta = self.advance();
        match load.commit(&delta).await {
            Ok(durable) => Ok(durable),
            Err(error) => {
                self.at -= 1;
                Err(error)
            }
        }
    }

    /// A part of changes; the caller keeps them in the order of keys.
    pub(super) async fn part(&self, table: &Arc<TableSchema>, says: &[Say]) -> Part {
        let width = table.columns.len();
        let mut masks = Masks::new();
        let mut rows = Vec::new();
        let mut images = Vec::new();
        let mut old_rows = Vec::new();
        for say in says {
            let mut row: Vec<Option<String>> = say.row.iter().map(|text| cell(text)).collect();
            row.resize(width, None);
            rows.push(row);
            let mut mask = ColumnMask::none();
            say.row.iter().enumerate().filter(|(_, text)| *text == "~").for_each(|(n, _)| mask.insert(n));
            masks.push(&mask);
            old_rows.push(say.old.as_ref().map(|_| u32::try_from(images.len()).unwrap()));
            images.extend(say.old.as_ref().map(|old| old.iter().map(|t| cell(t)).collect::<Vec<_>>()));
        }
        let columns: Vec<&Column> = table.columns.iter().collect();
        let old_columns: Vec<&Column> = table.old_columns().into_iter().map(|n| &table.columns[n]).collect();
        let arrays = self.world.encode(&columns, &rows).await;
        let old = if images.is_empty() {
            None
        } else {
            let arrays = self.world.encode(&old_columns, &images).await;
            Some(OldKeys { row: old_rows, keys: RecordBatch::try_new(table.arrow_old(), arrays).unwrap() })
        };
        let batch = ChangeBatch {
            table: Arc::clone(table),
            rows: RecordBatch::try_new(table.arrow(), arrays).unwrap(),
            operations: says.iter().map(|say| say.operation).collect(),
            ordinals: (0..says.len() as u64).collect(),
            transactions: vec![0; says.len()],
            masks: (!masks.is_trivial()).then_some(masks),
            old,
        };
        Part::Changes(batch.check().unwrap())
    }

    /// Rows of a chunk.
    pub(super) async fn rows(&self, table: &Arc<TableSchema>, rows: &[&[&str]]) -> Part {
        let rows: Vec<Vec<Option<String>>> =
            rows.iter().map(|row| row.iter().map(|text| cell(text)).collect()).collect();
        let columns: Vec<&Column> = table.columns.iter().collect();
        let arrays = self.world.encode(&columns, &rows).await;
        Part::Rows { table: Arc::clone(table), rows: RecordBatch::try_new(table.arrow(), arrays).unwrap() }
    }
}

/// `(applied, unchanged, rereads)`.
pub(super) fn counts(durable: &Durable) -> (u64, u64, u64) {
    (durable.counts.applied, durable.counts.unchanged, durable.counts.rereads)
}
