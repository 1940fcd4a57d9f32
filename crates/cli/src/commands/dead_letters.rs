//! `dead-letters`: the rows that a destination refused: list them, show one, try them again, discard them.
//!
//! Listing and showing only read, whoever runs the pipeline. Retrying and discarding take the pipeline's lock. A pipeline of mode
//! `incremental` keeps the keys of such rows on this machine, and their values nowhere: showing reads the row at its source.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use syncline_core::{Error, Letter, LetterId, PipelineName, Result, SchemaMap, TableId};
use syncline_engine::letters::{self, LetterValue, LetterView};
use syncline_engine::table_sync::{self, RefusedRow, TableSync};
use syncline_store::{RunId, Store};

use crate::args::{DeadLettersArgs, DeadLettersCommand, GlobalArgs, ModeChoice, Output};
use crate::exit::{Exit, Failure};
use crate::progress::format::{counted, duration};
use crate::spec::ResolvedPipeline;
use crate::{incremental, output, state};

/// Runs the command.
///
/// # Errors
/// As the destination; configuration if the pipeline or a letter is not known, or the pipeline runs.
pub(crate) async fn run(args: &DeadLettersArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let store = Store::open(&state::directory(&args.state)?)?;
    match &args.command {
        DeadLettersCommand::List { name } => {
            let pipeline = recalled(&store, name)?;
            tell_list(&pipeline.name, &all(&pipeline, &store).await?, global);
            Ok(Exit::DONE)
        }
        DeadLettersCommand::Show { name, id } => {
            let pipeline = recalled(&store, name)?;
            let id = LetterId(*id);
            let letters = all(&pipeline, &store).await?;
            let letter = letters.get(&id).ok_or_else(|| unknown(&pipeline.name, id))?;
            let view = match &letter.change {
                Some(letter) => letters::view(letter, pipeline.source.snapshots())?,
                None => table_sync::view_letter(&synced(&pipeline, &store)?, id).await?,
            };
            tell_letter(id, letter, &view, global);
            Ok(Exit::DONE)
        }
        DeadLettersCommand::Retry { name, ids } => {
            retry(&idle(&store, name)?, &store, &numbers(ids), global).await
        }
        DeadLettersCommand::Discard { name, ids } => {
            discard(&idle(&store, name)?, &store, &numbers(ids), global).await
        }
    }
}

async fn retry(
    pipeline: &ResolvedPipeline,
    store: &Store,
    ids: &BTreeSet<LetterId>,
    global: &GlobalArgs,
) -> Result<Exit, Failure> {
    let only = (!ids.is_empty()).then_some(ids);
    let (name, map) = (&pipeline.name, SchemaMap(pipeline.spec.schema_map.clone()));
    let retried = if is_synced(pipeline) {
        table_sync::retry_letters(&synced(pipeline, store)?, only).await?
    } else {
        letters::retry_letters(pipeline.destination.as_ref(), name, &map, only).await?
    };
    match global.output {
        Output::Text => output::to_stdout(&format!(
            "{name}: {} loaded, {} refused again\n",
            counted(retried.loaded, "dead letter"),
            retried.left
        )),
        Output::Json => output::to_stdout_line(&json!({
            "event": "retried", "pipeline": name, "loaded": retried.loaded, "left": retried.left,
        })),
    }
    Ok(if retried.left == 0 { Exit::DONE } else { Exit::FAILED })
}

async fn discard(
    pipeline: &ResolvedPipeline,
    store: &Store,
    ids: &BTreeSet<LetterId>,
    global: &GlobalArgs,
) -> Result<Exit, Failure> {
    let (name, map) = (&pipeline.name, SchemaMap(pipeline.spec.schema_map.clone()));
    if is_synced(pipeline) {
        table_sync::discard_letters(&synced(pipeline, store)?, ids)?;
    } else {
        letters::discard_letters(pipeline.destination.as_ref(), name, &map, ids).await?;
    }
    match global.output {
        Output::Text => output::to_stdout(&format!(
            "{name}: {} discarded. The destination keeps what it has of these rows, which is not what the source has, until \
             they change again\n",
            counted(ids.len() as u64, "dead letter")
        )),
        Output::Json => output::to_stdout_line(&json!({
            "event": "discarded", "pipeline": name, "letters": ids,
        })),
    }
    Ok(Exit::DONE)
}

/// What both kinds of letters have.
struct Listed {
    table: TableId,
    reason: String,
    code: Option<String>,
    attempts: u32,
    first_at_ms: i64,
    last_at_ms: i64,
    /// With its row; a table sync's has none.
    change: Option<Letter>,
}

async fn all(pipeline: &ResolvedPipeline, store: &Store) -> Result<BTreeMap<LetterId, Listed>> {
    if is_synced(pipeline) {
        let listed = |(id, (table, row)): (LetterId, (TableId, RefusedRow))| {
            let RefusedRow { reason, code, attempts, first_at_ms, last_at_ms, .. } = row;
            (id, Listed { table, reason, code, attempts, first_at_ms, last_at_ms, change: None })
        };
        return Ok(table_sync::letters(store, &pipeline.name)?.into_iter().map(listed).collect());
    }
    let listed = |(id, letter): (LetterId, Letter)| {
        let listed = Listed {
            table: letter.table.clone(),
            reason: letter.reason.clone(),
            code: letter.code.clone(),
            attempts: letter.attempts,
            first_at_ms: letter.first_at_ms,
            last_at_ms: letter.last_at_ms,
            change: Some(letter),
        };
        (id, listed)
    };
    Ok(pipeline.destination.letters(&pipeline.name).await?.into_iter().map(listed).collect())
}

fn is_synced(pipeline: &ResolvedPipeline) -> bool {
    pipeline.spec.mode == Some(ModeChoice::Incremental)
}

/// The table sync that a pipeline is. Its commands are no runs.
fn synced(pipeline: &ResolvedPipeline, store: &Store) -> Result<TableSync> {
    incremental::wired(pipeline, store, RunId(0))
}

fn numbers(ids: &[u64]) -> BTreeSet<LetterId> {
    ids.iter().copied().map(LetterId).collect()
}

/// A pipeline that this machine remembers.
fn recalled(store: &Store, name: &str) -> Result<ResolvedPipeline> {
    let name = PipelineName::new(name)?;
    let record = store.pipeline(&name)?.ok_or_else(|| {
        Error::configuration(format!("no pipeline `{name}` is known on this machine"))
            .with_remedy("see `syncline status` for those that are, or name another --state-dir")
    })?;
    state::recall(&record).resolve()
}

/// As [`recalled`], if nothing runs it here. Who runs it elsewhere is said by the destination.
fn idle(store: &Store, name: &str) -> Result<ResolvedPipeline> {
    let pipeline = recalled(store, name)?;
    match state::running(store, &pipeline.name)? {
        None => Ok(pipeline),
        Some(pid) => {
            let running = format!("pipeline `{}` is running (process {pid})", pipeline.name);
            Err(Error::configuration(running).with_remedy(
                "stop it first, with Ctrl-C or SIGTERM; it tries dead letters again when it starts",
            ))
        }
    }
}

fn unknown(name: &PipelineName, id: LetterId) -> Error {
    Error::configuration(format!("pipeline `{name}` has no dead letter {id}"))
        .with_remedy(format!("see which there are: syncline dead-letters list {name}"))
}

fn tell_list(name: &PipelineName, letters: &BTreeMap<LetterId, Listed>, global: &GlobalArgs) {
    match global.output {
        Output::Text if letters.is_empty() => output::to_stderr(&format!("{name}: no dead letters\n")),
        Output::Text => {
            let now = state::now_ms();
            output::to_stdout(&letters.iter().map(|(id, letter)| line(*id, letter, now)).collect::<String>());
        }
        Output::Json => letters.iter().for_each(|(id, letter)| output::to_stdout_line(&event(*id, letter))),
    }
}

fn line(id: LetterId, letter: &Listed, now_ms: i64) -> String {
    format!(
        "{id}  {}  {}  tried {}, first {} ago\n",
        letter.table,
        letter.reason,
        counted(letter.attempts.into(), "time"),
        age(now_ms, letter.first_at_ms)
    )
}

fn age(now_ms: i64, then_ms: i64) -> String {
    duration(std::time::Duration::from_millis(u64::try_from(now_ms - then_ms).unwrap_or_default()))
}

fn event(id: LetterId, letter: &Listed) -> Value {
    json!({
        "letter": id,
        "table": letter.table,
        "reason": letter.reason,
        "code": letter.code,
        "attempts": letter.attempts,
        "first_at": letter.first_at_ms,
        "last_at": letter.last_at_ms,
    })
}

fn tell_letter(id: LetterId, letter: &Listed, view: &LetterView, global: &GlobalArgs) {
    if global.output == Output::Json {
        let mut shown = event(id, letter);
        shown["change"] = json!(view);
        return output::to_stdout_line(&shown);
    }
    let mut text = line(id, letter, state::now_ms());
    text.push_str(&format!("  {}\n", view.operation));
    let mut values = |what: &str, values: &[LetterValue]| {
        for LetterValue { column, value } in values {
            text.push_str(&format!("    {what}{column} = {}\n", value.as_deref().unwrap_or("NULL")));
        }
    };
    values("at the destination still ", &view.moved_from);
    values("", &view.row);
    for column in &view.left_out {
        text.push_str(&format!("    {column} as it is at the destination\n"));
    }
    output::to_stdout(&text);
}
