//! Freeing: nothing that a lane needs is lost, and what nobody needs does not stay.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use syncline_core::{ChangeBatch, Entry, Position, TableId, TableSchema, Transaction};
use syncline_journal::{Interest, Journal, Need, Options};

use crate::history::{
    Random, all_after, append_all, at, batch, drain, history, is_needed, opened, scratch, segment_files,
    settled, tables,
};

fn run<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// Changes of a lane's tables, with the transaction of each: it does not matter how an entry numbers them.
type Seen = Vec<(Vec<Transaction>, ChangeBatch)>;

/// What a lane finds in entries.
fn seen(entries: &[Entry], need: &Need) -> Seen {
    let mut seen = Vec::new();
    for entry in entries.iter().filter(|entry| is_needed(entry, &need.after)) {
        for batch in entry.batches.iter().filter(|batch| need.tables.covers(&batch.table.id)) {
            let transaction = |&number: &u32| entry.transactions[number as usize].clone();
            let transactions = batch.transactions.iter().map(transaction).collect();
            let numbers = vec![0; batch.len()];
            seen.push((transactions, ChangeBatch { transactions: numbers, ..batch.clone() }));
        }
    }
    seen
}

/// Ranges follow each other from the lane's place to the end.
fn assert_contiguous(entries: &[Entry], after: &Position, end: &Position) {
    let mut place = entries.first().map_or(end.clone(), |entry| entry.from.clone().max(after.clone()));
    assert!(place <= *after, "a gap before the first entry");
    for entry in entries {
        assert!(entry.from == place || entry.from < *after, "a gap at {place}");
        place = entry.to.clone();
    }
    assert_eq!(place, *end);
}

fn needs_of(lanes: &BTreeMap<TableId, Position>, main: &Position) -> Vec<Need> {
    let apart: BTreeSet<TableId> = lanes.keys().cloned().collect();
    let waiting = |(id, after): (&TableId, &Position)| Need {
        after: after.clone(),
        tables: Interest::Only(id.clone()),
    };
    let mut needs = vec![Need { after: main.clone(), tables: Interest::AllExcept(apart) }];
    needs.extend(lanes.iter().map(waiting));
    needs
}

async fn assert_keeps(journal: &Journal, entries: &[Entry], needs: &[Need]) {
    for need in needs {
        let found = all_after(journal, &need.after).await;
        assert_contiguous(&found, &need.after, &journal.end().unwrap());
        assert_eq!(seen(&found, need), seen(entries, need));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn every_lane_finds_all_its_changes_whatever_is_freed(seed in any::<u64>()) {
        run(async move {
            let dir = scratch();
            // The high-water mark is passed at once, so everything that can be rewritten is.
            let options = Options {
                dir: dir.path().to_owned(), budget_bytes: 64 * 1024, segment_bytes: 8 * 1024, memory_bytes: 8 * 1024,
            };
            let mut random = Random(seed);
            let mut journal = opened(options.clone()).await;
            let all = history(seed, 120);
            let mut lanes: BTreeMap<TableId, Position> =
                tables().iter().skip(1).take(2).map(|table| (table.id.clone(), at(100))).collect();
            let mut main = at(100);
            let mut done = 0;
            journal.retain(needs_of(&lanes, &main)).await.unwrap();
            for part in all.chunk_by(|before, _| before.is_piece()) {
                done += part.len();
                let room = tokio::time::timeout(std::time::Duration::from_secs(20), append_all(&journal, part));
                let why = || format!("over its budget with nothing to free: {:?}", journal.usage());
                room.await.unwrap_or_else(|_| panic!("{}", why()));
                // What a lane pins is known once it is on disk.
                journal.sync().await.unwrap();
                let end = journal.end().unwrap();
                if random.one_in(3) {
                    main = end.clone();
                }
                if random.one_in(12) || journal.usage().bytes > 40 * 1024 {
                    main = end.clone();
                    lanes.values_mut().next().unwrap().clone_from(&end);
                    if random.one_in(2) || journal.usage().needed.iter().sum::<u64>() > 20 * 1024 {
                        lanes.values_mut().for_each(|after| after.clone_from(&end));
                    }
                }
                let needs = needs_of(&lanes, &main);
                journal.retain(needs.clone()).await.unwrap();
                if random.one_in(10) {
                    assert_keeps(&journal, &all[..done], &needs).await;
                }
                if random.one_in(15) {
                    drop(journal);
                    journal = opened(options.clone()).await;
                    assert_keeps(&journal, &all[..done], &needs).await;
                    journal.retain(needs).await.unwrap();
                }
            }
        });
    }
}

/// An entry of about 20 kB of a busy table, with one row of a quiet one.
fn busy(random: &mut Random, tables: &[Arc<TableSchema>], from: u64) -> Entry {
    Entry {
        from: at(from),
        to: at(from + 1),
        transactions: (0..50).map(|n| Transaction { id: from + n, committed_at_us: 7 }).collect(),
        batches: vec![batch(random, &tables[0], 100, 50), batch(random, &tables[2], 1, 50)],
    }
}

fn options(dir: &Path) -> Options {
    Options { dir: dir.to_owned(), budget_bytes: 1 << 20, segment_bytes: 64 * 1024, memory_bytes: 64 * 1024 }
}

#[tokio::test]
async fn a_waiting_lane_of_few_changes_does_not_hold_the_others_back() {
    let dir = scratch();
    let journal = opened(options(dir.path())).await;
    let tables = tables();
    let waiting = BTreeMap::from([(tables[2].id.clone(), at(100))]);
    let mut random = Random(1);
    let mut entries = Vec::new();
    for from in 100..600 {
        let entry = busy(&mut random, &tables, from);
        journal.append(entry.clone()).await.unwrap();
        entries.push(entry);
        settled(&journal).await;
        journal.retain(needs_of(&waiting, &at(from + 1))).await.unwrap();
        assert!(journal.usage().bytes < 1 << 20);
    }
    let written: usize = entries.iter().map(Entry::bytes).sum();
    assert!(written > 8 << 20, "{written}");
    assert!(segment_files(dir.path()).len() < 40);
    let needs = needs_of(&waiting, &at(600));
    assert_keeps(&journal, &entries, &needs).await;
    assert!(journal.usage().needed[1] < 500_000, "{:?}", journal.usage());
    drop(journal);
    let journal = opened(options(dir.path())).await;
    assert_keeps(&journal, &entries, &needs).await;
}

#[tokio::test]
async fn a_lane_without_changes_pins_almost_nothing() {
    let dir = scratch();
    let journal = opened(options(dir.path())).await;
    let tables = tables();
    let waiting = BTreeMap::from([(TableId::new("public", "untouched"), at(100))]);
    let mut random = Random(1);
    for from in 100..400 {
        journal.append(busy(&mut random, &tables, from)).await.unwrap();
        settled(&journal).await;
        journal.retain(needs_of(&waiting, &at(from + 1))).await.unwrap();
    }
    assert_eq!(journal.start(), Some(at(100)));
    assert!(segment_files(dir.path()).len() < 20);
    assert!(journal.usage().bytes < 200_000, "{:?}", journal.usage());
    assert_eq!(journal.usage().needed[1], 0);
    let found = all_after(&journal, &at(100)).await;
    assert_contiguous(&found, &at(100), &at(400));
}

#[tokio::test]
async fn a_reader_in_the_middle_of_what_is_rewritten_and_freed_reads_on() {
    let dir = scratch();
    let journal = opened(options(dir.path())).await;
    let tables = tables();
    let waiting = BTreeMap::from([(tables[2].id.clone(), at(100))]);
    let mut random = Random(1);
    let mut entries = Vec::new();
    for from in 100..138 {
        let entry = busy(&mut random, &tables, from);
        journal.append(entry.clone()).await.unwrap();
        entries.push(entry);
    }
    settled(&journal).await;
    for skipped in [1, 10, 20, 37] {
        let mut reader = journal.reader(&at(100));
        let mut found = Vec::new();
        for _ in 0..skipped {
            found.push((*reader.next().await.unwrap()).clone());
        }
        journal.retain(needs_of(&waiting, &at(100 + skipped))).await.unwrap();
        found.extend(drain(&mut reader).await.unwrap());
        assert_contiguous(&found, &at(100), &at(138));
        let need = &needs_of(&waiting, &at(100))[1];
        assert_eq!(seen(&found, need), seen(&entries, need));
    }
}

#[tokio::test]
async fn files_that_a_rewrite_had_not_yet_removed_do_not_come_back() {
    let dir = scratch();
    let kept = scratch();
    let journal = opened(options(dir.path())).await;
    let tables = tables();
    let waiting = BTreeMap::from([(TableId::new("public", "untouched"), at(100))]);
    let mut random = Random(1);
    for from in 100..170 {
        journal.append(busy(&mut random, &tables, from)).await.unwrap();
    }
    settled(&journal).await;
    for file in segment_files(dir.path()) {
        std::fs::copy(&file, kept.path().join(file.file_name().unwrap())).unwrap();
    }
    journal.retain(needs_of(&waiting, &at(170))).await.unwrap();
    let expected = all_after(&journal, &at(100)).await;
    let files = segment_files(dir.path());
    drop(journal);
    for file in segment_files(kept.path()) {
        let place = dir.path().join(file.file_name().unwrap());
        if !place.exists() {
            std::fs::copy(&file, place).unwrap();
        }
    }
    assert!(segment_files(dir.path()).len() > files.len() + 3);
    let journal = opened(options(dir.path())).await;
    assert_eq!(segment_files(dir.path()), files);
    assert_eq!(all_after(&journal, &at(100)).await, expected);
}
