//! A writer on a thread of its own, from its start until it is stopped.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, NoTls};

/// What a writer has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Transactions that were committed or rolled back on purpose, as far as the writer was told.
    pub done: u64,
    /// Transactions that the server refused, by a taken value, a missing parent or a deadlock.
    pub refused: u64,
    /// Times the connection was lost and made again.
    pub reconnected: u64,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    done: AtomicU64,
    refused: AtomicU64,
    reconnected: AtomicU64,
}

/// A writer at work. Stopped by [`Writer::stop`], or when it is dropped.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts a writer that calls `step` again and again on one connection.
    pub(super) fn start<Step>(name: &str, url: String, mut step: Step) -> Self
    where
        Step: AsyncFnMut(&Client) -> Result<(), Error> + Send + 'static,
    {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("cannot start a runtime").block_on(write(&seen, &url, &mut step));
        };
        let thread =
            std::thread::Builder::new().name(name.to_owned()).spawn(work).expect("cannot start a thread");
        Self { shared, thread: Some(thread) }
    }

    /// What it has done so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Shared { done, refused, reconnected, .. } = &*self.shared;
        Tally { done: read(done), refused: read(refused), reconnected: read(reconnected) }
    }

    /// Waits until it has done `transactions` since its start.
    ///
    /// # Panics
    /// If it ends first; its own panic says why.
    pub async fn wait_until_done(&self, transactions: u64) {
        while self.tally().done < transactions {
            assert!(self.thread.as_ref().is_some_and(|thread| !thread.is_finished()), "the writer has ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Lets it finish its transaction, and ends it. Blocks the thread for that time.
    ///
    /// # Panics
    /// If the writer met an error that is not among those it expects.
    pub fn stop(mut self) -> Tally {
        self.end().expect("the writer failed; its own panic says why");
        self.tally()
    }

    fn end(&mut self) -> std::thread::Result<()> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

async fn write<Step>(shared: &Shared, url: &str, step: &mut Step)
where
    Step: AsyncFnMut(&Client) -> Result<(), Error>,
{
    while let Some(client) = connect(shared, url).await {
        while !shared.stopping.load(Ordering::Relaxed) {
            match step(&client).await {
                Ok(()) => shared.done.fetch_add(1, Ordering::Relaxed),
                Err(error) if is_refusal(&error) => {
                    shared.refused.fetch_add(1, Ordering::Relaxed);
                    if client.batch_execute("ROLLBACK").await.is_err() {
                        break;
                    }
                    continue;
                }
                Err(error) if is_lost(&client, &error) => break,
                Err(error) => panic!("a statement of the writer failed: {error:?}"),
            };
        }
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        shared.reconnected.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection, tried until the server is there; `None` if the writer is stopped first.
async fn connect(shared: &Shared, url: &str) -> Option<Client> {
    while !shared.stopping.load(Ordering::Relaxed) {
        if let Ok((client, connection)) = tokio_postgres::connect(url, NoTls).await {
            tokio::spawn(connection_until_lost(connection));
            return Some(client);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

/// The client sees the loss at its next statement.
async fn connection_until_lost(connection: impl Future<Output = Result<(), Error>>) {
    let _ = connection.await;
}

fn is_refusal(error: &Error) -> bool {
    const EXPECTED: [SqlState; 6] = [
        SqlState::UNIQUE_VIOLATION,
        SqlState::FOREIGN_KEY_VIOLATION,
        SqlState::NOT_NULL_VIOLATION,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::LOCK_NOT_AVAILABLE,
    ];
    error.code().is_some_and(|code| EXPECTED.contains(code))
}

fn is_lost(client: &Client, error: &Error) -> bool {
    // A server that shuts down or recovers says so in class 57P.
    client.is_closed() || error.is_closed() || error.code().is_none_or(|code| code.code().starts_with("57P"))
}
