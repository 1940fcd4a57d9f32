//! Bounded pools of connections, and the end of those that broke.
//!
//! A session whose work did not end cleanly is never used again: its connection is dropped, which rolls its transaction
//! back at the server, soon but not at once. It is remembered as *lost*, and [`Sessions::end_lost`] makes sure that it is
//! gone: only then does a checkpoint tell what became of a commit whose answer was lost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use syncline_core::{Error, ErrorKind, PipelineName, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::{Client, Statement};

use super::super::connect::Session;
use super::super::error::from_client;
use super::super::url::Address;

/// Loads of chunks that may be open at once.
const CHUNK_SESSIONS_MAX: usize = 8;
/// Loads of changes and of bookkeeping that may be open at once; apart, so that chunks never make changes wait.
const CHANGE_SESSIONS_MAX: usize = 8;
/// Definitions that may be worked on at once (index builds).
const DEFINITION_SESSIONS_MAX: usize = 4;
/// A session older than this is not used again: its temporary tables would hold back the freezing of old rows.
const SESSION_AGE_MAX: Duration = Duration::from_secs(30 * 60);
/// A session that nobody wanted for this long is closed: after a snapshot the chunks' sessions are not needed.
const SESSION_IDLE_MAX: Duration = Duration::from_secs(60);
/// Prepared statements kept in one session.
const STATEMENTS_MAX: usize = 512;
/// How long the server may take to end a session that we lost.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Loads look rows up by key and know how large they are: no plan may read a whole table for a few rows, and a prepared
/// plan stays (DESIGN §6 Load). Large loads lift this for their own statements.
const LOAD_SETTINGS: &str = "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off; \
    SET random_page_cost = 1; SET plan_cache_mode = force_generic_plan";

/// What the source was told to forget must outlive a crash here, whatever the database or the role says. Every other value
/// waits for this server's own disk at least, and is the operator's choice.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false) \
    WHERE current_setting('synchronous_commit') = 'off'";

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Chunk,
    Changes,
    Definition,
}

impl Purpose {
    fn name(self, pipeline: &PipelineName) -> String {
        match self {
            Self::Chunk | Self::Changes => format!("load/{pipeline}"),
            Self::Definition => format!("define/{pipeline}"),
        }
    }
}

/// A backend, so that it can be ended and nothing else in its place.
#[derive(Debug, Clone)]
struct Backend {
    pid: i32,
    start: String,
}

/// A session with what it remembers: prepared statements and staging tables.
pub(super) struct Worker {
    session: Session,
    backend: Backend,
    born: Instant,
    used: Instant,
    statements: HashMap<String, Statement>,
    /// Whether triggers and foreign keys are switched off.
    replica: bool,
    /// Staging tables made in this session, by their definition.
    pub(super) stages: HashMap<String, String>,
    /// How many it has made, for their names.
    pub(super) stages_made: u32,
}

impl Worker {
    pub(super) fn client(&self) -> &Client {
        &self.session
    }

    /// Whether triggers and foreign keys are switched off.
    pub(super) fn is_replica(&self) -> bool {
        self.replica
    }

    fn is_fit(&self) -> bool {
        !self.session.is_closed()
            && self.born.elapsed() <= SESSION_AGE_MAX
            && self.used.elapsed() <= SESSION_IDLE_MAX
    }

    /// A prepared statement, from memory if it was used before.
    ///
    /// # Errors
    /// As the server says; nothing is wrapped, because the caller knows which table it is about.
    pub(super) async fn statement(&mut self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(known) = self.statements.get(sql) {
            return Ok(known.clone());
        }
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        let statement = self.session.prepare(sql).await?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

/// The connections of one held pipeline.
pub(super) struct Sessions {
    address: Address,
    pipeline: PipelineName,
    chunks: Pool,
    changes: Pool,
    definitions: Pool,
    lost: Mutex<Vec<Backend>>,
}

struct Pool {
    permits: Arc<Semaphore>,
    free: Mutex<Vec<Worker>>,
}

impl Pool {
    fn new(sessions_max: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(sessions_max)), free: Mutex::new(Vec::new()) }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    pub(super) fn new(address: &Address, pipeline: &PipelineName) -> Self {
        Self {
            address: address.clone(),
            pipeline: pipeline.clone(),
            chunks: Pool::new(CHUNK_SESSIONS_MAX),
            changes: Pool::new(CHANGE_SESSIONS_MAX),
            definitions: Pool::new(DEFINITION_SESSIONS_MAX),
            lost: Mutex::new(Vec::new()),
        }
    }

    fn pool(&self, purpose: Purpose) -> &Pool {
        match purpose {
            Purpose::Chunk => &self.chunks,
            Purpose::Changes => &self.changes,
            Purpose::Definition => &self.definitions,
        }
    }

    /// A session: a free one, a new one, or the next that becomes free.
    ///
    /// # Errors
    /// As any connection.
    pub(super) async fn lease(self: &Arc<Self>, purpose: Purpose) -> Result<Lease> {
        let pool = self.pool(purpose);
        let permit = Arc::clone(&pool.permits).acquire_owned().await;
        let permit =
            permit.map_err(|_| Error::new(ErrorKind::Cancelled, "the destination's session is closed"))?;
        for pool in [&self.chunks, &self.changes, &self.definitions] {
            locked(&pool.free).retain(Worker::is_fit);
        }
        let free = locked(&pool.free).pop();
        let worker = match free {
            Some(worker) => worker,
            None => connect(&self.address, &self.pipeline, purpose).await?,
        };
        Ok(Lease { sessions: Arc::clone(self), purpose, worker: Some(worker), _permit: permit })
    }

    /// Makes sure that no session we lost is still at work at the server.
    ///
    /// # Errors
    /// Retriable if one does not end.
    pub(super) async fn end_lost(&self, client: &Client) -> Result<()> {
        let lost = std::mem::take(&mut *locked(&self.lost));
        for backend in lost {
            if let Err(error) = end(client, &backend).await {
                locked(&self.lost).push(backend);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Closes every free session; those in use close when they are given back.
    pub(super) fn close(&self) {
        for pool in [&self.chunks, &self.changes, &self.definitions] {
            pool.permits.close();
            locked(&pool.free).clear();
        }
    }
}

/// A session in use. Dropped without [`Lease::give_back`] it counts as lost.
pub(super) struct Lease {
    sessions: Arc<Sessions>,
    purpose: Purpose,
    worker: Option<Worker>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// The session. A lease that has given its session back is consumed, so there always is one.
    pub(super) fn worker(&mut self) -> Result<&mut Worker> {
        self.worker.as_mut().ok_or_else(|| Error::bug("a session is used after it was given back"))
    }

    /// The client of the session.
    pub(super) fn client(&self) -> Result<&Client> {
        let worker = self.worker.as_ref();
        worker.map(Worker::client).ok_or_else(|| Error::bug("a session is used after it was given back"))
    }

    /// Returns a session that stands outside a transaction.
    pub(super) fn give_back(mut self) {
        let pool = self.sessions.pool(self.purpose);
        if let Some(mut worker) = self.worker.take()
            && !pool.permits.is_closed()
        {
            worker.used = Instant::now();
            locked(&pool.free).push(worker);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            locked(&self.sessions.lost).push(worker.backend.clone());
        }
    }
}

async fn connect(address: &Address, pipeline: &PipelineName, purpose: Purpose) -> Result<Worker> {
    let session = Session::connect(address, &purpose.name(pipeline)).await?;
    let failed = |error| from_client(error, "setting up a session");
    let me = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
    let row = session.query_one(me, &[]).await.map_err(failed)?;
    let backend = Backend { pid: row.get(0), start: row.get(1) };
    let mut replica = false;
    if purpose == Purpose::Definition {
        make_durable(&session).await?;
    } else {
        session.batch_execute(&format!("{DURABLE}; {LOAD_SETTINGS}")).await.map_err(failed)?;
        // As native replication does: triggers and foreign keys did their work at the source.
        match session.batch_execute("SET session_replication_role = replica").await {
            Ok(()) => replica = true,
            Err(refused) if refused.code().is_some_and(|code| code.code() == "42501") => {}
            Err(other) => return Err(failed(other)),
        }
    }
    Ok(Worker {
        session,
        backend,
        born: Instant::now(),
        used: Instant::now(),
        statements: HashMap::new(),
        replica,
        stages: HashMap::new(),
        stages_made: 0,
    })
}

/// Makes a session's commits wait for the server's disk if they would not.
///
/// # Errors
/// As any statement.
pub(super) async fn make_durable(client: &Client) -> Result<()> {
    let done = client.batch_execute(DURABLE).await;
    done.map_err(|error| from_client(error, "setting up a session"))
}

/// Ends a backend and waits until it is gone.
async fn end(client: &Client, backend: &Backend) -> Result<()> {
    let failed = |error| from_client(error, "ending a lost session");
    // A pooler may have given it to others since: only a session of ours is ended.
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE pid = $1 AND backend_start::text = $2 AND application_name LIKE 'syncline/%'";
    let began = Instant::now();
    while !client.query(sql, &[&backend.pid, &backend.start]).await.map_err(failed)?.is_empty() {
        if began.elapsed() > END_PATIENCE {
            return Err(Error::new(
                ErrorKind::Retriable,
                "a lost session of ours is still at work at the server",
            ));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Ends the sessions that an earlier holder left. The caller holds the pipeline's lock, so none of them may still
/// commit; what they hold locked would only be in the way.
pub(super) async fn end_earlier(client: &Client, pipeline: &PipelineName) -> Result<()> {
    let sql = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE datname = current_database() \
        AND usename = current_user AND application_name IN ($1, $2)";
    let name = |purpose: Purpose| format!("syncline/{}", purpose.name(pipeline));
    let rows = client
        .query(sql, &[&name(Purpose::Changes), &name(Purpose::Definition)])
        .await
        .map_err(|error| from_client(error, "looking for sessions of an earlier run"))?;
    for row in rows {
        end(client, &Backend { pid: row.get(0), start: row.get(1) }).await?;
    }
    Ok(())
}
