//! Digests that PostgreSQL computes itself: rows are hashed where they are, and sums or hashes come back.
//!
//! All that is asked about a table is asked in one transaction that reads one snapshot and cannot write. The server's binary
//! forms and the session's own settings decide what is hashed, never the settings of a role, a database or a server.
//!
//! | module | what it is for |
//! |---|---|
//! | `sql` | statements, and a row's canonical encoding as an expression |

mod sql;

use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use futures::TryStreamExt;
use syncline_core::digests::{
    DigestOf, HashedRow, Places, ROW_HASH_BYTES, RepeatedIn, RepeatedIs, RowSum, TableDigests, WantedRows,
};
use syncline_core::{Digests, Error, Result, TableSchema};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use self::sql::Statements;
use super::pool::Pool;
use super::snapshot::keys;
use super::{PostgresSource, query::QuerySource};
use crate::postgres::connect::Session;
use crate::postgres::error;

/// Bytes that a row of an answer has beside its values: kind and length of the message.
const ROW_HEADER_BYTES: usize = 5;
/// Bytes of one sum in an answer: place, count, two sums.
const SUM_BYTES: usize = 28;

/// Sums of the most places that a pass has (2^17), and a little more.
const SUMS_BYTES_MAX: usize = 4 << 20;

#[async_trait]
impl Digests for PostgresSource {
    async fn begin(&self, of: &DigestOf) -> Result<Box<dyn TableDigests>> {
        let session = self.pool.take().await?;
        let from = keys::From::table(&session, &of.table).await?;
        Ok(Box::new(InDatabase::begin(&self.pool, session, &from, of).await?))
    }
}

#[async_trait]
impl Digests for QuerySource {
    async fn begin(&self, of: &DigestOf) -> Result<Box<dyn TableDigests>> {
        let from = keys::From::query(self.sql_of(&of.table)?);
        let session = self.pool().take().await?;
        Ok(Box::new(InDatabase::begin(self.pool(), session, &from, of).await?))
    }
}

/// A table that its own server hashes, in a transaction.
struct InDatabase {
    pool: Pool,
    session: Session,
    table: Arc<TableSchema>,
    statements: Statements,
    salts: [Vec<u8>; 2],
    keyed: bool,
    asked_bytes: u64,
    answered_bytes: u64,
}

impl InDatabase {
    async fn begin(pool: &Pool, session: Session, from: &keys::From, of: &DigestOf) -> Result<Self> {
        let statements = Statements::new(from.relation(), of)?;
        let begun = session.batch_execute(from.opening()).await;
        begun.map_err(|e| error::from_client(e, "beginning to sum up rows").with_table(&of.table.id))?;
        Ok(Self {
            pool: pool.clone(),
            session,
            table: Arc::clone(&of.table),
            statements,
            salts: [of.salt.row.to_vec(), of.salt.key.to_vec()],
            keyed: of.key_columns > 0,
            asked_bytes: 0,
            answered_bytes: 0,
        })
    }

    /// Runs a statement with the two salts, as far as it uses them.
    async fn ask(&mut self, sql: &str, bytes_max: usize) -> Result<Vec<Row>> {
        let table = &self.table.id;
        let failed = |e| of_values(error::from_client(e, "summing up rows").with_table(table));
        let statement = self.session.prepare(sql).await.map_err(failed)?;
        let salts = self.salts.iter().map(|salt| salt as &(dyn ToSql + Sync));
        let salts: Vec<_> = salts.take(statement.params().len()).collect();
        self.asked_bytes += (sql.len() + salts.len() * 20) as u64;
        let rows = self.session.query_raw(&statement, salts).await.map_err(failed)?;
        let mut rows = std::pin::pin!(rows);
        let (mut answer, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            bytes += row.raw_size_bytes() + ROW_HEADER_BYTES;
            if bytes > bytes_max {
                return Err(too_large(bytes_max).with_table(table));
            }
            answer.push(row);
        }
        self.answered_bytes += bytes as u64;
        Ok(answer)
    }

    /// The one value of one row.
    async fn ask_one(&mut self, sql: &str) -> Result<Vec<u8>> {
        let rows = self.ask(sql, SUMS_BYTES_MAX).await?;
        let value = rows.first().map(|row| row.try_get::<_, Option<Vec<u8>>>(0)).transpose();
        Ok(value.map_err(unexpected)?.flatten().unwrap_or_default())
    }
}

#[async_trait]
impl TableDigests for InDatabase {
    async fn sums(&mut self, of: &Places, bits: u8) -> Result<Vec<RowSum>> {
        let answer = self.ask_one(&self.statements.sums(of, bits)).await?;
        if !answer.len().is_multiple_of(SUM_BYTES) {
            return Err(Error::bug("sums of rows have another length"));
        }
        Ok(answer.chunks_exact(SUM_BYTES).filter_map(row_sum).collect())
    }

    async fn hashes(&mut self, of: &Places, bytes_max: usize) -> Result<Vec<HashedRow>> {
        let rows = self.ask(&self.statements.hashes(of), bytes_max).await?;
        rows.iter().map(|row| hashed(row.try_get(0).map_err(unexpected)?, self.keyed)).collect()
    }

    async fn rows(&mut self, wanted: &WantedRows, bytes_max: usize) -> Result<RecordBatch> {
        let rows = self.ask(&self.statements.rows(wanted), bytes_max).await?;
        keys::batch(&self.table, &rows)
    }

    async fn repeated(&mut self, of: &RepeatedIn) -> Result<RepeatedIs> {
        let rows = self.ask(&self.statements.repeated(of)?, usize::MAX).await?;
        let mut repeated = RepeatedIs::default();
        for row in &rows {
            repeated.values = number(row.try_get(0).map_err(unexpected)?);
            let value: Vec<u8> = row.try_get(1).map_err(unexpected)?;
            repeated.some.push((value.into(), number(row.try_get(2).map_err(unexpected)?)));
        }
        Ok(repeated)
    }

    fn bytes(&self) -> (u64, u64) {
        (self.asked_bytes, self.answered_bytes)
    }

    async fn end(self: Box<Self>) -> Result<()> {
        let ended = self.session.batch_execute("COMMIT").await;
        ended.map_err(|e| error::from_client(e, "ending to sum up rows").with_table(&self.table.id))?;
        self.pool.give(self.session);
        Ok(())
    }
}

/// One sum, as `Statements::sums` writes it.
fn row_sum(bytes: &[u8]) -> Option<RowSum> {
    let (place, rest) = bytes.split_first_chunk::<4>()?;
    let (rows, rest) = rest.split_first_chunk::<8>()?;
    let (first, second) = rest.split_first_chunk::<8>()?;
    Some(RowSum {
        place: u32::from_be_bytes(*place).into(),
        rows: u64::from_be_bytes(*rows),
        sums: [u64::from_be_bytes(*first), u64::from_be_bytes(second.try_into().ok()?)],
    })
}

/// A row's hash with its key, or with how often it is there.
fn hashed(bytes: &[u8], keyed: bool) -> Result<HashedRow> {
    let short = || Error::bug("a row's hash is too short");
    let (row, rest) = bytes.split_first_chunk::<ROW_HASH_BYTES>().ok_or_else(short)?;
    if keyed {
        return Ok(HashedRow { key: rest.into(), row: *row, copies: 1 });
    }
    let copies = u64::from_be_bytes(rest.try_into().map_err(|_| short())?);
    Ok(HashedRow { key: Box::default(), row: *row, copies })
}

/// Some values have no form of their class at a server, infinite dates for one. Which column it is, only a reader knows.
fn of_values(error: Error) -> Error {
    let is_of_values = error.code().is_some_and(|code| code.starts_with("22") || code == "0A000");
    if !is_of_values {
        return error;
    }
    error.with_remedy(
        "compare without --digest in-database, which names the column, or leave that out with --exclude-column",
    )
}

fn number(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}

fn unexpected(error: tokio_postgres::Error) -> Error {
    Error::bug("an answer has another form").with_source(error)
}

fn too_large(bytes_max: usize) -> Error {
    Error::configuration(format!("what differs takes more than {} MiB to be named", bytes_max >> 20))
        .with_remedy("compare with --digest default, or make a new snapshot of the table")
}
