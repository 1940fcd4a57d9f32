//! The judge over changes of a table in its window: was the change's transaction in what the key's chunk saw?
//!
//! Pure: a ledger in, verdicts out. Never by LSN, because visibility does not follow commit order.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::ArrayRef;
use syncline_core::{
    Carriage, ChangeBatch, Cut, CutPlan, Error, Operation, Result, RowKey, TableSchema, TableState,
    Transaction, Verdict,
};

use super::mark::Snapshot;
use super::order::{Order, OrderedKey};
use super::range::{Range, bound, key_form, row_keys};

/// A ledger, ready to judge by.
pub(super) struct Cutter {
    table: Arc<TableSchema>,
    /// What each read saw; entries with the same text share one.
    marks: Vec<Snapshot>,
    chunks: Chunks,
    rereads: Rereads,
}

/// Keys that were read again, with the newest mark: it stands above their chunk's.
#[derive(Default)]
struct Rereads {
    /// How the keys were carried ([`key_form`]).
    form: Option<String>,
    marks: HashMap<RowKey, usize>,
}

/// The keys of a batch, old or new, with what is needed to place them.
struct Keys<'a> {
    columns: &'a [ArrayRef],
    carriage: Option<Carriage>,
}

/// The chunks of a ledger, by how they were cut. Numbers count [`Cutter::marks`].
enum Chunks {
    /// None is loaded.
    None,
    /// All are loaded, in one snapshot.
    One(usize),
    /// Some are loaded, in one snapshot: where a key lies is not known.
    Some(usize),
    /// Ranges of the first key column, ascending and apart.
    Keys(Order, Vec<KeyRange>),
    /// Leaves that join, some or all: which keys are theirs is not known here. A change that one of them saw is applied
    /// again, all others are applied.
    Leaves(Vec<usize>),
}

struct KeyRange {
    from: Option<OrderedKey<'static>>,
    to: Option<OrderedKey<'static>>,
    mark: usize,
}

impl Cutter {
    /// Reads a ledger.
    ///
    /// # Errors
    /// A conflict if it cannot be read or its entries do not go together.
    pub(super) fn new(table: &Arc<TableSchema>, state: &TableState) -> Result<Self> {
        let with_table = |error: Error| error.with_table(&table.id);
        Self::read(table, state).map_err(with_table)
    }

    fn read(table: &Arc<TableSchema>, state: &TableState) -> Result<Self> {
        let (mut marks, mut numbers) = (Vec::new(), HashMap::new());
        let (mut rereads, mut parts) = (Rereads::default(), Vec::new());
        for entry in state.chunks.values() {
            let mark = match numbers.get(entry.mark.as_str()) {
                Some(&mark) => mark,
                None => {
                    marks.push(entry.mark.parse()?);
                    numbers.insert(entry.mark.as_str(), marks.len() - 1);
                    marks.len() - 1
                }
            };
            match Range::parse(&entry.range)? {
                // Entries come in the order of their numbers: the last one of a key stands.
                Range::Rows { form, keys } => rereads.add(form, &keys, mark)?,
                range => parts.push((range, mark)),
            }
        }
        let chunks =
            if state.parts.joining.is_empty() { Chunks::of(&parts)? } else { Chunks::of_leaves(&parts)? };
        Ok(Self { table: table.clone(), marks, chunks, rereads })
    }

    /// The verdict over one key.
    fn over(&self, keys: &Keys<'_>, row: usize, transaction: u64) -> Result<Verdict> {
        if !self.rereads.marks.is_empty()
            && let Some(&mark) = self.rereads.marks.get(&RowKey::of(keys.columns, row)?)
        {
            return Ok(self.by_mark(mark, transaction));
        }
        match &self.chunks {
            Chunks::None => Ok(Verdict::Unread),
            Chunks::One(mark) => Ok(self.by_mark(*mark, transaction)),
            Chunks::Some(mark) => match self.by_mark(*mark, transaction) {
                // Loaded or not, the chunk of the key saw it.
                Verdict::Seen => Ok(Verdict::Seen),
                _ => {
                    Err(Error::conflict("a change cannot be placed while a one-snapshot load is incomplete"))
                }
            },
            Chunks::Keys(order, ranges) => {
                let key = keys.columns.first().zip(keys.carriage);
                let key = key.and_then(|(column, carriage)| order.of_value(column, row, carriage));
                let key = key.ok_or_else(|| {
                    Error::conflict("a change's key does not fit the chunks of the snapshot")
                })?;
                Ok(find(ranges, &key).map_or(Verdict::Unread, |mark| self.by_mark(mark, transaction)))
            }
            Chunks::Leaves(marks) if marks.iter().any(|&mark| self.marks[mark].saw(transaction)) => {
                Ok(Verdict::Again)
            }
            Chunks::Leaves(_) => Ok(Verdict::Apply),
        }
    }

    fn by_mark(&self, mark: usize, transaction: u64) -> Verdict {
        if self.marks[mark].saw(transaction) { Verdict::Seen } else { Verdict::Apply }
    }

    /// A truncate concerns every key. Chunks still unread will see it; of the loaded ones all must agree.
    fn over_all(&self, transaction: u64) -> Verdict {
        // After it everything comes by the log, also what the chunks of leaves have; but not what a re-read has.
        if matches!(self.chunks, Chunks::Leaves(_)) {
            let reread = self.rereads.marks.values().any(|&mark| self.marks[mark].saw(transaction));
            return if reread { Verdict::Mixed } else { Verdict::Apply };
        }
        let mut verdicts = self.marks.iter().map(|mark| mark.saw(transaction));
        match verdicts.next() {
            None => Verdict::Unread,
            Some(first) if verdicts.any(|other| other != first) => Verdict::Mixed,
            Some(true) => Verdict::Seen,
            Some(false) => Verdict::Apply,
        }
    }
}

impl Chunks {
    fn of(parts: &[(Range, usize)]) -> Result<Self> {
        let count = u32::try_from(parts.len()).map_err(|_| misfit())?;
        let Some((first, mark)) = parts.first() else { return Ok(Self::None) };
        let one_mark = parts.iter().all(|(_, other)| other == mark);
        match first {
            Range::Whole if count == 1 => Ok(Self::One(*mark)),
            Range::Blocks { of, .. } if one_mark => {
                let all_blocks =
                    parts.iter().all(|(range, _)| matches!(range, Range::Blocks { of: o, .. } if o == of));
                match (all_blocks, count.cmp(of)) {
                    (true, std::cmp::Ordering::Equal) => Ok(Self::One(*mark)),
                    (true, std::cmp::Ordering::Less) => Ok(Self::Some(*mark)),
                    _ => Err(misfit()),
                }
            }
            Range::Keys { order, .. } => {
                let order = *order;
                let mut ranges = Vec::with_capacity(parts.len());
                for (range, mark) in parts {
                    let Range::Keys { order: o, from, to } = range else { return Err(misfit()) };
                    if *o != order {
                        return Err(misfit());
                    }
                    let own = |text: &Option<String>| {
                        Ok::<_, Error>(bound(order, text.as_ref())?.map(OrderedKey::into_owned))
                    };
                    ranges.push(KeyRange { from: own(from)?, to: own(to)?, mark: *mark });
                }
                ranges.sort_by(|a, b| a.from.cmp(&b.from));
                let apart = ranges.windows(2).all(|pair| pair[0].to.is_some() && pair[0].to <= pair[1].from);
                if apart { Ok(Self::Keys(order, ranges)) } else { Err(misfit()) }
            }
            Range::Whole | Range::Blocks { .. } | Range::Rows { .. } | Range::Leaf { .. } => Err(misfit()),
        }
    }

    fn of_leaves(parts: &[(Range, usize)]) -> Result<Self> {
        let mark = |(range, mark): &(Range, usize)| match range {
            Range::Leaf { .. } => Ok(*mark),
            _ => Err(misfit()),
        };
        parts.iter().map(mark).collect::<Result<_>>().map(Self::Leaves)
    }
}

fn misfit() -> Error {
    Error::conflict("the chunks of its ledger do not go together")
        .with_remedy("start the table's snapshot anew: drop the pipeline and run it again")
}

/// The mark of the range that holds a key.
fn find(ranges: &[KeyRange], key: &OrderedKey<'_>) -> Option<usize> {
    let after = ranges.partition_point(|range| range.from.as_ref().is_none_or(|from| from <= key));
    let range = &ranges[after.checked_sub(1)?];
    range.to.as_ref().is_none_or(|to| key < to).then_some(range.mark)
}

impl Rereads {
    fn add(&mut self, form: String, keys: &[String], mark: usize) -> Result<()> {
        if self.form.as_ref().is_some_and(|known| *known != form) {
            return Err(other_form());
        }
        self.form = Some(form);
        self.marks.extend(row_keys(keys)?.into_iter().map(|key| (key, mark)));
        Ok(())
    }
}

fn other_form() -> Error {
    Error::conflict("keys were carried in another form when they were read again")
        .with_remedy("start the table's snapshot anew: drop the pipeline and run it again")
}

impl CutPlan for Cutter {
    fn judge(&self, batch: &ChangeBatch, transactions: &[Transaction]) -> Result<Vec<Cut>> {
        self.judge_all(batch, transactions).map_err(|error| error.with_table(&self.table.id))
    }
}

impl Cutter {
    /// Shape and carriage are those of the batch: it may have waited in the journal since before a restart.
    fn judge_all(&self, batch: &ChangeBatch, transactions: &[Transaction]) -> Result<Vec<Cut>> {
        let table = &batch.table;
        if self.rereads.form.as_ref().is_some_and(|form| *form != key_form(table)) {
            return Err(other_form());
        }
        let carriage = table.row_key.first().map(|&column| table.columns[column].carriage);
        let columns: Vec<ArrayRef> = table.row_key.iter().map(|&c| batch.rows.column(c).clone()).collect();
        let new_keys = Keys { columns: &columns, carriage };
        let old_columns = batch.old.as_ref().map(|old| old.keys.columns()).unwrap_or_default();
        let old_keys = Keys { columns: old_columns, carriage };
        let mut cuts = Vec::with_capacity(batch.len());
        for (row, operation) in batch.operations.iter().enumerate() {
            let transaction = transactions
                .get(batch.transactions[row] as usize)
                .ok_or_else(|| Error::bug("a change names a transaction that its entry does not list"))?
                .id;
            if *operation == Operation::Truncate {
                let verdict = self.over_all(transaction);
                cuts.push(Cut { new: verdict, old: verdict });
                continue;
            }
            let new = self.over(&new_keys, row, transaction)?;
            let old = match batch.old_row(row) {
                Some(old_row) if table.has_row_key() => self.over(&old_keys, old_row, transaction)?,
                _ => new,
            };
            cuts.push(Cut { new, old });
        }
        Ok(cuts)
    }
}

#[cfg(test)]
mod tests;
