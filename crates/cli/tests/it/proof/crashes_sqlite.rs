//! The crash matrix between two SQLite files: SIGKILL at every durable step, with an application at work in the source's
//! file; then restart until the end. The end state is equal.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};
use syncline_testkit::compare::sqlite;
use syncline_testkit::memory::Random;
use syncline_testkit::process::Syncline;

use super::pair::wait_until;
use crate::process::{EndsWith, RUN_MAX, Room};

const SIGKILL: i32 = 9;
const NAME: &str = "proof";

/// Rows of a table at the start.
const ROWS: i64 = 3_000;
/// So few that they make ten chunks.
const SMALL_CHUNKS: &str = "chunk_rows=size:300";

/// Longer than any transaction of ours.
const BUSY_MAX: Duration = Duration::from_secs(60);
/// Between two transactions of the application.
const PAUSE: Duration = Duration::from_millis(4);

/// A file with an application's tables, and where its copy will be.
struct Files {
    room: Room,
}

impl Files {
    fn new() -> Self {
        let room = Room::new();
        let source = Connection::open(room.path("a.db")).unwrap();
        source
            .execute_batch(&format!(
                "PRAGMA journal_mode = wal;
                 CREATE TABLE item (id INTEGER PRIMARY KEY, code TEXT, amount, note TEXT);
                 CREATE UNIQUE INDEX item_code ON item (code);
                 CREATE TABLE pair (a TEXT, b INTEGER, c, PRIMARY KEY (a, b)) WITHOUT ROWID;
                 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
                 INSERT INTO item SELECT i, 'code ' || i, i / 7.0, hex(randomblob(40)) FROM n;
                 INSERT INTO pair SELECT 'p' || id % 10, id, amount FROM item;"
            ))
            .unwrap();
        Self { room }
    }

    fn source(&self) -> PathBuf {
        self.room.path("a.db")
    }

    fn sync(&self, more: &[&str]) -> Syncline {
        let urls = [self.room.url("a.db"), self.room.url("b.db")];
        let base = ["sync", &urls[0], &urls[1], "--name", NAME, "--capture", "triggers"];
        self.room.syncline(&base.iter().chain(more).copied().collect::<Vec<_>>())
    }

    /// One run that is killed at the `n`-th pass of a place.
    fn killed_at(&self, place: &str, n: u32, more: &[&str]) {
        let failpoint = format!("{SMALL_CHUNKS},{place}=kill@{n}");
        let ended = self.sync(more).env("SYNCLINE_FAILPOINT", &failpoint).run(RUN_MAX);
        assert_eq!(ended.signal(), Some(SIGKILL), "{failpoint} was not passed: {ended:?}");
    }

    /// Restarts; the first one must already take over what the dead run held, and come to the end.
    fn restart(&self) {
        self.sync(&[]).env("SYNCLINE_FAILPOINT", SMALL_CHUNKS).run(RUN_MAX).ends_with(0);
    }

    #[track_caller]
    fn assert_equal(&self) {
        sqlite::assert_equal(&self.source(), &self.room.path("b.db"));
    }

    /// What of ours is in a file.
    fn left_in(&self, file: &str) -> Vec<String> {
        let file = Connection::open(self.room.path(file)).unwrap();
        let sql = "SELECT name FROM sqlite_schema WHERE name LIKE '%syncline%' OR sql LIKE '%syncline%'";
        let mut left = file.prepare(sql).unwrap();
        left.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }
}

/// The application: inserts, updates, moved keys, deletes, unique values that change hands, rows pushed out by others.
struct Application {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Application {
    fn start(file: &Path, seed: u64) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted, file) = (Arc::clone(&stop), Arc::clone(&done), file.to_owned());
        let thread = std::thread::spawn(move || {
            let mut connection = Connection::open(file).unwrap();
            connection.busy_timeout(BUSY_MAX).unwrap();
            let mut random = Random::new(seed);
            while !stopped.load(Ordering::Relaxed) {
                let transaction =
                    connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
                for _ in 0..=random.below(4) {
                    transaction.execute_batch(&statement(&mut random)).unwrap();
                }
                if random.chance(50) { transaction.rollback() } else { transaction.commit() }.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            }
        });
        Self { stop, done, thread }
    }

    /// Blocks until so many transactions more are done.
    fn go_on_for(&self, transactions: u64) {
        let wanted = self.done.load(Ordering::Relaxed) + transactions;
        wait_until("transactions of the application", RUN_MAX, || {
            assert!(!self.thread.is_finished(), "the application failed");
            self.done.load(Ordering::Relaxed) >= wanted
        });
    }

    /// Ends it. None of its writes may have failed.
    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// A change. One that does not fit, because of a duplicate or because there is no such row, does not happen.
fn statement(random: &mut Random) -> String {
    let space = ROWS.unsigned_abs() * 11 / 10;
    let (one, other, value) = (random.below(space), random.below(space), random.bits() % 1_000_000);
    match random.below(12) {
        0 | 1 => format!("INSERT OR IGNORE INTO item VALUES ({one}, 'new {value}', {value}, NULL)"),
        2 | 3 => format!("UPDATE item SET amount = {value}.5 WHERE id = {one}"),
        4 => format!("UPDATE OR IGNORE item SET id = {other} WHERE id = {one}"),
        5 => format!("UPDATE OR IGNORE item SET id = -id - 1 WHERE id BETWEEN {one} AND {one} + 3"),
        6 => format!("DELETE FROM item WHERE id = {one}"),
        7 => format!(
            "UPDATE item SET code = NULL WHERE id = {one};
             UPDATE OR IGNORE item SET code = 'code {one}' WHERE id = {other}"
        ),
        8 => format!("INSERT OR REPLACE INTO item VALUES ({one}, 'code {other}', 'replaced', '{value}')"),
        9 => format!("UPDATE OR IGNORE pair SET b = {other}, c = {value} WHERE b = {one}"),
        10 => format!("DELETE FROM pair WHERE b = {one}"),
        _ => format!("INSERT OR REPLACE INTO pair VALUES ('p{}', {one}, x'{value:08x}')", value % 10),
    }
}

/// Kills a new pipeline at a pass of a place, restarts it, and lets the application go on; at last both sides are equal.
fn survives(place: &str, passes: &[u32], seed: u64) {
    for &n in passes {
        let files = Files::new();
        let application = Application::start(&files.source(), seed + u64::from(n));
        files.killed_at(place, n, &[]);
        application.go_on_for(20);
        files.restart();
        application.go_on_for(20);
        application.stop();
        files.restart();
        files.assert_equal();
    }
}

#[test]
fn sqlite_killed_when_the_triggers_are_made() {
    survives("slot_made", &[1], 1);
}

#[test]
fn sqlite_killed_when_a_chunk_is_read() {
    survives("chunk_read", &[1, 5], 2);
}

#[test]
fn sqlite_killed_when_a_chunk_is_committed() {
    survives("chunk_committed", &[1, 5], 3);
}

#[test]
fn sqlite_killed_when_the_journal_is_synced() {
    survives("journal_synced", &[1, 2], 4);
}

#[test]
fn sqlite_killed_before_a_load_commits() {
    survives("before_commit", &[1, 4], 5);
}

#[test]
fn sqlite_killed_between_a_commit_and_its_answer() {
    survives("load_committed", &[1, 4], 6);
}

/// The same places, when the tables are consistent and only changes come; and the pruning of the log.
#[test]
fn sqlite_killed_at_every_step_of_the_stream() {
    let files = Files::new();
    files.restart();
    for (place, n) in [
        // Small entries are synced in groups, so a short backlog has one sync for certain.
        ("journal_synced", 1),
        ("before_commit", 1),
        ("before_commit", 3),
        ("load_committed", 1),
        ("load_committed", 3),
        ("slot_advanced", 1),
        ("slot_advanced", 2),
    ] {
        let application = Application::start(&files.source(), u64::from(n) + 7);
        application.go_on_for(20);
        files.killed_at(place, n, &["--follow"]);
        application.stop();
        files.restart();
        files.assert_equal();
    }
}

/// Not at a step but anywhere, and the dead run's lock holds nobody up.
#[test]
fn sqlite_killed_at_any_moment_and_taken_over_at_once() {
    let files = Files::new();
    let application = Application::start(&files.source(), 8);
    let mut random = Random::new(8);
    for _ in 0..4 {
        let mut running = files.sync(&["--follow"]).env("SYNCLINE_FAILPOINT", SMALL_CHUNKS).start();
        std::thread::sleep(Duration::from_millis(200 + random.below(1_200)));
        assert!(running.is_running(), "{}", running.stderr_so_far());
        let _ = running.kill_9();
    }
    let begun = Instant::now();
    let mut running = files.sync(&["--follow"]).start();
    files.room.wait_for_phase(NAME, "streaming", &mut running);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let _ = running.kill_9();
    application.stop();
    files.restart();
    files.assert_equal();
}

/// The journal's disk and the destination are slow, so that what was read is nowhere but in memory for a while. The source
/// must have kept it.
#[test]
fn sqlite_killed_while_changes_are_in_memory_only() {
    let files = Files::new();
    files.restart();
    let application = Application::start(&files.source(), 9);
    for _ in 0..3 {
        let slow = "journal_write=pause-each:1500,before_commit=pause-each:1500";
        let mut running = files.sync(&["--follow"]).env("SYNCLINE_FAILPOINT", slow).start();
        files.room.wait_for_phase(NAME, "streaming", &mut running);
        // The log is pruned once a second.
        std::thread::sleep(Duration::from_millis(2_500));
        let _ = running.kill_9();
        files.restart();
    }
    application.stop();
    files.restart();
    files.assert_equal();
}

#[test]
fn sqlite_a_drop_that_was_killed_half_done_is_finished_by_the_next() {
    let files = Files::new();
    files.restart();
    let dropping = files.room.syncline(&["drop", NAME]).env("SYNCLINE_FAILPOINT", "drop_half_done=kill");
    let ended = dropping.run(RUN_MAX);
    assert_eq!(ended.signal(), Some(SIGKILL), "{ended:?}");
    assert!(!files.left_in("a.db").is_empty() && files.left_in("b.db").is_empty(), "not half done");
    files.room.run(&["drop", NAME]).ends_with(0);
    assert_eq!((files.left_in("a.db"), files.left_in("b.db")), (Vec::new(), Vec::new()));
    files.assert_equal();
}
