//! Partitions that the source has got since a table was prepared.
//!
//! A row whose partition is missing at the destination cannot be written, so they are made when a run opens. Partitions
//! that the source has dropped stay: that is no delete of their rows.

use std::sync::Arc;

use syncline_core::{Result, TableSchema};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::super::definition::Partition;
use super::super::error::from_client;
use super::super::quote::ident;
use super::rename::Renaming;
use super::session::Pipeline;
use super::sessions::Purpose;
use super::{ddl, existing, prepare};

/// Makes the partitions that are missing, if the destination's table is partitioned at all.
///
/// # Errors
/// As any definition.
pub(super) async fn extend(pipeline: &Pipeline, table: &Arc<TableSchema>) -> Result<()> {
    let definition = ddl::definition_of(table)?;
    let Some(partitioning) = definition.as_ref().and_then(|definition| definition.partitioning.as_ref())
    else {
        return Ok(());
    };
    let lease = pipeline.sessions.lease(Purpose::Definition).await?;
    let client = lease.client()?;
    let renaming = Renaming::new(&pipeline.map, definition.as_ref());
    for partition in &partitioning.partitions {
        if is_missing(client, partition, &renaming).await? {
            create(client, pipeline, partition, &renaming)
                .await
                .map_err(|error| error.with_table(&table.id))?;
        }
    }
    lease.give_back();
    Ok(())
}

/// Whether a partition is not there while its parent is, and is partitioned.
async fn is_missing(client: &Client, partition: &Partition, renaming: &Renaming<'_>) -> Result<bool> {
    if existing::read(client, &renaming.table(&partition.id)).await?.is_some() {
        return Ok(false);
    }
    let parent = existing::read(client, &renaming.table(&partition.parent)).await?;
    Ok(parent.is_some_and(|parent| parent.kind == "p"))
}

async fn create(
    client: &Client,
    pipeline: &Pipeline,
    partition: &Partition,
    renaming: &Renaming<'_>,
) -> Result<()> {
    let failed = |error| from_client(error, "creating a partition");
    prepare::begin(client, pipeline).await?;
    let schema = ident(&renaming.table(&partition.id).schema);
    client.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {schema}")).await.map_err(failed)?;
    match client.batch_execute(&ddl::create_partition(partition, renaming)).await {
        Ok(()) => client.batch_execute("COMMIT").await.map_err(failed),
        // Rows of it are in the default partition here, as they were at the source before; there they may stay.
        Err(error) if error.code() == Some(&SqlState::CHECK_VIOLATION) => {
            tracing::warn!(partition = %partition.id, "its rows stay in the default partition of the destination");
            client.batch_execute("ROLLBACK").await.map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}
