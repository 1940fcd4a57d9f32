//! Dead letters: a constraint at the destination refuses rows. Exactly these are set aside, with the reason, and when it is
//! gone both sides are equal, whatever became of the rows meanwhile.

use rusqlite::Connection;
use serde_json::Value;
use syncline_testkit::compare::postgres::Comparison;
use syncline_testkit::compare::sqlite;

use super::pair::{COPY, NAME, Pair, SHOP};
use crate::process::{EndsWith, Room};

/// `big` stands outside its row, so an update that leaves it alone does not carry it.
const TABLE: &str = "CREATE TABLE item (id int PRIMARY KEY, note text, amount numeric(10, 2), big text);
    ALTER TABLE item ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE other (id int PRIMARY KEY, note text);
    INSERT INTO item SELECT i, 'note ' || i, i, repeat('x' || i, 2000) FROM generate_series(1, 2000) i";

const CONSTRAINT: &str = "ALTER TABLE item ADD CONSTRAINT no_bad CHECK (note NOT LIKE 'bad%') NOT VALID";
const WITHOUT: &str = "ALTER TABLE item DROP CONSTRAINT no_bad";

/// Both sides equal; from now on the destination takes no row whose note begins with `bad`.
async fn refusing() -> Option<Pair> {
    let pair = Pair::start().await?;
    pair.source.execute(SHOP, TABLE).await;
    pair.run_well(&[]);
    pair.ask_destination(CONSTRAINT);
    Some(pair)
}

pub(crate) fn letters(room: &Room) -> Vec<Value> {
    let listed = room.run(&["dead-letters", "list", NAME, "--output", "json"]).ends_with(0).stdout;
    listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The refusal is over: the next run brings everything, and nothing is left of it.
async fn assert_mends(pair: &Pair) {
    pair.ask_destination(WITHOUT);
    pair.run_well(&[]);
    pair.assert_same().await;
    assert!(letters(&pair.room).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_25_of_ten_thousand_changes_exactly_the_three_at_fault_are_set_aside() {
    let Some(pair) = refusing().await else { return };
    let changes = "BEGIN;
        INSERT INTO item SELECT i, CASE WHEN i IN (3007, 8000) THEN 'bad secret' ELSE 'good' END, i, 'small'
            FROM generate_series(2001, 10000) i;
        UPDATE item SET amount = amount + 1 WHERE id <= 1500; UPDATE item SET note = 'bad secret' WHERE id = 77;
        DELETE FROM item WHERE id BETWEEN 1501 AND 2000; INSERT INTO other VALUES (1, 'goes on');
        COMMIT";
    pair.source.execute(SHOP, changes).await;
    let ended = pair.run_well(&[]);
    assert!(ended.stdout.contains("3 dead letters"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("secret") && !ended.stderr.contains("secret"), "{ended:?}");
    let listed = letters(&pair.room);
    assert_eq!(listed.len(), 3, "{listed:#?}");
    for letter in &listed {
        assert_eq!(
            (&letter["code"], &letter["table"]["name"]),
            (&Value::from("23514"), &Value::from("item"))
        );
        let reason = letter["reason"].as_str().unwrap();
        assert!(reason.contains("no_bad") && !reason.contains("secret"), "{reason}");
    }
    assert_eq!(pair.room.status(NAME).unwrap()["status"]["dead_letters"], 3);
    // All but them is there, to the row, and of them what was there before.
    let rest = "SELECT count(*), sum(amount), sum(id) FROM item WHERE id NOT IN (77, 3007, 8000)";
    assert_eq!(pair.ask_destination(rest), pair.ask_source(rest));
    assert_eq!(pair.ask_destination("SELECT note FROM item WHERE id IN (77, 3007, 8000)"), "note 77");
    assert_eq!(pair.ask_destination("SELECT note FROM other"), "goes on");

    let mut shown: Vec<String> = listed
        .iter()
        .map(|letter| {
            pair.room.run(&["dead-letters", "show", NAME, &letter["letter"].to_string()]).ends_with(0).stdout
        })
        .collect();
    shown.sort_by_key(|text| text.contains("  insert"));
    assert!(shown[0].contains("id = 77") && shown[0].contains("note = bad secret"), "{}", shown[0]);
    assert!(shown[0].contains("big as it is at the destination"), "{}", shown[0]);
    assert!(shown[1].contains("insert") && shown[1].contains("big = small"), "{}", shown[1]);

    // In vain; and they are still as they were.
    let retried = pair.room.run(&["dead-letters", "retry", NAME]).ends_with(1);
    assert!(retried.stdout.contains("0 dead letters loaded, 3 refused again"), "{retried:?}");
    assert_eq!(letters(&pair.room).len(), 3);
    assert_mends(&pair).await;
}

/// A verification tells them from drift, and a repair beside the stream, which could only overtake them, is refused.
#[tokio::test(flavor = "multi_thread")]
async fn letters_are_no_drift_and_are_not_overtaken_by_a_repair() {
    let Some(pair) = refusing().await else { return };
    pair.source.execute(SHOP, "UPDATE item SET note = 'bad' WHERE id IN (1, 2)").await;
    pair.run_well(&[]);
    pair.ask_destination("UPDATE item SET note = 'drift' WHERE id = 3");
    let verify = |more: &[&str]| pair.room.run(&[&["verify", NAME, "--output", "json"], more].concat());
    let found = |stdout: &str| {
        let lines = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut tables = lines.filter(|line| line["verified"]["table"]["name"] == "item");
        let table = tables.next().unwrap()["verified"].clone();
        (table["drift"]["changed"].clone(), table["set_aside"].clone(), table["repaired"].clone())
    };
    assert_eq!(found(&verify(&[]).ends_with(3).stdout), (1.into(), 2.into(), 0.into()));
    assert_eq!(found(&verify(&["--repair"]).ends_with(0).stdout), (1.into(), 2.into(), 1.into()));
    assert_eq!(found(&verify(&[]).ends_with(0).stdout), (0.into(), 2.into(), 0.into()));
    let urls = [pair.source.url(SHOP), pair.destination.url(COPY)];
    let refused = pair.room.run(&["diff", &urls[0], &urls[1], "--repair"]).ends_with(2);
    let told = format!("{}{}", refused.stdout, refused.stderr);
    assert!(told.contains("set aside as dead letters") && told.contains("dead-letters list"), "{told}");
    assert_eq!(
        pair.ask_destination("SELECT note FROM item WHERE id <= 3 ORDER BY id"),
        "note 1\nnote 2\nnote 3"
    );
    assert_eq!(letters(&pair.room).len(), 2);
    assert_mends(&pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn later_changes_supersede_a_letter_or_wait_behind_it() {
    let Some(pair) = refusing().await else { return };
    let bad = "UPDATE item SET note = 'bad' WHERE id IN (1, 2, 3); UPDATE item SET id = 5004, note = 'bad' WHERE id = 4;
        INSERT INTO item VALUES (5005, 'bad', 5, 'new'), (5006, 'bad', 6, repeat('new', 2000))";
    pair.source.execute(SHOP, bad).await;
    pair.run_well(&[]);
    assert_eq!(letters(&pair.room).len(), 6);
    // A whole row, a delete, part of a row (the rest of it at the destination, and in the letter), a row at a key that a
    // letter still has, and a letter that moves on.
    let later = "UPDATE item SET note = 'fine', big = 'short' WHERE id = 1; DELETE FROM item WHERE id = 2;
        UPDATE item SET amount = 33 WHERE id = 3; UPDATE item SET amount = 66 WHERE id = 5006;
        INSERT INTO item VALUES (4, 'takes the key', 4, 'its own'); UPDATE item SET id = 6004 WHERE id = 5004;
        UPDATE item SET id = 5004 WHERE id = 10";
    pair.source.execute(SHOP, later).await;
    pair.run_well(&[]);
    let there =
        "SELECT id, note, amount FROM item WHERE id IN (1, 2, 3, 4, 5004, 5005, 5006, 6004) ORDER BY id";
    assert_eq!(pair.ask_destination(there), "1|fine|1.00\n3|note 3|3.00\n4|note 4|4.00\n5004|note 10|10.00");
    let listed = letters(&pair.room);
    assert_eq!(listed.len(), 5, "{listed:#?}");
    assert_mends(&pair).await;
}

/// Text that is cast on the way, in rows of a table that stopped before: its lane is sifted on its way back.
#[tokio::test(flavor = "multi_thread")]
async fn rows_with_a_label_that_the_destination_does_not_know_are_set_aside() {
    let Some(pair) = Pair::start().await else { return };
    let table = "CREATE TYPE mood AS ENUM ('sad', 'fine'); CREATE TABLE person (id int PRIMARY KEY, mood mood, note text);
        INSERT INTO person SELECT i, 'fine', 'x' FROM generate_series(1, 1000) i";
    pair.source.execute(SHOP, table).await;
    pair.run_well(&[]);
    pair.source.execute(SHOP, "ALTER TYPE mood ADD VALUE 'happy'").await;
    pair.source
        .execute(SHOP, "UPDATE person SET mood = 'happy' WHERE id % 300 = 0; UPDATE person SET note = 'y'")
        .await;
    pair.run(&["--dead-letters-max", "0"]).ends_with(1);
    pair.run_well(&[]);
    assert_eq!(letters(&pair.room).len(), 3);
    assert_eq!(pair.ask_destination("SELECT count(*) FROM person WHERE note = 'y'"), "997");
    pair.ask_destination("ALTER TYPE mood ADD VALUE 'happy'");
    pair.run_well(&[]);
    pair.assert_same().await;
    assert!(letters(&pair.room).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_leaves_no_letter() {
    let Some(pair) = refusing().await else { return };
    pair.source.execute(SHOP, "UPDATE item SET note = 'bad' WHERE id < 10").await;
    pair.run_well(&[]);
    assert_eq!(letters(&pair.room).len(), 9);
    pair.source
        .execute(SHOP, "BEGIN; TRUNCATE item; INSERT INTO item VALUES (1, 'good', 1, 'x'); COMMIT")
        .await;
    pair.run_well(&[]);
    assert!(letters(&pair.room).is_empty());
    pair.assert_equal(&Comparison::new()).await;
    assert_mends(&pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_rows_that_one_index_excludes_one_is_set_aside() {
    let Some(pair) = refusing().await else { return };
    pair.ask_destination("CREATE UNIQUE INDEX only_once ON item (note)");
    let changes = "BEGIN; INSERT INTO item SELECT i, 'new ' || i, i, NULL FROM generate_series(3000, 3500) i;
        UPDATE item SET note = 'twice' WHERE id IN (3100, 3400); UPDATE item SET note = 'note 1 to 7' WHERE id = 1;
        UPDATE item SET note = 'note 1' WHERE id = 7; UPDATE item SET note = 'note 7' WHERE id = 1; COMMIT";
    pair.source.execute(SHOP, changes).await;
    pair.run_well(&[]);
    let listed = letters(&pair.room);
    assert_eq!((listed.len(), &listed[0]["code"]), (1, &Value::from("23505")), "{listed:#?}");
    let counted = "SELECT count(*), count(*) FILTER (WHERE note = 'twice') FROM item";
    assert_eq!(pair.ask_destination(counted), "2500|1");
    assert_eq!(
        pair.ask_destination("SELECT note FROM item WHERE id IN (1, 7) ORDER BY id"),
        "note 7\nnote 1"
    );
    pair.ask_destination("DROP INDEX only_once");
    assert_mends(&pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_budget_a_run_ends_with_5_and_nothing_is_lost() {
    let Some(pair) = refusing().await else { return };
    pair.source
        .execute(SHOP, "UPDATE item SET note = 'bad' WHERE id <= 30; INSERT INTO other VALUES (1, 'x')")
        .await;
    let ended = pair.run(&["--dead-letters-max", "29"]).ends_with(5);
    assert!(
        ended.stderr.contains("more than 29 rows") && ended.stderr.contains("remedy"),
        "{}",
        ended.stderr
    );
    assert_eq!(pair.ask_destination("SELECT count(*) FROM other"), "0");
    assert!(letters(&pair.room).is_empty());
    // Without one the table stops, and the other goes on.
    let ended = pair.run(&["--dead-letters-max", "0"]).ends_with(1);
    assert!(ended.stderr.contains("stopped: public.item"), "{}", ended.stderr);
    assert_eq!(pair.ask_destination("SELECT count(*) FROM other"), "1");
    pair.run_well(&["--dead-letters-max", "30"]);
    assert_eq!(letters(&pair.room).len(), 30);
    assert_mends(&pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_command_letters_are_tried_again_or_discarded_while_nothing_runs() {
    let Some(pair) = refusing().await else { return };
    let follows = pair.follow(&[]);
    pair.source.execute(SHOP, "UPDATE item SET note = 'bad' WHERE id IN (5, 6)").await;
    super::pair::wait_until("letters", crate::process::RUN_MAX, || letters(&pair.room).len() == 2);
    for command in [vec!["retry", NAME], vec!["discard", NAME, "1"]] {
        let refused = pair.room.run(&[vec!["dead-letters"], command].concat()).ends_with(2);
        assert!(refused.stderr.contains(&format!("process {}", follows.pid())), "{}", refused.stderr);
    }
    follows.interrupt();
    follows.wait(crate::process::RUN_MAX).ends_with(0);
    let listed = letters(&pair.room);
    let first = listed[0]["letter"].to_string();
    pair.room.run(&["dead-letters", "discard", NAME, &first]).ends_with(0);
    pair.room.run(&["dead-letters", "discard", NAME, &first]).ends_with(2);
    pair.ask_destination(WITHOUT);
    let retried = pair.room.run(&["dead-letters", "retry", NAME]).ends_with(0);
    assert!(retried.stdout.contains("1 dead letter loaded"), "{}", retried.stdout);
    let bad = "SELECT count(*) FROM item WHERE note = 'bad'";
    assert_eq!((pair.ask_source(bad), pair.ask_destination(bad)), ("2".to_owned(), "1".to_owned()));
    pair.source.execute(SHOP, "UPDATE item SET note = 'good' WHERE note = 'bad'").await;
    pair.run_well(&[]);
    pair.assert_same().await;
    pair.drop_pipeline();
    pair.assert_nothing_left();
}

/// SIGKILL before and after the commit that sets rows aside, and the one that brings them back.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn killed_around_the_commits_of_letters() {
    let Some(pair) = refusing().await else { return };
    for (round, place) in ["before_commit", "load_committed"].into_iter().enumerate() {
        let (low, high) = (round * 100, round * 100 + 60);
        let bad = format!("UPDATE item SET note = 'bad' || id WHERE id > {low} AND id <= {high} AND id % 3 = 0;
            UPDATE item SET amount = -id; UPDATE item SET id = -id WHERE id > {low} AND id <= {high} AND id % 30 = 0");
        pair.source.execute(SHOP, &bad).await;
        let killed = || {
            let ended = pair
                .sync(&[])
                .env("SYNCLINE_FAILPOINT", format!("{place}=kill@1"))
                .run(crate::process::RUN_MAX);
            assert_eq!(ended.signal(), Some(9), "{place} was not passed: {ended:?}");
        };
        let committed = place == "load_committed";
        killed();
        assert_eq!(letters(&pair.room).len(), if committed { 20 } else { 0 }, "killed somewhere else");
        pair.run_well(&[]);
        assert_eq!(letters(&pair.room).len(), 20, "{place}");
        pair.source.execute(SHOP, "UPDATE item SET amount = amount - 1 WHERE note LIKE 'bad%'").await;
        pair.ask_destination(WITHOUT);
        killed();
        assert_eq!(letters(&pair.room).len(), if committed { 0 } else { 20 }, "killed somewhere else");
        pair.run_well(&[]);
        pair.assert_same().await;
        assert!(letters(&pair.room).is_empty());
        pair.source.execute(SHOP, "UPDATE item SET note = 'good' WHERE note LIKE 'bad%'").await;
        pair.run_well(&[]);
        pair.ask_destination(CONSTRAINT);
    }
}

#[test]
fn sqlite_rows_at_fault_are_set_aside_and_come_when_they_may() {
    let room = Room::new();
    let source = Connection::open(room.path("a.db")).unwrap();
    let run = |sql: &str| source.execute_batch(sql).unwrap();
    run("PRAGMA journal_mode = wal; CREATE TABLE item (id INTEGER PRIMARY KEY, code TEXT, n INTEGER);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
         INSERT INTO item SELECT i, 'code ' || i, i FROM n");
    let sync = ["sync", &room.url("a.db"), &room.url("b.db"), "--name", NAME, "--capture", "triggers"];
    room.run(&sync).ends_with(0);
    let destination = Connection::open(room.path("b.db")).unwrap();
    destination.execute_batch("CREATE UNIQUE INDEX only_once ON item (code)").unwrap();
    // Two that take the code of others, two that exclude each other; two that exchange theirs are fine.
    run("BEGIN; UPDATE item SET n = -n; INSERT INTO item SELECT id + 10000, code || ' new', n FROM item;
         UPDATE item SET code = 'code 5' WHERE id IN (12, 10700); UPDATE item SET code = 'twice' WHERE id IN (800, 900);
         UPDATE item SET code = 'x' WHERE id = 1; UPDATE item SET code = 'code 1' WHERE id = 2999;
         UPDATE item SET code = 'code 2999' WHERE id = 1; COMMIT");
    room.run(&sync).ends_with(0);
    let listed = letters(&room);
    assert_eq!(listed.len(), 3, "{listed:#?}");
    let count = |sql: &str| destination.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM item"), 5999);
    assert_eq!(count("SELECT count(*) FROM item WHERE n > 0"), 2);
    assert!(!sqlite::differences(&room.path("a.db"), &room.path("b.db")).is_empty());
    let shown =
        room.run(&["dead-letters", "show", NAME, &listed[0]["letter"].to_string()]).ends_with(0).stdout;
    assert!(shown.contains("code = "), "{shown}");
    run(
        "UPDATE item SET code = 'free' WHERE id = 800; DELETE FROM item WHERE id = 10700; UPDATE item SET id = 20000 WHERE id = 12",
    );
    room.run(&sync).ends_with(0);
    destination.execute_batch("DROP INDEX only_once").unwrap();
    room.run(&sync).ends_with(0);
    assert!(letters(&room).is_empty());
    sqlite::assert_equal(&room.path("a.db"), &room.path("b.db"));
}
