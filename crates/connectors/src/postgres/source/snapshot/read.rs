//! A chunk being read: a transaction of its own, COPY out of it, and the bytes gathered into pieces.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use syncline_core::{
    Bulk, Carriage, ChunkPart, ChunkReader, Error, Family, ReadMark, Result, TableId, TableSchema,
};
use tokio_postgres::{CopyOutStream, SimpleQueryMessage};

use super::order::Order;
use crate::postgres::connect::Session;
use crate::postgres::source::pool::Pool;
use crate::postgres::source::query::SEARCH_PATH;
use crate::postgres::source::typed;
use crate::postgres::{error, quote};

/// COPY sends a message a row; passing rows on one by one costs a third of the speed.
const PIECE_BYTES: usize = 256 << 10;

/// Which rows of which relation are read, and in which snapshot.
pub(super) struct Request<'a> {
    pub(super) table: &'a Arc<TableSchema>,
    /// The table, or the leaf of it that is read.
    pub(super) relation: &'a TableId,
    pub(super) rows: Rows<'a>,
    /// An exported snapshot; without one the transaction takes its own.
    pub(super) snapshot: Option<&'a str>,
    /// The file that the relation must still have.
    pub(super) node: Option<u32>,
}

/// Which rows of a relation.
pub(super) enum Rows<'a> {
    /// All of it, and of its partitions.
    WithPartitions,
    /// Those of the relation itself in these blocks.
    Blocks { from: Option<u64>, to: Option<u64> },
    /// What a query returns.
    Query(&'a str),
    /// Those of the relation itself in this range of a column.
    Keys { column: &'a str, order: Order, from: Option<&'a str>, to: Option<&'a str> },
}

/// The outcome of beginning a read.
pub(super) enum Begun {
    Reading(Box<dyn ChunkReader>),
    /// The exported snapshot is gone.
    SnapshotLost,
    /// The relation is gone or has another file.
    Rewritten,
}

/// Begins to read. The lock comes before the snapshot (or, in a shared one, before the look at the file): a rewrite that
/// is not safe for older snapshots has then ended, and shows, or waits for us.
pub(super) async fn begin(pool: &Pool, request: &Request<'_>) -> Result<Begun> {
    let failed = |e| error::from_client(e, "reading a chunk").with_table(&request.table.id);
    let session = pool.take().await?;
    let messages = match session.simple_query(&opening(request)).await {
        Ok(messages) => messages,
        Err(e) => {
            return match (e.code().map(tokio_postgres::error::SqlState::code), request.snapshot) {
                // Its exporter ended: an unknown name, before version 16 an invalid one.
                (Some("22023" | "42704" | "55000"), Some(_)) => Ok(Begun::SnapshotLost),
                (Some("42P01"), _) if request.node.is_some() => Ok(Begun::Rewritten),
                _ => Err(failed(e)),
            };
        }
    };
    let mut values = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0), row.get(1))),
        _ => None,
    });
    let (mark, node) = values.next().ok_or_else(|| Error::bug("the snapshot's text did not come"))?;
    let mark = mark.ok_or_else(|| Error::bug("the snapshot has no text"))?.to_owned();
    if request.node.is_some_and(|expected| node != Some(expected.to_string().as_str())) {
        session.batch_execute("ROLLBACK").await.map_err(failed)?;
        pool.give(session);
        return Ok(Begun::Rewritten);
    }
    let rows = Box::pin(session.copy_out(&copy_statement(request)).await.map_err(failed)?);
    let form = copy_form(request.table);
    Ok(Begun::Reading(Box::new(Reader {
        session: Some(session),
        pool: pool.clone(),
        rows,
        mark: ReadMark(mark),
        form,
        buffer: BytesMut::new(),
        decoder: typed::is_typed(request.table).then(|| typed::RowDecoder::new(request.table)),
        table: request.table.clone(),
    })))
}

/// Everything before the rows, in one round trip.
fn opening(request: &Request<'_>) -> String {
    if let Rows::Query(_) = request.rows {
        return format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {SEARCH_PATH}; \
             SELECT pg_current_snapshot()::text, NULL"
        );
    }
    let name = quote::table(request.relation);
    let only = if matches!(request.rows, Rows::WithPartitions) { "" } else { "ONLY " };
    let snapshot = request.snapshot.map_or_else(String::new, |snapshot| {
        format!("SET TRANSACTION SNAPSHOT {};", quote::literal(snapshot))
    });
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {snapshot} \
         LOCK TABLE {only}{name} IN ACCESS SHARE MODE; \
         SELECT pg_current_snapshot()::text, pg_relation_filenode({}::regclass)",
        quote::literal(&name)
    )
}

/// The form in which COPY gives the rows: binary if every column has a portable binary value.
pub(super) fn copy_form(table: &TableSchema) -> &'static str {
    if table.columns.iter().all(|column| column.carriage == Carriage::Native) { "binary" } else { "text" }
}

fn copy_statement(request: &Request<'_>) -> String {
    let columns = quote::idents(request.table.columns.iter().map(|column| column.name.as_str()));
    let name = quote::table(request.relation);
    let form = copy_form(request.table);
    let what = match &request.rows {
        Rows::WithPartitions => format!("(SELECT {columns} FROM {name})"),
        Rows::Query(sql) => format!("(SELECT {columns} FROM {})", quote::query(sql)),
        // COPY of a table by name reads that table only, and faster than through a query.
        Rows::Blocks { from: None, to: None } | Rows::Keys { from: None, to: None, .. } => {
            format!("{name} ({columns})")
        }
        rows => format!("(SELECT {columns} FROM ONLY {name} WHERE {})", predicate(rows)),
    };
    format!("COPY {what} TO STDOUT (FORMAT {form})")
}

fn predicate(rows: &Rows<'_>) -> String {
    let (low, high) = match rows {
        Rows::WithPartitions | Rows::Query(_) => (None, None),
        Rows::Blocks { from, to } => (
            from.map(|block| format!("ctid >= '({block},0)'::tid")),
            to.map(|block| format!("ctid < '({block},0)'::tid")),
        ),
        Rows::Keys { column, order, from, to } => {
            let (column, sql_type) = (quote::ident(column), order.sql_type());
            let bound = |operator: &str, text: &str| {
                format!("{column} {operator} {}::pg_catalog.{sql_type}", quote::literal(text))
            };
            (from.map(|text| bound(">=", text)), to.map(|text| bound("<", text)))
        }
    };
    low.into_iter().chain(high).collect::<Vec<_>>().join(" AND ")
}

struct Reader {
    /// Taken when the end is reached, and given back to the pool. Dropped before: the server ends the read.
    session: Option<Session>,
    pool: Pool,
    rows: Pin<Box<CopyOutStream>>,
    mark: ReadMark,
    form: &'static str,
    /// Outlives a cancelled `next`.
    buffer: BytesMut,
    /// Only where values are carried typed.
    decoder: Option<typed::RowDecoder>,
    table: Arc<TableSchema>,
}

#[async_trait]
impl ChunkReader for Reader {
    fn mark(&self) -> &ReadMark {
        &self.mark
    }

    async fn next(&mut self) -> Result<Option<ChunkPart>> {
        while self.session.is_some() && self.buffer.len() < PIECE_BYTES {
            match self.rows.next().await {
                Some(Ok(bytes)) if self.buffer.is_empty() && bytes.len() >= PIECE_BYTES => {
                    return self.part(bytes).map(Some);
                }
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(e)) => {
                    return Err(error::from_client(e, "reading a chunk").with_table(&self.table.id));
                }
                None => self.end().await?,
            }
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let bytes = self.buffer.split().freeze();
        self.part(bytes).map(Some)
    }
}

impl Reader {
    fn part(&mut self, bytes: Bytes) -> Result<ChunkPart> {
        match &mut self.decoder {
            None => Ok(ChunkPart::Bulk(Bulk { family: Family::POSTGRES, form: self.form, bytes })),
            Some(decoder) => decoder.decode(&bytes).map(ChunkPart::Rows),
        }
    }

    async fn end(&mut self) -> Result<()> {
        if let Some(session) = self.session.take() {
            let ended = session.batch_execute("COMMIT").await;
            ended.map_err(|e| {
                error::from_client(e, "ending the read of a chunk").with_table(&self.table.id)
            })?;
            self.pool.give(session);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncline_core::{Column, DataType};

    fn table(carriage: Carriage) -> Arc<TableSchema> {
        let column = Column {
            name: "a\"b".into(),
            data_type: DataType::Int(32),
            nullable: false,
            native_type: "integer".into(),
            carriage,
        };
        Arc::new(TableSchema {
            id: TableId::new("s", "t"),
            columns: vec![column],
            row_key: vec![0],
            version: 1,
            rows_estimated: None,
            native: None,
        })
    }

    fn statement(carriage: Carriage, rows: Rows<'_>) -> String {
        let table = table(carriage);
        let request = Request { table: &table, relation: &table.id, rows, snapshot: None, node: None };
        copy_statement(&request)
    }

    #[test]
    fn statements_quote_everything() {
        let rows = Rows::Keys { column: "a\"b", order: Order::Text, from: Some("x'\\"), to: Some("y") };
        assert_eq!(
            statement(Carriage::Native, rows),
            "COPY (SELECT \"a\"\"b\" FROM ONLY \"s\".\"t\" WHERE \"a\"\"b\" >=  E'x''\\\\'::pg_catalog.text AND \
             \"a\"\"b\" < 'y'::pg_catalog.text) TO STDOUT (FORMAT binary)"
        );
        assert_eq!(
            statement(Carriage::NativeText, Rows::Blocks { from: Some(3), to: None }),
            "COPY (SELECT \"a\"\"b\" FROM ONLY \"s\".\"t\" WHERE ctid >= '(3,0)'::tid) TO STDOUT (FORMAT text)"
        );
        let whole = statement(Carriage::Native, Rows::Blocks { from: None, to: None });
        assert_eq!(whole, "COPY \"s\".\"t\" (\"a\"\"b\") TO STDOUT (FORMAT binary)");
    }
}
