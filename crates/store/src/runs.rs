//! Runs, and what they last said of themselves.

use rusqlite::{Connection, OptionalExtension, Row, params};
use syncline_core::{Holder, PipelineName, Result};

use crate::process::{is_alive, this_process};
use crate::record::{RunId, RunKind, RunOutcome, RunRecord, StatusRecord};
use crate::store::{Store, json, name, now_ms, unreadable};

/// Runs remembered per pipeline; older ones are let go when a run begins.
const RUNS_MAX: i64 = 1000;

/// The columns that [`run_of`] reads.
const RUNS: &str = "SELECT id, pipeline, started_at, host, boot_id, pid, process_start, ended_at, outcome, \
    error, summary, kind FROM runs";

impl Store {
    /// Notes that this process begins a run.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn begin_run(&self, pipeline: &PipelineName, kind: RunKind, started_at: i64) -> Result<RunId> {
        let me = this_process()?;
        self.with(|connection| {
            let transaction = connection.transaction()?;
            let id = insert_run(&transaction, pipeline, kind, &me, started_at)?;
            transaction.execute(
                "DELETE FROM runs WHERE pipeline = ?1 AND id <= \
                 (SELECT id FROM runs WHERE pipeline = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                params![pipeline.as_str(), RUNS_MAX],
            )?;
            transaction.commit()?;
            Ok(RunId(id))
        })
    }

    /// Notes how a run ended, now. `error` is for the screen: without row values and secrets, as every error is.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn end_run(
        &self,
        run: RunId,
        outcome: RunOutcome,
        error: Option<&str>,
        summary: &serde_json::Value,
    ) -> Result<()> {
        self.with(|connection| {
            connection.execute(
                "UPDATE runs SET ended_at = ?2, outcome = ?3, error = ?4, summary = ?5 WHERE id = ?1",
                params![run.0, now_ms(), outcome.as_str(), error, summary.to_string()],
            )
        })?;
        Ok(())
    }

    /// Keeps what a run says of its pipeline, in place of what was said before.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn save_status(&self, pipeline: &PipelineName, run: RunId, status: &serde_json::Value) -> Result<()> {
        self.with(|connection| {
            connection.execute(
                "INSERT OR REPLACE INTO statuses (pipeline, run_id, updated_at, status) \
                 VALUES (?1, ?2, ?3, ?4)",
                params![pipeline.as_str(), run.0, now_ms(), status.to_string()],
            )
        })?;
        Ok(())
    }

    /// What was last said of a pipeline, and whether the run that said it still goes on.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn status(&self, pipeline: &PipelineName) -> Result<Option<StatusRecord>> {
        let sql = "SELECT s.run_id, s.updated_at, s.status, r.host, r.boot_id, r.pid, r.process_start, \
                   r.ended_at FROM statuses s JOIN runs r ON r.id = s.run_id WHERE s.pipeline = ?1";
        self.with(|connection| connection.query_row(sql, [pipeline.as_str()], status_of).optional())
    }

    /// The last runs of a pipeline, newest first.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn runs(&self, pipeline: &PipelineName, limit: usize) -> Result<Vec<RunRecord>> {
        self.last_runs(Some(pipeline), limit)
    }

    /// The last runs of a pipeline, or of all, newest first.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn last_runs(&self, pipeline: Option<&PipelineName>, limit: usize) -> Result<Vec<RunRecord>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let name = pipeline.map(PipelineName::as_str);
        let sql = format!("{RUNS} WHERE ?1 IS NULL OR pipeline = ?1 ORDER BY id DESC LIMIT ?2");
        self.with(|connection| connection.prepare(&sql)?.query_map(params![name, limit], run_of)?.collect())
    }

    /// One run.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn run(&self, id: RunId) -> Result<Option<RunRecord>> {
        let sql = format!("{RUNS} WHERE id = ?1");
        self.with(|connection| connection.query_row(&sql, [id.0], run_of).optional())
    }
}

fn insert_run(
    connection: &Connection,
    pipeline: &PipelineName,
    kind: RunKind,
    me: &Holder,
    started_at: i64,
) -> rusqlite::Result<i64> {
    connection.execute(
        "INSERT INTO runs (pipeline, host, boot_id, pid, process_start, started_at, kind) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            pipeline.as_str(),
            me.host,
            me.boot_id,
            me.pid,
            i64::try_from(me.process_start).unwrap_or(i64::MAX),
            started_at,
            kind.as_str()
        ],
    )?;
    Ok(connection.last_insert_rowid())
}

/// Columns host, boot_id, pid, process_start and ended_at from `column` on.
fn holder_of(row: &Row<'_>, column: usize) -> rusqlite::Result<(Holder, bool)> {
    let holder = Holder {
        host: row.get(column)?,
        boot_id: row.get(column + 1)?,
        pid: row.get(column + 2)?,
        process_start: u64::try_from(row.get::<_, i64>(column + 3)?).unwrap_or_default(),
    };
    let ended = row.get::<_, Option<i64>>(column + 4)?.is_some();
    let running = !ended && is_alive(&holder) == Some(true);
    Ok((holder, running))
}

fn status_of(row: &Row<'_>) -> rusqlite::Result<StatusRecord> {
    let (holder, running) = holder_of(row, 3)?;
    Ok(StatusRecord {
        run: RunId(row.get(0)?),
        updated_at: row.get(1)?,
        status: json(row, 2)?,
        pid: holder.pid,
        host: holder.host,
        running,
    })
}

fn run_of(row: &Row<'_>) -> rusqlite::Result<RunRecord> {
    let (holder, running) = holder_of(row, 3)?;
    let outcome = row.get::<_, Option<String>>(8)?;
    let summary = row.get::<_, Option<String>>(10)?;
    Ok(RunRecord {
        id: RunId(row.get(0)?),
        kind: RunKind::parse(&row.get::<_, String>(11)?).map_err(|error| unreadable(11, error))?,
        pipeline: name(row, 1)?,
        host: holder.host,
        pid: holder.pid,
        started_at: row.get(2)?,
        ended_at: row.get(7)?,
        outcome: outcome.map(|text| RunOutcome::parse(&text)).transpose().map_err(|e| unreadable(8, e))?,
        error: row.get(9)?,
        summary: summary.map(|_| json(row, 10)).transpose()?,
        running,
    })
}
