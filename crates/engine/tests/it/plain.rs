//! Runs without faults: everything arrives, and the numbers add up.

use std::sync::Arc;

use syncline_core::{ErrorKind, PipelineName};
use syncline_engine::{Control, Mode};
use syncline_testkit::memory::{MemoryDestination, MemorySource, Random, assert_equal, assert_history, text};

use crate::support::{Shop, key, pipeline, run, run_with};

#[tokio::test]
async fn a_snapshot_then_a_stream_make_both_sides_equal() {
    let (shop, dir) = (Shop::new(), tempfile::tempdir().unwrap());
    shop.fill(500);
    let destination = MemoryDestination::new().checked_against(&shop.database);
    let summary = run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await.unwrap();
    assert_equal(&shop.database, &destination);
    assert_eq!(summary.tables.iter().map(|t| t.snapshot_rows).sum::<u64>(), 500 + 167 * 2);
    assert!(summary.stopped.is_empty() && summary.retained.is_some());

    let mut random = Random::new(1);
    for _ in 0..300 {
        shop.scribble(&mut random, 600);
    }
    let summary = run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await.unwrap();
    assert_equal(&shop.database, &destination);
    assert_history(&shop.database, &destination);
    assert!(summary.sum.read > 300 && summary.sum.is_complete(), "{:?}", summary.sum);
    assert_eq!(summary.sum.waiting + summary.sum.let_go + summary.sum.skipped, 0, "{:?}", summary.sum);
}

#[tokio::test]
async fn a_snapshot_without_a_stream_leaves_nothing_at_the_source() {
    let (shop, dir) = (Shop::new(), tempfile::tempdir().unwrap());
    shop.fill(300);
    let destination = MemoryDestination::new();
    let mut once = pipeline(MemorySource::new(&shop.database), &destination, dir.path());
    once.mode = Mode::Snapshot;
    let summary = run(once.clone()).await.unwrap();
    assert_equal(&shop.database, &destination);
    assert_eq!(summary.retained, None);
    assert_eq!(shop.database.confirmed(&once.name), None);

    // The same snapshot again needs a decision about the rows that are there.
    let mut again = once.clone();
    let error = run(again.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    shop.database.transaction(|tx| tx.delete(&shop.items, &[key(5)])).unwrap();
    again.prepare = Some(syncline_core::Prepare::Truncate);
    again.source = Arc::new(MemorySource::new(&shop.database));
    run(again).await.unwrap();
    assert_equal(&shop.database, &destination);
}

#[tokio::test]
async fn a_transaction_larger_than_the_journal_is_one_commit() {
    let (shop, dir) = (Shop::new(), tempfile::tempdir().unwrap());
    shop.fill(10);
    let destination = MemoryDestination::new().checked_against(&shop.database);
    let source = || MemorySource::new(&shop.database).with_changes_per_piece(500);
    let mut small = pipeline(source(), &destination, dir.path());
    small.journal_budget_bytes = 4 << 20;
    run(small.clone()).await.unwrap();
    let before = destination.history().len();
    shop.database
        .transaction(|tx| {
            (100..30_100).try_for_each(|n| {
                tx.insert(&shop.items, vec![key(n), text("n"), text("c"), text(&"x".repeat(300))])
            })
        })
        .unwrap();
    small.source = Arc::new(source());
    let summary = run(small).await.unwrap();
    assert_equal(&shop.database, &destination);
    assert_history(&shop.database, &destination);
    assert_eq!(summary.sum.applied, 30_000);
    let grown = destination.history()[before..].iter().filter(|c| c.checkpoint.lanes.len() == 1).count();
    assert!(grown >= 1);
}

#[tokio::test]
async fn a_following_run_drains_when_asked_and_goes_on_later() {
    let (shop, dir) = (Shop::new(), tempfile::tempdir().unwrap());
    shop.fill(200);
    let destination = MemoryDestination::new().checked_against(&shop.database);
    let mut following = pipeline(MemorySource::new(&shop.database), &destination, dir.path());
    following.follow = true;
    let control = Control::new();
    let stopper = control.clone();
    let running = tokio::spawn(run_with(following, control));
    let mut random = Random::new(3);
    for _ in 0..60 {
        shop.scribble(&mut random, 300);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    stopper.drain();
    let summary = running.await.unwrap().unwrap();
    assert!(summary.drained && summary.sum.is_complete(), "{:?}", summary.sum);
    run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await.unwrap();
    assert_equal(&shop.database, &destination);
    assert_history(&shop.database, &destination);
}

#[tokio::test]
async fn a_table_that_has_rows_needs_a_decision_and_nothing_is_left_of_the_refusal() {
    let (shop, dir) = (Shop::new(), tempfile::tempdir().unwrap());
    shop.fill(20);
    let first = MemoryDestination::new();
    run(pipeline(MemorySource::new(&shop.database), &first, dir.path())).await.unwrap();
    let mut other = pipeline(MemorySource::new(&shop.database), &first, &dir.path().join("other"));
    other.name = PipelineName::new("other").unwrap();
    let error = run(other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
}

#[tokio::test]
async fn a_table_added_later_gets_its_own_window() {
    let (shop, dir) = (Shop::new(), tempfile::tempdir().unwrap());
    shop.fill(100);
    let destination = MemoryDestination::new().checked_against(&shop.database);
    run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await.unwrap();
    let definition =
        syncline_testkit::memory::TableDefinition::new("public", "later", &["id", "v"]).key(&["id"]);
    let later = shop.database.create_table(definition);
    shop.database
        .transaction(|tx| (0..50).try_for_each(|n| tx.insert(&later, vec![key(n), text("v")])))
        .unwrap();
    let mut random = Random::new(9);
    (0..50).for_each(|_| shop.scribble(&mut random, 150));
    run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await.unwrap();
    assert_equal(&shop.database, &destination);
    assert_history(&shop.database, &destination);
    assert_eq!(destination.rows(&later).unwrap().len(), 50);
}

/// A run, then something that happens to the source's log: every later run is refused with what to do.
async fn assert_gap_after(happens: impl FnOnce(&Shop, &PipelineName)) -> Shop {
    let (shop, dir) = (Shop::new(), tempfile::tempdir().unwrap());
    shop.fill(30);
    let destination = MemoryDestination::new();
    let first = pipeline(MemorySource::new(&shop.database), &destination, dir.path());
    let name = first.name.clone();
    run(first).await.unwrap();
    happens(&shop, &name);
    shop.database.transaction(|tx| tx.delete(&shop.items, &[key(5)])).unwrap();
    for _ in 0..2 {
        let error =
            run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("syncline drop")), "{error:?}");
    }
    shop
}

#[tokio::test]
async fn a_lost_slot_is_a_gap_and_not_silently_a_new_beginning() {
    let _ = assert_gap_after(|shop, name| shop.database.lose_slot(name)).await;
}

#[tokio::test]
async fn trap_3_a_slot_that_is_there_on_another_timeline_is_a_gap() {
    let mut slot = None;
    let shop = assert_gap_after(|shop, name| {
        shop.database.change_timeline(name);
        slot = Some(name.clone());
    })
    .await;
    assert!(
        shop.database.confirmed(&slot.unwrap()).is_some(),
        "the slot of the other log is not ours to drop"
    );
}

/// Trap 2: a gap stops, also one at the destination's side.
#[tokio::test]
async fn trap_2_a_destination_that_was_set_back_before_what_was_let_go_is_a_gap() {
    let (shop, dir) = (Shop::new(), tempfile::tempdir().unwrap());
    shop.fill(50);
    let destination = MemoryDestination::new();
    let once = || {
        let mut once = pipeline(MemorySource::new(&shop.database), &destination, dir.path());
        once.journal_budget_bytes = 1 << 20;
        once
    };
    let name = once().name;
    run(once()).await.unwrap();
    let early = destination.history().last().cloned().unwrap();
    let write = |n: u64| {
        let row = || vec![key(1_000 + n), text("n"), text(&format!("late {n}")), text(&"x".repeat(20_000))];
        shop.database.transaction(|tx| tx.insert(&shop.items, row())).unwrap();
    };
    // More than the journal keeps.
    (0..200).for_each(write);
    run(once()).await.unwrap();
    assert_equal(&shop.database, &destination);
    let late = destination.history().last().cloned().unwrap();
    write(200);
    run(once()).await.unwrap();

    // What is still in the journal comes again by itself.
    destination.set_back(&name, &late);
    run(once()).await.unwrap();
    assert_equal(&shop.database, &destination);

    destination.set_back(&name, &early);
    let before = destination.snapshot();
    for _ in 0..2 {
        let error = run(once()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert!(error.to_string().contains("set back") && error.remedy().is_some(), "{error:?}");
    }
    let after = destination.snapshot();
    assert!(
        before.iter().zip(&after).all(|(one, other)| Arc::ptr_eq(one.1, other.1)),
        "something was written"
    );
}
