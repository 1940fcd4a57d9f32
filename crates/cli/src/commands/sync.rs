//! `sync`: keep destinations equal to their sources. Several pipelines of one file run at the same time.

use std::sync::Arc;

use serde_json::json;
use syncline_core::{Error, ErrorKind, PipelineName, Result};
use syncline_engine::Summary;
use syncline_store::Store;
use tokio::task::JoinSet;

use crate::args::{GlobalArgs, ModeChoice, Output, SyncArgs};
use crate::exit::{Exit, Failure, tell_error};
use crate::progress::{self, summary};
use crate::signals::{self, Stop};
use crate::spec::ResolvedPipeline;
use crate::state::{self, Recorder};
use crate::{asking, incremental, output, runner, verifying};

/// Runs the command.
///
/// # Errors
/// What stops all pipelines before they begin; the others are told as they happen.
pub(crate) async fn run(args: &SyncArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let pipelines = super::pipelines(args)?;
    let store = Store::open(&state::directory(&args.state)?)?;
    let stop =
        signals::listen("stopping: what was read is being written (once more to stop at once)\n", || {})?;
    let several = pipelines.len() > 1;
    let mut tasks = JoinSet::new();
    for pipeline in pipelines {
        let (store, stop, global) = (store.clone(), stop.clone(), global.clone());
        tasks.spawn(async move {
            match pipeline.spec.mode {
                Some(ModeChoice::Incremental) => {
                    incremental::one(&pipeline, &store, &stop, &global, several).await
                }
                _ => one(&pipeline, &store, &stop, &global, several).await,
            }
        });
    }
    let mut exit = Exit::DONE;
    while let Some(ended) = tasks.join_next().await {
        exit = exit.worse(ended.unwrap_or(Exit::FAILED));
    }
    Ok(stop.at_once().unwrap_or(exit))
}

/// One pipeline from start to end, told as it goes.
async fn one(
    pipeline: &ResolvedPipeline,
    store: &Store,
    stop: &Stop,
    global: &GlobalArgs,
    several: bool,
) -> Exit {
    let name = &pipeline.name;
    tell_start(pipeline, global);
    let result = recorded(pipeline, store, stop, global, several).await;
    match &result {
        Ok(summary) => tell_end(name, summary, global),
        Err(error) if error.kind() == ErrorKind::Cancelled && stop.at_once().is_some() => {
            output::to_stderr(&format!(
                "{name}: stopped at once; nothing is lost, the next run goes on from the checkpoint\n"
            ));
            Exit::DONE
        }
        Err(error) => {
            tell_error(several.then_some(name.as_str()), error, global);
            Exit(error.kind().exit_code())
        }
    }
}

async fn recorded(
    pipeline: &ResolvedPipeline,
    store: &Store,
    stop: &Stop,
    global: &GlobalArgs,
    several: bool,
) -> Result<Summary> {
    let mut wired = pipeline.wire(store.journal_dir(&pipeline.name));
    wired.verify = verifying::of(pipeline)?;
    wired.recover = verifying::recovery(pipeline)?;
    let mut recorder = tokio::task::block_in_place(|| Recorder::begin(store, pipeline))?;
    // Ends with the run: dropping the set ends it.
    let mut listening = JoinSet::new();
    if let Some(verify) = &wired.verify {
        listening.spawn(asking::listen(store.clone(), recorder.run(), Arc::clone(&verify.asks)));
    }
    let display = progress::display(global.output, &pipeline.name, several);
    let result = runner::run(wired, stop.control(), display, |now, view| recorder.note(now, view)).await;
    tokio::task::block_in_place(|| recorder.end(&result));
    result
}

pub(crate) fn tell_start(pipeline: &ResolvedPipeline, global: &GlobalArgs) {
    let (name, source, destination) =
        (&pipeline.name, pipeline.source.address(), pipeline.destination.address());
    match global.output {
        Output::Text => output::to_stderr(&format!("{name}: {source} → {destination}\n")),
        Output::Json => output::to_stdout_line(&json!({
            "event": "started", "pipeline": name, "source": source, "destination": destination,
        })),
    }
}

/// The result, and what stays at the source. Tables that stopped make the run a failure.
fn tell_end(name: &PipelineName, end: &Summary, global: &GlobalArgs) -> Exit {
    let exit = exit(end);
    match global.output {
        Output::Text => output::to_stdout(&summary::text(name, end)),
        Output::Json => output::to_stdout_line(&summary::event(name, end, exit.0)),
    }
    if !end.stopped.is_empty() {
        let remedy = match end.sum.waiting {
            0 => "do what is said above, then run again",
            _ => "do what is said above, then run again; the changes of these tables wait in the journal",
        };
        let error = Error::new(ErrorKind::Data, stopped_message(end)).with_remedy(remedy);
        output::to_stderr(&crate::exit::render_error(None, &error, false));
    }
    if let Some(retained) = &end.retained {
        output::to_stderr(&summary::retained(name, retained));
    }
    exit
}

/// A table that stopped makes the run a failure; if guards alone stopped tables, that is said by its own code.
fn exit(end: &Summary) -> Exit {
    match end.stopped.as_slice() {
        [] => Exit::DONE,
        stopped if stopped.iter().all(|table| table.by_guard) => Exit::GUARD,
        _ => Exit::FAILED,
    }
}

fn stopped_message(end: &Summary) -> String {
    let tables: Vec<_> = end.stopped.iter().map(|table| table.table.to_string()).collect();
    format!("stopped: {}", tables.join(", "))
}
