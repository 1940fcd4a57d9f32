//! What a connector tells a person: findings of a check, and what stays behind at a source.

use serde::Serialize;

use crate::name::TableId;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Note,
    /// The pipeline works, with a consequence.
    Warning,
    /// The pipeline cannot run; `sync` refuses with exit code 2.
    Error,
}

/// One thing a check found, with the statement that mends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// Stable, for scripts: `wal_level`, `replica_identity`, …
    pub code: &'static str,
    /// The table, if it is about one.
    pub table: Option<TableId>,
    /// What was found and what follows.
    pub message: String,
    /// A statement or setting that mends it.
    pub remedy: Option<String>,
}

/// What a pipeline leaves at its source while it does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retained {
    /// What it is, as its owner calls it (`replication slot syncline_shop`).
    pub what: String,
    /// Bytes of log it holds back, if that is known.
    pub bytes: Option<u64>,
    /// The statement that drops it without Syncline.
    pub drop_statement: String,
}
