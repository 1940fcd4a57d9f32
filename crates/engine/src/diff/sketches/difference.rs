//! What a comparison finds, and how rows it could not name are found again.

use std::collections::HashSet;

use super::cell::KeyRef;
use super::decode::Element;
use super::hash::{HashKey, KeyHash, RowHash};
use super::scan::Identity;

/// A row that is on one side only, or more often there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DifferingRow {
    /// Its key.
    pub key: KeyRef,
    /// Its hash.
    pub row: RowHash,
    /// How many more of it are there than on the other side. Always 1 where keys are unique.
    pub copies: u32,
}

/// A key with one differing row on each side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangedRow {
    /// The key.
    pub key: KeyRef,
    /// The left side's row.
    pub left: RowHash,
    /// The right side's row.
    pub right: RowHash,
}

/// A key that is not unique: more than one differing row of a side has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepeatedKey {
    /// Differing rows of the left side; equal ones count as often as they are there.
    pub left: Vec<DifferingRow>,
    /// Differing rows of the right side.
    pub right: Vec<DifferingRow>,
}

/// The rows in which two sides differ, sorted.
///
/// It says nothing of rows that are equal on both sides. So a key that stands in [`Self::only_right`] may have another,
/// equal row on both sides if it is not unique on the right: who deletes by key must read by key first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Rows that the left side has, or has more of.
    pub only_left: Vec<DifferingRow>,
    /// Rows that the right side has, or has more of.
    pub only_right: Vec<DifferingRow>,
    /// Keys whose row differs.
    pub changed: Vec<ChangedRow>,
    /// Keys that a side has more than once.
    pub repeated: Vec<RepeatedKey>,
}

impl Difference {
    /// Sorts out what was decoded.
    pub(super) fn of(elements: Vec<Element>, identity: Identity) -> Self {
        Self::of_rows(elements.into_iter().map(Element::differing).collect(), identity)
    }

    /// Sorts out rows of which a side has more, each with whether that is the left one.
    #[must_use]
    pub fn of_rows(mut rows: Vec<(DifferingRow, bool)>, identity: Identity) -> Self {
        rows.sort_unstable();
        let mut difference = Self::default();
        let is_one_key = |(a, _): &(DifferingRow, bool), (b, _): &(DifferingRow, bool)| {
            identity == Identity::Key && a.key == b.key && a.key != KeyRef::Unknown
        };
        for group in rows.chunk_by(is_one_key) {
            let side =
                |left| group.iter().filter(move |(_, is_left)| *is_left == left).map(|(row, _)| row.clone());
            difference.sort_in(side(true).collect(), side(false).collect(), identity);
        }
        difference
    }

    /// Files the rows of one key, or one row where there are no keys.
    fn sort_in(&mut self, mut left: Vec<DifferingRow>, mut right: Vec<DifferingRow>, identity: Identity) {
        let is_repeated = |rows: &[DifferingRow]| rows.len() > 1 || rows.iter().any(|row| row.copies > 1);
        if identity == Identity::Key && (is_repeated(&left) || is_repeated(&right)) {
            self.repeated.push(RepeatedKey { left, right });
        } else if let ([left], [right]) = (&left[..], &right[..]) {
            self.changed.push(ChangedRow { key: left.key.clone(), left: left.row, right: right.row });
        } else {
            self.only_left.append(&mut left);
            self.only_right.append(&mut right);
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Rows a repair would touch, roughly: what the guard counts.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let copies = |rows: &[DifferingRow]| rows.iter().map(|row| u64::from(row.copies)).sum::<u64>();
        let repeated = |key: &RepeatedKey| copies(&key.left).max(copies(&key.right));
        copies(&self.only_left)
            + copies(&self.only_right)
            + self.changed.len() as u64
            + self.repeated.iter().map(repeated).sum::<u64>()
    }

    fn references(&self) -> impl Iterator<Item = (&KeyRef, RowHash)> {
        let repeated = self.repeated.iter().flat_map(|key| key.left.iter().chain(&key.right));
        let rows = self.only_left.iter().chain(&self.only_right).chain(repeated);
        rows.map(|row| (&row.key, row.row)).chain(self.changed.iter().map(|row| (&row.key, row.left)))
    }
}

/// What a second scan looks for: rows that the sketch could not name.
#[derive(Debug, Clone)]
pub struct Lookup {
    pub(super) hash_key: HashKey,
    pub(super) keys: HashSet<KeyHash>,
    pub(super) rows: HashSet<RowHash>,
}

impl Lookup {
    /// What must be looked up before the difference can be read or repaired.
    #[must_use]
    pub fn of(difference: &Difference, hash_key: &HashKey) -> Self {
        let mut lookup = Self { hash_key: hash_key.clone(), keys: HashSet::new(), rows: HashSet::new() };
        for (key, row) in difference.references() {
            match key {
                KeyRef::Bytes(_) => {}
                KeyRef::Hash(hash) => {
                    lookup.keys.insert(*hash);
                }
                KeyRef::Unknown => {
                    lookup.rows.insert(row);
                }
            }
        }
        lookup
    }

    /// The key of the hashes.
    #[must_use]
    pub fn hash_key(&self) -> &HashKey {
        &self.hash_key
    }

    /// The hashes of the keys that are looked for.
    pub fn key_hashes(&self) -> impl Iterator<Item = KeyHash> {
        self.keys.iter().copied()
    }

    /// The hashes of the rows that are looked for.
    pub fn row_hashes(&self) -> impl Iterator<Item = RowHash> {
        self.rows.iter().copied()
    }

    /// Whether no second scan is needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.rows.is_empty()
    }

    /// Whether a scan of the key columns is enough.
    #[must_use]
    pub fn needs_only_keys(&self) -> bool {
        self.rows.is_empty()
    }

    /// The key's hash, if this key is looked for.
    #[must_use]
    pub fn key(&self, key: &[u8]) -> Option<KeyHash> {
        Some(self.hash_key.key(key)).filter(|hash| self.keys.contains(hash))
    }

    /// The row's hash, if this row is looked for.
    #[must_use]
    pub fn row(&self, row: &[u8]) -> Option<RowHash> {
        Some(self.hash_key.row(row)).filter(|hash| self.rows.contains(hash))
    }
}
