//! `runs`: what was done on this machine, and what came of it.

use std::time::Duration;

use serde_json::{Value, json};
use syncline_core::{Error, PipelineName, Result};
use syncline_store::{RunId, RunKind, RunOutcome, RunRecord, Store};

use crate::args::{GlobalArgs, Output, RunsArgs, RunsCommand, StateArgs};
use crate::exit::{Exit, Failure};
use crate::progress::format::{count, duration};
use crate::{output, state};

/// Runs the command.
///
/// # Errors
/// As the store; configuration if a run is not known.
pub(crate) fn run(args: &RunsArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    match &args.command {
        RunsCommand::List { name, limit } => list(name.as_deref(), *limit, &args.state, global)?,
        RunsCommand::Show { id } => show(RunId(*id), &args.state, global)?,
    }
    Ok(Exit::DONE)
}

fn list(name: Option<&str>, limit: usize, state: &StateArgs, global: &GlobalArgs) -> Result<()> {
    let name = name.map(PipelineName::new).transpose()?;
    let store = Store::open(&state::directory(state)?)?;
    let runs = store.last_runs(name.as_ref(), limit)?;
    match global.output {
        Output::Text if runs.is_empty() => output::to_stderr("no run is known here\n"),
        Output::Text => {
            let now = state::now_ms();
            runs.iter().for_each(|run| output::to_stdout(&line(run, now)));
        }
        Output::Json => runs.iter().for_each(|run| output::to_stdout_line(&json!(run))),
    }
    Ok(())
}

fn show(id: RunId, state: &StateArgs, global: &GlobalArgs) -> Result<()> {
    let store = Store::open(&state::directory(state)?)?;
    let run = store.run(id)?.ok_or_else(|| {
        Error::configuration(format!("no run {id} is known on this machine"))
            .with_remedy("see `syncline runs list` for those that are")
    })?;
    match global.output {
        Output::Text => output::to_stdout(&render(&run, state::now_ms())),
        Output::Json => output::to_stdout_line(&json!(run)),
    }
    Ok(())
}

/// `   12  diff  diff_of_shop_0a1b2c  done    3 minutes ago, took 2 s`.
fn line(run: &RunRecord, now_ms: i64) -> String {
    let kind = run.kind.as_str();
    format!("{:>5}  {kind:<5} {:<40}  {:<7}  {}\n", run.id.0, run.pipeline, ended(run), when(run, now_ms))
}

fn ended(run: &RunRecord) -> &'static str {
    match run.outcome {
        Some(outcome) => outcome.as_str(),
        None if run.running => "runs",
        None => "killed",
    }
}

fn when(run: &RunRecord, now_ms: i64) -> String {
    let span = |from: i64, to: i64| Duration::from_millis(u64::try_from(to - from).unwrap_or_default());
    let begun = format!("began {} ago", duration(span(run.started_at, now_ms)));
    match run.ended_at {
        Some(ended_at) => format!("{begun}, took {}", duration(span(run.started_at, ended_at))),
        None => begun,
    }
}

fn render(run: &RunRecord, now_ms: i64) -> String {
    let mut text = line(run, now_ms);
    text.push_str(&format!("  on {}, process {}\n", run.host, run.pid));
    if let Some(error) = &run.error {
        text.push_str(&format!("  error: {error}\n"));
    }
    match (&run.summary, run.kind) {
        (Some(summary), RunKind::Diff) => text.push_str(&of_diff(summary)),
        (Some(summary), RunKind::Sync) => {
            text.push_str(&format!("{}\n", serde_json::to_string_pretty(summary).unwrap_or_default()));
        }
        (None, _) if run.outcome == Some(RunOutcome::Done) => {}
        (None, _) => text.push_str("  it left no summary\n"),
    }
    text
}

/// What a comparison was asked, found, decided and wrote.
fn of_diff(summary: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = format!("  {} → {}\n", text(&summary["source"]), text(&summary["destination"]));
    let asked = ["tables_asked", "exclude", "exclude_columns", "schema_map", "guard", "unique", "approve"];
    for what in asked {
        let value = &summary[what];
        if !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()) {
            lines.push_str(&format!("  {}: {value}\n", what.replace('_', " ")));
        }
    }
    for table in summary["tables"].as_array().into_iter().flatten() {
        lines.push_str(&of_table(table));
    }
    lines
}

fn of_table(table: &Value) -> String {
    let diff = &table["diff"];
    let number = |value: &Value| count(value.as_u64().unwrap_or_default());
    let counts = ["missing", "surplus", "changed", "repeated"]
        .map(|kind| format!("{} {kind}", number(&diff["counts"][kind])))
        .join(", ");
    let name = |id: &Value| {
        format!("{}.{}", id["schema"].as_str().unwrap_or_default(), id["name"].as_str().unwrap_or_default())
    };
    format!(
        "  {}: {} and {} rows, {counts}\n    digests {} and {}\n    decision: {}\n",
        name(&diff["table"]),
        number(&diff["rows_source"]),
        number(&diff["rows_destination"]),
        diff["digest_source"].as_str().unwrap_or_default(),
        diff["digest_destination"].as_str().unwrap_or_default(),
        table["decision"]
    )
}
