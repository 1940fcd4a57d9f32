//! What a run says at its end: the result (stdout) and what stays behind at the source (stderr).

use std::time::Duration;

use serde_json::{Value, json};
use syncline_core::{PipelineName, Retained};
use syncline_engine::{Sum, Summary};

use super::format::{bytes, count, counted, duration, per_second};

/// The result for people.
pub(crate) fn text(name: &PipelineName, summary: &Summary) -> String {
    let time = Duration::try_from_secs_f64(summary.seconds).unwrap_or_default();
    let rows: u64 = summary.tables.iter().map(|table| table.snapshot_rows).sum();
    let state = if !summary.stopped.is_empty() {
        "ended with stopped tables"
    } else if summary.drained {
        "stopped as asked; the next run goes on from here"
    } else {
        "done"
    };
    let mut lines = vec![format!(
        "{name}: {state}. {} in {}",
        counted(summary.tables.len() as u64, "table"),
        duration(time)
    )];
    if rows > 0 {
        lines.push(format!("  snapshot  {}, {} rows/s", counted(rows, "row"), count(per_second(rows, time))));
    }
    if summary.sum.read > 0 || rows == 0 {
        lines.push(format!("  changes   {}", sum(&summary.sum)));
    }
    if let Some(position) = &summary.position {
        lines.push(format!("  position  {position}"));
    }
    for letters in &summary.dead_letters {
        lines.push(format!(
            "  letters   {}: {}; see: syncline dead-letters list {name}",
            letters.table,
            counted(letters.letters, "dead letter")
        ));
    }
    for table in &summary.stopped {
        lines.push(format!("  stopped   {}: {}", table.table, table.error));
        lines.extend(table.remedy.iter().map(|remedy| format!("            remedy: {remedy}")));
    }
    lines.join("\n") + "\n"
}

/// The sum of DESIGN §6: every change that was read has gone somewhere. Parts that are zero are left out.
pub(crate) fn sum(sum: &Sum) -> String {
    let parts = [
        (sum.applied, "applied"),
        (sum.superseded, "superseded"),
        (sum.unchanged, "unchanged"),
        (sum.skipped, "skipped (seen by the snapshot)"),
        (sum.waiting, "waiting"),
        (sum.let_go, "let go"),
        (sum.letters, "dead letters"),
    ];
    let told: Vec<_> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", count(*n))).collect();
    if told.is_empty() {
        return format!("{} read", count(sum.read));
    }
    format!("{} read = {}", count(sum.read), told.join(" + "))
}

/// What stays behind, how much log it holds, how to drop it.
pub(crate) fn retained(name: &PipelineName, retained: &Retained) -> String {
    let held =
        retained.bytes.map(|held| format!(" and holds {} of log now", bytes(held))).unwrap_or_default();
    format!(
        "{} stays at the source for the next run{held}.\n  drop it with: syncline drop {name}\n  or, at the source: {}\n",
        retained.what, retained.drop_statement
    )
}

/// The result for programs.
pub(crate) fn event(name: &PipelineName, summary: &Summary, exit_code: u8) -> Value {
    json!({ "event": "summary", "pipeline": name, "exit_code": exit_code, "summary": summary })
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncline_core::TableId;
    use syncline_engine::TableSummary;

    fn summary() -> Summary {
        Summary {
            tables: vec![TableSummary {
                table: TableId::new("main", "a"),
                state: "streaming".to_owned(),
                snapshot_rows: 5000,
            }],
            sum: Sum { read: 10, applied: 7, superseded: 2, unchanged: 1, ..Sum::default() },
            seconds: 2.5,
            retained: None,
            stopped: Vec::new(),
            dead_letters: Vec::new(),
            position: Some("0/15D68".to_owned()),
            drained: false,
            verified: None,
        }
    }

    #[test]
    fn a_result_in_a_few_lines() {
        let name = PipelineName::new("shop").unwrap();
        assert_eq!(
            text(&name, &summary()),
            "shop: done. 1 table in 2.5 s\n  snapshot  5,000 rows, 2,000 rows/s\n  \
             changes   10 read = 7 applied + 2 superseded + 1 unchanged\n  position  0/15D68\n"
        );
    }

    #[test]
    fn what_stays_is_named_with_the_way_to_drop_it() {
        let name = PipelineName::new("shop").unwrap();
        let slot = Retained {
            what: "replication slot syncline_shop".to_owned(),
            bytes: Some(12_345_678),
            drop_statement: "SELECT pg_drop_replication_slot('syncline_shop');".to_owned(),
        };
        assert_eq!(
            retained(&name, &slot),
            "replication slot syncline_shop stays at the source for the next run and holds 12.3 MB of log now.\n  \
             drop it with: syncline drop shop\n  \
             or, at the source: SELECT pg_drop_replication_slot('syncline_shop');\n"
        );
    }
}
