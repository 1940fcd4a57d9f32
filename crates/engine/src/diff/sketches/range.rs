//! Ranges of key hashes: how a difference too large for one sketch is cut.
//!
//! A range is a prefix of the key's hash, never of the key: no order or collation is involved, ranges are of equal size
//! whatever the keys are, and the two rows of an update fall into the same one.

use super::hash::KeyHash;
use super::sketch::SketchSize;

/// All key hashes that begin with these bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyRange {
    prefix: u64,
    bits: u8,
}

impl KeyRange {
    /// Every key.
    pub const ALL: Self = Self { prefix: 0, bits: 0 };
    /// Longest prefix, in bits.
    pub const BITS_MAX: u8 = 32;

    /// The range of this prefix, given as a number of `bits` bits. `None` if it has more, or more than
    /// [`Self::BITS_MAX`].
    #[must_use]
    pub fn new(prefix: u64, bits: u8) -> Option<Self> {
        (bits <= Self::BITS_MAX && prefix >> bits == 0).then_some(Self { prefix, bits })
    }

    /// Whether a key belongs to it: the filter of a scan.
    #[inline]
    #[must_use]
    pub fn contains(&self, key: KeyHash) -> bool {
        // A shift by 64 is none at all, so the whole is a case of its own.
        self.bits == 0 || key.0 >> (64 - u32::from(self.bits)) == self.prefix
    }

    /// Cuts it into 2^`bits` ranges. `None` if their prefixes would be too long.
    #[must_use]
    pub fn split(self, bits: u8) -> Option<RangePlan> {
        let long = self.bits.checked_add(bits).filter(|bits| *bits <= Self::BITS_MAX)?;
        let first = self.prefix << bits;
        Some(RangePlan { bits: long, next: first, end: first + (1 << bits) })
    }

    /// Its prefix, and how many bits that has: what [`Self::new`] takes.
    #[must_use]
    pub fn parts(self) -> (u64, u8) {
        (self.prefix, self.bits)
    }

    pub(super) fn terms(self) -> [u8; 9] {
        let mut terms = [self.bits; 9];
        terms[..8].copy_from_slice(&self.prefix.to_le_bytes());
        terms
    }
}

/// The ranges still to be compared, each by a scan of both sides. They cover what was cut, without overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangePlan {
    bits: u8,
    next: u64,
    end: u64,
}

impl RangePlan {
    /// Cuts a range so that each part's share of the differing rows fits a sketch of this size. `None` if that takes
    /// more than `ranges_max` parts.
    #[must_use]
    pub fn fitting(range: KeyRange, differing: u64, size: SketchSize, ranges_max: u64) -> Option<Self> {
        // A range that turns out too full is cut again, so the average alone decides; at least it must be cut.
        let parts = differing.div_ceil(size.capacity()).max(2).checked_next_power_of_two()?;
        if parts > ranges_max {
            return None;
        }
        range.split(u8::try_from(parts.trailing_zeros()).ok()?)
    }
}

impl Iterator for RangePlan {
    type Item = KeyRange;

    fn next(&mut self) -> Option<KeyRange> {
        let prefix = self.next;
        (prefix < self.end).then(|| {
            self.next += 1;
            KeyRange { prefix, bits: self.bits }
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

impl ExactSizeIterator for RangePlan {}
