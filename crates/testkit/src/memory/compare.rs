//! The end state and every state on the way, compared by code that shares nothing with what is tested.

use std::fmt::Write as _;

use syncline_core::{SchemaMap, TableId, TablePhase};

use super::database::Database;
use super::destination::{Committed, MemoryDestination};
use super::range::hex;
use super::rows::Row;

/// What differs between the source now and the destination, over all tables that pipelines own; empty if nothing does.
///
/// # Panics
/// If no pipeline owns a table: then nothing was compared.
#[must_use]
pub fn differences(source: &Database, destination: &MemoryDestination) -> Vec<String> {
    let owned = destination.owned();
    assert!(owned.iter().any(|(_, _, tables)| !tables.is_empty()), "no pipeline owns a table");
    let mut differences = Vec::new();
    for (_, map, tables) in &owned {
        for table in tables {
            let there = destination.rows(&map.map(table));
            let expected = project(source, destination, map, table, source.rows(table));
            match there {
                None => differences.push(format!("{table} does not exist at the destination")),
                Some(there) => differences.extend(compare(table, &expected, &there)),
            }
        }
    }
    differences
}

/// Asserts that the destination shows what the source shows now.
///
/// # Panics
/// With the differences, if there are any.
pub fn assert_equal(source: &Database, destination: &MemoryDestination) {
    let differences = differences(source, destination);
    assert!(differences.is_empty(), "source and destination differ:\n{}", differences.join("\n"));
}

/// Asserts that every table, in every commit since it was consistent, was as the source had it at the position of its
/// lane (invariant 3).
///
/// # Panics
/// At the first state that the source never had.
pub fn assert_history(source: &Database, destination: &MemoryDestination) {
    for (number, committed) in destination.history().iter().enumerate() {
        for (table, state) in &committed.checkpoint.tables {
            if state.phase == TablePhase::Consistent {
                assert_state(source, destination, number, committed, table);
            }
        }
    }
}

fn assert_state(
    source: &Database,
    destination: &MemoryDestination,
    number: usize,
    committed: &Committed,
    table: &TableId,
) {
    let Some(position) = committed.checkpoint.position_of(table).and_then(syncline_core::Position::as_u64)
    else {
        // Without a stream nothing has a position; the end state is compared instead.
        return;
    };
    let map = &committed.map;
    let there = committed.tables.get(&map.map(table)).map(|rows| rows.sorted()).unwrap_or_default();
    let expected = project(source, destination, map, table, source.state_at(table, position));
    let difference = compare(table, &expected, &there);
    assert!(
        difference.is_none(),
        "commit {number} ({}) shows a state that the source never had at {position}: {}",
        committed.identity,
        difference.unwrap_or_default()
    );
}

/// Source rows with the columns that the destination has.
fn project(
    source: &Database,
    destination: &MemoryDestination,
    map: &SchemaMap,
    table: &TableId,
    rows: Vec<Row>,
) -> Vec<Row> {
    let (Some(here), Some(there)) = (source.columns(table), destination.columns(&map.map(table))) else {
        return rows;
    };
    let places: Vec<usize> =
        there.iter().filter_map(|name| here.iter().position(|column| column == name)).collect();
    let mut rows: Vec<Row> =
        rows.iter().map(|row| places.iter().map(|&place| row[place].clone()).collect()).collect();
    rows.sort();
    rows
}

/// Both sorted.
fn compare(table: &TableId, expected: &[Row], there: &[Row]) -> Option<String> {
    if expected == there {
        return None;
    }
    let mut text = format!("{table}: {} rows at the source, {} there", expected.len(), there.len());
    let missing: Vec<&Row> = left_over(expected, there);
    let extra: Vec<&Row> = left_over(there, expected);
    for (what, rows) in [("missing", missing), ("extra", extra)] {
        for row in rows.iter().take(3) {
            let _ = write!(text, "; {what} {}", show(row));
        }
    }
    Some(text)
}

/// Rows of one sorted list that the other does not have, counting equal ones.
fn left_over<'a>(rows: &'a [Row], others: &[Row]) -> Vec<&'a Row> {
    let mut at = 0;
    let mut left = Vec::new();
    for row in rows {
        while at < others.len() && others[at] < *row {
            at += 1;
        }
        if at < others.len() && others[at] == *row {
            at += 1;
        } else {
            left.push(row);
        }
    }
    left
}

fn show(row: &Row) -> String {
    let value = |value: &Option<Vec<u8>>| match value {
        None => "null".to_owned(),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if text.len() <= 40 => text.to_owned(),
            _ => hex(&bytes[..bytes.len().min(20)]),
        },
    };
    format!("({})", row.iter().map(value).collect::<Vec<_>>().join(", "))
}
