//! What a change becomes, for each kind of row key and old row.

use super::super::pgoutput::Message;
use super::super::samples::{b, delete, insert, show, table, update};
use super::*;

const NULL: Value<'_> = Value::Null;
const KEPT: Value<'_> = Value::Unchanged;

fn apply(rows: &mut TableRows, message: &[u8]) -> Result<(), Reject> {
    let place = Place { ordinal: rows.len() as u64 + 1, transaction: 0 };
    match Message::parse(message)? {
        Message::Insert { new, .. } => rows.insert(new, place),
        Message::Update { old, new, .. } => rows.update(old, new, place),
        Message::Delete { old, .. } => rows.delete(old, place),
        _ => panic!("not a change"),
    }
}

/// Table of columns k, v, t with these key columns.
fn gathered(row_key: &[usize], messages: &[Vec<u8>]) -> Vec<String> {
    let mut rows = TableRows::new(table("t", &["k", "v", "t"], row_key)).unwrap();
    messages.iter().for_each(|message| apply(&mut rows, message).unwrap());
    show(&rows.finish().unwrap())
}

/// Why a change is refused; what is gathered stays as it was.
fn rejected(row_key: &[usize], message: &[u8]) -> &'static str {
    let mut rows = TableRows::new(table("t", &["k", "v", "t"], row_key)).unwrap();
    apply(&mut rows, &insert(1, &[b("0"), b("0"), b("0")])).unwrap();
    let reject = apply(&mut rows, message).unwrap_err();
    rows.truncate(1).unwrap();
    apply(&mut rows, &insert(1, &[b("2"), b("2"), b("2")])).unwrap();
    assert_eq!(show(&rows.finish().unwrap()), ["Insert 0,0,0", "Insert 2,2,2"]);
    text(&reject)
}

fn text(reject: &Reject) -> &'static str {
    match reject {
        Reject::Malformed(_) => "malformed",
        Reject::Unfit(why) => why,
        Reject::Value(error) | Reject::Broken(error) => panic!("{error}"),
    }
}

#[test]
fn a_table_with_a_row_key() {
    let changes = [
        insert(1, &[b("1"), b("a"), NULL]),
        update(1, None, &[b("1"), b("b"), KEPT]),
        update(1, Some((b'K', &[b("1"), NULL, NULL])), &[b("2"), b("b"), KEPT]),
        delete(1, b'K', &[b("2"), NULL, NULL]),
    ];
    assert_eq!(
        gathered(&[0], &changes),
        ["Insert 1,a,-", "Update 1,b,- without [2]", "Update 2,b,- without [2] was 1", "Delete 2,-,-"]
    );
}

#[test]
fn trap_8_unchanged_toast_is_filled_only_from_a_whole_old_row() {
    let changes = [
        update(1, Some((b'O', &[b("1"), b("a"), b("big")])), &[b("1"), b("b"), KEPT]),
        update(1, Some((b'K', &[b("1"), NULL, NULL])), &[b("9"), b("b"), KEPT]),
    ];
    assert_eq!(gathered(&[0], &changes), ["Update 1,b,big", "Update 9,b,- without [2] was 1"]);
}

#[test]
fn trap_8_a_toasted_key_is_known_by_its_old_value_or_not_at_all() {
    let key_sent = update(1, Some((b'K', &[NULL, NULL, b("big")])), &[b("1"), b("b"), KEPT]);
    assert_eq!(gathered(&[2], &[key_sent]), ["Update 1,b,big"]);
    assert_eq!(rejected(&[2], &update(1, None, &[b("1"), b("b"), KEPT])), text(&KEY_UNCHANGED));
}

#[test]
fn an_old_key_stands_only_where_the_key_changed_and_in_key_order() {
    let changes = [
        update(1, Some((b'O', &[b("1"), b("x"), b("t")])), &[b("1"), b("x"), b("u")]),
        update(1, Some((b'O', &[b("1"), b("x"), b("t")])), &[b("1"), b("y"), b("t")]),
        insert(1, &[b("3"), b("z"), b("t")]),
        update(1, Some((b'K', &[b("1"), b("y"), NULL])), &[b("2"), b("y"), b("t")]),
    ];
    assert_eq!(
        gathered(&[1, 0], &changes),
        ["Update 1,x,u", "Update 1,y,t was x,1", "Insert 3,z,t", "Update 2,y,t was y,1"]
    );
}

#[test]
fn a_table_without_a_row_key_keeps_whole_old_rows() {
    let changes = [
        insert(1, &[b("1"), b("a"), NULL]),
        update(1, Some((b'O', &[b("1"), b("a"), b("big")])), &[b("1"), b("a"), KEPT]),
        delete(1, b'O', &[b("1"), NULL, b("big")]),
    ];
    assert_eq!(gathered(&[], &changes), ["Insert 1,a,-", "Update 1,a,big was 1,a,big", "Delete 1,-,big"]);
}

#[test]
fn trap_11_a_change_that_does_not_identify_its_row_is_refused() {
    let key_only = [b("1"), NULL, NULL];
    assert_eq!(rejected(&[], &update(1, None, &[b("1"), b("a"), NULL])), text(&NO_OLD_ROW));
    assert_eq!(
        rejected(&[], &update(1, Some((b'K', &key_only)), &[b("1"), b("a"), NULL])),
        text(&NO_OLD_ROW)
    );
    assert_eq!(rejected(&[], &delete(1, b'K', &key_only)), text(&NO_OLD_ROW));
    // The identity of a partition may be another index than the root's.
    assert_eq!(rejected(&[1], &delete(1, b'K', &key_only)), text(&KEY_NOT_SENT));
    assert_eq!(
        rejected(&[1], &update(1, Some((b'K', &key_only)), &[b("1"), b("a"), NULL])),
        text(&KEY_NOT_SENT)
    );
    assert_eq!(rejected(&[0], &insert(1, &[b("1"), Value::Text(b"a"), NULL])), text(&OTHER_FORM));
}

#[test]
fn rows_of_another_width_are_malformed() {
    for width in [0, 1, 2, 4] {
        let message = insert(1, &vec![b("x"); width]);
        assert_eq!(rejected(&[0], &message), "malformed", "{width}");
    }
}

#[test]
fn truncating_forgets_masks_and_old_rows_too() {
    let mut rows = TableRows::new(table("t", &["k", "v", "t"], &[0])).unwrap();
    let moved = |from, to| update(1, Some((b'K', &[b(from), NULL, NULL])), &[b(to), b("v"), KEPT]);
    apply(&mut rows, &moved("1", "2")).unwrap();
    apply(&mut rows, &moved("3", "4")).unwrap();
    apply(&mut rows, &insert(1, &[b("5"), b("v"), b("t")])).unwrap();
    rows.truncate(1).unwrap();
    apply(&mut rows, &insert(1, &[b("6"), b("v"), b("t")])).unwrap();
    apply(&mut rows, &moved("7", "8")).unwrap();
    let batch = rows.finish().unwrap();
    let expected = ["Update 2,v,- without [2] was 1", "Insert 6,v,t", "Update 8,v,- without [2] was 7"];
    assert_eq!(show(&batch), expected);
    let (head, tail) = split(batch, 1);
    assert_eq!(show(&head.check().unwrap()), expected[..1]);
    assert_eq!(show(&tail.check().unwrap()), expected[1..]);
    assert!(rows.finish().unwrap().is_empty());
}
