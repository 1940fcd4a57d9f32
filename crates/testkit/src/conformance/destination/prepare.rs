//! Cases: what happens to a table that is there before its first snapshot.

use std::sync::Arc;

use syncline_core::{ErrorKind, Prepare, Prepared, SchemaMap, Severity, TableSchema};

use crate::conformance::patiently;
use crate::conformance::report::Outcome;
use crate::conformance::tables::{Row, Standard, cells};

use super::DestinationHarness;
use super::support::{Held, ok, refused, truth};

fn old_rows() -> Vec<Row> {
    vec![cells(&["1", "old", "1", "∅"]), cells(&["2", "old", "∅", "x"])]
}

/// Absent: created. Empty: taken. Asked again: the same.
pub async fn absent_and_empty_tables_need_no_mode(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    fixture.create(Standard::Pairs, &[]).await;
    assert_eq!(fixture.truth(Standard::Items).await, None);
    let held = Held::open(fixture.as_ref(), "prepares").await;
    for table in [Standard::Items, Standard::Pairs, Standard::Codes, Standard::Items, Standard::Pairs] {
        let schema = held.table(table);
        let prepared = held.session.prepare(&schema, None);
        assert_eq!(ok(patiently("preparing", prepared).await), Prepared::Empty, "{}", table.name());
        held.assert_holds(table, &[]).await;
    }
    Outcome::Passed
}

/// Without a mode a table with rows is refused, with the choices, and keeps its rows.
pub async fn a_table_with_rows_is_refused_untouched(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    fixture.create(Standard::Items, &old_rows()).await;
    let held = Held::open(fixture.as_ref(), "refuses").await;
    let error = held.session.prepare(&held.table(Standard::Items), None).await.err();
    let error = error.unwrap_or_else(|| panic!("a table with rows was taken"));
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let remedy = error.remedy().unwrap_or_default();
    let choices = ["recreate", "truncate", "keep"];
    assert!(choices.iter().all(|choice| remedy.contains(choice)), "the choices are named: {remedy}");
    held.assert_holds(Standard::Items, &old_rows()).await;
    Outcome::Passed
}

/// `recreate` and `truncate` empty the table; chunks are then appended.
pub async fn recreate_and_truncate_empty_it(harness: &dyn DestinationHarness) -> Outcome {
    for mode in [Prepare::Recreate, Prepare::Truncate] {
        let fixture = harness.fixture().await;
        fixture.create(Standard::Items, &old_rows()).await;
        let held = Held::begin(fixture.as_ref(), "empties").await;
        assert_eq!(held.own(Standard::Items, Some(mode)).await, Prepared::Empty, "{mode:?}");
        held.assert_holds(Standard::Items, &[]).await;
        let row = cells(&["1", "new", "5", "∅"]);
        ok(held.chunk(Standard::Items, 0, std::slice::from_ref(&row)).await);
        held.finish(Standard::Items).await;
        held.assert_holds(Standard::Items, &[row]).await;
    }
    Outcome::Passed
}

/// `keep` keeps rows; those with the key of a loaded one are overwritten.
pub async fn keep_merges_chunks_into_it(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    fixture.create(Standard::Items, &old_rows()).await;
    let held = Held::begin(fixture.as_ref(), "keeps").await;
    assert_eq!(held.own(Standard::Items, Some(Prepare::Keep)).await, Prepared::HasRows);
    held.assert_holds(Standard::Items, &old_rows()).await;
    let new = [cells(&["2", "new", "7", "∅"]), cells(&["3", "new", "8", "∅"])];
    ok(held.chunk(Standard::Items, 0, &new).await);
    held.finish(Standard::Items).await;
    held.assert_holds(Standard::Items, &[old_rows()[0].clone(), new[0].clone(), new[1].clone()]).await;
    Outcome::Passed
}

/// A table of other columns is not written into, whatever the user wants kept of it.
pub async fn columns_that_do_not_fit_are_refused(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    fixture.create(Standard::Items, &old_rows()).await;
    let held = Held::open(fixture.as_ref(), "misfits").await;
    let mut other: TableSchema = held.table(Standard::Pairs).as_ref().clone();
    other.id = held.table(Standard::Items).id.clone();
    let other = Arc::new(other);
    for mode in [None, Some(Prepare::Truncate), Some(Prepare::Keep)] {
        let result = held.session.prepare(&other, mode).await;
        assert_eq!(refused("a table that does not fit", result), ErrorKind::Configuration, "{mode:?}");
        held.assert_holds(Standard::Items, &old_rows()).await;
    }
    Outcome::Passed
}

/// `check` finds no error where everything is in order, and changes nothing.
pub async fn a_healthy_destination_has_no_error(harness: &dyn DestinationHarness) -> Outcome {
    let fixture = harness.fixture().await;
    fixture.create(Standard::Pairs, &[]).await;
    let tables = [Standard::Items, Standard::Pairs].map(|table| fixture.table(table));
    let findings = ok(fixture.destination().check(&tables, &SchemaMap::default()).await);
    let errors: Vec<_> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(fixture.truth(Standard::Items).await, None, "a check creates nothing");
    assert!(truth(fixture.as_ref(), Standard::Pairs).await.is_empty());
    assert_eq!(fixture.leftovers().await, Vec::<String>::new(), "a check leaves nothing");
    Outcome::Passed
}
