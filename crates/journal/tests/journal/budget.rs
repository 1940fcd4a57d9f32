//! The budget: what waits, what must not, and what memory holds.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use syncline_core::{Entry, Position, TableSchema, Transaction};
use syncline_journal::{Interest, Journal, Need, Options};

use crate::history::{Random, all_after, at, batch, opened, scratch, settled, tables};

const BUDGET: u64 = 400 * 1024;

fn tight(dir: &Path) -> Options {
    Options { dir: dir.to_owned(), budget_bytes: BUDGET, segment_bytes: 64 * 1024, memory_bytes: 64 * 1024 }
}

/// About 20 kB of one table.
fn large(table: &Arc<TableSchema>, from: u64, to: u64) -> Entry {
    Entry {
        from: at(from),
        to: at(to),
        transactions: vec![Transaction { id: to, committed_at_us: 0 }],
        batches: vec![batch(&mut Random(to), table, 100, 1)],
    }
}

fn everything_after(position: u64) -> Vec<Need> {
    vec![Need { after: at(position), tables: Interest::AllExcept([].into()) }]
}

/// Appends until an append waits; that entry is not in the journal then.
async fn fill_up(journal: &Journal, from: u64) -> u64 {
    let table = &tables()[0];
    let mut next = from;
    while let Ok(appended) =
        tokio::time::timeout(Duration::from_millis(200), journal.append(large(table, next, next + 1))).await
    {
        appended.unwrap();
        next += 1;
    }
    next
}

#[tokio::test]
async fn the_budget_holds_the_source_back_until_something_is_freed() {
    let dir = scratch();
    let journal = opened(tight(dir.path())).await;
    journal.retain(everything_after(100)).await.unwrap();
    let end = fill_up(&journal, 100).await;
    let usage = journal.usage();
    assert!(usage.bytes >= BUDGET && usage.bytes < BUDGET + 64 * 1024, "{usage:?}");
    assert!(!usage.held_back, "the append that waited was dropped");
    assert!(usage.needed[0] > BUDGET / 2 && usage.needed[0] <= usage.bytes);

    let waiting = tokio::spawn({
        let journal = journal.clone();
        let entry = large(&tables()[0], end, end + 1);
        async move { journal.append(entry).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(journal.usage().held_back && !waiting.is_finished());
    journal.retain(everything_after(end)).await.unwrap();
    waiting.await.unwrap().unwrap();
    let usage = journal.usage();
    assert!(usage.bytes < BUDGET / 2 && !usage.held_back, "{usage:?}");
}

#[tokio::test]
async fn a_transaction_larger_than_the_budget_goes_through() {
    let dir = scratch();
    let journal = opened(tight(dir.path())).await;
    journal.retain(everything_after(100)).await.unwrap();
    let table = &tables()[0];
    let mut reader = journal.reader(&at(100));
    for n in 0..150 {
        let piece = Entry { from: at(100), to: at(100), ..large(table, 100, n) };
        journal.append(piece).await.unwrap();
    }
    journal.append(Entry::progress(at(100), at(200))).await.unwrap();
    assert!(journal.usage().bytes > 2 * BUDGET);
    for _ in 0..150 {
        assert!(reader.next().await.unwrap().is_piece());
    }
    assert_eq!(reader.next().await.unwrap().to, at(200));
    // The next one waits until it is loaded.
    let next = Entry::progress(at(200), at(201));
    assert!(tokio::time::timeout(Duration::from_millis(100), journal.append(next.clone())).await.is_err());
    journal.retain(everything_after(200)).await.unwrap();
    journal.append(next).await.unwrap();
    assert!(journal.usage().bytes < BUDGET / 2);
}

#[tokio::test]
async fn an_entry_larger_than_the_budget_does_not_block_for_ever() {
    let dir = scratch();
    let journal = opened(Options { budget_bytes: 8 * 1024, ..tight(dir.path()) }).await;
    for n in 100..120 {
        journal.append(large(&tables()[0], n, n + 1)).await.unwrap();
        settled(&journal).await;
        journal.retain(everything_after(n + 1)).await.unwrap();
    }
    assert_eq!(journal.end(), Some(at(120)));
}

#[tokio::test]
async fn nothing_is_freed_before_the_first_retain() {
    let dir = scratch();
    let journal = opened(tight(dir.path())).await;
    let end = fill_up(&journal, 100).await;
    assert_eq!(journal.start(), Some(at(100)));
    let entries = all_after(&journal, &at(100)).await;
    assert_eq!(entries.last().map(|entry| entry.to.clone()), Some(at(end)));
    journal.retain(Vec::new()).await.unwrap();
    let start = journal.start().unwrap_or_else(Position::start);
    assert!(start > at(100) && journal.usage().bytes < BUDGET / 2);
}
