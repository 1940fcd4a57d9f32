//! The state file: opening it, and what it knows of pipelines and checkpoints.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use syncline_core::{Checkpoint, Error, Lane, PipelineName, Position, Result, TableId, TableState};

use crate::error::classify;
use crate::migration::{MIGRATIONS, migrate};
use crate::record::PipelineRecord;

/// How long a statement waits for another process before it is busy.
const BUSY_MAX: Duration = Duration::from_secs(10);
/// Between two tries where SQLite does not wait by itself.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// What Syncline remembers on this machine; clones share one connection. Several processes may have it open at once.
///
/// Calls block, shortly. All of them fail as [`Store::open`] does.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    dir: PathBuf,
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Store {
    /// Opens the state directory, or makes it; only its owner may read what is in it.
    ///
    /// # Errors
    /// Resource if the disk is full or cannot be written; configuration if a newer version of Syncline or another
    /// program wrote the file; conflict if it is damaged; retriable if another process holds it for long.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("state.db");
        make_private(dir, &path).map_err(|error| {
            Error::io(format!("cannot make the state file {}", path.display()), error)
                .with_remedy("give this user the right to write there, or choose another --state-dir")
        })?;
        let mut connection = connect(&path).map_err(|error| classify(error, &path))?;
        migrate(&mut connection, MIGRATIONS, &path)?;
        let shared = Shared { dir: dir.to_owned(), path, connection: Mutex::new(connection) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Where a pipeline's journal lives.
    #[must_use]
    pub fn journal_dir(&self, pipeline: &PipelineName) -> PathBuf {
        self.shared.dir.join("journals").join(pipeline.as_str())
    }

    /// Remembers a pipeline, in place of what was known of it.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn save_pipeline(&self, record: &PipelineRecord) -> Result<()> {
        self.with(|connection| {
            connection.execute(
                "INSERT OR REPLACE INTO pipelines (name, source_url, destination_url, source_address, \
                 destination_address, config, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    record.name.as_str(),
                    record.source_url,
                    record.destination_url,
                    record.source_address,
                    record.destination_address,
                    record.config.to_string(),
                    record.updated_at
                ],
            )
        })?;
        Ok(())
    }

    /// A pipeline, if it is known.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn pipeline(&self, name: &PipelineName) -> Result<Option<PipelineRecord>> {
        self.with(|connection| {
            connection
                .query_row(&format!("{PIPELINES} WHERE name = ?1"), [name.as_str()], pipeline_of)
                .optional()
        })
    }

    /// All known pipelines, in name order.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn pipelines(&self) -> Result<Vec<PipelineRecord>> {
        self.with(|connection| {
            connection.prepare(&format!("{PIPELINES} ORDER BY name"))?.query_map([], pipeline_of)?.collect()
        })
    }

    /// Keeps a copy of a checkpoint, for `status` while the destination cannot be asked.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn save_checkpoint(&self, pipeline: &PipelineName, checkpoint: &Checkpoint) -> Result<()> {
        let text = serde_json::to_string(&StoredCheckpoint::of(checkpoint))
            .map_err(|error| Error::bug("a checkpoint cannot be written as JSON").with_source(error))?;
        self.with(|connection| {
            connection.execute(
                "INSERT OR REPLACE INTO checkpoints (pipeline, updated_at, checkpoint) VALUES (?1, ?2, ?3)",
                params![pipeline.as_str(), now_ms(), text],
            )
        })?;
        Ok(())
    }

    /// The copy of a pipeline's checkpoint, if there is one. The destination may have moved on since.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn checkpoint(&self, pipeline: &PipelineName) -> Result<Option<Checkpoint>> {
        let stored = self.with(|connection| {
            let sql = "SELECT checkpoint FROM checkpoints WHERE pipeline = ?1";
            connection.query_row(sql, [pipeline.as_str()], |row| json(row, 0)).optional()
        })?;
        stored.map(StoredCheckpoint::restore).transpose()
    }

    /// Forgets a pipeline: its rows here and its journal. Only for a pipeline that no process runs.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn forget(&self, pipeline: &PipelineName) -> Result<()> {
        let journal = self.journal_dir(pipeline);
        match fs::remove_dir_all(&journal) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("cannot remove the journal {}", journal.display()), error));
            }
            _ => {}
        }
        self.with(|connection| {
            let transaction = connection.transaction()?;
            for sql in [
                "DELETE FROM checkpoints WHERE pipeline = ?1",
                "DELETE FROM table_syncs WHERE pipeline = ?1",
                "DELETE FROM statuses WHERE pipeline = ?1",
                "DELETE FROM asks WHERE run_id IN (SELECT id FROM runs WHERE pipeline = ?1)",
                "DELETE FROM runs WHERE pipeline = ?1",
                "DELETE FROM pipelines WHERE name = ?1",
            ] {
                transaction.execute(sql, [pipeline.as_str()])?;
            }
            transaction.commit()
        })
    }

    /// Does something with the connection and classifies what it fails with.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T> {
        work(&mut self.connection()).map_err(|error| classify(error, &self.shared.path))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic inside a call leaves at most a transaction, which was rolled back when it was dropped.
        self.shared.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes directory and file readable by their owner only. The file must be so before SQLite opens it: the files that it
/// puts beside it inherit its mode.
fn make_private(dir: &Path, path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_MAX)?;
    use_wal(&connection)?;
    // What is here may lose its last second in a power failure; nothing that is loaded depends on it.
    connection.pragma_update(None, "synchronous", "normal")?;
    Ok(connection)
}

/// Two that open a new file at once stand in each other's way, and SQLite then refuses one of them without waiting.
fn use_wal(connection: &Connection) -> rusqlite::Result<()> {
    let begun = Instant::now();
    loop {
        match connection.pragma_update(None, "journal_mode", "wal") {
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                    && begun.elapsed() < BUSY_MAX =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            done => return done,
        }
    }
}

const PIPELINES: &str = "SELECT name, source_url, destination_url, source_address, destination_address, \
                         config, updated_at FROM pipelines";

fn pipeline_of(row: &Row<'_>) -> rusqlite::Result<PipelineRecord> {
    Ok(PipelineRecord {
        name: name(row, 0)?,
        source_url: row.get(1)?,
        destination_url: row.get(2)?,
        source_address: row.get(3)?,
        destination_address: row.get(4)?,
        config: json(row, 5)?,
        updated_at: row.get(6)?,
    })
}

pub(crate) fn name(row: &Row<'_>, column: usize) -> rusqlite::Result<PipelineName> {
    PipelineName::new(row.get::<_, String>(column)?).map_err(|error| unreadable(column, error))
}

pub(crate) fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    // Without the parser's own error: it may quote a value.
    serde_json::from_str(&row.get::<_, String>(column)?)
        .map_err(|_| unreadable(column, "not the JSON it should be"))
}

pub(crate) fn unreadable(
    column: usize,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
}

/// Milliseconds since 1970 UTC, by this machine's clock.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A checkpoint as JSON, whose keys can only be text: maps become lists of pairs.
#[derive(Serialize, Deserialize)]
struct StoredCheckpoint {
    lanes: Vec<(String, Position)>,
    tables: Vec<(TableId, TableState)>,
    origin: Option<String>,
}

impl StoredCheckpoint {
    fn of(checkpoint: &Checkpoint) -> Self {
        Self {
            lanes: checkpoint.lanes.iter().map(|(lane, at)| (lane.to_text(), at.clone())).collect(),
            tables: checkpoint.tables.iter().map(|(id, state)| (id.clone(), state.clone())).collect(),
            origin: checkpoint.origin.clone(),
        }
    }

    fn restore(self) -> Result<Checkpoint> {
        let lane = |(text, at): (String, Position)| Ok((Lane::from_text(&text)?, at));
        Ok(Checkpoint {
            lanes: self.lanes.into_iter().map(lane).collect::<Result<_>>()?,
            tables: self.tables.into_iter().collect(),
            origin: self.origin,
            // They hold rows, and stay beside the data.
            letters: BTreeMap::new(),
        })
    }
}
