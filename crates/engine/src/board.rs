//! What the tasks of a run tell each other's observers: counts, phases, and what is waited for.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use syncline_core::{Error, ErrorKind, Letter, LetterId, TableId};

use crate::progress::{Phase, Progress, TableProgress};
use crate::summary::{StoppedTable, Sum, TableLetters};

/// Shared by the tasks of a run. Every method is short; no lock is held across an await.
#[derive(Default)]
pub(crate) struct Board {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    progress: Progress,
    tables: BTreeMap<TableId, TableProgress>,
    stopped: BTreeMap<TableId, StoppedTable>,
    sum: Sum,
    letters: Vec<TableLetters>,
    /// Commit time of the oldest change of the load under way.
    loading_since_us: Option<i64>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn phase(&self, phase: Phase) {
        self.lock().progress.phase = phase;
    }

    pub(crate) fn waiting_for(&self, what: Option<String>) {
        self.lock().progress.waiting_for = what;
    }

    pub(crate) fn attempt(&self, number: u32, last_error: Option<&Error>) {
        let mut inner = self.lock();
        inner.progress.attempt = number;
        if let Some(error) = last_error {
            inner.progress.last_error = Some(error.to_string());
        }
    }

    /// A load begins whose oldest change committed then (microseconds since 1970 UTC).
    pub(crate) fn loading_since(&self, committed_at_us: i64) {
        self.lock().loading_since_us = Some(committed_at_us);
    }

    /// A load is durable whose newest change committed then.
    pub(crate) fn loaded(&self, committed_at_us: i64) {
        let mut inner = self.lock();
        inner.loading_since_us = None;
        inner.progress.lag_ms = Some(age_ms(committed_at_us));
    }

    /// Lets the lag grow with a load that takes long; `caught_up`: the destination has everything.
    pub(crate) fn age_lag(&self, caught_up: bool) {
        let mut inner = self.lock();
        match inner.loading_since_us {
            Some(since) => inner.progress.lag_ms = Some(age_ms(since)),
            None if caught_up => inner.progress.lag_ms = Some(0),
            None => {}
        }
    }

    /// Edits the figures that have no method of their own.
    pub(crate) fn edit(&self, edit: impl FnOnce(&mut Progress)) {
        edit(&mut self.lock().progress);
    }

    /// Sets a table's line.
    pub(crate) fn table(&self, table: &TableId, state: &str, rows_done: u64, rows_estimated: Option<u64>) {
        let mut inner = self.lock();
        let stopped = inner.stopped.get(table).cloned();
        let state = if stopped.is_some() { "stopped" } else { state }.to_owned();
        let (error, remedy) = stopped.map_or((None, None), |stopped| (Some(stopped.error), stopped.remedy));
        let line = TableProgress { table: table.clone(), state, rows_done, rows_estimated, error, remedy };
        inner.tables.insert(table.clone(), line);
    }

    pub(crate) fn table_state(&self, table: &TableId, state: &str) {
        if let Some(line) = self.lock().tables.get_mut(table)
            && line.error.is_none()
        {
            state.clone_into(&mut line.state);
        }
    }

    pub(crate) fn rows_done(&self, table: &TableId, rows: u64) {
        if let Some(line) = self.lock().tables.get_mut(table) {
            line.rows_done += rows;
        }
    }

    /// A table cannot go on.
    pub(crate) fn stop_table(&self, table: &TableId, error: &Error) {
        let mut inner = self.lock();
        if let Some(line) = inner.tables.get_mut(table) {
            "stopped".clone_into(&mut line.state);
            line.error = Some(error.to_string());
            line.remedy = error.remedy().map(str::to_owned);
        }
        let remedy = error.remedy().map(str::to_owned);
        inner.stopped.entry(table.clone()).or_insert_with(|| StoppedTable {
            table: table.clone(),
            error: error.to_string(),
            remedy,
            by_guard: error.kind() == ErrorKind::Guard,
        });
    }

    pub(crate) fn is_stopped(&self, table: &TableId) -> bool {
        self.lock().stopped.contains_key(table)
    }

    pub(crate) fn stopped(&self) -> Vec<StoppedTable> {
        self.lock().stopped.values().cloned().collect()
    }

    /// The letters that stand now.
    pub(crate) fn letters(&self, letters: &BTreeMap<LetterId, Letter>) {
        let mut by_table: BTreeMap<&TableId, u64> = BTreeMap::new();
        for letter in letters.values() {
            *by_table.entry(&letter.table).or_default() += 1;
        }
        let of_table = |(table, letters): (&TableId, u64)| TableLetters { table: table.clone(), letters };
        let mut inner = self.lock();
        inner.progress.dead_letters = letters.len() as u64;
        inner.letters = by_table.into_iter().map(of_table).collect();
    }

    pub(crate) fn table_letters(&self) -> Vec<TableLetters> {
        self.lock().letters.clone()
    }

    /// Adds to the sum of the run.
    pub(crate) fn tally(&self, tally: impl FnOnce(&mut Sum)) {
        let mut inner = self.lock();
        tally(&mut inner.sum);
        inner.progress.changes_read = inner.sum.read;
        inner.progress.changes_applied = inner.sum.applied
            + inner.sum.superseded
            + inner.sum.unchanged
            + inner.sum.skipped
            + inner.sum.letters;
    }

    pub(crate) fn sum(&self) -> Sum {
        self.lock().sum
    }

    pub(crate) fn progress(&self) -> Progress {
        let inner = self.lock();
        Progress { tables: inner.tables.values().cloned().collect(), ..inner.progress.clone() }
    }
}

fn age_ms(committed_at_us: i64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now_us = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
    u64::try_from(now_us.saturating_sub(committed_at_us) / 1000).unwrap_or(0)
}
