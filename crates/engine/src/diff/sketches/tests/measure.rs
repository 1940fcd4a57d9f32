//! What a row costs. Run by hand, in release: `cargo test --release -p syncline-engine diff -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

#[test]
#[ignore = "measures; run by hand"]
fn a_row_of_100_bytes() {
    const ROWS: u32 = 5_000_000;
    for bits in [12, 14, 16, 18] {
        let mut scan = Scanner::new(hash_key(1), Identity::Key, KeyRange::ALL, size(bits));
        let mut row = [7u8; 100];
        let started = Instant::now();
        for number in 0..u64::from(ROWS) {
            row[4..12].copy_from_slice(&number.to_be_bytes());
            scan.add_row(&row[..12], &row);
        }
        let scan = scan.finish();
        let each = started.elapsed() / ROWS;
        println!("2^{bits} cells: {each:?} a row ({:x})", scan.digest().check_sum);
    }
}

#[test]
#[ignore = "measures; run by hand"]
fn decoding() {
    let key = hash_key(1);
    let left: Rows = (0..200_000).map(|number| (column(&scattered(number).to_be_bytes()), number)).collect();
    let right: Rows =
        left.iter().map(|(key, value)| (key.clone(), value + u64::from(value % 10 == 0))).collect();
    let [ours, theirs] = [&left, &right].map(|rows| scan_of(rows, &key, KeyRange::ALL, size(16)));
    let started = Instant::now();
    let (outcome, traffic) = compare_by_bytes(&ours, &theirs, 1);
    println!("20,000 updates: {:?}, {traffic:?}", started.elapsed());
    assert_eq!(outcome, Outcome::Different(expected(&left, &right, &key)));
}
