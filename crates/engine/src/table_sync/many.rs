//! Comparing rows that no halving makes fewer: many of one version, or with long keys. Both sides tell theirs page by page, each
//! in an order of its own; hashes of the near side's are held, as many as memory allows, in as many rounds as that takes.

use std::collections::HashSet;

use syncline_core::{ManifestKey, Result, Version, VersionRange};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::compare::{BOUNDS, Compared, SURPLUS_MAX};
use super::decide::Look;
use super::send::Sending;

/// Rows of a round: 16 bytes each, and what a set takes beside them.
const HASHES_MAX: u64 = 2_000_000;
/// Which rows a round is about.
#[derive(Debug, Clone, Copy)]
struct Round {
    number: u128,
    of: u128,
}

impl Round {
    fn hash(self, key: &ManifestKey, version: Version) -> Option<u128> {
        let hash = xxh3_128_with_seed(key, version.0.cast_unsigned());
        (hash % self.of == self.number).then_some(hash)
    }
}

impl Sending<'_> {
    /// Compares the rows of a range, however many they are. Rows that are missing or differ are sent.
    pub(super) async fn compare_many(
        &mut self,
        range: &VersionRange,
        look: &Look,
        compared: &mut Compared,
    ) -> Result<()> {
        let rounds = u128::from(self.near.state(range).await?.state.rows / HASHES_MAX + 1);
        for number in 0..rounds {
            let round = Round { number, of: rounds };
            let mut ours = self.hashes(range, round).await?;
            self.send_theirs(range, round, &mut ours, look, compared).await?;
            if compared.surplus.len() >= SURPLUS_MAX {
                return Ok(());
            }
            if !ours.is_empty() {
                self.send_ours(range, round, &ours, look, compared).await?;
            }
        }
        Ok(())
    }

    async fn hashes(&self, range: &VersionRange, round: Round) -> Result<HashSet<u128>> {
        let (mut hashes, mut after) = (HashSet::new(), None);
        loop {
            let page = self.near.manifest(range, after.as_ref(), BOUNDS).await?;
            hashes.extend(page.rows.iter().filter_map(|(key, version)| round.hash(key, *version)));
            let Some(next) = page.next else { return Ok(hashes) };
            after = Some(next);
        }
    }

    /// What the far side has and we have not, at least not so. What both have leaves the hashes.
    async fn send_theirs(
        &mut self,
        range: &VersionRange,
        round: Round,
        ours: &mut HashSet<u128>,
        look: &Look,
        compared: &mut Compared,
    ) -> Result<()> {
        let mut after = None;
        while compared.surplus.len() < SURPLUS_MAX {
            let page = self.far.manifest(range, after.as_ref(), BOUNDS).await?;
            let mut differing = Vec::new();
            for (key, version) in page.rows {
                if round.hash(&key, version).is_some_and(|hash| !ours.remove(&hash)) {
                    differing.push((key, Some(version)));
                }
            }
            self.send_differing(differing, look, compared).await?;
            let Some(next) = page.next else { return Ok(()) };
            after = Some(next);
        }
        Ok(())
    }

    /// What we have and the far side has not, at least not so.
    async fn send_ours(
        &mut self,
        range: &VersionRange,
        round: Round,
        ours: &HashSet<u128>,
        look: &Look,
        compared: &mut Compared,
    ) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.near.manifest(range, after.as_ref(), BOUNDS).await?;
            let is_ours = |(key, version): &(ManifestKey, Version)| {
                round.hash(key, *version).is_some_and(|hash| ours.contains(&hash))
            };
            let differing = page.rows.into_iter().filter(is_ours).map(|(key, _)| (key, None)).collect();
            self.send_differing(differing, look, compared).await?;
            let Some(next) = page.next else { return Ok(()) };
            after = Some(next);
        }
    }
}
