//! Letters tried again, group by group, in one load that changes nothing but letters and their rows.

use std::collections::{BTreeMap, BTreeSet};

use syncline_core::{
    Change, Checkpoint, Delta, Destination, DestinationSession, Error, ErrorKind, Lane, LetterId, Load,
    LoadIdentity, LoadKind, PipelineName, Result, SchemaMap, TableId, TablePhase,
};

use super::desk::Desk;
use super::{offer, reconsider_all};
use crate::attempt::Attempt;

/// A load that is ready to commit.
pub(crate) struct Retried {
    pub(crate) load: Box<dyn Load>,
    pub(crate) delta: Delta,
    /// Letters whose rows are written.
    pub(crate) loaded: u64,
    /// Letters that were tried in vain.
    pub(crate) left: u64,
}

/// Tries the letters of these tables again; `only`: these and whatever can only be written with them. `None` if there is
/// nothing to try.
///
/// # Errors
/// As any load.
pub(crate) async fn retry(
    session: &dyn DestinationSession,
    pipeline: &PipelineName,
    checkpoint: &Checkpoint,
    tables: &BTreeSet<TableId>,
    only: Option<&BTreeSet<LetterId>>,
) -> Result<Option<Retried>> {
    let mut load: Option<Box<dyn Load>> = None;
    let mut loaded = 0;
    let mut desks = BTreeMap::new();
    for table in tables {
        let mut desk = Desk::open(table, &checkpoint.letters)?;
        let wanted =
            |group: &BTreeSet<LetterId>| only.is_none_or(|only| group.iter().any(|id| only.contains(id)));
        let groups: Vec<_> = desk.groups().into_iter().filter(wanted).collect();
        if groups.is_empty() {
            continue;
        }
        if load.is_none() {
            load = Some(begin(session, pipeline).await?);
        }
        let Some(load) = load.as_deref_mut() else { continue };
        for ids in &groups {
            match offer(load, &mut desk, ids).await? {
                Some(refusal) => desk.tried_again(ids, &refusal),
                None => loaded += ids.len() as u64,
            }
        }
        desks.insert(table.clone(), desk);
    }
    let Some(mut load) = load else { return Ok(None) };
    loaded += reconsider_all(load.as_mut(), &mut desks).await?;
    let (mut changes, mut left) = (Vec::new(), 0);
    for desk in desks.values() {
        let outcome = desk.outcome()?;
        left += outcome.set_aside;
        changes.extend(outcome.changes);
    }
    // A row whose absent columns have no row to come from any more is read again.
    let delta = Delta { changes, reread_missing: true };
    Ok(Some(Retried { load, delta, loaded, left }))
}

async fn begin(session: &dyn DestinationSession, pipeline: &PipelineName) -> Result<Box<dyn Load>> {
    let identity = LoadIdentity { pipeline: pipeline.clone(), lane: Lane::Main, kind: LoadKind::Letters };
    let mut load = session.begin(&identity).await?;
    // What is refused only by the commit must be known of each letter.
    match load.check_now().await? {
        None => Ok(load),
        Some(error) => Err(error),
    }
}

/// Tries the letters of earlier runs again, before anything that comes after them.
///
/// # Errors
/// As any load.
pub(crate) async fn of_earlier_runs(attempt: &Attempt) -> Result<()> {
    let context = &attempt.context;
    let checkpoint = attempt.checkpoint().clone();
    let tables = ready(&checkpoint);
    if tables.is_empty() {
        return Ok(());
    }
    let retried = retry(attempt.session.as_ref(), &context.pipeline.name, &checkpoint, &tables, None);
    let retried = match retried.await {
        // If something is the matter with the table, the changes that follow will tell.
        Err(error)
            if matches!(error.kind(), ErrorKind::Data | ErrorKind::Configuration | ErrorKind::Permanent) =>
        {
            tracing::warn!(error = %error, "dead letters could not be tried again");
            return Ok(());
        }
        retried => retried?,
    };
    let Some(retried) = retried else { return Ok(()) };
    attempt.commit(retried.load, &retried.delta).await?;
    tracing::info!(loaded = retried.loaded, left = retried.left, "dead letters were tried again");
    context.board.tally(|sum| {
        sum.read += retried.loaded;
        sum.applied += retried.loaded;
    });
    Ok(())
}

/// What a retry by command did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RetryOutcome {
    /// Letters whose rows are at the destination now.
    pub loaded: u64,
    /// Letters that were refused again.
    pub left: u64,
}

/// Tries letters again by command, under the pipeline's lock; `only`: these, else all.
///
/// # Errors
/// Configuration if somebody holds the pipeline, or one of these letters is not there; else as any write.
pub async fn retry_letters(
    destination: &dyn Destination,
    pipeline: &PipelineName,
    map: &SchemaMap,
    only: Option<&BTreeSet<LetterId>>,
) -> Result<RetryOutcome> {
    let session = destination.open(pipeline, &syncline_store::this_process()?, map).await?;
    let retried = retry_held(session.as_ref(), pipeline, only).await;
    session.close().await;
    retried
}

async fn retry_held(
    session: &dyn DestinationSession,
    pipeline: &PipelineName,
    only: Option<&BTreeSet<LetterId>>,
) -> Result<RetryOutcome> {
    let checkpoint = session.checkpoint().await?;
    if let Some(only) = only {
        require(&checkpoint, only)?;
    }
    let tables = ready(&checkpoint);
    let Some(retried) = retry(session, pipeline, &checkpoint, &tables, only).await? else {
        return Ok(RetryOutcome { loaded: 0, left: checkpoint.letters.len() as u64 });
    };
    retried.load.commit(&retried.delta).await?;
    Ok(RetryOutcome { loaded: retried.loaded, left: retried.left })
}

/// Forgets letters by command, under the pipeline's lock. What the destination has of their rows stays as it is.
///
/// # Errors
/// As [`retry_letters`].
pub async fn discard_letters(
    destination: &dyn Destination,
    pipeline: &PipelineName,
    map: &SchemaMap,
    ids: &BTreeSet<LetterId>,
) -> Result<()> {
    let session = destination.open(pipeline, &syncline_store::this_process()?, map).await?;
    let discarded = discard_held(session.as_ref(), pipeline, ids).await;
    session.close().await;
    discarded
}

async fn discard_held(
    session: &dyn DestinationSession,
    pipeline: &PipelineName,
    ids: &BTreeSet<LetterId>,
) -> Result<()> {
    require(&session.checkpoint().await?, ids)?;
    let identity = LoadIdentity { pipeline: pipeline.clone(), lane: Lane::Main, kind: LoadKind::Letters };
    let changes = ids.iter().map(|&id| Change::RemoveLetter { id }).collect();
    let _ = session.begin(&identity).await?.commit(&Delta::of(changes)).await?;
    Ok(())
}

fn require(checkpoint: &Checkpoint, ids: &BTreeSet<LetterId>) -> Result<()> {
    match ids.iter().find(|id| !checkpoint.letters.contains_key(id)) {
        None => Ok(()),
        Some(id) => Err(Error::configuration(format!("there is no dead letter {id}"))
            .with_remedy("see which there are: syncline dead-letters list NAME")),
    }
}

/// Tables whose letters can be tried: those that need a new snapshot get their rows by it.
pub(crate) fn ready(checkpoint: &Checkpoint) -> BTreeSet<TableId> {
    let consistent =
        |id: &&TableId| checkpoint.tables.get(*id).is_some_and(|state| state.phase == TablePhase::Consistent);
    checkpoint.letters.values().map(|letter| &letter.table).filter(consistent).cloned().collect()
}
