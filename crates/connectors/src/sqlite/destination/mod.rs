//! SQLite as a destination: data and checkpoint in one file, one transaction per load.
//!
//! | module | what it is for |
//! |---|---|
//! | `check` | what would stop or hurt a pipeline |
//! | `lock` | one holder per pipeline, by a lock of the operating system |
//! | `bookkeeping`, `letters` | fence, checkpoint and delta as rows; dead letters among them |
//! | `session`, `writer` | a held pipeline, and its one connection that writes |
//! | `prepare`, `finish` | tables and indexes |
//! | `load`, `apply`, `plan` | loads, what their parts do to rows, and the statements that do it |
//!
//! SQLite has one writer. Loads are begun side by side and gather up to some megabytes in memory; the first that commits
//! or grows beyond that takes the writer and keeps it to its end, the others wait for it. A load that has the writer
//! never waits for another.

mod apply;
mod bookkeeping;
mod check;
mod finish;
mod letters;
mod load;
mod lock;
mod plan;
mod prepare;
mod session;
mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use syncline_core::{
    Destination, DestinationSession, Error, Family, Finding, Holder, Letter, LetterId, PipelineName, Result,
    SchemaMap, TableId, TableSchema,
};

use super::connect::blocking;
use super::{MAIN, url};

/// The destination behind a `sqlite:` URL. Opens nothing yet.
pub(super) fn open(url: &str) -> Result<Arc<dyn Destination>> {
    Ok(Arc::new(SqliteDestination { path: url::path_of(url)? }))
}

/// A file that is written.
struct SqliteDestination {
    path: PathBuf,
}

#[async_trait]
impl Destination for SqliteDestination {
    fn family(&self) -> Family {
        Family::SQLITE
    }

    fn address(&self) -> String {
        self.path.display().to_string()
    }

    async fn check(&self, tables: &[Arc<TableSchema>], map: &SchemaMap) -> Result<Vec<Finding>> {
        let (path, tables, map) = (self.path.clone(), tables.to_vec(), map.clone());
        blocking(move || check::check(&path, &tables, &map)).await
    }

    async fn open(
        &self,
        pipeline: &PipelineName,
        holder: &Holder,
        map: &SchemaMap,
    ) -> Result<Arc<dyn DestinationSession>> {
        refuse_other_schemas(map)?;
        let (path, pipeline, holder) = (self.path.clone(), pipeline.clone(), holder.clone());
        blocking(move || session::open(&path, &pipeline, &holder)).await
    }

    async fn owners(&self, tables: &[TableId], _map: &SchemaMap) -> Result<BTreeMap<TableId, PipelineName>> {
        let (path, tables) = (self.path.clone(), tables.to_vec());
        blocking(move || session::owners(&path, &tables)).await
    }

    async fn letters(&self, pipeline: &PipelineName) -> Result<BTreeMap<LetterId, Letter>> {
        let (path, pipeline) = (self.path.clone(), pipeline.clone());
        blocking(move || session::letters(&path, &pipeline)).await
    }

    async fn drop_pipeline(&self, pipeline: &PipelineName) -> Result<()> {
        let (path, pipeline) = (self.path.clone(), pipeline.clone());
        blocking(move || session::forget(&path, &pipeline)).await
    }
}

/// Tables land under their own names, whatever the source's schema is called: SQLite has no schemas.
fn refuse_other_schemas(map: &SchemaMap) -> Result<()> {
    match map.0.iter().find(|(_, to)| to != MAIN) {
        None => Ok(()),
        Some((from, to)) => {
            Err(Error::configuration(format!("SQLite has no schema `{to}` to map `{from}` to")).with_remedy(
                "leave out --schema-map, or map to `main`; load schemas with equal table names into files of their own",
            ))
        }
    }
}
