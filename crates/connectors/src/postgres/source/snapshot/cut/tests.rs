//! Tests of the judge, against what a reader of each chunk would say.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::BinaryArray;
use arrow_array::RecordBatch;
use proptest::prelude::*;
use syncline_core::{ChunkEntry, Column, DataType, OldKeys, TableId, TablePhase};

use super::*;

fn table() -> Arc<TableSchema> {
    let column = |name: &str| Column {
        name: name.into(),
        data_type: DataType::Int(32),
        nullable: false,
        native_type: "integer".into(),
        carriage: Carriage::Native,
    };
    Arc::new(TableSchema {
        id: TableId::new("public", "t"),
        columns: vec![column("k"), column("v")],
        row_key: vec![0],
        version: 1,
        rows_estimated: None,
        native: None,
    })
}

fn state(entries: Vec<(Range, &str)>) -> TableState {
    let entry = |(range, mark): (Range, &str)| ChunkEntry {
        range: range.to_text().unwrap(),
        mark: mark.to_owned(),
        rows: 0,
    };
    TableState {
        phase: TablePhase::Snapshot,
        generation: 1,
        chunks: (0..).zip(entries.into_iter().map(entry)).collect::<BTreeMap<_, _>>(),
        rereads: BTreeSet::new(),
        parts: syncline_core::Parts::default(),
    }
}

fn keys(from: Option<i32>, to: Option<i32>) -> Range {
    let text = |bound: Option<i32>| bound.map(|number| number.to_string());
    Range::Keys { order: Order::Int, from: text(from), to: text(to) }
}

fn ints(values: &[i32]) -> ArrayRef {
    let bytes: Vec<[u8; 4]> = values.iter().map(|v| v.to_be_bytes()).collect();
    Arc::new(BinaryArray::from_iter_values(bytes))
}

/// Changes as (operation, old key, key), each in the transaction of its number.
fn batch(changes: &[(Operation, Option<i32>, i32)]) -> ChangeBatch {
    let table = table();
    let new: Vec<i32> = changes.iter().map(|c| c.2).collect();
    let old: Vec<i32> = changes.iter().filter_map(|c| c.1).collect();
    let mut next = 0;
    let rows = changes
        .iter()
        .map(|change| {
            change.1.map(|_| {
                next += 1;
                next - 1
            })
        })
        .collect();
    let old_keys = RecordBatch::try_new(table.arrow_old(), vec![ints(&old)]).unwrap();
    ChangeBatch {
        rows: RecordBatch::try_new(table.arrow(), vec![ints(&new), ints(&new)]).unwrap(),
        operations: changes.iter().map(|c| c.0).collect(),
        ordinals: (0..changes.len() as u64).collect(),
        transactions: (0..u32::try_from(changes.len()).unwrap()).collect(),
        masks: None,
        old: Some(OldKeys { row: rows, keys: old_keys }),
        table,
    }
    .check()
    .unwrap()
}

fn transactions(ids: &[u64]) -> Vec<Transaction> {
    ids.iter().map(|&id| Transaction { id, committed_at_us: 0 }).collect()
}

fn judge(
    state: &TableState,
    changes: &[(Operation, Option<i32>, i32)],
    ids: &[u64],
) -> Vec<(Verdict, Verdict)> {
    let cutter = Cutter::new(&table(), state).unwrap();
    let cuts = cutter.judge(&batch(changes), &transactions(ids)).unwrap();
    cuts.iter().map(|cut| (cut.new, cut.old)).collect()
}

use Operation::{Delete, Insert, Truncate, Update};
use Verdict::{Apply, Mixed, Seen, Unread};

#[test]
fn each_key_is_judged_by_its_own_chunk() {
    // Transaction 105 is running in the first mark and over in the second.
    let state = state(vec![(keys(None, Some(10)), "100:110:105"), (keys(Some(10), Some(20)), "110:110:")]);
    let changes = [(Insert, None, 5), (Insert, None, 10), (Insert, None, 20), (Delete, None, -3)];
    let verdicts = judge(&state, &changes, &[105, 105, 105, 99]);
    assert_eq!(verdicts, [(Apply, Apply), (Seen, Seen), (Unread, Unread), (Seen, Seen)]);
}

#[test]
fn trap_5c_a_moved_key_is_judged_at_both_keys() {
    let state = state(vec![(keys(None, Some(10)), "100:100:"), (keys(Some(10), None), "200:200:")]);
    let verdicts = judge(&state, &[(Update, Some(5), 15), (Update, Some(15), 5)], &[150, 150]);
    assert_eq!(verdicts, [(Seen, Apply), (Apply, Seen)]);
}

#[test]
fn trap_5c_a_key_read_again_is_judged_by_its_newest_read() {
    let key = |number: i32| RowKey::of(&[ints(&[number])], 0).unwrap();
    let again = |numbers: &[i32]| {
        Range::of_rows(&table(), &numbers.iter().map(|&number| key(number)).collect::<Vec<_>>())
    };
    let state =
        state(vec![(keys(None, None), "100:100:"), (again(&[7, 8]), "200:200:"), (again(&[8]), "300:300:")]);
    let changes = [(Insert, None, 6), (Insert, None, 7), (Insert, None, 8), (Insert, None, 7)];
    let verdicts = judge(&state, &changes, &[150, 150, 250, 250]);
    assert_eq!(verdicts, [(Apply, Apply), (Seen, Seen), (Seen, Seen), (Apply, Apply)]);
}

#[test]
fn keys_in_another_form_are_a_conflict() {
    let range = Range::Rows { form: "t".into(), keys: vec![] };
    let cutter = Cutter::new(&table(), &state(vec![(range, "1:1:")])).unwrap();
    assert!(cutter.judge(&batch(&[(Insert, None, 1)]), &transactions(&[1])).is_err());
}

#[test]
fn one_snapshot_judges_every_key_alike_once_it_is_complete() {
    let block = |from, to| Range::Blocks { leaf: ("public".into(), "t".into()), node: 1, from, to, of: 2 };
    let first = (block(None, Some(4)), "100:110:105");
    let complete = state(vec![first.clone(), (block(Some(4), None), "100:110:105")]);
    assert_eq!(
        judge(&complete, &[(Insert, None, 1), (Insert, None, 1)], &[105, 106]),
        [(Apply, Apply), (Seen, Seen)]
    );
    let partial = Cutter::new(&table(), &state(vec![first.clone()])).unwrap();
    assert!(partial.judge(&batch(&[(Insert, None, 1)]), &transactions(&[105])).is_err());
    // Two snapshots of one plan: nothing can be said.
    assert!(Cutter::new(&table(), &state(vec![first, (block(Some(4), None), "100:111:105")])).is_err());
    assert_eq!(judge(&state(vec![(Range::Whole, "9:9:")]), &[(Insert, None, 1)], &[9]), [(Apply, Apply)]);
    assert_eq!(judge(&state(vec![]), &[(Insert, None, 1)], &[9]), [(Unread, Unread)]);
}

#[test]
fn a_truncate_is_judged_over_all_chunks() {
    let over = |marks: &[&'static str]| {
        let ranges = [keys(None, Some(1)), keys(Some(1), None)];
        judge(&state(ranges.into_iter().zip(marks.iter().copied()).collect()), &[(Truncate, None, 0)], &[150])
            [0]
        .0
    };
    assert_eq!(over(&[]), Unread);
    assert_eq!(over(&["200:200:", "300:300:"]), Seen);
    assert_eq!(over(&["100:100:", "150:151:150"]), Apply);
    assert_eq!(over(&["100:100:", "200:200:"]), Mixed);
}

proptest! {
    /// Against a walk over the list of chunks.
    #[test]
    fn verdicts_are_those_of_the_chunk_that_holds_the_key(
        cuts in proptest::collection::btree_set(-40_i32..40, 0..8),
        kept in proptest::collection::vec(any::<bool>(), 9),
        marks in proptest::collection::vec(100_u64..200, 9),
        changes in proptest::collection::vec((-50_i32..50, proptest::option::of(-50_i32..50), 90_u64..210), 1..30),
    ) {
        let edges: Vec<Option<i32>> = std::iter::once(None).chain(cuts.into_iter().map(Some)).chain([None]).collect();
        let texts: Vec<String> = marks.iter().map(|mark| format!("{mark}:{mark}:")).collect();
        let chunks: Vec<_> =
            edges.windows(2).map(|p| (p[0], p[1])).zip(marks.iter().zip(&texts)).zip(kept).filter(|(_, k)| *k).map(|(c, _)| c).collect();
        let mut entries: Vec<(Range, &str)> =
            chunks.iter().map(|((from, to), (_, text))| (keys(*from, *to), text.as_str())).collect();
        entries.reverse();
        let expected = |key: i32, xid: u64| {
            let holds = |((from, to), _): &&((Option<i32>, Option<i32>), _)| {
                from.is_none_or(|from| key >= from) && to.is_none_or(|to| key < to)
            };
            match chunks.iter().find(holds) {
                None => Unread,
                Some((_, (mark, _))) if xid < **mark => Seen,
                Some(_) => Apply,
            }
        };
        let list: Vec<_> = changes.iter().map(|(key, old, _)| (Update, *old, *key)).collect();
        let ids: Vec<u64> = changes.iter().map(|c| c.2).collect();
        let want: Vec<_> =
            changes.iter().map(|(key, old, xid)| (expected(*key, *xid), expected(old.unwrap_or(*key), *xid))).collect();
        prop_assert_eq!(judge(&state(entries), &list, &ids), want);
    }
}

/// Trap 12: whose key it is cannot be told, so what a leaf's chunk saw is applied again, and the rest is applied.
#[test]
fn trap_12_while_leaves_join_nothing_is_left_out() {
    let leaf = |part: &str| Range::Leaf { part: part.into() };
    let judge = |entries, changes: &[(Operation, Option<i32>, i32)]| {
        let mut state = state(entries);
        state.parts.joining = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let transactions: Vec<_> =
            (0..changes.len() as u64).map(|n| Transaction { id: 10 + n, committed_at_us: 0 }).collect();
        let cuts = Cutter::new(&table(), &state).unwrap().judge(&batch(changes), &transactions).unwrap();
        cuts.iter().map(|cut| cut.new).collect::<Vec<_>>()
    };
    let updates = [1, 2, 3].map(|key| (Update, None, key));
    assert_eq!(judge(vec![], &updates), [Apply; 3]);
    let entries = || vec![(leaf("a"), "10:10:"), (leaf("b"), "12:12:")];
    assert_eq!(judge(entries(), &updates), [Verdict::Again, Verdict::Again, Apply]);
    let truncates = [(Truncate, None, 0); 3];
    assert_eq!(judge(entries(), &truncates), [Apply; 3]);
    let mut reread = entries();
    reread.push((Range::of_rows(&table(), &[]), "11:11:"));
    assert_eq!(judge(reread, &updates), [Verdict::Again, Verdict::Again, Apply]);
    assert!(Cutter::new(&table(), &state(entries())).is_err(), "leaves alone are not a whole table");
}
