//! A lost log, recovered by a comparison under writers that move keys, leave columns out, and commit invisibly; with faults.
//! From the commit that takes a table's mark away on, it shows only states that the source had.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use syncline_core::{Prepare, Reaction, TablePhase};
use syncline_engine::diff::Guard;
use syncline_engine::{Pipeline, Recover};
use syncline_testkit::memory::{
    Faults, MemoryDestination, MemorySource, Random, Step, assert_equal, assert_history, text,
};

use crate::support::{Shop, key, pipeline, run};
use crate::verify::{sides, write};

/// A run takes about a second; one that does not end names its seed instead of holding everything up.
const RUN_MAX: Duration = Duration::from_secs(180);

/// The seeds that were asked for, else these.
pub(crate) fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SYNCLINE_SEEDS") else { return usual };
    let (from, to) = text.split_once("..").expect("SYNCLINE_SEEDS is from..to");
    from.parse().unwrap()..to.parse().unwrap()
}

fn recovering(
    shop: &Shop,
    destination: &MemoryDestination,
    faults: &Faults,
    dir: &std::path::Path,
) -> Pipeline {
    let source = MemorySource::new(&shop.database).with_faults(faults).with_transactions_per_entry(3);
    let mut pipeline = pipeline(source, destination, dir);
    let mut guard = Guard::default();
    guard.set("all=off").unwrap();
    pipeline.recover = Some(Recover { guard, sides: sides(shop, destination) });
    // For the table without a key.
    pipeline.prepare = Some(Prepare::Truncate);
    pipeline
}

async fn live(seed: u64) {
    let (shop, dir) = (Arc::new(Shop::new()), tempfile::tempdir().unwrap());
    let mut random = Random::new(seed);
    shop.fill(100 + random.below(150));
    let faults = Faults::none();
    let destination = MemoryDestination::new().with_faults(&faults);
    let once = || pipeline(MemorySource::new(&shop.database), &destination, dir.path());
    let name = once().name;
    let _ = run(once()).await.unwrap();
    (0..50).for_each(|_| shop.scribble(&mut random, 200));
    shop.database.lose_slot(&name);
    (0..random.below(200)).for_each(|_| shop.scribble(&mut random, 200));
    let writing = Arc::new(AtomicBool::new(true));
    let writer = write(&shop, seed, &writing);
    if seed % 2 == 1 {
        faults.seeded(seed, 4, &Step::ALL);
    }
    let mut tries = 0;
    loop {
        tries += 1;
        let recovered = run(recovering(&shop, &destination, &faults, dir.path()));
        let recovered = tokio::time::timeout(RUN_MAX, recovered).await;
        match recovered.unwrap_or_else(|_| panic!("seed {seed}: a run that does not end, try {tries}")) {
            Ok(summary) => {
                assert!(summary.sum.is_complete() && summary.stopped.is_empty(), "seed {seed}: {summary:?}");
                break;
            }
            Err(error) => {
                assert_eq!(error.kind().reaction(), Reaction::Retry, "seed {seed}: {error:?}");
                assert!(tries < 20, "seed {seed}: {error:?}");
            }
        }
    }
    faults.clear();
    let phases = destination.checkpoint_of(&name).unwrap().tables;
    assert!(phases.values().all(|state| state.phase == TablePhase::Consistent), "seed {seed}: {phases:?}");
    writing.store(false, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 0);
    let _ = run(once()).await.unwrap();
    assert_equal(&shop.database, &destination);
    assert_history(&shop.database, &destination);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_log_is_recovered_exactly_under_writers() {
    for seed in seeds(0..24) {
        live(seed).await;
    }
}

/// A table whose recovery has stopped goes on without being completed from its rows: what that lists is read again, also in
/// runs that do not recover it.
#[tokio::test]
async fn a_recovery_that_has_stopped_lists_no_rows_without_end() {
    let (shop, dir, faults) = (Shop::new(), tempfile::tempdir().unwrap(), Faults::none());
    shop.fill(300);
    let destination = MemoryDestination::new();
    let plain = || pipeline(MemorySource::new(&shop.database), &destination, dir.path());
    let name = plain().name;
    let _ = run(plain()).await.unwrap();
    shop.database.lose_slot(&name);
    let rename = |from: u64, to: u64, name: &str| {
        let row = |tx: &mut syncline_testkit::memory::OpenTransaction, n| {
            tx.update(&shop.items, &[key(n)], &[(1, text(name))])
        };
        shop.database.transaction(|tx| (from..to).try_for_each(|n| row(tx, n))).unwrap();
    };
    rename(0, 250, "lost");
    let mut guarded = recovering(&shop, &destination, &faults, dir.path());
    guarded.recover = Some(Recover { guard: Guard::default(), sides: sides(&shop, &destination) });
    assert!(run(guarded).await.unwrap().stopped.iter().any(|stopped| stopped.by_guard));
    rename(0, 100, "later");
    let summary = run(plain()).await.unwrap();
    assert!(summary.stopped.iter().any(|stopped| stopped.table == shop.items), "{summary:?}");
    let items = &destination.checkpoint_of(&name).unwrap().tables[&shop.items];
    assert_eq!((items.phase, items.rereads.len()), (TablePhase::Recovering, 0));
    let there = destination.rows(&shop.items).unwrap();
    assert_eq!(there.iter().filter(|row| row[1] == text("later")).count(), 100);
    let _ = run(recovering(&shop, &destination, &faults, dir.path())).await.unwrap();
    assert_equal(&shop.database, &destination);
}
