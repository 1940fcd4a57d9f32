//! For whom we wait: the oldest transaction that ran when something was set up and runs still.

use syncline_core::{Error, Result};

use crate::postgres::connect::Session;
use crate::postgres::error;
use crate::postgres::source::pool::Pool;

/// A number above that of every transaction that runs now.
///
/// A snapshot's xmax would not do: it is one above the newest transaction that has *ended*, and one that runs may be above
/// it. A number of our own is, so it costs one.
pub(super) async fn barrier(session: &Session) -> Result<String> {
    let row = session.query_one("SELECT pg_current_xact_id()::text", &[]).await;
    Ok(row.map_err(|e| error::from_client(e, "reading the newest transaction's number"))?.get(0))
}

/// Who still runs of those transactions that ran when `barrier` was read; `None` if nobody does.
pub(super) async fn blocker(session: &Session, barrier: &str) -> Result<Option<String>> {
    let barrier: u64 = barrier
        .parse()
        .map_err(|_| Error::conflict("what the snapshot waits for is not a transaction number"))?;
    let row = session.query_one("SELECT pg_snapshot_xmin(pg_current_snapshot())::text", &[]).await;
    let row = row.map_err(|e| error::from_client(e, "waiting for older transactions"))?;
    let oldest: u64 = row
        .get::<_, &str>(0)
        .parse()
        .map_err(|_| Error::conflict("the server's oldest transaction is no number"))?;
    if oldest >= barrier {
        return Ok(None);
    }
    let who = oldest_transaction(session).await?;
    Ok(Some(who.unwrap_or_else(|| {
        format!("transaction {oldest} (grant pg_monitor to the user to see whose it is)")
    })))
}

/// Whose the oldest transaction with a number is; `None` if there is none or it may not be seen.
async fn oldest_transaction(session: &Session) -> Result<Option<String>> {
    let sql = "
        SELECT who, extract(epoch FROM clock_timestamp() - since)::int8
        FROM (
            SELECT 'process ' || pid || ' of user ' || coalesce(usename::text, '?')
                       || CASE WHEN application_name <> '' THEN ' (' || application_name || ')' ELSE '' END AS who,
                   age(backend_xid) AS age, xact_start AS since
            FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
            UNION ALL
            SELECT 'prepared transaction ' || quote_literal(gid) || ' of user ' || owner, age(transaction), prepared
            FROM pg_prepared_xacts
        ) running
        ORDER BY age DESC LIMIT 1";
    let row = session.query_opt(sql, &[]).await;
    let row = row.map_err(|e| error::from_client(e, "looking for the oldest transaction"))?;
    Ok(row.map(|row| {
        let who: String = row.get(0);
        match row.get::<_, Option<i64>>(1) {
            Some(seconds) => format!("{who}, open for {} s", seconds.max(0)),
            None => who,
        }
    }))
}

/// Says in the log for whom the making of a slot waits. Best effort: the making itself goes on.
pub(super) async fn say_who(pool: &Pool, slot: &str) {
    let Ok(session) = pool.take().await else { return };
    if let Ok(Some(who)) = oldest_transaction(&session).await {
        tracing::warn!(slot, waiting_for = %who, "making the replication slot waits for an older transaction to end");
    }
    pool.give(session);
}
