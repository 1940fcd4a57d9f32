//! Cases: the meaning of `Part::Changes`, the order inside a load, and the counts.

use syncline_core::{Change, ChunkEntry, Delta, LoadKind, Part};

use crate::conformance::report::Outcome;
use crate::conformance::tables::{Row, Standard, Tables, cells};
use crate::conformance::workload::Workload;

use super::DestinationHarness;
use super::build::{TextChange, changes, row_key};
use super::support::{Held, ok};

fn item(id: &str, name: &str, big: &str) -> Row {
    cells(&[id, name, "1", big])
}

fn key(id: &str) -> Row {
    cells(&[id])
}

/// Inserts, upserts of present and absent rows, updates, deletes of present and absent rows.
pub async fn each_operation_does_what_it_says(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "operations").await;
    held.ready(Standard::Items, &[item("1", "a", "x"), item("2", "b", "x"), item("3", "c", "x")]).await;
    let list = vec![
        TextChange::delete(key("1")),
        TextChange::update(item("2", "b2", "y")),
        TextChange::upsert(item("3", "c2", "∅")),
        TextChange::insert(item("4", "d", "∅")),
        TextChange::upsert(item("5", "e", "")),
        TextChange::delete(key("6")),
    ];
    let counts = ok(held.change(Standard::Items, list).await).counts;
    let expected = [item("2", "b2", "y"), item("3", "c2", "∅"), item("4", "d", "∅"), item("5", "e", "")];
    held.assert_holds(Standard::Items, &expected).await;
    assert_eq!(counts.applied + counts.unchanged + counts.rereads, 6, "the numbers add up: {counts:?}");
    assert!(counts.applied >= 5 && counts.rereads == 0, "{counts:?}");
    Outcome::Passed
}

/// A row that leaves out columns keeps those of the row at its old key, else at its own.
pub async fn absent_columns_come_from_the_old_key(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "masks").await;
    let big = |n: u32| format!("big {n} ").repeat(900);
    let before: Vec<Row> = (1..=4).map(|n| item(&n.to_string(), "old", &big(n))).collect();
    held.ready(Standard::Items, &before).await;
    let list = vec![
        TextChange::update(item("1", "stays", "∅")).without(&[3]),
        TextChange::update(item("20", "moved", "∅")).from(key("2")).without(&[3]),
        // Key 2 is used again at once; what was left out of 20 is not its text.
        TextChange::insert(item("2", "another", "small")),
        TextChange::update(item("30", "∅", "whole")).from(key("3")).without(&[1, 2]),
        TextChange::update(item("4", "∅", "∅")).without(&[1, 2, 3]),
    ];
    let durable = ok(held.change(Standard::Items, list).await);
    let expected = [
        item("1", "stays", &big(1)),
        item("20", "moved", &big(2)),
        item("2", "another", "small"),
        item("30", "old", "whole"),
        item("4", "old", &big(4)),
    ];
    held.assert_holds(Standard::Items, &expected).await;
    assert_eq!((durable.counts.applied, durable.counts.unchanged), (4, 1), "the last one changes nothing");
    assert!(durable.rereads.is_empty());
    Outcome::Passed
}

/// Keys that two rows exchange, that go round, and that are handed down a chain, in one part.
pub async fn keys_are_exchanged_and_handed_on(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "exchanges").await;
    let before: Vec<Row> = (1..=9).map(|n| item(&n.to_string(), &format!("row {n}"), "big")).collect();
    held.ready(Standard::Items, &before).await;
    let moved = |from: u32, to: u32| {
        let (name, to) = (format!("row {from}"), to.to_string());
        TextChange::update(item(&to, &name, "∅")).from(key(&from.to_string())).without(&[3])
    };
    let list = vec![
        moved(1, 2), // exchanged
        moved(2, 1),
        moved(3, 4), // round
        moved(4, 5),
        moved(5, 3),
        moved(6, 7), // a chain whose end is deleted and whose beginning is used again
        moved(7, 8),
        TextChange::insert(item("6", "new", "small")),
    ];
    ok(held.change(Standard::Items, list).await);
    let at = |id: u32, from: u32| item(&id.to_string(), &format!("row {from}"), "big");
    let expected = [
        at(2, 1),
        at(1, 2),
        at(4, 3),
        at(5, 4),
        at(3, 5),
        at(7, 6),
        at(8, 7),
        item("6", "new", "small"),
        at(9, 9),
    ];
    held.assert_holds(Standard::Items, &expected).await;
    Outcome::Passed
}

/// A truncate empties the table before everything else in its part, counts once, and masks find nothing after it.
pub async fn a_truncate_comes_first(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "truncates").await;
    let before: Vec<Row> = (1..=9).map(|n| item(&n.to_string(), "old", "x")).collect();
    held.ready(Standard::Items, &before).await;
    held.ready(Standard::Codes, &[cells(&["1", "one"])]).await;
    let list = vec![
        TextChange::truncate(),
        TextChange::insert(item("3", "new", "x")),
        TextChange::upsert(item("77", "new", "∅")),
    ];
    let durable = ok(held.change(Standard::Items, list).await);
    held.assert_holds(Standard::Items, &[item("3", "new", "x"), item("77", "new", "∅")]).await;
    held.assert_holds(Standard::Codes, &[cells(&["1", "one"])]).await;
    assert_eq!((durable.counts.applied, durable.counts.unchanged), (3, 0));
    ok(held.change(Standard::Items, vec![TextChange::truncate()]).await);
    held.assert_holds(Standard::Items, &[]).await;
    Outcome::Passed
}

/// Each part sees what the parts before it in the same load did.
pub async fn parts_apply_in_order(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "in_order").await;
    held.ready(Standard::Items, &[item("1", "a", "big")]).await;
    let table = held.table(Standard::Items);
    let part = |list| changes(fixture.as_ref(), &table, list);
    let parts = vec![
        part(vec![
            TextChange::update(item("1", "b", "∅")).without(&[3]),
            TextChange::insert(item("2", "two", "x")),
        ]),
        part(vec![TextChange::update(item("5", "c", "∅")).from(key("1")).without(&[3])]),
        part(vec![TextChange::insert(item("1", "again", "small")), TextChange::delete(key("2"))]),
        part(vec![TextChange::insert(item("2", "two again", "∅"))]),
    ];
    ok(held.move_main(parts).await);
    let expected = [item("5", "c", "big"), item("1", "again", "small"), item("2", "two again", "∅")];
    held.assert_holds(Standard::Items, &expected).await;
    let parts = vec![
        part(vec![TextChange::insert(item("9", "gone", "∅"))]),
        part(vec![TextChange::truncate(), TextChange::insert(item("1", "x", "∅"))]),
        part(vec![TextChange::update(item("1", "y", "∅"))]),
    ];
    ok(held.move_main(parts).await);
    held.assert_holds(Standard::Items, &[item("1", "y", "∅")]).await;
    Outcome::Passed
}

/// A row that is as the change wants it is counted as unchanged and not written.
pub async fn unchanged_rows_are_counted_and_left_alone(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "unchanged").await;
    let rows: Vec<Row> = (0..60).map(|n| item(&n.to_string(), "same", "x")).collect();
    held.ready(Standard::Items, &rows).await;
    let before = fixture.written(Standard::Items).await;
    let mut list: Vec<TextChange> = rows[..50].iter().cloned().map(TextChange::upsert).collect();
    list.extend(rows[50..55].iter().map(|row| TextChange::update(row.clone()).without(&[3])));
    list.push(TextChange::update(item("55", "other", "x")));
    let durable = ok(held.change(Standard::Items, list).await);
    assert_eq!((durable.counts.applied, durable.counts.unchanged), (1, 55));
    let (Some(before), Some(after)) = (before, fixture.written(Standard::Items).await) else {
        return Outcome::NotOffered("the system does not show whether a row was written again");
    };
    let others = |rows: Vec<(Row, String)>| {
        let mut rows: Vec<_> = rows.into_iter().filter(|(row, _)| *row != key("55")).collect();
        rows.sort();
        rows
    };
    assert_eq!(others(before), others(after), "unchanged rows were written again");
    Outcome::Passed
}

/// A row whose absent columns have no row to come from goes on the re-read list, in the same commit. Its old key goes, and
/// what stood at its new key goes too: it is another row, which a later move must not be completed from. Read again, it comes as a load of its own, and a key without a row as a delete.
pub async fn rows_without_an_origin_are_read_again(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "rereads").await;
    held.ready(Standard::Items, &[item("1", "a", "x"), item("2", "b", "x")]).await;
    let table = held.table(Standard::Items);
    let list = vec![
        TextChange::update(item("7", "new", "∅")).without(&[3]),
        TextChange::update(item("8", "new", "∅")).from(key("70")).without(&[3]),
        TextChange::update(item("1", "new", "∅")).from(key("71")).without(&[3]),
        TextChange::update(item("2", "b2", "∅")).without(&[3]),
        TextChange::insert(item("9", "whole", "y")),
    ];
    let mut durable = ok(held.change(Standard::Items, list).await);
    let keys = ["1", "7", "8"].map(|id| row_key(fixture.as_ref(), &table, &key(id)));
    let mut expected: Vec<_> = keys.iter().map(|key| (table.id.clone(), key.clone())).collect();
    durable.rereads.sort();
    expected.sort();
    assert_eq!(durable.rereads, expected);
    assert_eq!((durable.counts.applied, durable.counts.rereads), (2, 3));
    let rows = [item("2", "b2", "x"), item("9", "whole", "y")];
    held.assert_holds(Standard::Items, &rows).await;
    let held = held.reopened().await;
    let listed = held.checkpoint().await.tables[&table.id].rereads.clone();
    assert_eq!(listed, keys.iter().cloned().collect());

    let mut parts = vec![TextChange::upsert(item("7", "read", "again")), TextChange::delete(key("8"))];
    parts.push(TextChange::upsert(item("1", "read", "too")));
    let part = changes(fixture.as_ref(), &table, parts);
    let kind = LoadKind::Reread { table: table.id.clone(), generation: 1, n: 5 };
    let entry = ChunkEntry { range: "keys".into(), mark: "later".into(), rows: 0 };
    let delta = Delta::of(vec![
        Change::RemoveReread { table: table.id.clone(), keys: keys.to_vec() },
        Change::Chunk { table: table.id.clone(), generation: 1, n: 5, entry },
    ]);
    ok(held.load(kind, vec![part], delta).await);
    let rows =
        [item("1", "read", "too"), item("2", "b2", "x"), item("9", "whole", "y"), item("7", "read", "again")];
    held.assert_holds(Standard::Items, &rows).await;
    let state = held.checkpoint().await.tables[&table.id].clone();
    assert!(state.rereads.is_empty());
    assert_eq!(state.chunks[&5].range, "keys");
    Outcome::Passed
}

/// In a table without a key a delete or update takes exactly one of several equal rows, nulls included.
pub async fn equal_rows_without_a_key_are_taken_one_by_one(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "keyless").await;
    let (a, b, n) = (cells(&["a", "1"]), cells(&["b", "2"]), cells(&["∅", "∅"]));
    held.ready(Standard::Log, &[a.clone(), a.clone(), a.clone(), n.clone(), n.clone()]).await;
    let list = vec![
        TextChange::insert(b.clone()),
        TextChange::delete(a.clone()),
        TextChange::update(b.clone()).from(a.clone()),
        TextChange::delete(n.clone()),
        TextChange::insert(b.clone()),
        TextChange::update(n.clone()).from(b.clone()),
    ];
    ok(held.change(Standard::Log, list).await);
    held.assert_holds(Standard::Log, &[a.clone(), b.clone(), b.clone(), n.clone(), n.clone()]).await;
    let list = vec![TextChange::insert(a.clone()), TextChange::truncate(), TextChange::insert(n.clone())];
    ok(held.change(Standard::Log, list).await);
    held.assert_holds(Standard::Log, &[n]).await;
    Outcome::Passed
}

/// Unique values that are exchanged, handed to a row with a lower key, and freed and taken in one part.
pub async fn unique_values_change_hands(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "unique").await;
    let code = |id: &str, code: &str| cells(&[id, code]);
    let before = ["1", "2", "3", "4", "5", "6", "7"].map(|id| code(id, &format!("c{id}")));
    held.ready(Standard::Codes, &before).await;
    let list = vec![
        TextChange::update(code("1", "c2")), // exchanged
        TextChange::update(code("2", "c1")),
        TextChange::update(code("3", "c4")), // handed to a lower key
        TextChange::update(code("4", "other")),
        TextChange::delete(key("5")), // freed and taken
        TextChange::insert(code("0", "c5")),
        TextChange::update(code("60", "c7")).from(key("6")), // taken by a row that moves
        TextChange::update(code("7", "c6")),
    ];
    ok(held.change(Standard::Codes, list).await);
    let expected =
        [("1", "c2"), ("2", "c1"), ("3", "c4"), ("4", "other"), ("0", "c5"), ("60", "c7"), ("7", "c6")]
            .map(|(id, c)| code(id, c));
    held.assert_holds(Standard::Codes, &expected).await;
    Outcome::Passed
}

/// Long runs of net changes, some with absent columns, end where a plain model ends, and the numbers add up each time.
pub async fn a_workload_agrees_with_its_model(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "model").await;
    let tables = [Standard::Items, Standard::Pairs, Standard::Codes];
    let mut workload = Workload::new(51, &tables);
    for table in tables {
        workload.fill(table, 60);
        held.ready(table, &workload.now().rows(table)).await;
    }
    for round in 0..25 {
        let before = workload.now().clone();
        for _ in 0..(round % 5) * 8 + 1 {
            workload.transaction();
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut total = 0;
        for table in tables {
            let list = net(table, &before, workload.now());
            total += list.len() as u64;
            if !list.is_empty() {
                parts.push(changes(fixture.as_ref(), &held.table(table), list));
            }
        }
        let counts = ok(held.move_main(parts).await).counts;
        assert_eq!((counts.applied, counts.unchanged, counts.rereads), (total, 0, 0), "round {round}");
        for table in tables {
            held.assert_holds(table, &workload.now().rows(table)).await;
        }
    }
    Outcome::Passed
}

/// One change for each key that differs; an unchanged last column is left out.
fn net(table: Standard, before: &Tables, after: &Tables) -> Vec<TextChange> {
    let last = table.columns().len() - 1;
    let mut list = Vec::new();
    for identity in before.identities(table) {
        if after.get(table, &identity).is_none() {
            list.push(TextChange::delete(identity));
        }
    }
    for identity in after.identities(table) {
        let (old, Some(new)) = (before.get(table, &identity), after.get(table, &identity)) else { continue };
        match old {
            None => list.push(TextChange::insert(new.clone())),
            Some(old) if old == new => {}
            Some(old) if old[last] == new[last] => {
                list.push(TextChange::update(new.clone()).without(&[last]));
            }
            Some(_) => list.push(TextChange::update(new.clone())),
        }
    }
    list
}

/// Parts of several tables, interleaved, are one commit.
pub async fn tables_of_one_load_commit_together(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let held = Held::begin(fixture.as_ref(), "together").await;
    held.ready(Standard::Items, &[item("1", "a", "x")]).await;
    held.ready(Standard::Codes, &[cells(&["1", "one"])]).await;
    let part = |table, list| changes(fixture.as_ref(), &held.table(table), list);
    let parts = || {
        vec![
            part(Standard::Items, vec![TextChange::update(item("1", "b", "x"))]),
            part(Standard::Codes, vec![TextChange::insert(cells(&["2", "two"]))]),
            part(Standard::Items, vec![TextChange::insert(item("2", "c", "x"))]),
        ]
    };
    // From where the lane does not stand: nothing of any table is kept.
    assert!(held.move_main_from(999, parts()).await.is_err());
    held.assert_holds(Standard::Items, &[item("1", "a", "x")]).await;
    held.assert_holds(Standard::Codes, &[cells(&["1", "one"])]).await;
    ok(held.move_main(parts()).await);
    held.assert_holds(Standard::Items, &[item("1", "b", "x"), item("2", "c", "x")]).await;
    held.assert_holds(Standard::Codes, &[cells(&["1", "one"]), cells(&["2", "two"])]).await;
    Outcome::Passed
}
