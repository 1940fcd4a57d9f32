//! Connections, and their use from the runtime without blocking it.
//!
//! SQLite's calls block: on the disk, and on other processes' locks up to the busy timeout. Every one of them runs on
//! tokio's blocking threads. A future that is dropped leaves its call running to its end, which releases the connection.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use syncline_core::{Error, Result};

use super::error::During;

/// How long a statement waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(15);

/// Prepared statements kept per connection: a few for each of a hundred tables.
const STATEMENTS_MAX: usize = 512;

/// Opens a file that must exist, for reading only.
pub(super) fn open_reader(path: &Path) -> Result<Connection> {
    let conn = open_writer(path)?;
    conn.pragma_update(None, "query_only", true).during("opening the file")?;
    Ok(conn)
}

/// Opens a file that must exist. Where the file is write-protected the connection reads only.
pub(super) fn open_writer(path: &Path) -> Result<Connection> {
    if !path.exists() {
        return Err(Error::configuration(format!("there is no file {}", path.display()))
            .with_remedy("correct the path in the sqlite: URL"));
    }
    open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// Opens a file, or creates it.
pub(super) fn open_or_create(path: &Path) -> Result<Connection> {
    open(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
}

/// Without `SQLITE_OPEN_URI`: a path is a path. Without SQLite's own mutex: a connection has one user at a time.
fn open(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let doing = format!("opening {}", path.display());
    let conn = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).during(&doing)?;
    conn.busy_timeout(BUSY_TIMEOUT).during(&doing)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // The first statement that reads the file: only here a file that is no database is found out.
    conn.query_row("SELECT count(*) FROM main.sqlite_schema", [], |_| Ok(())).during(&doing)?;
    Ok(conn)
}

/// Runs work that blocks.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::bug("a SQLite task did not end").with_source(error)))
}

/// Something that only one blocking call uses at a time.
pub(super) struct Shared<T>(Arc<Mutex<T>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Send + 'static> Shared<T> {
    /// Shares `value`.
    pub(super) fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }

    /// Runs `work` on it, off the runtime's threads.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut T) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let shared = self.clone();
        blocking(move || work(&mut shared.lock())).await
    }

    /// For what takes no time, and for code that blocks anyway.
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use syncline_core::ErrorKind;

    use super::*;

    #[test]
    fn a_file_that_is_no_database_is_said_so_when_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        assert_eq!(open_reader(&path).unwrap_err().kind(), ErrorKind::Configuration);
        std::fs::write(&path, "not a database, but long enough to be taken for the header of one".repeat(20))
            .unwrap();
        let error = open_reader(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permanent);
        assert!(error.remedy().unwrap().contains("not a SQLite database"));
    }
}
