//! Verification under writers, commits that are not visible yet, and rows changed behind everybody's back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use syncline_engine::diff::Guard;
use syncline_engine::diff::sketches::HashKey;
use syncline_engine::{Ask, Pipeline, Sides, TableVerified, Verified, Verify, When};
use syncline_testkit::memory::{MemoryDestination, MemorySource, Random, Row, assert_equal, text};

use crate::support::{Shop, key, pipeline, run};

/// Keys below this are written by the writers, those from here on by nobody.
const QUIET_FROM: u64 = 200;
/// The row that every writer's turn updates.
const HOT: u64 = 255;
/// Rows at the start.
const ROWS: u64 = 260;

/// Lets pass what is at most half of a table.
fn half() -> Guard {
    let mut guard = Guard::default();
    guard.set("all=50%").unwrap();
    guard
}

/// Reads both ends, apart from the pipeline.
pub(crate) fn sides(shop: &Shop, destination: &MemoryDestination) -> Sides {
    Sides {
        source: Arc::new(MemorySource::new(&shop.database).with_rows_per_chunk(20)),
        destination: Arc::new(destination.reader()),
        readers: 2,
        hash_key: HashKey::new([7; 32]),
    }
}

fn verified(shop: &Shop, destination: &MemoryDestination, dir: &std::path::Path, repair: bool) -> Pipeline {
    let mut pipeline = pipeline(MemorySource::new(&shop.database), destination, dir);
    pipeline.verify = Some(Verify {
        when: When::Once,
        ask: Ask { tables: Vec::new(), repair: repair.then(half), samples_max: 1000 },
        asks: Arc::default(),
        sides: sides(shop, destination),
    });
    pipeline
}

async fn verify(
    shop: &Shop,
    destination: &MemoryDestination,
    dir: &std::path::Path,
    repair: bool,
) -> Verified {
    run(verified(shop, destination, dir, repair)).await.unwrap().verified.unwrap()
}

/// Writers that move keys, exchange rows, truncate nothing, and whose commits now and then are in the log long before
/// they are visible.
pub(crate) fn write(shop: &Arc<Shop>, seed: u64, writing: &Arc<AtomicBool>) -> tokio::task::JoinHandle<u64> {
    let (shop, writing) = (Arc::clone(shop), Arc::clone(writing));
    tokio::task::spawn_blocking(move || {
        let mut random = Random::new(seed);
        let mut written = 0;
        while writing.load(Ordering::Relaxed) {
            match random.below(40) {
                0 => shop.database.hold_commits(),
                1..=3 => shop.database.show_commits(),
                _ => {}
            }
            shop.scribble(&mut random, QUIET_FROM);
            written += 1;
            // Locked while a commit of it is held.
            let hot = [(1, text(&format!("hot {written}")))];
            let _ = shop.database.transaction(|tx| tx.update(&shop.items, &[key(HOT)], &hot));
            std::thread::sleep(Duration::from_micros(random.below(1500)));
        }
        shop.database.show_commits();
        written
    })
}

fn of<'a>(verified: &'a Verified, table: &syncline_core::TableId) -> &'a TableVerified {
    verified.tables.iter().find(|one| one.table == *table).unwrap()
}

fn item(n: u64, name: &str) -> Row {
    vec![key(n), text(name), text(&format!("c{n}")), text(&format!("big {n}"))]
}

fn keys(table: &TableVerified) -> BTreeSet<String> {
    table.samples.iter().map(|sample| sample.key[0].clone().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_are_no_drift_and_what_was_planted_is_found_and_repaired() {
    let (mut candidates, mut undecided) = (0, 0);
    for seed in 0..6 {
        let (shop, dir) = (Arc::new(Shop::new()), tempfile::tempdir().unwrap());
        shop.fill(ROWS);
        let destination = MemoryDestination::new();
        let writing = Arc::new(AtomicBool::new(true));
        let writer = write(&shop, seed, &writing);
        for _ in 0..3 {
            let verified = verify(&shop, &destination, dir.path(), false).await;
            for table in &verified.tables {
                assert!(table.drift.is_zero() && table.skipped.is_none(), "seed {seed}: {table:?}");
                candidates += table.candidates;
                undecided += table.undecided;
            }
        }
        destination.plant(&shop.items, &[item(210, "planted"), item(900, "surplus")]);
        destination.uproot(&shop.items, &[item(220, ""), item(221, "")]);
        let found = verify(&shop, &destination, dir.path(), true).await;
        let items = of(&found, &shop.items);
        let planted = ["000210", "000220", "000221", "000900"].map(str::to_owned);
        assert_eq!(keys(items), BTreeSet::from(planted), "seed {seed}: {items:?}");
        assert_eq!((items.drift.missing, items.drift.surplus, items.drift.changed), (2, 1, 1));
        assert_eq!((items.repaired, &items.refused), (4, &None), "seed {seed}");
        writing.store(false, Ordering::Relaxed);
        assert!(writer.await.unwrap() > 0);
        let equal = verify(&shop, &destination, dir.path(), false).await;
        assert_eq!((equal.left_over(), of(&equal, &shop.notes).undecided), (0, 0), "seed {seed}: {equal:?}");
        assert_equal(&shop.database, &destination);
    }
    println!("{candidates} candidates, {undecided} undecided");
    assert!(candidates > 0, "nothing was under way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_applied_and_not_yet_visible_is_undecided() {
    let (shop, dir) = (Arc::new(Shop::new()), tempfile::tempdir().unwrap());
    shop.fill(50);
    let destination = MemoryDestination::new();
    run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await.unwrap();
    let mut verified = verified(&shop, &destination, dir.path(), true);
    // The scan of the first table waits until a commit is applied that stays invisible; then the others are scanned.
    let (again, there) = (Arc::clone(&shop), destination.clone());
    let once = std::sync::Once::new();
    let source = MemorySource::new(&shop.database).with_hook(move |_, _, _| {
        once.call_once(|| {
            again.database.hold_commits();
            let held = vec![key(999), text("x"), text("held")];
            again.database.transaction(|tx| tx.insert(&again.pairs, held.clone())).unwrap();
            let is_there = || there.rows(&again.pairs).unwrap().contains(&held);
            tokio::task::block_in_place(|| {
                let begun = std::time::Instant::now();
                while !is_there() {
                    assert!(begun.elapsed() < Duration::from_secs(20), "it is never applied");
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        });
    });
    verified.verify.as_mut().unwrap().sides.source = Arc::new(source);
    let found = run(verified).await.unwrap().verified.unwrap();
    for (table, undecided) in [(&shop.items, 0), (&shop.pairs, 1), (&shop.notes, 0)] {
        let table = of(&found, table);
        assert!(table.drift.is_zero(), "{table:?}");
        assert_eq!(table.undecided, undecided, "{table:?}");
    }
    shop.database.show_commits();
    let equal = verify(&shop, &destination, dir.path(), false).await;
    assert!(equal.tables.iter().all(|table| table.drift.is_zero() && table.undecided == 0), "{equal:?}");
    assert_equal(&shop.database, &destination);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_keeps_a_repair_from_being_made() {
    let (shop, dir) = (Arc::new(Shop::new()), tempfile::tempdir().unwrap());
    shop.fill(ROWS);
    let destination = MemoryDestination::new();
    run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await.unwrap();
    let most: Vec<Row> = (0..140).map(|n| item(n, "")).collect();
    destination.uproot(&shop.items, &most);
    let found = verify(&shop, &destination, dir.path(), true).await;
    let items = of(&found, &shop.items);
    assert_eq!((items.drift.missing, items.repaired), (140, 0));
    assert!(items.refused.is_some());
    assert_eq!(destination.rows(&shop.items).unwrap().len(), 120);
}
