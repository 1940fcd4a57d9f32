//! Rows by key, with exactly the bytes that the stream would carry.
//!
//! Natively carried columns are asked for in binary, others through `format('%s', …)`, which is the type's own output
//! function; a cast to text would not be (it pads, strips or rewrites some types).

use std::error::Error as StdError;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use bytes::BytesMut;
use syncline_core::{Carriage, Column, Error, ReadMark, Result, TableSchema};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::postgres::connect::Session;
use crate::postgres::source::pool::Pool;
use crate::postgres::source::query::SEARCH_PATH;
use crate::postgres::source::typed::{self, ColumnDecoder};
use crate::postgres::{error, quote};

/// Keys asked for before the first answer is awaited.
const PIPELINED_MAX: usize = 256;

/// Where the rows are looked for.
pub(in crate::postgres::source) struct From {
    /// As a FROM clause names it.
    relation: String,
    /// What begins the transaction.
    opening: String,
    /// For each key column its type's `=`; none: the one in scope.
    equals: Vec<String>,
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

impl From {
    /// The table itself.
    pub(in crate::postgres::source) async fn table(session: &Session, table: &TableSchema) -> Result<Self> {
        let relation = format!("{}{}", only(session, table).await?, quote::table(&table.id));
        Ok(Self {
            // The lock first: what a rewrite does to older snapshots is then over, or waits for us.
            opening: format!("{BEGIN}; LOCK TABLE {relation} IN ACCESS SHARE MODE"),
            relation,
            equals: operators(session, table, "=").await?,
        })
    }

    /// A query that stands for it.
    pub(in crate::postgres::source) fn query(sql: &str) -> Self {
        Self { relation: quote::query(sql), opening: format!("{BEGIN}; {SEARCH_PATH}"), equals: Vec::new() }
    }

    /// What stands in a FROM clause.
    pub(in crate::postgres::source) fn relation(&self) -> &str {
        &self.relation
    }

    /// What begins a transaction that reads it, in one snapshot.
    pub(in crate::postgres::source) fn opening(&self) -> &str {
        &self.opening
    }
}

/// Reads the rows of `keys` in one snapshot.
pub(super) async fn read(
    pool: &Pool,
    session: Session,
    from: &From,
    table: &Arc<TableSchema>,
    keys: &RecordBatch,
) -> Result<(RecordBatch, ReadMark)> {
    let failed = |e| error::from_client(e, "reading rows by key").with_table(&table.id);
    session.batch_execute(&from.opening).await.map_err(failed)?;
    let mark = session.query_one("SELECT pg_current_snapshot()::text", &[]).await.map_err(failed)?;
    let statement = session.prepare(&statement(table, from)).await.map_err(failed)?;
    let mut rows = Vec::with_capacity(keys.num_rows());
    for first in (0..keys.num_rows()).step_by(PIPELINED_MAX) {
        let last = keys.num_rows().min(first + PIPELINED_MAX);
        let values = (first..last).map(|row| parameters(table, keys, row)).collect::<Result<Vec<_>>>()?;
        let found = values.iter().map(|key| {
            let key: Vec<&(dyn ToSql + Sync)> =
                key.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
            let (session, statement) = (&session, &statement);
            async move { session.query(statement, &key).await }
        });
        rows.extend(futures::future::try_join_all(found).await.map_err(failed)?.into_iter().flatten());
    }
    session.batch_execute("COMMIT").await.map_err(failed)?;
    pool.give(session);
    Ok((batch(table, &rows)?, ReadMark(mark.get(0))))
}

/// Rows of [`values`] as a batch of the table.
pub(in crate::postgres::source) fn batch(table: &TableSchema, rows: &[Row]) -> Result<RecordBatch> {
    let failed = |e| error::from_client(e, "reading rows").with_table(&table.id);
    let mut decoders = table.columns.iter().map(ColumnDecoder::new).collect::<Result<Vec<_>>>()?;
    for row in rows {
        for (index, decoder) in decoders.iter_mut().enumerate() {
            let value: Option<Wire<'_>> = row.try_get(index).map_err(failed)?;
            decoder.append(value.map(|wire| wire.0)).map_err(|error| error.with_table(&table.id))?;
        }
    }
    typed::batch(table, &mut decoders)
}

/// `ONLY ` but for a partitioned table: tables that inherit are tables of their own.
pub(in crate::postgres::source) async fn only(
    session: &Session,
    table: &TableSchema,
) -> Result<&'static str> {
    let sql = "SELECT relkind = 'p' FROM pg_class WHERE oid = $1::text::regclass";
    let row = session.query_one(sql, &[&quote::table(&table.id)]).await;
    let row = row.map_err(|e| error::from_client(e, "looking at a table").with_table(&table.id))?;
    Ok(if row.get(0) { "" } else { "ONLY " })
}

/// For each key column its type's operator of this name, qualified: an extension's is not on our empty search path.
pub(in crate::postgres::source) async fn operators(
    session: &Session,
    table: &TableSchema,
    name: &str,
) -> Result<Vec<String>> {
    let names: Vec<&str> = table.row_key.iter().map(|&column| table.columns[column].name.as_str()).collect();
    let rows = session
        .query(
            "SELECT (SELECT quote_ident(n.nspname) FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace
                     WHERE o.oprname = $3 AND o.oprleft = a.atttypid AND o.oprright = a.atttypid LIMIT 1)
             FROM unnest($2::text[]) WITH ORDINALITY k(name, place)
             JOIN pg_attribute a ON a.attname = k.name AND a.attrelid = $1::text::regclass ORDER BY k.place",
            &[&quote::table(&table.id), &names, &name],
        )
        .await
        .map_err(|e| error::from_client(e, "looking up the operators of a key").with_table(&table.id))?;
    let operator = |schema: Option<String>| match schema {
        Some(schema) => format!("OPERATOR({schema}.{name})"),
        None => name.to_owned(),
    };
    Ok(rows.iter().map(|row| operator(row.get(0))).collect())
}

/// What is selected of a row, so that its values come as they are carried.
pub(in crate::postgres::source) fn values(table: &TableSchema) -> String {
    table.columns.iter().map(value).collect::<Vec<_>>().join(", ")
}

/// A column's value as it is carried.
pub(in crate::postgres::source) fn value(column: &Column) -> String {
    let name = quote::ident(&column.name);
    match column.carriage {
        Carriage::Native => name,
        Carriage::NativeText | Carriage::Typed => {
            format!("CASE WHEN num_nonnulls({name}) = 1 THEN format('%s', {name}) END")
        }
    }
}

/// The value of a key column as the parameter at this place of the key.
pub(in crate::postgres::source) fn parameter(column: &Column, place: usize) -> String {
    let text = if column.carriage == Carriage::Native { "" } else { "::text" };
    format!("${}{text}::{}", place + 1, column.native_type)
}

/// Finds the row of one key. Not a join with arrays of keys: there is no array of arrays.
fn statement(table: &TableSchema, from: &From) -> String {
    let condition = |(place, &column): (usize, &usize)| {
        let column = &table.columns[column];
        let equal = from.equals.get(place).map_or("=", String::as_str);
        format!("{} {equal} {}", quote::ident(&column.name), parameter(column, place))
    };
    let conditions: Vec<String> = table.row_key.iter().enumerate().map(condition).collect();
    format!("SELECT {} FROM {} WHERE {}", values(table), from.relation, conditions.join(" AND "))
}

/// The values of one key.
pub(in crate::postgres::source) fn parameters(
    table: &TableSchema,
    keys: &RecordBatch,
    row: usize,
) -> Result<Vec<WireValue>> {
    if table.row_key.is_empty() || keys.num_columns() != table.row_key.len() {
        return Err(Error::bug("rows are asked for by something else than the row key").with_table(&table.id));
    }
    let value = |(column, array): (&usize, &ArrayRef)| {
        if table.columns[*column].carriage == Carriage::Typed {
            return typed::key_text(array, row).map(WireValue);
        }
        let bytes = array.as_binary_opt::<i32>();
        let bytes = bytes.ok_or_else(|| Error::bug("a key column is not carried as its table says"))?;
        Ok(WireValue(bytes.is_valid(row).then(|| bytes.value(row).to_vec())))
    };
    table.row_key.iter().zip(keys.columns()).map(value).collect()
}

/// A value that is in wire form already.
#[derive(Debug)]
pub(in crate::postgres::source) struct WireValue(Option<Vec<u8>>);

impl ToSql for WireValue {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        let Some(value) = &self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(value);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A value's wire form, whatever its type.
pub(in crate::postgres::source) struct Wire<'a>(pub(in crate::postgres::source) &'a [u8]);

impl<'a> FromSql<'a> for Wire<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
