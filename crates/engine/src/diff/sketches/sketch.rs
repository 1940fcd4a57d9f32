//! The sketch of a set of rows: an invertible Bloom lookup table that folds.
//!
//! It has four sub-tables of equal size; each row stands once in each, at the place that the top bits of its hash say.
//! So in a sketch of half the size each cell is the sum of two neighbours, exactly, and a large sketch holds all smaller
//! ones. The difference of two sketches holds only rows that are not on both sides, and can be decoded
//! ([`super::decode`]) as long as they are fewer than about three quarters of the cells.
//!
//! The algorithm is Eppstein, Goodrich, Uyeda and Varghese, "What's the Difference?" (SIGCOMM 2011), with four hashes
//! instead of three: no better at large sizes, but far less often stuck at small ones. Folding by top bits makes a size
//! a power of two; rateless tables (Yang et al., SIGCOMM 2024) avoid that, at a cost per row that grows with the size.

use super::cell::Cell;
use super::error::DiffError;
use super::hash::RowHash;

/// How often a row stands in a sketch.
pub(super) const SUB_TABLES: u32 = 4;

/// How many cells a sketch has: a power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SketchSize(u32);

/// A sketch: sums over the rows of one side, or the difference of two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sketch {
    size: SketchSize,
    cells: Vec<Cell>,
}

impl SketchSize {
    /// 64 cells, 4 KiB.
    pub const MIN: Self = Self(6);
    /// 2²⁰ cells, 64 MiB.
    pub const MAX: Self = Self(20);

    /// The size of 2^`bits` cells, if it is allowed.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits >= Self::MIN.0 && bits <= Self::MAX.0 { Some(Self(bits)) } else { None }
    }

    /// The smallest size that decodes this many differing rows as a rule; the largest, if none does.
    #[must_use]
    pub fn for_difference(rows: u64) -> Self {
        let cells = rows.saturating_add(rows.div_ceil(2));
        let bits = u64::BITS - cells.saturating_sub(1).leading_zeros();
        Self(bits.clamp(Self::MIN.0, Self::MAX.0))
    }

    /// The logarithm of the number of cells.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The number of cells.
    #[must_use]
    pub const fn cells(self) -> usize {
        1 << self.0
    }

    /// How many differing rows it is enough for as a rule; from 77 % of the cells on decoding fails.
    #[must_use]
    pub const fn capacity(self) -> u64 {
        (1u64 << self.0) * 2 / 3
    }

    /// This size doubled `times` times, at most [`Self::MAX`].
    #[must_use]
    pub fn doubled(self, times: u32) -> Self {
        Self((self.0 + times).min(Self::MAX.0))
    }

    const fn place_bits(self) -> u32 {
        self.0 - SUB_TABLES.trailing_zeros()
    }

    /// The cell of a row in one sub-table.
    #[inline]
    pub(super) fn index(self, sub_table: u32, row: RowHash) -> usize {
        ((sub_table << self.place_bits()) | row.place(sub_table, self.place_bits())) as usize
    }

    /// Cells of one sub-table.
    pub(super) const fn sub_table_cells(self) -> usize {
        1 << self.place_bits()
    }
}

impl Sketch {
    /// A sketch of no rows. It takes 64 bytes a cell.
    #[must_use]
    pub fn new(size: SketchSize) -> Self {
        Self { size, cells: vec![Cell::default(); size.cells()] }
    }

    /// Its size.
    #[must_use]
    pub fn size(&self) -> SketchSize {
        self.size
    }

    pub(super) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    pub(super) fn cells_mut(&mut self) -> &mut [Cell] {
        &mut self.cells
    }

    /// Puts rows in. Sub-table by sub-table, so that the processor fetches the cells of several rows at once.
    pub(super) fn insert_all(&mut self, elements: &[(RowHash, Cell)]) {
        for sub_table in 0..SUB_TABLES {
            for (row, element) in elements {
                let index = self.size.index(sub_table, *row);
                self.cells[index].add(element);
            }
        }
    }

    /// Adds the rows of another part of the same side.
    ///
    /// # Errors
    /// [`DiffError::Sizes`] if the two differ in size.
    pub fn merge(&mut self, other: &Self) -> Result<(), DiffError> {
        self.require_size_of(other)?;
        self.cells.iter_mut().zip(&other.cells).for_each(|(cell, other)| cell.add(other));
        Ok(())
    }

    /// Takes the rows of the other side away: what both have is gone.
    ///
    /// # Errors
    /// [`DiffError::Sizes`] if the two differ in size.
    pub fn subtract(&mut self, other: &Self) -> Result<(), DiffError> {
        self.require_size_of(other)?;
        self.cells.iter_mut().zip(&other.cells).for_each(|(cell, other)| cell.subtract(other));
        Ok(())
    }

    /// The sketch of the same rows in a smaller size.
    ///
    /// # Errors
    /// [`DiffError::Sizes`] if the size is larger than this one's.
    pub fn fold(&self, size: SketchSize) -> Result<Self, DiffError> {
        let group = self.group(size)?;
        let sum = |cells: &[Cell]| {
            let mut sum = Cell::default();
            cells.iter().for_each(|cell| sum.add(cell));
            sum
        };
        Ok(Self { size, cells: self.cells.chunks_exact(group).map(sum).collect() })
    }

    /// The cells that somebody who has this sketch at size `from` needs to have it at this one: all but the last of each
    /// group that `from` has as one cell.
    ///
    /// # Errors
    /// [`DiffError::Sizes`] if `from` is larger than this size.
    pub(super) fn growth(&self, from: SketchSize) -> Result<Vec<Cell>, DiffError> {
        let group = self.group(from)?;
        Ok(self.cells.chunks_exact(group).flat_map(|cells| &cells[..group - 1]).copied().collect())
    }

    /// The sketch at size `to`, of this one and its [`Self::growth`].
    ///
    /// # Errors
    /// [`DiffError::Sizes`] if the cells are not as many as that takes.
    pub(super) fn grow(&self, to: SketchSize, growth: &[Cell]) -> Result<Self, DiffError> {
        if to <= self.size || growth.len() != to.cells() - self.size.cells() {
            return Err(DiffError::Sizes);
        }
        let group = to.cells() / self.size.cells();
        let mut cells = Vec::with_capacity(to.cells());
        for (whole, sent) in self.cells.iter().zip(growth.chunks_exact(group - 1)) {
            let mut last = *whole;
            sent.iter().for_each(|cell| last.subtract(cell));
            cells.extend_from_slice(sent);
            cells.push(last);
        }
        Ok(Self { size: to, cells })
    }

    /// A sketch that was sent whole.
    ///
    /// # Errors
    /// [`DiffError::Sizes`] if the cells are not as many as that takes.
    pub(super) fn from_cells(size: SketchSize, cells: Vec<Cell>) -> Result<Self, DiffError> {
        if cells.len() == size.cells() { Ok(Self { size, cells }) } else { Err(DiffError::Sizes) }
    }

    /// The sums over each sub-table: the same four times, if a scan has built it.
    pub(super) fn totals(&self) -> impl Iterator<Item = Cell> {
        self.cells.chunks_exact(self.size.sub_table_cells()).map(|cells| {
            let mut total = Cell::default();
            cells.iter().for_each(|cell| total.add(cell));
            total
        })
    }

    /// How many cells of this sketch one cell of that size is.
    fn group(&self, size: SketchSize) -> Result<usize, DiffError> {
        if size <= self.size { Ok(self.size.cells() / size.cells()) } else { Err(DiffError::Sizes) }
    }

    fn require_size_of(&self, other: &Self) -> Result<(), DiffError> {
        if self.size == other.size { Ok(()) } else { Err(DiffError::Sizes) }
    }
}
