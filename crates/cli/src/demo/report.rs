//! What the demo says.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use syncline_engine::Sum;

use super::compare::{Comparison, TableResult};
use super::shop::{Size, TABLES};
use super::writer::Tally;
use super::{Outcome, Place};
use crate::progress::format::{bytes, count, counted, duration, milliseconds, per_second};
use crate::progress::summary;

pub(super) fn shop_built(size: Size, path: &Path, took: Duration, time: Duration) -> String {
    let file_bytes = std::fs::metadata(path).map(|file| file.len()).unwrap_or_default();
    format!(
        "A small shop in SQLite: {} tables, {} rows, {}, made in {}.\n\
         It is being copied; then every change is streamed while a writer works on it for {}.\n",
        TABLES.len(),
        count(size.rows().unsigned_abs()),
        bytes(file_bytes),
        duration(took),
        duration(time)
    )
}

pub(super) fn writer_done(tally: &Tally) -> String {
    format!(
        "The writer is done: {} ({} inserted, {} updated, {} deleted, {} moved to another key). Catching up.\n",
        counted(tally.transactions, "transaction"),
        counted(tally.inserted, "row"),
        count(tally.updated),
        count(tally.deleted),
        count(tally.keys_moved)
    )
}

pub(super) fn kept(place: &Place) -> String {
    let (shop, copy, state) = (place.shop(), place.copy(), place.state());
    format!(
        "Kept in {dir}. To go on:\n  \
         syncline sync sqlite:{shop} sqlite:{copy} --name demo --capture triggers --follow --state-dir {state}\n  \
         sqlite3 {shop}   (change something, in another terminal)\n  \
         syncline status --state-dir {state}\n  \
         rm -r {dir}\n",
        dir = place.dir.display(),
        shop = shop.display(),
        copy = copy.display(),
        state = state.display()
    )
}

/// Both runs' changes in one sum. What the first left waiting, the second has read.
fn changes(outcome: &Outcome) -> Sum {
    let (a, b) = (outcome.first.sum, outcome.last.sum);
    Sum {
        read: (a.read - a.waiting) + b.read,
        applied: a.applied + b.applied,
        superseded: a.superseded + b.superseded,
        unchanged: a.unchanged + b.unchanged,
        skipped: a.skipped + b.skipped,
        waiting: b.waiting,
        let_go: a.let_go + b.let_go,
        letters: a.letters + b.letters,
    }
}

pub(super) fn text(outcome: &Outcome) -> String {
    let (comparison, sum) = (&outcome.comparison, changes(outcome));
    let mut text = verdict(comparison);
    let rows: u64 = outcome.first.tables.iter().map(|table| table.snapshot_rows).sum();
    if let Some(took) = outcome.watched.snapshot {
        text.push_str(&format!(
            "  snapshot   {} in {}: {} rows/s\n",
            counted(rows, "row"),
            duration(took),
            count(per_second(rows, took))
        ));
    }
    text.push_str(&format!(
        "  writer     {}, {} changed, and what cascades from them\n",
        counted(outcome.tally.transactions, "transaction"),
        counted(outcome.tally.rows(), "row")
    ));
    text.push_str(&format!("  stream     {}\n", summary::sum(&sum)));
    if let (Some(middle), Some(worst)) = (outcome.watched.lag_ms(50), outcome.watched.lag_ms(100)) {
        text.push_str(&format!(
            "  lag        {} in the middle, {} at worst\n",
            milliseconds(middle),
            milliseconds(worst)
        ));
    }
    text
}

fn verdict(comparison: &Comparison) -> String {
    if comparison.is_equal() {
        return format!(
            "EQUAL: {} and {} in {} tables, compared both ways by code that shares nothing with the copy.\n",
            counted(comparison.rows(), "row"),
            counted(comparison.values(), "value"),
            comparison.tables.len()
        );
    }
    let unequal =
        |table: &&TableResult| !table.same_columns || table.missing + table.surplus + table.different > 0;
    let line = |table: &TableResult| {
        if table.same_columns {
            format!(
                "  {}: of {}, {} missing, {} differ, {} too many\n",
                table.table,
                counted(table.rows, "row"),
                count(table.missing),
                count(table.different),
                count(table.surplus)
            )
        } else {
            format!("  {}: the columns differ, or the table is not there\n", table.table)
        }
    };
    let lines: String = comparison.tables.iter().filter(unequal).map(line).collect();
    format!("DIFFERENT:\n{lines}")
}

pub(super) fn event(outcome: &Outcome) -> Value {
    json!({
        "event": "demo",
        "equal": outcome.comparison.is_equal(),
        "rows_at_start": outcome.size.rows(),
        "rows_compared": outcome.comparison.rows(),
        "values_compared": outcome.comparison.values(),
        "tables": outcome.comparison.tables,
        "snapshot_seconds": outcome.watched.snapshot.map(|time| time.as_secs_f64()),
        "writer": outcome.tally,
        "changes": changes(outcome),
        "lag_ms_p50": outcome.watched.lag_ms(50),
        "lag_ms_max": outcome.watched.lag_ms(100),
    })
}
