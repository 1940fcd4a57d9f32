//! A snapshot that outlives the chunks read in it: a session that does nothing but keep its transaction open.
//!
//! It holds no lock on any table, so that nobody's ALTER waits for a whole snapshot; what a rewrite does meanwhile is
//! seen by each chunk when it compares the file.

use syncline_core::Result;
use tokio::sync::OnceCell;

use crate::postgres::connect::Session;
use crate::postgres::error;
use crate::postgres::source::pool::Pool;

/// An exported snapshot, taken when first asked for: a planned table that waits for its turn holds nothing.
pub(super) struct Holder {
    pool: Pool,
    held: OnceCell<Held>,
}

/// What is held.
pub(super) struct Held {
    session: Session,
    /// The name by which other sessions take it.
    pub(super) name: String,
    /// `pg_current_snapshot()`.
    pub(super) mark: String,
}

impl Holder {
    pub(super) fn new(pool: Pool) -> Self {
        Self { pool, held: OnceCell::new() }
    }

    /// The snapshot; all callers get the same.
    pub(super) async fn held(&self) -> Result<&Held> {
        self.held.get_or_try_init(|| take(&self.pool)).await
    }

    /// What is held already, if anything.
    pub(super) fn taken(&self) -> Option<&Held> {
        self.held.get()
    }

    /// Whether it was taken and its session is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.held.get().is_some_and(|held| held.session.is_closed())
    }
}

async fn take(pool: &Pool) -> Result<Held> {
    let failed = |e| error::from_client(e, "taking a snapshot to be shared");
    // Not from the pool: it must not end up there with its transaction.
    let session = Session::connect(pool.address(), "snapshot").await?;
    // A setting of version 17 and later, which would end the holder.
    let unlimited = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'";
    session.batch_execute(unlimited).await.map_err(failed)?;
    session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(failed)?;
    let row = session.query_one("SELECT pg_export_snapshot(), pg_current_snapshot()::text", &[]).await;
    let row = row.map_err(failed)?;
    Ok(Held { name: row.get(0), mark: row.get(1), session })
}
