//! What a comparison found, for a person.

use std::time::Duration;

use syncline_core::TableId;
use syncline_engine::diff::remote::{Exchanged, Traffic};
use syncline_engine::diff::{InsideCost, Kind, NotUnique, RowDifference, TableDiff};

use super::outcome::{Decision, TableOutcome};
use super::sides::AgentTraffic;
use crate::args::{DiffArgs, DigestWhere};
use crate::progress::format::{bytes, count, counted, duration};

/// Letters of a value that are shown.
const LETTERS_MAX: usize = 60;

fn not_unique(violation: &NotUnique) -> String {
    let columns = violation.columns.join(", ");
    let values = counted(violation.values, "value");
    let mut text =
        format!("  not repaired: ({columns}) is not unique at the source, {values} more than once\n");
    for repeated in &violation.some {
        let value: Vec<_> = repeated.value.iter().map(|value| shown(Some(value))).collect();
        text.push_str(&format!("    {} in {}\n", value.join(", "), counted(repeated.rows, "row")));
    }
    text
}

/// One table.
pub(super) fn table(outcome: &TableOutcome, elapsed: Duration) -> String {
    let mut text = render(&outcome.diff, elapsed);
    if !outcome.unique_not_checked.is_empty() {
        text.push_str(&format!(
            "  not checked before writing, unique over expressions, some rows, other columns or by other rules: {}\n",
            outcome.unique_not_checked.join(", ")
        ));
    }
    match &outcome.decision {
        Decision::Compared | Decision::Equal => {}
        Decision::Planned => text.push_str("  --repair would write these rows\n"),
        Decision::Stopped { exceeded } if exceeded.is_empty() => {
            text.push_str("  not repaired: the approved plan does not have all of these rows any more\n");
        }
        Decision::Stopped { exceeded } => {
            let exceeded: Vec<_> = exceeded.iter().map(ToString::to_string).collect();
            text.push_str(&format!("  not repaired, stopped by the guard: {}\n", exceeded.join("; ")));
        }
        Decision::NotUnique(violations) => {
            violations.iter().for_each(|violation| text.push_str(&not_unique(violation)));
        }
        Decision::TooMany => {
            text.push_str(
                "  not repaired: a new snapshot is cheaper, `syncline sync … --prepare truncate`\n",
            );
        }
        Decision::Repaired(done) => {
            let (inserted, updated, deleted) =
                (count(done.inserted), count(done.updated), count(done.deleted));
            text.push_str(&format!(
                "  repaired: {inserted} inserted, {updated} updated, {deleted} deleted\n"
            ));
            if done.left > 0 {
                text.push_str(&format!(
                    "  left: {} that changed meanwhile, or whose key is written in another way there\n",
                    counted(done.left, "row")
                ));
            }
        }
        Decision::Failed { error, .. } => text.push_str(&format!("  not repaired: {error}\n")),
    }
    text
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
    if let Some(InsideCost { source, destination }) = found.inside {
        let passes = counted(found.scans.into(), "pass").replace("passs", "passes");
        let (source, destination) = (bytes(source.bytes()), bytes(destination.bytes()));
        text.push_str(&format!(
            "  hashed in the databases: {passes}; exchanged for it {source} with the source, {destination} with the destination\n"
        ));
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

/// What was exchanged with agents, a line each; nothing without one.
pub(super) fn exchanged(traffic: &AgentTraffic) -> String {
    let sides = [("source", &traffic.source), ("destination", &traffic.destination)];
    let sides = sides.into_iter().filter_map(|(side, traffic)| Some((side, (*traffic)?)));
    let of = |exchanged: Exchanged| {
        format!("{} sent, {} received", bytes(exchanged.sent_bytes), bytes(exchanged.received_bytes))
    };
    let line = |(side, Traffic { sketches, keys, rows, rest })| {
        let (sketches, keys, rows, rest) = (of(sketches), of(keys), of(rows), of(rest));
        format!(
            "with the agent of the {side}: sketches {sketches}; keys {keys}; rows {rows}; the rest {rest}\n"
        )
    };
    sides.map(line).collect()
}

/// The last lines.
pub(super) fn end(outcomes: &[TableOutcome], token: Option<&str>, args: &DiffArgs) -> String {
    let mut text = verdict(outcomes);
    if let Some(token) = token {
        let (source, destination) = ("SOURCE-URL", "DESTINATION-URL");
        let in_database = args.digest == DigestWhere::InDatabase;
        let exceptions: String = args
            .exclude_column
            .iter()
            .map(|column| format!(" --exclude-column '{column}'"))
            .chain(args.schema_map.iter().map(|map| format!(" --schema-map '{map}'")))
            .chain(in_database.then(|| " --digest in-database".to_owned()))
            .collect();
        text.push_str(&format!(
            "  to write just what is planned: syncline diff {source} {destination}{exceptions} --approve {token}\n"
        ));
    }
    text
}

fn verdict(outcomes: &[TableOutcome]) -> String {
    let tables = counted(outcomes.len() as u64, "table");
    let of = |is: fn(&TableOutcome) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count() as u64;
    let different = of(TableOutcome::is_different);
    let repaired = of(|outcome| matches!(outcome.decision, Decision::Repaired(_)));
    match (different, repaired) {
        (0, 0) => format!("EQUAL: {tables}\n"),
        (0, repaired) => format!("EQUAL NOW: {tables}, {} repaired\n", count(repaired)),
        (different, 0) => format!("DIFFERENT: {} of {tables}\n", count(different)),
        (different, repaired) => {
            format!("DIFFERENT: {} of {tables}, {} repaired\n", count(different), count(repaired))
        }
    }
}

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
}
