//! The far side of a table sync: what a table must be able to do that is kept equal to another one over requests.
//!
//! A table sync is for sources that offer no log of changes, only a column that grows with every change of a row. The
//! contract is deliberately small: four requests, all of which a plain HTTP API could offer, and none that needs a session.

use std::fmt;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// A row's version as a number: an integer as it is, an instant or a civil time as microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub i64);

impl Version {
    /// Below every version: what a row without one counts as, where such rows are looked at at all.
    pub const NONE: Self = Self(i64::MIN);
    /// The lowest version that a row can have.
    pub const MIN: Self = Self(i64::MIN + 1);
    /// The highest.
    pub const MAX: Self = Self(i64::MAX);
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Versions from one to another, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRange {
    /// The lowest.
    pub from: Version,
    /// The highest.
    pub to: Version,
}

impl VersionRange {
    /// Every row, also one without a version.
    pub const ALL: Self = Self { from: Version::NONE, to: Version::MAX };

    /// Whether a version is in it.
    #[must_use]
    pub fn contains(&self, version: Version) -> bool {
        (self.from..=self.to).contains(&version)
    }
}

/// What is known of the rows of a range without looking at them. States of ranges that do not overlap add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReplicaState {
    /// How many there are.
    pub rows: u64,
    /// Their highest version; `None` if there are none.
    pub max_version: Option<Version>,
    /// The sum of their versions, modulo 2^64: a digest. Versions only grow, so a row that changed shows in it even if
    /// neither count nor maximum does.
    pub version_sum: u64,
}

impl ReplicaState {
    /// Counts a row in.
    pub fn add(&mut self, version: Version) {
        self.rows += 1;
        self.max_version = self.max_version.max(Some(version));
        self.version_sum = self.version_sum.wrapping_add(version.0.cast_unsigned());
    }

    /// Whether two ranges hold as many rows with the same sum of versions.
    #[must_use]
    pub fn same_rows(&self, other: &Self) -> bool {
        (self.rows, self.version_sum) == (other.rows, other.version_sum)
    }
}

/// A row's key in the canonical encoding ([`crate::encoding`]), as both sides write it.
pub type ManifestKey = Box<[u8]>;

/// Where a manifest goes on: opaque, the side's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ManifestPlace(pub Box<[u8]>);

/// What is there of a range of versions: keys, each with its version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// In the order of versions. Rows of one version come in an order of the side's own.
    pub rows: Vec<(ManifestKey, Version)>,
    /// Where more of the range begins, if more than was asked for is there. Asked from place to place, every row comes once
    /// that did not change meanwhile.
    pub next: Option<ManifestPlace>,
}

/// How much a manifest may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestBounds {
    /// Rows.
    pub rows_max: usize,
    /// Bytes of keys.
    pub bytes_max: usize,
}

/// One table at the far side.
///
/// # Rules for every method
/// - *Order*: one request at a time. A request that has answered has happened: the next one sees it.
/// - *Idempotence*: all four may be repeated at will. A request whose answer was lost is sent again, or its question asked
///   again with [`Replica::state`].
/// - *Whole*: `upsert` and `delete` do all that they are given, or nothing and fail.
/// - *Errors*: an upsert that fails because of single rows says so ([`crate::Error::rows_at_fault`]); the caller sends
///   smaller batches until it knows which. Retriable errors may come again with less: the caller sends smaller batches then,
///   too. Retries belong to the caller.
/// - *Cancellation*: a request that is dropped has an unknown outcome.
#[async_trait]
pub trait Replica: Send + Sync {
    /// What is there, of all versions or of some.
    ///
    /// # Errors
    /// As any request.
    async fn state(&self, range: &VersionRange) -> Result<ReplicaState>;

    /// Keys and versions of a range, from its beginning or a place on, as far as the bounds allow.
    ///
    /// # Errors
    /// As any request; a conflict if the place is none of this side's.
    async fn manifest(
        &self,
        range: &VersionRange,
        after: Option<&ManifestPlace>,
        bounds: ManifestBounds,
    ) -> Result<Manifest>;

    /// Writes rows: those whose key is there are replaced, the others added. No key is there twice.
    ///
    /// # Errors
    /// As any request; data, with rows at fault, if some of them cannot be stored. Nothing is written then.
    async fn upsert(&self, rows: &RecordBatch) -> Result<()>;

    /// Deletes rows by key; keys without a row are no error.
    ///
    /// # Errors
    /// As any request.
    async fn delete(&self, keys: &[ManifestKey]) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(versions: &[i64]) -> ReplicaState {
        let mut state = ReplicaState::default();
        versions.iter().for_each(|&version| state.add(Version(version)));
        state
    }

    #[test]
    fn a_state_tells_what_count_and_maximum_do_not() {
        assert_eq!(state(&[1, 2, 3]), state(&[3, 1, 2]));
        let (before, late) = (state(&[1, 5, 9]), state(&[1, 7, 9]));
        assert_eq!((before.rows, before.max_version), (late.rows, late.max_version));
        assert!(!before.same_rows(&late));
        assert!(state(&[i64::MAX, i64::MAX, -1]).same_rows(&state(&[-1, i64::MAX, i64::MAX])));
        assert!(VersionRange::ALL.contains(Version::NONE));
    }
}
