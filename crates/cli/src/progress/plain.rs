//! Plain lines on stderr, for logs and pipes: what just happened at once, a line of figures now and then, nothing while
//! nothing changes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use syncline_core::TableId;
use syncline_engine::Phase;

use super::Display;
use super::format::{count, counted, milliseconds};
use super::view::{View, phase_word};
use crate::{output, verifying};

/// Time between two lines of figures.
const EVERY: Duration = Duration::from_secs(5);

/// Plain lines of one pipeline.
pub(super) struct Plain {
    prefix: String,
    figures_at: Option<Instant>,
    figures: String,
    phase: Option<Phase>,
    states: BTreeMap<TableId, String>,
    waiting_for: Option<String>,
    last_error: Option<String>,
    /// Number of the last verification that was told.
    verified: u64,
}

impl Plain {
    pub(super) fn new(prefix: String) -> Self {
        Self {
            prefix,
            figures_at: None,
            figures: String::new(),
            phase: None,
            states: BTreeMap::new(),
            waiting_for: None,
            last_error: None,
            verified: 0,
        }
    }

    /// What happened since the last look, a line each.
    fn happenings(&mut self, view: &View) -> Vec<String> {
        let mut lines = Vec::new();
        let progress = &view.progress;
        for table in &view.tables {
            let (id, state) = (&table.progress.table, &table.progress.state);
            if self.states.get(id) != Some(state) {
                lines.extend(table_lines(&table.progress));
                self.states.insert(id.clone(), state.clone());
            }
        }
        if self.phase != Some(progress.phase) && progress.phase != Phase::Done {
            self.phase = Some(progress.phase);
            // A new phase shows its figures at once.
            self.figures_at = None;
        }
        if progress.last_error.is_some() && self.last_error != progress.last_error {
            let error = progress.last_error.clone().unwrap_or_default();
            lines.push(format!("attempt {} ended: {error}; trying again", progress.attempt.max(1)));
        }
        self.last_error.clone_from(&progress.last_error);
        if progress.waiting_for.is_some() && self.waiting_for != progress.waiting_for {
            lines.push(format!("waiting for {}", progress.waiting_for.as_deref().unwrap_or_default()));
        }
        self.waiting_for.clone_from(&progress.waiting_for);
        if let Some(verified) = progress.verified.as_ref().filter(|last| last.number != self.verified) {
            self.verified = verified.number;
            lines.push(verifying::line(verified));
        }
        lines
    }
}

fn table_lines(table: &syncline_engine::TableProgress) -> Vec<String> {
    let id = &table.table;
    match table.state.as_str() {
        "closing" => vec![format!("{id}: {} copied", counted(table.rows_done, "row"))],
        "recovering" => {
            vec![format!("{id}: changes of it were lost; it is compared with the source and repaired")]
        }
        "stopped" => {
            let stopped = format!("{id}: stopped: {}", table.error.as_deref().unwrap_or("unknown"));
            let remedy = table.remedy.as_ref().map(|remedy| format!("  remedy: {remedy}"));
            std::iter::once(stopped).chain(remedy).collect()
        }
        _ => Vec::new(),
    }
}

/// The figures of a moment, in one line.
pub(super) fn figures(view: &View) -> String {
    let progress = &view.progress;
    let mut parts = vec![phase_word(progress.phase).to_owned()];
    if view.copies() {
        parts.push(format!("{} of {} tables", view.tables_ready(), view.tables.len()));
        parts.push(match view.rows_estimated {
            Some(rows) => format!("{} of ~{} rows", count(view.rows_done), count(rows)),
            None => counted(view.rows_done, "row"),
        });
        parts.push(format!("{} rows/s", count(view.rows_per_second)));
        parts.extend(view.eta_seconds.map(|seconds| format!("{} left", milliseconds(seconds * 1000))));
    }
    if progress.changes_read > 0 || progress.phase == Phase::Streaming {
        parts.push(format!("{} applied", counted(progress.changes_applied, "change")));
        parts.push(format!("{}/s", count(view.changes_per_second)));
    }
    if let Some(lag) = lag(view) {
        parts.push(format!("lag {lag}"));
    }
    parts.join(", ")
}

/// `12.3 MB, 40 ms`.
pub(super) fn lag(view: &View) -> Option<String> {
    match (view.behind(), view.progress.lag_ms) {
        (Some(behind), Some(ms)) => Some(format!("{behind}, {}", milliseconds(ms))),
        (Some(behind), None) => Some(behind),
        (None, Some(ms)) => Some(milliseconds(ms)),
        (None, None) => None,
    }
}

impl Display for Plain {
    fn tick(&self) -> Duration {
        Duration::from_millis(200)
    }

    fn show(&mut self, now: Instant, view: &View) {
        let mut lines = self.happenings(view);
        let due = self.figures_at.is_none_or(|at| now.duration_since(at) >= EVERY);
        if due && view.progress.phase != Phase::Done {
            let figures = figures(view);
            if figures != self.figures {
                lines.push(figures.clone());
                self.figures = figures;
            }
            self.figures_at = Some(now);
        }
        let text: String = lines.iter().map(|line| format!("{}{line}\n", self.prefix)).collect();
        if !text.is_empty() {
            output::to_stderr(&text);
        }
    }

    fn clear(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::view::{LagUnit, Viewer};
    use syncline_engine::{Progress, TableProgress};

    fn table(name: &str, state: &str, rows: u64) -> TableProgress {
        TableProgress {
            table: TableId::new("main", name),
            state: state.to_owned(),
            rows_done: rows,
            rows_estimated: Some(4000),
            error: None,
            remedy: None,
        }
    }

    #[test]
    fn a_snapshot_and_a_stream_in_one_line() {
        let (mut viewer, start) = (Viewer::new(LagUnit::Bytes), Instant::now());
        let mut progress = Progress {
            phase: Phase::Snapshot,
            tables: vec![table("a", "snapshot", 0), table("b", "streaming", 4000)],
            ..Progress::default()
        };
        viewer.view(start, &progress);
        progress.tables[0].rows_done = 1000;
        let view = viewer.view(start + Duration::from_secs(1), &progress);
        assert_eq!(figures(&view), "snapshot, 1 of 2 tables, 5,000 of ~8,000 rows, 1,000 rows/s, 3.0 s left");
        progress.tables[0].state = "streaming".to_owned();
        progress.phase = Phase::Streaming;
        (progress.changes_read, progress.changes_applied) = (20, 20);
        (progress.lag_bytes, progress.lag_ms) = (Some(2048), Some(15));
        let view = viewer.view(start + Duration::from_secs(3), &progress);
        assert_eq!(figures(&view), "streaming, 20 changes applied, 6/s, lag 2.0 kB, 15 ms");
    }

    #[test]
    fn happenings_are_told_once() {
        let (mut plain, mut viewer, now) =
            (Plain::new(String::new()), Viewer::new(LagUnit::Bytes), Instant::now());
        let mut progress = Progress { tables: vec![table("a", "closing", 7)], ..Progress::default() };
        progress.waiting_for = Some("transaction 7 of ada".to_owned());
        let view = viewer.view(now, &progress);
        assert_eq!(plain.happenings(&view), ["main.a: 7 rows copied", "waiting for transaction 7 of ada"]);
        assert!(plain.happenings(&view).is_empty());
        progress.tables[0].state = "stopped".to_owned();
        progress.tables[0].error = Some("odd".to_owned());
        progress.tables[0].remedy = Some("make it even".to_owned());
        let view = viewer.view(now, &progress);
        assert_eq!(plain.happenings(&view), ["main.a: stopped: odd", "  remedy: make it even"]);
        assert!(plain.happenings(&view).is_empty());
    }
}
