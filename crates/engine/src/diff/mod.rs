//! Comparing two sides without a log: what differs, at the cost of reading each side once.
//!
//! ```text
//! source ── chunks ──▶ encoder ─▶ sketch ─┐
//!                                         ├─▶ difference ──▶ keys ──▶ rows of both sides, shown
//! destination ─ chunks ─▶ encoder ─▶ sketch ─┘
//! ```
//!
//! | module | what it is for |
//! |---|---|
//! | `pairing` | which columns are compared with each other, and as what |
//! | `encoder` | rows in the one canonical encoding; `keys`: the way back |
//! | `side`, `scanned` | a table read as encoded rows, in parallel, in no order; what a scan of it left |
//! | `inside` | digests that the databases compute, where both are far away |
//! | [`remote`] | a side that an agent reads, and the agent's end of it |
//! | [`sketches`] | digests and set differences of rows, pure |
//! | `comparison`, `table` | the comparison of one table, and what it says |
//! | `shown` | differing rows with their values |
//! | `guard`, `plan` | whether a repair may change so much, and what an approval names |
//! | `unique` | whether columns of the source are unique that are said to be |
//! | `repair`, `writer` | differing rows written as the source has them, and in whose name |
//! | `live` | what a verification under a live stream needs of it |
//!
//! Both sides are read as any snapshot is. Rows of two systems of one family whose columns have the same types are hashed as
//! they come, without being decoded.

mod comparison;
mod encoder;
mod guard;
mod inside;
pub(crate) mod keys;
pub(crate) mod live;
mod pairing;
mod plan;
pub mod remote;
mod repair;
mod scanned;
mod shown;
mod side;
pub mod sketches;
mod table;
mod unique;
mod writer;

use std::sync::Arc;

use syncline_core::{Carry, Error, Result, SchemaMap, Selection, Source, TableId, TablePattern, TableSchema};

pub use comparison::Comparison;
pub(crate) use comparison::{Found, counts};
pub use encoder::Encoder;
pub use guard::{Exceeded, Guard, Operations};
pub use inside::InsideCost;
pub use pairing::{Class, ComparedColumn, Pairing};
pub use plan::{KeyBytes, Plan};
pub use repair::Repaired;
pub(crate) use shown::Rows;
pub use table::{ColumnDifference, Counts, Kind, RowDifference, RowsRead, TableDiff};
pub use unique::{Enforced, NotUnique, RepeatedValue};
pub use writer::Writer;

/// Finds the selected tables on both sides and brings each pair to the same columns.
///
/// A table of the source is compared with the one of its mapped name; at a destination that knows no schemas, with the only
/// one of its name.
///
/// # Errors
/// Configuration if the destination lacks a table or a column, or if two types cannot be compared.
pub async fn pair_tables(
    source: &Arc<dyn Source>,
    destination: &Arc<dyn Source>,
    selection: &Selection,
    map: &SchemaMap,
) -> Result<Vec<Pairing>> {
    pair_some(source, destination, selection, map, |_| true).await
}

/// As [`pair_tables`], of those tables of the selection that are wanted; the others may have no counterpart.
pub(crate) async fn pair_some(
    source: &Arc<dyn Source>,
    destination: &Arc<dyn Source>,
    selection: &Selection,
    map: &SchemaMap,
    is_wanted: impl Fn(&TableId) -> bool + Copy,
) -> Result<Vec<Pairing>> {
    let native = pairing::may_be_native(source.family(), destination.family());
    let first = if native { Carry::Native } else { Carry::Typed };
    let pairs = discover(source, destination, selection, map, first, is_wanted).await?;
    let mut pairings = Vec::with_capacity(pairs.len());
    let mut typed = None;
    for (left, right) in pairs {
        let pairing = match pairing::native(&left, &right).filter(|_| native) {
            Some(pairing) => pairing,
            None if native => {
                if typed.is_none() {
                    typed =
                        Some(discover(source, destination, selection, map, Carry::Typed, is_wanted).await?);
                }
                let of_table = |(other, _): &&(TableSchema, TableSchema)| other.id == left.id;
                let pair = typed.iter().flatten().find(of_table);
                let (left, right) = pair.ok_or_else(|| vanished(&left.id))?;
                pairing::typed(left, right)?
            }
            None => pairing::typed(&left, &right)?,
        };
        pairings.push(pairing);
    }
    Ok(pairings)
}

async fn discover(
    source: &Arc<dyn Source>,
    destination: &Arc<dyn Source>,
    selection: &Selection,
    map: &SchemaMap,
    carry: Carry,
    is_wanted: impl Fn(&TableId) -> bool,
) -> Result<Vec<(TableSchema, TableSchema)>> {
    let mut left = source.discover(&Selection { carry, ..selection.clone() }).await?;
    left.retain(|table| is_wanted(&table.id));
    if left.is_empty() {
        return Ok(Vec::new());
    }
    let names = left.iter().map(|table| TablePattern::new(&format!("*.{}", table.id.name)));
    let include = names.collect::<Result<_>>()?;
    let right = destination.discover(&Selection { include, ..Selection::all(carry) }).await;
    let right = right.map_err(|error| error.context("looking for the tables at the destination"))?;
    let found = left.into_iter().map(|table| {
        let at = counterpart(&map.map(&table.id), &right);
        let at = at.ok_or_else(|| no_counterpart(&table.id, &map.map(&table.id)))?.clone();
        Ok((table, at))
    });
    found.collect()
}

fn counterpart<'a>(id: &TableId, tables: &'a [TableSchema]) -> Option<&'a TableSchema> {
    let mut named = tables.iter().filter(|table| table.id.name == id.name);
    let exact = tables.iter().find(|table| table.id == *id);
    let schemas: std::collections::BTreeSet<_> = tables.iter().map(|table| &table.id.schema).collect();
    exact.or_else(|| named.next().filter(|_| schemas.len() == 1 && named.next().is_none()))
}

fn no_counterpart(table: &TableId, wanted: &TableId) -> Error {
    Error::configuration(format!("the destination has no table {wanted}"))
        .with_table(table)
        .with_remedy("say where it is with --schema-map FROM=TO, or leave it out with --exclude")
}

fn vanished(table: &TableId) -> Error {
    Error::configuration("the table went away while it was looked at").with_table(table)
}
