//! Cases: reading changes.

use std::time::Duration;

use syncline_core::{Entry, ErrorKind, Position};

use crate::conformance::replica::Replica;
use crate::conformance::report::Outcome;
use crate::conformance::tables::{Standard, Write, cells};
use crate::conformance::workload::Workload;
use crate::conformance::{PATIENCE, patiently};
use crate::memory::Random;

use super::support::{Pipeline, assert_rows, check_link, entry, offered, ok, read_to, truth};
use super::{SourceFixture, SourceHarness};

const TRANSACTIONS: usize = 60;

/// Ranges follow each other, and after each whole entry a reader has a state that the source had at a commit.
pub async fn ranges_are_a_chain_of_states(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let tables = offered(harness);
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "chain", &tables).await;
    let origin = pipeline.open().await;
    let mut workload = Workload::new(11, &tables).keeping_states();
    write(fixture.as_ref(), &mut workload, TRANSACTIONS).await;
    let mut replica = Replica::new(fixture.as_ref(), harness.offers());
    let mut state = 0;
    for entry in pipeline.entries(&origin.confirmed).await {
        replica.apply(&entry);
        if entry.is_piece() {
            continue;
        }
        let digest = replica.tables.digest();
        let found = workload.states()[state..].iter().position(|known| *known == digest);
        state += found.unwrap_or_else(|| panic!("after {} there is a state that never was", entry.to));
    }
    assert!(replica.rereads.is_empty(), "without a snapshot every row is complete");
    check_all(fixture.as_ref(), &replica, &tables).await;
    Outcome::Passed
}

/// From the end of any entry a restarted process gets exactly what follows it.
pub async fn any_position_resumes(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let tables = offered(harness);
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "resumes", &tables).await;
    let origin = pipeline.open().await;
    let mut workload = Workload::new(12, &tables);
    // Small steps, so that there are several entries.
    let mut all = Vec::new();
    let mut stream = pipeline.stream(&origin.confirmed, None).await;
    let mut at = origin.confirmed.clone();
    for _ in 0..6 {
        write(fixture.as_ref(), &mut workload, 5).await;
        let target = pipeline.end().await;
        let entries = read_to(stream.as_mut(), &at, &target).await;
        at = entries.last().map_or(at, |entry| entry.to.clone());
        all.extend(entries);
    }
    drop(stream);
    let mut before = Replica::new(fixture.as_ref(), harness.offers());
    let whole: Vec<usize> = (0..all.len()).filter(|&n| !all[n].is_piece()).collect();
    for (n, entry) in all.iter().enumerate() {
        before.apply(entry);
        let chosen = whole.len() < 8 || whole.iter().position(|&w| w == n).is_some_and(|w| w % 3 == 0);
        if entry.is_piece() || !chosen {
            continue;
        }
        let restarted = pipeline.restarted(fixture.as_ref());
        restarted.open().await;
        let mut after = Replica::of(fixture.as_ref(), harness.offers(), before.tables.clone());
        for entry in restarted.entries(&entry.to).await {
            after.apply(&entry);
        }
        check_all(fixture.as_ref(), &after, &tables).await;
    }
    Outcome::Passed
}

/// What was received and not acknowledged comes again, the same.
pub async fn what_is_not_acknowledged_comes_again(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let tables = offered(harness);
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "again", &tables).await;
    let origin = pipeline.open().await;
    let mut workload = Workload::new(13, &tables);
    for _ in 0..3 {
        write(fixture.as_ref(), &mut workload, 8).await;
        let restarted = pipeline.restarted(fixture.as_ref());
        let reopened = restarted.open().await;
        assert_eq!(reopened.confirmed, origin.confirmed, "nobody acknowledged anything");
        let mut replica = Replica::new(fixture.as_ref(), harness.offers());
        for entry in restarted.entries(&origin.confirmed).await {
            replica.apply(&entry);
        }
        check_all(fixture.as_ref(), &replica, &tables).await;
    }
    Outcome::Passed
}

/// After an acknowledgement the source has forgotten that much (reading from before it is a conflict, never a silent gap),
/// and everything after it comes.
pub async fn what_is_acknowledged_is_gone_and_nothing_else(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let tables = offered(harness);
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "acks", &tables).await;
    let origin = pipeline.open().await;
    let mut workload = Workload::new(14, &tables);
    write(fixture.as_ref(), &mut workload, 10).await;
    let target = pipeline.end().await;
    let mut stream = pipeline.stream(&origin.confirmed, Some(&target)).await;
    let entries = read_to(stream.as_mut(), &origin.confirmed, &target).await;
    let mut replica = Replica::new(fixture.as_ref(), harness.offers());
    for entry in &entries {
        replica.apply(entry);
    }
    let durable = entries.last().map_or(origin.confirmed.clone(), |entry| entry.to.clone());
    stream.acknowledge(&durable);
    write(fixture.as_ref(), &mut workload, 10).await;
    wait_confirmed(&pipeline, stream, &durable).await;

    let restarted = pipeline.restarted(fixture.as_ref());
    restarted.open().await;
    for entry in restarted.entries(&durable).await {
        replica.apply(&entry);
    }
    check_all(fixture.as_ref(), &replica, &tables).await;
    let gone = restarted.streams().stream(&restarted.request, &origin.confirmed, None).await;
    let kind = gone.err().map(|error| error.kind());
    assert_eq!(kind, Some(ErrorKind::Conflict), "reading from before what is acknowledged");
    Outcome::Passed
}

/// Waits until the source says that it has taken an acknowledgement; the stream reads on meanwhile, as the engine's does.
async fn wait_confirmed(
    pipeline: &Pipeline,
    mut stream: Box<dyn syncline_core::ChangeStream>,
    durable: &Position,
) {
    patiently("an acknowledgement", async {
        loop {
            let _ = tokio::time::timeout(Duration::from_millis(200), stream.next()).await;
            let origin = ok(pipeline.streams().open(&pipeline.request).await);
            assert!(!origin.created, "the slot is there");
            assert!(origin.confirmed <= *durable, "more is forgotten than was acknowledged");
            if origin.confirmed == *durable {
                return;
            }
        }
    })
    .await;
}

/// A transaction of many rows comes whole, in order, in pieces only if the last one closes it.
pub async fn a_large_transaction_is_whole(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "large", &[Standard::Items]).await;
    let origin = pipeline.open().await;
    let rows: u64 = 6000;
    let row = |id: u64| Write::Insert(Standard::Items, cells(&[&id.to_string(), "n", "1", &"x".repeat(600)]));
    fixture.write(&(0..rows).map(row).collect::<Vec<_>>()).await;
    fixture.write(&[Write::Delete(Standard::Items, cells(&["3"]))]).await;
    let entries = pipeline.entries(&origin.confirmed).await;
    let mut replica = Replica::new(fixture.as_ref(), harness.offers());
    let mut open = 0;
    for entry in &entries {
        replica.apply(entry);
        open += u64::try_from(entry.changes()).unwrap_or(u64::MAX);
        if !entry.is_piece() {
            assert!([0, 1, rows, rows + 1].contains(&open), "{open} changes between two commits");
            open = 0;
        }
        assert!(entry.bytes() < 16 << 20, "an entry of {} bytes", entry.bytes());
    }
    check_all(fixture.as_ref(), &replica, &[Standard::Items]).await;
    Outcome::Passed
}

/// A truncate is a change of its own, in its place.
pub async fn truncates_are_told(harness: &dyn SourceHarness) -> Outcome {
    if !harness.offers().truncate {
        return Outcome::NotOffered("the system has no truncate that it tells apart");
    }
    let fixture = harness.fixture().await;
    let tables = [Standard::Items, Standard::Codes];
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "truncates", &tables).await;
    let origin = pipeline.open().await;
    let mut workload = Workload::new(15, &tables);
    write(fixture.as_ref(), &mut workload, 20).await;
    let item = |id: &str| Write::Insert(Standard::Items, cells(&[id, "n", "1", "∅"]));
    fixture.write(&[item("900"), Write::Truncate(Standard::Items), item("901"), item("900")]).await;
    fixture.write(&[Write::Truncate(Standard::Codes)]).await;
    let mut replica = Replica::new(fixture.as_ref(), harness.offers());
    for entry in pipeline.entries(&origin.confirmed).await {
        replica.apply(&entry);
    }
    assert_eq!(replica.tables.rows(Standard::Items).len(), 2);
    check_all(fixture.as_ref(), &replica, &tables).await;
    Outcome::Passed
}

/// With a target the stream reaches it although nobody writes.
pub async fn an_idle_source_reaches_its_target(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "idle", &[Standard::Items]).await;
    let origin = pipeline.open().await;
    let entries = pipeline.entries(&origin.confirmed).await;
    assert!(entries.iter().all(|entry| entry.changes() == 0), "nobody wrote");
    let at = entries.last().map_or(origin.confirmed, |entry| entry.to.clone());
    let again = pipeline.restarted(fixture.as_ref());
    again.open().await;
    let from_there = again.entries(&at).await;
    assert!(from_there.iter().all(|entry| entry.changes() == 0), "nobody wrote");
    Outcome::Passed
}

/// Writes to tables that are not in the pipeline move the stream on and show nothing.
pub async fn writes_to_other_tables_are_progress(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "others", &[Standard::Items]).await;
    let origin = pipeline.open().await;
    let mut others = Workload::new(16, &[Standard::Pairs, Standard::Codes]);
    write(fixture.as_ref(), &mut others, 30).await;
    let entries = pipeline.entries(&origin.confirmed).await;
    assert!(
        entries.iter().all(|entry| entry.changes() == 0),
        "a change of a table that is not in the pipeline"
    );
    Outcome::Passed
}

/// Dropping a call of `next` at any moment loses nothing and doubles nothing.
pub async fn next_may_be_dropped(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let tables = offered(harness);
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "dropped", &tables).await;
    let origin = pipeline.open().await;
    let mut stream = pipeline.stream(&origin.confirmed, None).await;
    let mut workload = Workload::new(17, &tables);
    let mut random = Random::new(17);
    let mut entries: Vec<Entry> = Vec::new();
    let mut at = origin.confirmed.clone();
    for _ in 0..TRANSACTIONS {
        let writes = workload.transaction();
        let patience = Duration::from_micros(random.below(3000));
        let (event, ()) = tokio::join!(tokio::time::timeout(patience, stream.next()), fixture.write(&writes));
        if let Ok(event) = event {
            at = take(&mut entries, &at, entry(event));
        }
    }
    let target = pipeline.end().await;
    fixture.write(&workload.transaction()).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while at <= target {
        assert!(tokio::time::Instant::now() < deadline, "the stream does not reach its target");
        let patience = Duration::from_micros(500 + random.below(20_000));
        if let Ok(event) = tokio::time::timeout(patience, stream.next()).await {
            at = take(&mut entries, &at, entry(event));
        }
    }
    let last = pipeline.end().await;
    drop(stream);
    if at < last {
        entries.extend(pipeline.entries(&at).await);
    }
    let mut replica = Replica::new(fixture.as_ref(), harness.offers());
    for entry in &entries {
        replica.apply(entry);
    }
    check_all(fixture.as_ref(), &replica, &tables).await;
    Outcome::Passed
}

fn take(entries: &mut Vec<Entry>, at: &Position, entry: Entry) -> Position {
    check_link(at, &entry);
    let to = entry.to.clone();
    entries.push(entry);
    to
}

async fn write(fixture: &dyn SourceFixture, workload: &mut Workload, transactions: usize) {
    for _ in 0..transactions {
        fixture.write(&workload.transaction()).await;
    }
}

async fn check_all(fixture: &dyn SourceFixture, replica: &Replica<'_>, tables: &[Standard]) {
    for &table in tables {
        assert_rows(table.name(), &replica.tables.rows(table), &truth(fixture, table).await);
    }
}
