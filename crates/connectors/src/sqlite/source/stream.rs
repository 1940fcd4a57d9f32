//! The ability to stream: the log as a stream of entries, and what the log may forget.
//!
//! # Waking up
//! SQLite tells nobody about a commit. `PRAGMA data_version`, a look at a counter in the shared memory of the file, is
//! asked every 50 ms, and less often, down to twice a second, while nothing changes. "The other end" is a file of this
//! machine, and nothing is read from it by that.
//!
//! # Forgetting
//! What was acknowledged is pruned by a task of its own, at most once a second, in steps of a few milliseconds, so that
//! it also happens while nobody asks for the next event. When the stream is dropped the task prunes once more and ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use syncline_core::{
    ChangeStream, Error, Origin, PipelineName, Position, Result, Retained, StreamEvent, StreamRequest,
    Streams, TableId, failpoint,
};
use tokio::sync::watch;

use super::super::MAIN;
use super::super::connect::{Shared, blocking, open_reader, open_writer};
use super::read::LogReader;
use super::{SqliteSource, capture};

const POLL_MIN: Duration = Duration::from_millis(50);
const POLL_MAX: Duration = Duration::from_millis(500);
const PRUNE_EVERY: Duration = Duration::from_secs(1);

#[async_trait]
impl Streams for SqliteSource {
    async fn open(&self, request: &StreamRequest) -> Result<Origin> {
        if !request.capture_triggers {
            return Err(Error::configuration(
                "changes of SQLite tables can only be captured by triggers, which were not allowed",
            )
            .with_remedy("allow them with --capture triggers, or read once with --mode snapshot"));
        }
        let (path, wanted) = (self.path.clone(), request.clone());
        let log = blocking(move || capture::install(&mut open_writer(&path)?, &wanted)).await?;
        if log.created {
            failpoint::hit("slot_made")?;
        }
        *self.pipeline.lock() = Some(request.pipeline.clone());
        Ok(Origin {
            confirmed: Position::from_u64(log.acknowledged),
            created: log.created,
            identity: format!("sqlite:{}", log.identity),
            barrier: String::new(),
        })
    }

    async fn captured(&self, pipeline: &PipelineName) -> Result<Option<BTreeSet<TableId>>> {
        let (path, pipeline) = (self.path.clone(), pipeline.clone());
        let whole =
            blocking(move || if path.exists() { capture::whole(&path, &pipeline) } else { Ok(None) }).await?;
        Ok(whole.map(|names| names.iter().map(|name| TableId::new(MAIN, name.as_str())).collect()))
    }

    /// One writer at a time: whoever wrote before the triggers were there had committed.
    async fn settled(&self, _origin: &Origin) -> Result<Option<String>> {
        Ok(None)
    }

    async fn stream(
        &self,
        request: &StreamRequest,
        from: &Position,
        _target: Option<&Position>,
    ) -> Result<Box<dyn ChangeStream>> {
        let (path, wanted, from) = (self.path.clone(), request.clone(), number(from)?);
        let reader = blocking(move || {
            let conn = open_reader(&path)?;
            match capture::find_log(&conn, &wanted.pipeline)? {
                None => return Err(gone("the pipeline has no log in this file")),
                Some(log) if from < log.acknowledged => {
                    return Err(gone("the log was pruned beyond this position"));
                }
                Some(log) if from > log.end => {
                    return Err(gone("the log ends before this position: the file is older than it was"));
                }
                Some(_) => {}
            }
            LogReader::new(conn, &wanted.pipeline, &wanted.tables, from)
        })
        .await?;
        *self.pipeline.lock() = Some(request.pipeline.clone());
        let (acknowledged, receiver) = watch::channel(from);
        tokio::spawn(prune(self.path.clone(), request.pipeline.clone(), receiver));
        let newest = reader.newest();
        Ok(Box::new(SqliteStream { reader: Shared::new(reader), newest, acknowledged, poll: POLL_MIN }))
    }

    async fn end(&self) -> Result<Position> {
        let path = self.path.clone();
        let pipeline = self.pipeline.lock().clone();
        let pipeline =
            pipeline.ok_or_else(|| Error::bug("the end of a log is asked for before it was opened"))?;
        let end = blocking(move || capture::end(&open_reader(&path)?, &pipeline)).await?;
        Ok(Position::from_u64(end))
    }

    fn distance(&self, from: &Position, to: &Position) -> u64 {
        let number = |position: &Position| position.as_u64().unwrap_or(0);
        number(to).saturating_sub(number(from))
    }

    fn show(&self, position: &Position) -> String {
        position.as_u64().map_or_else(|| position.to_string(), |number| number.to_string())
    }

    async fn retained(&self, pipeline: &PipelineName) -> Result<Option<Retained>> {
        let (path, pipeline) = (self.path.clone(), pipeline.clone());
        blocking(
            move || if path.exists() { capture::retained(&open_reader(&path)?, &pipeline) } else { Ok(None) },
        )
        .await
    }

    async fn drop_pipeline(&self, pipeline: &PipelineName) -> Result<()> {
        // The destination has forgotten the pipeline by now.
        failpoint::hit("drop_half_done")?;
        let (path, pipeline) = (self.path.clone(), pipeline.clone());
        blocking(
            move || if path.exists() { capture::remove(&mut open_writer(&path)?, &pipeline) } else { Ok(()) },
        )
        .await
    }
}

fn number(position: &Position) -> Result<u64> {
    position.as_u64().ok_or_else(|| Error::conflict(format!("{position} is not a position of a SQLite log")))
}

fn gone(what: &str) -> Error {
    Error::conflict(what).with_changes_missing()
}

/// A stream over one log.
struct SqliteStream {
    reader: Shared<LogReader>,
    newest: Arc<AtomicU64>,
    acknowledged: watch::Sender<u64>,
    poll: Duration,
}

#[async_trait]
impl ChangeStream for SqliteStream {
    async fn next(&mut self) -> Result<StreamEvent> {
        loop {
            // What a step makes stays in the reader until it is taken here, so a dropped future loses nothing.
            self.reader.run(LogReader::step).await?;
            if let Some(event) = self.reader.lock().pop() {
                self.poll = POLL_MIN;
                return Ok(event);
            }
            tokio::time::sleep(self.poll).await;
            self.poll = (self.poll * 5 / 4).min(POLL_MAX);
        }
    }

    fn acknowledge(&mut self, position: &Position) {
        if let Some(number) = position.as_u64() {
            self.acknowledged.send_if_modified(|known| {
                let moved = number > *known;
                *known = number.max(*known);
                moved
            });
        }
    }

    fn source_end(&self) -> Option<Position> {
        Some(Position::from_u64(self.newest.load(Ordering::Relaxed)))
    }
}

/// Prunes what is acknowledged until the stream is dropped. A failure only means that entries wait longer: the next
/// second tries again, and the log's size is shown by `status`.
async fn prune(path: std::path::PathBuf, pipeline: PipelineName, mut acknowledged: watch::Receiver<u64>) {
    while acknowledged.changed().await.is_ok() {
        let upto = *acknowledged.borrow_and_update();
        let (path, name) = (path.clone(), pipeline.clone());
        let pruned = blocking(move || {
            let mut conn = open_writer(&path)?;
            while capture::prune(&mut conn, &name, upto)? {
                // The lock is free for the application between two steps.
                std::thread::sleep(Duration::from_millis(5));
            }
            failpoint::hit("slot_advanced")
        })
        .await;
        if let Err(error) = pruned {
            tracing::warn!(%pipeline, error = %error, "the log could not be pruned");
        }
        tokio::time::sleep(PRUNE_EVERY).await;
    }
}
