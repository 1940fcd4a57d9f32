//! What a pipeline is, wired and ready to run.

use std::path::PathBuf;
use std::sync::Arc;

use crate::retry::RetryPolicy;
use crate::verify::{Recover, Verify};
use syncline_core::{Destination, PipelineName, Prepare, SchemaMap, Selection, Source};

/// Which halves of the way are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// What exists, once, at one moment. Nothing is left at the source.
    Snapshot,
    /// Changes only; the destination's tables are taken as they are.
    Stream,
    /// What exists, then what changes.
    SnapshotThenStream,
}

impl Mode {
    /// Whether changes are read.
    #[must_use]
    pub fn streams(self) -> bool {
        self != Self::Snapshot
    }

    /// Whether existing rows are read.
    #[must_use]
    pub fn snapshots(self) -> bool {
        self != Self::Stream
    }
}

/// A configured flow from a source to a destination.
#[derive(Clone)]
pub struct Pipeline {
    /// Its name; slot, publication, lock and bookkeeping derive from it.
    pub name: PipelineName,
    /// What is read.
    pub source: Arc<dyn Source>,
    /// What is written.
    pub destination: Arc<dyn Destination>,
    /// Which tables and columns.
    pub selection: Selection,
    /// Under which schemas they land.
    pub schema_map: SchemaMap,
    /// Snapshot, stream, or both.
    pub mode: Mode,
    /// What to do with tables that have rows at the destination.
    pub prepare: Option<Prepare>,
    /// Chunks read and loaded at the same time.
    pub workers: usize,
    /// Key ranges wherever possible, whatever they cost.
    pub resumable: bool,
    /// Consent to capture triggers at the source.
    pub capture_triggers: bool,
    /// Run until stopped, instead of until everything committed at the start is there.
    pub follow: bool,
    /// Where the journal lies.
    pub journal_dir: PathBuf,
    /// Most bytes the journal may hold, but for a single transaction larger than that.
    pub journal_budget_bytes: u64,
    /// Rows that may be set aside as dead letters at a time; with none a table stops whose rows are refused.
    pub dead_letters_max: usize,
    /// Between attempts.
    pub retry: RetryPolicy,
    /// Whether and when it verifies its own tables, if it streams.
    pub verify: Option<Verify>,
    /// Whether tables that have lost changes are compared and repaired, instead of ending the run, if it streams.
    pub recover: Option<Recover>,
}
