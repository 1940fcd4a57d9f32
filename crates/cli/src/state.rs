//! The state directory: where it is, and what a run writes into it.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use syncline_core::{Error, PipelineName, Result};
use syncline_engine::{Phase, Summary};
use syncline_store::{PipelineRecord, RunId, RunKind, RunOutcome, Store};

use crate::args::StateArgs;
use crate::progress::view::View;
use crate::spec::{PipelineSpec, ResolvedPipeline};

/// How often a run's status is written down.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// The state directory: `--state-dir`, else the platform's data folder.
///
/// # Errors
/// Configuration if there is neither.
pub(crate) fn directory(args: &StateArgs) -> Result<PathBuf> {
    if let Some(dir) = &args.state_dir {
        return Ok(dir.clone());
    }
    dirs::data_dir().map(|dir| dir.join("syncline")).ok_or_else(|| {
        Error::configuration("this user has no data folder")
            .with_remedy("say where to keep state with --state-dir or SYNCLINE_STATE_DIR")
    })
}

/// Now, in milliseconds since 1970 UTC.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The run of a pipeline that goes on now, if one does on this host.
///
/// # Errors
/// As the store.
pub(crate) fn running(store: &Store, name: &PipelineName) -> Result<Option<u32>> {
    Ok(store.runs(name, 10)?.into_iter().find(|run| run.running).map(|run| run.pid))
}

/// Remembers a pipeline, so that `status` and `drop` know it.
fn remember(store: &Store, pipeline: &ResolvedPipeline) -> Result<()> {
    let config = serde_json::to_value(&pipeline.spec)
        .map_err(|error| Error::bug("a pipeline cannot be written as JSON").with_source(error))?;
    store.save_pipeline(&PipelineRecord {
        name: pipeline.name.clone(),
        source_url: pipeline.spec.source.clone(),
        destination_url: pipeline.spec.destination.clone(),
        source_address: pipeline.source.address(),
        destination_address: pipeline.destination.address(),
        config,
        updated_at: now_ms(),
    })
}

/// A remembered pipeline, as it was said. Options that this version does not know are at their defaults.
pub(crate) fn recall(record: &PipelineRecord) -> PipelineSpec {
    let spec = serde_json::from_value(record.config.clone()).unwrap_or_else(|_| PipelineSpec::new("", ""));
    PipelineSpec {
        name: Some(record.name.clone()),
        source: record.source_url.clone(),
        destination: record.destination_url.clone(),
        ..spec
    }
}

/// Writes one run into the store. Losing this loses history only, so trouble on the way is logged and the run goes on.
pub(crate) struct Recorder {
    store: Store,
    name: PipelineName,
    run: RunId,
    /// When a moment was written last, and the phase it was in.
    written: Option<(Instant, Phase)>,
}

impl Recorder {
    /// Begins a run's record.
    ///
    /// # Errors
    /// As the store.
    pub(crate) fn begin(store: &Store, pipeline: &ResolvedPipeline) -> Result<Self> {
        if running(store, &pipeline.name)?.is_none() {
            remember(store, pipeline)?;
        }
        let run = store.begin_run(&pipeline.name, RunKind::Sync, now_ms())?;
        Ok(Self { store: store.clone(), name: pipeline.name.clone(), run, written: None })
    }

    /// The run that is recorded.
    pub(crate) fn run(&self) -> RunId {
        self.run
    }

    /// Writes a moment down: about once a second, and the first of each phase, so that what stays is the end. Not while opening: the pipeline may be another process's.
    pub(crate) fn note(&mut self, now: Instant, view: &View) {
        let phase = view.progress.phase;
        let due = self.written.is_none_or(|(at, was)| was != phase || now.duration_since(at) >= STATUS_EVERY);
        if !due || phase == Phase::Opening {
            return;
        }
        self.written = Some((now, phase));
        match serde_json::to_value(view.moment()) {
            Ok(status) => self.save(&status),
            Err(error) => tracing::warn!(pipeline = %self.name, %error, "a status cannot be written as JSON"),
        }
    }

    /// Writes down how things stand.
    pub(crate) fn save(&self, status: &serde_json::Value) {
        if let Err(error) = self.store.save_status(&self.name, self.run, status) {
            tracing::warn!(pipeline = %self.name, %error, "status not written");
        }
    }

    /// Ends the record.
    pub(crate) fn end(self, result: &Result<Summary>) {
        let (outcome, error, summary) = match result {
            Ok(summary) => {
                let outcome = match (summary.stopped.is_empty(), summary.drained) {
                    (false, _) => RunOutcome::Failed,
                    (true, true) => RunOutcome::Stopped,
                    (true, false) => RunOutcome::Done,
                };
                let stopped =
                    summary.stopped.first().map(|table| format!("{}: {}", table.table, table.error));
                (outcome, stopped, json!(summary))
            }
            Err(error) if error.kind() == syncline_core::ErrorKind::Cancelled => {
                (RunOutcome::Stopped, None, serde_json::Value::Null)
            }
            Err(error) => (RunOutcome::Failed, Some(error.to_string()), serde_json::Value::Null),
        };
        self.close(outcome, error.as_deref(), &summary);
    }

    /// Ends the record of a run of any kind.
    pub(crate) fn close(self, outcome: RunOutcome, error: Option<&str>, summary: &serde_json::Value) {
        if let Err(error) = self.store.end_run(self.run, outcome, error, summary) {
            tracing::warn!(pipeline = %self.name, %error, "end of the run not written");
        }
    }
}
