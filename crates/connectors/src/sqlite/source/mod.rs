//! SQLite as a source: what its tables are, what they hold, and what changes in them.
//!
//! | module | what it is for |
//! |---|---|
//! | `check` | what would stop or hurt a pipeline |
//! | `discover` | the selected tables as schemas |
//! | `snapshot`, `page`, `range` | chunks, the pages they are read in, and the cut between chunks and stream |
//! | `capture` | triggers and log tables: making, verifying, dropping |
//! | `query` | queries that stand for tables |
//! | `stream`, `read` | the log and the rows its keys name, read in one transaction |
//! | `versions` | rows in the order of a version column |
//!
//! SQLite has one writer at a time, so the number of the newest log entry inside a read transaction says exactly what
//! that read saw. It is position, read mark and transaction number in one.

mod capture;
mod check;
mod discover;
mod page;
mod query;
mod range;
mod read;
mod snapshot;
mod stream;
mod versions;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use syncline_core::unique::UniqueIndexes;
use syncline_core::{
    Family, Finding, PipelineName, Queries, Query, Result, Selection, Snapshots, Source, Streams, TableId,
    TableSchema, Versions,
};

use super::catalog;
use super::connect::{Shared, blocking, open_reader};
use super::url;

/// The source behind a `sqlite:` URL. Opens nothing yet.
pub(super) fn open(url: &str) -> Result<Arc<dyn Source>> {
    Ok(Arc::new(SqliteSource {
        path: url::path_of(url)?,
        pipeline: Shared::new(None),
        snapshots: Shared::new(snapshot::Held::default()),
    }))
}

/// A file that is read.
struct SqliteSource {
    path: PathBuf,
    /// The pipeline whose log was opened last: its end is the end of the log.
    pipeline: Shared<Option<PipelineName>>,
    snapshots: Shared<snapshot::Held>,
}

#[async_trait]
impl Source for SqliteSource {
    fn family(&self) -> Family {
        Family::SQLITE
    }

    fn address(&self) -> String {
        self.path.display().to_string()
    }

    async fn check(&self, selection: &Selection, streamed: bool) -> Result<Vec<Finding>> {
        let (path, selection) = (self.path.clone(), selection.clone());
        let use_of = if streamed { check::Use::Stream } else { check::Use::Snapshot };
        blocking(move || check::check(&open_reader(&path)?, &selection, use_of)).await
    }

    async fn discover(&self, selection: &Selection) -> Result<Vec<TableSchema>> {
        let (path, selection) = (self.path.clone(), selection.clone());
        blocking(move || discover::discover(&open_reader(&path)?, &selection)).await
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
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
        let (path, name) = (self.path.clone(), table.name.clone());
        blocking(move || {
            let found = catalog::table(&open_reader(&path)?, &name)?;
            Ok(found.map(|table| table.unique_indexes()).unwrap_or_default())
        })
        .await
    }
}

impl Queries for SqliteSource {
    fn as_source(&self, queries: Vec<Query>) -> Arc<dyn Source> {
        Arc::new(query::QuerySource::new(self.path.clone(), queries))
    }
}
