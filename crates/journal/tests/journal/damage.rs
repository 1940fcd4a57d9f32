//! What a crash leaves is cut; what time or hands did to durable bytes is reported.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use syncline_core::{Entry, ErrorKind, Transaction};
use syncline_journal::{Journal, Options};

use crate::history::{
    Random, all_after, append_all, append_in_groups, at, batch, history, opened, scratch, segment_files,
    settled, small, tables,
};

/// One large segment.
fn roomy(dir: &Path) -> Options {
    Options { segment_bytes: 1 << 30, memory_bytes: 1 << 20, ..small(dir) }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in segment_files(from) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

/// Entries, each durable on its own, and where in the one segment each ends.
async fn written(dir: &Path, entries: &[Entry]) -> (PathBuf, Vec<u64>) {
    let journal = opened(roomy(dir)).await;
    let mut ends = Vec::new();
    for entry in entries {
        journal.append(entry.clone()).await.unwrap();
        settled(&journal).await;
        ends.push(fs::metadata(&segment_files(dir)[0]).unwrap().len());
    }
    journal.close().await.unwrap();
    (segment_files(dir)[0].clone(), ends)
}

/// Whole entries.
fn whole(seed: u64, count: usize) -> Vec<Entry> {
    let mut entries = history(seed, count);
    entries.retain(|entry| !entry.is_piece());
    entries
}

/// Entries of few bytes, of two tables, the second of which comes late.
fn lean(seed: u64, count: u64) -> Vec<Entry> {
    let mut random = Random(seed);
    let tables = [&tables()[2], &tables()[3]];
    let entry = |n| Entry {
        from: at(100 + n),
        to: at(101 + n),
        transactions: vec![Transaction { id: n, committed_at_us: 5 }],
        batches: vec![batch(&mut random, tables[usize::from(n + 2 >= count)], 1, 1)],
    };
    (0..count).map(entry).collect()
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut_at_the_last_whole_entry() {
    let dir = scratch();
    let entries = lean(5, 12);
    let (file, ends) = written(dir.path(), &entries).await;
    let bytes = fs::read(&file).unwrap();
    let count = entries.len();
    let torn = scratch();
    for cut in ends[count - 3]..=*ends.last().unwrap() {
        let left = ends.iter().filter(|end| **end <= cut).count();
        let path = torn.path().join(file.file_name().unwrap());
        fs::write(&path, &bytes[..usize::try_from(cut).unwrap()]).unwrap();
        let journal = Journal::open(roomy(torn.path())).await.unwrap();
        assert_eq!(journal.end(), Some(entries[left - 1].to.clone()), "cut at {cut}");
        // It goes on from there, and what was cut does not come back.
        append_all(&journal, &entries[left..]).await;
        journal.close().await.unwrap();
        drop(journal);
        let journal = Journal::open(roomy(torn.path())).await.unwrap();
        assert_eq!(all_after(&journal, &at(100)).await, entries, "cut at {cut}");
    }
}

#[tokio::test]
async fn garbage_after_the_last_sync_is_cut() {
    let dir = scratch();
    let entries = lean(6, 5);
    let (file, _) = written(dir.path(), &entries).await;
    let bytes = fs::read(&file).unwrap();
    for garbage in [vec![0; 5000], vec![0xff; 3], bytes[40..400].to_vec()] {
        fs::write(&file, [bytes.clone(), garbage].concat()).unwrap();
        let journal = Journal::open(roomy(dir.path())).await.unwrap();
        assert_eq!(all_after(&journal, &at(100)).await, entries);
        drop(journal);
        assert_eq!(fs::read(&file).unwrap(), bytes);
    }
}

#[tokio::test]
async fn a_flipped_byte_before_the_last_sync_is_an_error_and_after_it_a_cut() {
    let dir = scratch();
    let entries = lean(8, 6);
    let (file, ends) = written(dir.path(), &entries).await;
    let bytes = fs::read(&file).unwrap();
    let durable = usize::try_from(ends[entries.len() - 2]).unwrap();
    let (mut refused, mut cut) = (0, 0);
    for place in (0..bytes.len()).step_by(7).chain(durable..bytes.len()) {
        let mut flipped = bytes.clone();
        flipped[place] ^= 0x10;
        fs::write(&file, flipped).unwrap();
        match Journal::open(roomy(dir.path())).await {
            Err(error) => {
                assert!(place < durable, "byte {place}: {error}");
                assert_eq!(error.kind(), ErrorKind::Conflict);
                assert!(error.to_string().contains(&file.display().to_string()), "{error}");
                assert!(error.remedy().unwrap().contains(&dir.path().display().to_string()));
                refused += 1;
            }
            Ok(journal) => {
                assert!(place >= durable, "byte {place} was not noticed");
                assert_eq!(all_after(&journal, &at(100)).await, entries[..entries.len() - 1]);
                cut += 1;
            }
        }
    }
    assert!(refused > 100 && cut > 20, "{refused} refused, {cut} cut");
}

#[tokio::test]
async fn a_flipped_byte_in_a_sealed_segment_is_an_error() {
    let dir = scratch();
    let journal = opened(small(dir.path())).await;
    append_in_groups(&journal, &history(9, 60), 10).await;
    drop(journal);
    let sealed = segment_files(dir.path())[1].clone();
    let bytes = fs::read(&sealed).unwrap();
    // Its last byte belongs to its last group: with a segment after it, that too was durable.
    for place in [0, 8, 20, bytes.len() / 2, bytes.len() - 1] {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1;
        fs::write(&sealed, flipped).unwrap();
        let error = Journal::open(small(dir.path())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "byte {place}");
        assert!(error.to_string().contains(&sealed.display().to_string()));
    }
    fs::write(&sealed, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(Journal::open(small(dir.path())).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn damage_under_a_running_reader_is_an_error_that_names_the_file() {
    let dir = scratch();
    let journal = opened(small(dir.path())).await;
    append_in_groups(&journal, &history(9, 60), 10).await;
    let first = segment_files(dir.path())[0].clone();
    let file = fs::File::options().write(true).open(&first).unwrap();
    file.write_all_at(b"damage", file.metadata().unwrap().len() / 2).unwrap();
    let error = crate::history::drain(&mut journal.reader(&at(100))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains(&first.display().to_string()));
}

#[tokio::test]
async fn a_missing_segment_is_an_error() {
    let dir = scratch();
    let journal = opened(small(dir.path())).await;
    append_in_groups(&journal, &history(9, 60), 10).await;
    drop(journal);
    fs::remove_file(&segment_files(dir.path())[1]).unwrap();
    let error = Journal::open(small(dir.path())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("segment 1 before it is missing"), "{error}");
}

#[tokio::test]
async fn an_unfinished_file_is_removed() {
    let dir = scratch();
    drop(opened(small(dir.path())).await);
    let unfinished = dir.path().join("00000007.tmp");
    fs::write(&unfinished, b"half").unwrap();
    drop(Journal::open(small(dir.path())).await.unwrap());
    assert!(!unfinished.exists());
}

#[tokio::test]
async fn segments_that_a_reset_had_not_yet_removed_do_not_come_back() {
    let dir = scratch();
    let kept = scratch();
    let journal = opened(small(dir.path())).await;
    append_in_groups(&journal, &history(9, 40), 10).await;
    copy(dir.path(), kept.path());
    journal.reset(at(7)).await.unwrap();
    drop(journal);
    copy(kept.path(), dir.path());
    let journal = Journal::open(small(dir.path())).await.unwrap();
    assert_eq!((journal.start(), journal.end()), (None, Some(at(7))));
    assert_eq!(segment_files(dir.path()).len(), 1);
}

/// Pieces whose closing entry never came, over more than one segment.
#[tokio::test]
async fn pieces_of_an_unfinished_transaction_are_cut() {
    let dir = scratch();
    let closed = whole(3, 8);
    let from = closed.last().unwrap().to.clone();
    let piece = |n: usize| Entry { from: from.clone(), to: from.clone(), ..closed[n].clone() };
    let pieces: Vec<Entry> =
        (0..40).map(|n| piece(n % closed.len())).filter(|piece| !piece.batches.is_empty()).collect();
    for count in [1, 2, pieces.len()] {
        let journal = opened(small(dir.path())).await;
        journal.reset(at(100)).await.unwrap();
        append_in_groups(&journal, &closed, 3).await;
        let before = segment_files(dir.path()).len();
        append_all(&journal, &pieces[..count]).await;
        journal.close().await.unwrap();
        assert!(count < 3 || segment_files(dir.path()).len() > before + 1);
        drop(journal);
        let journal = opened(small(dir.path())).await;
        assert_eq!(journal.end(), Some(from.clone()));
        assert_eq!(all_after(&journal, &at(100)).await, closed);
        // The transaction comes again, whole.
        append_all(&journal, &pieces).await;
        let last = Entry::progress(from.clone(), at(1 << 30));
        journal.append(last.clone()).await.unwrap();
        journal.close().await.unwrap();
        drop(journal);
        let journal = opened(small(dir.path())).await;
        let expected = [closed.clone(), pieces.clone(), vec![last]].concat();
        assert_eq!(all_after(&journal, &at(100)).await, expected);
    }
}
