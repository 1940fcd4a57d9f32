//! What else is asked of a side whose database hashes its rows: rows by their hashes, and unique columns. What a scan would
//! find here is found there, and only that crosses the link.

use std::sync::PoisonError;

use syncline_core::digests::{DigestOf, RepeatedIn, TableDigests, WantedRows};
use syncline_core::unique::UniqueColumns;
use syncline_core::{Digests, Error, Result};

use super::tally::Tally;
use crate::diff::encoder::Encoder;
use crate::diff::remote::Exchanged;
use crate::diff::side::{KeyedRows, Side};
use crate::diff::sketches::{HashKey, Lookup, RowHash};
use crate::diff::unique::{NotUnique, RepeatedValue, null};

impl Side {
    /// The ability to hash rows there, if this side is to use it.
    pub(in crate::diff) fn digests(&self) -> Option<&dyn Digests> {
        self.source.digests().filter(|_| self.is_inside())
    }

    /// What was exchanged for digests so far.
    pub(super) fn exchanged(&self) -> Exchanged {
        *self.exchanged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to ask for sums and hashes.
    pub(super) async fn tally(&self, hash_key: &HashKey) -> Result<Tally> {
        Ok(match self.digests() {
            Some(digests) => {
                let begun = self.begin(digests, hash_key).await?;
                Tally::inside(begun, self.exchanged.clone())
            }
            None => Tally::Here(Box::new(self.clone()), hash_key.clone()),
        })
    }

    async fn begin(&self, digests: &dyn Digests, hash_key: &HashKey) -> Result<Box<dyn TableDigests>> {
        let salt = hash_key.salt().ok_or_else(|| Error::bug("a hash that databases do not have"))?;
        let classes = self.columns.iter().map(|column| column.class).collect();
        let table = self.table.clone();
        digests.begin(&DigestOf { table, classes, key_columns: self.key_columns, salt }).await
    }

    /// The rows that a lookup knows by their hash or by that of their key, encoded.
    pub(in crate::diff) async fn found_inside(
        &self,
        digests: &dyn Digests,
        lookup: &Lookup,
        bytes_max: usize,
    ) -> Result<KeyedRows> {
        let mut there = self.begin(digests, lookup.hash_key()).await?;
        let wanted = WantedRows {
            keys: lookup.key_hashes().map(|key| key.0.to_be_bytes()).collect(),
            rows: lookup.row_hashes().map(RowHash::to_bytes).collect(),
        };
        let batch = there.rows(&wanted, bytes_max).await?;
        there.end().await?;
        let mut rows = KeyedRows::with_capacity(batch.num_rows());
        Encoder::new(&self.columns).rows(&batch, &mut |row| {
            let row = self.split(row)?;
            // What this process would not have found by its hash is none of those.
            if lookup.key(row.key).is_some() || lookup.row(row.row).is_some() {
                rows.push((row.key.into(), row.row.into()));
            }
            Ok(())
        })?;
        Ok(rows)
    }

    /// Whether more than one row has the same values in these columns.
    pub(in crate::diff) async fn not_unique_inside(
        &self,
        digests: &dyn Digests,
        columns: &UniqueColumns,
        of: RepeatedIn,
        hash_key: &HashKey,
    ) -> Result<Option<NotUnique>> {
        let mut there = self.begin(digests, hash_key).await?;
        let places = of.columns.clone();
        let repeated = there.repeated(&of).await?;
        there.end().await?;
        if repeated.values == 0 {
            return Ok(None);
        }
        let mut some = Vec::with_capacity(repeated.some.len());
        for (value, rows) in repeated.some {
            let shown = self.show_at(&value, &places)?;
            some.push(RepeatedValue {
                value: shown.into_iter().map(|value| value.unwrap_or_else(null)).collect(),
                rows,
            });
        }
        some.sort_by(|a, b| a.value.cmp(&b.value));
        Ok(Some(NotUnique { columns: columns.columns.clone(), values: repeated.values, some }))
    }
}
