//! Loads: gathered in memory up to a bound, then written in one transaction with the delta.

use std::sync::Arc;

use async_trait::async_trait;
use syncline_core::{Change, Delta, Durable, Error, ErrorKind, Load, LoadIdentity, Part, Result, failpoint};
use tokio::runtime::Handle;

use super::super::connect::blocking;
use super::super::error::During;
use super::apply::Applied;
use super::bookkeeping;
use super::session::Inner;
use super::writer::Transaction;

/// Bytes a load gathers before it takes the writer.
const GATHERED_BYTES_MAX: usize = 8 << 20;

/// A load.
pub(super) struct SqliteLoad {
    session: Arc<Inner>,
    identity: LoadIdentity,
    state: State,
}

enum State {
    /// Parts wait in memory.
    Gathering { parts: Vec<Part>, bytes: usize },
    /// It has the writer.
    Writing(Box<Writing>),
    /// A call was cancelled or failed: nothing of it can be committed any more.
    Broken,
}

struct Writing {
    transaction: Transaction,
    applied: Applied,
}

impl SqliteLoad {
    /// A load that holds nothing yet.
    pub(super) fn new(session: Arc<Inner>, identity: LoadIdentity) -> Self {
        Self { session, identity, state: State::Gathering { parts: Vec::new(), bytes: 0 } }
    }

    /// Takes the state out; until it is put back the load is broken, so that a cancelled call cannot be committed.
    async fn writing(&mut self, more: Option<Part>) -> Result<Box<Writing>> {
        let (mut parts, held) = match std::mem::replace(&mut self.state, State::Broken) {
            State::Gathering { parts, .. } => (parts, None),
            State::Writing(writing) => (Vec::new(), Some(writing)),
            State::Broken => {
                return Err(
                    Error::bug("a load goes on after a call of it failed").context(self.identity.to_string())
                );
            }
        };
        parts.extend(more);
        let held = match held {
            Some(writing) => Ok(writing),
            None => Err(self.session.writer().await),
        };
        let session = Arc::clone(&self.session);
        blocking(move || {
            let mut writing = match held {
                Ok(writing) => writing,
                Err(writer) => Box::new(Writing {
                    transaction: Transaction::begin(writer, session.pipeline(), session.fence())?,
                    applied: Applied::default(),
                }),
            };
            for part in &parts {
                writing.applied.part(&mut writing.transaction, part)?;
            }
            Ok(writing)
        })
        .await
    }
}

#[async_trait]
impl Load for SqliteLoad {
    async fn write(&mut self, part: Part) -> Result<()> {
        let size = bytes_of(&part);
        if let State::Gathering { parts, bytes } = &mut self.state
            && *bytes + size <= GATHERED_BYTES_MAX
        {
            *bytes += size;
            parts.push(part);
            return Ok(());
        }
        let writing = self.writing(Some(part)).await?;
        self.state = State::Writing(writing);
        Ok(())
    }

    async fn offer(&mut self, part: Part) -> Result<Option<Error>> {
        let writing = self.writing(None).await?;
        let (writing, refused) = blocking(move || offer(writing, &part)).await?;
        self.state = State::Writing(writing);
        Ok(refused)
    }

    async fn commit(mut self: Box<Self>, delta: &Delta) -> Result<Durable> {
        let writing = self.writing(None).await?;
        let (session, delta) = (Arc::clone(&self.session), delta.clone());
        let durable = blocking(move || commit(*writing, &session, &delta)).await?;
        failpoint::hit("load_committed").map_err(|error| {
            Error::new(ErrorKind::Unknown, "the answer to a commit was lost").with_source(error)
        })?;
        Ok(durable)
    }
}

impl Drop for SqliteLoad {
    /// Rolling back a long transaction takes a moment, which is not the runtime's.
    fn drop(&mut self) {
        if let State::Writing(writing) = std::mem::replace(&mut self.state, State::Broken)
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn_blocking(move || drop(writing));
        }
    }
}

/// Writes a part, or leaves everything as it was before it.
fn offer(mut writing: Box<Writing>, part: &Part) -> Result<(Box<Writing>, Option<Error>)> {
    let doing = "writing changes";
    let before = writing.applied.clone();
    writing.transaction.conn.execute_batch("SAVEPOINT offer").during(doing)?;
    let Writing { transaction, applied } = writing.as_mut();
    let refused = match applied.part_alone(transaction, part) {
        Ok(()) => None,
        Err(error) if error.rows_at_fault() => Some(error),
        Err(error) => return Err(error),
    };
    if refused.is_some() {
        transaction.conn.execute_batch("ROLLBACK TO offer").during(doing)?;
        *applied = before;
    }
    transaction.conn.execute_batch("RELEASE offer").during(doing)?;
    Ok((writing, refused))
}

fn commit(writing: Writing, session: &Inner, delta: &Delta) -> Result<Durable> {
    let Writing { transaction, mut applied } = writing;
    applied.check()?;
    let (conn, pipeline) = (&transaction.conn, session.pipeline());
    bookkeeping::apply(conn, pipeline, delta, &applied.loaded)?;
    if let (false, Some((table, _))) = (delta.reread_missing, applied.missing.first()) {
        return Err(Error::new(ErrorKind::Data, "changes without all columns have no row to complete them")
            .with_table(table)
            .with_remedy(
                "rows are missing at the destination: start over with `syncline drop NAME`, then sync with --prepare recreate",
            ));
    }
    for (table, key) in &applied.missing {
        let add = Change::AddReread { table: table.clone(), keys: vec![key.clone()] };
        bookkeeping::apply(conn, pipeline, &Delta::of(vec![add]), &applied.loaded)?;
    }
    failpoint::hit("before_commit")?;
    transaction.commit()?;
    applied.missing.sort();
    applied.missing.dedup();
    Ok(Durable { counts: applied.counts, rereads: applied.missing })
}

fn bytes_of(part: &Part) -> usize {
    match part {
        Part::Changes(batch) => batch.bytes(),
        Part::Rows { rows, .. } => rows.get_array_memory_size(),
        Part::Bulk { bulk, .. } => bulk.bytes.len(),
        Part::Empty(_) => 64,
    }
}
