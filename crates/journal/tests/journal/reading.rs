//! What was appended comes back, from memory, from disk and after reopening, in every order of events.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use syncline_core::{Entry, ErrorKind, Position};
use syncline_journal::{Journal, Options};

use crate::history::{
    Random, all_after, append_all, append_in_groups, at, drain, history, is_needed, opened, scratch, settled,
    small,
};

fn run<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn entries_survive_memory_disk_and_reopening(seed in any::<u64>(), count in 1..40_usize, group in 1..12_usize) {
        run(async move {
            let dir = scratch();
            let entries = history(seed, count);
            let journal = opened(small(dir.path())).await;
            append_in_groups(&journal, &entries, group).await;
            assert_eq!(all_after(&journal, &at(100)).await, entries);
            journal.close().await.unwrap();
            drop(journal);
            let journal = opened(small(dir.path())).await;
            assert_eq!(journal.start(), Some(at(100)));
            assert_eq!(journal.end(), entries.last().map(|entry| entry.to.clone()));
            assert_eq!(all_after(&journal, &at(100)).await, entries);
        });
    }

    #[test]
    fn a_reader_gives_what_a_lane_at_its_position_needs(seed in any::<u64>(), memory in 0..40_usize) {
        run(async move {
            let dir = scratch();
            let entries = history(seed, 30);
            let options = Options { memory_bytes: memory * 1024, ..small(dir.path()) };
            let journal = opened(options).await;
            append_in_groups(&journal, &entries, 7).await;
            let mut places: Vec<Position> = entries.iter().map(|entry| entry.to.clone()).collect();
            places.extend([at(0), at(101), at(111), at(1 << 40)]);
            for after in places {
                let expected: Vec<Entry> =
                    entries.iter().filter(|entry| is_needed(entry, &after)).map(|entry| clipped(entry, &after)).collect();
                assert_eq!(all_after(&journal, &after).await, expected, "after {after}");
            }
        });
    }

    #[test]
    fn readers_beside_the_writer_see_everything_once_whatever_is_dropped(seed in any::<u64>()) {
        run(async move {
            let dir = scratch();
            let entries = history(seed, 60);
            let journal = opened(small(dir.path())).await;
            let readers: Vec<_> = (0..3)
                .map(|n| tokio::spawn(read_impatiently(journal.clone(), entries.len(), seed ^ n)))
                .collect();
            let mut random = Random(seed);
            for entry in &entries {
                if random.one_in(5) {
                    tokio::task::yield_now().await;
                }
                journal.append(entry.clone()).await.unwrap();
            }
            for reader in readers {
                assert_eq!(reader.await.unwrap(), entries);
            }
        });
    }
}

/// Progress begins where the reader stands.
fn clipped(entry: &Entry, after: &Position) -> Entry {
    if entry.batches.is_empty() && entry.from < *after {
        Entry::progress(after.clone(), entry.to.clone())
    } else {
        entry.clone()
    }
}

/// Drops most of its futures half way.
async fn read_impatiently(journal: Journal, count: usize, seed: u64) -> Vec<Entry> {
    let mut random = Random(seed);
    let mut reader = journal.reader(&at(100));
    let mut entries = Vec::new();
    while entries.len() < count {
        let patience = Duration::from_micros(random.below(300));
        if let Ok(entry) = tokio::time::timeout(patience, reader.next()).await {
            entries.push((*entry.unwrap()).clone());
        }
    }
    entries
}

#[tokio::test]
async fn a_shape_read_twice_is_the_same_arc() {
    let dir = scratch();
    let entries = history(7, 40);
    let journal = opened(small(dir.path())).await;
    append_all(&journal, &entries).await;
    journal.close().await.unwrap();
    drop(journal);
    let journal = opened(small(dir.path())).await;
    let again = all_after(&journal, &at(100)).await;
    let tables: Vec<_> = again.iter().flat_map(|entry| &entry.batches).map(|batch| &batch.table).collect();
    for left in &tables {
        for right in &tables {
            assert_eq!(left == right, Arc::ptr_eq(left, right));
        }
    }
}

#[tokio::test]
async fn a_reader_that_keeps_up_never_reads_the_disk() {
    let dir = scratch();
    let journal = opened(Options { memory_bytes: 64 << 20, ..small(dir.path()) }).await;
    let mut reader = journal.reader(&at(100));
    for entry in history(3, 50) {
        journal.append(entry.clone()).await.unwrap();
        settled_entry(&journal, &entry).await;
        let read = reader.next().await.unwrap();
        // What came from disk would be equal, not the same memory.
        for (left, right) in read.batches.iter().zip(&entry.batches) {
            for (left, right) in left.rows.columns().iter().zip(right.rows.columns()) {
                assert!(Arc::ptr_eq(left, right));
            }
        }
    }
}

async fn settled_entry(journal: &Journal, entry: &Entry) {
    if !entry.is_piece() {
        settled(journal).await;
    }
}

#[tokio::test]
async fn try_next_does_not_wait_and_next_does() {
    let dir = scratch();
    let journal = opened(small(dir.path())).await;
    let mut reader = journal.reader(&at(100));
    assert!(reader.try_next().await.unwrap().is_none());
    let waiting = tokio::spawn(async move { reader.next().await.map(|entry| entry.to.clone()) });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waiting.is_finished());
    journal.append(Entry::progress(at(100), at(107))).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), at(107));
}

#[tokio::test]
async fn an_entry_that_does_not_follow_is_refused() {
    let dir = scratch();
    let journal = Journal::open(small(dir.path())).await.unwrap();
    assert_eq!((journal.start(), journal.end()), (None, None));
    let refused = |error: syncline_core::Error| assert_eq!(error.kind(), ErrorKind::Conflict);
    refused(journal.append(Entry::progress(at(0), at(1))).await.unwrap_err());
    journal.reset(at(5)).await.unwrap();
    refused(journal.append(Entry::progress(at(4), at(9))).await.unwrap_err());
    refused(journal.append(Entry::progress(at(6), at(9))).await.unwrap_err());
    refused(journal.append(Entry::progress(at(5), at(4))).await.unwrap_err());
    journal.append(Entry::progress(at(5), at(9))).await.unwrap();
    assert_eq!((journal.start(), journal.end()), (Some(at(5)), Some(at(9))));
}

#[tokio::test]
async fn a_reset_discards_everything_and_its_position_is_durable() {
    let dir = scratch();
    let journal = opened(small(dir.path())).await;
    append_all(&journal, &history(1, 30)).await;
    let mut stale = journal.reader(&at(100));
    stale.next().await.unwrap();
    journal.reset(at(9000)).await.unwrap();
    assert_eq!((journal.start(), journal.end()), (None, Some(at(9000))));
    assert_eq!(*journal.durable().borrow(), at(9000));
    let stale = drain(&mut stale).await;
    assert_eq!(stale.unwrap_err().kind(), ErrorKind::Conflict);
    let mut reader = journal.reader(&at(9000));
    journal.append(Entry::progress(at(9000), at(9001))).await.unwrap();
    assert_eq!(reader.next().await.unwrap().to, at(9001));
    drop(journal);
    let journal = Journal::open(small(dir.path())).await.unwrap();
    assert_eq!((journal.start(), journal.end()), (Some(at(9000)), Some(at(9001))));
    journal.reset(at(1)).await.unwrap();
    drop(journal);
    let journal = Journal::open(small(dir.path())).await.unwrap();
    assert_eq!((journal.start(), journal.end()), (None, Some(at(1))));
}

#[tokio::test]
async fn durable_moves_by_whole_entries_only() {
    let dir = scratch();
    let journal = opened(small(dir.path())).await;
    let entries = history(11, 200);
    let place = entries.iter().position(Entry::is_piece).unwrap();
    append_all(&journal, &entries[..=place]).await;
    assert_eq!(journal.end(), Some(entries[place].from.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(*journal.durable().borrow(), entries[place].from);
}

#[tokio::test]
async fn a_closed_journal_says_so_and_gives_its_directory_free() {
    let dir = scratch();
    let journal = opened(small(dir.path())).await;
    let held = Journal::open(small(dir.path())).await.unwrap_err();
    assert_eq!(held.kind(), ErrorKind::Configuration);
    assert!(held.to_string().contains(&dir.path().display().to_string()));
    let mut reader = journal.reader(&at(100));
    journal.append(Entry::progress(at(100), at(101))).await.unwrap();
    journal.close().await.unwrap();
    journal.close().await.unwrap();
    assert_eq!(*journal.durable().borrow(), at(101));
    assert_eq!(reader.next().await.unwrap().to, at(101));
    assert_eq!(reader.next().await.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(
        journal.append(Entry::progress(at(101), at(102))).await.unwrap_err().kind(),
        ErrorKind::Cancelled
    );
    Journal::open(small(dir.path())).await.unwrap();
}

/// Small entries are made durable in groups, but soon, and at once for who asks.
#[test]
fn a_small_entry_becomes_durable_by_itself_and_at_once_if_asked() {
    run(async {
        let dir = scratch();
        let journal = opened(small(dir.path())).await;
        journal.set_urgent(false);
        let entries = history(1, 40);
        let (first, rest) = entries.split_at(20);
        let mut durable = journal.durable();
        let before = durable.borrow_and_update().clone();
        append_all(&journal, first).await;
        durable.changed().await.unwrap();
        assert!(*durable.borrow_and_update() > before);
        append_all(&journal, rest).await;
        journal.sync().await.unwrap();
        assert_eq!(Some(journal.durable().borrow().clone()), journal.end());
    });
}
