//! What a load must know of a destination's table: types, the operators that find a key, what rows exclude each other.
//!
//! Read from the catalogue when first needed and believed for a minute. A statement that fails is judged against the
//! table as it is then: if the table was changed meanwhile, the load may be tried again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use syncline_core::{Error, Result, TableId, TableSchema};
use tokio_postgres::Client;

use super::super::error::from_client;
use super::super::quote::{ident, table as quoted};
use super::encode::{WireType, oid, wire_type};
use super::existing::{self, Existing, ExistingColumn};
use super::rename::Renaming;
use super::session::Pipeline;
use super::{bookkeeping, ddl, fit};

/// How long a shape is believed.
const AGE_MAX: Duration = Duration::from_secs(60);
/// Bytes a row is taken to have where the server has not counted a table's rows yet.
const ROW_BYTES_ASSUMED: u32 = 64;

/// Raises an error unless the table has the columns that a shape says. COPY takes bytes for whatever type a column has by
/// then, so this runs after it, in its transaction: the lock that COPY took keeps the table as it is.
pub(super) const VERIFY: &str = "SELECT syncline.require((SELECT string_agg(a.attname || ' ' || a.atttypid, ',' \
    ORDER BY a.attname) FROM pg_attribute a WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped) \
    = $2::text)";

/// A destination's table as loads see it.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) table: Arc<TableSchema>,
    /// Quoted, qualified.
    pub(super) target: String,
    /// Its OID, and every column with the OID of its type, as [`VERIFY`] compares them.
    pub(super) oid: u32,
    pub(super) signature: String,
    /// One for each column of the table's schema.
    pub(super) columns: Vec<LoadColumn>,
    /// For each column of the row key the operator under which an index finds it; `None` if there is no such index.
    pub(super) key_operators: Option<Vec<String>>,
    /// Columns whose change makes a row leave before the others are written: those of secondary unique and exclusion
    /// indexes, and identity columns that no update may set.
    pub(super) touchy: Vec<usize>,
    /// Whether other tables reference it, so that it cannot be truncated.
    pub(super) referenced: bool,
    /// Whether it has foreign keys, whose checks may wait for the commit.
    pub(super) refers: bool,
    /// Whether values for identity columns must be forced in.
    pub(super) overriding: bool,
    /// Whether it held rows before its snapshot, so that chunks are merged.
    pub(super) kept: bool,
    /// Rows it may have.
    pub(super) rows_estimated: u64,
    read_at: Instant,
}

/// A column as loads see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LoadColumn {
    /// Quoted.
    pub(super) name: String,
    /// Its type without modifier: a cast to it cuts nothing.
    pub(super) own_type: String,
    /// The type its values have in a staging table that takes them as they come.
    pub(super) stage_type: String,
    /// The type its values have in a staging table that takes them as the column's own.
    pub(super) exact_type: String,
    /// The type of its values in array parameters, and its OID; `None` if they cannot be elements of an array.
    pub(super) element: Option<(String, u32)>,
    /// Whether SQL must cast its values.
    pub(super) cast: bool,
    /// Whether COPY can take its values straight into the table.
    pub(super) copies_directly: bool,
    /// Its collation, quoted and qualified, if it is not its type's own.
    pub(super) collation: Option<String>,
    pub(super) identity_always: bool,
}

impl Shape {
    /// Whether COPY can take rows straight into the table.
    pub(super) fn copies_directly(&self) -> bool {
        self.columns.iter().all(|column| column.copies_directly)
    }

    /// Refuses changes of a table whose rows cannot be found by their key.
    ///
    /// # Errors
    /// Configuration with the statement that mends it.
    pub(super) fn require_key(&self) -> Result<()> {
        if self.key_operators.is_some() {
            return Ok(());
        }
        let key: Vec<_> =
            self.table.row_key.iter().map(|&column| self.columns[column].name.as_str()).collect();
        Err(Error::configuration("the destination's table has no unique index on the row key")
            .with_table(&self.table.id)
            .with_remedy(format!("CREATE UNIQUE INDEX ON {} ({});", self.target, key.join(", "))))
    }

    fn same_as(&self, other: &Self) -> bool {
        self.oid == other.oid
            && self.signature == other.signature
            && self.columns == other.columns
            && self.key_operators == other.key_operators
            && self.touchy == other.touchy
            && self.referenced == other.referenced
            && self.refers == other.refers
    }

    fn is_fresh(&self, table: &Arc<TableSchema>) -> bool {
        let same = Arc::ptr_eq(&self.table, table)
            || (self.table.columns == table.columns && self.table.row_key == table.row_key);
        same && self.read_at.elapsed() <= AGE_MAX
    }
}

/// The shapes a held pipeline knows.
#[derive(Default)]
pub(super) struct Shapes(Mutex<HashMap<TableId, Arc<Shape>>>);

impl Shapes {
    fn known(&self) -> MutexGuard<'_, HashMap<TableId, Arc<Shape>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets one table.
    pub(super) fn forget(&self, table: &TableId) {
        self.known().remove(table);
    }

    /// Forgets all tables.
    pub(super) fn clear(&self) {
        self.known().clear();
    }

    /// The table of the pipeline that is this one of the destination (quoted, qualified), if it is known.
    pub(super) fn table_at(&self, target: &str) -> Option<TableId> {
        self.known().values().find(|shape| shape.target == target).map(|shape| shape.table.id.clone())
    }

    /// A table's shape, read by `client` if it is not known.
    ///
    /// # Errors
    /// Configuration if the table is gone or lacks a column.
    pub(super) async fn get(
        &self,
        client: &Client,
        pipeline: &Pipeline,
        table: &Arc<TableSchema>,
    ) -> Result<Arc<Shape>> {
        let known = self.known().get(&table.id).filter(|shape| shape.is_fresh(table)).cloned();
        if let Some(shape) = known {
            return Ok(shape);
        }
        let shape = Arc::new(read(client, pipeline, table).await?);
        self.known().insert(table.id.clone(), Arc::clone(&shape));
        Ok(shape)
    }

    /// Whether a table is not any more what `shape` says. Forgets it then.
    ///
    /// # Errors
    /// As any read.
    pub(super) async fn changed(&self, client: &Client, pipeline: &Pipeline, shape: &Shape) -> Result<bool> {
        let now = read(client, pipeline, &shape.table).await;
        let changed = now.as_ref().map_or(true, |now| !now.same_as(shape));
        if changed {
            self.forget(&shape.table.id);
        }
        now.map(|_| changed)
    }
}

async fn read(client: &Client, pipeline: &Pipeline, table: &Arc<TableSchema>) -> Result<Shape> {
    let target = pipeline.map.map(&table.id);
    let existing = existing::read(client, &target).await?.ok_or_else(|| {
        Error::configuration("the destination's table is gone")
            .with_table(&table.id)
            .with_remedy("drop the pipeline and sync again with --prepare recreate")
    })?;
    let registered = bookkeeping::registered(client, &pipeline.name, &table.id).await?.unwrap_or_default();
    still_fits(pipeline, table, &existing)?;
    let columns = columns(table, &existing)?;
    let key: Vec<&str> = table.row_key.iter().map(|&column| table.columns[column].name.as_str()).collect();
    Ok(Shape {
        target: quoted(&target),
        oid: existing.oid,
        signature: signature(&existing),
        touchy: touchy(table, &existing, &columns, &key),
        key_operators: key_operators(&existing, &key),
        columns,
        referenced: !existing.referencing.is_empty(),
        refers: !existing.foreign_keys.is_empty(),
        overriding: existing.columns.iter().any(|column| column.identity_always),
        kept: registered.kept,
        rows_estimated: rows_estimated(client, existing.oid).await?,
        read_at: Instant::now(),
        table: Arc::clone(table),
    })
}

/// Natively carried bytes mean nothing without their type, so a column that was changed stops its table.
fn still_fits(pipeline: &Pipeline, table: &TableSchema, existing: &Existing) -> Result<()> {
    let definition = ddl::definition_of(table)?;
    let renaming = Renaming::new(&pipeline.map, definition.as_ref());
    let misfits = fit::type_misfits(table, definition.as_ref(), &renaming, existing);
    if misfits.is_empty() {
        return Ok(());
    }
    let what = format!("the destination's table does not fit any more: {}", misfits.join("; "));
    Err(Error::configuration(what).with_table(&table.id).with_remedy("change the table back as said"))
}

fn signature(existing: &Existing) -> String {
    let mut columns: Vec<_> = existing.columns.iter().map(|column| (&column.name, column.type_oid)).collect();
    columns.sort();
    columns.iter().map(|(name, oid)| format!("{name} {oid}")).collect::<Vec<_>>().join(",")
}

fn columns(table: &TableSchema, existing: &Existing) -> Result<Vec<LoadColumn>> {
    table
        .columns
        .iter()
        .map(|column| {
            let there = existing.column(&column.name).ok_or_else(|| {
                Error::configuration(format!("the destination's table has no column `{}`", column.name))
                    .with_table(&table.id)
                    .with_remedy("add the column there as it is at the source")
            })?;
            Ok(load_column(there, wire_type(column).as_ref()))
        })
        .collect()
}

fn load_column(there: &ExistingColumn, wire: Option<&WireType>) -> LoadColumn {
    let text_like = [oid::TEXT, oid::VARCHAR, oid::BPCHAR].contains(&there.type_oid);
    let element = match wire {
        None => (!there.is_array && there.array_oid != 0).then(|| (there.bare_type.clone(), there.type_oid)),
        Some(wire) => (wire.array_oid != 0).then(|| (wire.sql.to_owned(), wire.oid)),
    };
    LoadColumn {
        name: ident(&there.name),
        own_type: there.bare_type.clone(),
        stage_type: wire.map_or_else(|| there.sql_type.clone(), |wire| wire.sql.to_owned()),
        exact_type: there.sql_type.clone(),
        element,
        cast: wire.is_some_and(|wire| wire.oid != there.type_oid),
        copies_directly: wire
            .is_none_or(|wire| wire.oid == there.type_oid || (wire.oid == oid::TEXT && text_like)),
        collation: there.collation.clone(),
        identity_always: there.identity_always,
    }
}

fn key_operators(existing: &Existing, key: &[&str]) -> Option<Vec<String>> {
    let index = existing.key_index(key)?;
    let operator = |name: &&str| {
        let place = index.key.iter().position(|column| column == name)?;
        index.equality.get(place).cloned()
    };
    key.iter().map(operator).collect()
}

fn touchy(table: &TableSchema, existing: &Existing, columns: &[LoadColumn], key: &[&str]) -> Vec<usize> {
    let excluding = existing.indexes.iter().filter(|index| index.excludes(key));
    let names: Vec<&str> = excluding.flat_map(|index| &index.columns).map(String::as_str).collect();
    // What a generated column holds may change with any other.
    let generated = names.iter().any(|name| existing.column(name).is_some_and(|column| column.generated));
    let identity = |column: usize| columns[column].identity_always && !table.row_key.contains(&column);
    let named = |column: usize| names.contains(&table.columns[column].name.as_str());
    (0..columns.len()).filter(|&column| generated || identity(column) || named(column)).collect()
}

async fn rows_estimated(client: &Client, table: u32) -> Result<u64> {
    let sql = format!(
        "SELECT coalesce(sum(CASE WHEN c.reltuples >= 0 THEN c.reltuples::float8 \
            ELSE pg_relation_size(c.oid) / {ROW_BYTES_ASSUMED} END), 0)::int8 \
         FROM pg_class c WHERE c.relkind = 'r' AND (c.oid = $1 \
            OR c.oid IN (SELECT p.relid FROM pg_partition_tree($1::oid) p WHERE p.isleaf))"
    );
    let row = client.query_one(&sql, &[&table]).await;
    let rows: i64 = row.map_err(|error| from_client(error, "reading statistics"))?.get(0);
    Ok(rows.max(0).cast_unsigned())
}
