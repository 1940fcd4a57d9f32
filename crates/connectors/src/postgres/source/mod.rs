//! PostgreSQL as a source.
//!
//! | module | what it is for |
//! |---|---|
//! | `catalog` | which tables there are, what they are exactly, how their rows are identified |
//! | `identity` | what publishing a table would do to its users' own writes |
//! | `parts` | the partitions that come and go without a word in the log |
//! | `check` | everything that would stop or hurt a pipeline |
//! | `setup` | publication and slot: made, found, measured, dropped |
//! | `snapshot` | what a table holds, in chunks that can be cut from the stream |
//! | `stream` | the changes |
//! | `query` | queries that stand for tables |
//! | `digests` | rows hashed by the server itself |
//! | `unique` | which rows the server keeps apart |
//! | `versions` | rows in the order of a version column |

mod catalog;
mod check;
mod copy_text;
mod datetime;
mod digests;
mod hex;
mod identity;
mod parts;
mod pool;
mod query;
mod setup;
mod show;
mod snapshot;
mod stream;
mod typed;
mod unique;
mod versions;

use std::sync::Arc;

use async_trait::async_trait;
use syncline_core::unique::UniqueIndexes;
use syncline_core::{
    Carriage, Column, Digests, Family, Finding, Queries, Query, Result, Selection, Snapshots, Source,
    Streams, TableId, TableSchema, Versions,
};

use super::url::Address;
use pool::Pool;

/// Opens a URL. Connects to nothing yet.
pub(crate) fn open(url: &str) -> Result<Arc<dyn Source>> {
    Ok(Arc::new(PostgresSource::new(Address::parse(url)?)))
}

/// A carried value as a person reads it.
pub(crate) fn show(column: &Column, value: &[u8]) -> String {
    show::value(column, value)
}

/// A database that is read.
struct PostgresSource {
    pool: Pool,
    snapshots: snapshot::Snapshotter,
}

impl PostgresSource {
    fn new(address: Address) -> Self {
        let pool = Pool::new(address);
        Self { snapshots: snapshot::Snapshotter::new(pool.clone()), pool }
    }
}

/// Whether the stream of these tables runs with pgoutput's `binary`.
///
/// The option holds for a whole stream, so the catalogue carries either every column that has a portable binary value
/// natively, or none: one native column anywhere says which.
pub(super) fn stream_is_binary(tables: &[Arc<TableSchema>]) -> bool {
    tables.iter().flat_map(|table| &table.columns).any(|column| column.carriage == Carriage::Native)
}

#[async_trait]
impl Source for PostgresSource {
    fn family(&self) -> Family {
        Family::POSTGRES
    }

    fn address(&self) -> String {
        self.pool.address().display()
    }

    async fn check(&self, selection: &Selection, streamed: bool) -> Result<Vec<Finding>> {
        let session = self.pool.take().await?;
        let findings = check::check(&session, selection, streamed).await?;
        self.pool.give(session);
        Ok(findings)
    }

    async fn discover(&self, selection: &Selection) -> Result<Vec<TableSchema>> {
        let session = self.pool.take().await?;
        let catalog = catalog::Catalog::of_selection(&session, selection).await?;
        self.pool.give(session);
        catalog.schemas(selection)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(&self.snapshots)
    }

    fn streams(&self) -> Option<&dyn Streams> {
        Some(self)
    }

    fn versions(&self) -> Option<&dyn Versions> {
        Some(self)
    }

    fn queries(&self) -> Option<&dyn Queries> {
        Some(self)
    }

    async fn unique_indexes(&self, table: &TableId) -> Result<UniqueIndexes> {
        let session = self.pool.take().await?;
        let indexes = unique::indexes(&session, table).await?;
        self.pool.give(session);
        Ok(indexes)
    }

    fn digests(&self) -> Option<&dyn Digests> {
        Some(self)
    }
}

impl Queries for PostgresSource {
    fn as_source(&self, queries: Vec<Query>) -> Arc<dyn Source> {
        Arc::new(query::QuerySource::new(self.pool.clone(), queries))
    }
}
