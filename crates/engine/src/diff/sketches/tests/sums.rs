//! Folding, merging and growing are exact, in any order.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn scan(rows: &[(Vec<u8>, u64)], seed: u8, bits: u32) -> Scan {
    let mut scan = Scanner::new(hash_key(seed), Identity::Key, KeyRange::ALL, size(bits));
    rows.iter().for_each(|(key, value)| scan.add_row(key, &row_of(key, *value)));
    scan.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_fold_is_the_sketch_of_that_size(
        rows in vec((vec(any::<u8>(), 0..40), any::<u64>()), 0..200), seed: u8, large in 7u32..12, down in 1u32..6,
    ) {
        let small = (large - down.min(large - 6)).max(6);
        let whole = scan(&rows, seed, large);
        let folded = whole.sketch().fold(size(small)).unwrap();
        let built = scan(&rows, seed, small);
        prop_assert_eq!(&folded, built.sketch());
        let half = whole.sketch().fold(size(large - 1)).unwrap();
        prop_assert_eq!(half.fold(size(small)).unwrap(), folded);
    }

    #[test]
    fn what_is_missing_rebuilds_the_larger_sketch(
        rows in vec((vec(any::<u8>(), 0..40), any::<u64>()), 0..200), seed: u8, from in 6u32..10, up in 1u32..4,
    ) {
        let whole = scan(&rows, seed, from + up);
        let small = whole.sketch().fold(size(from)).unwrap();
        let sent = whole.sketch().growth(size(from)).unwrap();
        prop_assert_eq!(sent.len(), whole.sketch().size().cells() - small.size().cells());
        prop_assert_eq!(&small.grow(whole.sketch().size(), &sent).unwrap(), whole.sketch());
    }

    #[test]
    fn parts_of_a_side_merge_to_the_whole(
        rows in vec((vec(any::<u8>(), 0..40), any::<u64>()), 0..100), cut in 0usize..100, seed: u8,
    ) {
        let (first, second) = rows.split_at(cut.min(rows.len()));
        let mut parts = scan(second, seed, 8);
        parts.merge(&scan(first, seed, 8)).unwrap();
        let whole = scan(&rows, seed, 8);
        prop_assert_eq!(parts.digest(), whole.digest());
        prop_assert_eq!(parts.sketch(), whole.sketch());
        prop_assert_eq!(parts.long_keys(), whole.long_keys());
        prop_assert_eq!(parts.common(), whole.common());
    }
}

#[test]
fn what_does_not_belong_together_is_not_put_together() {
    let mut one = scan(&[], 1, 8);
    assert_eq!(one.merge(&scan(&[], 2, 8)), Err(DiffError::OtherComparison));
    assert_eq!(one.merge(&scan(&[], 1, 9)), Err(DiffError::Sizes));
    let half = KeyRange::ALL.split(1).unwrap().next().unwrap();
    assert_eq!(
        one.merge(&Scanner::new(hash_key(1), Identity::Key, half, size(8)).finish()),
        Err(DiffError::OtherComparison)
    );
    let keyless = Scanner::new(hash_key(1), Identity::WholeRow, KeyRange::ALL, size(8)).finish();
    assert_eq!(compare(&one, &keyless, 1), Err(DiffError::OtherComparison));
    assert_eq!(one.sketch().fold(size(9)), Err(DiffError::Sizes));
}

#[test]
fn ranges_cover_every_key_once() {
    let quarters: Vec<_> = KeyRange::ALL.split(2).unwrap().collect();
    let parts: Vec<_> = quarters.iter().flat_map(|quarter| quarter.split(3).unwrap()).collect();
    assert_eq!(parts.len(), 32);
    for number in 0..2000 {
        let hash = KeyHash(scattered(number));
        assert_eq!(parts.iter().filter(|part| part.contains(hash)).count(), 1);
        let inside = |range: &&KeyRange| range.contains(hash);
        assert!(
            quarters
                .iter()
                .filter(inside)
                .all(|quarter| quarter.split(3).unwrap().any(|part| inside(&&part)))
        );
    }
    assert!([0, u64::MAX].iter().all(|hash| KeyRange::ALL.contains(KeyHash(*hash))));
    assert_eq!(KeyRange::new(2, 1), None);
    assert_eq!(KeyRange::ALL.split(33), None);
}

#[test]
fn a_digest_sees_what_other_sums_do_not() {
    let side = |rows: &[&[u8]]| {
        let mut scan = Scanner::new(hash_key(1), Identity::WholeRow, KeyRange::ALL, size(6));
        rows.iter().for_each(|row| scan.add_row(&[], row));
        *scan.finish().digest()
    };
    // A XOR would not see these: equal rows cancel.
    assert_ne!(side(&[b"a", b"a"]), side(&[]));
    assert_ne!(side(&[b"a", b"a"]), side(&[b"b", b"b"]));
    assert_eq!(side(&[b"a", b"b"]), side(&[b"b", b"a"]));
}
