//! `diff`: whether two sides are equal, and where not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use syncline_connectors::registry;
use syncline_core::{Error, ErrorKind, Result, Source, TableId};
use syncline_engine::diff::sketches::HashKey;
use syncline_engine::diff::{self, Kind, Options, Pairing, RowDifference, RowsRead, TableDiff};

use crate::args::{DiffArgs, GlobalArgs, Output};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::progress::format::{count, counted, duration, per_second};
use crate::spec;

/// How often a comparison that lost its snapshot (a table rewritten meanwhile) is begun anew.
const TRIES: u32 = 3;
/// Between two lines of progress.
const TICK: Duration = Duration::from_secs(2);
/// Letters of a value that are shown to a person.
const LETTERS_MAX: usize = 60;

/// Runs the command: 3 if any table differs.
///
/// # Errors
/// As any read; configuration if tables or columns have no counterpart.
pub(crate) async fn run(args: &DiffArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let selection = spec::selection(&args.table, &args.exclude, &args.exclude_column)?;
    let map = spec::schema_map(&args.schema_map)?;
    let source = registry::source(&args.source).map_err(|error| error.context("source"))?;
    let destination = registry::source(&args.destination).map_err(|error| error.context("destination"))?;
    let pairings = diff::pair_tables(&source, &destination, &selection, &map).await?;
    let hash_key = random_key()?;
    let mut different = 0;
    for pairing in &pairings {
        let begun = Instant::now();
        let found = compare(pairing, &source, &destination, &hash_key, args).await?;
        different += u64::from(!found.is_equal());
        match global.output {
            Output::Text => output::to_stdout(&render(&found, begun.elapsed())),
            Output::Json => output::to_stdout_line(&json!({ "event": "table", "diff": found })),
        }
    }
    let tables = pairings.len() as u64;
    match global.output {
        Output::Text => output::to_stdout(&verdict(tables, different)),
        Output::Json => {
            output::to_stdout_line(&json!({ "event": "end", "tables": tables, "different": different }));
        }
    }
    Ok(if different == 0 { Exit::DONE } else { Exit::DIFFERENT })
}

/// A key of this comparison's own: nobody can prepare rows that look alike under it.
pub(crate) fn random_key() -> Result<HashKey> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::bug("the system gives no random numbers").with_source(error))?;
    Ok(HashKey::new(bytes))
}

/// One table, with its progress on stderr.
async fn compare(
    pairing: &Pairing,
    source: &Arc<dyn Source>,
    destination: &Arc<dyn Source>,
    hash_key: &HashKey,
    args: &DiffArgs,
) -> Result<TableDiff> {
    let options = Options { readers: readers(), samples_max: args.samples };
    let mut tries = 0;
    loop {
        tries += 1;
        let read = RowsRead::default();
        let comparing = diff::compare(pairing, source, destination, hash_key, options, &read);
        match with_progress(pairing, &read, comparing).await {
            Err(error) if error.kind() == ErrorKind::Retriable && tries < TRIES => {
                output::to_stderr(&format!("{}: {error}; comparing it again\n", pairing.left.id));
            }
            done => return done,
        }
    }
}

async fn with_progress(
    pairing: &Pairing,
    read: &RowsRead,
    comparing: impl Future<Output = Result<TableDiff>>,
) -> Result<TableDiff> {
    let begun = Instant::now();
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
    tokio::pin!(comparing);
    loop {
        tokio::select! {
            done = &mut comparing => return done,
            _ = tick.tick() => output::to_stderr(&progress(pairing, read, begun.elapsed())),
        }
    }
}

/// `public.users: 1,200,000 and 1,300,000 rows read of about 5,000,000, 600,000 rows/s a side, about 6 s left`.
fn progress(pairing: &Pairing, read: &RowsRead, elapsed: Duration) -> String {
    let (left, right) = (read.left.load(Ordering::Relaxed), read.right.load(Ordering::Relaxed));
    let speed = per_second(left.min(right), elapsed);
    let of = match pairing.left.rows_estimated.max(pairing.right.rows_estimated) {
        Some(rows) if rows >= left.max(right) => {
            let left = (rows - left.min(right)).checked_div(speed);
            let left = left
                .map(|s| format!(", about {} left", duration(Duration::from_secs(s))))
                .unwrap_or_default();
            format!(" of about {}, {} rows/s a side{left}", count(rows), count(speed))
        }
        _ => format!(", {} rows/s a side", count(speed)),
    };
    format!("{}: {} and {} rows read{of}\n", pairing.left.id, count(left), count(right))
}

/// Chunks of a side at the same time: both sides together keep the cores busy.
pub(crate) fn readers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)).min(8)
}

fn render(found: &TableDiff, elapsed: Duration) -> String {
    let name = both(&found.table, &found.destination_table);
    let rows = if found.rows_source == found.rows_destination {
        counted(found.rows_source, "row")
    } else {
        format!("{} and {} rows", count(found.rows_source), count(found.rows_destination))
    };
    let mut text = format!("{name}: {}  ({rows}, {})\n", result(found), duration(elapsed));
    if found.key.is_empty() && !found.is_equal() {
        text.push_str("  it has no row key: equal rows were counted\n");
    }
    if !found.not_compared.is_empty() {
        text.push_str(&format!(
            "  not compared, only at the destination: {}\n",
            found.not_compared.join(", ")
        ));
    }
    found.samples.iter().for_each(|sample| text.push_str(&line(found, sample)));
    let shown = found.samples.len() as u64;
    let all = found.counts.missing + found.counts.surplus + found.counts.changed + found.counts.repeated;
    if shown > 0 && shown < all {
        text.push_str(&shortened(all - shown));
    }
    text
}

fn both(source: &TableId, destination: &TableId) -> String {
    if source == destination { source.to_string() } else { format!("{source} → {destination}") }
}

fn result(found: &TableDiff) -> String {
    if let Some(estimate) = found.too_many {
        return format!(
            "DIFFERENT, about {} rows: too many to name; a new snapshot is cheaper",
            count(estimate)
        );
    }
    let counts = found.counts;
    let parts = [
        (counts.missing, "missing"),
        (counts.surplus, "surplus"),
        (counts.changed, "changed"),
        (counts.repeated, "with a repeated key"),
    ];
    let parts: Vec<_> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", count(*n))).collect();
    if parts.is_empty() { "equal".to_owned() } else { format!("DIFFERENT, {}", parts.join(", ")) }
}

/// What is said of rows that are not shown.
pub(crate) fn shortened(more: u64) -> String {
    format!("  … and {} more\n", count(more))
}

fn line(found: &TableDiff, sample: &RowDifference) -> String {
    if found.key.is_empty() {
        sample_line(&found.columns.iter().map(|c| c.name.clone()).collect::<Vec<_>>(), sample)
    } else {
        sample_line(&found.key, sample)
    }
}

/// `  changed   id=7: name 'a' → 'b'`. `names`: of the columns that `sample.key` holds.
pub(crate) fn sample_line(names: &[String], sample: &RowDifference) -> String {
    let key =
        names.iter().zip(&sample.key).map(|(name, value)| format!("{name}={}", shown(value.as_deref())));
    let key = key.collect::<Vec<_>>().join(", ");
    let kind = match sample.kind {
        Kind::Missing => "missing",
        Kind::Surplus => "surplus",
        Kind::Changed => "changed",
        Kind::Repeated => "repeated",
    };
    let columns = sample.columns.iter().map(|column| {
        let (source, destination) = (shown(column.source.as_deref()), shown(column.destination.as_deref()));
        match sample.kind {
            Kind::Missing => format!("{} {source}", column.name),
            Kind::Surplus => format!("{} {destination}", column.name),
            // From what the destination has to what it should have.
            Kind::Changed | Kind::Repeated => format!("{} {destination} → {source}", column.name),
        }
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    format!("  {kind:<8}  {key}{}{columns}\n", if columns.is_empty() { "" } else { ": " })
}

fn shown(value: Option<&str>) -> String {
    let Some(value) = value else { return "NULL".to_owned() };
    let mut text: String = value.chars().take(LETTERS_MAX).flat_map(char::escape_debug).collect();
    if value.chars().nth(LETTERS_MAX).is_some() {
        text.push('…');
    }
    if value.parse::<f64>().is_ok() { text } else { format!("'{text}'") }
}

fn verdict(tables: u64, different: u64) -> String {
    match different {
        0 => format!("EQUAL: {}\n", counted(tables, "table")),
        _ => format!("DIFFERENT: {} of {}\n", count(different), counted(tables, "table")),
    }
}

/// What was tried and is known to hold nothing to compare.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_shortly_and_on_one_line() {
        assert_eq!(shown(None), "NULL");
        assert_eq!(shown(Some("12.50")), "12.50");
        assert_eq!(shown(Some("a\nb")), "'a\\nb'");
        assert!(shown(Some(&"x".repeat(100))).ends_with("…'"));
    }

    #[test]
    fn the_verdict_counts_tables() {
        assert_eq!(verdict(3, 0), "EQUAL: 3 tables\n");
        assert_eq!(verdict(1, 1), "DIFFERENT: 1 of 1 table\n");
    }
}
