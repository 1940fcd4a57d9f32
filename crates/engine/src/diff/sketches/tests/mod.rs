//! Tests of the comparison as a whole, against what plain maps say.

mod found;
mod hostile;
mod measure;
mod negotiation;
mod sums;

use std::collections::BTreeMap;

use super::*;

/// Rows by key: key encoding → value.
type Rows = BTreeMap<Vec<u8>, u64>;

fn hash_key(seed: u8) -> HashKey {
    HashKey::new([seed; 32])
}

fn size(bits: u32) -> SketchSize {
    SketchSize::from_bits(bits).expect("a size in bounds")
}

/// One column as the canonical encoding has it.
fn column(bytes: &[u8]) -> Vec<u8> {
    let mut out = i32::try_from(bytes.len()).expect("short").to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

/// A row: its key, then one column.
fn row_of(key: &[u8], value: u64) -> Vec<u8> {
    [key, &column(&value.to_be_bytes())[..]].concat()
}

/// A number that nothing in the test follows from: SplitMix64.
fn scattered(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn scan_of(rows: &Rows, key: &HashKey, range: KeyRange, size: SketchSize) -> Scan {
    let mut scan = Scanner::new(key.clone(), Identity::Key, range, size);
    for (key, value) in rows {
        scan.add_row(key, &row_of(key, *value));
    }
    scan.finish()
}

/// What a sketch can say of a key.
fn reference(key: &[u8], hash_key: &HashKey) -> KeyRef {
    if key.len() <= KEY_BYTES_MAX { KeyRef::Bytes(key.into()) } else { KeyRef::Hash(hash_key.key(key)) }
}

/// The difference of two maps, found by looking every key up.
fn expected(left: &Rows, right: &Rows, hash_key: &HashKey) -> Difference {
    let hash = |key: &[u8], value: u64| hash_key.row(&row_of(key, value));
    let only = |these: &Rows, those: &Rows| {
        let gone = these.iter().filter(|(key, _)| !those.contains_key(*key));
        let mut rows: Vec<_> = gone
            .map(|(key, value)| DifferingRow {
                key: reference(key, hash_key),
                row: hash(key, *value),
                copies: 1,
            })
            .collect();
        rows.sort_unstable();
        rows
    };
    let both = left.iter().filter_map(|(key, value)| Some((key, *value, *right.get(key)?)));
    let mut changed: Vec<_> = both
        .filter(|(_, left, right)| left != right)
        .map(|(key, left, right)| ChangedRow {
            key: reference(key, hash_key),
            left: hash(key, left),
            right: hash(key, right),
        })
        .collect();
    changed.sort_unstable();
    Difference { only_left: only(left, right), only_right: only(right, left), changed, repeated: Vec::new() }
}

/// Compares by bytes, as two processes do.
fn compare_by_bytes(left: &Scan, right: &Scan, ranges_max: u64) -> (Outcome, Traffic) {
    let (mut asker, mut request) = Asker::new(left, ranges_max);
    loop {
        let reply = answer_bytes(right, &asker.send(request)).expect("an answer");
        assert!(reply.len() <= request.reply_bytes_max(), "a reply above its bound");
        match asker.receive_bytes(&reply).expect("a reply that fits") {
            Step::Ask(next) => request = next,
            Step::Done(outcome) => return (outcome, asker.traffic()),
        }
    }
}
