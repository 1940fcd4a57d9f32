//! One module per command.

pub(crate) mod agent;
pub(crate) mod check;
pub(crate) mod dead_letters;
pub(crate) mod diff;
pub(crate) mod discover;
pub(crate) mod drop;
pub(crate) mod runs;
pub(crate) mod status;
pub(crate) mod sync;
pub(crate) mod verify;

use syncline_core::Error;

use crate::args::SyncArgs;
use crate::config;
use crate::exit::Failure;
use crate::spec::{PipelineSpec, ResolvedPipeline};

/// The pipelines that `sync` and `check` are asked for: from a file, or from two URLs and options.
fn pipelines(args: &SyncArgs) -> Result<Vec<ResolvedPipeline>, Failure> {
    if let Some(path) = &args.config {
        return config::load(path, &args.subjects);
    }
    let [source, destination] = args.subjects.as_slice() else {
        let message = match args.subjects.len() {
            0 => "source and destination are missing",
            1 => "the destination is missing",
            _ => "more than a source and a destination",
        };
        return Err(Error::configuration(message)
            .with_remedy("give two URLs, or --config FILE; see `syncline sync --help`")
            .into());
    };
    Ok(vec![PipelineSpec::from_args(source, destination, &args.pipeline)?.resolve()?])
}
