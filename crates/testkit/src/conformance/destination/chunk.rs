//! Cases: chunks and their ledger.

use bytes::Bytes;
use syncline_core::{Bulk, Change, Delta, ErrorKind, FinishStep, LoadIdentity, LoadKind, Part, TablePhase};

use crate::conformance::patiently;
use crate::conformance::report::Outcome;
use crate::conformance::tables::{Row, Standard, cells};

use super::DestinationHarness;
use super::build::rows;
use super::support::{Held, chunk_entered, ok, refused, truth};

fn items(ids: std::ops::Range<u64>) -> Vec<Row> {
    ids.map(|id| cells(&[&id.to_string(), &format!("name {id}"), &(id * 3).to_string(), "∅"])).collect()
}

/// A chunk's rows and its ledger entry are there together, and the entry says how many rows it had.
pub async fn a_chunk_is_in_the_ledger(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "ledger").await;
    held.own(Standard::Items, None).await;
    let durable = ok(held.chunk(Standard::Items, 3, &items(0..25)).await);
    assert_eq!((durable.counts.applied, durable.counts.unchanged, durable.counts.rereads), (25, 0, 0));
    held.assert_holds(Standard::Items, &items(0..25)).await;
    let held = held.reopened().await;
    let checkpoint = held.checkpoint().await;
    let state = &checkpoint.tables[&held.table(Standard::Items).id];
    assert_eq!((state.phase, state.generation), (TablePhase::Snapshot, 1));
    let entry = &state.chunks[&3];
    assert_eq!((entry.range.as_str(), entry.mark.as_str(), entry.rows), ("range 3", "mark 3", 25));
    assert_eq!(state.chunks.len(), 1);
    Outcome::Passed
}

/// Chunks of one table and of several load at the same time.
pub async fn chunks_load_in_parallel(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "parallel").await;
    held.own(Standard::Items, None).await;
    held.own(Standard::Codes, None).await;
    let code = |id: u64| cells(&[&id.to_string(), &format!("c{id}")]);
    let loads = (0..6).map(|n| {
        let held = &held;
        async move {
            let first = u64::from(n) * 100;
            ok(held.chunk(Standard::Items, n, &items(first..first + 100)).await);
            ok(held.chunk(Standard::Codes, n, &(first..first + 50).map(code).collect::<Vec<_>>()).await);
        }
    });
    patiently("parallel chunks", futures::future::join_all(loads)).await;
    let checkpoint = held.checkpoint().await;
    for table in [Standard::Items, Standard::Codes] {
        assert_eq!(checkpoint.tables[&held.table(table).id].chunks.len(), 6, "{}", table.name());
        held.finish(table).await;
    }
    held.assert_holds(Standard::Items, &items(0..600)).await;
    assert_eq!(truth(fixture.as_ref(), Standard::Codes).await.len(), 300);
    Outcome::Passed
}

/// A chunk that is in the ledger, or of another generation, is refused, and its rows with it.
pub async fn a_chunk_loads_once(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "once").await;
    held.own(Standard::Items, None).await;
    ok(held.chunk(Standard::Items, 0, &items(0..10)).await);
    let before = held.checkpoint().await;
    let again = held.chunk(Standard::Items, 0, &items(100..110)).await;
    assert_eq!(refused("a chunk that is loaded", again), ErrorKind::Conflict);
    let table = held.table(Standard::Items);
    let kind = LoadKind::Chunk { table: table.id.clone(), generation: 2, n: 1 };
    let parts = vec![rows(fixture.as_ref(), &table, &items(200..210))];
    let other = held.load(kind, parts, Delta::of(vec![chunk_entered(&table, 2, 1)])).await;
    assert_eq!(refused("a chunk of another generation", other), ErrorKind::Conflict);
    held.assert_holds(Standard::Items, &items(0..10)).await;
    assert_eq!(held.checkpoint().await, before);
    Outcome::Passed
}

/// Nothing of a load of many parts is seen before its commit, and all of it after.
pub async fn many_parts_are_one_commit(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "parts").await;
    held.own(Standard::Items, None).await;
    let table = held.table(Standard::Items);
    let identity = identity_of(&held, LoadKind::Chunk { table: table.id.clone(), generation: 1, n: 0 });
    let mut load = ok(patiently("begin", held.session.begin(&identity)).await);
    for part in 0..120 {
        let first = part * 50;
        let part = rows(fixture.as_ref(), &table, &items(first..first + 50));
        ok(patiently("write", load.write(part)).await);
    }
    held.assert_holds(Standard::Items, &[]).await;
    let delta = Delta::of(vec![chunk_entered(&table, 1, 0)]);
    let durable = ok(patiently("commit", load.commit(&delta)).await);
    assert_eq!(durable.counts.applied, 6000);
    held.assert_holds(Standard::Items, &items(0..6000)).await;
    assert_eq!(held.checkpoint().await.tables[&table.id].chunks[&0].rows, 6000);
    Outcome::Passed
}

/// A load that is dropped is rolled back, and the same load may be tried again.
pub async fn a_dropped_load_leaves_nothing(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "drops").await;
    held.own(Standard::Items, None).await;
    let before = held.checkpoint().await;
    let table = held.table(Standard::Items);
    let identity = identity_of(&held, LoadKind::Chunk { table: table.id.clone(), generation: 1, n: 0 });
    for _ in 0..3 {
        let mut load = ok(patiently("begin", held.session.begin(&identity)).await);
        ok(patiently("write", load.write(rows(fixture.as_ref(), &table, &items(0..100)))).await);
        drop(load);
    }
    held.assert_holds(Standard::Items, &[]).await;
    assert_eq!(held.checkpoint().await, before);
    ok(held.chunk(Standard::Items, 0, &items(0..100)).await);
    held.assert_holds(Standard::Items, &items(0..100)).await;
    Outcome::Passed
}

/// One commit empties a table, resets its ledger and raises its generation; the new chunks then fit.
pub async fn a_snapshot_begins_anew(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "anew").await;
    held.own(Standard::Items, None).await;
    ok(held.chunk(Standard::Items, 0, &items(0..10)).await);
    let table = held.table(Standard::Items);
    let reset = Delta::of(vec![Change::Reset { table: table.id.clone(), generation: 2 }]);
    ok(held.load(LoadKind::Bookkeeping, vec![Part::Empty(table.clone())], reset).await);
    held.assert_holds(Standard::Items, &[]).await;
    let state = held.checkpoint().await.tables[&table.id].clone();
    assert_eq!((state.generation, state.chunks.len()), (2, 0));
    assert_eq!(
        refused("an old chunk", held.chunk(Standard::Items, 1, &items(0..5)).await),
        ErrorKind::Conflict
    );
    let kind = LoadKind::Chunk { table: table.id.clone(), generation: 2, n: 0 };
    let parts = vec![rows(fixture.as_ref(), &table, &items(5..15))];
    ok(held.load(kind, parts, Delta::of(vec![chunk_entered(&table, 2, 0)])).await);
    ok(patiently("the key", held.session.finish(&table, FinishStep::Key)).await);
    held.assert_holds(Standard::Items, &items(5..15)).await;
    Outcome::Passed
}

/// Empty texts, nulls, long and strange texts, and the ends of the integers arrive as they are; equal rows without a key
/// all arrive.
pub async fn values_arrive_as_they_are(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "values").await;
    let odd = [
        cells(&["0", "", "0", ""]),
        cells(&["-2147483648", "null", "-1", "∅"]),
        cells(&["2147483647", "'quoted' \"twice\" \\ and \\n", "2147483647", "tab\tand\nline"]),
        cells(&["7", "žluťoučký 漢字 🦀 e\u{301}", "∅", &"0123456789abcdef".repeat(4000)]),
    ];
    held.own(Standard::Items, None).await;
    ok(held.chunk(Standard::Items, 0, &odd).await);
    held.assert_holds(Standard::Items, &odd).await;
    let equal = [cells(&["a", "1"]), cells(&["a", "1"]), cells(&["∅", "∅"]), cells(&["∅", "∅"])];
    held.own(Standard::Log, None).await;
    ok(held.chunk(Standard::Log, 0, &equal).await);
    held.assert_holds(Standard::Log, &equal).await;
    Outcome::Passed
}

/// A bulk stream may be cut anywhere, also inside a value.
pub async fn pieces_of_bulk_are_one_stream(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let table = fixture.table(Standard::Items);
    let mut content = items(0..200);
    content.push(cells(&["500", "", "∅", &"long".repeat(5000)]));
    let Some((form, stream)) = fixture.bulk(&table, &content) else {
        return Outcome::NotOffered("the family has no bulk form");
    };
    let held = Held::begin(fixture.as_ref(), "bulk").await;
    held.own(Standard::Items, None).await;
    let piece = |bytes: &[u8]| {
        let bulk = Bulk { family: held.family(), form, bytes: Bytes::copy_from_slice(bytes) };
        Part::Bulk { table: table.clone(), bulk }
    };
    for (n, size) in [7, 1000, stream.len()].into_iter().enumerate() {
        let n = u32::try_from(n).unwrap_or_default();
        let kind = LoadKind::Chunk { table: table.id.clone(), generation: n + 1, n };
        let parts = stream.chunks(size).map(piece).collect();
        let delta = Delta::of(vec![chunk_entered(&table, n + 1, n)]);
        assert_eq!(ok(held.load(kind, parts, delta).await).counts.applied, content.len() as u64);
        held.assert_holds(Standard::Items, &content).await;
        let reset = Delta::of(vec![Change::Reset { table: table.id.clone(), generation: n + 2 }]);
        ok(held.load(LoadKind::Bookkeeping, vec![Part::Empty(table.clone())], reset).await);
    }
    Outcome::Passed
}

fn identity_of(held: &Held<'_>, kind: LoadKind) -> LoadIdentity {
    LoadIdentity { pipeline: held.name.clone(), lane: syncline_core::Lane::Main, kind }
}
