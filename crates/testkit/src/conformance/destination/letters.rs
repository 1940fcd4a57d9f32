//! Cases: dead letters. They change with the checkpoint, and what is refused leaves the rest of its load alone.

use std::collections::BTreeMap;

use syncline_core::{
    Change, Delta, ErrorKind, Lane, Letter, LetterId, LoadIdentity, LoadKind, PipelineName, TableSchema,
};

use crate::conformance::patiently;
use crate::conformance::report::Outcome;
use crate::conformance::tables::{Standard, cells};

use super::DestinationHarness;
use super::build::{TextChange, changes, row_key, rows};
use super::support::{BEGINNING, Held, at, chunk_entered, ok, refused};

fn letter(held: &Held<'_>, table: &TableSchema, ids: &[&str], reason: &str) -> Letter {
    Letter {
        table: table.id.clone(),
        keys: ids.iter().map(|id| row_key(held.fixture, table, &cells(&[id]))).collect(),
        position: at(7),
        reason: reason.to_owned(),
        code: reason.contains("code").then(|| "23514".to_owned()),
        attempts: 3,
        first_at_ms: 1_700_000_000_000,
        last_at_ms: 1_800_000_000_000,
        change: b"a change \0 with \xff any bytes".to_vec().into(),
    }
}

fn put(id: u64, letter: &Letter) -> Change {
    Change::PutLetter { id: LetterId(id), letter: letter.clone() }
}

/// Letters come back from the checkpoint of the next process as they were written, and are read without the pipeline's lock;
/// those of a table whose ledger begins anew are gone.
pub async fn letters_change_with_the_checkpoint(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::open(fixture.as_ref(), "letters").await;
    let (items, codes) = (held.table(Standard::Items), held.table(Standard::Codes));
    held.own(Standard::Items, None).await;
    held.own(Standard::Codes, None).await;
    let one = letter(&held, &items, &["1", "2"], "refused 'quoted' with a code");
    let two = letter(&held, &codes, &["1"], "refused");
    let three = letter(&held, &items, &["3"], "refused");
    held.note(vec![put(1, &two), put(2, &one), put(u64::from(u32::MAX), &three)]).await;
    let again = Letter { attempts: 4, reason: "once more".to_owned(), code: None, ..one.clone() };
    held.note(vec![put(2, &again), Change::RemoveLetter { id: LetterId(u64::from(u32::MAX)) }]).await;
    let expected = BTreeMap::from([(LetterId(1), two.clone()), (LetterId(2), again.clone())]);
    assert_eq!(held.checkpoint().await.letters, expected);

    let before = held.checkpoint().await;
    let stranger = Letter { table: held.table(Standard::Pairs).id.clone(), ..three.clone() };
    for misfit in [Change::RemoveLetter { id: LetterId(9) }, put(3, &stranger), put(1, &three)] {
        let delta = Delta::of(vec![put(5, &three), misfit.clone()]);
        let result = held.load(LoadKind::Letters, Vec::new(), delta).await;
        assert_eq!(refused(&format!("{misfit:?}"), result), ErrorKind::Conflict, "{misfit:?}");
        assert_eq!(held.checkpoint().await, before, "{misfit:?}");
    }

    let held = held.reopened().await;
    assert_eq!(held.checkpoint().await.letters, expected, "in the next process too");
    let destination = fixture.destination();
    let unlocked = patiently("reading letters", destination.letters(&held.name)).await;
    assert_eq!(ok(unlocked), expected, "while the pipeline is held");
    let other = ok(PipelineName::new("another"));
    assert!(ok(patiently("reading letters", destination.letters(&other)).await).is_empty());
    held.note(vec![Change::Reset { table: items.id.clone(), generation: 2 }]).await;
    assert_eq!(held.checkpoint().await.letters, BTreeMap::from([(LetterId(1), two)]));
    Outcome::Passed
}

/// Refused for its rows, a part leaves the load as it was; what was written before and after it commits, and is counted alone.
pub async fn a_part_that_is_refused_leaves_the_load_as_it_was(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "offers").await;
    let code = |id: &str, code: &str| cells(&[id, code]);
    held.ready(Standard::Codes, &["1", "2", "3"].map(|id| code(id, &format!("c{id}")))).await;
    held.ready(Standard::Items, &[]).await;
    let table = held.table(Standard::Codes);
    let part = |list| changes(held.fixture, &table, list);
    let (from, to) = (at(BEGINNING), at(BEGINNING + 1));
    let identity = LoadIdentity {
        pipeline: held.name.clone(),
        lane: Lane::Main,
        kind: LoadKind::Changes { from: from.clone(), to: to.clone() },
    };
    let mut load = ok(held.session.begin(&identity).await);
    let item = changes(
        held.fixture,
        &held.table(Standard::Items),
        vec![TextChange::insert(cells(&["1", "a", "1", "∅"]))],
    );
    ok(patiently("writing", load.write(item)).await);
    let first = part(vec![TextChange::update(code("1", "new")), TextChange::insert(code("4", "c4"))]);
    assert!(ok(patiently("offering", load.offer(first)).await).is_none());
    // Another row has the value, and keeps it.
    for list in [
        vec![TextChange::insert(code("5", "c5")), TextChange::insert(code("6", "c3"))],
        vec![TextChange::delete(cells(&["2"])), TextChange::update(code("1", "c3"))],
        vec![TextChange::insert(code("7", "c4"))],
    ] {
        let error = ok(patiently("offering", load.offer(part(list))).await);
        let error = error.unwrap_or_else(|| panic!("two rows with one unique value were taken"));
        assert_eq!((error.kind(), error.table()), (ErrorKind::Data, Some(&table.id)), "{error}");
        assert!(error.rows_at_fault(), "{error}");
    }
    let last = part(vec![TextChange::delete(cells(&["2"])), TextChange::insert(code("8", "c2"))]);
    assert!(ok(patiently("offering", load.offer(last)).await).is_none());
    let advance = Change::Advance { lane: Lane::Main, from, to };
    let refused = letter(&held, &table, &["6"], "refused");
    let delta = Delta { changes: vec![advance, put(1, &refused)], reread_missing: true };
    let durable = ok(patiently("committing", load.commit(&delta)).await);
    assert_eq!((durable.counts.applied, durable.counts.unchanged), (5, 0));
    let expected = [("1", "new"), ("3", "c3"), ("4", "c4"), ("8", "c2")].map(|(id, c)| code(id, c));
    held.assert_holds(Standard::Codes, &expected).await;
    held.assert_holds(Standard::Items, &[cells(&["1", "a", "1", "∅"])]).await;
    assert_eq!(held.checkpoint().await.letters, BTreeMap::from([(LetterId(1), refused)]));
    Outcome::Passed
}

/// As above with parts so large that they go another way than small ones.
pub async fn a_large_part_that_is_refused_leaves_the_load_as_it_was(
    harness: &dyn DestinationHarness,
) -> Outcome {
    const ROWS: usize = 3000;
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "large_offers").await;
    let code = |id: usize, code: &str| cells(&[&id.to_string(), code]);
    held.ready(Standard::Codes, &[code(1, "taken"), code(2, "c2")]).await;
    let table = held.table(Standard::Codes);
    let inserts = |last: &str| -> Vec<TextChange> {
        let last = code(10 + ROWS, last);
        let rows = (0..ROWS).map(|n| code(10 + n, &format!("n{n}"))).chain([last]);
        rows.map(TextChange::insert).chain([TextChange::update(code(2, "other"))]).collect()
    };
    let (from, to) = (at(BEGINNING), at(BEGINNING + 1));
    let identity = LoadIdentity {
        pipeline: held.name.clone(),
        lane: Lane::Main,
        kind: LoadKind::Changes { from: from.clone(), to: to.clone() },
    };
    let mut load = ok(held.session.begin(&identity).await);
    for _ in 0..2 {
        let part = changes(held.fixture, &table, inserts("taken"));
        let error = ok(patiently("offering", load.offer(part)).await);
        assert!(error.is_some_and(|error| error.rows_at_fault()));
    }
    let part = changes(held.fixture, &table, inserts("free"));
    assert!(ok(patiently("offering", load.offer(part)).await).is_none());
    let delta = Delta::of(vec![Change::Advance { lane: Lane::Main, from, to }]);
    let durable = ok(patiently("committing", load.commit(&delta)).await);
    assert_eq!(durable.counts.applied, ROWS as u64 + 2);
    assert_eq!(super::support::truth(held.fixture, Standard::Codes).await.len(), ROWS + 3);
    Outcome::Passed
}

/// Rows of a chunk are offered as changes are: what is refused leaves the chunk as it was, and what is taken is counted alone.
pub async fn rows_of_a_chunk_that_are_refused_leave_it_as_it_was(
    harness: &dyn DestinationHarness,
) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "chunk_offers").await;
    let code = |id: &str, code: &str| cells(&[id, code]);
    held.ready(Standard::Codes, &[code("1", "taken")]).await;
    let table = held.table(Standard::Codes);
    let kind = LoadKind::Chunk { table: table.id.clone(), generation: 1, n: 7 };
    let identity = LoadIdentity { pipeline: held.name.clone(), lane: Lane::Main, kind };
    let mut load = ok(held.session.begin(&identity).await);
    for (list, taken) in [
        (vec![code("2", "a"), code("3", "b")], true),
        (vec![code("4", "c"), code("5", "taken"), code("6", "d")], false),
        (vec![code("4", "c")], true),
        (vec![code("5", "taken")], false),
        (vec![code("6", "d")], true),
    ] {
        let refused = ok(patiently("offering", load.offer(rows(held.fixture, &table, &list))).await);
        assert_eq!(refused.is_none(), taken, "{list:?}: {refused:?}");
        if let Some(error) = refused {
            assert!(error.rows_at_fault() && error.table() == Some(&table.id), "{error}");
        }
    }
    let refused = letter(&held, &table, &["5"], "refused");
    let entered = chunk_entered(&table, 1, 7);
    let durable = ok(patiently("committing", load.commit(&Delta::of(vec![entered, put(1, &refused)]))).await);
    assert_eq!(durable.counts.applied, 4);
    let expected =
        [("1", "taken"), ("2", "a"), ("3", "b"), ("4", "c"), ("6", "d")].map(|(id, c)| code(id, c));
    held.assert_holds(Standard::Codes, &expected).await;
    let checkpoint = held.checkpoint().await;
    assert_eq!(checkpoint.letters, BTreeMap::from([(LetterId(1), refused)]));
    assert_eq!(checkpoint.tables[&table.id].chunks[&7].rows, 4);
    Outcome::Passed
}
