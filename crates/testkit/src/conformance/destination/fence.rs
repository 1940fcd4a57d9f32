//! Cases: one holder at a time, and what an older one can still do, which is nothing.

use std::time::Duration;

use syncline_core::{Change, Delta, ErrorKind, Lane, LoadIdentity, LoadKind, PipelineName, SchemaMap};

use crate::conformance::patiently;
use crate::conformance::report::Outcome;
use crate::conformance::tables::{Standard, cells};

use super::DestinationHarness;
use super::build::{TextChange, changes};
use super::support::{BEGINNING, Held, at, ended_process, ok, open_when_released, refused, this_process};

/// The holder's process is gone and its connections are not: the next one takes over by itself, and nothing that the
/// older one had begun or begins now is committed.
pub async fn an_older_holder_changes_nothing(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let older = Held::open_as(fixture.as_ref(), "fenced", &ended_process()).await;
    older.note(vec![Change::Open { lane: Lane::Main, at: at(BEGINNING) }]).await;
    older.ready(Standard::Items, &[cells(&["1", "a", "1", "∅"])]).await;
    let (from, to) = (at(BEGINNING), at(BEGINNING + 1));
    let kind = LoadKind::Changes { from: from.clone(), to: to.clone() };
    let identity = LoadIdentity { pipeline: older.name.clone(), lane: Lane::Main, kind };
    let delta = Delta::of(vec![Change::Advance { lane: Lane::Main, from, to }]);
    let part = || {
        let list = vec![TextChange::insert(cells(&["2", "late", "1", "∅"]))];
        changes(fixture.as_ref(), &older.table(Standard::Items), list)
    };
    let mut begun = ok(patiently("begin", older.session.begin(&identity)).await);
    ok(patiently("write", begun.write(part())).await);

    let newer = Held::open(fixture.as_ref(), "fenced").await;
    assert!(newer.session.fence() > older.session.fence(), "the token grows");
    let before = newer.checkpoint().await;
    // Its connections may have been ended, so the error of this one may be about that.
    let late = patiently("a late commit", begun.commit(&delta)).await;
    let kind = refused("a load that was begun before", late);
    let possible = [ErrorKind::Fenced, ErrorKind::Retriable, ErrorKind::Unknown];
    assert!(possible.contains(&kind), "{kind:?}");
    let mut kind = ErrorKind::Retriable;
    for _ in 0..5 {
        kind = refused("a load of the older holder", older.move_main_from(BEGINNING, vec![part()]).await);
        if kind == ErrorKind::Fenced {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(kind, ErrorKind::Fenced, "a new load of the older holder");
    let checkpoint = patiently("the older holder's checkpoint", older.session.checkpoint()).await;
    assert_eq!(refused("the older holder's checkpoint", checkpoint), ErrorKind::Fenced);
    assert_eq!(newer.checkpoint().await, before);
    newer.assert_holds(Standard::Items, &[cells(&["1", "a", "1", "∅"])]).await;
    let list = vec![TextChange::insert(cells(&["3", "new", "1", "∅"]))];
    ok(newer.change(Standard::Items, list).await);
    // What the older one releases is not the newer one's.
    older.session.close().await;
    drop(older);
    let list = vec![TextChange::insert(cells(&["4", "new", "1", "∅"]))];
    ok(newer.change(Standard::Items, list).await);
    Outcome::Passed
}

/// While a living process holds the pipeline another one is refused, told by whom, and the first goes on.
pub async fn a_second_holder_is_refused_by_name(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let first = Held::begin(fixture.as_ref(), "held").await;
    let name = ok(PipelineName::new("held"));
    let destination = fixture.destination();
    let holder = this_process();
    let second = patiently("a second open", destination.open(&name, &holder, &SchemaMap::default())).await;
    let error = second.err().unwrap_or_else(|| panic!("two processes hold one pipeline"));
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let said = error.to_string();
    assert!(said.contains(&holder.pid.to_string()) && said.contains(&holder.host), "who holds it: {said}");
    assert!(error.remedy().is_some());
    ok(first.move_main(Vec::new()).await);
    Outcome::Passed
}

/// Closed or only dropped, a session lets the next one in, and tokens only grow.
pub async fn a_released_pipeline_is_taken_with_a_higher_token(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let mut last = 0;
    for round in 0..4 {
        let held = open_when_released(fixture.as_ref(), "released").await;
        assert!(held.session.fence() > last, "the token grows");
        last = held.session.fence();
        if round % 2 == 0 {
            held.session.close().await;
        }
    }
    Outcome::Passed
}
