//! What the two ends of a comparison say to each other, as values. Their bytes are in [`super::wire`].

use super::cell::Cell;
use super::digest::TableDigest;
use super::scan::CommonBits;
use super::sketch::SketchSize;

/// A question about the other side's scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Its digest.
    Digest,
    /// Its sketch.
    Cells {
        /// The size in which the asking end has it already; only what is missing comes.
        have: Option<SketchSize>,
        /// The size wanted, larger than that.
        want: SketchSize,
    },
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To [`Request::Digest`].
    Digest(Opening),
    /// To [`Request::Cells`].
    Cells(CellRun),
}

/// What is said of a scan before any cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Count and sums.
    pub digest: TableDigest,
    /// Rows whose key is too long for cells.
    pub long_keys: u64,
    /// The largest sketch that can be asked for.
    pub largest: SketchSize,
}

/// Cells of a sketch: all of them, or those that were missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellRun {
    pub(super) have: Option<SketchSize>,
    pub(super) want: SketchSize,
    pub(super) cells: Vec<Cell>,
    /// Used only to write them shortly.
    pub(super) common: CommonBits,
}

/// How many cells the answer has, if the question makes sense.
pub(super) fn cells_between(have: Option<SketchSize>, want: SketchSize) -> Option<usize> {
    let known = have.map_or(0, SketchSize::cells);
    want.cells().checked_sub(known).filter(|cells| *cells > 0)
}
