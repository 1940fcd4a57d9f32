//! From the difference of two sketches to the rows in it, or to how many they are.
//!
//! Peeling: a cell with one row in it gives the row, which is taken out of its other cells, which may leave those with
//! one row. Each row taken out empties a cell for good, so an honest sketch gives at most as many rows as it has cells;
//! a hostile one is stopped there.
//!
//! A cell that only looks like one row ([`super::cell`]) gives a row that is none. It leaves its other cells with that row taken
//! away, from where it comes out with the other sign; and whatever is left in the end is held against the digests, all 64
//! bits of the checks' and of the keys' sums. What does not fit is not decoded: an honest side is never told that it lies.

use super::cell::{Cell, KeyRef};
use super::difference::{Difference, DifferingRow};
use super::digest::TableDigest;
use super::error::DiffError;
use super::hash::{HashKey, KeyHash, RowHash};
use super::scan::Identity;
use super::sketch::{SUB_TABLES, Sketch, SketchSize};

/// What the difference of two sketches says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// All of it.
    Difference(Difference),
    /// The sketch is too small.
    Undecodable {
        /// About how many differing rows there are; an updated row counts twice. Of rows without a key it counts copies,
        /// and is an upper bound rather than an average.
        estimate: u64,
    },
}

/// A row that was taken out.
pub(super) struct Element {
    key: KeyRef,
    row: RowHash,
    /// More on the left side; negative: on the right. Not 0.
    copies: i64,
}

impl Element {
    /// The row, and whether it is the left side's.
    pub(super) fn differing(self) -> (DifferingRow, bool) {
        let copies = u32::try_from(self.copies.unsigned_abs()).unwrap_or(u32::MAX);
        (DifferingRow { key: self.key, row: self.row, copies }, self.copies > 0)
    }
}

impl Sketch {
    /// Decodes a sketch of the left side from which the right side's was subtracted; `digest` is the same of the two digests.
    /// Bounded work, whatever is in it: it takes out at most one row a cell and looks at four cells for each.
    ///
    /// # Errors
    /// [`DiffError::Contradiction`] if a row has a key in a table without one, or nothing is in it though the digest says so.
    pub fn decode(
        mut self,
        hash_key: &HashKey,
        identity: Identity,
        digest: &TableDigest,
    ) -> Result<Decoded, DiffError> {
        if self.cells().iter().all(Cell::is_zero) && *digest != TableDigest::default() {
            return Err(DiffError::Contradiction("its digest differs and its sketch does not"));
        }
        let elements = settled(self.peel(hash_key));
        if identity == Identity::WholeRow && elements.iter().any(|element| element.key != KeyRef::Unknown) {
            return Err(DiffError::Contradiction("a key in a table without one"));
        }
        if self.cells().iter().all(Cell::is_zero) && sums_up(&elements, hash_key, identity, digest) {
            return Ok(Decoded::Difference(Difference::of(elements, identity)));
        }
        let taken = elements.iter().map(|element| element.copies.unsigned_abs()).fold(0, u64::saturating_add);
        Ok(Decoded::Undecodable { estimate: taken.saturating_add(self.estimate()) })
    }

    fn peel(&mut self, hash_key: &HashKey) -> Vec<Element> {
        let size = self.size();
        let mut elements = Vec::new();
        let mut to_look_at: Vec<usize> = (0..size.cells()).collect();
        while let Some(index) = to_look_at.pop() {
            let pure = self.cells()[index];
            let Some(row) = pure.pure_row(hash_key, |row| is_at(size, row, index)) else { continue };
            // A cell of several rows can look like one, but then what is left of their keys is mostly none.
            let Some(key) = pure.key.key() else { continue };
            if elements.len() == size.cells() {
                return elements;
            }
            for sub_table in 0..SUB_TABLES {
                let other = size.index(sub_table, row);
                self.cells_mut()[other].subtract(&pure);
                to_look_at.push(other);
            }
            elements.push(Element { key, row, copies: pure.count.into() });
        }
        elements
    }

    /// About how many rows are in it, by the second moment of the counts: rows of the two sides are +1 and −1 thrown at
    /// random cells. The relative deviation is about √(2 / cells). Where a few cells stand out (many copies of few rows)
    /// it goes by the others.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate; `as` saturates"
    )]
    fn estimate(&self) -> u64 {
        let cells = self.size().cells() as f64;
        let places = self.size().sub_table_cells() as f64;
        let net: f64 =
            self.cells().iter().map(|cell| f64::from(cell.count)).sum::<f64>() / f64::from(SUB_TABLES);
        let mean = net / places;
        let mut squares: Vec<f64> =
            self.cells().iter().map(|cell| (f64::from(cell.count) - mean).powi(2)).collect();
        squares.sort_unstable_by(f64::total_cmp);
        let all = squares.iter().sum::<f64>() / cells;
        // Of normal deviates, the smaller nine tenths have 0.623 of the variance.
        let most = &squares[..squares.len() * 9 / 10];
        let inner = most.iter().sum::<f64>() / most.len() as f64 / 0.623;
        let per_cell = if inner > 0.0 && all > 2.0 * inner { inner } else { all };
        (per_cell * places / (1.0 - 1.0 / places)).max(net.abs()).round() as u64
    }
}

/// Each row once; those that came out with both signs are none.
fn settled(mut elements: Vec<Element>) -> Vec<Element> {
    elements.sort_unstable_by(|a, b| (a.row, &a.key).cmp(&(b.row, &b.key)));
    elements.dedup_by(|next, kept| {
        let is_same = (next.row, &next.key) == (kept.row, &kept.key);
        if is_same {
            kept.copies += next.copies;
        }
        is_same
    });
    elements.retain(|element| element.copies != 0);
    elements
}

/// Whether these rows are what two digests differ by. Of an even number of equal rows the key is not known, so where there are
/// such it goes by the rows alone.
fn sums_up(elements: &[Element], hash_key: &HashKey, identity: Identity, digest: &TableDigest) -> bool {
    let (mut sum, mut knows_keys) = (TableDigest::default(), true);
    for Element { key, row, copies } in elements {
        let key = match (key, identity) {
            (_, Identity::WholeRow) => hash_key.key_of_row(*row),
            (KeyRef::Bytes(key), _) => hash_key.key(key),
            (KeyRef::Hash(hash), _) => *hash,
            (KeyRef::Unknown, _) => {
                knows_keys = false;
                KeyHash(0)
            }
        };
        sum.add_copies(*row, hash_key.check(*row), key, *copies);
    }
    if !knows_keys {
        sum.key_sum = digest.key_sum;
    }
    sum == *digest
}

/// Whether this cell is the row's place in its sub-table.
fn is_at(size: SketchSize, row: RowHash, index: usize) -> bool {
    (0..SUB_TABLES).any(|sub_table| size.index(sub_table, row) == index)
}
