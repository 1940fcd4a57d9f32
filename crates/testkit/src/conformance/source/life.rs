//! Cases: what a pipeline makes at its source, finds again, and leaves.

use std::time::Duration;

use crate::conformance::patiently;
use crate::conformance::replica::Replica;
use crate::conformance::report::Outcome;
use crate::conformance::tables::{Standard, Write, cells};
use crate::conformance::workload::Workload;

use super::SourceHarness;
use super::support::{Pipeline, assert_rows, ok, truth};

/// Opening again finds what is there, and changes nothing.
pub async fn opening_is_idempotent(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "opens", &[Standard::Items]).await;
    let first = pipeline.open().await;
    assert!(first.created, "the first call makes it");
    let end = pipeline.end().await;
    assert!(first.confirmed <= end, "what is confirmed is in the log");
    fixture.write(&[Write::Insert(Standard::Items, cells(&["1", "a", "1", "∅"]))]).await;
    let second = pipeline.restarted(fixture.as_ref()).open().await;
    assert!(!second.created, "the second call finds it");
    assert_eq!((&second.confirmed, &second.identity), (&first.confirmed, &first.identity));
    assert!(pipeline.end().await >= end);
    Outcome::Passed
}

/// No chunk may be read while a transaction is open that ran when the origin was made.
pub async fn settled_waits_for_open_transactions(harness: &dyn SourceHarness) -> Outcome {
    if !harness.offers().open_transactions {
        return Outcome::NotOffered("the system has one writer at a time");
    }
    let fixture = harness.fixture().await;
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "settles", &[Standard::Items]).await;
    let open = fixture.write_open(&[Write::Insert(Standard::Items, cells(&["1", "a", "1", "∅"]))]).await;
    let opening = pipeline.streams().open(&pipeline.request);
    // Making a slot waits by itself in some systems: then there is nothing to settle afterwards.
    let origin = match tokio::time::timeout(Duration::from_secs(3), opening).await {
        Ok(origin) => {
            let origin = ok(origin);
            let waiting = ok(pipeline.streams().settled(&origin).await);
            assert!(waiting.is_some(), "a transaction that ran then is still open");
            open.commit().await;
            origin
        }
        Err(_) => {
            open.commit().await;
            pipeline.origin().await
        }
    };
    patiently("settling", async {
        while ok(pipeline.streams().settled(&origin).await).is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    Outcome::Passed
}

/// A table that joins later has its changes from then on; those of the others go on without a break.
pub async fn a_table_may_be_added(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let both = [Standard::Items, Standard::Codes];
    let first = Pipeline::new(harness, fixture.as_ref(), "adds", &[Standard::Items]).await;
    let origin = first.open().await;
    let mut workload = Workload::new(41, &[Standard::Items]);
    for _ in 0..5 {
        fixture.write(&workload.transaction()).await;
    }
    let second = Pipeline::new(harness, fixture.as_ref(), "adds", &both).await;
    let added = second.open().await;
    assert!(!added.created, "the log of the pipeline goes on");
    assert_eq!(added.confirmed, origin.confirmed);
    let mut workload_of_both = Workload::new(42, &[Standard::Codes]);
    for _ in 0..5 {
        fixture.write(&workload.transaction()).await;
        fixture.write(&workload_of_both.transaction()).await;
    }
    let mut replica = Replica::new(fixture.as_ref(), harness.offers());
    for entry in second.entries(&origin.confirmed).await {
        replica.apply(&entry);
    }
    for table in both {
        assert_rows(table.name(), &replica.tables.rows(table), &truth(fixture.as_ref(), table).await);
    }
    Outcome::Passed
}

/// Each pipeline has its own log: dropping or acknowledging one is nothing to the other.
pub async fn pipelines_do_not_disturb_each_other(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let tables = [Standard::Items];
    let one = Pipeline::new(harness, fixture.as_ref(), "one", &tables).await;
    let other = Pipeline::new(harness, fixture.as_ref(), "other", &tables).await;
    one.open().await;
    let origin = other.open().await;
    let mut workload = Workload::new(43, &tables);
    for _ in 0..5 {
        fixture.write(&workload.transaction()).await;
    }
    ok(patiently("drop", one.streams().drop_pipeline(&one.request.pipeline)).await);
    for _ in 0..5 {
        fixture.write(&workload.transaction()).await;
    }
    let mut replica = Replica::new(fixture.as_ref(), harness.offers());
    for entry in other.entries(&origin.confirmed).await {
        replica.apply(&entry);
    }
    let items = Standard::Items;
    assert_rows("items", &replica.tables.rows(items), &truth(fixture.as_ref(), items).await);
    Outcome::Passed
}

/// What stays at the source is said, and dropping takes all of it, also twice.
pub async fn dropping_leaves_nothing(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let pipeline = Pipeline::new(harness, fixture.as_ref(), "drops", &[Standard::Items]).await;
    let name = &pipeline.request.pipeline;
    let streams = pipeline.streams();
    assert!(ok(streams.retained(name).await).is_none(), "nothing is there before");
    pipeline.open().await;
    fixture.write(&[Write::Insert(Standard::Items, cells(&["1", "a", "1", "∅"]))]).await;
    let retained = ok(streams.retained(name).await);
    assert!(retained.is_some_and(|r| !r.drop_statement.is_empty()), "what stays is said, and how to drop it");
    for _ in 0..2 {
        ok(patiently("drop", streams.drop_pipeline(name)).await);
        assert!(ok(streams.retained(name).await).is_none(), "nothing stays");
        assert_eq!(fixture.leftovers().await, Vec::<String>::new());
    }
    assert!(pipeline.open().await.created, "opened again, it is made anew");
    Outcome::Passed
}
