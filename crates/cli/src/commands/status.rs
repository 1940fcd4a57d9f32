//! `status`: what pipelines are doing, or how their last run ended.

use std::time::Duration;

use serde_json::{Value, json};
use syncline_core::{Error, PipelineName, Result};
use syncline_engine::Verified;
use syncline_store::{PipelineRecord, RunOutcome, RunRecord, StatusRecord, Store};

use crate::args::{GlobalArgs, Output, StatusArgs};
use crate::exit::{Exit, Failure};
use crate::progress::format::{bytes, count, counted, duration, milliseconds};
use crate::{output, state, verifying};

/// What is known of one pipeline.
struct Known {
    pipeline: PipelineRecord,
    status: Option<StatusRecord>,
    /// The one that goes on, else the last one.
    run: Option<RunRecord>,
}

/// Runs the command.
///
/// # Errors
/// As the store; configuration if the pipeline is not known.
pub(crate) fn run(args: &StatusArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let store = Store::open(&state::directory(&args.state)?)?;
    let known = known(&store, args.name.as_deref())?;
    match global.output {
        Output::Text if known.is_empty() => {
            output::to_stderr("no pipeline is known here; begin with `syncline sync`\n");
        }
        Output::Text => {
            let now = state::now_ms();
            let blocks: Vec<_> = known.iter().map(|known| render(known, now)).collect();
            output::to_stdout(&blocks.join("\n"));
        }
        Output::Json => known.iter().for_each(|known| output::to_stdout_line(&event(known))),
    }
    Ok(Exit::DONE)
}

fn known(store: &Store, name: Option<&str>) -> Result<Vec<Known>> {
    let pipelines = match name {
        None => store.pipelines()?,
        Some(name) => {
            let name = PipelineName::new(name)?;
            vec![store.pipeline(&name)?.ok_or_else(|| {
                Error::configuration(format!("no pipeline `{name}` is known on this machine"))
                    .with_remedy("see `syncline status` for those that are, or name another --state-dir")
            })?]
        }
    };
    pipelines.into_iter().map(|pipeline| look_up(store, pipeline)).collect()
}

fn look_up(store: &Store, pipeline: PipelineRecord) -> Result<Known> {
    let status = store.status(&pipeline.name)?;
    let runs = store.runs(&pipeline.name, 10)?;
    let run = runs.iter().find(|run| run.running).or_else(|| runs.first()).cloned();
    Ok(Known { pipeline, status, run })
}

fn event(known: &Known) -> Value {
    json!({
        "pipeline": known.pipeline.name,
        "source": known.pipeline.source_address,
        "destination": known.pipeline.destination_address,
        "running": known.run.as_ref().is_some_and(|run| run.running),
        "run": known.run,
        "status_at": known.status.as_ref().map(|status| status.updated_at),
        "status": known.status.as_ref().map(|status| &status.status),
    })
}

fn render(known: &Known, now_ms: i64) -> String {
    let pipeline = &known.pipeline;
    let mut text = format!(
        "{}: {}\n  {} → {}\n",
        pipeline.name,
        state_of(known, now_ms),
        pipeline.source_address,
        pipeline.destination_address
    );
    let mut line = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("  {what:<12} {value}\n"));
        }
    };
    if let Some(status) = &known.status {
        let at = &status.status;
        let age = ago(now_ms, status.updated_at);
        line("phase", at["phase"].as_str().map(|phase| format!("{phase} ({age})")));
        line("rows", rows(at));
        line("changes", changes(at));
        line("lag", lag(at));
        line("dead letters", dead_letters(at));
        line("waiting for", at["waiting_for"].as_str().map(str::to_owned));
        line("position", at["position"].as_str().map(str::to_owned));
        line("verified", verified(at, now_ms));
        line("last error", at["last_error"].as_str().map(str::to_owned));
        recovering(at).into_iter().for_each(|table| line("recovering", Some(table)));
        for (table, remedy) in stopped(at) {
            line("stopped", Some(table));
            line("remedy", remedy);
        }
    }
    line("run error", known.run.as_ref().and_then(|run| run.error.clone()));
    text
}

fn state_of(known: &Known, now_ms: i64) -> String {
    let Some(run) = &known.run else { return "never run".to_owned() };
    if run.running {
        return format!("running (process {}, since {})", run.pid, ago(now_ms, run.started_at));
    }
    let word = match run.outcome {
        Some(RunOutcome::Done) => "done",
        Some(RunOutcome::Failed) => "failed",
        Some(RunOutcome::Stopped) => "stopped as asked",
        None => "ended without a word (killed, or on another host)",
    };
    format!("not running; last run {word}, {}", ago(now_ms, run.ended_at.unwrap_or(run.started_at)))
}

fn ago(now_ms: i64, then_ms: i64) -> String {
    let ms = u64::try_from(now_ms - then_ms).unwrap_or_default();
    format!("{} ago", duration(Duration::from_millis(ms)))
}

fn rows(at: &Value) -> Option<String> {
    let done = at["rows_done"].as_u64()?;
    let tables = at["tables"].as_array()?;
    let ready = tables.iter().filter(|table| matches!(table["state"].as_str(), Some("streaming" | "done")));
    let copied = match at["rows_estimated"].as_u64() {
        Some(estimated) if estimated > done => format!("{} of ~{}", count(done), count(estimated)),
        _ => count(done),
    };
    Some(format!("{copied}; {} of {} ready", ready.count(), counted(tables.len() as u64, "table")))
}

fn changes(at: &Value) -> Option<String> {
    let (read, applied) = (at["changes_read"].as_u64()?, at["changes_applied"].as_u64()?);
    Some(format!(
        "{} read, {} done, {}/s in this run",
        count(read),
        count(applied),
        count(at["changes_per_second"].as_u64().unwrap_or_default())
    ))
}

fn lag(at: &Value) -> Option<String> {
    let changes = |lag| counted(lag, "change");
    let behind = at["lag_bytes"].as_u64().map(bytes).or_else(|| at["lag_changes"].as_u64().map(changes));
    let parts: Vec<_> = behind.into_iter().chain(at["lag_ms"].as_u64().map(milliseconds)).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn verified(at: &Value, now_ms: i64) -> Option<String> {
    let verified: Verified = serde_json::from_value(at["verified"].clone()).ok()?;
    Some(format!("{}, {}", ago(now_ms, verified.ended_at), verifying::line(&verified)))
}

fn dead_letters(at: &Value) -> Option<String> {
    at["dead_letters"].as_u64().filter(|letters| *letters > 0).map(count)
}

/// Each table that is being recovered.
fn recovering(at: &Value) -> Vec<String> {
    let tables = at["tables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |table: &Value| {
        let name = format!("{}.{}", table["table"]["schema"].as_str()?, table["table"]["name"].as_str()?);
        (table["state"] == "recovering").then(|| format!("{name}: compared with the source and repaired"))
    };
    tables.iter().filter_map(name).collect()
}

/// Each stopped table with why, and what to do about it.
fn stopped(at: &Value) -> Vec<(String, Option<String>)> {
    let tables = at["tables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let lines = |table: &Value| {
        let name = format!("{}.{}", table["table"]["schema"].as_str()?, table["table"]["name"].as_str()?);
        let remedy = table["remedy"].as_str().map(str::to_owned);
        (table["state"] == "stopped")
            .then(|| (format!("{name}: {}", table["error"].as_str().unwrap_or("unknown")), remedy))
    };
    tables.iter().filter_map(lines).collect()
}

#[cfg(test)]
mod tests {
    use syncline_store::RunKind;

    use super::*;
    use syncline_store::RunId;

    fn known(running: bool) -> Known {
        let name = PipelineName::new("shop").unwrap();
        Known {
            pipeline: PipelineRecord {
                name: name.clone(),
                source_url: "postgres://u:secret@h/shop".to_owned(),
                destination_url: "postgres://u:secret@h/copy".to_owned(),
                source_address: "h:5432/shop".to_owned(),
                destination_address: "h:5432/copy".to_owned(),
                config: Value::Null,
                updated_at: 0,
            },
            status: Some(StatusRecord {
                run: RunId(1),
                updated_at: 9_000,
                status: json!({
                    "phase": "streaming", "rows_done": 5000, "rows_estimated": 5000, "changes_read": 12, "changes_applied": 10,
                    "changes_per_second": 3, "lag_bytes": 1500, "lag_ms": 40, "waiting_for": null, "last_error": null,
                    "position": "0/15D68",
                    "tables": [{"table": {"schema": "public", "name": "a"}, "state": "streaming"},
                               {"table": {"schema": "public", "name": "b"}, "state": "stopped", "error": "odd",
                                "remedy": "make it even"}],
                }),
                pid: 7,
                host: "here".to_owned(),
                running,
            }),
            run: Some(RunRecord {
                kind: RunKind::Sync,
                id: RunId(1),
                pipeline: name,
                host: "here".to_owned(),
                pid: 7,
                started_at: 0,
                ended_at: (!running).then_some(8_000),
                outcome: (!running).then_some(RunOutcome::Done),
                error: None,
                summary: None,
                running,
            }),
        }
    }

    #[test]
    fn a_running_pipeline() {
        assert_eq!(
            render(&known(true), 10_000),
            "shop: running (process 7, since 10 s ago)\n  h:5432/shop → h:5432/copy\n  \
             phase        streaming (1.0 s ago)\n  rows         5,000; 1 of 2 tables ready\n  \
             changes      12 read, 10 done, 3/s in this run\n  lag          1.5 kB, 40 ms\n  \
             position     0/15D68\n  stopped      public.b: odd\n  remedy       make it even\n"
        );
    }

    #[test]
    fn no_secret_in_any_form() {
        assert!(!render(&known(false), 10_000).contains("secret"));
        assert!(!event(&known(false)).to_string().contains("secret"));
        assert!(render(&known(false), 10_000).starts_with("shop: not running; last run done, 2.0 s ago\n"));
    }
}
