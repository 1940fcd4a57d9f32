//! Dead letters of rows that are read: in a snapshot, in its window and in a recovery; of tables without a key; and of rows that
//! refer to others.

use rusqlite::Connection;
use serde_json::Value;
use syncline_testkit::compare::postgres::Comparison;
use syncline_testkit::compare::sqlite;

use super::letters::letters;
use super::pair::{COPY, NAME, Pair, SHOP};
use crate::process::{EndsWith, RUN_MAX, Room};

const TRUNCATE: [&str; 2] = ["--prepare", "truncate"];

/// A table with a key, and one without; `long` does not compress.
const SOURCE: &str = "CREATE TABLE item (id int PRIMARY KEY, note text, big text);
    ALTER TABLE item ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE line (note text, n int); ALTER TABLE line REPLICA IDENTITY FULL;
    CREATE FUNCTION long(n int) RETURNS text LANGUAGE sql AS
        $$ SELECT string_agg(md5(i::text || n), '') FROM generate_series(1, 300) i $$;
    INSERT INTO item SELECT i, CASE WHEN i IN (7, 999, 4000) THEN 'bad secret' ELSE 'note ' || i END, 'small'
        FROM generate_series(1, 4000) i;
    UPDATE item SET note = long(id) WHERE id = 501; UPDATE item SET big = repeat('x', 3000) WHERE id % 100 = 0;
    INSERT INTO line SELECT CASE WHEN i % 100 = 0 THEN 'bad' ELSE 'line' END, i / 2 FROM generate_series(1, 300) i";

/// What is there before, and refuses rows: checks, and an index that does not take large values.
const DESTINATION: &str = "CREATE TABLE item (id int PRIMARY KEY, note text, big text);
    ALTER TABLE item ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE line (note text CHECK (note <> 'bad'), n int);
    ALTER TABLE item ADD CONSTRAINT no_bad CHECK (note NOT LIKE 'bad%');
    CREATE INDEX short_notes ON item (note)";

const WITHOUT: &str = "ALTER TABLE item DROP CONSTRAINT no_bad; DROP INDEX short_notes;
    ALTER TABLE line DROP CONSTRAINT line_note_check";

/// With it the values of all tables travel as text.
const AS_TEXT: &str = "CREATE TABLE named (id int PRIMARY KEY, what regclass, note text);
    INSERT INTO named SELECT i, 'pg_class', CASE WHEN i = 70 THEN 'bad' ELSE 'note' END FROM generate_series(1, 300) i";
const AS_TEXT_THERE: &str =
    "CREATE TABLE named (id int PRIMARY KEY, what regclass, note text CHECK (note <> 'bad'))";

async fn refusing() -> Option<Pair> {
    let pair = Pair::start().await?;
    pair.source.execute(SHOP, SOURCE).await;
    pair.ask_destination(DESTINATION);
    Some(pair)
}

fn of_table(letters: &[Value], table: &str) -> usize {
    letters.iter().filter(|letter| letter["table"]["name"] == table).count()
}

async fn assert_mends(pair: &Pair, more: &[&str]) {
    pair.run_well(more);
    pair.assert_equal(&Comparison::new()).await;
    assert!(letters(&pair.room).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_25_rows_of_a_snapshot_at_fault_are_set_aside_and_the_rest_is_loaded() {
    for (resumable, as_text) in [(false, false), (true, false), (false, true), (true, true)] {
        let Some(pair) = refusing().await else { return };
        if as_text {
            pair.source.execute(SHOP, AS_TEXT).await;
            pair.ask_destination(AS_TEXT_THERE);
        }
        let more = if resumable { &["--snapshot", "resumable"][..] } else { &[] };
        let ended = pair.run_well(&[&TRUNCATE[..], more].concat());
        assert!(!ended.stdout.contains("secret") && !ended.stderr.contains("secret"), "{ended:?}");
        let listed = letters(&pair.room);
        let counts = ["item", "named", "line"].map(|table| of_table(&listed, table));
        assert_eq!(counts, [4, usize::from(as_text), 3], "{listed:#?}");
        assert_eq!(listed.iter().filter(|letter| letter["code"] == "54000").count(), 1, "{listed:#?}");
        let rest =
            "SELECT count(*), sum(id), count(DISTINCT note) FROM item WHERE id NOT IN (7, 501, 999, 4000)";
        assert_eq!(pair.ask_destination(rest), pair.ask_source(rest));
        assert_eq!(pair.ask_destination("SELECT count(*) FROM item"), "3996");
        assert_eq!(pair.ask_destination("SELECT count(*), count(DISTINCT n) FROM line"), "297|150");

        // Later changes: part of a row, a key that moves, a delete, a whole row; and rows without a key by their values.
        let later = "UPDATE item SET note = 'bad still' WHERE id = 4000; UPDATE item SET id = 4999 WHERE id = 7;
            DELETE FROM item WHERE id = 999; UPDATE item SET note = 'fine' WHERE id = 501;
            INSERT INTO item VALUES (7, 'takes the key', 'x');
            DELETE FROM line WHERE n = 100 AND note = 'bad'; UPDATE line SET n = n + 1 WHERE note = 'bad' AND n = 50;
            UPDATE line SET note = 'good' WHERE n = 150 AND note = 'bad'; UPDATE line SET note = 'bad' WHERE n = 3";
        pair.source.execute(SHOP, later).await;
        if as_text {
            pair.source.execute(SHOP, "UPDATE named SET note = 'fine' WHERE id = 70").await;
        }
        pair.run_well(&[]);
        let listed = letters(&pair.room);
        let counts = ["item", "named", "line"].map(|table| of_table(&listed, table));
        // What takes the key of a row that waits, waits with it: nobody knows here whether a row stood there before.
        assert_eq!(counts, [3, 0, 3], "{listed:#?}");
        assert_eq!(pair.ask_destination("SELECT note FROM item WHERE id IN (7, 501, 999, 4000)"), "fine");
        assert_eq!(pair.ask_destination("SELECT count(*) FROM line WHERE note = 'good'"), "1");
        pair.ask_destination(WITHOUT);
        assert_mends(&pair, &[]).await;
    }
}

/// More is refused than may be: the chunk is given up after as many refusals, and nothing of it is there.
#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_budget_a_snapshot_ends_with_5_and_goes_on_with_more() {
    let Some(pair) = refusing().await else { return };
    pair.source.execute(SHOP, "UPDATE item SET note = 'bad' WHERE id <= 3000").await;
    let ended = pair.run(&[&TRUNCATE[..], &["--dead-letters-max", "20"]].concat()).ends_with(5);
    assert!(ended.stderr.contains("more than 20 rows"), "{}", ended.stderr);
    assert_eq!(pair.ask_destination("SELECT count(*) FROM item"), "0");
    let stopped = pair.run(&["--dead-letters-max", "0"]).ends_with(1);
    assert!(stopped.stderr.contains("stopped: public.item"), "{}", stopped.stderr);
    pair.source.execute(SHOP, "UPDATE item SET note = 'good' WHERE note = 'bad' AND id > 10").await;
    pair.run_well(&[]);
    assert_eq!(of_table(&letters(&pair.room), "item"), 11);
    pair.ask_destination(WITHOUT);
    assert_mends(&pair, &[]).await;
}

/// What a window applies while chunks are still being read, and what is refused of it.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn killed_around_the_commits_of_chunks_with_letters() {
    for (place, all) in [("before_commit", &[2, 3, 4, 5][..]), ("chunk_committed", &[1, 2])] {
        for &nth in all {
            let Some(pair) = refusing().await else { return };
            let resumable = ["--snapshot", "resumable", "--workers", "1"];
            let killed = pair
                .sync(&[&TRUNCATE[..], &resumable].concat())
                .env("SYNCLINE_FAILPOINT", format!("{place}=kill@{nth}"))
                .run(RUN_MAX);
            assert_eq!(killed.signal(), Some(9), "{place} {nth} was not passed: {killed:?}");
            let changes = "UPDATE item SET note = 'bad ' || id WHERE id % 1000 = 1; UPDATE item SET id = -id WHERE id % 500 = 7;
                UPDATE line SET n = -n WHERE n % 10 = 0; UPDATE item SET note = 'note' WHERE id = 999";
            pair.source.execute(SHOP, changes).await;
            pair.run_well(&resumable);
            let listed = letters(&pair.room);
            let bad = "SELECT count(*) FROM item WHERE note LIKE 'bad%' OR length(note) > 2000";
            assert_eq!(
                of_table(&listed, "item").to_string(),
                pair.ask_source(bad),
                "{place} {nth}: {listed:#?}"
            );
            let there = "SELECT count(*) FROM item";
            let all: usize = pair.ask_source(there).parse().unwrap();
            let inserts = all - pair.ask_destination(there).parse::<usize>().unwrap();
            assert!(inserts <= listed.len(), "{inserts} rows are missing, {} are set aside", listed.len());
            pair.ask_destination(WITHOUT);
            assert_mends(&pair, &[]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_refused_in_a_recovery_are_set_aside() {
    let Some(pair) = refusing().await else { return };
    pair.run_well(&TRUNCATE);
    pair.source
        .execute(
            SHOP,
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'syncline_proof'",
        )
        .await;
    let gap = "UPDATE item SET note = 'bad ' || id WHERE id IN (20, 21); UPDATE item SET note = 'lost' WHERE id = 22;
        DELETE FROM item WHERE id = 999; UPDATE item SET note = 'fine' WHERE id = 7";
    pair.source.execute(SHOP, gap).await;
    let recover = ["--recover", "diff", "--guard", "all=off", "--prepare", "truncate"];
    pair.run_well(&recover);
    let listed = letters(&pair.room);
    // 20, 21, 501 and 4000; the table without a key is read again.
    assert_eq!((of_table(&listed, "item"), of_table(&listed, "line")), (4, 3), "{listed:#?}");
    assert_eq!(
        pair.ask_destination("SELECT note FROM item WHERE id IN (7, 20, 22) ORDER BY id"),
        "fine\nnote 20\nlost"
    );
    let verified = pair.room.run(&["verify", NAME, "--output", "json"]).ends_with(0).stdout;
    assert!(verified.contains("\"set_aside\":4"), "{verified}");
    pair.ask_destination(WITHOUT);
    assert_mends(&pair, &[]).await;
}

/// Where to go as a role that may not switch foreign keys off.
fn as_guest(pair: &Pair) -> [String; 2] {
    pair.ask_destination("CREATE ROLE guest LOGIN; GRANT CREATE ON DATABASE copy TO guest; GRANT ALL ON SCHEMA public TO guest");
    [pair.source.url(SHOP), pair.destination.url_as("guest", "", COPY)]
}

/// A row whose parent is refused comes and goes in one transaction that is larger than a part.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_load_takes_back_of_a_row_that_waits_does_not_come() {
    let Some(pair) = Pair::start().await else { return };
    let tables = "CREATE TABLE z_parent (id int PRIMARY KEY, note text);
        CREATE TABLE m_child (id int PRIMARY KEY, parent int REFERENCES z_parent, note text);
        INSERT INTO z_parent SELECT i, 'note' FROM generate_series(1, 20) i;
        INSERT INTO m_child SELECT i, i, 'note' FROM generate_series(1, 6) i";
    pair.source.execute(SHOP, tables).await;
    let urls = as_guest(&pair);
    let sync = || pair.room.syncline(&["sync", &urls[0], &urls[1], "--name", NAME]).run(RUN_MAX);
    sync().ends_with(0);
    pair.ask_destination("ALTER TABLE z_parent ADD CONSTRAINT no_bad CHECK (note <> 'bad') NOT VALID");
    // Between what comes and what takes it back is more than a part's memory.
    let changes = "BEGIN; INSERT INTO z_parent VALUES (500, 'bad');
        INSERT INTO m_child VALUES (7, 500, 'gone'), (8, 500, 'waits'), (9, 500, 'moves');
        UPDATE m_child SET parent = 500 WHERE id = 3;
        INSERT INTO z_parent SELECT i, repeat('x', 200000) FROM generate_series(1000, 1200) i;
        DELETE FROM m_child WHERE id = 7; UPDATE m_child SET parent = 2, note = 'fine' WHERE id IN (3, 9);
        COMMIT";
    pair.source.execute(SHOP, changes).await;
    sync().ends_with(0);
    let listed = letters(&pair.room);
    let counts = ["z_parent", "m_child"].map(|table| of_table(&listed, table));
    assert_eq!(counts, [1, 1], "{listed:#?}");
    assert_eq!(
        pair.ask_destination("SELECT id, parent, note FROM m_child WHERE id IN (3, 7, 8, 9) ORDER BY id"),
        "3|2|fine\n9|2|fine"
    );
    pair.ask_destination("ALTER TABLE z_parent DROP CONSTRAINT no_bad");
    sync().ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
    assert!(letters(&pair.room).is_empty());
}

/// A role that may not switch foreign keys off: a row whose parent was refused waits for it, and comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_refer_to_a_row_that_waits_come_after_it() {
    let Some(pair) = Pair::start().await else { return };
    let tables = "CREATE TABLE z_parent (id int PRIMARY KEY, note text);
        CREATE TABLE m_child (id int PRIMARY KEY, parent int REFERENCES z_parent);
        CREATE TABLE a_grandchild (id int PRIMARY KEY, child int REFERENCES m_child);
        INSERT INTO z_parent SELECT i, 'note' FROM generate_series(1, 300) i;
        INSERT INTO m_child SELECT i, i FROM generate_series(1, 300) i";
    pair.source.execute(SHOP, tables).await;
    let urls = as_guest(&pair);
    let sync = |more: &[&str]| {
        pair.room.syncline(&[&["sync", &urls[0], &urls[1], "--name", NAME], more].concat()).run(RUN_MAX)
    };
    sync(&[]).ends_with(0);
    assert_eq!(pair.ask_destination("SELECT count(*) FROM pg_constraint WHERE contype = 'f'"), "2");
    pair.ask_destination("ALTER TABLE z_parent ADD CONSTRAINT no_bad CHECK (note <> 'bad') NOT VALID");
    // Children before their parents in the order of names; two of six hundred have none, and one of them has a child.
    let changes = "BEGIN; INSERT INTO z_parent SELECT i, CASE WHEN i IN (500, 900) THEN 'bad' ELSE 'good' END
            FROM generate_series(400, 999) i;
        INSERT INTO m_child SELECT i, i FROM generate_series(400, 999) i;
        INSERT INTO a_grandchild SELECT i, i FROM generate_series(490, 510) i;
        UPDATE m_child SET parent = 500 WHERE id = 3; DELETE FROM m_child WHERE id = 5; DELETE FROM z_parent WHERE id = 5; COMMIT";
    pair.source.execute(SHOP, changes).await;
    sync(&[]).ends_with(0);
    let listed = letters(&pair.room);
    let counts = ["z_parent", "m_child", "a_grandchild"].map(|table| of_table(&listed, table));
    assert_eq!(counts, [2, 3, 1], "{listed:#?}");
    assert_eq!(listed.iter().filter(|letter| letter["code"] == "23503").count(), 4, "{listed:#?}");
    assert_eq!(
        pair.ask_destination("SELECT (SELECT count(*) FROM z_parent), (SELECT count(*) FROM m_child), parent FROM m_child WHERE id = 3"),
        "897|897|3"
    );
    // A later change of a row that waits, and still in vain.
    pair.source
        .execute(
            SHOP,
            "UPDATE m_child SET parent = 900 WHERE id = 3; UPDATE m_child SET parent = 1 WHERE id = 900",
        )
        .await;
    sync(&[]).ends_with(0);
    let listed = letters(&pair.room);
    assert_eq!(
        ["z_parent", "m_child", "a_grandchild"].map(|table| of_table(&listed, table)),
        [2, 2, 1],
        "{listed:#?}"
    );
    let retried = pair.room.run(&["dead-letters", "retry", NAME]).ends_with(1);
    assert!(retried.stdout.contains("0 dead letters loaded, 5 refused again"), "{retried:?}");
    pair.ask_destination("ALTER TABLE z_parent DROP CONSTRAINT no_bad");
    sync(&[]).ends_with(0);
    pair.assert_equal(&Comparison::new()).await;
    assert!(letters(&pair.room).is_empty());
}

/// The parent of a row is refused in the snapshot: the foreign key comes when the parent does.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_key_waits_for_the_rows_that_it_misses() {
    let Some(pair) = Pair::start().await else { return };
    let tables = "CREATE TABLE parent (id int PRIMARY KEY, note text);
        CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
        INSERT INTO parent SELECT i, CASE WHEN i = 30 THEN 'bad' ELSE 'note' END FROM generate_series(1, 50) i;
        INSERT INTO child SELECT i, i FROM generate_series(1, 50) i";
    pair.source.execute(SHOP, tables).await;
    pair.ask_destination(
        "CREATE TABLE parent (id int PRIMARY KEY, note text CONSTRAINT no_bad CHECK (note <> 'bad'))",
    );
    pair.run_well(&TRUNCATE);
    assert_eq!(letters(&pair.room).len(), 1);
    let keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'f'";
    assert_eq!(
        (pair.ask_destination(keys), pair.ask_destination("SELECT count(*) FROM child")),
        ("0".into(), "50".into())
    );
    pair.ask_destination("ALTER TABLE parent DROP CONSTRAINT no_bad");
    assert_mends(&pair, &[]).await;
    assert_eq!(pair.ask_destination(keys), "1");
}

/// An index that is built when all rows are there does not say which of them is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_unique_index_that_the_rows_do_not_allow_stops_its_table_and_says_what_to_do() {
    let Some(pair) = refusing().await else { return };
    pair.ask_destination(WITHOUT);
    pair.ask_destination("CREATE UNIQUE INDEX once ON item (left(note, 20))");
    let stopped = pair.run(&TRUNCATE).ends_with(1);
    assert!(
        stopped.stderr.contains("once") && stopped.stderr.contains("do not fit this index"),
        "{}",
        stopped.stderr
    );
    assert_eq!(pair.ask_destination("SELECT count(*) FROM line"), "300");
    pair.source.execute(SHOP, "UPDATE item SET note = 'note ' || id WHERE note LIKE 'bad%'").await;
    assert_mends(&pair, &[]).await;
}

#[test]
fn sqlite_rows_of_a_snapshot_at_fault_are_set_aside() {
    let room = Room::new();
    let source = Connection::open(room.path("a.db")).unwrap();
    let run = |sql: &str| source.execute_batch(sql).unwrap();
    run("PRAGMA journal_mode = wal; CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
         INSERT INTO item SELECT i, CASE WHEN i IN (5, 1700) THEN NULL ELSE i END FROM n");
    let destination = Connection::open(room.path("b.db")).unwrap();
    destination.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)").unwrap();
    let base = ["sync", &room.url("a.db"), &room.url("b.db"), "--name", NAME, "--capture", "triggers"];
    room.run(&[&base[..], &TRUNCATE].concat()).ends_with(0);
    let listed = letters(&room);
    assert_eq!(listed.len(), 2, "{listed:#?}");
    let count = |sql: &str| destination.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM item"), 2998);
    run("UPDATE item SET n = 17 WHERE id = 1700; UPDATE item SET id = 9005 WHERE id = 5");
    room.run(&base).ends_with(0);
    let listed = letters(&room);
    assert_eq!(listed.len(), 1, "{listed:#?}");
    run("UPDATE item SET n = 5 WHERE id = 9005");
    room.run(&base).ends_with(0);
    assert!(letters(&room).is_empty());
    // The comparison is one of definitions, too.
    let like_the_source =
        "ALTER TABLE item RENAME TO refusing; CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER);
        INSERT INTO item SELECT * FROM refusing; DROP TABLE refusing";
    destination.execute_batch(like_the_source).unwrap();
    sqlite::assert_equal(&room.path("a.db"), &room.path("b.db"));
}
