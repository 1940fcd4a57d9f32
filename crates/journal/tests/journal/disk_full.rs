//! A disk without room: the journal stops with an error that says so, and what was durable is whole.

use std::path::{Path, PathBuf};
use std::process::Command;

use syncline_core::{Entry, ErrorKind};
use syncline_journal::Journal;

use crate::history::{all_after, append_all, at, history, opened, scratch, small};

const DIR: &str = "SYNCLINE_TEST_JOURNAL_DIR";

/// Runs itself with a limit on the size of files, which the kernel enforces as it does a full disk. The signal that
/// would end the process is ignored, as services do.
#[test]
fn a_full_disk_is_an_error_with_a_remedy_and_loses_nothing_durable() {
    let dir = scratch();
    let test = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$0\" --exact disk_full::until_full --ignored"])
        .arg(test)
        .env(DIR, dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(found_whole(dir.path()));
}

async fn found_whole(dir: &Path) {
    let durable: u64 = std::fs::read_to_string(dir.join("durable")).unwrap().parse().unwrap();
    let journal = Journal::open(roomy(dir)).await.unwrap();
    let entries: Vec<Entry> = history(4, 300);
    let found = all_after(&journal, &at(100)).await;
    assert_eq!(found, entries[..found.len()]);
    assert!(found.last().unwrap().to >= at(durable) && durable > 100);
    // With room again it goes on.
    append_all(&journal, &entries[found.len()..found.len() + 50]).await;
}

fn roomy(dir: &Path) -> syncline_journal::Options {
    syncline_journal::Options { segment_bytes: 1 << 30, ..small(dir) }
}

#[tokio::test]
#[ignore = "run by the test above, in a process of its own"]
async fn until_full() {
    let dir = PathBuf::from(std::env::var(DIR).unwrap());
    let journal = opened(roomy(&dir)).await;
    let mut failure = None;
    for entry in history(4, 300) {
        if let Err(error) = journal.append(entry).await {
            failure = Some(error);
            break;
        }
    }
    let failure = failure.expect("the limit was never reached");
    assert_eq!(failure.kind(), ErrorKind::Resource, "{failure:?}");
    assert!(failure.remedy().unwrap().contains(&dir.display().to_string()));
    assert_eq!(journal.failed().unwrap().kind(), ErrorKind::Resource);
    assert_eq!(journal.close().await.unwrap_err().kind(), ErrorKind::Resource);
    let durable = journal.durable();
    assert!(durable.has_changed().is_err(), "who waits for more must be told");
    let durable = durable.borrow().as_u64().unwrap();
    std::fs::write(dir.join("durable"), durable.to_string()).unwrap();
}
