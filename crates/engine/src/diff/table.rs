//! The comparison of one table: both sides scanned at the same time, sketches, and the rows in which they differ.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};
use syncline_core::{Error, Result, Source, TableId, encoding};

use super::keys;
use super::pairing::{Class, ComparedColumn, Pairing};
use super::side::Side;
use super::sketches::{
    self, Difference, DifferingRow, HashKey, Identity, KeyRange, KeyRef, Lookup, Outcome, Scan, SketchSize,
    TableDigest,
};

/// Differing rows that one scan can show, an update counting twice: 1 MB of cells for each reader, which stay in a
/// processor's cache.
const ROWS_PER_SCAN: u64 = 10_000;
/// Into how many ranges a large difference is cut at most; beyond, it is a case for a new snapshot.
const RANGES_MAX: u64 = 64;
/// Ranges looked at in one scan: bounds its memory.
const RANGES_PER_SCAN: usize = 8;
/// Bytes of encoded rows that are held to be shown.
const SHOWN_BYTES_MAX: usize = 32 << 20;

/// Keys asked for at once.
pub(super) const KEYS_MAX: usize = 100;

/// How a comparison is made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Chunks of a side that are read at the same time.
    pub readers: usize,
    /// Differing rows that are read and shown; the others are only counted.
    pub samples_max: usize,
}

/// Rows read of the table under way, for who shows progress.
#[derive(Debug, Clone, Default)]
pub struct RowsRead {
    /// Of the source.
    pub left: Arc<AtomicU64>,
    /// Of the destination.
    pub right: Arc<AtomicU64>,
}

/// What a difference is, seen from the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The destination lacks the row.
    Missing,
    /// The destination has a row that the source does not have.
    Surplus,
    /// Both have the key, with other values.
    Changed,
    /// A side has the key more than once.
    Repeated,
}

/// One differing row, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowDifference {
    /// What it is.
    pub kind: Kind,
    /// The key columns' values; without a key, those of the whole row.
    pub key: Vec<Option<String>>,
    /// The columns that differ: name, value at the source, value at the destination. Of a row that is on one side only,
    /// all that are not its key.
    pub columns: Vec<ColumnDifference>,
}

/// One column of a differing row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDifference {
    /// Its name.
    pub name: String,
    /// Value at the source; `None` for NULL and where the row is not.
    pub source: Option<String>,
    /// Value at the destination.
    pub destination: Option<String>,
}

/// How many rows differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Rows the destination lacks.
    pub missing: u64,
    /// Rows only the destination has.
    pub surplus: u64,
    /// Rows with other values.
    pub changed: u64,
    /// Keys that a side has more than once.
    pub repeated: u64,
}

impl Counts {
    /// Whether there is none.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct TableDiff {
    /// The source's table.
    pub table: TableId,
    /// The destination's.
    pub destination_table: TableId,
    /// Rows of the source.
    pub rows_source: u64,
    /// Rows of the destination.
    pub rows_destination: u64,
    /// Differing rows.
    pub counts: Counts,
    /// About how many rows differ, where they are too many to be counted; the counts then say only what was seen.
    pub too_many: Option<u64>,
    /// The key's columns; empty: equal rows were counted.
    pub key: Vec<String>,
    /// What the columns were compared as.
    pub columns: Vec<ComparedColumn>,
    /// Columns of the destination that were not compared, for the source does not have them.
    pub not_compared: Vec<String>,
    /// Scans of each side.
    pub scans: u32,
    /// Some of the differing rows.
    pub samples: Vec<RowDifference>,
}

impl TableDiff {
    /// Whether the two sides are equal in what was compared.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.counts.is_zero() && self.too_many.is_none()
    }
}

/// Compares a pair of tables.
///
/// # Errors
/// As any read. A read that loses its snapshot (a table rewritten meanwhile) is retriable: compare again.
pub async fn compare(
    pairing: &Pairing,
    source: &Arc<dyn Source>,
    destination: &Arc<dyn Source>,
    hash_key: &HashKey,
    options: Options,
    read: &RowsRead,
) -> Result<TableDiff> {
    let comparison = Comparison::new(pairing, source, destination, hash_key, options.readers, read);
    let found = comparison.find().await?;
    let samples = comparison.samples(&found.difference, options.samples_max).await?;
    Ok(TableDiff {
        table: pairing.left.id.clone(),
        destination_table: pairing.right.id.clone(),
        rows_source: found.left.rows,
        rows_destination: found.right.rows,
        counts: counts(&found.difference),
        too_many: found.too_many,
        key: pairing.columns[..pairing.key_columns].iter().map(|column| column.name.clone()).collect(),
        columns: pairing.columns.clone(),
        not_compared: pairing.only_right.clone(),
        scans: found.scans,
        samples,
    })
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

pub(crate) struct Comparison<'a> {
    pub(super) left: Side,
    pub(super) right: Side,
    pub(super) hash_key: HashKey,
    pub(super) identity: Identity,
    columns: &'a [ComparedColumn],
    key_columns: usize,
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

impl<'a> Comparison<'a> {
    pub(super) fn new(
        pairing: &'a Pairing,
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
            columns: &pairing.columns,
            key_columns: pairing.key_columns,
        }
    }
}

impl Comparison<'_> {
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
        let scan = |range: &KeyRange| Scan::new(self.hash_key.clone(), self.identity, *range, size);
        let parts = side.read(
            || ranges.iter().map(scan).collect::<Vec<_>>(),
            |scans, row| {
                scans.iter_mut().for_each(|scan| scan.add_row(row.key, row.row));
                Ok(())
            },
        );
        let mut parts = parts.await?.into_iter();
        let mut scans = parts.next().ok_or_else(|| Error::bug("a side was read by nobody"))?;
        for part in parts {
            for (scan, part) in scans.iter_mut().zip(&part) {
                scan.merge(part).map_err(of_sketches)?;
            }
        }
        Ok(scans)
    }

    /// Some of the differing rows, with their values.
    pub(crate) async fn samples(&self, difference: &Difference, max: usize) -> Result<Vec<RowDifference>> {
        let some = difference.first(max);
        if some.is_empty() {
            return Ok(Vec::new());
        }
        let [named_left, named_right] = some.keys();
        let lookup = Lookup::of(&some, &self.hash_key);
        let (left, right) = tokio::try_join!(
            self.rows_of(&self.left, &named_left, lookup.clone()),
            self.rows_of(&self.right, &named_right, lookup)
        )?;
        Ok(if self.identity == Identity::Key {
            self.by_key(&left, &right)?
        } else {
            self.by_row(&left, &right)?
        })
    }

    /// The rows that a difference names, by their keys. What a side does not find by its key (it writes the value in another
    /// way than the encoding, or the sketch knows no key) is looked for in a second scan.
    async fn rows_of(&self, side: &Side, named: &[&KeyRef], mut lookup: Lookup) -> Result<Rows> {
        let bytes = |key: &&KeyRef| match key {
            KeyRef::Bytes(bytes) => Some(bytes.clone()),
            KeyRef::Hash(_) | KeyRef::Unknown => None,
        };
        let keys: Vec<Box<[u8]>> = named.iter().filter_map(bytes).collect();
        let mut rows = Rows::new();
        let mut bytes = 0;
        for keys in keys.chunks(KEYS_MAX) {
            for (key, row) in side.rows_of(keys).await?.0 {
                bytes += row.len();
                rows.entry(key).or_default().push(row);
            }
            require_shown(bytes)?;
        }
        keys.iter().filter(|key| !rows.contains_key(*key)).for_each(|key| lookup.add_key(key));
        if lookup.is_empty() {
            return Ok(rows);
        }
        let found = side.read(
            || (Vec::<(Box<[u8]>, Box<[u8]>)>::new(), 0_usize),
            move |(found, bytes), row| {
                let is_looked_for = lookup.key(row.key).is_some() || lookup.row(row.row).is_some();
                if is_looked_for {
                    *bytes += row.row.len();
                    found.push((row.key.into(), row.row.into()));
                }
                require_shown(*bytes)
            },
        );
        for (key, row) in found.await?.into_iter().flat_map(|(found, _)| found) {
            rows.entry(key).or_default().push(row);
        }
        Ok(rows)
    }

    pub(super) fn by_key(&self, left: &Rows, right: &Rows) -> Result<Vec<RowDifference>> {
        let keys: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
        let none = Vec::new();
        let mut shown = Vec::new();
        for key in keys {
            let (left, right) = (left.get(key).unwrap_or(&none), right.get(key).unwrap_or(&none));
            let kind = match (left.len(), right.len()) {
                (1, 0) => Kind::Missing,
                (0, 1) => Kind::Surplus,
                // It became equal between the scan and now.
                (1, 1) if left == right => continue,
                (1, 1) => Kind::Changed,
                _ => Kind::Repeated,
            };
            let (left, right) = (left.first().map(AsRef::as_ref), right.first().map(AsRef::as_ref));
            let key = self.show(key, &self.columns[..self.key_columns], &self.left)?;
            shown.push(RowDifference { kind, key, columns: self.columns(left, right)? });
        }
        Ok(shown)
    }

    /// Without keys a row is shown once for each side that has more of it.
    pub(super) fn by_row(&self, left: &Rows, right: &Rows) -> Result<Vec<RowDifference>> {
        let rows = |rows: &Rows| -> BTreeMap<Box<[u8]>, usize> {
            let mut counted = BTreeMap::new();
            rows.values().flatten().for_each(|row| *counted.entry(row.clone()).or_insert(0) += 1);
            counted
        };
        let (left, right) = (rows(left), rows(right));
        let all: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
        let mut shown = Vec::new();
        for row in all {
            let (at_left, at_right) = (left.get(row).unwrap_or(&0), right.get(row).unwrap_or(&0));
            if at_left != at_right {
                let kind = if at_left > at_right { Kind::Missing } else { Kind::Surplus };
                let key = self.show(row, self.columns, &self.left)?;
                shown.push(RowDifference { kind, key, columns: Vec::new() });
            }
        }
        Ok(shown)
    }

    fn columns(&self, left: Option<&[u8]>, right: Option<&[u8]>) -> Result<Vec<ColumnDifference>> {
        let show = |row: Option<&[u8]>, side: &Side| match row {
            Some(row) => self.show(row, self.columns, side).map(Some),
            None => Ok(None),
        };
        let (at_left, at_right) = (show(left, &self.left)?, show(right, &self.right)?);
        let encoded = |row: Option<&[u8]>| -> Result<Vec<Option<Vec<u8>>>> {
            let values = row.map_or_else(|| Ok(Vec::new()), encoding::values)?;
            Ok(values.into_iter().map(|value| value.map(<[u8]>::to_vec)).collect())
        };
        let (left, right) = (encoded(left)?, encoded(right)?);
        let value =
            |row: &Option<Vec<Option<String>>>, at: usize| row.as_ref().and_then(|row| row[at].clone());
        let differs = |at: &usize| left.is_empty() || right.is_empty() || left[*at] != right[*at];
        let columns = (self.key_columns..self.columns.len()).filter(differs);
        let column = |at: usize| ColumnDifference {
            name: self.columns[at].name.clone(),
            source: value(&at_left, at),
            destination: value(&at_right, at),
        };
        Ok(columns.map(column).collect())
    }

    /// Encoded values as text.
    fn show(&self, row: &[u8], columns: &[ComparedColumn], side: &Side) -> Result<Vec<Option<String>>> {
        let snapshots = side.snapshots()?;
        let text = |(at, value): (usize, Option<&[u8]>)| {
            let bytes = value?;
            Some(match columns[at].class {
                Class::Native => snapshots.show(&side.table.columns[at], bytes),
                class => {
                    keys::text(class, bytes).unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned())
                }
            })
        };
        let values = encoding::values(row)?;
        if values.len() > columns.len() {
            return Err(Error::bug("an encoded row has more values than columns"));
        }
        Ok(values.into_iter().enumerate().map(text).collect())
    }
}

/// Rows by their key; several where a key is there more than once.
pub(crate) type Rows = BTreeMap<Box<[u8]>, Vec<Box<[u8]>>>;

/// A row left out would look as if a side did not have it, so there is an error instead.
fn require_shown(bytes: usize) -> Result<()> {
    if bytes <= SHOWN_BYTES_MAX {
        return Ok(());
    }
    Err(Error::configuration("the differing rows to be shown are larger than 32 MiB together")
        .with_remedy("show fewer of them, with --samples"))
}

fn of_sketches(error: sketches::DiffError) -> Error {
    Error::bug("two sketches of this process do not fit each other").with_source(error)
}
