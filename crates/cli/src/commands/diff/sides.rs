//! The two sides of a comparison: each read by this process, or by an agent beside it.

use std::sync::Arc;

use serde::Serialize;
use syncline_connectors::registry;
use syncline_core::{Error, Query, Result, Source};
use syncline_engine::diff::Comparison;
use syncline_engine::diff::remote::{Agent, Traffic};
use syncline_server::AgentUrl;

use super::queries;
use crate::args::{DiffArgs, DigestWhere};
use crate::spec;

/// Both sides. Databases are not connected yet, agents are.
pub(super) struct Sides {
    pub(super) source: Arc<dyn Source>,
    /// The destination as it is read.
    pub(super) destination: Arc<dyn Source>,
    pub(super) destination_url: String,
    /// What stands for tables of the source.
    queries: Vec<Query>,
    source_agent: Option<Arc<Agent>>,
    destination_agent: Option<Arc<Agent>>,
    digest: DigestWhere,
}

/// What was exchanged with the agents.
#[derive(Debug, Serialize)]
pub(super) struct AgentTraffic {
    /// With the source's, if it has one.
    pub(super) source: Option<Traffic>,
    /// With the destination's.
    pub(super) destination: Option<Traffic>,
}

impl Sides {
    /// What the arguments name.
    ///
    /// # Errors
    /// Configuration if a URL cannot be used, or if an agent would have to write; as connecting to an agent.
    pub(super) async fn open(args: &DiffArgs) -> Result<Self> {
        let writes = args.repair || args.plan || args.approve.is_some();
        if writes && AgentUrl::is_one(&args.destination) {
            return Err(Error::configuration("an agent writes nothing, so this destination cannot be repaired")
                .with_remedy(
                    "run the command beside the destination: there name the database itself, and the source's agent",
                ));
        }
        let destination_url = spec::from_anywhere(&args.destination);
        let source =
            open(&spec::from_anywhere(&args.source)).await.map_err(|error| error.context("source"))?;
        let destination = open(&destination_url).await.map_err(|error| error.context("destination"))?;
        let queries = queries::of(args, destination.0.as_ref()).await?;
        let source_or_queries =
            if queries.is_empty() { source.0 } else { queries::as_source(&source.0, &queries)? };
        Ok(Self {
            source: source_or_queries,
            destination: destination.0,
            destination_url,
            queries,
            source_agent: source.1,
            destination_agent: destination.1,
            digest: args.digest,
        })
    }

    /// What the two sides are, without secrets, as a plan names them.
    pub(super) fn names(&self) -> String {
        let queries = self.queries.iter().map(|query| format!("; {}: {}", query.table, query.sql));
        // A plan's rows are recognised by their hashes, which are others there.
        let digest = match self.digest {
            DigestWhere::Default => "",
            DigestWhere::InDatabase => "; digests in the databases",
        };
        let queries = queries.collect::<String>();
        format!("{} → {}{queries}{digest}", self.source.address(), self.destination.address())
    }

    /// The comparison, with each side read, or hashed, by whom it is.
    ///
    /// # Errors
    /// Configuration if databases should hash that cannot.
    pub(super) fn read_by(&self, comparison: Comparison) -> Result<Comparison> {
        let comparison = comparison.read_by(self.source_agent.clone(), self.destination_agent.clone());
        match self.digest {
            DigestWhere::Default => Ok(comparison),
            DigestWhere::InDatabase => comparison.inside(),
        }
    }

    /// What was exchanged so far.
    pub(super) fn traffic(&self) -> AgentTraffic {
        let of = |agent: &Option<Arc<Agent>>| agent.as_ref().map(|agent| agent.traffic());
        AgentTraffic { source: of(&self.source_agent), destination: of(&self.destination_agent) }
    }
}

async fn open(url: &str) -> Result<(Arc<dyn Source>, Option<Arc<Agent>>)> {
    if !AgentUrl::is_one(url) {
        return Ok((registry::source(url)?, None));
    }
    let agent = Agent::connect(Arc::new(AgentUrl::open(url, registry::family)?)).await?;
    Ok((Arc::clone(&agent) as Arc<dyn Source>, Some(agent)))
}
