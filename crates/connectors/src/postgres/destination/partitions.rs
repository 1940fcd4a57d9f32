//! Partitions that the source has got since a table was prepared.
//!
//! A row whose partition is missing at the destination cannot be written, so they are made when they are noticed, or when
//! such a row comes. Partitions that the source has dropped stay: that is no delete of their rows.

use std::sync::Arc;

use syncline_core::{Error, ErrorKind, Result, TableSchema};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::super::definition::Partition;
use super::super::error::from_client;
use super::super::quote::{ident, table as quoted};
use super::rename::Renaming;
use super::session::Pipeline;
use super::sessions::Purpose;
use super::{ddl, existing, prepare};

/// Makes the partitions that are missing, if the destination's table is partitioned at all. Says whether any was made.
///
/// # Errors
/// Data if another table has a partition's name; else as any definition.
pub(super) async fn extend(pipeline: &Pipeline, table: &Arc<TableSchema>) -> Result<bool> {
    let definition = ddl::definition_of(table)?;
    let Some(partitioning) = definition.as_ref().and_then(|definition| definition.partitioning.as_ref())
    else {
        return Ok(false);
    };
    let lease = pipeline.sessions.lease(Purpose::Definition).await?;
    let client = lease.client()?;
    let renaming = Renaming::new(&pipeline.map, definition.as_ref());
    let mut made = false;
    for partition in &partitioning.partitions {
        if is_missing(client, partition, &renaming).await.map_err(|error| error.with_table(&table.id))? {
            made |= create(client, pipeline, partition, &renaming)
                .await
                .map_err(|error| error.with_table(&table.id))?;
        }
    }
    lease.give_back();
    Ok(made)
}

/// Whether a partition is not there while its parent is, and is partitioned.
async fn is_missing(client: &Client, partition: &Partition, renaming: &Renaming<'_>) -> Result<bool> {
    let parent = existing::read(client, &renaming.table(&partition.parent)).await?;
    let Some(parent) = parent.filter(|parent| parent.kind == "p") else { return Ok(false) };
    let target = renaming.table(&partition.id);
    let Some(there) = existing::read(client, &target).await? else { return Ok(true) };
    let sql = "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = $1 AND inhparent = $2)";
    let belongs = client.query_one(sql, &[&there.oid, &parent.oid]).await;
    if belongs.map_err(|error| from_client(error, "looking for a partition"))?.get(0) {
        return Ok(false);
    }
    let (name, root) = (quoted(&target), quoted(&renaming.table(&partition.parent)));
    Err(Error::new(
        ErrorKind::Data,
        format!("the destination has a table {name} of its own where a partition of that name belongs"),
    )
    .with_remedy(format!(
        "rename or drop {name} there, or make it the partition: ALTER TABLE {root} ATTACH PARTITION {name} {}; then run again",
        renaming.sql(&partition.bound)
    )))
}

/// Makes a partition; `false` if it cannot stand beside what is there.
async fn create(
    client: &Client,
    pipeline: &Pipeline,
    partition: &Partition,
    renaming: &Renaming<'_>,
) -> Result<bool> {
    let failed = |error| from_client(error, "creating a partition");
    prepare::begin(client, pipeline).await?;
    let schema = ident(&renaming.table(&partition.id).schema);
    client.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {schema}")).await.map_err(failed)?;
    let error = match client.batch_execute(&ddl::create_partition(partition, renaming)).await {
        Ok(()) => {
            prepare::check_fence(client, pipeline).await?;
            return client.batch_execute("COMMIT").await.map_err(failed).map(|()| true);
        }
        Err(error) => error,
    };
    let why = match error.code() {
        // Rows of it are in the default partition here, as they were at the source before; there they may stay.
        Some(&SqlState::CHECK_VIOLATION) => "its rows stay in the default partition of the destination",
        // Another one has its bounds: it was renamed at the source, or took the place of one that is gone there.
        Some(&SqlState::INVALID_OBJECT_DEFINITION) => "another partition of the destination has its bounds",
        _ => return Err(failed(error)),
    };
    tracing::warn!(partition = %partition.id, "it is not made: {why}");
    client.batch_execute("ROLLBACK").await.map_err(failed).map(|()| false)
}
