//! What is found is what differs: for keys of all kinds and lengths, and for rows without a key.

use std::collections::BTreeSet;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

/// Keys of zero to 48 bytes, many of them alike or with zeros at the end.
fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(0u8..3, 0..6),
        vec(any::<u8>(), 0..49),
        any::<u64>().prop_map(|number| column(&number.to_be_bytes())),
        any::<u128>().prop_map(|uuid| column(&uuid.to_be_bytes())),
        vec(prop_oneof![Just(0u8), any::<u8>()], 30..36),
    ]
}

/// What a side does with a row.
fn fates() -> impl Strategy<Value = Vec<(Vec<u8>, u8, u64)>> {
    vec((any_key(), 0u8..8, any::<u64>()), 0..400)
}

fn sides(fates: &[(Vec<u8>, u8, u64)]) -> (Rows, Rows) {
    let (mut left, mut right) = (Rows::new(), Rows::new());
    for (key, fate, value) in fates {
        left.remove(key);
        right.remove(key);
        if *fate != 0 {
            left.insert(key.clone(), *value);
        }
        match fate {
            1 => None,
            2 => right.insert(key.clone(), value ^ 1),
            _ => right.insert(key.clone(), *value),
        };
    }
    (left, right)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_found_set_is_the_true_set(fates in fates(), seed: u8, bits in 10u32..13) {
        let (left, right) = sides(&fates);
        let key = hash_key(seed);
        let scan = |rows| scan_of(rows, &key, KeyRange::ALL, size(bits));
        let (found, _) = compare_by_bytes(&scan(&left), &scan(&right), 1);
        let expected = expected(&left, &right, &key);
        prop_assert_eq!(&compare(&scan(&left), &scan(&right), 1).unwrap(), &found);
        prop_assert_eq!(found, if expected.is_empty() { Outcome::Equal } else { Outcome::Different(expected) });
    }

    /// Trap: equal rows neither cancel nor stop a decode, however often each side has them.
    #[test]
    fn without_a_key_rows_are_counted(
        counts in btree_map(any::<u16>(), (0u32..9, prop_oneof![0u32..9, Just(64u32), Just(300)]), 0..120),
        seed: u8,
    ) {
        let key = hash_key(seed);
        let row = |number: &u16| column(&number.to_be_bytes());
        let mut sides = [(); 2].map(|()| Scanner::new(key.clone(), Identity::WholeRow, KeyRange::ALL, size(10)));
        for (number, (left, right)) in &counts {
            (0..*left).for_each(|_| sides[0].add_row(&[], &row(number)));
            (0..*right).for_each(|_| sides[1].add_row(b"ignored", &row(number)));
        }
        let sides = sides.map(Scanner::finish);
        let more = |of: fn(&(u32, u32)) -> (u32, u32)| {
            let more = counts.iter().map(|(number, counts)| (key.row(&row(number)), of(counts)));
            let more = more.filter(|(_, (these, those))| these > those);
            more.map(|(row, (these, those))| DifferingRow { key: KeyRef::Unknown, row, copies: these - those })
                .collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        let expected = Difference {
            only_left: more(|(left, right)| (*left, *right)),
            only_right: more(|(left, right)| (*right, *left)),
            ..Difference::default()
        };
        let (found, _) = compare_by_bytes(&sides[0], &sides[1], 1);
        prop_assert_eq!(found, if expected.is_empty() { Outcome::Equal } else { Outcome::Different(expected) });
    }
}

/// Sums of up to 2³¹ − 1 equal rows give the row back; more are undecodable, not wrong.
#[test]
fn copies_are_counted_up_to_their_bound() {
    let key = hash_key(1);
    let mut left = Scanner::new(key.clone(), Identity::WholeRow, KeyRange::ALL, SketchSize::MIN);
    let empty = left.clone().finish();
    left.add_row(&[], b"row");
    let mut left = left.finish();
    for doublings in 0..=32 {
        let outcome = compare(&left, &empty, 1).unwrap();
        if doublings < 31 {
            let Outcome::Different(found) = outcome else { panic!("2^{doublings} copies: {outcome:?}") };
            let row = DifferingRow { key: KeyRef::Unknown, row: key.row(b"row"), copies: 1 << doublings };
            assert_eq!(found, Difference { only_left: vec![row], ..Difference::default() });
        } else {
            assert!(matches!(outcome, Outcome::TooLarge { .. }), "2^{doublings} copies: {outcome:?}");
        }
        left.merge(&left.clone()).unwrap();
    }
}

#[test]
fn keys_that_a_side_has_twice_are_no_updates() {
    let key = hash_key(2);
    let scan = |rows: &[(&[u8], &[u8])]| {
        let mut scan = Scanner::new(key.clone(), Identity::Key, KeyRange::ALL, SketchSize::MIN);
        rows.iter().for_each(|(key, row)| scan.add_row(key, row));
        scan.finish()
    };
    let found =
        |left: &[(&[u8], &[u8])], right: &[(&[u8], &[u8])]| match compare(&scan(left), &scan(right), 1) {
            Ok(Outcome::Different(found)) => found,
            other => panic!("{other:?}"),
        };
    let row = |key_ref: KeyRef, row: &[u8], copies| DifferingRow { key: key_ref, row: key.row(row), copies };
    let named = || KeyRef::Bytes(b"k"[..].into());

    let two = found(&[(b"k", b"k1")], &[(b"k", b"k2"), (b"k", b"k3")]);
    assert_eq!((two.rows(), two.repeated.len(), two.changed.len()), (2, 1, 0));
    assert_eq!(two.repeated[0].left, [row(named(), b"k1", 1)]);
    assert_eq!(two.repeated[0].right.len(), 2);

    let same: (&[u8], &[u8]) = (b"k", b"k1");
    let thrice = found(&[], &[same; 3]);
    assert_eq!(thrice.repeated[0].right, [row(named(), b"k1", 3)]);
    let twice = found(&[], &[same; 2]);
    assert_eq!(twice.repeated[0].right, [row(KeyRef::Unknown, b"k1", 2)]);
    let lookup = Lookup::of(&twice, &key);
    assert!(!lookup.needs_only_keys());
    assert_eq!((lookup.row(b"k1"), lookup.row(b"k2")), (Some(key.row(b"k1")), None));
}

#[test]
fn long_keys_are_found_by_a_second_scan_of_the_key_columns() {
    let key = hash_key(3);
    let long = |number: u64| column(&[scattered(number).to_be_bytes(); 5].concat());
    let left: Rows = (0..500).map(|number| (long(number), number)).collect();
    let mut right = left.clone();
    right.insert(long(7), 0);
    right.remove(&long(8));
    right.insert(long(900), 0);
    let [ours, theirs] = [&left, &right].map(|rows| scan_of(rows, &key, KeyRange::ALL, size(8)));
    assert_eq!(ours.long_keys(), 500);
    let Outcome::Different(found) = compare(&ours, &theirs, 1).unwrap() else { panic!("not found") };
    assert_eq!(found, expected(&left, &right, &key));
    let lookup = Lookup::of(&found, &key);
    assert!(lookup.needs_only_keys() && !lookup.is_empty());
    let seen: BTreeSet<_> = (0..1000).map(long).filter(|long| lookup.key(long).is_some()).collect();
    assert_eq!(seen, [long(7), long(8), long(900)].into());
    assert!(Lookup::of(&Difference::default(), &key).is_empty());
}

#[test]
fn a_large_difference_goes_by_ranges() {
    let key = hash_key(4);
    let left: Rows = (0..4000).map(|number| (column(&scattered(number).to_be_bytes()), number)).collect();
    let mut right = left.clone();
    right.retain(|_, number| *number % 3 != 0);
    right.values_mut().filter(|value| **value % 3 == 1).for_each(|value| *value += 1);
    let scan = |rows, range| scan_of(rows, &key, range, size(9));
    let whole = (scan(&left, KeyRange::ALL), scan(&right, KeyRange::ALL));
    assert!(matches!(compare(&whole.0, &whole.1, 8).unwrap(), Outcome::TooLarge { .. }));
    let Outcome::Ranges { plan, estimate } = compare(&whole.0, &whole.1, 64).unwrap() else {
        panic!("no ranges")
    };
    assert!((2_800..5_600).contains(&estimate), "4,000 rows differ, estimated {estimate}");
    let mut open: Vec<_> = plan.collect();
    assert_eq!(open.len(), 16);
    let (mut all, mut scans) = (Difference::default(), 0);
    while let Some(range) = open.pop() {
        scans += 1;
        match compare(&scan(&left, range), &scan(&right, range), 64).unwrap() {
            Outcome::Different(mut found) => {
                all.only_left.append(&mut found.only_left);
                all.changed.append(&mut found.changed);
            }
            Outcome::Ranges { plan, .. } => open.extend(plan),
            other => panic!("{other:?}"),
        }
    }
    assert!(scans <= 24, "{scans} scans");
    all.only_left.sort_unstable();
    all.changed.sort_unstable();
    assert_eq!(all, expected(&left, &right, &key));
}
