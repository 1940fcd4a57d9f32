//! What is remembered, as types. Times are milliseconds since 1970 UTC.

use std::fmt;

use serde::{Deserialize, Serialize};
use syncline_core::{Error, PipelineName, Result};

/// A pipeline as it was last run.
#[derive(Clone, PartialEq, Eq)]
pub struct PipelineRecord {
    /// Its name.
    pub name: PipelineName,
    /// URL of the source, with its secrets.
    pub source_url: String,
    /// URL of the destination, with its secrets.
    pub destination_url: String,
    /// Where the source is, without secrets: for the screen.
    pub source_address: String,
    /// Where the destination is, without secrets: for the screen.
    pub destination_address: String,
    /// The rest of its configuration, in the form of whoever wrote it.
    pub config: serde_json::Value,
    /// When it was saved.
    pub updated_at: i64,
}

impl fmt::Debug for PipelineRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineRecord")
            .field("name", &self.name)
            .field("source_address", &self.source_address)
            .field("destination_address", &self.destination_address)
            .field("updated_at", &self.updated_at)
            .finish_non_exhaustive()
    }
}

/// The number of a run; never used twice in one state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub i64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a run was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// A pipeline kept its destination equal.
    Sync,
    /// Two sides were compared, and repaired if that was asked for.
    Diff,
}

impl RunKind {
    /// The stored form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Diff => "diff",
        }
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// A conflict if the text is not a kind of run.
    pub fn parse(text: &str) -> Result<Self> {
        [Self::Sync, Self::Diff]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| Error::conflict(format!("`{text}` is not a kind of run")))
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// It did what it was asked for.
    Done,
    /// It ended with an error.
    Failed,
    /// It was asked to stop.
    Stopped,
}

impl RunOutcome {
    /// The stored form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// A conflict if the text is not an outcome.
    pub fn parse(text: &str) -> Result<Self> {
        [Self::Done, Self::Failed, Self::Stopped]
            .into_iter()
            .find(|outcome| outcome.as_str() == text)
            .ok_or_else(|| Error::conflict(format!("`{text}` is not the outcome of a run")))
    }
}

/// One run of a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunRecord {
    /// Its number.
    pub id: RunId,
    /// What it was.
    pub kind: RunKind,
    /// Of which pipeline; of a comparison, the name that its two addresses have.
    pub pipeline: PipelineName,
    /// Name of the host it ran on.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// When it began.
    pub started_at: i64,
    /// When it ended; `None` if it runs, or was killed.
    pub ended_at: Option<i64>,
    /// How it ended.
    pub outcome: Option<RunOutcome>,
    /// What it failed with.
    pub error: Option<String>,
    /// Its sums.
    pub summary: Option<serde_json::Value>,
    /// Whether it has not ended and its process is alive on this host.
    pub running: bool,
}

/// What a pipeline last said of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatusRecord {
    /// The run that said it.
    pub run: RunId,
    /// When.
    pub updated_at: i64,
    /// What it said.
    pub status: serde_json::Value,
    /// Process of the run.
    pub pid: u32,
    /// Name of the run's host.
    pub host: String,
    /// Whether the run has not ended and its process is alive on this host.
    pub running: bool,
}
