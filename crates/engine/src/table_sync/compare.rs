//! Finding rows that differ although the versions do not say so: ranges of versions are halved until few rows are left in
//! those that differ, and these are compared one by one.
//!
//! States add up, so each halving costs one request. The newest rows are looked at first, in a range of their own: what a
//! transaction brought late is mostly there. A comparison that has made [`REQUESTS_MAX`] requests goes on in the next pass.

use std::collections::BTreeMap;

use syncline_core::{ManifestBounds, ManifestKey, ReplicaState, Result, Version, VersionRange};

use super::decide::Look;
use super::send::Sending;

/// Requests of one comparison.
const REQUESTS_MAX: u32 = 200;
/// The trailing window: rows of the highest versions, which are looked at by themselves.
const WINDOW_ROWS: u64 = 10_000;
/// Rows that a manifest is asked for; ranges of more are halved.
const MANIFEST_ROWS: usize = 20_000;
const MANIFEST_BYTES: usize = 8 << 20;
/// Rows may have come since they were counted.
pub(super) const BOUNDS: ManifestBounds =
    ManifestBounds { rows_max: 2 * MANIFEST_ROWS, bytes_max: MANIFEST_BYTES };
/// Keys of surplus rows that are held before they are deleted.
pub(super) const SURPLUS_MAX: usize = 200_000;

/// What a comparison has found and not done anything about.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// Keys that only the far side has.
    pub(super) surplus: Vec<ManifestKey>,
    /// Whether everything was looked at.
    pub(super) finished: bool,
}

/// A range that is still to be looked at, with what is known of it.
struct Open {
    range: VersionRange,
    near: Option<ReplicaState>,
    far: Option<ReplicaState>,
}

/// What one side has and another has not, by subtraction. The maximum is not known then.
fn rest(all: &ReplicaState, part: &ReplicaState) -> ReplicaState {
    ReplicaState {
        rows: all.rows.saturating_sub(part.rows),
        max_version: all.max_version,
        version_sum: all.version_sum.wrapping_sub(part.version_sum),
    }
}

impl Sending<'_> {
    /// Looks at everything, from the newest rows on; below where the last comparison stopped, if it did.
    pub(super) async fn compare(&mut self, look: &Look) -> Result<Compared> {
        let open = |range| Open { range, near: None, far: None };
        let window = self.near.nth_last(&VersionRange::ALL, WINDOW_ROWS).await?;
        let to = self.memory.compared_down_to.map_or(Version::MAX, |at| Version(at.0.saturating_sub(1)));
        let ranges = match window.filter(|_| self.memory.compared_down_to.is_none()) {
            None => vec![open(VersionRange { from: Version::NONE, to })],
            Some(at) => vec![
                open(VersionRange { from: Version::NONE, to: Version(at.0.saturating_sub(1)) }),
                open(VersionRange { from: at, to: Version::MAX }),
            ],
        };
        self.compare_ranges(ranges, look).await
    }

    /// Looks at what the far side has above a version.
    pub(super) async fn compare_above(&mut self, version: Option<Version>, look: &Look) -> Result<Compared> {
        let from = version.map_or(Version::NONE, |at| Version(at.0.saturating_add(1)));
        let range = VersionRange { from, to: Version::MAX };
        self.compare_ranges(vec![Open { range, near: None, far: None }], look).await
    }

    /// The last range first.
    async fn compare_ranges(&mut self, mut open: Vec<Open>, look: &Look) -> Result<Compared> {
        let mut compared = Compared { finished: true, ..Compared::default() };
        let mut requests = 0;
        while let Some(next) = open.pop() {
            if requests >= REQUESTS_MAX || compared.surplus.len() >= SURPLUS_MAX {
                self.memory.compared_down_to = Some(Version(next.range.to.0.saturating_add(1)));
                compared.finished = false;
                return Ok(compared);
            }
            let near = match next.near {
                Some(near) => near,
                None => self.near.state(&next.range).await?.state,
            };
            let far = match next.far {
                Some(far) => far,
                None => {
                    requests += 1;
                    self.far.state(&next.range).await?
                }
            };
            if near.same_rows(&far) {
                continue;
            }
            let is_small = near.rows.max(far.rows) <= MANIFEST_ROWS as u64;
            if is_small || next.range.from == next.range.to {
                requests += 1;
                self.compare_rows(&next.range, look, &mut compared).await?;
                continue;
            }
            let upper = self.upper_half(&next.range, &near, &far).await?;
            requests += 1;
            let lower = VersionRange { from: next.range.from, to: Version(upper.from.0 - 1) };
            let (near_upper, far_upper) =
                (self.near.state(&upper).await?.state, self.far.state(&upper).await?);
            open.push(Open {
                range: lower,
                near: Some(rest(&near, &near_upper)),
                far: Some(rest(&far, &far_upper)),
            });
            open.push(Open { range: upper, near: Some(near_upper), far: Some(far_upper) });
        }
        self.memory.compared_down_to = None;
        Ok(compared)
    }

    /// The upper half of a range: by our rows, if there are some on both sides of the cut, else by the numbers.
    async fn upper_half(
        &self,
        range: &VersionRange,
        near: &ReplicaState,
        far: &ReplicaState,
    ) -> Result<VersionRange> {
        let highest = near.max_version.max(far.max_version).unwrap_or(range.to).min(range.to);
        let cut = match near.rows {
            0 | 1 => None,
            rows => self.near.nth_last(range, rows / 2).await?,
        };
        let inside = cut.filter(|cut| (Version(range.from.0.saturating_add(1))..=range.to).contains(cut));
        let middle = || {
            let (from, to) = (i128::from(range.from.0), i128::from(highest.max(range.from).0));
            i64::try_from((from + to).div_euclid(2) + 1).map_or(range.to, Version).min(range.to)
        };
        Ok(VersionRange { from: inside.unwrap_or_else(middle), to: range.to })
    }

    /// Compares the rows of a range by their manifests. Rows that are missing or differ are sent.
    async fn compare_rows(
        &mut self,
        range: &VersionRange,
        look: &Look,
        compared: &mut Compared,
    ) -> Result<()> {
        let near = self.near.manifest(range, None, BOUNDS).await?;
        if near.next.is_some() {
            return self.compare_many(range, look, compared).await;
        }
        let far = self.far.manifest(range, None, BOUNDS).await?;
        if far.next.is_some() {
            return self.compare_many(range, look, compared).await;
        }
        let mut far: BTreeMap<ManifestKey, Version> = far.rows.into_iter().collect();
        let mut differing = Vec::new();
        for (key, version) in near.rows {
            match far.remove(&key) {
                Some(there) if there == version => {}
                there => differing.push((key, there)),
            }
        }
        // What only the far side has may be in another range here, or newer than what is taken now.
        differing.extend(far.into_iter().map(|(key, version)| (key, Some(version))));
        self.send_differing(differing, look, compared).await
    }

    pub(super) async fn send_differing(
        &mut self,
        mut differing: Vec<(ManifestKey, Option<Version>)>,
        look: &Look,
        compared: &mut Compared,
    ) -> Result<()> {
        let refused = self.memory.refused_keys();
        differing.retain(|(key, _)| !refused.contains_key(key));
        compared.surplus.extend(self.send_keys(&differing, look.upto).await?);
        Ok(())
    }
}
