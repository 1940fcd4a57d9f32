//! The other side may send anything: it is refused by a typed error, or ends in bounded work.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::cell::{Cell, KeyField};
use super::*;

fn some_scan(rows: u64, size: SketchSize) -> Scan {
    let rows: Rows = (0..rows).map(|number| (column(&scattered(number).to_be_bytes()), number)).collect();
    scan_of(&rows, &hash_key(1), KeyRange::ALL, size)
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        Just(Request::Digest),
        (6u32..12).prop_map(|want| Request::Cells { have: None, want: size(want) }),
        (6u32..10, 1u32..3)
            .prop_map(|(have, up)| Request::Cells { have: Some(size(have)), want: size(have + up) }),
    ]
}

/// Runs the asking end to where a reply to `Cells` is due, feeds it this, and lets it decode whatever came.
fn feed(ours: &Scan, theirs: &Scan, change: impl Fn(&mut Vec<u8>)) -> Result<Step, DiffError> {
    let (mut asker, request) = Asker::new(ours, 4);
    let opening = answer_bytes(theirs, &asker.send(request))?;
    let Step::Ask(request) = asker.receive_bytes(&opening)? else { panic!("equal sides") };
    let mut reply = answer_bytes(theirs, &asker.send(request))?;
    change(&mut reply);
    asker.receive_bytes(&reply)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_bytes_are_refused_or_read(bytes in vec(any::<u8>(), 0..600), asked in any_request(), kind in 0u8..6) {
        let scan = some_scan(0, size(8));
        let fingerprint = scan.fingerprint();
        let _ = Request::from_bytes(&bytes, fingerprint);
        let _ = Reply::from_bytes(&bytes, asked, fingerprint);
        // Past the header, where the bytes themselves are looked at.
        let mut message = vec![VERSION, kind];
        message.extend(fingerprint.to_le_bytes());
        message.extend(&bytes);
        let _ = Request::from_bytes(&message, fingerprint);
        let _ = Reply::from_bytes(&message, asked, fingerprint);
        let _ = answer_bytes(&scan, &message);
    }

    #[test]
    fn mutated_messages_are_refused_or_end(
        places in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let (ours, theirs) = (some_scan(90, size(8)), some_scan(100, size(8)));
        let honest = feed(&ours, &theirs, |_| {}).unwrap();
        let result = feed(&ours, &theirs, |reply| {
            for (place, bits) in &places {
                let place = place.index(reply.len());
                reply[place] ^= bits;
            }
            if let Some(cut) = cut {
                reply.truncate(cut.index(reply.len()));
            }
        });
        // A change to the sums shows, because the digest says what they are; one to a key is the sender's own lie.
        if let Ok(Step::Done(Outcome::Different(found))) = result {
            let Step::Done(Outcome::Different(honest)) = honest else { panic!("{honest:?}") };
            prop_assert_eq!(found.rows(), honest.rows());
        }
    }

    #[test]
    fn any_cells_decode_in_bounded_work(
        cells in vec((0u32..64, any::<u64>(), -3i32..4, any::<u8>()), 0..64), copied in 0usize..8,
    ) {
        let key = hash_key(1);
        let mut sketch = Sketch::new(SketchSize::MIN);
        for (at, number, count, tag) in cells {
            // Much like a row that stands here, so that many cells look pure.
            let row = key.row(&number.to_be_bytes());
            let mut field = KeyField::of(&number.to_be_bytes(), key.key(&number.to_be_bytes()));
            field.bytes_mut()[32] = if tag < 8 { tag } else { 9 };
            let mut cell = Cell::default();
            (0..count.unsigned_abs()).for_each(|_| {
                let element = Cell::element(row, key.check(row), field);
                if count > 0 { cell.add(&element) } else { cell.subtract(&element) }
            });
            for sub_table in 0..u32::try_from(copied.min(4)).unwrap() {
                let index = SketchSize::MIN.index(sub_table, row);
                sketch.cells_mut()[index].add(&cell);
            }
            sketch.cells_mut()[at as usize].add(&cell);
        }
        let _ = sketch.decode(&key, Identity::Key, &TableDigest::default());
    }
}

/// Taking the row out of its one cell puts it into its three others, and so on for ever.
#[test]
fn a_row_that_stands_in_one_cell_only_does_not_go_round() {
    let key = hash_key(1);
    let row = key.row(b"row");
    let mut sketch = Sketch::new(size(12));
    let index = size(12).index(2, row);
    sketch.cells_mut()[index] = Cell::element(row, key.check(row), KeyField::of(b"k", key.key(b"k")));
    let digest = TableDigest::default();
    assert!(matches!(sketch.decode(&key, Identity::Key, &digest), Ok(Decoded::Undecodable { .. })));
}

/// Rows that meet in a cell and look like one that is there: of their keys nothing whole is left, as of any two keys of one length.
#[test]
fn a_cell_that_only_looks_pure_is_no_contradiction() {
    let key = hash_key(1);
    let (first, second) = (key.row(b"first"), key.row(b"second"));
    let sum = first.number().wrapping_add(second.number()) / 2;
    let neither = RowHash::new(sum).expect("96 bits");
    let field = |name: &[u8]| KeyField::of(name, key.key(name));
    let mut cell = Cell::element(neither, key.check(neither), field(b"ab"));
    cell.add(&Cell::element(neither, key.check(neither), field(b"cd")));
    assert_eq!((cell.pure_row(&key, |_| true), cell.key.key()), (Some(neither), None));
    let mut sketch = Sketch::new(size(8));
    let index = size(8).index(0, neither);
    sketch.cells_mut()[index] = cell;
    let digest = TableDigest { rows: 2, ..TableDigest::default() };
    let Ok(Decoded::Undecodable { estimate }) = sketch.decode(&key, Identity::Key, &digest) else {
        panic!("it says that the other side lies")
    };
    assert!(estimate < 10, "{estimate}");
}

/// What fits the 32 bits of cells, and not the 64 of the digests, is not believed; nor is a key that is another one.
#[test]
fn what_is_decoded_is_held_against_the_digests() {
    let key = hash_key(1);
    let (row, name) = (key.row(b"row"), &b"k"[..]);
    let mut sketch = Sketch::new(size(8));
    for sub_table in 0..4 {
        let index = size(8).index(sub_table, row);
        sketch.cells_mut()[index] = Cell::element(row, key.check(row), KeyField::of(name, key.key(name)));
    }
    let honest =
        TableDigest { rows: 1, row_sum: row.number(), check_sum: key.check(row), key_sum: key.key(name).0 };
    let decode = |digest: TableDigest| sketch.clone().decode(&key, Identity::Key, &digest).unwrap();
    assert!(matches!(decode(honest), Decoded::Difference(found) if found.rows() == 1));
    for other in [
        TableDigest { rows: 2, ..honest },
        TableDigest { row_sum: honest.row_sum ^ 1, ..honest },
        TableDigest { check_sum: honest.check_sum ^ 1 << 40, ..honest },
        TableDigest { key_sum: honest.key_sum ^ 1, ..honest },
    ] {
        assert!(matches!(decode(other), Decoded::Undecodable { estimate: 1 }), "{other:?}");
    }
}

/// A row that is taken out of a cell which only looked pure comes out of its other cells again, with the other sign.
#[test]
fn what_comes_out_with_both_signs_is_no_row() {
    let key = hash_key(1);
    let (row, name) = (key.row(b"row"), &b"k"[..]);
    let element = Cell::element(row, key.check(row), KeyField::of(name, key.key(name)));
    let mut sketch = Sketch::new(size(8));
    let index = size(8).index(2, row);
    sketch.cells_mut()[index] = element;
    let digest = TableDigest { rows: 1, ..TableDigest::default() };
    let Ok(Decoded::Undecodable { estimate }) = sketch.decode(&key, Identity::Key, &digest) else { panic!() };
    assert!(estimate < 10, "each time that it came out is counted: {estimate}");
}

/// Two rows of one key meet a third in a cell: the key that is left over is whole, the row is not.
#[test]
fn an_update_in_one_cell_does_not_make_it_look_pure() {
    let key = hash_key(1);
    let element = |name: &[u8], row: &[u8]| {
        let row = key.row(row);
        Cell::element(row, key.check(row), KeyField::of(name, key.key(name)))
    };
    let mut cell = element(b"a", b"a1");
    cell.subtract(&element(b"a", b"a2"));
    cell.add(&element(b"b", b"b1"));
    assert_eq!(cell.key.key(), Some(KeyRef::Bytes(b"b"[..].into())));
    assert_eq!(cell.pure_row(&key, |_| true), None);
    assert_eq!(element(b"b", b"b1").pure_row(&key, |_| true), Some(key.row(b"b1")));
}

#[test]
fn what_does_not_fit_is_refused_by_its_reason() {
    let (ours, theirs) = (some_scan(90, size(8)), some_scan(100, size(8)));
    let fingerprint = ours.fingerprint();
    let request = |have: Option<u32>, want| Request::Cells { have: have.map(size), want: size(want) };
    // Asked of the answering end.
    assert_eq!(answer(&theirs, request(None, 9)), Err(DiffError::NotAsked));
    assert_eq!(answer(&theirs, request(Some(8), 8)), Err(DiffError::NotAsked));
    let mut bytes = request(Some(8), 8).to_bytes(fingerprint);
    assert!(matches!(answer_bytes(&theirs, &bytes), Err(DiffError::Malformed(_))));
    bytes[0] = 9;
    assert_eq!(answer_bytes(&theirs, &bytes), Err(DiffError::Version(9)));
    let other = scan_of(&Rows::new(), &hash_key(2), KeyRange::ALL, size(8));
    assert_eq!(answer_bytes(&other, &Request::Digest.to_bytes(fingerprint)), Err(DiffError::OtherComparison));

    // Sent to the asking end.
    let larger = answer(&theirs, request(None, 8)).unwrap().to_bytes(fingerprint);
    assert_eq!(feed(&ours, &theirs, |reply| reply.clone_from(&larger)), Err(DiffError::NotAsked));
    let another = some_scan(110, size(8));
    let smaller = answer(&another, request(None, 6)).unwrap().to_bytes(fingerprint);
    assert!(matches!(
        feed(&ours, &theirs, |reply| reply.clone_from(&smaller)),
        Err(DiffError::Contradiction(_))
    ));
    assert!(matches!(feed(&ours, &theirs, |reply| reply.push(0)), Err(DiffError::Malformed(_))));
    let (mut asker, _) = Asker::new(&ours, 1);
    assert_eq!(asker.receive(answer(&theirs, request(None, 6)).unwrap()), Err(DiffError::NotAsked));

    // A digest that differs over cells that do not.
    let (mut asker, _) = Asker::new(&ours, 1);
    let Ok(Reply::Digest(mut opening)) = answer(&ours, Request::Digest) else { panic!("no digest") };
    opening.digest.key_sum ^= 1;
    let Ok(Step::Ask(request)) = asker.receive(Reply::Digest(opening)) else { panic!("no request") };
    assert!(matches!(asker.receive(answer(&ours, request).unwrap()), Err(DiffError::Contradiction(_))));
}

#[test]
fn messages_are_read_as_they_were_written() {
    let scan = some_scan(300, size(9));
    let fingerprint = scan.fingerprint();
    let empty = some_scan(0, size(9));
    for (scan, fingerprint) in [(&scan, fingerprint), (&empty, empty.fingerprint())] {
        for request in [
            Request::Digest,
            Request::Cells { have: None, want: size(6) },
            Request::Cells { have: None, want: size(9) },
            Request::Cells { have: Some(size(6)), want: size(9) },
        ] {
            assert_eq!(Request::from_bytes(&request.to_bytes(fingerprint), fingerprint), Ok(request));
            let reply = answer(scan, request).unwrap();
            match (&reply, Reply::from_bytes(&reply.to_bytes(fingerprint), request, fingerprint).unwrap()) {
                (Reply::Digest(written), Reply::Digest(read)) => assert_eq!(*written, read),
                (Reply::Cells(written), Reply::Cells(read)) => assert_eq!(written.cells, read.cells),
                (_, read) => panic!("{read:?}"),
            }
        }
    }
    let none = answer(&empty, Request::Cells { have: None, want: size(9) }).unwrap();
    assert!(none.to_bytes(empty.fingerprint()).len() < 200, "zero cells take a bit each");
}
