//! The replication slot.

use std::time::Duration;

use syncline_core::{Error, ErrorKind, Result, Retained};
use tokio::time::{Instant, sleep};

use crate::postgres::connect::Session;
use crate::postgres::lsn::Lsn;
use crate::postgres::source::pool::Pool;
use crate::postgres::{error, quote};

/// How long a backend of ours may take to let go of the slot after it was told to end.
const RELEASE_MAX: Duration = Duration::from_secs(10);
const RELEASE_POLL: Duration = Duration::from_millis(50);

/// A slot of our name, as found.
#[derive(Debug)]
pub(super) struct Slot {
    plugin: Option<String>,
    is_here: bool,
    temporary: bool,
    lost: bool,
    confirmed: Option<String>,
}

/// Looks for the slot.
pub(super) async fn find(session: &Session, name: &str) -> Result<Option<Slot>> {
    // Columns of later versions are read through JSON: `conflicting` from 16, `invalidation_reason` from 17 on.
    let sql = "
        SELECT s.plugin::text, s.database IS NOT DISTINCT FROM current_database(), s.temporary,
               s.wal_status IS NOT DISTINCT FROM 'lost' OR coalesce((to_jsonb(s) ->> 'conflicting')::bool, false)
                   OR to_jsonb(s) ->> 'invalidation_reason' IS NOT NULL,
               s.confirmed_flush_lsn::text
        FROM pg_replication_slots s WHERE s.slot_name = $1";
    let row = session.query_opt(sql, &[&name]).await;
    let row = row.map_err(|e| error::from_client(e, "looking for the replication slot"))?;
    Ok(row.map(|row| Slot {
        plugin: row.get(0),
        is_here: row.get(1),
        temporary: row.get(2),
        lost: row.get(3),
        confirmed: row.get(4),
    }))
}

impl Slot {
    /// Its confirmed position. `None` after the removal of one that a process of ours left half made: the pipeline is
    /// held by its fence at the destination, so nobody else is at work on it.
    ///
    /// # Errors
    /// A conflict if it is not ours or has lost its log.
    pub(super) async fn usable(self, pool: &Pool, name: &str) -> Result<Option<Lsn>> {
        if self.plugin.as_deref() != Some("pgoutput") || !self.is_here || self.temporary {
            return Err(Error::conflict(format!(
                "slot {name} is not one of ours: it has another plugin or database"
            ))
            .with_remedy("choose another --name for the pipeline, or drop the slot if nobody needs it"));
        }
        if self.lost {
            return Err(Error::conflict(format!(
                "slot {name} has lost its log, and with it changes that were not read (max_slot_wal_keep_size at the \
                 source says how far a slot may stay behind)"
            ))
            .with_changes_missing());
        }
        if let Some(confirmed) = self.confirmed {
            return confirmed.parse().map(Some);
        }
        let session = pool.take().await?;
        release(&session, name).await?;
        let still_there = find(&session, name).await?.is_some();
        pool.give(session);
        if still_there {
            return Err(Error::new(ErrorKind::Retriable, format!("slot {name} is still being made")));
        }
        Ok(None)
    }
}

/// Makes the slot and returns its consistent point. Waits for every transaction that runs now.
pub(super) async fn make(session: &Session, name: &str) -> Result<Lsn> {
    let sql = "SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput')";
    let made = session.query_one(sql, &[&name]).await;
    made.map_err(|e| error::from_client(e, "making the replication slot"))?.get::<_, &str>(0).parse()
}

/// Whether a session is at work on making the slot.
pub(super) async fn is_being_made(session: &Session, name: &str) -> Result<bool> {
    let sql = "SELECT FROM pg_replication_slots
               WHERE slot_name = $1 AND confirmed_flush_lsn IS NULL AND active_pid IS NOT NULL";
    let found = session.query_opt(sql, &[&name]).await;
    found.map(|row| row.is_some()).map_err(|e| error::from_client(e, "looking for the replication slot"))
}

/// Ends whoever uses the slot and waits until it is free.
async fn release(session: &Session, name: &str) -> Result<()> {
    let failed = |e| error::from_client(e, "freeing the replication slot");
    let deadline = Instant::now() + RELEASE_MAX;
    loop {
        let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
                   WHERE slot_name = $1 AND active_pid IS NOT NULL AND active_pid <> pg_backend_pid()";
        if session.query_opt(sql, &[&name]).await.map_err(failed)?.is_none() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::new(
                ErrorKind::Retriable,
                format!("slot {name} is in use and its user does not end"),
            )
            .with_remedy("stop the process that reads it, then run again"));
        }
        sleep(RELEASE_POLL).await;
    }
}

/// Drops the slot, ending its reader first. What is not there is no error.
pub(super) async fn drop(session: &Session, name: &str) -> Result<()> {
    let deadline = Instant::now() + RELEASE_MAX;
    loop {
        release(session, name).await?;
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                   WHERE slot_name = $1 AND database = current_database()";
        match session.query_opt(sql, &[&name]).await {
            Ok(_) => return Ok(()),
            // Somebody took it between the two statements, or is letting go of it.
            Err(e) if e.code().is_some_and(|code| code.code() == "55006") && Instant::now() < deadline => {
                sleep(RELEASE_POLL).await;
            }
            // It went between the look and the drop.
            Err(e) if e.code().is_some_and(|code| code.code() == "42704") => return Ok(()),
            Err(e) => return Err(error::from_client(e, "dropping the replication slot")),
        }
    }
}

/// What slot and publication hold back at the source, and how to drop them by hand.
pub(super) async fn retained(session: &Session, name: &str) -> Result<Option<Retained>> {
    let sql = "
        SELECT (SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), s.restart_lsn)::int8
                FROM pg_replication_slots s WHERE s.slot_name = $1),
               EXISTS (SELECT FROM pg_replication_slots s WHERE s.slot_name = $1),
               EXISTS (SELECT FROM pg_publication p WHERE p.pubname = $1)";
    let row = session.query_one(sql, &[&name]).await;
    let row = row.map_err(|e| error::from_client(e, "measuring what the slot holds"))?;
    let drop_slot = format!("SELECT pg_drop_replication_slot({});", quote::literal(name));
    let drop_publication = format!("DROP PUBLICATION {};", quote::ident(name));
    let (what, drop_statement) = match (row.get(1), row.get(2)) {
        (false, false) => return Ok(None),
        (true, false) => (format!("replication slot {name}"), drop_slot),
        (true, true) => (format!("replication slot {name}"), format!("{drop_slot} {drop_publication}")),
        (false, true) => (format!("publication {name}"), drop_publication),
    };
    let bytes = row.get::<_, Option<i64>>(0).map(|bytes| bytes.max(0).unsigned_abs());
    Ok(Some(Retained { what, bytes, drop_statement }))
}
