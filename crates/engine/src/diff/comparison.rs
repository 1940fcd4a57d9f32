//! The comparison of one table: both sides scanned at the same time, and sketches.

use std::collections::VecDeque;
use std::sync::Arc;

use syncline_core::{Error, Result, Source};

use super::pairing::{ComparedColumn, Pairing};
use super::side::Side;
use super::sketches::{
    self, Difference, DifferingRow, HashKey, Identity, KeyRange, Outcome, Scan, Scanner, SketchSize,
    TableDigest,
};
use super::table::{Counts, RowsRead, TableDiff};

/// Differing rows that one scan can show, an update counting twice: 1 MB of cells for each reader, which stay in a
/// processor's cache.
const ROWS_PER_SCAN: u64 = 10_000;
/// Into how many ranges a large difference is cut at most; beyond, it is a case for a new snapshot.
const RANGES_MAX: u64 = 64;
/// Ranges looked at in one scan: bounds its memory.
const RANGES_PER_SCAN: usize = 8;

/// A pair of tables that is compared, and repaired.
pub struct Comparison {
    pub(super) pairing: Pairing,
    pub(super) left: Side,
    pub(super) right: Side,
    pub(super) hash_key: HashKey,
    pub(super) identity: Identity,
}

impl Comparison {
    /// A comparison of two tables under a hash key of its own.
    #[must_use]
    pub fn new(
        pairing: &Pairing,
        source: &Arc<dyn Source>,
        destination: &Arc<dyn Source>,
        hash_key: &HashKey,
        readers: usize,
        read: &RowsRead,
    ) -> Self {
        let columns: Arc<[ComparedColumn]> = pairing.columns.clone().into();
        let side = |source: &Arc<dyn Source>, table: &Arc<_>, rows: &Arc<_>| {
            let (source, table, rows) = (Arc::clone(source), Arc::clone(table), Arc::clone(rows));
            Side::new(source, table, Arc::clone(&columns), pairing.key_columns, readers, rows)
        };
        Self {
            left: side(source, &pairing.left, &read.left),
            right: side(destination, &pairing.right, &read.right),
            hash_key: hash_key.clone(),
            identity: if pairing.key_columns == 0 { Identity::WholeRow } else { Identity::Key },
            pairing: pairing.clone(),
        }
    }

    /// Compares: what is to be said of the table, and the differing rows.
    ///
    /// # Errors
    /// As any read. A read that loses its snapshot (a table rewritten meanwhile) is retriable: compare again.
    pub async fn run(&self, samples_max: usize) -> Result<(TableDiff, Difference)> {
        let found = self.find().await?;
        self.release().await?;
        let samples = self.samples(&found.difference, samples_max).await?;
        let pairing = &self.pairing;
        let diff = TableDiff {
            table: pairing.left.id.clone(),
            destination_table: pairing.right.id.clone(),
            rows_source: found.left.rows,
            rows_destination: found.right.rows,
            digest_source: format!("{:032x}", found.left.row_sum),
            digest_destination: format!("{:032x}", found.right.row_sum),
            counts: counts(&found.difference),
            too_many: found.too_many,
            key: pairing.columns[..pairing.key_columns].iter().map(|column| column.name.clone()).collect(),
            columns: pairing.columns.clone(),
            not_compared: pairing.only_right.clone(),
            scans: found.scans,
            samples,
        };
        Ok((diff, found.difference))
    }

    /// Gives up the snapshots of what was read: what follows looks at the rows as they are then, and a file that is held in
    /// a snapshot cannot be made ready for writing.
    pub(super) async fn release(&self) -> Result<()> {
        self.left.snapshots()?.release().await;
        self.right.snapshots()?.release().await;
        Ok(())
    }
}

pub(crate) fn counts(difference: &Difference) -> Counts {
    let copies = |rows: &[DifferingRow]| rows.iter().map(|row| u64::from(row.copies)).sum();
    Counts {
        missing: copies(&difference.only_left),
        surplus: copies(&difference.only_right),
        changed: difference.changed.len() as u64,
        repeated: difference.repeated.len() as u64,
    }
}

/// What all scans together gave.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) left: TableDigest,
    pub(crate) right: TableDigest,
    pub(crate) difference: Difference,
    pub(crate) too_many: Option<u64>,
    scans: u32,
}

impl Comparison {
    /// Scans both sides until every range is equal, or its difference is known, or too large.
    pub(crate) async fn find(&self) -> Result<Found> {
        let mut found = Found::default();
        let mut ranges = VecDeque::from([KeyRange::ALL]);
        while !ranges.is_empty() {
            let together: Vec<_> = ranges.drain(..ranges.len().min(RANGES_PER_SCAN)).collect();
            let (left, right) =
                tokio::try_join!(self.scan(&self.left, &together), self.scan(&self.right, &together))?;
            found.scans += 1;
            for (left, right) in left.iter().zip(&right) {
                if left.range() == KeyRange::ALL {
                    (found.left, found.right) = (*left.digest(), *right.digest());
                }
                match sketches::compare(left, right, RANGES_MAX).map_err(of_sketches)? {
                    Outcome::Equal => {}
                    Outcome::Different(difference) => found.difference.append(difference),
                    Outcome::Ranges { plan, .. } => ranges.extend(plan),
                    Outcome::TooLarge { estimate } => *found.too_many.get_or_insert(0) += estimate / 2,
                }
            }
        }
        Ok(found)
    }

    async fn scan(&self, side: &Side, ranges: &[KeyRange]) -> Result<Vec<Scan>> {
        let size = SketchSize::for_difference(ROWS_PER_SCAN);
        let scan = |range: &KeyRange| Scanner::new(self.hash_key.clone(), self.identity, *range, size);
        let parts = side.read(
            || ranges.iter().map(scan).collect::<Vec<_>>(),
            |scans, row| {
                scans.iter_mut().for_each(|scan| scan.add_row(row.key, row.row));
                Ok(())
            },
        );
        let finished = |part: Vec<Scanner>| part.into_iter().map(Scanner::finish).collect::<Vec<_>>();
        let mut parts = parts.await?.into_iter().map(finished);
        let mut scans = parts.next().ok_or_else(|| Error::bug("a side was read by nobody"))?;
        for part in parts {
            for (scan, part) in scans.iter_mut().zip(&part) {
                scan.merge(part).map_err(of_sketches)?;
            }
        }
        Ok(scans)
    }
}

fn of_sketches(error: sketches::DiffError) -> Error {
    Error::bug("two sketches of this process do not fit each other").with_source(error)
}
