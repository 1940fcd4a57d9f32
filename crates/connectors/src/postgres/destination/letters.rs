//! Dead letters as rows beside the data. How they change is in `delta`.

use std::collections::BTreeMap;

use syncline_core::{Error, Letter, LetterId, PipelineName, Position, Result, TableId};
use tokio_postgres::{Client, Row};

use super::super::connect::Session;
use super::super::error::from_client;
use super::super::url::Address;

const READ: &str = "SELECT id, schema, name, position, keys, reason, code, attempts, first_at_ms, last_at_ms, change \
    FROM syncline.letters WHERE pipeline = $1";

/// The letters of a pipeline, whoever holds it.
///
/// # Errors
/// As any read.
pub(super) async fn of_pipeline(
    address: &Address,
    pipeline: &PipelineName,
) -> Result<BTreeMap<LetterId, Letter>> {
    let session = Session::connect(address, &format!("letters/{pipeline}")).await?;
    let exist = "SELECT to_regclass('syncline.letters') IS NOT NULL";
    let exist = session.query_one(exist, &[]).await;
    let exist: bool = exist.map_err(|error| from_client(error, "reading dead letters"))?.get(0);
    if exist { read(&session, pipeline).await } else { Ok(BTreeMap::new()) }
}

/// The letters of a pipeline.
///
/// # Errors
/// As any read; a conflict if one is damaged.
pub(super) async fn read(client: &Client, pipeline: &PipelineName) -> Result<BTreeMap<LetterId, Letter>> {
    let rows = client.query(READ, &[&pipeline.as_str()]).await;
    rows.map_err(|error| from_client(error, "reading dead letters"))?.iter().map(letter).collect()
}

fn letter(row: &Row) -> Result<(LetterId, Letter)> {
    let attempts = u32::try_from(row.get::<_, i64>(7))
        .map_err(|_| Error::conflict("a number in the bookkeeping is out of range"))?;
    let letter = Letter {
        table: TableId::new(row.get::<_, String>(1), row.get::<_, String>(2)),
        position: Position::from_bytes(row.get::<_, Vec<u8>>(3)),
        keys: Letter::keys_from_bytes(row.get(4))?,
        reason: row.get(5),
        code: row.get(6),
        attempts,
        first_at_ms: row.get(8),
        last_at_ms: row.get(9),
        change: row.get::<_, Vec<u8>>(10).into(),
    };
    Ok((LetterId(row.get::<_, i64>(0).cast_unsigned()), letter))
}
