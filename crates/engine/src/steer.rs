//! What a pipeline's owner does beside running it: check it, drop it.

use std::sync::Arc;

use syncline_core::{Finding, Result};

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
    findings.sort_by(|a, b| b.severity.cmp(&a.severity));
    Ok(findings)
}

/// Drops what the pipeline left at the source and its bookkeeping at the destination. The loaded tables stay.
///
/// The source comes first: if the second half fails, what holds back the source's log is gone already.
///
/// # Errors
/// As any write; what is not there is no error, so that dropping may be repeated.
pub async fn drop_pipeline(pipeline: &Pipeline) -> Result<()> {
    if let Some(streams) = pipeline.source.streams() {
        streams.drop_pipeline(&pipeline.name).await?;
    }
    pipeline.destination.drop_pipeline(&pipeline.name).await
}
