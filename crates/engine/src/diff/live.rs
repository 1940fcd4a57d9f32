//! What a verification under a live stream asks of a comparison: the keys that may differ, and the rows of some keys with
//! what the read saw. Whether a difference counts is decided in `crate::verify`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use syncline_core::{Moment, ReadMark, Result, RowKey, Source, TableSchema};

use super::comparison::Comparison;
use super::encoder::Encoder;
use super::keys;
use super::pairing::{Class, ComparedColumn, Pairing};
use super::shown::{KEYS_MAX, Rows};
use super::side::{EncodedRow, Side};
use super::sketches::{Difference, HashKey, Identity, KeyRef, Lookup};
use super::table::{RowDifference, RowsRead};

/// An encoded key.
pub(crate) type EncodedKey = Box<[u8]>;

/// Which side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Source,
    Destination,
}

/// Rows of some keys, and what each of the reads saw.
#[derive(Default)]
pub(crate) struct Read {
    pub(crate) rows: Rows,
    pub(crate) marks: Vec<ReadMark>,
    /// How many of the keys were asked for, from the first on: all, unless their rows are too large.
    pub(crate) keys: usize,
}

impl Comparison {
    /// A comparison of two tables that are written meanwhile.
    pub(crate) fn live(
        pairing: &Pairing,
        source: &Arc<dyn Source>,
        destination: &Arc<dyn Source>,
        hash_key: &HashKey,
        readers: usize,
        moment: Moment,
    ) -> Self {
        let mut comparison = Self::new(pairing, source, destination, hash_key, readers, &RowsRead::default());
        comparison.left = comparison.left.of(moment);
        comparison.right = comparison.right.of(moment);
        comparison
    }

    /// Keys that the difference names, on whichever side. Those that the sketches could not hold are found in a second
    /// scan.
    pub(crate) async fn keys_of(&self, difference: &Difference) -> Result<Vec<EncodedKey>> {
        let bytes = |key: &KeyRef| match key {
            KeyRef::Bytes(bytes) => Some(bytes.clone()),
            KeyRef::Hash(_) | KeyRef::Unknown => None,
        };
        let mut keys: BTreeSet<_> = difference.keys().into_iter().flatten().filter_map(bytes).collect();
        let lookup = Lookup::of(difference, &self.hash_key);
        if !lookup.is_empty() {
            let (left, right) =
                tokio::try_join!(looked_up(&self.left, &lookup), looked_up(&self.right, &lookup))?;
            keys.extend(left.into_iter().chain(right));
        }
        Ok(keys.into_iter().collect())
    }

    /// The rows of these keys at one side, until they take so many bytes.
    pub(crate) async fn read(&self, of: Of, keys: &[EncodedKey], bytes_max: usize) -> Result<Read> {
        let side = self.side(of);
        let mut read = Read::default();
        let mut bytes = 0;
        for keys in keys.chunks(KEYS_MAX) {
            if bytes >= bytes_max {
                break;
            }
            read.keys += keys.len();
            let (rows, marks) = side.rows_of(keys).await?;
            for (key, row) in rows {
                bytes += row.len();
                read.rows.entry(key).or_default().push(row);
            }
            read.marks.extend(marks);
        }
        Ok(read)
    }

    /// Differing rows, to be shown.
    pub(crate) fn differences(&self, left: &Rows, right: &Rows) -> Result<Vec<RowDifference>> {
        match self.identity {
            Identity::Key => self.by_key(left, right),
            Identity::WholeRow => self.by_row(left, right),
        }
    }

    /// What the scans of a side saw since this was asked last.
    pub(crate) fn take_marks(&self, of: Of) -> Vec<ReadMark> {
        let mut marks = self.side(of).marks.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *marks).into_iter().map(ReadMark).collect()
    }

    fn side(&self, of: Of) -> &Side {
        match of {
            Of::Source => &self.left,
            Of::Destination => &self.right,
        }
    }
}

/// Keys of a side that are looked for.
async fn looked_up(side: &Side, lookup: &Lookup) -> Result<Vec<EncodedKey>> {
    let lookup = lookup.clone();
    let found = side.read(Vec::new, move |found: &mut Vec<EncodedKey>, row: EncodedRow<'_>| {
        if lookup.key(row.key).is_some() || lookup.row(row.row).is_some() {
            found.push(row.key.into());
        }
        Ok(())
    });
    Ok(found.await?.into_iter().flatten().collect())
}

/// Whether a row of this pair can be found by its encoded key on both sides, and whether that key tells the row key that
/// `streamed` carries: then rows are judged one by one.
///
/// A decimal may be written in several ways for one encoding, and so may a value that is brought to the other side's type.
pub(crate) fn is_exact(pairing: &Pairing, streamed: &TableSchema) -> bool {
    let exact = |((compared, column), &place): ((&ComparedColumn, _), &usize)| {
        let column: &syncline_core::Column = column;
        let same_carriage = streamed
            .columns
            .get(place)
            .is_some_and(|streamed| streamed.carriage == column.carriage && streamed.name == column.name);
        same_carriage
            && match compared.class {
                Class::Native => true,
                Class::Float | Class::Decimal => false,
                class => Class::of(&column.data_type) == class,
            }
    };
    pairing.key_columns > 0
        && pairing.key_columns == streamed.row_key.len()
        && pairing.columns.iter().zip(&pairing.left.columns).zip(&streamed.row_key).all(exact)
}

/// The row keys of encoded keys, as the stream carries them. A key that the source's types cannot hold has none.
pub(crate) fn row_keys(keys: &[EncodedKey], pairing: &Pairing) -> Result<BTreeMap<EncodedKey, RowKey>> {
    let columns = &pairing.columns[..pairing.key_columns];
    let batch = keys::batch(keys, columns, &pairing.left)?;
    let mut found = BTreeMap::new();
    let mut row = 0;
    Encoder::new(columns).rows(&batch, &mut |encoded| {
        if *encoded == *keys[row] {
            found.insert(keys[row].clone(), RowKey::of(batch.columns(), row)?);
        }
        row += 1;
        Ok(())
    })?;
    Ok(found)
}
