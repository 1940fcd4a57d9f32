//! What one scan of one side gives: its digest and its largest sketch.
//!
//! Rows come in any order. Parallel readers each fill a scan of their own by a [`Scanner`], and the parts are merged; memory
//! is 64 bytes a cell for each of them.

use super::cell::{Cell, KEY_BYTES_MAX, KEY_FIELD_BYTES, KeyField};
use super::digest::TableDigest;
use super::error::DiffError;
use super::hash::{HashKey, RowHash};
use super::message::Opening;
use super::range::KeyRange;
use super::sketch::{Sketch, SketchSize};
use super::terms::Terms;

/// How rows are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Identity {
    /// By a row key.
    Key,
    /// By nothing: equal rows are counted.
    WholeRow,
}

/// One side's rows of one range, summed up.
#[derive(Debug, Clone)]
pub struct Scan {
    terms: Terms,
    digest: TableDigest,
    /// Rows whose key is longer than [`KEY_BYTES_MAX`].
    long_keys: u64,
    common: CommonBits,
    sketch: Sketch,
}

/// Fills a [`Scan`]. Adding a row to four cells at random places waits for the cache most of its time; several rows together
/// wait for it once.
#[derive(Debug, Clone)]
pub struct Scanner {
    scan: Scan,
    waiting: Vec<(RowHash, Cell)>,
}

/// Rows that wait until their cells are fetched: 4 KB of cells, far less than the first cache has.
const TOGETHER: usize = 16;

impl Scanner {
    /// A scan that has seen no row. `size` is the largest sketch that can be asked of it.
    #[must_use]
    pub fn new(hash_key: HashKey, identity: Identity, range: KeyRange, size: SketchSize) -> Self {
        let scan = Scan {
            terms: Terms { hash_key, identity, range },
            digest: TableDigest::default(),
            long_keys: 0,
            common: CommonBits::default(),
            sketch: Sketch::new(size),
        };
        Self { scan, waiting: Vec::with_capacity(TOGETHER) }
    }

    /// Adds a row, given by the canonical encodings of its key columns and of all its columns. A row outside the range
    /// is left out. Without a key, `key` is not looked at.
    #[inline]
    pub fn add_row(&mut self, key: &[u8], row: &[u8]) {
        let Some(element) = self.scan.element(key, row) else { return };
        self.waiting.push(element);
        if self.waiting.len() == TOGETHER {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.scan.sketch.insert_all(&self.waiting);
        self.waiting.clear();
    }

    /// What was scanned.
    #[must_use]
    pub fn finish(mut self) -> Scan {
        self.settle();
        self.scan
    }
}

impl Scan {
    /// What a row puts into the sketch; counts it.
    #[inline]
    fn element(&mut self, key: &[u8], row: &[u8]) -> Option<(RowHash, Cell)> {
        let (row, key_hash, field) = match self.terms.identity {
            Identity::Key => {
                let key_hash = self.terms.hash_key.key(key);
                if !self.terms.range.contains(key_hash) {
                    return None;
                }
                self.long_keys += u64::from(key.len() > KEY_BYTES_MAX);
                (self.terms.hash_key.row(row), key_hash, KeyField::of(key, key_hash))
            }
            Identity::WholeRow => {
                let row = self.terms.hash_key.row(row);
                let key_hash = self.terms.hash_key.key_of_row(row);
                if !self.terms.range.contains(key_hash) {
                    return None;
                }
                (row, key_hash, KeyField::EMPTY)
            }
        };
        let check = self.terms.hash_key.check(row);
        self.digest.add(row, check, key_hash);
        self.common.add(&field);
        Some((row, Cell::element(row, check, field)))
    }

    /// Adds another part of the same side, scanned with the same terms.
    ///
    /// # Errors
    /// [`DiffError::OtherComparison`] or [`DiffError::Sizes`] if its terms are others.
    pub fn merge(&mut self, other: &Self) -> Result<(), DiffError> {
        if self.fingerprint() != other.fingerprint() {
            return Err(DiffError::OtherComparison);
        }
        self.sketch.merge(&other.sketch)?;
        self.digest.merge(&other.digest);
        self.long_keys += other.long_keys;
        self.common.merge(&other.common);
        Ok(())
    }

    /// Count and sums.
    #[must_use]
    pub fn digest(&self) -> &TableDigest {
        &self.digest
    }

    /// Rows whose key a sketch does not carry: if any of them differ, the key columns are scanned a second time.
    #[must_use]
    pub fn long_keys(&self) -> u64 {
        self.long_keys
    }

    /// How its rows are told apart.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.terms.identity
    }

    /// The range it was made for.
    #[must_use]
    pub fn range(&self) -> KeyRange {
        self.terms.range
    }

    /// What both sides must have in common.
    #[must_use]
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// What is said of it before any cell.
    #[must_use]
    pub fn opening(&self) -> Opening {
        Opening { digest: self.digest, long_keys: self.long_keys, largest: self.sketch.size() }
    }

    /// Its largest sketch, of which all smaller ones are folds.
    #[must_use]
    pub fn sketch(&self) -> &Sketch {
        &self.sketch
    }

    pub(super) fn common(&self) -> &CommonBits {
        &self.common
    }

    /// What both sides must have in common, without the hash key being told.
    pub(super) fn fingerprint(&self) -> u64 {
        self.terms.fingerprint()
    }
}

/// Bits of the key field that all rows have in common (lengths, type tags, high zeros of numbers). In a cell they are
/// there or not by the parity of its count, so that they are sent once, not for each cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommonBits {
    all: KeyField,
    any: KeyField,
}

impl Default for CommonBits {
    fn default() -> Self {
        Self { all: KeyField::FULL, any: KeyField::EMPTY }
    }
}

impl CommonBits {
    #[inline]
    fn add(&mut self, field: &KeyField) {
        self.all.and(field);
        self.any.or(field);
    }

    fn merge(&mut self, other: &Self) {
        self.all.and(&other.all);
        self.any.or(&other.any);
    }

    /// Which bits all rows have, and which some have and some do not.
    pub(super) fn bits(&self) -> [[u8; KEY_FIELD_BYTES]; 2] {
        let varying = std::array::from_fn(|at| self.any.bytes()[at] & !self.all.bytes()[at]);
        // Where no row was seen, all have every bit and none has any.
        [std::array::from_fn(|at| self.any.bytes()[at] & self.all.bytes()[at]), varying]
    }
}
