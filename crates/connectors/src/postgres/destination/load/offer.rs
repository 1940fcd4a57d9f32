//! Parts that may be refused for their rows: written behind a savepoint, so that what is refused leaves no trace.

use std::sync::Arc;

use syncline_core::{Error, Part, Result};

use super::super::super::error::from_client;
use super::super::shape::Shape;
use super::PostgresLoad;

/// Checks what waits for the commit, and lets it wait again.
const CHECK: &str = "SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED";

/// What is in the load before an offer.
struct Before {
    tally: super::Tally,
    missing: usize,
}

/// Writes a part, and hears at once what the server has to say about it. The error of a part that is refused for its rows
/// comes back as a value.
///
/// # Errors
/// As any write that fails for another reason.
pub(super) async fn offer(load: &mut PostgresLoad, part: &Part) -> Result<Option<Error>> {
    let doing = "writing rows";
    let shape = load.shape(table(part)?).await?;
    load.flush().await?;
    make_ready(load, &shape, part).await?;
    let before = Before { tally: load.tally, missing: load.missing.len() };
    load.batch(&shape, "SAVEPOINT offer", doing).await?;
    let written = match write(load, part).await {
        Ok(()) if load.checks_offers => load.batch(&shape, CHECK, doing).await,
        written => written,
    };
    let refused = match written {
        Ok(()) => None,
        Err(error) if error.rows_at_fault() || error.breaks_reference() => Some(error),
        Err(error) => return Err(error),
    };
    if refused.is_some() {
        load.copy = None;
        load.waiting.clear();
        load.waiting_bytes = 0;
        load.tally = before.tally;
        load.missing.truncate(before.missing);
        load.batch(&shape, "ROLLBACK TO SAVEPOINT offer", doing).await?;
    }
    load.batch(&shape, "RELEASE SAVEPOINT offer", doing).await?;
    Ok(refused)
}

fn table(part: &Part) -> Result<&Arc<syncline_core::TableSchema>> {
    match part {
        Part::Changes(batch) => Ok(&batch.table),
        Part::Rows { table, .. } => Ok(table),
        Part::Bulk { .. } | Part::Empty(_) => Err(Error::bug("only rows and changes can be offered")),
    }
}

/// What is made before the savepoint outlives going back to it.
async fn make_ready(load: &mut PostgresLoad, shape: &Arc<Shape>, part: &Part) -> Result<()> {
    match part {
        Part::Changes(batch) => load.make_ready(shape, batch).await,
        _ => load.make_chunk_ready(shape).await,
    }
}

async fn write(load: &mut PostgresLoad, part: &Part) -> Result<()> {
    match part {
        Part::Changes(batch) => load.write_changes(batch).await?,
        Part::Rows { table, rows } => {
            load.write_rows(table, rows).await?;
            load.finish_copy().await?;
        }
        Part::Bulk { .. } | Part::Empty(_) => {}
    }
    load.flush().await
}

/// Checks what waits for the commit; if it holds, each offer checks it too.
///
/// # Errors
/// As any statement.
pub(super) async fn check_now(load: &mut PostgresLoad) -> Result<Option<Error>> {
    if load.lease.worker()?.is_replica() {
        return Ok(None);
    }
    load.finish_copy().await?;
    load.flush().await?;
    let failed = |error| from_client(error, "checking what waits for the commit");
    load.lease.client()?.batch_execute("SAVEPOINT offer").await.map_err(failed)?;
    let refused = match load.lease.client()?.batch_execute(CHECK).await {
        Ok(()) => None,
        Err(error) => {
            let table = load.table_of_constraint(&error);
            let error = failed(error);
            if !error.breaks_reference() && !error.rows_at_fault() {
                return Err(error);
            }
            Some(match table {
                Some(table) => error.with_table(&table),
                None => error,
            })
        }
    };
    let end = if refused.is_some() {
        "ROLLBACK TO SAVEPOINT offer; RELEASE SAVEPOINT offer"
    } else {
        "RELEASE SAVEPOINT offer"
    };
    load.lease.client()?.batch_execute(end).await.map_err(failed)?;
    load.checks_offers = refused.is_none();
    Ok(refused)
}
