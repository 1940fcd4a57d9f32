//! Thousands of seeds: random writers, random faults at every step on both sides, restarts, both ways of cutting. Every
//! run ends equal, every state on the way was one the source had, and every sum adds up.
//!
//! `SYNCLINE_SEEDS=from..to` replays or widens.

use std::sync::{Arc, Mutex};

use syncline_core::Reaction;
use syncline_testkit::memory::{
    Cutting, Faults, MemoryDestination, MemorySource, Random, Step, assert_equal, assert_history,
};

use crate::support::{Shop, pipeline, run};

fn seeds() -> std::ops::Range<u64> {
    let text = std::env::var("SYNCLINE_SEEDS").unwrap_or_else(|_| "0..120".into());
    let (from, to) = text.split_once("..").expect("SYNCLINE_SEEDS is from..to");
    from.parse().unwrap()..to.parse().unwrap()
}

async fn live(seed: u64) {
    let (shop, dir) = (Arc::new(Shop::new()), tempfile::tempdir().unwrap());
    let mut random = Random::new(seed);
    shop.fill(20 + random.below(150));
    let faults = Faults::none();
    let destination = MemoryDestination::new().checked_against(&shop.database).with_faults(&faults);
    let cutting = if random.chance(500) { Cutting::KeyRanges } else { Cutting::OneSnapshot };
    let (chunk, per_entry, piece) = (1 + random.below(40), 1 + random.below(6), 1 + random.below(20));
    let size = |n: u64| usize::try_from(n).unwrap();
    for round in 0..4 {
        let writer = Mutex::new(Random::new(seed * 31 + round));
        let scribbling = Arc::clone(&shop);
        let source = MemorySource::new(&shop.database)
            .with_faults(&faults)
            .with_cutting(cutting)
            .with_rows_per_chunk(size(chunk))
            .with_transactions_per_entry(size(per_entry))
            .with_changes_per_piece(size(piece))
            .with_hook(move |_, _, _| {
                let mut writer = writer.lock().unwrap();
                (0..writer.below(4)).for_each(|_| scribbling.scribble(&mut writer, 200));
            });
        faults.seeded(seed * 7 + round, 8, &Step::ALL);
        let mut faulty = pipeline(source, &destination, dir.path());
        faulty.workers = size(1 + random.below(4));
        if let Err(error) = run(faulty).await {
            let kind = error.kind();
            assert_eq!(kind.reaction(), Reaction::Retry, "seed {seed}, round {round}: {error:?}");
        }
        faults.clear();
        (0..random.below(30)).for_each(|_| shop.scribble(&mut random, 200));
    }
    let summary = run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await;
    let summary = summary.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
    assert!(summary.sum.is_complete(), "seed {seed}: {:?}", summary.sum);
    assert_equal(&shop.database, &destination);
    assert_history(&shop.database, &destination);
}

#[tokio::test]
async fn every_seed_ends_equal() {
    for seed in seeds() {
        if let Err(error) = tokio::spawn(live(seed)).await {
            panic!("seed {seed} failed: {error}");
        }
    }
}
