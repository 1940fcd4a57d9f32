//! Questions of one process to the one that runs a pipeline, and their answers. What they are about is not known here.

use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension, Row, params};
use serde_json::Value;
use syncline_core::Result;

use crate::record::RunId;
use crate::store::{Store, json, now_ms};

/// Questions whose answer nobody took away go after this long.
const KEPT_MS: i64 = 86_400_000;

/// The number of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskId(i64);

/// How far a question has come.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// Nobody has seen it yet.
    Waiting,
    /// The run is at it.
    Taken,
    /// Here is its answer.
    Answered(Value),
}

impl Store {
    /// Asks a run.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn ask(&self, run: RunId, ask: &Value) -> Result<AskId> {
        let now = now_ms();
        self.with(|connection| {
            connection.execute("DELETE FROM asks WHERE asked_at < ?1", [now - KEPT_MS])?;
            let sql = "INSERT INTO asks (run_id, asked_at, ask) VALUES (?1, ?2, ?3) RETURNING id";
            connection.query_row(sql, params![run.0, now, ask.to_string()], |row| Ok(AskId(row.get(0)?)))
        })
    }

    /// Takes the next question to a run, if there is one.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn take_ask(&self, run: RunId) -> Result<Option<(AskId, Value)>> {
        let next = "SELECT 1 FROM asks WHERE run_id = ?1 AND taken_at IS NULL";
        let take = "UPDATE asks SET taken_at = ?2 WHERE id = \
                    (SELECT min(id) FROM asks WHERE run_id = ?1 AND taken_at IS NULL) RETURNING id, ask";
        self.with(|connection| {
            // Mostly there is none, and then nothing is written.
            if !connection.prepare_cached(next)?.exists([run.0])? {
                return Ok(None);
            }
            let row = |row: &Row<'_>| Ok((AskId(row.get(0)?), json(row, 1)?));
            connection.query_row(take, params![run.0, now_ms()], row).optional()
        })
    }

    /// Answers a question. One that was taken back is no error.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn answer(&self, ask: AskId, answer: &Value) -> Result<()> {
        self.with(|connection| {
            connection
                .execute("UPDATE asks SET answer = ?2 WHERE id = ?1", params![ask.0, answer.to_string()])
        })?;
        Ok(())
    }

    /// How far a question has come.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn asked(&self, ask: AskId) -> Result<Asked> {
        let sql = "SELECT taken_at IS NOT NULL, answer FROM asks WHERE id = ?1";
        let row = |row: &Row<'_>| {
            Ok(match (row.get(0)?, row.get_ref(1)?) {
                (true, ValueRef::Null) => Asked::Taken,
                (false, ValueRef::Null) => Asked::Waiting,
                (_, _) => Asked::Answered(json(row, 1)?),
            })
        };
        self.with(|connection| connection.query_row(sql, [ask.0], row))
    }

    /// Takes a question back, or its answer away.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn forget_ask(&self, ask: AskId) -> Result<()> {
        self.with(|connection| connection.execute("DELETE FROM asks WHERE id = ?1", [ask.0]))?;
        Ok(())
    }
}
