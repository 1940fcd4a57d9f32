//! For whom we wait: the oldest transaction that ran when something was set up and runs still.

use syncline_core::{Error, Result};

use crate::postgres::connect::Session;
use crate::postgres::error;

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
    Ok(Some(who.unwrap_or_else(|| unseen(&format!("transaction {oldest}")))))
}

/// For whom the making of a slot waits: it waits for all that ran when it began, so for the oldest in any case.
pub(super) async fn maker_waits_for(session: &Session) -> Result<String> {
    Ok(oldest_transaction(session).await?.unwrap_or_else(|| unseen("older transactions to end")))
}

fn unseen(what: &str) -> String {
    format!("{what} (grant pg_monitor to the user to see whose)")
}

/// Whose the oldest transaction with a number is; `None` if there is none or it may not be seen. The text stays the same
/// while it is the same one: who waits does not repeat itself.
async fn oldest_transaction(session: &Session) -> Result<Option<String>> {
    let sql = "
        SELECT who, to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')
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
        match row.get::<_, Option<String>>(1) {
            Some(since) => format!("{who}, open since {since} UTC"),
            None => who,
        }
    }))
}
