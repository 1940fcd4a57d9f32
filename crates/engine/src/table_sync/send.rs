//! Sending rows: in batches of the size that is best now, halved where they fail, down to the rows that are refused.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use syncline_core::{Error, ErrorKind, ManifestKey, Reaction, Replica, Result, Version};

use super::memory::{Keep, Memory, RefusedRow};
use super::near::{Batch, Near};
use crate::letters;

/// Before a batch that failed for no fault of its rows is tried again in halves.
const PAUSE: Duration = Duration::from_millis(200);
/// How often a batch may fail as a whole before one goes well.
const FAILURES_MAX: u32 = 8;
/// Keys whose rows are read at once: at first, and at most.
const KEYS_AT_FIRST: usize = 100;
const KEYS_MAX: usize = 1000;

/// Both sides of a table, and what is remembered of it.
pub(super) struct Sending<'a> {
    pub(super) near: &'a dyn Near,
    pub(super) far: &'a dyn Replica,
    pub(super) keep: &'a dyn Keep,
    pub(super) memory: &'a mut Memory,
    /// Dead letters that the table may have.
    pub(super) letters_max: usize,
    pub(super) done: Done,
    pub(super) failures: u32,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Done {
    pub(super) sent: u64,
    pub(super) deleted: u64,
}

impl Sending<'_> {
    /// Sends rows. Those that are refused alone become dead letters.
    pub(super) async fn send(&mut self, batch: &Batch) -> Result<()> {
        // Halves that are left, the next one last.
        let mut open = vec![(0, batch.keys.len())];
        let mut rows_max = batch.keys.len();
        while let Some((from, count)) = open.pop().filter(|&(_, count)| count > 0) {
            let halves = [(from + count / 2, count - count / 2), (from, count / 2)];
            if count > rows_max {
                open.extend(halves);
                continue;
            }
            let rows = batch.rows.slice(from, count);
            let bytes = bytes_of(batch, count);
            let begun = Instant::now();
            match self.far.upsert(&rows).await {
                Ok(()) => {
                    let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                    self.memory.costs.went_well(bytes, micros);
                    self.failures = 0;
                    self.memory.far = None;
                    self.done.sent += count as u64;
                    let sent = &batch.keys[from..from + count];
                    self.memory.arrived(sent);
                }
                Err(error) if error.rows_at_fault() && count > 1 => open.extend(halves),
                Err(error) if error.rows_at_fault() => self.set_aside(&batch.keys[from], error)?,
                Err(error)
                    if error.kind().reaction() == Reaction::Retry
                        && count > 1
                        && self.failures < FAILURES_MAX =>
                {
                    self.failures += 1;
                    self.memory.costs.failed(bytes);
                    rows_max = count.div_ceil(2);
                    tracing::warn!(%error, rows = count, "a batch failed; trying it in halves");
                    tokio::time::sleep(PAUSE).await;
                    open.extend(halves);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A batch without the rows that were given up as they are.
    pub(super) fn without_given_up<'b>(&self, batch: &'b Batch) -> Result<Cow<'b, Batch>> {
        let stays = |row: &usize| {
            let (key, version) = &batch.keys[*row];
            !self.memory.is_given_up(key, *version)
        };
        if self.memory.given_up.is_empty() {
            return Ok(Cow::Borrowed(batch));
        }
        let rows: Vec<usize> = (0..batch.keys.len()).filter(stays).collect();
        picked(batch, &rows).map(Cow::Owned)
    }

    /// Skips a row ahead. That it is skipped is kept before anything else is done.
    fn set_aside(&mut self, row: &(ManifestKey, Version), error: Error) -> Result<()> {
        if self.letters_max == 0 {
            return Err(error);
        }
        self.memory.refused(row, &error, letters::now_ms());
        if self.memory.letters.len() > self.letters_max {
            self.memory.letters.pop();
            return Err(too_many(self.letters_max, &error));
        }
        self.keep.keep(self.memory)
    }

    /// Sends the rows of these keys as they are now, but not those above `upto`: they come in the order of versions. Keys
    /// without a row come back. `known`: what the far side has of a key.
    pub(super) async fn send_keys(
        &mut self,
        keys: &[(ManifestKey, Option<Version>)],
        upto: Version,
    ) -> Result<Vec<ManifestKey>> {
        let (mut rest, mut count, mut gone) = (keys, KEYS_AT_FIRST, Vec::new());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(count.min(rest.len()));
            let wanted: Vec<ManifestKey> = now.iter().map(|(key, _)| key.clone()).collect();
            let found = self.near.rows(&wanted).await?;
            let bytes = found.rows.get_array_memory_size().max(1);
            let at_most = usize::try_from(self.memory.costs.bytes()).unwrap_or(usize::MAX);
            count = (at_most.saturating_mul(now.len()) / bytes).clamp(1, KEYS_MAX);
            let there: std::collections::BTreeMap<_, _> =
                found.keys.iter().enumerate().map(|(row, (key, version))| (key, (row, *version))).collect();
            let mut rows = Vec::new();
            for (key, far) in now {
                match there.get(key) {
                    None => gone.push(key.clone()),
                    Some((_, version)) if self.memory.is_given_up(key, *version) => {}
                    Some((row, version)) if *version <= upto && Some(*version) != *far => rows.push(*row),
                    Some(_) => {}
                }
            }
            self.send(&picked(&found, &rows)?).await?;
            rest = later;
        }
        Ok(gone)
    }

    /// Tries the refused rows again. What is gone here is no longer refused.
    pub(super) async fn retry(
        &mut self,
        upto: Version,
        is_wanted: impl Fn(&RefusedRow) -> bool,
    ) -> Result<()> {
        let wanted = self.memory.letters.iter().filter(|letter| is_wanted(letter));
        let keys: Vec<_> = wanted.map(|letter| (letter.key.clone(), None)).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let gone = self.send_keys(&keys, upto).await?;
        self.memory.letters.retain(|letter| !gone.contains(&letter.key));
        self.keep.keep(self.memory)
    }
}

/// More rows would be set aside than may be. Unlike a load's, what was sent before stays.
fn too_many(max: usize, last: &Error) -> Error {
    Error::new(
        ErrorKind::DeadLetters,
        format!("the destination refuses more than {max} rows; the last one: {last}"),
    )
    .with_remedy("make the destination take the rows, or raise --dead-letters-max, then run again")
}

fn bytes_of(batch: &Batch, count: usize) -> u64 {
    let all = batch.rows.get_array_memory_size() as u64;
    all * count as u64 / (batch.keys.len() as u64).max(1)
}

/// Some rows of a batch.
fn picked(batch: &Batch, rows: &[usize]) -> Result<Batch> {
    let places: arrow_array::UInt32Array =
        rows.iter().map(|&row| u32::try_from(row).unwrap_or(u32::MAX)).collect::<Vec<_>>().into();
    let picked = arrow_select::take::take_record_batch(&batch.rows, &places)
        .map_err(|error| Error::bug("rows cannot be picked").with_source(error))?;
    let keys = rows.iter().map(|&row| batch.keys[row].clone()).collect();
    Ok(Batch { rows: picked, keys, last: None, is_end: batch.is_end })
}
