//! Snapshot windows: writes between and inside chunks, in both ways of cutting (traps 5, 5a, 5b, 5c).

use std::sync::{Arc, Mutex};

use syncline_core::TableId;
use syncline_testkit::memory::{
    Cutting, MemoryDestination, MemorySource, Random, ReadMoment, assert_equal, assert_history, text,
};

use crate::support::{Shop, key, pipeline, run};

/// A source whose chunks are read in the middle of writes.
fn busy_source(shop: &Arc<Shop>, cutting: Cutting, seed: u64) -> MemorySource {
    let (shop_again, random) = (Arc::clone(shop), Mutex::new(Random::new(seed)));
    MemorySource::new(&shop.database).with_cutting(cutting).with_rows_per_chunk(20).with_hook(
        move |_, _, _| {
            let mut random = random.lock().unwrap();
            for _ in 0..random.below(6) {
                shop_again.scribble(&mut random, 220);
            }
        },
    )
}

async fn window_of(cutting: Cutting, seed: u64) {
    let (shop, dir) = (Arc::new(Shop::new()), tempfile::tempdir().unwrap());
    shop.fill(200);
    let destination = MemoryDestination::new().checked_against(&shop.database);
    let summary = run(pipeline(busy_source(&shop, cutting, seed), &destination, dir.path())).await.unwrap();
    assert!(summary.sum.is_complete(), "{:?}", summary.sum);
    // What was written after the target was read comes with the next run.
    run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await.unwrap();
    assert_equal(&shop.database, &destination);
    assert_history(&shop.database, &destination);
}

#[tokio::test]
async fn trap_5c_chunks_read_in_different_snapshots_by_key_ranges() {
    for seed in 0..40 {
        window_of(Cutting::KeyRanges, seed).await;
    }
}

#[tokio::test]
async fn trap_5c_chunks_read_in_one_snapshot() {
    for seed in 100..140 {
        window_of(Cutting::OneSnapshot, seed).await;
    }
}

#[tokio::test]
async fn trap_5a_commits_that_are_in_the_log_but_not_visible() {
    let (shop, dir) = (Arc::new(Shop::new()), tempfile::tempdir().unwrap());
    shop.fill(100);
    let (shop_again, random) = (Arc::clone(&shop), Mutex::new(Random::new(5)));
    let source = MemorySource::new(&shop.database).with_rows_per_chunk(10).with_hook(move |moment, _, n| {
        let mut random = random.lock().unwrap();
        match moment {
            ReadMoment::BeforeSnapshot if n % 3 == 0 => shop_again.database.hold_commits(),
            ReadMoment::BeforeSnapshot => {}
            ReadMoment::AfterSnapshot => shop_again.database.show_commits(),
        }
        (0..3).for_each(|_| shop_again.scribble(&mut random, 120));
    });
    let destination = MemoryDestination::new().checked_against(&shop.database);
    run(pipeline(source, &destination, dir.path())).await.unwrap();
    shop.database.show_commits();
    run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await.unwrap();
    assert_equal(&shop.database, &destination);
    assert_history(&shop.database, &destination);
}

#[tokio::test]
async fn trap_5b_a_rewritten_table_starts_over() {
    let (shop, dir) = (Arc::new(Shop::new()), tempfile::tempdir().unwrap());
    shop.fill(200);
    let source = MemorySource::new(&shop.database).with_cutting(Cutting::OneSnapshot).with_rows_per_chunk(20);
    source.rewrite(&shop.items);
    let destination = MemoryDestination::new().checked_against(&shop.database);
    let running = pipeline(source, &destination, dir.path());
    let name = running.name.clone();
    run(running).await.unwrap();
    assert_equal(&shop.database, &destination);
    assert!(destination.checkpoint_of(&name).unwrap().tables[&shop.items].generation > 1);
}

#[tokio::test]
async fn a_truncate_that_part_of_the_snapshot_saw_starts_it_over() {
    let (shop, dir) = (Arc::new(Shop::new()), tempfile::tempdir().unwrap());
    shop.fill(100);
    let (shop_again, once) = (Arc::clone(&shop), Mutex::new(true));
    let source = MemorySource::new(&shop.database).with_rows_per_chunk(10).with_hook(
        move |moment, table: &TableId, n| {
            let mut once = once.lock().unwrap();
            if *once && moment == ReadMoment::BeforeSnapshot && *table == shop_again.items && n >= 4 {
                *once = false;
                shop_again
                    .database
                    .transaction(|tx| {
                        tx.truncate(&shop_again.items)?;
                        tx.insert(&shop_again.items, vec![key(7), text("after"), text("c"), text("b")])
                    })
                    .unwrap();
            }
        },
    );
    let destination = MemoryDestination::new().checked_against(&shop.database);
    run(pipeline(source, &destination, dir.path())).await.unwrap();
    run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await.unwrap();
    assert_equal(&shop.database, &destination);
    assert_history(&shop.database, &destination);
    assert_eq!(destination.rows(&shop.items).unwrap().len(), 1);
}

/// A table written to all the time, and a slow snapshot of it, must not fill the journal: its waiting changes are
/// applied before all its chunks are loaded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_table_gives_the_journal_back_before_its_snapshot_ends() {
    let (shop, dir) = (Arc::new(Shop::new()), tempfile::tempdir().unwrap());
    shop.fill(300);
    let (shop_again, at) = (Arc::clone(&shop), Mutex::new(1000));
    let source = MemorySource::new(&shop.database).with_rows_per_chunk(20).with_hook(
        move |moment, table: &TableId, _| {
            if moment == ReadMoment::AfterSnapshot && *table == shop_again.items {
                let mut at = at.lock().unwrap();
                shop_again
                    .database
                    .transaction(|tx| {
                        (*at..*at + 1500).try_for_each(|n| {
                            tx.insert(
                                &shop_again.items,
                                vec![key(n), text("hot"), text("c"), text(&"y".repeat(1000))],
                            )
                        })
                    })
                    .unwrap();
                *at += 1500;
                drop(at);
                tokio::task::block_in_place(|| std::thread::sleep(std::time::Duration::from_millis(250)));
            }
        },
    );
    let destination = MemoryDestination::new().checked_against(&shop.database);
    let mut small = pipeline(source, &destination, dir.path());
    small.journal_budget_bytes = 8 << 20;
    small.workers = 1;
    let name = small.name.clone();
    run(small).await.unwrap();
    let moved_in_snapshot = destination.history().windows(2).any(|pair| {
        let lane = syncline_core::Lane::Table(shop.items.clone());
        let phase =
            |c: &syncline_testkit::memory::Committed| c.checkpoint.tables.get(&shop.items).map(|t| t.phase);
        phase(&pair[1]) == Some(syncline_core::TablePhase::Snapshot)
            && pair[0]
                .checkpoint
                .lanes
                .get(&lane)
                .is_some_and(|at| pair[1].checkpoint.lanes.get(&lane).is_some_and(|to| to > at))
    });
    assert!(moved_in_snapshot, "the lane of the hot table did not move while its snapshot was read");
    run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await.unwrap();
    assert_equal(&shop.database, &destination);
    assert_history(&shop.database, &destination);
    assert!(destination.checkpoint_of(&name).is_some());
}
