//! The comparison of one table: both sides scanned at the same time, and sketches.

use std::collections::VecDeque;
use std::sync::Arc;

use syncline_core::{Error, Result, Source};

use super::pairing::{ComparedColumn, Pairing};
use super::remote::Agent;
use super::scanned::Scanned;
use super::side::Side;
use super::sketches::{
    self, Difference, DifferingRow, HashKey, Identity, Judge, KeyRange, Next, Outcome, SketchSize,
    TableDigest, Terms,
};
use super::table::{Counts, RowsRead, TableDiff};

/// Differing rows that one scan can show, an update counting twice: 1 MB of cells for each reader, which stay in a
/// processor's cache.
const ROWS_PER_SCAN: u64 = 10_000;
/// Into how many ranges a large difference is cut at most; beyond, it is a case for a new snapshot.
const RANGES_MAX: u64 = 64;
/// Into how many ranges it is cut in all, with those that are cut again.
const RANGES_TOTAL_MAX: usize = 4 * 64;
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

    /// The same comparison, of sides that agents read.
    #[must_use]
    pub fn read_by(self, source: Option<Arc<Agent>>, destination: Option<Arc<Agent>>) -> Self {
        let hash_key = &self.hash_key;
        let by = |side: Side, agent: Option<Arc<Agent>>| match agent {
            Some(agent) => side.read_by(agent, hash_key),
            None => side,
        };
        let (left, right) = (by(self.left, source), by(self.right, destination));
        Self { left, right, ..self }
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
            inside: self.inside_cost(),
            samples,
        };
        Ok((diff, found.difference))
    }

    /// Gives up the snapshots of what was read: what follows looks at the rows as they are then, and a file that is held in
    /// a snapshot cannot be made ready for writing.
    pub(super) async fn release(&self) -> Result<()> {
        self.left.release().await?;
        self.right.release().await
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
    pub(super) scans: u32,
}

impl Comparison {
    /// Scans both sides until every range is equal, or its difference is known, or too large.
    pub(crate) async fn find(&self) -> Result<Found> {
        if self.left.is_inside() {
            return self.find_inside().await;
        }
        let mut found = Found::default();
        let mut ranges = VecDeque::from([KeyRange::ALL]);
        let mut planned = 0;
        while !ranges.is_empty() {
            let together: Vec<_> = ranges.drain(..ranges.len().min(RANGES_PER_SCAN)).collect();
            let (left, right) =
                tokio::try_join!(self.scan(&self.left, &together), self.scan(&self.right, &together))?;
            found.scans += 1;
            for (left, right) in left.into_iter().zip(right) {
                if left.range() == KeyRange::ALL {
                    (found.left, found.right) = (left.opening()?.digest, right.opening()?.digest);
                }
                match self.judge(left, right).await? {
                    Outcome::Equal => {}
                    Outcome::Different(difference) => found.difference.append(difference),
                    // Ranges that are too full again and again are those of a side that lies.
                    Outcome::Ranges { estimate, .. } if planned >= RANGES_TOTAL_MAX => {
                        *found.too_many.get_or_insert(0) += estimate / 2;
                    }
                    Outcome::Ranges { plan, .. } => {
                        planned += plan.len();
                        ranges.extend(plan);
                    }
                    Outcome::TooLarge { estimate } => {
                        let too_many = found.too_many.get_or_insert(0);
                        *too_many = too_many.saturating_add(estimate / 2);
                    }
                }
            }
        }
        Ok(found)
    }

    async fn scan(&self, side: &Side, ranges: &[KeyRange]) -> Result<Vec<Scanned>> {
        side.scan(&self.hash_key, ranges, SketchSize::for_difference(ROWS_PER_SCAN)).await
    }

    /// What two scans of a range come to. Of those that were made elsewhere only as much is fetched as that takes.
    async fn judge(&self, mut left: Scanned, mut right: Scanned) -> Result<Outcome> {
        if let (Scanned::Here(left), Scanned::Here(right)) = (&left, &right) {
            return sketches::compare(left, right, RANGES_MAX).map_err(of_sketches);
        }
        let terms = Terms { hash_key: self.hash_key.clone(), identity: self.identity, range: left.range() };
        let (judge, mut next) = Judge::begin(terms, left.opening()?, right.opening()?, RANGES_MAX);
        // Each round wants larger sketches, so it ends.
        loop {
            match next {
                Next::Done(outcome) => return Ok(outcome),
                Next::Sketches(size) => {
                    let (left, right) =
                        tokio::try_join!(left.sketch(&self.left, size), right.sketch(&self.right, size))?;
                    next = judge.judge(&left, &right)?;
                }
            }
        }
    }
}

fn of_sketches(error: sketches::DiffError) -> Error {
    Error::bug("two sketches of this process do not fit each other").with_source(error)
}
