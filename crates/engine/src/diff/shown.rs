//! Differing rows with their values, for a person.

use std::collections::{BTreeMap, BTreeSet};

use syncline_core::{Error, Result, encoding};

use super::comparison::Comparison;
use super::side::Side;
use super::sketches::{Difference, Identity, KeyRef, Lookup};
use super::table::{ColumnDifference, Kind, RowDifference};

/// Bytes of encoded rows that are held to be shown.
pub(super) const SHOWN_BYTES_MAX: usize = 32 << 20;

/// Keys asked for at once.
pub(super) const KEYS_MAX: usize = 100;

impl Comparison {
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
        for (key, row) in side.found(&lookup).await? {
            rows.entry(key).or_default().push(row);
        }
        Ok(rows)
    }

    /// The rows of each key, where they differ.
    pub(super) fn by_key(&self, left: &Rows, right: &Rows) -> Result<Vec<RowDifference>> {
        let keys: BTreeSet<_> = left.keys().chain(right.keys()).collect();
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
            let key = self.show(key, &self.left)?;
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
        let all: BTreeSet<_> = left.keys().chain(right.keys()).collect();
        let mut shown = Vec::new();
        for row in all {
            let (at_left, at_right) = (left.get(row).unwrap_or(&0), right.get(row).unwrap_or(&0));
            if at_left != at_right {
                let kind = if at_left > at_right { Kind::Missing } else { Kind::Surplus };
                let key = self.show(row, &self.left)?;
                shown.push(RowDifference { kind, key, columns: Vec::new() });
            }
        }
        Ok(shown)
    }

    fn columns(&self, left: Option<&[u8]>, right: Option<&[u8]>) -> Result<Vec<ColumnDifference>> {
        let show = |row: Option<&[u8]>, side: &Side| match row {
            Some(row) => self.show(row, side).map(Some),
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
        let columns = (self.pairing.key_columns..self.pairing.columns.len()).filter(differs);
        let column = |at: usize| ColumnDifference {
            name: self.pairing.columns[at].name.clone(),
            source: value(&at_left, at),
            destination: value(&at_right, at),
        };
        Ok(columns.map(column).collect())
    }

    /// The first columns' encoded values as text.
    fn show(&self, row: &[u8], side: &Side) -> Result<Vec<Option<String>>> {
        let places: Vec<usize> = (0..self.pairing.columns.len()).collect();
        side.show_at(row, &places)
    }
}

/// Rows by their key; several where a key is there more than once.
pub(crate) type Rows = BTreeMap<Box<[u8]>, Vec<Box<[u8]>>>;

/// A row left out would look as if a side did not have it, so there is an error instead.
pub(super) fn require_shown(bytes: usize) -> Result<()> {
    if bytes <= SHOWN_BYTES_MAX {
        return Ok(());
    }
    Err(Error::configuration("the differing rows to be shown are larger than 32 MiB together")
        .with_remedy("show fewer of them, with --samples"))
}
