//! One run of a pipeline with somebody watching it.

use std::time::Instant;

use syncline_core::{Error, Family, Result};
use syncline_engine::{Control, Pipeline, Progress, Summary};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::progress::Display;
use crate::progress::view::{LagUnit, View, Viewer};

/// Runs a pipeline to its end, showing it on `display` and handing every shown moment to `watch`.
///
/// # Errors
/// As the run.
pub(crate) async fn run(
    pipeline: Pipeline,
    control: Control,
    mut display: Box<dyn Display>,
    mut watch: impl FnMut(Instant, &View),
) -> Result<Summary> {
    let (sender, receiver) = watch::channel(Progress::default());
    // The contract leaves a source the choice; SQLite's log of changes is a table, which has no bytes to count.
    let lag_unit = if pipeline.source.family() == Family::SQLITE { LagUnit::Changes } else { LagUnit::Bytes };
    // A task of its own, so that a busy run does not hold up its display. Dropping the set ends it.
    let mut task = JoinSet::new();
    task.spawn(syncline_engine::run(pipeline, control, sender));
    let mut ticks = tokio::time::interval(display.tick());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut viewer = Viewer::new(lag_unit);
    let mut show = |display: &mut Box<dyn Display>| {
        let now = Instant::now();
        let view = viewer.view(now, &receiver.borrow());
        display.show(now, &view);
        tokio::task::block_in_place(|| watch(now, &view));
    };
    let ended = loop {
        tokio::select! {
            ended = task.join_next() => break ended,
            _ = ticks.tick() => show(&mut display),
        }
    };
    show(&mut display);
    display.clear();
    match ended {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(Error::bug("the run ended in a panic").with_source(error)),
        None => Err(Error::bug("the run was never started")),
    }
}
