//! From the difference of two sketches to the rows in it, or to how many they are.
//!
//! Peeling: a cell with one row in it gives the row, which is taken out of its other cells, which may leave those with
//! one row. Each row taken out empties a cell for good, so an honest sketch gives at most as many rows as it has cells;
//! a hostile one is stopped there.

use super::cell::{Cell, KeyRef};
use super::difference::{Difference, DifferingRow};
use super::error::DiffError;
use super::hash::{HashKey, RowHash};
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
    copies: u32,
    is_left: bool,
}

impl Element {
    /// The row, and whether it is the left side's.
    pub(super) fn differing(self) -> (DifferingRow, bool) {
        (DifferingRow { key: self.key, row: self.row, copies: self.copies }, self.is_left)
    }
}

impl Sketch {
    /// Decodes a sketch of the left side from which the right side's was subtracted. Bounded work, whatever is in it: it
    /// takes out at most one row a cell and looks at four cells for each.
    ///
    /// # Errors
    /// [`DiffError::Contradiction`] if a key in it is none, or a row has a key in a table without one.
    pub fn decode(mut self, hash_key: &HashKey, identity: Identity) -> Result<Decoded, DiffError> {
        let elements = self.peel(hash_key)?;
        if identity == Identity::WholeRow && elements.iter().any(|element| element.key != KeyRef::Unknown) {
            return Err(DiffError::Contradiction("a key in a table without one"));
        }
        if self.cells().iter().all(Cell::is_zero) {
            return Ok(Decoded::Difference(Difference::of(elements, identity)));
        }
        let taken: u64 = elements.iter().map(|element| u64::from(element.copies)).sum();
        Ok(Decoded::Undecodable { estimate: taken.saturating_add(self.estimate()) })
    }

    fn peel(&mut self, hash_key: &HashKey) -> Result<Vec<Element>, DiffError> {
        let size = self.size();
        let mut elements = Vec::new();
        let mut to_look_at: Vec<usize> = (0..size.cells()).collect();
        while let Some(index) = to_look_at.pop() {
            let pure = self.cells()[index];
            let Some(row) = pure.pure_row(hash_key, |row| is_at(size, row, index)) else { continue };
            if elements.len() == size.cells() {
                return Ok(elements);
            }
            for sub_table in 0..SUB_TABLES {
                let other = size.index(sub_table, row);
                self.cells_mut()[other].subtract(&pure);
                to_look_at.push(other);
            }
            let key = pure.key.key().ok_or(DiffError::Contradiction("a key that is none"))?;
            elements.push(Element { key, row, copies: pure.count.unsigned_abs(), is_left: pure.count > 0 });
        }
        Ok(elements)
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

/// Whether this cell is the row's place in its sub-table.
fn is_at(size: SketchSize, row: RowHash, index: usize) -> bool {
    (0..SUB_TABLES).any(|sub_table| size.index(sub_table, row) == index)
}
