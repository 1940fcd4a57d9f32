//! `sync --mode incremental`: what only a table sync is told, one run of it, and what is said of it.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use syncline_connectors::registry;
use syncline_core::{Error, ErrorKind, Result, TablePattern};
use syncline_engine::table_sync::{self, FarEnd, Limits, TableSync, TableSynced, VersionColumns};
use syncline_store::{RunId, RunOutcome, Store};

use crate::args::{GlobalArgs, ModeChoice, Output, PipelineArgs};
use crate::commands::sync::tell_start;
use crate::exit::{Exit, render_error, tell_error};
use crate::progress::format::{bytes, count, counted, duration};
use crate::signals::Stop;
use crate::spec::ResolvedPipeline;
use crate::state::Recorder;
use crate::{output, verifying};

/// Between two looks, unless said otherwise.
const EVERY_SECONDS_USUAL: u64 = 60;

/// What only a table sync is told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct IncrementalSpec {
    /// Version columns: of the tables of a pattern, or of all.
    pub(crate) columns: Vec<(Option<TablePattern>, String)>,
    /// From the end of one look to the beginning of the next.
    pub(crate) every_seconds: Option<u64>,
}

/// `column` or `schema.table.column`.
///
/// # Errors
/// Configuration if it is neither.
pub(crate) fn version_column(text: &str) -> Result<(Option<TablePattern>, String)> {
    match text.rsplit_once('.') {
        None if !text.is_empty() => Ok((None, text.to_owned())),
        Some((table, column)) if table.contains('.') && !column.is_empty() => {
            Ok((Some(TablePattern::new(table)?), column.to_owned()))
        }
        _ => Err(Error::configuration(format!("`{text}` is not a version column"))
            .with_remedy("write a column that all tables have, or schema.table.column")),
    }
}

impl IncrementalSpec {
    /// From the command line.
    ///
    /// # Errors
    /// Configuration, naming the value that cannot be used.
    pub(crate) fn from_args(args: &PipelineArgs) -> Result<Self> {
        Ok(Self {
            columns: args.version_column.iter().map(|text| version_column(text)).collect::<Result<_>>()?,
            every_seconds: args.every.as_deref().map(verifying::interval).transpose()?,
        })
    }

    /// What contradicts the mode.
    ///
    /// # Errors
    /// Configuration, naming it.
    pub(crate) fn check(&self, mode: Option<ModeChoice>, verifies: bool) -> Result<()> {
        if mode != Some(ModeChoice::Incremental) {
            if *self == Self::default() {
                return Ok(());
            }
            return Err(Error::configuration("a version column and `every` are for mode `incremental`")
                .with_remedy("add --mode incremental, or leave them out"));
        }
        if self.columns.is_empty() {
            return Err(Error::configuration("mode `incremental` needs a version column")
                .with_remedy("name the column that grows with every change: --version-column updated_at"));
        }
        if verifies {
            return Err(Error::configuration("`verify` is for a pipeline that streams")
                .with_remedy("compare the two sides with `syncline diff` instead"));
        }
        Ok(())
    }
}

/// One pipeline from start to end, told as it goes.
pub(crate) async fn one(
    pipeline: &ResolvedPipeline,
    store: &Store,
    stop: &Stop,
    global: &GlobalArgs,
    several: bool,
) -> Exit {
    tell_start(pipeline, global);
    let begun = Instant::now();
    let mut outcomes = Vec::new();
    let ended = recorded(pipeline, store, stop, global, &mut outcomes).await;
    match ended {
        Ok(()) => tell_end(pipeline, &outcomes, begun.elapsed(), global),
        Err(error) if error.kind() == ErrorKind::Cancelled && stop.at_once().is_some() => Exit::DONE,
        Err(error) => {
            tell_error(several.then_some(pipeline.name.as_str()), &error, global);
            Exit(error.kind().exit_code())
        }
    }
}

async fn recorded(
    pipeline: &ResolvedPipeline,
    store: &Store,
    stop: &Stop,
    global: &GlobalArgs,
    outcomes: &mut Vec<TableSynced>,
) -> Result<()> {
    let recorder = tokio::task::block_in_place(|| Recorder::begin(store, pipeline))?;
    let ended = match wired(pipeline, store, recorder.run()) {
        Ok(sync) => {
            let mut told = |round: &[TableSynced]| {
                tell_round(pipeline, &recorder, round, global);
                *outcomes = round.to_vec();
            };
            table_sync::run(&sync, &stop.control(), &mut told).await.map(|_| ())
        }
        Err(error) => Err(error),
    };
    let first =
        outcomes.iter().find_map(|table| table.error.as_ref().map(|e| format!("{}: {e}", table.table)));
    let (outcome, error) = match &ended {
        Err(error) if error.kind() == ErrorKind::Cancelled => (RunOutcome::Stopped, None),
        Err(error) => (RunOutcome::Failed, Some(error.to_string())),
        Ok(()) if worst(outcomes) != Exit::DONE => (RunOutcome::Failed, first),
        Ok(()) if pipeline.spec.follow => (RunOutcome::Stopped, None),
        Ok(()) => (RunOutcome::Done, None),
    };
    let summary = json!({ "mode": "incremental", "tables": outcomes });
    tokio::task::block_in_place(|| recorder.close(outcome, error.as_deref(), &summary));
    ended
}

/// What the engine runs.
///
/// # Errors
/// Configuration if the destination cannot be opened, or a bound of the guard is none.
pub(crate) fn wired(pipeline: &ResolvedPipeline, store: &Store, run: RunId) -> Result<TableSync> {
    let spec = &pipeline.spec;
    let far = match spec.agent()? {
        Some(agent) => FarEnd::There(agent),
        None => {
            FarEnd::Here(registry::source(&spec.destination).map_err(|error| error.context("destination"))?)
        }
    };
    Ok(TableSync {
        pipeline: pipeline.wire(store.journal_dir(&pipeline.name)),
        far,
        columns: VersionColumns(spec.incremental.columns.clone()),
        limits: Limits { guard: verifying::guard(&spec.guard)?, letters_max: spec.dead_letters_max },
        store: store.clone(),
        run: run.0,
        pause: Duration::from_secs(spec.incremental.every_seconds.unwrap_or(EVERY_SECONDS_USUAL)),
    })
}

/// A round in which there was something to say: on the screen, and for `status`.
fn tell_round(pipeline: &ResolvedPipeline, recorder: &Recorder, round: &[TableSynced], global: &GlobalArgs) {
    tokio::task::block_in_place(|| recorder.save(&status(round)));
    for table in round {
        match global.output {
            Output::Text => output::to_stdout(&line(table)),
            Output::Json => output::to_stdout_line(&json!({
                "event": "table", "pipeline": pipeline.name, "outcome": table,
            })),
        }
    }
}

/// In the words of every other pipeline's status.
fn status(round: &[TableSynced]) -> Value {
    let table = |table: &TableSynced| {
        let state =
            if table.error.is_some() || !table.passed.exceeded.is_empty() { "stopped" } else { "done" };
        json!({
            "table": table.table, "state": state, "error": why(table), "remedy": remedy(table), "passed": table.passed,
        })
    };
    let sum = |of: fn(&TableSynced) -> u64| round.iter().map(of).sum::<u64>();
    json!({
        "phase": "incremental",
        "rows_done": sum(|table| table.passed.rows),
        "dead_letters": sum(|table| table.passed.letters),
        "requests": sum(|table| table.passed.requests),
        "tables": round.iter().map(table).collect::<Vec<_>>(),
    })
}

fn why(table: &TableSynced) -> Option<String> {
    let exceeded: Vec<String> = table.passed.exceeded.iter().map(ToString::to_string).collect();
    let guard = (!exceeded.is_empty()).then(|| format!("the guard stopped {}", exceeded.join(", ")));
    table.error.clone().or(guard)
}

fn remedy(table: &TableSynced) -> Option<String> {
    let guard = "see that the rows are really gone at the source, then run again with --guard deletes=off";
    table.remedy.clone().or_else(|| (!table.passed.exceeded.is_empty()).then(|| guard.to_owned()))
}

/// `public.users: equal, 1,000 rows; 20 sent, 3 deleted, 5 requests; safe bound`.
fn line(table: &TableSynced) -> String {
    let (name, passed) = (&table.table, &table.passed);
    if let Some(why) = why(table) {
        let remedy = remedy(table).map(|remedy| format!("  remedy: {remedy}\n")).unwrap_or_default();
        return format!("{name}: stopped: {why}\n{remedy}");
    }
    let state = if passed.equal { "equal" } else { "not known to be equal" };
    let mut parts = vec![format!("{name}: {state}, {}", counted(passed.rows, "row"))];
    parts.push(match passed.requests {
        0 => "nothing to do, nobody asked".to_owned(),
        requests => format!(
            "{} sent, {} deleted, {}, batches of {}",
            count(passed.sent),
            count(passed.deleted),
            counted(requests, "request"),
            bytes(passed.batch_bytes)
        ),
    });
    if passed.waiting > 0 {
        parts.push(format!("{} for older transactions to end", counted_waiting(passed.waiting)));
    }
    if passed.letters > 0 {
        parts.push(format!("{}, tried again in the next run", counted(passed.letters, "dead letter")));
    }
    parts.push(match &passed.no_bound_because {
        None => "safe bound".to_owned(),
        Some(why) => format!("trailing window + audit ({why})"),
    });
    parts.join("; ") + "\n"
}

fn counted_waiting(rows: u64) -> String {
    if rows == 1 { "1 row waits".to_owned() } else { format!("{} rows wait", count(rows)) }
}

/// The worst of all tables.
fn worst(outcomes: &[TableSynced]) -> Exit {
    let exit = |table: &TableSynced| match table.error_kind {
        Some(kind) => Exit(kind.exit_code()),
        None if !table.passed.exceeded.is_empty() => Exit::GUARD,
        None => Exit::DONE,
    };
    outcomes.iter().map(exit).fold(Exit::DONE, Exit::worse)
}

fn tell_end(
    pipeline: &ResolvedPipeline,
    outcomes: &[TableSynced],
    took: Duration,
    global: &GlobalArgs,
) -> Exit {
    let exit = worst(outcomes);
    let name = &pipeline.name;
    match global.output {
        Output::Text => {
            let equal = outcomes.iter().filter(|table| table.passed.equal).count();
            output::to_stdout(&format!(
                "{name}: done. {equal} of {} equal, in {}\n",
                counted(outcomes.len() as u64, "table"),
                duration(took)
            ));
        }
        Output::Json => output::to_stdout_line(&json!({
            "event": "summary", "pipeline": name, "exit_code": exit.0,
            "summary": { "mode": "incremental", "seconds": took.as_secs_f64(), "tables": outcomes },
        })),
    }
    for table in outcomes {
        if let Some(why) = why(table) {
            let kind = table.error_kind.unwrap_or(ErrorKind::Guard);
            let error = Error::new(kind, why);
            let error = if table.error.is_some() { error } else { error.with_table(&table.table) };
            let error = remedy(table).into_iter().fold(error, Error::with_remedy);
            output::to_stderr(&render_error(None, &error, false));
        }
    }
    exit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_column_is_of_all_tables_or_of_some() {
        assert_eq!(version_column("updated_at").unwrap(), (None, "updated_at".to_owned()));
        let (table, column) = version_column("public.*.rev").unwrap();
        assert_eq!((table, column.as_str()), (Some(TablePattern::new("public.*").unwrap()), "rev"));
        for wrong in ["", "users.rev", ".rev", "public.users."] {
            assert!(version_column(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_contradicts_the_mode_is_refused() {
        let spec = |columns: &[&str]| IncrementalSpec {
            columns: columns.iter().map(|text| version_column(text).unwrap()).collect(),
            ..IncrementalSpec::default()
        };
        let incremental = Some(ModeChoice::Incremental);
        assert!(spec(&["v"]).check(incremental, false).is_ok());
        assert!(spec(&[]).check(None, true).is_ok());
        assert!(spec(&[]).check(incremental, false).is_err());
        assert!(spec(&["v"]).check(None, false).is_err());
        assert!(spec(&["v"]).check(incremental, true).is_err());
    }
}
