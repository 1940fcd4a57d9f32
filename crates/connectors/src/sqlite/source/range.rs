//! Ranges of a table, and the cut between its chunks and its stream.
//!
//! A range is JSON in the ledger. A mark is the number of the newest log entry that the read saw; because SQLite has one
//! writer at a time, a read has seen exactly the entries up to its mark.

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, RecordBatch};
use rusqlite::types::ValueRef;
use serde::{Deserialize, Serialize};
use syncline_core::{
    Carriage, ChangeBatch, Cut, CutPlan, Error, Operation, ReadMark, Result, RowKey, TableSchema, TableState,
    Transaction, Verdict,
};

use super::super::value;

/// Which rows of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Range {
    /// Every row.
    All,
    /// Those whose integer key lies between these, both inclusive; the first and last of a table reach to the ends of
    /// the integers, so that every key belongs to one.
    Keys(i64, i64),
    /// Exactly these row keys, in hexadecimal.
    Rows(Vec<String>),
}

impl Range {
    /// Reads [`Range::to_text`].
    pub(super) fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|error| Error::conflict("a range of the ledger is damaged").with_source(error))
    }

    /// The form that stands in the ledger.
    pub(super) fn to_text(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::bug("a range cannot be written as JSON").with_source(error))
    }

    /// The range of exactly these rows.
    pub(super) fn of_rows(keys: &RecordBatch) -> Result<Self> {
        let key = |row| RowKey::of(keys.columns(), row).map(|key| hex(&key.0));
        Ok(Self::Rows((0..keys.num_rows()).map(key).collect::<Result<_>>()?))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A mark: the newest entry seen, and for a shared snapshot whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) seen: u64,
    pub(super) snapshot: Option<String>,
}

impl Mark {
    /// The form that stands in the ledger: `17`, or `17:` and the snapshot's own name.
    pub(super) fn to_read_mark(&self) -> ReadMark {
        ReadMark(match &self.snapshot {
            Some(snapshot) => format!("{}:{snapshot}", self.seen),
            None => self.seen.to_string(),
        })
    }

    /// Reads [`Mark::to_read_mark`].
    pub(super) fn parse(text: &str) -> Result<Self> {
        let (seen, snapshot) = match text.split_once(':') {
            Some((seen, snapshot)) => (seen, Some(snapshot.to_owned())),
            None => (text, None),
        };
        let seen = seen.parse().map_err(|_| Error::conflict("a read mark of the ledger is damaged"))?;
        Ok(Self { seen, snapshot })
    }
}

/// A ledger, ready to be asked.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    all: Option<u64>,
    /// Sorted by their beginning.
    keys: Vec<(i64, i64, u64)>,
    rows: HashMap<String, u64>,
}

impl Ledger {
    /// Reads a table's ledger.
    pub(super) fn new(state: &TableState) -> Result<Self> {
        let mut ledger = Self::default();
        for entry in state.chunks.values() {
            let seen = Mark::parse(&entry.mark)?.seen;
            match Range::parse(&entry.range)? {
                Range::All => ledger.all = ledger.all.max(Some(seen)),
                Range::Keys(first, last) => ledger.keys.push((first, last, seen)),
                Range::Rows(rows) => {
                    for row in rows {
                        let newest = ledger.rows.entry(row).or_insert(seen);
                        *newest = seen.max(*newest);
                    }
                }
            }
        }
        ledger.keys.sort_unstable();
        Ok(ledger)
    }

    /// Whether every row is loaded at once.
    pub(super) fn has_all(&self) -> bool {
        self.all.is_some()
    }

    /// The gaps between the loaded ranges of integer keys.
    pub(super) fn missing(&self) -> Vec<(i64, i64)> {
        let mut gaps = Vec::new();
        let mut next = Some(i64::MIN);
        for &(first, last, _) in &self.keys {
            let Some(from) = next else { break };
            if from < first {
                gaps.push((from, first - 1));
            }
            next = last.max(from.saturating_sub(1)).checked_add(1);
        }
        gaps.extend(next.map(|from| (from, i64::MAX)));
        gaps
    }

    /// The newest entry that a read of this key has seen; `None` if its chunk is not loaded.
    fn seen(&self, key: &RowKey, integer: Option<i64>) -> Option<u64> {
        let in_keys = || {
            let integer = integer?;
            let place = self.keys.partition_point(|&(first, _, _)| first <= integer);
            let &(_, last, seen) = self.keys.get(place.checked_sub(1)?)?;
            (integer <= last).then_some(seen)
        };
        let chunk = self.all.or_else(in_keys)?;
        let reread = if self.rows.is_empty() { None } else { self.rows.get(&hex(&key.0)).copied() };
        Some(reread.map_or(chunk, |reread| reread.max(chunk)))
    }

    fn verdict(&self, key: &RowKey, integer: Option<i64>, ordinal: u64) -> Verdict {
        match self.seen(key, integer) {
            None => Verdict::Unread,
            Some(seen) if ordinal <= seen => Verdict::Seen,
            Some(_) => Verdict::Apply,
        }
    }

    /// SQLite's stream never says truncate; another that does is judged against every chunk.
    fn truncate(&self, ordinal: u64) -> Verdict {
        let marks = || self.all.iter().copied().chain(self.keys.iter().map(|&(_, _, seen)| seen));
        if marks().next().is_none() {
            Verdict::Unread
        } else if marks().all(|seen| ordinal <= seen) {
            Verdict::Seen
        } else if marks().all(|seen| ordinal > seen) {
            Verdict::Apply
        } else {
            Verdict::Mixed
        }
    }
}

/// The cut of one table.
pub(super) struct LedgerCut {
    pub(super) ledger: Ledger,
    pub(super) table: std::sync::Arc<TableSchema>,
}

impl LedgerCut {
    fn judge_row(&self, columns: &[ArrayRef], row: usize, ordinal: u64) -> Result<Verdict> {
        let key = RowKey::of(columns, row)?;
        let integer = match columns {
            [column] => integer(column, self.table.columns[self.table.row_key[0]].carriage, row)?,
            _ => None,
        };
        Ok(self.ledger.verdict(&key, integer, ordinal))
    }
}

fn integer(column: &ArrayRef, carriage: Carriage, row: usize) -> Result<Option<i64>> {
    if column.is_null(row) {
        return Ok(None);
    }
    Ok(match carriage {
        Carriage::Native => match value::decode(column.as_binary::<i32>().value(row))? {
            ValueRef::Integer(number) => Some(number),
            _ => None,
        },
        Carriage::Typed => column.as_primitive_opt::<Int64Type>().map(|column| column.value(row)),
        Carriage::NativeText => None,
    })
}

impl CutPlan for LedgerCut {
    fn judge(&self, batch: &ChangeBatch, _transactions: &[Transaction]) -> Result<Vec<Cut>> {
        let keys: Vec<ArrayRef> =
            self.table.row_key.iter().map(|&column| batch.rows.column(column).clone()).collect();
        let cut = |row: usize| {
            let ordinal = batch.ordinals[row];
            if batch.operations[row] == Operation::Truncate {
                let verdict = self.ledger.truncate(ordinal);
                return Ok(Cut { new: verdict, old: verdict });
            }
            let new = self.judge_row(&keys, row, ordinal)?;
            let old = match (batch.old_row(row), &batch.old) {
                (Some(place), Some(old)) => self.judge_row(old.keys.columns(), place, ordinal)?,
                _ => new,
            };
            Ok(Cut { new, old })
        };
        (0..batch.len()).map(cut).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use syncline_core::{ChunkEntry, TablePhase};

    use super::*;

    fn state(entries: &[(Range, &str)]) -> TableState {
        let entry = |(range, mark): &(Range, &str)| ChunkEntry {
            range: range.to_text().unwrap(),
            mark: (*mark).to_owned(),
            rows: 0,
        };
        TableState {
            phase: TablePhase::Snapshot,
            generation: 1,
            chunks: (0..).zip(entries.iter().map(entry)).collect::<BTreeMap<_, _>>(),
            rereads: BTreeSet::new(),
            parts: syncline_core::Parts::default(),
        }
    }

    fn key(number: i64) -> RowKey {
        let mut bytes = vec![9, 0, 0, 0];
        value::encode(ValueRef::Integer(number), &mut bytes);
        RowKey(bytes.into())
    }

    #[test]
    fn a_key_is_judged_by_its_own_chunk_and_its_own_re_read() {
        let ledger = Ledger::new(&state(&[
            (Range::Keys(i64::MIN, 9), "5"),
            (Range::Keys(20, 29), "8:x"),
            (Range::Rows(vec![hex(&key(3).0)]), "11"),
        ]))
        .unwrap();
        let verdict = |number, ordinal| ledger.verdict(&key(number), Some(number), ordinal);
        assert_eq!(verdict(4, 5), Verdict::Seen);
        assert_eq!(verdict(4, 6), Verdict::Apply);
        assert_eq!(verdict(3, 11), Verdict::Seen);
        assert_eq!(verdict(3, 12), Verdict::Apply);
        assert_eq!(verdict(15, 1), Verdict::Unread);
        assert_eq!(verdict(29, 8), Verdict::Seen);
        assert_eq!(ledger.truncate(7), Verdict::Mixed);
        assert_eq!(ledger.missing(), [(10, 19), (30, i64::MAX)]);
    }

    proptest! {
        #[test]
        fn loaded_and_missing_ranges_are_every_key_once(ends in proptest::collection::btree_set(any::<i8>(), 0..8), loaded in any::<u16>()) {
            let mut ranges = Vec::new();
            let mut first = i64::MIN;
            for end in ends {
                ranges.push((first, i64::from(end)));
                first = i64::from(end) + 1;
            }
            ranges.push((first, i64::MAX));
            let kept: Vec<_> = ranges.iter().enumerate().filter(|(n, _)| loaded & (1 << n) != 0).map(|(_, r)| *r).collect();
            let entries: Vec<_> = kept.iter().map(|&(a, b)| (Range::Keys(a, b), "1")).collect();
            let mut all = Ledger::new(&state(&entries)).unwrap().missing();
            all.extend(kept);
            all.sort_unstable();
            let mut next = Some(i64::MIN);
            for (first, last) in all {
                prop_assert_eq!(Some(first), next);
                prop_assert!(first <= last);
                next = last.checked_add(1);
            }
            prop_assert_eq!(next, None);
        }
    }
}
