//! Rows by key, with exactly the bytes that the stream would carry.
//!
//! Natively carried columns are asked for in binary, others through `format('%s', …)`, which is the type's own output
//! function; a cast to text would not be (it pads, strips or rewrites some types).

use std::error::Error as StdError;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use bytes::BytesMut;
use postgres_protocol::IsNull as WireNull;
use syncline_core::{Carriage, Error, ReadMark, Result, TableSchema};
use tokio_postgres::types::{FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};

use crate::postgres::connect::Session;
use crate::postgres::source::pool::Pool;
use crate::postgres::source::typed::{self, ColumnDecoder};
use crate::postgres::{error, quote};

/// Reads the rows of `keys` in one snapshot.
pub(super) async fn read(
    pool: &Pool,
    table: &Arc<TableSchema>,
    keys: &RecordBatch,
) -> Result<(RecordBatch, ReadMark)> {
    let failed = |e| error::from_client(e, "reading rows by key").with_table(&table.id);
    let session = pool.take().await?;
    let name = quote::table(&table.id);
    let partitioned = session
        .query_one("SELECT relkind = 'p' FROM pg_class WHERE oid = $1::text::regclass", &[&name])
        .await
        .map_err(failed)?;
    let only = if partitioned.get(0) { "" } else { "ONLY " };
    let equals = equal_operators(&session, table).await?;
    // The lock first: what a rewrite does to older snapshots is then over, or waits for us.
    let opening = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE {only}{name} IN ACCESS SHARE MODE"
    );
    session.batch_execute(&opening).await.map_err(failed)?;
    let mark = session.query_one("SELECT pg_current_snapshot()::text", &[]).await.map_err(failed)?;
    let parameters = parameters(table, keys)?;
    let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|p| p as &(dyn ToSql + Sync)).collect();
    let rows = session.query(&statement(table, only, &equals), &parameters).await.map_err(failed)?;
    session.batch_execute("COMMIT").await.map_err(failed)?;
    pool.give(session);
    let mut decoders = table.columns.iter().map(ColumnDecoder::new).collect::<Result<Vec<_>>>()?;
    for row in &rows {
        for (index, decoder) in decoders.iter_mut().enumerate() {
            let value: Option<Wire<'_>> = row.try_get(index).map_err(failed)?;
            decoder.append(value.map(|wire| wire.0)).map_err(|error| error.with_table(&table.id))?;
        }
    }
    Ok((typed::batch(table, &mut decoders)?, ReadMark(mark.get(0))))
}

/// For each key column its type's `=`, qualified: an extension's is not on our empty search path.
async fn equal_operators(session: &Session, table: &TableSchema) -> Result<Vec<String>> {
    let names: Vec<&str> = table.row_key.iter().map(|&column| table.columns[column].name.as_str()).collect();
    let rows = session
        .query(
            "SELECT (SELECT quote_ident(n.nspname) FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace
                     WHERE o.oprname = '=' AND o.oprleft = a.atttypid AND o.oprright = a.atttypid LIMIT 1)
             FROM unnest($2::text[]) WITH ORDINALITY k(name, place)
             JOIN pg_attribute a ON a.attname = k.name AND a.attrelid = $1::text::regclass ORDER BY k.place",
            &[&quote::table(&table.id), &names],
        )
        .await
        .map_err(|e| error::from_client(e, "looking up the operators of a key").with_table(&table.id))?;
    let operator = |schema: Option<String>| match schema {
        Some(schema) => format!("OPERATOR({schema}.=)"),
        None => "=".to_owned(),
    };
    Ok(rows.iter().map(|row| operator(row.get(0))).collect())
}

fn statement(table: &TableSchema, only: &str, equals: &[String]) -> String {
    let value = |column: &syncline_core::Column| {
        let name = quote::ident(&column.name);
        match column.carriage {
            Carriage::Native => format!("t.{name}"),
            Carriage::NativeText | Carriage::Typed => {
                format!("CASE WHEN num_nonnulls(t.{name}) = 1 THEN format('%s', t.{name}) END")
            }
        }
    };
    let values: Vec<String> = table.columns.iter().map(value).collect();
    let (mut arrays, mut names, mut conditions) = (Vec::new(), Vec::new(), Vec::new());
    for (place, &column) in table.row_key.iter().enumerate() {
        let column = &table.columns[column];
        let (name, number) = (quote::ident(&column.name), place + 1);
        let equal = equals.get(place).map_or("=", String::as_str);
        names.push(format!("k{number}"));
        if column.carriage == Carriage::Native {
            arrays.push(format!("${number}::{}[]", column.native_type));
            conditions.push(format!("t.{name} {equal} k.k{number}"));
        } else {
            arrays.push(format!("${number}::text[]"));
            conditions.push(format!("t.{name} {equal} k.k{number}::{}", column.native_type));
        }
    }
    format!(
        "SELECT {} FROM {only}{} AS t JOIN unnest({}) AS k({}) ON {}",
        values.join(", "),
        quote::table(&table.id),
        arrays.join(", "),
        names.join(", "),
        conditions.join(" AND ")
    )
}

/// One array per key column.
fn parameters(table: &TableSchema, keys: &RecordBatch) -> Result<Vec<WireArray>> {
    if table.row_key.is_empty() || keys.num_columns() != table.row_key.len() {
        return Err(Error::bug("rows are asked for by something else than the row key").with_table(&table.id));
    }
    let column = |(column, array): (&usize, &arrow_array::ArrayRef)| {
        let typed = table.columns[*column].carriage == Carriage::Typed;
        let value = |row: usize| {
            if typed {
                return typed::key_text(array, row);
            }
            let bytes = array.as_binary_opt::<i32>();
            let bytes = bytes.ok_or_else(|| Error::bug("a key column is not carried as its table says"))?;
            Ok(bytes.is_valid(row).then(|| bytes.value(row).to_vec()))
        };
        Ok(WireArray((0..array.len()).map(value).collect::<Result<_>>()?))
    };
    table.row_key.iter().zip(keys.columns()).map(column).collect()
}

/// Values in the wire form of an array's element.
#[derive(Debug)]
struct WireArray(Vec<Option<Vec<u8>>>);

impl ToSql for WireArray {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        let Kind::Array(element) = ty.kind() else { return Err("the parameter is not an array".into()) };
        let dimension =
            postgres_protocol::types::ArrayDimension { len: i32::try_from(self.0.len())?, lower_bound: 1 };
        postgres_protocol::types::array_to_sql(
            Some(dimension),
            element.oid(),
            &self.0,
            |value, out| {
                let Some(value) = value else { return Ok(WireNull::Yes) };
                out.extend_from_slice(value);
                Ok(WireNull::No)
            },
            out,
        )?;
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A value's wire form, whatever its type.
struct Wire<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Wire<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
