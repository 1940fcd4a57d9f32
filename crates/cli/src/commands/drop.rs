//! `drop`: remove a pipeline everywhere: slot, publication, capture triggers, bookkeeping, journal, local state. The
//! tables at the destination stay.

use syncline_core::{Error, PipelineName, Result};
use syncline_server::AgentUrl;
use syncline_store::Store;

use crate::args::{DropArgs, GlobalArgs, ModeChoice, Output};
use crate::exit::{Exit, Failure};
use crate::spec::PipelineSpec;
use crate::{output, state};

/// Runs the command.
///
/// # Errors
/// As source, destination and store; configuration if the pipeline is not known or runs.
pub(crate) async fn run(args: &DropArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let name = PipelineName::new(args.name.as_str())?;
    let store = Store::open(&state::directory(&args.state)?)?;
    if let Some(pid) = state::running(&store, &name)? {
        return Err(Error::configuration(format!("pipeline `{name}` is running (process {pid})"))
            .with_remedy("stop it first, with Ctrl-C or SIGTERM")
            .into());
    }
    let pipeline = spec_of(&name, args, &store)?.resolve()?;
    syncline_engine::drop_pipeline(&pipeline.wire(store.journal_dir(&name))).await?;
    store.forget(&name)?;
    match global.output {
        Output::Text => output::to_stdout(&format!("{name}: dropped; the destination's tables stay\n")),
        Output::Json => {
            output::to_stdout_line(&serde_json::json!({ "event": "dropped", "pipeline": name }));
        }
    }
    Ok(Exit::DONE)
}

fn spec_of(name: &PipelineName, args: &DropArgs, store: &Store) -> Result<PipelineSpec> {
    if let [source, destination] = args.urls.as_slice() {
        // Only one mode goes through an agent.
        let mode = AgentUrl::is_one(destination).then_some(ModeChoice::Incremental);
        return Ok(PipelineSpec { name: Some(name.clone()), mode, ..PipelineSpec::new(source, destination) });
    }
    let record = store.pipeline(name)?.ok_or_else(|| {
        Error::configuration(format!("no pipeline `{name}` is known on this machine")).with_remedy(format!(
            "see `syncline status`, or say where it runs: syncline drop {name} <SOURCE-URL> <DESTINATION-URL>"
        ))
    })?;
    Ok(state::recall(&record))
}
