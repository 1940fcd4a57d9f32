//! Cases: finishing tables, and what is left of a pipeline.

use syncline_core::{Change, Checkpoint, ErrorKind, FinishStep, Lane};

use crate::conformance::patiently;
use crate::conformance::report::Outcome;
use crate::conformance::tables::{Standard, cells};

use super::DestinationHarness;
use super::build::TextChange;
use super::support::{BEGINNING, Held, at, ok, refused};

/// Each step may be made again, also by the next process and when changes have come since.
pub async fn finishing_is_idempotent(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let mut held = Held::begin(fixture.as_ref(), "finishes").await;
    held.own(Standard::Codes, None).await;
    ok(held.chunk(Standard::Codes, 0, &[cells(&["1", "one"]), cells(&["2", "two"])]).await);
    for round in 0..2 {
        for step in [FinishStep::Key, FinishStep::Key, FinishStep::Indexes, FinishStep::ForeignKeys] {
            let table = held.table(Standard::Codes);
            ok(patiently("finishing", held.session.finish(&table, step)).await);
        }
        let list = vec![TextChange::upsert(cells(&["1", &format!("changed {round}")]))];
        ok(held.change(Standard::Codes, list).await);
        held = held.reopened().await;
    }
    held.assert_holds(Standard::Codes, &[cells(&["1", "changed 1"]), cells(&["2", "two"])]).await;
    Outcome::Passed
}

/// Two pipelines at one destination have their own tokens and checkpoints.
pub async fn pipelines_are_apart(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let one = Held::begin(fixture.as_ref(), "one").await;
    let other = Held::open(fixture.as_ref(), "other").await;
    assert_eq!(other.checkpoint().await, Checkpoint::default());
    other.note(vec![Change::Open { lane: Lane::Main, at: at(77) }]).await;
    ok(one.move_main(Vec::new()).await);
    assert_eq!(one.checkpoint().await.lanes[&Lane::Main], at(BEGINNING + 1));
    assert_eq!(other.checkpoint().await.lanes[&Lane::Main], at(77));
    Outcome::Passed
}

/// A pipeline that a living process holds is not forgotten under it.
pub async fn a_held_pipeline_is_not_dropped(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "held").await;
    let dropped = patiently("drop", fixture.destination().drop_pipeline(&held.name)).await;
    assert_eq!(refused("dropping a held pipeline", dropped), ErrorKind::Configuration);
    ok(held.move_main(Vec::new()).await);
    Outcome::Passed
}

/// Dropping forgets the pipeline, keeps its tables, and with the last pipeline takes the bookkeeping; twice is no error.
pub async fn dropping_forgets_the_pipeline_and_keeps_its_tables(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let row = cells(&["1", "a", "1", "∅"]);
    let held = Held::begin(fixture.as_ref(), "drops").await;
    held.ready(Standard::Items, std::slice::from_ref(&row)).await;
    let stays = Held::begin(fixture.as_ref(), "stays").await;
    let name = held.name.clone();
    held.session.close().await;
    drop(held);
    let destination = fixture.destination();
    for _ in 0..2 {
        ok(patiently("drop", destination.drop_pipeline(&name)).await);
    }
    ok(stays.move_main(Vec::new()).await);
    stays.assert_holds(Standard::Items, std::slice::from_ref(&row)).await;
    let again = Held::open(fixture.as_ref(), "drops").await;
    assert_eq!(again.checkpoint().await, Checkpoint::default(), "a forgotten pipeline knows nothing");
    for held in [again, stays] {
        held.session.close().await;
        let name = held.name.clone();
        drop(held);
        ok(patiently("drop", destination.drop_pipeline(&name)).await);
    }
    assert_eq!(fixture.leftovers().await, Vec::<String>::new(), "nothing is left of the last pipeline");
    assert_eq!(fixture.truth(Standard::Items).await, Some(vec![row]));
    Outcome::Passed
}
