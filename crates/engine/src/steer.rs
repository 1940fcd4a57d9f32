//! What a pipeline's owner does beside running it: check it, drop it.

use std::sync::Arc;

use syncline_core::{ErrorKind, Finding, Result};

use crate::pipeline::Pipeline;

/// Everything that would stop or hurt the pipeline, on both sides. Changes nothing.
///
/// # Errors
/// Only if a side cannot be reached at all.
pub async fn check(pipeline: &Pipeline) -> Result<Vec<Finding>> {
    let mut findings = pipeline.source.check(&pipeline.selection, pipeline.mode.streams()).await?;
    let tables = pipeline.source.discover(&pipeline.selection).await?;
    let tables: Vec<_> = tables.into_iter().map(Arc::new).collect();
    findings.extend(pipeline.destination.check(&tables, &pipeline.schema_map).await?);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(findings)
}

/// Drops what the pipeline left at the source and its bookkeeping at the destination. The loaded tables stay.
///
/// The destination comes first: it knows whether somebody holds the pipeline, from wherever, and then nothing is touched.
/// Where it cannot be reached the source is freed all the same, for what stands there holds back its log.
///
/// # Errors
/// As any write; what is not there is no error, so that dropping may be repeated.
pub async fn drop_pipeline(pipeline: &Pipeline) -> Result<()> {
    let forgotten = pipeline.destination.drop_pipeline(&pipeline.name).await;
    if forgotten.as_ref().is_err_and(|error| error.kind() == ErrorKind::Configuration) {
        return forgotten;
    }
    if let Some(streams) = pipeline.source.streams() {
        streams.drop_pipeline(&pipeline.name).await?;
    }
    forgotten
}
