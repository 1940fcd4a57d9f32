//! Taking a pipeline: its lock, then a higher fencing token.
//!
//! The lock (a session advisory lock on a connection of its own) keeps two runs from working against each other; the
//! token keeps a run that lost the lock without knowing it from writing anything. The holder's row says who has the lock;
//! its heartbeat, sent on the lock's connection, says that the process behind it is still there.

use std::collections::BTreeMap;
use std::time::Duration;

use syncline_core::{Error, ErrorKind, Holder, PipelineName, Result, SchemaMap, TableId};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::connect::Session;
use super::super::error::from_client;
use super::super::url::Address;
use super::bookkeeping;
use super::holder::{Here, Life};
use super::sessions;

/// How long a living holder is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the holder says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);

const TRY_LOCK: &str = "SELECT pg_try_advisory_lock(hashtextextended('syncline pipeline ' || $1, 0))";
const UNLOCK: &str = "SELECT pg_advisory_unlock(hashtextextended('syncline pipeline ' || $1, 0))";
/// Who has the lock, by the lock table, and what the holder's row says if that is the same backend.
const WHO: &str = "SELECT a.pid, p.holder::text, p.opened_at::text, p.heartbeat_at::text \
    FROM (SELECT hashtextextended('syncline pipeline ' || $1, 0) AS key) h \
    JOIN pg_locks l ON l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
        AND l.classid::int8 = (h.key >> 32) & 4294967295 AND l.objid::int8 = h.key & 4294967295 \
    JOIN pg_database d ON d.oid = l.database AND d.datname = current_database() \
    JOIN pg_stat_activity a ON a.pid = l.pid \
    LEFT JOIN syncline.pipelines p \
        ON p.name = $1 AND p.backend_pid = a.pid AND p.backend_start = a.backend_start";
const RAISE: &str = "UPDATE syncline.pipelines SET fence = fence + 1, holder = $2::text::jsonb, \
    opened_at = clock_timestamp(), heartbeat_at = clock_timestamp(), backend_pid = pg_backend_pid(), \
    backend_start = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()) \
    WHERE name = $1 RETURNING fence";
const BEAT: &str =
    "UPDATE syncline.pipelines SET heartbeat_at = clock_timestamp() WHERE name = $1 AND fence = $2";
const RELEASE: &str = "UPDATE syncline.pipelines SET holder = NULL, backend_pid = NULL, backend_start = NULL \
    WHERE name = $1 AND fence = $2";

/// A pipeline that is held.
pub(super) struct Held {
    pub(super) fence: u64,
    pub(super) lock: Lock,
}

/// The lock's connection with its heartbeat. Dropped: the connection ends, and the lock with it.
pub(super) struct Lock {
    stop: CancellationToken,
    heartbeat: Option<JoinHandle<()>>,
}

impl Lock {
    /// Gives the lock back and waits until it is given back.
    pub(super) async fn release(mut self) {
        self.stop.cancel();
        if let Some(heartbeat) = self.heartbeat.take() {
            // A panic of the task has nothing left to release: its connection went with it.
            let _ = heartbeat.await;
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.abort();
        }
    }
}

/// Takes a pipeline: bookkeeping, lock, the end of what an earlier holder left, token, heartbeat.
///
/// # Errors
/// Configuration, naming the holder, if a living one keeps it.
pub(super) async fn take(address: &Address, pipeline: &PipelineName, holder: &Holder) -> Result<Held> {
    let session = Session::connect(address, &format!("lock/{pipeline}")).await?;
    // A token that a crash takes back would be given out twice.
    sessions::make_durable(&session).await?;
    bookkeeping::ensure(&session, pipeline).await?;
    lock(&session, pipeline, &Here::of(holder)).await?;
    sessions::end_earlier(&session, pipeline).await?;
    let text = serde_json::to_string(holder)
        .map_err(|error| Error::bug("a holder cannot be written as JSON").with_source(error))?;
    let row = session
        .query_opt(RAISE, &[&pipeline.as_str(), &text])
        .await
        .map_err(|error| from_client(error, "raising the fencing token"))?;
    let row = row.ok_or_else(|| Error::conflict("the pipeline was dropped while it was being opened"))?;
    let fence = row.get::<_, i64>(0);
    let stop = CancellationToken::new();
    let heartbeat = tokio::spawn(beat(session, pipeline.clone(), fence, stop.clone()));
    Ok(Held { fence: fence.cast_unsigned(), lock: Lock { stop, heartbeat: Some(heartbeat) } })
}

/// Forgets a pipeline that nobody holds.
///
/// # Errors
/// Configuration, naming the holder, if a living one keeps it.
pub(super) async fn drop_pipeline(address: &Address, pipeline: &PipelineName) -> Result<()> {
    let session = Session::connect(address, &format!("lock/{pipeline}")).await?;
    if bookkeeping::format(&session).await?.is_none() {
        return Ok(());
    }
    lock(&session, pipeline, &Here::read()).await?;
    sessions::end_earlier(&session, pipeline).await?;
    let forgotten = bookkeeping::forget(&session, pipeline).await;
    // The session ends now and its locks with it; unlocking here makes that visible before this call returns.
    let unlocked = session.execute(UNLOCK, &[&pipeline.as_str()]).await;
    forgotten?;
    unlocked.map_err(|error| from_client(error, "releasing the pipeline")).map(|_| ())
}

/// The pipelines that load these tables.
///
/// # Errors
/// As any read.
pub(super) async fn owners(
    address: &Address,
    tables: &[TableId],
    map: &SchemaMap,
) -> Result<BTreeMap<TableId, PipelineName>> {
    let session = Session::connect(address, "owners").await?;
    bookkeeping::owners(&session, tables, map).await
}

/// Who stands in the way.
struct Other {
    backend: i32,
    holder: Option<Holder>,
    since: Option<String>,
    heartbeat: Option<String>,
}

/// Takes the advisory lock. A dead holder's backend is ended at once; one whose heartbeat has stood still for
/// [`PATIENCE`] is ended then.
async fn lock(session: &Session, pipeline: &PipelineName, here: &Here) -> Result<()> {
    let began = Instant::now();
    let mut last: Option<(i32, Option<String>)> = None;
    let mut moved = false;
    loop {
        if try_lock(session, pipeline).await? {
            return Ok(());
        }
        let late = began.elapsed() >= PATIENCE;
        if let Some(other) = who(session, pipeline).await? {
            let seen = (other.backend, other.heartbeat.clone());
            moved |= last.replace(seen.clone()).is_some_and(|before| before != seen);
            let life = other.holder.as_ref().map(|holder| here.judge(holder));
            if life == Some(Life::Dead) || (late && !moved) {
                end_backend(session, other.backend).await?;
            } else if late {
                return Err(refusal(pipeline, &other));
            }
        }
        if began.elapsed() >= PATIENCE * 2 {
            return Err(Error::new(ErrorKind::Retriable, "the pipeline's lock stays taken")
                .with_remedy("see pg_locks at the destination for the session that has it"));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn try_lock(session: &Session, pipeline: &PipelineName) -> Result<bool> {
    let row = session.query_one(TRY_LOCK, &[&pipeline.as_str()]).await;
    Ok(row.map_err(|error| from_client(error, "taking the pipeline's lock"))?.get(0))
}

async fn who(session: &Session, pipeline: &PipelineName) -> Result<Option<Other>> {
    let row = session.query_opt(WHO, &[&pipeline.as_str()]).await;
    let row = row.map_err(|error| from_client(error, "asking who holds the pipeline"))?;
    Ok(row.map(|row| Other {
        backend: row.get(0),
        holder: row.get::<_, Option<String>>(1).and_then(|text| serde_json::from_str(&text).ok()),
        since: row.get(2),
        heartbeat: row.get(3),
    }))
}

async fn end_backend(session: &Session, backend: i32) -> Result<()> {
    session
        .execute("SELECT pg_terminate_backend($1)", &[&backend])
        .await
        .map_err(|error| from_client(error, "ending the session of a dead holder"))?;
    Ok(())
}

fn refusal(pipeline: &PipelineName, other: &Other) -> Error {
    let who = match &other.holder {
        Some(holder) => format!("process {} on host {}", holder.pid, holder.host),
        None => format!("the database session {}", other.backend),
    };
    let since = other.since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
    Error::configuration(format!("pipeline `{pipeline}` is held by {who}{since}"))
        .with_remedy("stop that process, or wait until it has ended")
}

/// The heartbeat. Ends when told to, after giving the lock back, or when its connection is lost: the token goes on
/// guarding the data then.
async fn beat(session: Session, pipeline: PipelineName, fence: i64, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
        if let Err(error) = session.execute(BEAT, &[&pipeline.as_str(), &fence]).await {
            tracing::warn!(error = %from_client(error, "heartbeat"), %pipeline, "the pipeline's lock is lost");
            return;
        }
    }
    // Best effort: the end of the session releases the lock in any case.
    let _ = session.execute(RELEASE, &[&pipeline.as_str(), &fence]).await;
    let _ = session.execute(UNLOCK, &[&pipeline.as_str()]).await;
}
