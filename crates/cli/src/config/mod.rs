//! Pipelines, or an agent, in a YAML file. The file is validated as a whole: every problem is told at once, with line and column.
//!
//! ```yaml
//! pipelines:
//!   - name: shop
//!     source: postgres://app:${SHOP_PASSWORD}@db.example.com/shop
//!     destination: postgres://loader:${WAREHOUSE_PASSWORD}@warehouse:5432/analytics?sslmode=require
//!     tables: [public.*]
//!     exclude_columns: [public.customers.ssn]
//!     schema_map: { public: shop }
//!     follow: true
//! ```

mod document;
pub(crate) mod environment;
mod read;

use std::fmt;
use std::path::Path;

use syncline_core::{Error, PipelineName};

use crate::exit::Failure;
use crate::spec::ResolvedPipeline;
pub(crate) use read::AgentSpec;

/// One thing that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The file, as the user named it.
    pub(crate) file: String,
    /// Line, from 1.
    pub(crate) line: u64,
    /// Column in characters, from 1.
    pub(crate) column: u64,
    /// What is wrong; holds no value that came from the environment.
    pub(crate) message: String,
    /// What to write instead.
    pub(crate) remedy: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// Reads the pipelines of a file; of those, the ones named (none: all).
///
/// # Errors
/// Every problem of the file, or a configuration error if it cannot be read or a name is not in it.
pub(crate) fn load(path: &Path, names: &[String]) -> Result<Vec<ResolvedPipeline>, Failure> {
    let text = text_of(path)?;
    let pipelines = read::pipelines(&path.display().to_string(), &text, &environment::of_process)
        .map_err(Failure::Config)?;
    select(pipelines, names).map_err(Failure::Error)
}

/// Reads the agent of a file.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_agent(path: &Path) -> Result<AgentSpec, Failure> {
    let text = text_of(path)?;
    read::agent(&path.display().to_string(), &text, &environment::of_process).map_err(Failure::Config)
}

fn text_of(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|error| {
        Error::configuration(format!("cannot read `{}`: {}", path.display(), error.kind()))
            .with_remedy("name an existing file in UTF-8 with --config")
            .with_source(error)
    })
}

fn select(pipelines: Vec<ResolvedPipeline>, names: &[String]) -> Result<Vec<ResolvedPipeline>, Error> {
    let known: Vec<PipelineName> = pipelines.iter().map(|pipeline| pipeline.name.clone()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.iter().any(|known| known.as_str() == *name)) {
        let list: Vec<_> = known.iter().map(PipelineName::as_str).collect();
        return Err(Error::configuration(format!("no pipeline `{unknown}` in the file"))
            .with_remedy(format!("use one of: {}", list.join(", "))));
    }
    let taken = |pipeline: &ResolvedPipeline| {
        names.is_empty() || names.iter().any(|name| name == pipeline.name.as_str())
    };
    Ok(pipelines.into_iter().filter(taken).collect())
}
