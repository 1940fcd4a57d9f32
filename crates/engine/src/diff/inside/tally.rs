//! What a side tells of its rows' hashes: its database does, or, for a side that is here, this process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use syncline_core::digests::{
    HashedRow, KEY_HASH_BYTES, PLACE_BITS_MAX, Places, ROW_HASH_BYTES, RowSum, TableDigests,
};
use syncline_core::{Error, Result};

use crate::diff::remote::Exchanged;
use crate::diff::side::{EncodedRow, Side};
use crate::diff::sketches::HashKey;

/// The sums of half a row's hash are told modulo this.
const SUM_MASK: u64 = (1 << 63) - 1;

/// A side, asked for sums and hashes.
pub(super) enum Tally {
    /// Its database answers.
    Inside { digests: Box<dyn TableDigests>, exchanged: Arc<Mutex<Exchanged>>, counted: (u64, u64) },
    /// Its rows are read.
    Here(Box<Side>, HashKey),
}

impl Tally {
    pub(super) fn inside(digests: Box<dyn TableDigests>, exchanged: Arc<Mutex<Exchanged>>) -> Self {
        Self::Inside { digests, exchanged, counted: (0, 0) }
    }

    /// As [`TableDigests::sums`].
    pub(super) async fn sums(&mut self, of: &Places, bits: u8) -> Result<Vec<RowSum>> {
        let sums = match self {
            Self::Inside { digests, .. } => digests.sums(of, bits).await?,
            Self::Here(side, hash_key) => return side.sums_here(hash_key, of, bits).await,
        };
        self.count();
        Ok(sums)
    }

    /// As [`TableDigests::hashes`].
    pub(super) async fn hashes(&mut self, of: &Places, bytes_max: usize) -> Result<Vec<HashedRow>> {
        let rows = match self {
            Self::Inside { digests, .. } => digests.hashes(of, bytes_max).await?,
            Self::Here(side, hash_key) => return side.hashes_here(hash_key, of, bytes_max).await,
        };
        self.count();
        Ok(rows)
    }

    /// Adds what was exchanged since the last time.
    fn count(&mut self) {
        if let Self::Inside { digests, exchanged, counted } = self {
            let now = digests.bytes();
            let mut exchanged = exchanged.lock().unwrap_or_else(PoisonError::into_inner);
            exchanged.sent_bytes += now.0 - counted.0;
            exchanged.received_bytes += now.1 - counted.1;
            *counted = now;
        }
    }

    /// Gives up what is held.
    pub(super) async fn end(self) -> Result<()> {
        match self {
            Self::Inside { digests, .. } => digests.end().await,
            Self::Here(..) => Ok(()),
        }
    }
}

/// Which rows are looked at, and how they are hashed.
#[derive(Clone)]
struct Looked {
    hash_key: HashKey,
    keyed: bool,
    of: Arc<Places>,
}

impl Looked {
    /// The row's place in so many bits, and its hash; `None` if it is not looked at.
    fn row(&self, row: &EncodedRow<'_>, bits: u8) -> Option<(u64, [u8; ROW_HASH_BYTES])> {
        let hash = self.hash_key.row(row.row);
        let key = if self.keyed { self.hash_key.key(row.key) } else { self.hash_key.key_of_row(hash) };
        let prefix = |bits: u8| key.0.checked_shr(64 - u32::from(bits)).unwrap_or_default();
        let wanted = self.of.bits == 0 || self.of.prefixes.binary_search(&prefix(self.of.bits)).is_ok();
        wanted.then(|| (prefix(bits), hash.to_bytes()))
    }
}

impl Side {
    fn looked(&self, hash_key: &HashKey, of: &Places) -> Looked {
        let mut of = of.clone();
        of.prefixes.sort_unstable();
        Looked { hash_key: hash_key.clone(), keyed: self.key_columns > 0, of: Arc::new(of) }
    }

    async fn sums_here(&self, hash_key: &HashKey, of: &Places, bits: u8) -> Result<Vec<RowSum>> {
        debug_assert!(bits <= PLACE_BITS_MAX && KEY_HASH_BYTES == 8);
        let looked = self.looked(hash_key, of);
        let sums = self.read(HashMap::<u64, RowSum>::new, move |sums, row| {
            if let Some((place, hash)) = looked.row(&row, bits) {
                let half = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
                let halves = [half(&hash[..6]), half(&hash[6..])];
                add(sums, RowSum { place, rows: 1, sums: halves });
            }
            Ok(())
        });
        let mut all = HashMap::new();
        sums.await?.into_iter().flat_map(HashMap::into_values).for_each(|sum| add(&mut all, sum));
        Ok(all.into_values().collect())
    }

    async fn hashes_here(&self, hash_key: &HashKey, of: &Places, bytes_max: usize) -> Result<Vec<HashedRow>> {
        let (looked, bytes) = (self.looked(hash_key, of), Arc::new(AtomicUsize::new(0)));
        let table = self.table.id.clone();
        let rows = self.read(HashMap::<(Box<[u8]>, [u8; ROW_HASH_BYTES]), u64>::new, move |rows, row| {
            let Some((_, hash)) = looked.row(&row, 0) else { return Ok(()) };
            let key: Box<[u8]> = if looked.keyed { row.key.into() } else { Box::default() };
            let taken = key.len() + ROW_HASH_BYTES;
            let copies = rows.entry((key, hash)).or_insert(0);
            *copies += 1;
            if *copies == 1 && bytes.fetch_add(taken, Ordering::Relaxed) + taken > bytes_max {
                return Err(Error::configuration("what differs takes too much to be named")
                    .with_table(&table)
                    .with_remedy("compare with --digest default, or make a new snapshot of the table"));
            }
            Ok(())
        });
        let hashed = |((key, row), copies)| HashedRow { key, row, copies };
        Ok(rows.await?.into_iter().flatten().map(hashed).collect())
    }
}

fn add(sums: &mut HashMap<u64, RowSum>, more: RowSum) {
    let sum = sums.entry(more.place).or_insert(RowSum { place: more.place, ..RowSum::default() });
    sum.rows += more.rows;
    for (sum, more) in sum.sums.iter_mut().zip(more.sums) {
        *sum = sum.wrapping_add(more) & SUM_MASK;
    }
}
