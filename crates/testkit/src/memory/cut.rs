//! The judge over the changes of a table in its window: by transaction, per chunk.

use std::collections::HashMap;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use syncline_core::{
    ChangeBatch, Cut, CutPlan, Error, Operation, Result, RowKey, TableState, Transaction, Verdict,
};

use super::range::Range;
use super::rows::{keys_of, keys_of_old};
use super::snapshot::Snapshot;

/// A ledger, ready to be asked.
pub(crate) struct Ledger {
    ranges: Vec<(Range, Snapshot)>,
    /// Keys read again, with their newest mark; they go before their ranges.
    single: HashMap<RowKey, Snapshot>,
}

impl Ledger {
    pub(crate) fn read(state: &TableState) -> Result<Self> {
        let mut ledger = Self { ranges: Vec::new(), single: HashMap::new() };
        // In order of their numbers: a later re-read of a key replaces the earlier one.
        for entry in state.chunks.values() {
            let mark = Snapshot::parse(&entry.mark)?;
            match Range::parse(&entry.range)? {
                Range::Exactly(keys) => {
                    ledger.single.extend(keys.into_iter().map(|key| (key, mark.clone())));
                }
                range => ledger.ranges.push((range, mark)),
            }
        }
        Ok(ledger)
    }

    fn verdict(&self, key: &RowKey, xid: u64) -> Result<Verdict> {
        if let Some(mark) = self.single.get(key) {
            return Ok(by_mark(mark, xid));
        }
        let values = key.values()?;
        let first = values.first().copied().flatten();
        let first = first.ok_or_else(|| Error::conflict("a row key whose first column is null"))?;
        let found = self.ranges.iter().find(|(range, _)| range.holds(first));
        Ok(found.map_or_else(|| self.by_rows(xid), |(_, mark)| by_mark(mark, xid)))
    }

    /// The verdict where keys cannot be placed: all chunks of one snapshot have the same mark.
    fn by_rows(&self, xid: u64) -> Verdict {
        let rows = self.ranges.iter().find(|(range, _)| matches!(range, Range::Rows { .. }));
        rows.map_or(Verdict::Unread, |(_, mark)| by_mark(mark, xid))
    }

    fn truncate(&self, xid: u64) -> Verdict {
        let seen = self.ranges.iter().filter(|(_, mark)| mark.saw(xid)).count();
        match seen {
            _ if self.ranges.is_empty() => Verdict::Unread,
            0 => Verdict::Apply,
            _ if seen == self.ranges.len() => Verdict::Seen,
            _ => Verdict::Mixed,
        }
    }
}

impl CutPlan for Ledger {
    fn judge(&self, batch: &ChangeBatch, transactions: &[Transaction]) -> Result<Vec<Cut>> {
        let new = keys_of(&batch.table, &batch.rows)?;
        let old = batch.old.as_ref().map(|old| keys_of_old(&old.keys)).transpose()?.unwrap_or_default();
        let judge = |row: usize| {
            let number = batch.transactions[row] as usize;
            let transaction = transactions.get(number);
            let xid =
                transaction.ok_or_else(|| Error::bug("a change of a transaction that is not listed"))?.id;
            if batch.operations[row] == Operation::Truncate {
                let verdict = self.truncate(xid);
                return Ok(Cut { new: verdict, old: verdict });
            }
            if !batch.table.has_row_key() {
                let verdict = self.by_rows(xid);
                return Ok(Cut { new: verdict, old: verdict });
            }
            let verdict = self.verdict(&new[row], xid)?;
            let before = batch.old_row(row).map(|at| self.verdict(&old[at], xid)).transpose()?;
            Ok(Cut { new: verdict, old: before.unwrap_or(verdict) })
        };
        (0..batch.len()).map(judge).collect()
    }
}

fn by_mark(mark: &Snapshot, xid: u64) -> Verdict {
    if mark.saw(xid) { Verdict::Seen } else { Verdict::Apply }
}

/// The value of the first key column of a row, for chunks by key range.
pub(crate) fn first_key(row: &[Option<Vec<u8>>], key: &[usize]) -> Option<Vec<u8>> {
    key.first().and_then(|&column| row[column].clone())
}

/// Whether a column of a batch is a binary one without nulls: what a key column must be.
pub(crate) fn is_whole(column: &arrow_array::ArrayRef) -> bool {
    column.as_binary_opt::<i32>().is_some_and(|column| column.null_count() == 0)
}
