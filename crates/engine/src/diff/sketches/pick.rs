//! Putting differences of several ranges together, and taking some rows out of one to be shown.

use super::cell::KeyRef;
use super::difference::{Difference, Lookup};
use super::hash::{KeyHash, RowHash};

impl Difference {
    /// Adds the difference of another range of the same comparison.
    pub fn append(&mut self, mut other: Self) {
        self.only_left.append(&mut other.only_left);
        self.only_right.append(&mut other.only_right);
        self.changed.append(&mut other.changed);
        self.repeated.append(&mut other.repeated);
    }

    /// Its first rows of each kind, about `max` together.
    #[must_use]
    pub fn first(&self, max: usize) -> Self {
        let total = self.only_left.len() + self.only_right.len() + self.changed.len() + self.repeated.len();
        // Each kind has its share, so that none hides the others.
        let share = |rows: usize| if total <= max { rows } else { rows.min((rows * max).div_ceil(total)) };
        Self {
            only_left: self.only_left[..share(self.only_left.len())].to_vec(),
            only_right: self.only_right[..share(self.only_right.len())].to_vec(),
            changed: self.changed[..share(self.changed.len())].to_vec(),
            repeated: self.repeated[..share(self.repeated.len())].to_vec(),
        }
    }

    /// Keys of the rows that the left side has, and of those that the right side has.
    #[must_use]
    pub fn keys(&self) -> [Vec<&KeyRef>; 2] {
        let changed = || self.changed.iter().map(|row| &row.key);
        let repeated =
            || self.repeated.iter().flat_map(|key| key.left.iter().chain(&key.right)).map(|row| &row.key);
        let left = self.only_left.iter().map(|row| &row.key).chain(changed()).chain(repeated()).collect();
        let right = self.only_right.iter().map(|row| &row.key).chain(changed()).chain(repeated()).collect();
        [left, right]
    }
}

impl Lookup {
    /// Looks for the row of a key, too, although its bytes are known.
    pub fn add_key(&mut self, key: &[u8]) {
        let hash = self.hash_key.key(key);
        self.keys.insert(hash);
    }

    /// Looks for a key of this hash, too.
    pub fn add_hash(&mut self, hash: KeyHash) {
        self.keys.insert(hash);
    }

    /// Looks for rows of this hash, too.
    pub fn add_row(&mut self, hash: RowHash) {
        self.rows.insert(hash);
    }
}
