//! What two sketches say differs is what differs, whatever the rows are: repeated keys, keys of any length, empty rows.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use syncline_engine::diff::sketches::{
    Difference, DifferingRow, HashKey, Identity, KeyRange, Outcome, RowHash, Scan, Scanner, SketchSize,
    compare,
};

/// Key and value of a row.
type Row<'a> = (&'a [u8], u8);

/// How often more each row is on the left side than on the right.
type Counted = BTreeMap<RowHash, i64>;

const HASH_KEY: [u8; 32] = [9; 32];

fuzz_target!(|bytes: &[u8]| {
    let (left, right) = sides(bytes);
    let outcome = compare(&scan(&left), &scan(&right), 4).expect("honest sides understand each other");
    let truth = truly(&left, &right);
    match outcome {
        Outcome::Equal => assert_eq!(truth, Counted::new(), "a difference was not seen"),
        Outcome::Different(found) => assert_eq!(counted(&found), truth),
        // A sketch of 2^10 cells holds some 750 different rows.
        Outcome::Ranges { .. } | Outcome::TooLarge { .. } => {
            assert!(truth.len() > 200, "{truth:?} are too many")
        }
    }
});

/// Rows of two sides. Each begins with a byte: who has it (2 bits) and the length of its key; then key and value.
fn sides(mut bytes: &[u8]) -> (Vec<Row<'_>>, Vec<Row<'_>>) {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    while let Some((&head, rest)) = bytes.split_first() {
        let length = usize::from(head >> 2);
        let Some((key, rest)) = rest.split_at_checked(length) else { break };
        let Some((&value, rest)) = rest.split_first() else { break };
        if head & 1 == 0 {
            left.push((key, value));
        }
        if head & 3 != 2 {
            right.push((key, value));
        }
        bytes = rest;
    }
    (left, right)
}

fn scan(rows: &[Row<'_>]) -> Scan {
    let size = SketchSize::from_bits(10).expect("a size in bounds");
    let mut scan = Scanner::new(HashKey::new(HASH_KEY), Identity::Key, KeyRange::ALL, size);
    for row in rows {
        let (key, row) = encoded(row);
        scan.add_row(&key, &row);
    }
    scan.finish()
}

/// Key and row as the canonical encoding has them.
fn encoded((key, value): &Row<'_>) -> (Vec<u8>, Vec<u8>) {
    let length = i32::try_from(key.len()).expect("short").to_be_bytes();
    let key = [&length[..], key].concat();
    let row = [&key[..], &[0, 0, 0, 1, *value]].concat();
    (key, row)
}

fn truly(left: &[Row<'_>], right: &[Row<'_>]) -> Counted {
    let mut counted = Counted::new();
    for (rows, sign) in [(left, 1), (right, -1)] {
        for row in rows {
            *counted.entry(HashKey::new(HASH_KEY).row(&encoded(row).1)).or_default() += sign;
        }
    }
    counted.retain(|_, count| *count != 0);
    counted
}

fn counted(found: &Difference) -> Counted {
    let mut counted = Counted::new();
    let mut add = |rows: &[DifferingRow], sign: i64| {
        for row in rows {
            *counted.entry(row.row).or_default() += sign * i64::from(row.copies);
        }
    };
    add(&found.only_left, 1);
    add(&found.only_right, -1);
    for key in &found.repeated {
        add(&key.left, 1);
        add(&key.right, -1);
    }
    for row in &found.changed {
        *counted.entry(row.left).or_default() += 1;
        *counted.entry(row.right).or_default() -= 1;
    }
    counted
}
