//! One pass over a table: look, ask, send, compare, delete, try again.

use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use serde::Serialize;
use syncline_core::{
    Bound, Error, Manifest, ManifestBounds, ManifestKey, ManifestPlace, Replica, ReplicaState, Result,
    Version, VersionPage, VersionRange, failpoint,
};

use super::decide::{Look, Step, after_asking, before_asking};
use super::memory::{Keep, Memory};
use super::near::Near;
use super::send::{Done, Sending};
use crate::diff::{Counts, Exceeded, Guard};

/// Rows that a page has at most, whatever its bytes.
pub(super) const PAGE_ROWS_MAX: usize = 20_000;
/// Rows of the first page: of large ones, too many would be read for nothing.
pub(super) const PAGE_ROWS_AT_FIRST: usize = 1000;
/// Keys that one delete names.
const DELETE_KEYS_MAX: usize = 5_000;
/// Passes without a comparison while rows wait for older transactions.
const PUT_OFF_MAX: u32 = 10;

/// What bounds a pass.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Against deleting too much.
    pub guard: Guard,
    /// Dead letters that a table may have.
    pub letters_max: usize,
}

/// What became of a table in a pass.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Passed {
    /// Whether both sides are known to be equal.
    pub equal: bool,
    /// Whether everything up to a known version is there, by what the source promises; else by a trailing window and a
    /// comparison of digests, and why.
    pub safe_bound: bool,
    /// As above.
    pub no_bound_because: Option<String>,
    /// Requests to the far side.
    pub requests: u64,
    /// Rows sent.
    pub sent: u64,
    /// Rows deleted there.
    pub deleted: u64,
    /// Rows that wait for older transactions of the source.
    pub waiting: u64,
    /// Rows of the near side.
    pub rows: u64,
    /// Rows that stand refused.
    pub letters: u64,
    /// What the next batch would have.
    pub batch_bytes: u64,
    /// What the guard stopped.
    pub exceeded: Vec<Exceeded>,
}

/// A far side whose requests are counted.
struct Counted<'a> {
    far: &'a dyn Replica,
    requests: AtomicU64,
}

impl Counted<'_> {
    fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Replica for Counted<'_> {
    async fn state(&self, range: &VersionRange) -> Result<ReplicaState> {
        self.count();
        self.far.state(range).await
    }

    async fn manifest(
        &self,
        range: &VersionRange,
        after: Option<&ManifestPlace>,
        bounds: ManifestBounds,
    ) -> Result<Manifest> {
        self.count();
        self.far.manifest(range, after, bounds).await
    }

    async fn upsert(&self, rows: &RecordBatch) -> Result<()> {
        self.count();
        self.far.upsert(rows).await
    }

    async fn delete(&self, keys: &[ManifestKey]) -> Result<()> {
        self.count();
        self.far.delete(keys).await
    }
}

/// What the near side has, and how much of it is safe to take.
///
/// # Errors
/// As any read; configuration, with the remedy, if rows have no version.
pub(super) async fn look(versions: &(impl Looked + ?Sized)) -> Result<(Look, Bound)> {
    let bound = versions.bound().await?;
    let found = versions.state(&VersionRange::ALL).await?;
    if found.unversioned > 0 {
        let message =
            format!("{} rows have no version, so their changes would never be seen", found.unversioned);
        return Err(Error::configuration(message)
            .with_remedy("give them one, and make the column NOT NULL; or exclude the table"));
    }
    let upto = match bound {
        Bound::Safe(upto) => upto,
        Bound::None(_) => Version::MAX,
    };
    let all = found.state;
    let ready = if all.max_version.is_none_or(|max| max <= upto) {
        all
    } else {
        versions.state(&VersionRange { from: Version::NONE, to: upto }).await?.state
    };
    Ok((Look { all, ready, upto }, bound))
}

/// What a look needs.
#[async_trait]
pub(super) trait Looked: Send + Sync {
    async fn bound(&self) -> Result<Bound>;
    async fn state(&self, range: &VersionRange) -> Result<syncline_core::VersionState>;
}

#[async_trait]
impl<T: Near + ?Sized> Looked for T {
    async fn bound(&self) -> Result<Bound> {
        Near::bound(self).await
    }

    async fn state(&self, range: &VersionRange) -> Result<syncline_core::VersionState> {
        Near::state(self, range).await
    }
}

/// What is said of a table that a look found to be as the far side was last known; `None` if there is something to do.
pub(super) fn settled(look: &Look, bound: &Bound, memory: &Memory) -> Option<Passed> {
    let nothing = before_asking(look, memory.far.as_ref(), memory.letters.len()) == Step::Nothing;
    let only_given_up = memory.settled == Some(look.all) && memory.letters.is_empty();
    (nothing || only_given_up).then(|| Passed { equal: nothing, ..passed(look, bound, memory) })
}

fn passed(look: &Look, bound: &Bound, memory: &Memory) -> Passed {
    Passed {
        safe_bound: matches!(bound, Bound::Safe(_)),
        no_bound_because: match bound {
            Bound::None(why) => Some(why.clone()),
            Bound::Safe(_) => None,
        },
        waiting: look.waiting(),
        rows: look.all.rows,
        letters: memory.letters.len() as u64,
        batch_bytes: memory.costs.bytes(),
        ..Passed::default()
    }
}

/// Makes the far side of a table equal to the near one, as far as that can be done now.
///
/// # Errors
/// As any read and request; dead letters beyond the limit. What was done is done: another pass goes on from there.
pub async fn pass(
    near: &dyn Near,
    far: &dyn Replica,
    memory: &mut Memory,
    keep: &dyn Keep,
    limits: &Limits,
) -> Result<Passed> {
    let (seen, bound) = look(near).await?;
    if let Some(passed) = settled(&seen, &bound, memory) {
        return Ok(passed);
    }
    let counted = Counted { far, requests: AtomicU64::new(0) };
    let mut sending = Sending {
        near,
        far: &counted,
        keep,
        memory,
        letters_max: limits.letters_max,
        done: Done::default(),
        failures: 0,
    };
    let exceeded = sending.steps(seen, limits).await;
    let done = sending.done;
    keep.keep(memory)?;
    let exceeded = exceeded?;
    let has_given_up = !memory.given_up.is_empty() && memory.letters.is_empty();
    let is_all_else_done = exceeded.is_empty() && memory.compared_down_to.is_none() && seen.waiting() == 0;
    memory.settled = (has_given_up && is_all_else_done).then_some(seen.all);
    keep.keep(memory)?;
    let (last, far_known) = (look(near).await?, memory.far);
    let mut passed = passed(&last.0, &last.1, memory);
    passed.equal = far_known == Some(last.0.all) && exceeded.is_empty();
    (passed.sent, passed.deleted) = (done.sent, done.deleted);
    passed.requests = counted.requests.load(Ordering::Relaxed);
    passed.exceeded = exceeded;
    Ok(passed)
}

impl Sending<'_> {
    async fn steps(&mut self, seen: Look, limits: &Limits) -> Result<Vec<Exceeded>> {
        let mut seen = seen;
        let mut far = self.ask().await?;
        if let Step::Send { above } = after_asking(&seen, &far) {
            self.forget_far()?;
            self.send_above(above, &seen).await?;
            // Rows that came meanwhile are for the next pass; those that moved on are told from surplus ones by their key.
            seen = look(self.near).await?.0;
            far = self.ask().await?;
        }
        let mut exceeded = Vec::new();
        if let Step::Above { version } = after_asking(&seen, &far) {
            self.forget_far()?;
            let compared = self.compare_above(version, &seen).await?;
            exceeded = self.delete(compared.surplus, &seen, &far, &limits.guard).await?;
            far = self.ask().await?;
        }
        if exceeded.is_empty() && self.is_to_be_compared(&seen, &far) {
            self.forget_far()?;
            let compared = self.compare(&seen).await?;
            exceeded = self.delete(compared.surplus, &seen, &far, &limits.guard).await?;
        }
        if !self.memory.letters.is_empty() {
            self.forget_far()?;
            self.retry(seen.upto, |_| true).await?;
        }
        if self.memory.far.is_none() {
            self.ask().await?;
        }
        Ok(exceeded)
    }

    async fn ask(&mut self) -> Result<ReplicaState> {
        let far = self.far.state(&VersionRange::ALL).await?;
        self.memory.far = Some(far);
        Ok(far)
    }

    /// Before anything is written: if this pass ends here, nobody may believe that the far side is as it was.
    fn forget_far(&mut self) -> Result<()> {
        (self.memory.far, self.memory.settled) = (None, None);
        self.keep.keep(self.memory)
    }

    /// While rows wait for older transactions, the two sides differ anyway; but not forever.
    fn is_to_be_compared(&mut self, seen: &Look, far: &ReplicaState) -> bool {
        let differs = !seen.ready.same_rows(far);
        let put_off = differs && seen.waiting() > 0 && self.memory.put_off < PUT_OFF_MAX;
        self.memory.put_off = if put_off { self.memory.put_off + 1 } else { 0 };
        differs && !put_off
    }

    /// Sends rows in the order of their versions.
    async fn send_above(&mut self, above: Option<Version>, seen: &Look) -> Result<()> {
        let mut after = self.memory.place(above);
        let from = match (&after, above) {
            (Some(place), _) => place.version,
            (None, Some(above)) => Version(above.0.saturating_add(1)),
            (None, None) => Version::MIN,
        };
        let to = seen.upto.min(seen.ready.max_version.unwrap_or(seen.upto));
        let range = VersionRange { from, to };
        let mut rows_max = PAGE_ROWS_AT_FIRST;
        loop {
            let bytes_max = usize::try_from(self.memory.costs.bytes()).unwrap_or(usize::MAX);
            let page = VersionPage { range, after: after.as_ref(), rows_max, bytes_max };
            let batch = self.near.page(&page).await?;
            // Twice what fits into a page of rows as large as these.
            let row_bytes = batch.rows.get_array_memory_size() / batch.keys.len().max(1);
            rows_max = (2 * bytes_max / row_bytes.max(1)).clamp(100, PAGE_ROWS_MAX);
            let wanted = self.without_given_up(&batch)?;
            self.send(&wanted).await?;
            if let Some(last) = &batch.last {
                self.memory.sent = Some((last.version, last.key.clone()));
                self.keep.keep(self.memory)?;
                failpoint::hit("table_sync_batch")?;
            }
            if batch.is_end {
                return Ok(());
            }
            after = batch.last;
        }
    }

    /// Deletes surplus rows, unless they are too many.
    async fn delete(
        &mut self,
        surplus: Vec<ManifestKey>,
        seen: &Look,
        far: &ReplicaState,
        guard: &Guard,
    ) -> Result<Vec<Exceeded>> {
        if surplus.is_empty() {
            return Ok(Vec::new());
        }
        // What a comparison has not come to yet counts, too.
        let at_least = far.rows.saturating_sub(seen.all.rows).max(surplus.len() as u64);
        let exceeded = guard.judge(&Counts { surplus: at_least, ..Counts::default() }, far.rows);
        if !exceeded.is_empty() {
            return Ok(exceeded);
        }
        for keys in surplus.chunks(DELETE_KEYS_MAX) {
            self.far.delete(keys).await?;
            self.done.deleted += keys.len() as u64;
        }
        Ok(Vec::new())
    }
}
