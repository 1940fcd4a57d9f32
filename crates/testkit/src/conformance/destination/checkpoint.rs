//! Cases: the delta. It fits, and is there with its data, or nothing of either is.

use std::collections::{BTreeMap, BTreeSet};

use syncline_core::{
    Change, Checkpoint, ChunkEntry, Delta, ErrorKind, Lane, LoadKind, Parts, TableId, TablePhase, TableState,
};

use crate::conformance::report::Outcome;
use crate::conformance::tables::{Standard, cells};

use super::DestinationHarness;
use super::build::{TextChange, changes, row_key};
use super::support::{BEGINNING, Held, at, chunk_entered, ok, refused};

/// Whichever change of a delta does not fit, wherever it stands, everything rolls back: the data, and what came before it.
pub async fn a_delta_that_does_not_fit_changes_nothing(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "misfit").await;
    let row = cells(&["1", "a", "1", "∅"]);
    held.own(Standard::Codes, None).await;
    ok(held.chunk(Standard::Codes, 0, &[cells(&["1", "one"])]).await);
    held.ready(Standard::Items, std::slice::from_ref(&row)).await;
    let codes = held.table(Standard::Codes);
    let own = Lane::Table(codes.id.clone());
    held.note(vec![Change::Open { lane: own.clone(), at: at(BEGINNING) }]).await;
    let before = held.checkpoint().await;
    let misfits = [
        Change::Advance { lane: Lane::Main, from: at(9), to: at(20) },
        Change::Advance { lane: own.clone(), from: at(9), to: at(20) },
        Change::Open { lane: Lane::Main, at: at(BEGINNING) },
        Change::Open { lane: own.clone(), at: at(3) },
        Change::Close { lane: own, at: at(9) },
        Change::Close { lane: Lane::Table(held.table(Standard::Pairs).id.clone()), at: at(1) },
        chunk_entered(&codes, 1, 0),
        chunk_entered(&codes, 2, 1),
        Change::Reset { table: codes.id.clone(), generation: 1 },
        Change::Reset { table: codes.id.clone(), generation: 3 },
        parts(&held.table(Standard::Pairs), &[]),
    ];
    for misfit in misfits {
        let (from, to) = (at(BEGINNING), at(BEGINNING + 1));
        let fits = Change::Advance { lane: Lane::Main, from: from.clone(), to: to.clone() };
        let list = vec![TextChange::insert(cells(&["2", "b", "1", "∅"])), TextChange::delete(cells(&["1"]))];
        let part = changes(fixture.as_ref(), &held.table(Standard::Items), list);
        let delta = Delta::of(vec![fits, misfit.clone()]);
        let result = held.load(LoadKind::Changes { from, to }, vec![part], delta).await;
        assert_eq!(refused(&format!("{misfit:?}"), result), ErrorKind::Conflict, "{misfit:?}");
        assert_eq!(held.checkpoint().await, before, "{misfit:?}");
        held.assert_holds(Standard::Items, std::slice::from_ref(&row)).await;
    }
    Outcome::Passed
}

/// Every kind of change comes back from the checkpoint of the next process as it was written.
pub async fn everything_in_a_delta_is_remembered(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::open(fixture.as_ref(), "remembers").await;
    assert_eq!(held.checkpoint().await, Checkpoint::default(), "a new pipeline knows nothing");
    let (items, codes) = (held.table(Standard::Items), held.table(Standard::Codes));
    let own = |table: &syncline_core::TableSchema| Lane::Table(table.id.clone());
    let keys: Vec<_> =
        ["1", "2", "3"].iter().map(|id| row_key(fixture.as_ref(), &items, &cells(&[id]))).collect();
    let mark = |table: &syncline_core::TableSchema, phase| Change::Mark {
        table: table.id.clone(),
        phase,
        generation: 1,
    };
    for table in [Standard::Items, Standard::Codes] {
        ok(held.session.prepare(&held.table(table), None).await);
    }
    held.note(vec![
        Change::Origin("system 1".into()),
        Change::Open { lane: Lane::Main, at: at(5) },
        Change::Open { lane: own(&items), at: at(5) },
        Change::Open { lane: own(&codes), at: at(6) },
        mark(&items, TablePhase::Snapshot),
        mark(&codes, TablePhase::Snapshot),
        chunk_entered(&codes, 1, 0),
        parts(&codes, &["x"]),
    ])
    .await;
    let reread = |keys: &[syncline_core::RowKey]| keys.to_vec();
    held.note(vec![
        Change::Origin("system 2 'quoted'".into()),
        Change::Advance { lane: Lane::Main, from: at(5), to: at(u64::MAX) },
        Change::Advance { lane: own(&items), from: at(5), to: at(5) },
        Change::AddReread { table: items.id.clone(), keys: reread(&keys) },
        Change::RemoveReread { table: items.id.clone(), keys: reread(&keys[1..2]) },
        Change::AddReread { table: items.id.clone(), keys: reread(&keys[..1]) },
        chunk_entered(&items, 1, 4),
        chunk_entered(&items, 1, 2),
        parts(&items, &["y 'quoted'"]),
        mark(&items, TablePhase::Closing),
        Change::Close { lane: own(&codes), at: at(6) },
        mark(&codes, TablePhase::Consistent),
    ])
    .await;
    let expected = remembered(&items.id, &codes.id, &keys);
    assert_eq!(held.checkpoint().await, expected);
    let held = held.reopened().await;
    assert_eq!(held.checkpoint().await, expected, "in the next process too");
    held.note(vec![Change::Reset { table: items.id.clone(), generation: 2 }]).await;
    assert_eq!(
        held.checkpoint().await.tables[&items.id].parts,
        parts_of(&[]),
        "a new ledger covers the whole table"
    );
    Outcome::Passed
}

/// What is to come back.
fn remembered(items: &TableId, codes: &TableId, keys: &[syncline_core::RowKey]) -> Checkpoint {
    let entry = |n: u32| ChunkEntry { range: format!("range {n}"), mark: format!("mark {n}"), rows: 0 };
    Checkpoint {
        lanes: BTreeMap::from([(Lane::Main, at(u64::MAX)), (Lane::Table(items.clone()), at(5))]),
        tables: BTreeMap::from([
            (
                items.clone(),
                TableState {
                    phase: TablePhase::Closing,
                    generation: 1,
                    chunks: BTreeMap::from([(2, entry(2)), (4, entry(4))]),
                    rereads: BTreeSet::from([keys[0].clone(), keys[2].clone()]),
                    parts: parts_of(&["y 'quoted'"]),
                },
            ),
            (
                codes.clone(),
                TableState {
                    phase: TablePhase::Consistent,
                    generation: 1,
                    // Consistent: nothing is cut by the ledger any more.
                    chunks: BTreeMap::new(),
                    rereads: BTreeSet::new(),
                    // Nor by what joined it.
                    parts: parts_of(&[]),
                },
            ),
        ]),
        origin: Some("system 2 'quoted'".into()),
        letters: BTreeMap::new(),
    }
}

/// Two parts that are known, and those that join.
fn parts_of(joining: &[&str]) -> Parts {
    let known = ["x", "y 'quoted'"].map(|part| (part.to_owned(), format!("{part} \"shown\"")));
    Parts { known: BTreeMap::from(known), joining: joining.iter().map(|&part| part.to_owned()).collect() }
}

fn parts(table: &syncline_core::TableSchema, joining: &[&str]) -> Change {
    Change::Parts { table: table.id.clone(), parts: parts_of(joining) }
}

/// A lane moves on without data (progress), and its own old position does not fit twice.
pub async fn a_load_may_be_only_a_delta(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "progress").await;
    for from in BEGINNING..BEGINNING + 3 {
        let durable = ok(held.move_main_from(from, Vec::new()).await);
        assert_eq!(durable, syncline_core::Durable::default());
    }
    assert_eq!(held.checkpoint().await.lanes[&Lane::Main], at(BEGINNING + 3));
    let again = held.move_main_from(BEGINNING, Vec::new()).await;
    assert_eq!(refused("a position that is passed", again), ErrorKind::Conflict);
    Outcome::Passed
}
