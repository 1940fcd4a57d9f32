//! `verify`: whether a pipeline's destination is what its source is, judged while the stream goes on.
//!
//! A pipeline that runs is asked for it. Else it is run under its own lock until it has caught up, verified, and ended.

use serde_json::json;
use syncline_core::{Error, ErrorKind, PipelineName, Result, TablePattern};
use syncline_engine::{TableVerified, Verified, When};
use syncline_store::Store;

use crate::args::{GlobalArgs, Output, VerifyArgs};
use crate::asking::{self, Question};
use crate::commands::diff::{sample_line, shortened};
use crate::exit::{Exit, Failure, tell_error};
use crate::progress;
use crate::progress::format::{count, counted};
use crate::spec::ResolvedPipeline;
use crate::state::{self, Recorder};
use crate::verifying::{ask, guard, is_equal, result, wired};
use crate::{config, output, runner, signals};

/// Runs the command: 3 if drift was found and is still there, 4 if a guard kept it from being repaired.
///
/// # Errors
/// As a run of the pipeline; configuration if it is not known, or runs and cannot be asked.
pub(crate) async fn run(args: &VerifyArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let store = Store::open(&state::directory(&args.state)?)?;
    let pipeline = pipeline(args, &store)?;
    let tables = args.table.iter().map(|text| TablePattern::new(text)).collect::<Result<Vec<_>>>()?;
    let bounds = guard(&args.guard)?;
    let stop = signals::listen("stopping\n", || {})?;
    if let Some(run) = asking::running(&store, &pipeline.name)? {
        let question =
            Question { tables, repair: args.repair, guard: args.guard.clone(), samples: args.samples };
        let verified = asking::ask(&store, &run, &question, &stop).await?;
        return Ok(tell(&pipeline.name, verified.as_ref(), global));
    }
    let mut running = pipeline.wire(store.journal_dir(&pipeline.name));
    if !running.mode.streams() {
        return Err(Error::configuration(format!("pipeline `{}` has no stream", pipeline.name))
            .with_remedy("compare its two sides with `syncline diff` while nobody writes")
            .into());
    }
    running.follow = false;
    // A verification makes nothing anew.
    running.prepare = None;
    running.verify =
        Some(wired(&pipeline, When::Once, ask(tables, args.repair.then_some(bounds), args.samples))?);
    let mut recorder = tokio::task::block_in_place(|| Recorder::begin(&store, &pipeline))?;
    let display = progress::display(global.output, &pipeline.name, false);
    let ended = runner::run(running, stop.control(), display, |now, view| recorder.note(now, view)).await;
    tokio::task::block_in_place(|| recorder.end(&ended));
    let ended = ended?;
    let exit = tell(&pipeline.name, ended.verified.as_ref(), global);
    let exit = if ended.stopped.is_empty() { exit } else { exit.worse(Exit::FAILED) };
    Ok(stop.at_once().unwrap_or(exit))
}

/// The pipeline as it is remembered, or as the file has it.
fn pipeline(args: &VerifyArgs, store: &Store) -> Result<ResolvedPipeline, Failure> {
    if let Some(path) = &args.config {
        let names: Vec<String> = args.name.iter().cloned().collect();
        let mut pipelines = config::load(path, &names)?;
        return match (pipelines.pop(), pipelines.is_empty()) {
            (Some(one), true) => Ok(one),
            _ => Err(Error::configuration("the file has several pipelines")
                .with_remedy("say which: syncline verify NAME --config FILE")
                .into()),
        };
    }
    let Some(name) = &args.name else {
        return Err(Error::configuration("no pipeline is named")
            .with_remedy("see `syncline status` for those that are known here")
            .into());
    };
    let name = PipelineName::new(name.as_str())?;
    let record = store.pipeline(&name)?.ok_or_else(|| {
        Error::configuration(format!("no pipeline `{name}` is known on this machine"))
            .with_remedy("see `syncline status` for those that are, or name another --state-dir")
    })?;
    Ok(state::recall(&record).resolve()?)
}

/// Tells what was found; `None`: stopped before.
fn tell(name: &PipelineName, verified: Option<&Verified>, global: &GlobalArgs) -> Exit {
    let Some(verified) = verified else {
        output::to_stderr(&format!("{name}: stopped before it was verified\n"));
        return Exit::DONE;
    };
    if let Some(error) = &verified.error {
        let error = Error::new(ErrorKind::Retriable, error.as_str()).with_remedy("ask again");
        tell_error(Some(name.as_str()), &error, global);
        return Exit::FAILED;
    }
    let exit = exit(verified);
    match global.output {
        Output::Text => output::to_stdout(&text(name, verified)),
        Output::Json => tell_events(name, verified, exit),
    }
    exit
}

fn tell_events(name: &PipelineName, verified: &Verified, exit: Exit) {
    for table in &verified.tables {
        let samples = &table.samples;
        output::to_stdout_line(
            &json!({ "event": "table", "pipeline": name, "verified": table, "samples": samples }),
        );
    }
    let sum = |of: fn(&TableVerified) -> u64| verified.tables.iter().map(of).sum::<u64>();
    output::to_stdout_line(&json!({
        "event": "end",
        "pipeline": name,
        "tables": verified.tables.len(),
        "seconds": verified.seconds,
        "drift": verified.left_over(),
        "undecided": sum(|table| table.undecided),
        "repaired": sum(|table| table.repaired),
        "exit_code": exit.0,
    }));
}

fn exit(verified: &Verified) -> Exit {
    let tables = &verified.tables;
    if tables.iter().any(|table| table.refused.is_some()) {
        return Exit::GUARD;
    }
    if verified.left_over() > 0 {
        return Exit::DIFFERENT;
    }
    // What was not looked at is not equal.
    if tables.iter().any(|table| table.skipped.is_some()) { Exit::FAILED } else { Exit::DONE }
}

fn text(name: &PipelineName, verified: &Verified) -> String {
    let mut text: String = verified.tables.iter().map(table_text).collect();
    let tables = counted(verified.tables.len() as u64, "table");
    let drifted = verified.tables.iter().filter(|table| table.left_over() > 0).count() as u64;
    let undecided: u64 = verified.tables.iter().map(|table| table.undecided).sum();
    let skipped = verified.tables.iter().filter(|table| table.skipped.is_some()).count() as u64;
    text.push_str(&match (drifted, skipped) {
        (0, 0) if undecided > 0 => {
            format!("EQUAL as far as decided: {name}, {tables}, {} undecided\n", counted(undecided, "row"))
        }
        (0, 0) => format!("EQUAL: {name}, {tables}\n"),
        (0, skipped) => {
            format!("EQUAL as far as verified: {name}, {} not verified of {tables}\n", count(skipped))
        }
        (drifted, _) => format!("DRIFT: {name}, {} of {tables}\n", count(drifted)),
    });
    text
}

fn table_text(table: &TableVerified) -> String {
    let rows = counted(table.rows_source, "row");
    let mut text = format!(
        "{}: {}  ({rows}, {} looked at again)\n",
        table.table,
        result(table),
        count(table.candidates)
    );
    table.samples.iter().for_each(|sample| text.push_str(&sample_line(&table.key, sample)));
    let drift = table.drift;
    let all = drift.missing + drift.surplus + drift.changed + drift.repeated;
    let shown = table.samples.len() as u64;
    if !is_equal(table) && shown > 0 && shown < all {
        text.push_str(&shortened(all - shown));
    }
    text
}
