//! The live display on a terminal: a bar per table being copied, one line for the run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use syncline_core::TableId;
use syncline_engine::Phase;

use super::Display;
use super::format::{bytes, count, counted, milliseconds};
use super::view::{TableView, View, phase_word};
use crate::{output, verifying};

/// Tables shown at the same time; the run's line counts the others.
const BARS_MAX: usize = 10;
/// Widest table name on the screen.
const NAME_WIDTH: usize = 28;

/// Bars and a line for one pipeline. They live on the screen that all pipelines share.
pub(super) struct Live {
    prefix: String,
    run: ProgressBar,
    bars: BTreeMap<TableId, ProgressBar>,
    /// How each table was when last seen; what is copied from the start is not told.
    states: BTreeMap<TableId, String>,
    began: bool,
    errors_told: Option<String>,
    /// Number of the last verification that was told.
    verified: u64,
}

impl Live {
    pub(super) fn new(prefix: String) -> Self {
        // Dressed before it is shown: a bar is drawn as soon as it is added.
        let run = output::live().add(ProgressBar::new_spinner().with_style(style("{spinner:.cyan} {msg}")));
        let (bars, states) = (BTreeMap::new(), BTreeMap::new());
        Self { prefix, run, bars, states, began: false, errors_told: None, verified: 0 }
    }

    fn show_tables(&mut self, view: &View) {
        let shown = shown(&view.tables);
        for table in &view.tables {
            let id = &table.progress.table;
            if shown.contains(&id) {
                self.show_table(table);
            } else if let Some(bar) = self.bars.remove(id) {
                output::live().remove(&bar);
            }
            let state = &table.progress.state;
            if is_news(self.states.get(id).map(String::as_str), state, self.began) {
                ending(table).iter().for_each(|line| self.tell(line));
            }
            self.states.insert(id.clone(), state.clone());
        }
        self.began |= !view.tables.is_empty();
    }

    fn show_table(&mut self, table: &TableView) {
        let progress = &table.progress;
        let bar = self.bars.entry(progress.table.clone()).or_insert_with(|| {
            let bar = ProgressBar::new(1)
                .with_style(style("  {prefix:28} {bar:24.cyan/black} {msg}"))
                .with_prefix(shorten(&format!("{}{}", self.prefix, progress.table)));
            output::live().insert_before(&self.run, bar)
        });
        bar.set_length(progress.rows_estimated.unwrap_or(progress.rows_done).max(progress.rows_done).max(1));
        bar.set_position(progress.rows_done);
        bar.set_message(table_figures(table));
    }

    /// A line that stays on the screen.
    fn tell(&self, line: &str) {
        output::to_stderr(&format!("  {}{line}\n", self.prefix));
    }
}

impl Display for Live {
    fn tick(&self) -> Duration {
        Duration::from_millis(120)
    }

    fn show(&mut self, _now: Instant, view: &View) {
        self.show_tables(view);
        let error = &view.progress.last_error;
        if error.is_some() && *error != self.errors_told {
            self.tell(&format!("{}; trying again", error.as_deref().unwrap_or_default()));
            self.errors_told.clone_from(error);
        }
        if let Some(verified) = view.progress.verified.as_ref().filter(|last| last.number != self.verified) {
            self.tell(&verifying::line(verified));
            self.verified = verified.number;
        }
        self.run.set_message(format!("{}{}", self.prefix, run_line(view)));
        self.run.tick();
    }

    fn clear(&mut self) {
        for bar in self.bars.values() {
            bar.finish_and_clear();
            output::live().remove(bar);
        }
        self.bars.clear();
        self.run.finish_and_clear();
        output::live().remove(&self.run);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The tables that get a bar: those being copied first, then those that catch up.
fn shown(tables: &[TableView]) -> Vec<&TableId> {
    let in_state = |state: &'static str| tables.iter().filter(move |table| table.progress.state == state);
    in_state("snapshot")
        .chain(in_state("closing"))
        .take(BARS_MAX)
        .map(|table| &table.progress.table)
        .collect()
}

/// Whether a table's snapshot is over, one way or the other.
fn is_over(state: &str) -> bool {
    matches!(state, "streaming" | "done" | "stopped")
}

/// Whether a table's new state is told: the end of its copying, if that was seen to go on, and in any case that it stopped.
fn is_news(before: Option<&str>, state: &str, began: bool) -> bool {
    match state {
        "stopped" | "recovering" => before != Some(state),
        state => is_over(state) && began && !before.is_some_and(is_over),
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template is ours and constant; should it ever be wrong, a plain bar shows the same figures.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

fn table_figures(table: &TableView) -> String {
    let progress = &table.progress;
    if progress.state == "closing" {
        return format!("{}, catching up", counted(progress.rows_done, "row"));
    }
    let rows = match progress.rows_estimated {
        Some(estimated) => format!("{} of ~{}", count(progress.rows_done), count(estimated)),
        None => counted(progress.rows_done, "row"),
    };
    let eta = table.eta_seconds.map(|s| format!(", {} left", milliseconds(s * 1000))).unwrap_or_default();
    format!("{rows}, {} rows/s{eta}", count(table.rows_per_second))
}

fn ending(table: &TableView) -> Vec<String> {
    let progress = &table.progress;
    let Some(error) = &progress.error else {
        if progress.state == "recovering" {
            return vec![format!("{}: changes of it were lost; it is compared and repaired", progress.table)];
        }
        return vec![format!("✓ {}: {} copied", progress.table, counted(progress.rows_done, "row"))];
    };
    let remedy = progress.remedy.as_ref().map(|remedy| format!("  remedy: {remedy}"));
    std::iter::once(format!("✗ {}: {error}", progress.table)).chain(remedy).collect()
}

/// The run in one line.
fn run_line(view: &View) -> String {
    let progress = &view.progress;
    let mut parts = vec![phase_word(progress.phase).to_owned()];
    if view.copies() && !view.tables.is_empty() {
        parts.push(format!("{} of {} tables", view.tables_ready(), view.tables.len()));
        parts.push(format!("{} rows/s", count(view.rows_per_second)));
    }
    if progress.changes_read > 0 || progress.phase == Phase::Streaming {
        parts.push(format!("{} changes/s", count(view.changes_per_second)));
        parts.push(format!("{} applied", counted(progress.changes_applied, "change")));
    }
    parts.extend(view.behind().map(|lag| format!("lag {lag}")));
    parts.extend(progress.lag_ms.map(milliseconds));
    if progress.journal_bytes > progress.journal_budget_bytes / 4 && progress.journal_bytes > 0 {
        parts.push(format!("journal {}", bytes(progress.journal_bytes)));
    }
    parts.extend(progress.waiting_for.as_ref().map(|who| format!("waiting for {who}")));
    parts.join(" · ")
}

fn shorten(name: &str) -> String {
    if name.chars().count() <= NAME_WIDTH {
        return name.to_owned();
    }
    let kept: String = name.chars().take(NAME_WIDTH - 1).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::view::{LagUnit, Viewer};
    use syncline_engine::{Progress, TableProgress};

    #[test]
    fn the_run_in_one_line() {
        let progress = Progress {
            phase: Phase::Streaming,
            changes_read: 10,
            changes_applied: 8,
            lag_bytes: Some(1200),
            lag_ms: Some(40),
            waiting_for: Some("the destination".to_owned()),
            ..Progress::default()
        };
        let view = Viewer::new(LagUnit::Bytes).view(Instant::now(), &progress);
        assert_eq!(
            run_line(&view),
            "streaming · 0 changes/s · 8 changes applied · lag 1.2 kB · 40 ms · waiting for the destination"
        );
    }

    #[test]
    fn a_table_that_stops_is_told_whenever_it_does() {
        assert!(is_news(Some("streaming"), "stopped", true) && is_news(None, "stopped", false));
        assert!(is_news(Some("closing"), "streaming", true));
        for (before, now) in [("stopped", "stopped"), ("streaming", "streaming"), ("snapshot", "closing")] {
            assert!(!is_news(Some(before), now, true), "{before} {now}");
        }
        assert!(!is_news(None, "streaming", false), "it was equal before the run");
    }

    #[test]
    fn a_table_says_how_far_it_is() {
        let progress = TableProgress {
            table: TableId::new("a", "b"),
            state: "snapshot".to_owned(),
            rows_done: 1500,
            rows_estimated: Some(3000),
            error: None,
            remedy: None,
        };
        let table = TableView { progress, rows_per_second: 100, eta_seconds: Some(15) };
        assert_eq!(table_figures(&table), "1,500 of ~3,000, 100 rows/s, 15 s left");
        assert_eq!(shorten(&"x".repeat(40)).chars().count(), NAME_WIDTH);
    }
}
