//! What all displays show: the engine's progress with rates and remaining time added. Pure; time is handed in.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Serialize;
use syncline_core::TableId;
use syncline_engine::{Phase, Progress, TableProgress, Verified};

use super::format::{bytes, counted, per_second};

/// A rate is taken over this long: short enough to follow, long enough to be read.
const WINDOW: Duration = Duration::from_secs(5);
/// Samples kept per rate; older ones thin out. Bounds memory whatever the tick.
const SAMPLES_MAX: usize = 64;

/// How fast a counter that only grows is growing.
#[derive(Debug, Default)]
struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Takes a sample and returns the rate per second over the window.
    fn sample(&mut self, now: Instant, value: u64) -> u64 {
        if self.samples.back().is_some_and(|(_, last)| value < *last) {
            // The counter began anew (a table that starts over, a new attempt).
            self.samples.clear();
        }
        self.samples.push_back((now, value));
        while self.samples.len() > 2
            && (self.samples.len() > SAMPLES_MAX || now.duration_since(self.samples[1].0) >= WINDOW)
        {
            self.samples.pop_front();
        }
        let (then, before) = self.samples[0];
        per_second(value - before, now.duration_since(then))
    }
}

/// A table with its rate.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TableView {
    /// As the engine says it.
    #[serde(flatten)]
    pub(crate) progress: TableProgress,
    /// Snapshot rows per second, now.
    pub(crate) rows_per_second: u64,
    /// Seconds until its snapshot is done, if that can be said.
    pub(crate) eta_seconds: Option<u64>,
}

/// What a source counts between two positions of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LagUnit {
    /// Bytes of log.
    Bytes,
    /// Entries of a change log.
    Changes,
}

/// A run with its rates.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// What `progress.lag_bytes` counts.
    pub(crate) lag_unit: LagUnit,
    /// As the engine says it.
    pub(crate) progress: Progress,
    /// Tables with their rates.
    pub(crate) tables: Vec<TableView>,
    /// Snapshot rows loaded, over all tables.
    pub(crate) rows_done: u64,
    /// Rows the source believes to have, where every table says so.
    pub(crate) rows_estimated: Option<u64>,
    /// Snapshot rows per second, now.
    pub(crate) rows_per_second: u64,
    /// Seconds until the snapshot is done, if that can be said.
    pub(crate) eta_seconds: Option<u64>,
    /// Changes per second, now.
    pub(crate) changes_per_second: u64,
}

/// A moment as programs read it: on stdout, and in what the store remembers.
#[derive(Debug, Serialize)]
pub(crate) struct Moment<'a> {
    phase: Phase,
    tables: &'a [TableView],
    rows_done: u64,
    rows_estimated: Option<u64>,
    rows_per_second: u64,
    eta_seconds: Option<u64>,
    changes_read: u64,
    changes_applied: u64,
    changes_per_second: u64,
    /// Where the source counts bytes.
    lag_bytes: Option<u64>,
    /// Where the source counts changes.
    lag_changes: Option<u64>,
    lag_ms: Option<u64>,
    waiting_for: Option<&'a str>,
    last_error: Option<&'a str>,
    attempt: u32,
    /// Dead letters that stand at the destination.
    dead_letters: u64,
    position: Option<&'a str>,
    journal_bytes: u64,
    journal_budget_bytes: u64,
    verified: Option<&'a Verified>,
}

impl View {
    /// This view for programs.
    pub(crate) fn moment(&self) -> Moment<'_> {
        let progress = &self.progress;
        Moment {
            phase: progress.phase,
            tables: &self.tables,
            rows_done: self.rows_done,
            rows_estimated: self.rows_estimated,
            rows_per_second: self.rows_per_second,
            eta_seconds: self.eta_seconds,
            changes_read: progress.changes_read,
            changes_applied: progress.changes_applied,
            changes_per_second: self.changes_per_second,
            lag_bytes: progress.lag_bytes.filter(|_| self.lag_unit == LagUnit::Bytes),
            lag_changes: progress.lag_bytes.filter(|_| self.lag_unit == LagUnit::Changes),
            lag_ms: progress.lag_ms,
            waiting_for: progress.waiting_for.as_deref(),
            last_error: progress.last_error.as_deref(),
            attempt: progress.attempt,
            dead_letters: progress.dead_letters,
            position: progress.position.as_deref(),
            journal_bytes: progress.journal_bytes,
            journal_budget_bytes: progress.journal_budget_bytes,
            verified: progress.verified.as_ref(),
        }
    }

    /// How far the destination is behind, in the source's measure.
    pub(crate) fn behind(&self) -> Option<String> {
        let lag = self.progress.lag_bytes?;
        Some(match self.lag_unit {
            LagUnit::Bytes => bytes(lag),
            LagUnit::Changes => counted(lag, "change"),
        })
    }

    /// Tables whose snapshot is behind them.
    pub(crate) fn tables_ready(&self) -> usize {
        self.tables
            .iter()
            .filter(|table| matches!(table.progress.state.as_str(), "streaming" | "done"))
            .count()
    }

    /// Whether rows are still being copied.
    pub(crate) fn copies(&self) -> bool {
        matches!(self.progress.phase, Phase::Snapshot | Phase::Closing)
            || self.tables.iter().any(|table| matches!(table.progress.state.as_str(), "snapshot" | "closing"))
    }
}

/// The word for a phase.
pub(crate) fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Opening => "opening",
        Phase::Settling => "settling",
        Phase::Snapshot => "snapshot",
        Phase::Closing => "closing",
        Phase::Streaming => "streaming",
        Phase::Draining => "draining",
        Phase::Done => "done",
    }
}

/// Turns progress into views; remembers what rates need.
#[derive(Debug)]
pub(crate) struct Viewer {
    lag_unit: LagUnit,
    tables: BTreeMap<TableId, Rate>,
    rows: Rate,
    changes: Rate,
}

impl Viewer {
    /// For a source that counts so.
    pub(crate) fn new(lag_unit: LagUnit) -> Self {
        Self { lag_unit, tables: BTreeMap::new(), rows: Rate::default(), changes: Rate::default() }
    }

    /// The view at `now`.
    pub(crate) fn view(&mut self, now: Instant, progress: &Progress) -> View {
        let tables: Vec<_> = progress.tables.iter().map(|table| self.table(now, table)).collect();
        let rows_done = progress.tables.iter().map(|table| table.rows_done).sum();
        let rows_estimated = progress
            .tables
            .iter()
            .map(|table| table.rows_estimated.map(|rows| rows.max(table.rows_done)))
            .sum::<Option<u64>>();
        let rows_per_second = self.rows.sample(now, rows_done);
        View {
            lag_unit: self.lag_unit,
            tables,
            rows_done,
            rows_estimated,
            rows_per_second,
            eta_seconds: eta(rows_done, rows_estimated, rows_per_second),
            changes_per_second: self.changes.sample(now, progress.changes_applied),
            progress: progress.clone(),
        }
    }

    fn table(&mut self, now: Instant, table: &TableProgress) -> TableView {
        let rate = self.tables.entry(table.table.clone()).or_default();
        let rows_per_second = rate.sample(now, table.rows_done);
        TableView {
            eta_seconds: eta(table.rows_done, table.rows_estimated, rows_per_second),
            rows_per_second,
            progress: table.clone(),
        }
    }
}

/// Unknown while nothing moves or nothing is left: better no figure than a wrong one.
fn eta(done: u64, estimated: Option<u64>, rate: u64) -> Option<u64> {
    let left = estimated?.checked_sub(done).filter(|left| *left > 0)?;
    (rate > 0).then(|| left.div_ceil(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(rows: u64) -> Progress {
        let table = TableProgress {
            table: TableId::new("public", "users"),
            state: "snapshot".to_owned(),
            rows_done: rows,
            rows_estimated: Some(10_000),
            error: None,
            remedy: None,
        };
        Progress { phase: Phase::Snapshot, tables: vec![table], ..Progress::default() }
    }

    #[test]
    fn rates_and_remaining_time() {
        let (mut viewer, start) = (Viewer::new(LagUnit::Changes), Instant::now());
        assert_eq!(viewer.view(start, &progress(0)).eta_seconds, None);
        let view = viewer.view(start + Duration::from_secs(1), &progress(2000));
        assert_eq!((view.rows_per_second, view.eta_seconds), (2000, Some(4)));
        assert_eq!(view.tables[0].rows_per_second, 2000);
        for second in 2..20 {
            viewer.view(start + Duration::from_secs(second), &progress(2000));
        }
        let stuck = viewer.view(start + Duration::from_secs(20), &progress(2000));
        assert_eq!((stuck.rows_per_second, stuck.eta_seconds), (0, None), "an old rate is no rate");
    }

    #[test]
    fn a_counter_that_begins_anew_gives_no_wild_rate() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        rate.sample(start, 5000);
        assert_eq!(rate.sample(start + Duration::from_secs(1), 10), 0);
    }

    #[test]
    fn samples_are_bounded() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        for ms in 0..1000 {
            rate.sample(start + Duration::from_millis(ms), ms);
        }
        assert!(rate.samples.len() <= SAMPLES_MAX + 1);
    }
}
