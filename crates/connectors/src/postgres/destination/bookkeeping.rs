//! The schema `syncline`: what a destination remembers of its pipelines, as rows beside the data.
//!
//! It is made when the first pipeline opens and goes with the last one. Its format has a number; a newer one is refused,
//! because an older Syncline would not know what it overwrites.

use std::collections::{BTreeMap, BTreeSet};

use syncline_core::{
    Checkpoint, ChunkEntry, Error, Lane, Parts, PipelineName, Position, Result, RowKey, SchemaMap, TableId,
    TablePhase, TableState,
};
use tokio_postgres::{Client, Row};

use super::super::error::from_client;
use super::delta::Refusal;
use super::letters;

/// Format of the bookkeeping that this version reads and writes.
const FORMAT: i32 = 3;

/// What makes format 2 from format 1: parts of tables.
const FROM_FORMAT_1: &str = "
ALTER TABLE syncline.tables ADD COLUMN IF NOT EXISTS parts text, ADD COLUMN IF NOT EXISTS joining text;
UPDATE syncline.format SET version = 2;
";

/// What makes format 3 from format 2: dead letters.
const FROM_FORMAT_2: &str = "
CREATE TABLE IF NOT EXISTS syncline.letters (
    pipeline text NOT NULL, id int8 NOT NULL, schema text NOT NULL, name text NOT NULL, position bytea NOT NULL,
    keys bytea NOT NULL, reason text NOT NULL, code text, attempts int8 NOT NULL, first_at_ms int8 NOT NULL,
    last_at_ms int8 NOT NULL, change bytea NOT NULL, PRIMARY KEY (pipeline, id)
);
UPDATE syncline.format SET version = 3;
";

/// Serialises whoever makes or removes the bookkeeping.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('syncline bookkeeping', 0))";

const CREATE: &str = "
CREATE SCHEMA IF NOT EXISTS syncline;
CREATE TABLE IF NOT EXISTS syncline.format (version int4 PRIMARY KEY);
CREATE TABLE IF NOT EXISTS syncline.pipelines (
    name text PRIMARY KEY, fence int8 NOT NULL DEFAULT 0, origin text, holder jsonb, opened_at timestamptz,
    backend_pid int4, backend_start timestamptz, heartbeat_at timestamptz
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS syncline.lanes (
    pipeline text NOT NULL, lane text NOT NULL, position bytea NOT NULL, PRIMARY KEY (pipeline, lane)
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS syncline.tables (
    pipeline text NOT NULL, schema text NOT NULL, name text NOT NULL,
    destination_schema text NOT NULL, destination_name text NOT NULL,
    -- Without a phase the table is prepared but not yet in the checkpoint.
    phase text, generation int8 NOT NULL DEFAULT 0,
    -- Whether Syncline made the table, and whether it held rows when its snapshot began.
    created boolean NOT NULL DEFAULT false, kept boolean NOT NULL DEFAULT false,
    -- Its parts as the source names them, and those that the present generation's chunks cover; JSON.
    parts text, joining text,
    PRIMARY KEY (pipeline, schema, name), UNIQUE (destination_schema, destination_name)
);
CREATE TABLE IF NOT EXISTS syncline.chunks (
    pipeline text NOT NULL, schema text NOT NULL, name text NOT NULL, generation int8 NOT NULL, n int8 NOT NULL,
    range text NOT NULL, mark text NOT NULL, rows int8 NOT NULL, PRIMARY KEY (pipeline, schema, name, generation, n)
);
CREATE TABLE IF NOT EXISTS syncline.rereads (
    pipeline text NOT NULL, schema text NOT NULL, name text NOT NULL, key bytea NOT NULL,
    -- A key may be longer than what fits in an index.
    key_hash bytea NOT NULL GENERATED ALWAYS AS (sha256(key)) STORED, PRIMARY KEY (pipeline, schema, name, key_hash)
);
CREATE TABLE IF NOT EXISTS syncline.letters (
    pipeline text NOT NULL, id int8 NOT NULL, schema text NOT NULL, name text NOT NULL, position bytea NOT NULL,
    keys bytea NOT NULL, reason text NOT NULL, code text, attempts int8 NOT NULL, first_at_ms int8 NOT NULL,
    last_at_ms int8 NOT NULL, change bytea NOT NULL, PRIMARY KEY (pipeline, id)
);
CREATE TABLE IF NOT EXISTS syncline.set_aside (
    pipeline text NOT NULL, schema text NOT NULL, name text NOT NULL, step text NOT NULL, object text NOT NULL,
    owner_schema text NOT NULL, owner_name text NOT NULL, statement text NOT NULL,
    PRIMARY KEY (pipeline, schema, name, step, owner_schema, owner_name, object)
);
CREATE OR REPLACE FUNCTION syncline.require(fits boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF fits IS NOT TRUE THEN
        RAISE EXCEPTION 'the checkpoint is not where this commit expects it' USING ERRCODE = 'SYM01';
    END IF;
END $$;
INSERT INTO syncline.format (version) SELECT 3 WHERE NOT EXISTS (SELECT FROM syncline.format);
";

const TABLES: [&str; 8] =
    ["format", "pipelines", "lanes", "tables", "chunks", "rereads", "letters", "set_aside"];

/// Makes the bookkeeping if it is absent, and this pipeline's row in it.
///
/// A new row's fencing token begins with the time in microseconds: a pipeline that was dropped and made again never
/// reuses one, so a holder of the dropped one stays fenced.
///
/// # Errors
/// Configuration if its format is newer than this version, or a privilege is missing.
pub(super) async fn ensure(client: &Client, pipeline: &PipelineName) -> Result<()> {
    let failed = |error| from_client(error, "making the bookkeeping in schema syncline");
    client.batch_execute("BEGIN").await.map_err(failed)?;
    client.batch_execute(LOCK).await.map_err(failed)?;
    match format(client).await? {
        Some(FORMAT) => {}
        Some(1) => {
            client.batch_execute(FROM_FORMAT_1).await.map_err(failed)?;
            client.batch_execute(FROM_FORMAT_2).await.map_err(failed)?;
        }
        Some(2) => client.batch_execute(FROM_FORMAT_2).await.map_err(failed)?,
        None => client.batch_execute(CREATE).await.map_err(failed)?,
        Some(other) => {
            return Err(Error::configuration(format!(
                "the bookkeeping in schema syncline has format {other}; this version knows {FORMAT}"
            ))
            .with_remedy("run a newer version of syncline"));
        }
    }
    let insert = "INSERT INTO syncline.pipelines (name, fence) \
        VALUES ($1, (extract(epoch FROM clock_timestamp()) * 1000000)::int8) ON CONFLICT DO NOTHING";
    client.execute(insert, &[&pipeline.as_str()]).await.map_err(failed)?;
    client.batch_execute("COMMIT").await.map_err(failed)
}

/// The format of the bookkeeping, `None` if there is none.
pub(super) async fn format(client: &Client) -> Result<Option<i32>> {
    let failed = |error| from_client(error, "reading the bookkeeping");
    let exists = "SELECT to_regclass('syncline.format') IS NOT NULL";
    let exists: bool = client.query_one(exists, &[]).await.map_err(failed)?.get(0);
    if !exists {
        return Ok(None);
    }
    let row = client.query_opt("SELECT max(version) FROM syncline.format", &[]).await.map_err(failed)?;
    Ok(row.and_then(|row| row.get(0)))
}

/// Forgets a pipeline, and the bookkeeping with the last one. The caller holds the pipeline's lock.
///
/// # Errors
/// As any write.
pub(super) async fn forget(client: &Client, pipeline: &PipelineName) -> Result<()> {
    let failed = |error| from_client(error, "forgetting a pipeline");
    client.batch_execute("BEGIN").await.map_err(failed)?;
    client.batch_execute(LOCK).await.map_err(failed)?;
    for table in ["lanes", "tables", "chunks", "rereads", "letters", "set_aside"] {
        let delete = format!("DELETE FROM syncline.{table} WHERE pipeline = $1");
        client.execute(&delete, &[&pipeline.as_str()]).await.map_err(failed)?;
    }
    let delete = "DELETE FROM syncline.pipelines WHERE name = $1";
    client.execute(delete, &[&pipeline.as_str()]).await.map_err(failed)?;
    let others = "SELECT EXISTS (SELECT FROM syncline.pipelines)";
    let others: bool = client.query_one(others, &[]).await.map_err(failed)?.get(0);
    if !others {
        remove(client).await?;
    }
    client.batch_execute("COMMIT").await.map_err(failed)
}

/// Drops what [`ensure`] made; the schema itself only if nobody put anything else in it.
async fn remove(client: &Client) -> Result<()> {
    let failed = |error| from_client(error, "removing the bookkeeping");
    for table in TABLES {
        client.batch_execute(&format!("DROP TABLE IF EXISTS syncline.{table}")).await.map_err(failed)?;
    }
    client.batch_execute("DROP FUNCTION IF EXISTS syncline.require(boolean)").await.map_err(failed)?;
    let empty = "SELECT NOT EXISTS (SELECT FROM pg_depend \
        WHERE refclassid = 'pg_namespace'::regclass AND refobjid = to_regnamespace('syncline'))";
    let empty: bool = client.query_one(empty, &[]).await.map_err(failed)?.get(0);
    if empty {
        client.batch_execute("DROP SCHEMA IF EXISTS syncline").await.map_err(failed)?;
    }
    Ok(())
}

/// The checkpoint of a pipeline, in one snapshot.
///
/// # Errors
/// Fenced if `fence` is not the newest token.
pub(super) async fn checkpoint(client: &Client, pipeline: &PipelineName, fence: u64) -> Result<Checkpoint> {
    let failed = |error| from_client(error, "reading the checkpoint");
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    client.batch_execute(begin).await.map_err(failed)?;
    let name = pipeline.as_str();
    let row = client
        .query_opt("SELECT fence, origin FROM syncline.pipelines WHERE name = $1", &[&name])
        .await
        .map_err(failed)?;
    let row = row.filter(|row| row.get::<_, i64>(0).cast_unsigned() == fence);
    let row = row.ok_or_else(|| Refusal::Fenced(pipeline.clone()).into_error())?;
    let lanes = "SELECT lane, position FROM syncline.lanes WHERE pipeline = $1";
    let tables = "SELECT schema, name, phase, generation, parts, joining FROM syncline.tables \
        WHERE pipeline = $1 AND phase IS NOT NULL";
    let chunks =
        "SELECT schema, name, n, range, mark, rows, generation FROM syncline.chunks WHERE pipeline = $1";
    let rereads = "SELECT schema, name, key FROM syncline.rereads WHERE pipeline = $1";
    let mut checkpoint = Checkpoint {
        lanes: lanes_of(&client.query(lanes, &[&name]).await.map_err(failed)?)?,
        tables: tables_of(&client.query(tables, &[&name]).await.map_err(failed)?)?,
        origin: row.get(1),
        letters: letters::read(client, pipeline).await?,
    };
    for row in client.query(chunks, &[&name]).await.map_err(failed)? {
        add_chunk(&mut checkpoint.tables, &row)?;
    }
    for row in client.query(rereads, &[&name]).await.map_err(failed)? {
        if let Some(state) = checkpoint.tables.get_mut(&table_of(&row)) {
            state.rereads.insert(RowKey(row.get::<_, Vec<u8>>(2).into_boxed_slice()));
        }
    }
    client.batch_execute("COMMIT").await.map_err(failed)?;
    Ok(checkpoint)
}

/// Fails early if another run has taken the pipeline over. Only the check at a transaction's end counts.
///
/// # Errors
/// Fenced if `fence` is not the newest token.
pub(super) async fn is_ours(client: &Client, pipeline: &PipelineName, fence: u64) -> Result<()> {
    let sql = "SELECT EXISTS (SELECT FROM syncline.pipelines WHERE name = $1 AND fence = $2)";
    let row = client.query_one(sql, &[&pipeline.as_str(), &fence.cast_signed()]).await;
    let ours: bool = row.map_err(|error| from_client(error, "reading the fence"))?.get(0);
    if ours { Ok(()) } else { Err(Refusal::Fenced(pipeline.clone()).into_error()) }
}

fn table_of(row: &Row) -> TableId {
    TableId::new(row.get::<_, String>(0), row.get::<_, String>(1))
}

fn number<T: TryFrom<i64>>(stored: i64) -> Result<T> {
    T::try_from(stored).map_err(|_| Error::conflict("a number in the bookkeeping is out of range"))
}

fn lanes_of(rows: &[Row]) -> Result<BTreeMap<Lane, Position>> {
    let lane = |row: &Row| Ok((Lane::from_text(row.get(0))?, Position::from_bytes(row.get::<_, Vec<u8>>(1))));
    rows.iter().map(lane).collect()
}

fn tables_of(rows: &[Row]) -> Result<BTreeMap<TableId, TableState>> {
    let table = |row: &Row| {
        let state = TableState {
            phase: TablePhase::parse(row.get(2))?,
            generation: number(row.get(3))?,
            chunks: BTreeMap::new(),
            rereads: BTreeSet::new(),
            parts: parts_of(row.get(4), row.get(5))?,
        };
        Ok((table_of(row), state))
    };
    rows.iter().map(table).collect()
}

/// A table's parts from their stored form.
fn parts_of(known: Option<&str>, joining: Option<&str>) -> Result<Parts> {
    let unreadable =
        |error| Error::conflict("the parts of a table in the bookkeeping cannot be read").with_source(error);
    Ok(Parts {
        known: known.map(serde_json::from_str).transpose().map_err(unreadable)?.unwrap_or_default(),
        joining: joining.map(serde_json::from_str).transpose().map_err(unreadable)?.unwrap_or_default(),
    })
}

fn add_chunk(tables: &mut BTreeMap<TableId, TableState>, row: &Row) -> Result<()> {
    let generation: u32 = number(row.get(6))?;
    let Some(state) = tables.get_mut(&table_of(row)).filter(|state| state.generation == generation) else {
        return Ok(());
    };
    let entry = ChunkEntry { range: row.get(3), mark: row.get(4), rows: number(row.get(5))? };
    state.chunks.insert(number(row.get(2))?, entry);
    Ok(())
}

/// What the bookkeeping says of one table of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Registered {
    /// Syncline made it.
    pub(super) created: bool,
    /// It held rows when its snapshot began, so chunks are merged.
    pub(super) kept: bool,
    /// Its chunks are those of parts that join it, whatever it holds. Only read, never registered.
    pub(super) joined: bool,
}

/// Registers a prepared table as this pipeline's.
///
/// # Errors
/// Configuration, naming the pipeline, if another one owns the destination's table.
pub(super) async fn register(
    client: &Client,
    pipeline: &PipelineName,
    table: &TableId,
    target: &TableId,
    registered: Registered,
) -> Result<()> {
    let sql = "INSERT INTO syncline.tables \
        (pipeline, schema, name, destination_schema, destination_name, created, kept) \
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (pipeline, schema, name) DO UPDATE SET \
        destination_schema = excluded.destination_schema, destination_name = excluded.destination_name, \
        created = excluded.created, kept = excluded.kept";
    let name = pipeline.as_str();
    let Registered { created, kept, .. } = registered;
    client
        .execute(sql, &[&name, &table.schema, &table.name, &target.schema, &target.name, &created, &kept])
        .await
        .map_err(|error| from_client(error, "registering a table").with_table(table))?;
    Ok(())
}

/// A table was emptied: its chunks need not be merged any more.
///
/// # Errors
/// As any write.
pub(super) async fn nothing_kept(client: &Client, pipeline: &PipelineName, table: &TableId) -> Result<()> {
    let sql = "UPDATE syncline.tables SET kept = false WHERE pipeline = $1 AND schema = $2 AND name = $3";
    client
        .execute(sql, &[&pipeline.as_str(), &table.schema, &table.name])
        .await
        .map_err(|error| from_client(error, "registering a table").with_table(table))?;
    Ok(())
}

/// What is registered of a table, `None` if nothing is.
pub(super) async fn registered(
    client: &Client,
    pipeline: &PipelineName,
    table: &TableId,
) -> Result<Option<Registered>> {
    let sql = "SELECT created, kept, coalesce(joining, '[]') <> '[]' FROM syncline.tables \
        WHERE pipeline = $1 AND schema = $2 AND name = $3";
    let row = client
        .query_opt(sql, &[&pipeline.as_str(), &table.schema, &table.name])
        .await
        .map_err(|error| from_client(error, "reading the bookkeeping").with_table(table))?;
    Ok(row.map(|row| Registered { created: row.get(0), kept: row.get(1), joined: row.get(2) }))
}

/// The pipelines that load these tables of the destination; without the bookkeeping there is none.
///
/// # Errors
/// As any read.
pub(super) async fn owners(
    client: &Client,
    tables: &[TableId],
    map: &SchemaMap,
) -> Result<BTreeMap<TableId, PipelineName>> {
    let mut owners = BTreeMap::new();
    if format(client).await?.is_none() {
        return Ok(owners);
    }
    let sql = "SELECT pipeline FROM syncline.tables WHERE destination_schema = $1 AND destination_name = $2";
    for table in tables {
        let target = map.map(table);
        let row = client.query_opt(sql, &[&target.schema, &target.name]).await;
        let row = row.map_err(|error| from_client(error, "asking whose a table is").with_table(table))?;
        if let Some(row) = row {
            owners.insert(table.clone(), PipelineName::new(row.get::<_, &str>(0))?);
        }
    }
    Ok(owners)
}

/// Refuses a table of the destination that another pipeline loads, or another table of the same one. `own`: who asks,
/// and for which of its tables; without it every owner is another one.
///
/// # Errors
/// Configuration that names the owner.
pub(super) async fn refuse_foreign_owner(
    client: &Client,
    own: Option<(&PipelineName, &TableId)>,
    target: &TableId,
) -> Result<()> {
    let sql = "SELECT schema, name, pipeline FROM syncline.tables \
        WHERE destination_schema = $1 AND destination_name = $2";
    let row = client
        .query_opt(sql, &[&target.schema, &target.name])
        .await
        .map_err(|error| from_client(error, "reading the bookkeeping"))?;
    let Some(row) = row else { return Ok(()) };
    let (table, owner) = (table_of(&row), row.get::<_, String>(2));
    match own {
        Some((pipeline, asking)) if pipeline.as_str() == owner && *asking == table => Ok(()),
        Some((pipeline, asking)) if pipeline.as_str() == owner => {
            Err(Error::configuration(format!("{table} and {asking} would be one table at the destination"))
                .with_table(target)
                .with_remedy("give their schemas different names with --schema-map, or exclude one of them"))
        }
        _ => Err(Error::configuration(format!("the destination's table belongs to pipeline `{owner}`"))
            .with_table(target)
            .with_remedy(format!(
                "choose another schema with --schema-map, or drop that pipeline: syncline drop {owner}"
            ))),
    }
}
