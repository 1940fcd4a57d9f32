//! Which entries a sequence of messages becomes.

use super::super::pgoutput::Value;
use super::super::samples::{self, b, begin, commit, insert, message, show, table, truncate, update};
use super::*;

fn assembler(from: u64) -> Assembler {
    let tables = [table("t", &["k", "v"], &[0]), table("u", &["k", "v"], &[0])];
    Assembler::new(&tables, HashMap::new(), Lsn(from)).unwrap()
}

fn describe(relation: u32, name: &str) -> Vec<u8> {
    samples::relation(relation, "public", name, b'd', &[("k", 17, true), ("v", 17, false)])
}

fn feed(assembler: &mut Assembler, messages: &[Vec<u8>]) {
    messages.iter().for_each(|message| assembler.message(message).unwrap());
}

/// `from..to [xids] table: changes; …` per entry.
fn events(assembler: &mut Assembler) -> Vec<String> {
    let number = |position: &syncline_core::Position| position.as_u64().unwrap();
    std::iter::from_fn(|| assembler.pop())
        .map(|event| match event {
            StreamEvent::TableStopped { table, error } => {
                assert_eq!((error.kind(), error.table()), (ErrorKind::Data, Some(&table)));
                assert!(error.remedy().is_some());
                format!("stopped {table}")
            }
            StreamEvent::Entry(entry) => {
                let xids: Vec<_> = entry.transactions.iter().map(|t| t.id).collect();
                let batch = |batch: &ChangeBatch| {
                    assert!(batch.ordinals.is_sorted_by(|a, b| a < b));
                    let rows: Vec<_> = show(batch)
                        .iter()
                        .zip(&batch.transactions)
                        .map(|(row, t)| format!("{row}@{t}"))
                        .collect();
                    format!(" {}: {}", batch.table.id.name, rows.join(" / "))
                };
                let batches: String = entry.batches.iter().map(batch).collect();
                format!("{}..{} {xids:?}{batches}", number(&entry.from), number(&entry.to))
            }
        })
        .collect()
}

#[test]
fn whole_transactions_become_one_entry_that_ends_at_the_last_commit() {
    let mut assembler = assembler(100);
    let one = [begin(110, 5, 7), describe(1, "t"), insert(1, &[b("1"), b("a")]), commit(110, 120)];
    feed(&mut assembler, &one);
    feed(
        &mut assembler,
        &[begin(130, 6, 6), describe(2, "u"), insert(2, &[b("2"), b("b")]), insert(1, &[b("3"), b("c")])],
    );
    assert!(!assembler.has_whole_changes());
    assert!(assembler.close().is_err());
    feed(&mut assembler, &[commit(130, 140)]);
    assert!(assembler.has_whole_changes());
    assembler.close().unwrap();
    assert_eq!(events(&mut assembler), ["100..140 [7, 6] t: Insert 1,a@0 / Insert 3,c@1 u: Insert 2,b@1"]);
    assert!(!assembler.has_whole_changes() && !assembler.has_progress());
}

#[test]
fn times_are_of_the_unix_epoch_and_ordinals_compare_between_tables() {
    let mut assembler = assembler(0);
    feed(&mut assembler, &[begin(10, 1_000_000, 7), describe(1, "t"), describe(2, "u")]);
    feed(
        &mut assembler,
        &[
            insert(1, &[b("1"), b("a")]),
            insert(2, &[b("1"), b("a")]),
            insert(1, &[b("2"), b("a")]),
            commit(10, 20),
        ],
    );
    assembler.close().unwrap();
    let Some(StreamEvent::Entry(entry)) = assembler.pop() else { panic!() };
    assert_eq!(entry.transactions[0].committed_at_us, 946_684_801_000_000);
    let (t, u) = (&entry.batches[0].ordinals, &entry.batches[1].ordinals);
    assert!(t[0] < u[0] && u[0] < t[1]);
}

#[test]
fn trap_2_what_was_received_before_is_dropped_by_position() {
    let mut assembler = assembler(120);
    let before = [begin(110, 5, 7), describe(1, "t"), insert(1, &[b("1"), b("a")]), commit(110, 121)];
    feed(&mut assembler, &before);
    assembler.close().unwrap();
    assert_eq!(events(&mut assembler), [""; 0]);
    // A commit record that starts exactly at the position lies after it.
    feed(&mut assembler, &[begin(120, 5, 8), insert(1, &[b("2"), b("b")]), commit(120, 130)]);
    assembler.close().unwrap();
    assert_eq!(events(&mut assembler), ["120..130 [8] t: Insert 2,b@0"]);
}

#[test]
fn progress_and_empty_transactions_move_the_position_only_between_transactions() {
    let mut assembler = assembler(100);
    assembler.seen(Lsn(90));
    assert!(!assembler.has_progress());
    feed(&mut assembler, &[begin(110, 5, 7), commit(110, 120)]);
    assert!(assembler.has_progress());
    feed(&mut assembler, &[message(0, 150), message(1, 999), vec![b'Y', 0], vec![b'O', 0]]);
    feed(&mut assembler, &[begin(160, 5, 7)]);
    assembler.seen(Lsn(200));
    assert_eq!(assembler.end(), Lsn(150));
    feed(&mut assembler, &[commit(160, 170)]);
    assembler.close().unwrap();
    assert_eq!(events(&mut assembler), ["100..170 []"]);
}

#[test]
fn a_large_transaction_goes_out_in_pieces_that_do_not_move_the_position() {
    let mut assembler = assembler(100);
    let big = vec![7_u8; PIECE_BYTES / 2 + 1];
    let row = |key| insert(1, &[b(key), Value::Binary(&big)]);
    feed(
        &mut assembler,
        &[begin(110, 5, 7), describe(1, "t"), insert(1, &[b("0"), b("a")]), commit(110, 120)],
    );
    feed(&mut assembler, &[begin(130, 5, 8), row("1"), row("2"), row("3"), row("4")]);
    feed(&mut assembler, &[insert(1, &[b("5"), b("z")]), commit(130, 140)]);
    let shape: Vec<_> = std::iter::from_fn(|| assembler.pop())
        .map(|event| {
            let StreamEvent::Entry(entry) = event else { panic!() };
            let xids: Vec<_> = entry.transactions.iter().map(|t| t.id).collect();
            (entry.from.as_u64().unwrap(), entry.to.as_u64().unwrap(), xids, entry.changes())
        })
        .collect();
    assert_eq!(
        shape,
        [(100, 120, vec![7], 1), (120, 120, vec![8], 2), (120, 120, vec![8], 2), (120, 140, vec![8], 1)]
    );
}

#[test]
fn a_large_transaction_is_closed_also_when_its_last_piece_is_empty() {
    let mut assembler = assembler(100);
    let big = vec![7_u8; PIECE_BYTES];
    feed(
        &mut assembler,
        &[begin(130, 5, 8), describe(1, "t"), insert(1, &[b("1"), Value::Binary(&big)]), commit(130, 140)],
    );
    let ends: Vec<_> = std::iter::from_fn(|| assembler.pop())
        .map(|event| match event {
            StreamEvent::Entry(entry) => (entry.is_piece(), entry.changes()),
            StreamEvent::TableStopped { .. } => panic!(),
        })
        .collect();
    assert_eq!(ends, [(true, 1), (false, 0)]);
}

#[test]
fn an_entry_closes_by_itself_at_the_first_commit_after_a_megabyte() {
    let mut assembler = assembler(100);
    let half = vec![7_u8; ENTRY_BYTES / 2];
    let row = |key| insert(1, &[b(key), Value::Binary(&half)]);
    feed(&mut assembler, &[begin(110, 5, 7), describe(1, "t"), row("1"), commit(110, 120)]);
    assert!(assembler.pop().is_none());
    feed(&mut assembler, &[begin(120, 5, 8), row("2"), commit(120, 130)]);
    let Some(StreamEvent::Entry(entry)) = assembler.pop() else { panic!() };
    assert_eq!((entry.changes(), entry.transactions.len()), (2, 2));
}

#[test]
fn trap_7_a_table_stops_before_the_transaction_that_does_not_fit_and_the_others_go_on() {
    let mut assembler = assembler(100);
    feed(
        &mut assembler,
        &[begin(110, 5, 7), describe(1, "t"), insert(1, &[b("1"), b("a")]), commit(110, 120)],
    );
    feed(
        &mut assembler,
        &[begin(130, 5, 8), describe(2, "u"), insert(2, &[b("2"), b("b")]), insert(1, &[b("3"), b("c")])],
    );
    let altered = samples::relation(1, "public", "t", b'd', &[("k", 17, true), ("v", 25, false)]);
    feed(
        &mut assembler,
        &[altered.clone(), insert(1, &[b("4"), b("d")]), insert(2, &[b("5"), b("e")]), commit(130, 140)],
    );
    // Whatever is said of it later, it stays stopped, and is said to be so once.
    feed(
        &mut assembler,
        &[begin(150, 5, 9), altered, describe(1, "t"), insert(1, &[b("6"), b("f")]), commit(150, 160)],
    );
    assembler.close().unwrap();
    assert_eq!(
        events(&mut assembler),
        [
            "100..120 [7] t: Insert 1,a@0",
            "120..120 [8] u: Insert 2,b@0",
            "stopped public.t",
            "120..140 [8] u: Insert 5,e@0",
            "140..160 []",
        ]
    );
}

#[test]
fn trap_8_a_change_that_cannot_be_identified_stops_its_table() {
    let mut assembler = assembler(100);
    feed(&mut assembler, &[begin(110, 5, 7), describe(1, "t"), insert(1, &[b("1"), b("a")])]);
    feed(
        &mut assembler,
        &[update(1, None, &[Value::Unchanged, b("b")]), insert(1, &[b("2"), b("a")]), commit(110, 120)],
    );
    assembler.close().unwrap();
    assert_eq!(events(&mut assembler), ["stopped public.t", "100..120 []"]);
}

#[test]
fn truncate_is_a_change_of_every_table_it_names() {
    let mut assembler = assembler(100);
    feed(
        &mut assembler,
        &[begin(110, 5, 7), describe(1, "t"), describe(2, "u"), insert(1, &[b("1"), b("a")])],
    );
    feed(&mut assembler, &[truncate(&[1, 2]), commit(110, 120)]);
    assembler.close().unwrap();
    assert_eq!(events(&mut assembler), ["100..120 [7] t: Insert 1,a@0 / Truncate -,-@0 u: Truncate -,-@0"]);
}

#[test]
fn messages_at_impossible_places_are_refused() {
    let change = || insert(1, &[b("1"), b("a")]);
    let sequences: [&[Vec<u8>]; 5] = [
        &[change()],
        &[begin(110, 5, 7), change()],
        &[commit(110, 120)],
        &[begin(110, 5, 7), begin(120, 5, 8)],
        &[begin(110, 5, 7), commit(110, 110)],
    ];
    for sequence in sequences {
        let mut assembler = assembler(100);
        let outcome = sequence.iter().try_for_each(|message| assembler.message(message));
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Permanent);
    }
}
