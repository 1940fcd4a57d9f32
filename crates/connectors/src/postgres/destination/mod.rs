//! PostgreSQL as a destination (15 and later).
//!
//! Data and checkpoint commit together: the bookkeeping is rows in the schema `syncline` of the same database, so a load
//! is one transaction and its identity needs no other deduplication than the checkpoint itself.
//!
//! | module | what it is for |
//! |---|---|
//! | `fence`, `holder` | taking a pipeline: advisory lock, fencing token, heartbeat, ending dead holders |
//! | `bookkeeping`, `delta`, `letters` | the schema `syncline`; reading a checkpoint and its dead letters; changing it by a delta that fits |
//! | `sessions`, `flight` | bounded pools of connections; requests that share one round trip |
//! | `existing`, `fit`, `check` | what stands at the destination, and whether it can take a table |
//! | `ddl`, `rename`, `mapping`, `prepare`, `set_aside`, `finish` | from a definition to a table with its keys and indexes |
//! | `shape`, `encode`, `load` | what a load must know of a table; values as PostgreSQL's bytes; the loads themselves |
//!
//! What a session promises is on [`DestinationSession`](syncline_core::DestinationSession); nothing here retries.

mod bookkeeping;
mod check;
mod ddl;
mod delta;
mod encode;
mod existing;
mod fence;
mod finish;
mod fit;
mod flight;
mod holder;
mod letters;
mod load;
mod mapping;
mod partitions;
mod prepare;
mod rename;
mod session;
mod sessions;
mod set_aside;
mod shape;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use syncline_core::{
    Destination, DestinationSession, Family, Finding, Holder, Letter, LetterId, PipelineName, Result,
    SchemaMap, TableId, TableSchema,
};

use super::url::Address;

/// Opens a URL. Connects to nothing yet.
pub(crate) fn open(url: &str) -> Result<Arc<dyn Destination>> {
    Ok(Arc::new(PostgresDestination { address: Address::parse(url)? }))
}

struct PostgresDestination {
    address: Address,
}

#[async_trait]
impl Destination for PostgresDestination {
    fn family(&self) -> Family {
        Family::POSTGRES
    }

    fn address(&self) -> String {
        self.address.display()
    }

    async fn check(&self, tables: &[Arc<TableSchema>], map: &SchemaMap) -> Result<Vec<Finding>> {
        check::check(&self.address, tables, map).await
    }

    async fn open(
        &self,
        pipeline: &PipelineName,
        holder: &Holder,
        map: &SchemaMap,
    ) -> Result<Arc<dyn DestinationSession>> {
        let held = fence::take(&self.address, pipeline, holder).await?;
        Ok(Arc::new(session::PostgresSession::new(&self.address, pipeline, map, held)))
    }

    async fn owners(&self, tables: &[TableId], map: &SchemaMap) -> Result<BTreeMap<TableId, PipelineName>> {
        fence::owners(&self.address, tables, map).await
    }

    async fn letters(&self, pipeline: &PipelineName) -> Result<BTreeMap<LetterId, Letter>> {
        letters::of_pipeline(&self.address, pipeline).await
    }

    async fn drop_pipeline(&self, pipeline: &PipelineName) -> Result<()> {
        fence::drop_pipeline(&self.address, pipeline).await
    }
}
