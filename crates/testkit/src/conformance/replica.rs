//! What the standard tables would be if the events of a source were applied one by one: a plain model, so that what the
//! engine does in sets and loads is not needed to judge a connector.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use syncline_core::{ChangeBatch, Column, Cut, Entry, Operation, RowKey, TableSchema, Verdict};

use super::source::SourceOffers;
use super::tables::{Cell, Row, Standard, Tables};

/// How a family writes a value in its carried form. It shares nothing with the connector.
pub trait Decode: Send + Sync {
    /// The value at `row` as text, in the same form the harness reads it from the database.
    fn decode(&self, column: &Column, array: &ArrayRef, row: usize) -> Cell;
}

/// The rows of a batch as text.
pub(crate) fn decode_rows(decode: &dyn Decode, columns: &[&Column], batch: &RecordBatch) -> Vec<Row> {
    let row = |row: usize| {
        columns.iter().zip(batch.columns()).map(|(column, array)| decode.decode(column, array, row)).collect()
    };
    (0..batch.num_rows()).map(row).collect()
}

/// The rows of full images as text.
pub(crate) fn decode_full(decode: &dyn Decode, table: &TableSchema, batch: &RecordBatch) -> Vec<Row> {
    decode_rows(decode, &table.columns.iter().collect::<Vec<_>>(), batch)
}

/// Which standard table a schema is.
pub(crate) fn standard(table: &TableSchema) -> Standard {
    let found = Standard::ALL.into_iter().find(|standard| standard.name() == table.id.name);
    found.unwrap_or_else(|| panic!("{} is not a standard table", table.id))
}

/// The model.
pub(crate) struct Replica<'a> {
    pub(crate) tables: Tables,
    /// Keys whose row could not be completed and must be read again, with their bytes.
    pub(crate) rereads: BTreeMap<(Standard, Row), RowKey>,
    decode: &'a dyn Decode,
    /// Whether a deleted row must have been there.
    every_change: bool,
}

impl<'a> Replica<'a> {
    pub(crate) fn new(decode: &'a dyn Decode, offers: SourceOffers) -> Self {
        Self::of(decode, offers, Tables::default())
    }

    pub(crate) fn of(decode: &'a dyn Decode, offers: SourceOffers, tables: Tables) -> Self {
        Self { tables, rereads: BTreeMap::new(), decode, every_change: offers.every_change }
    }

    /// Loads rows of a chunk: none of their keys is there.
    pub(crate) fn load(&mut self, table: &TableSchema, rows: &RecordBatch) {
        for row in decode_full(self.decode, table, rows) {
            self.tables.insert(standard(table), row);
        }
    }

    /// Applies everything in an entry.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        self.apply_cut(entry, &mut |batch| {
            vec![Cut { new: Verdict::Apply, old: Verdict::Apply }; batch.len()]
        });
    }

    /// Applies what a judge lets through.
    pub(crate) fn apply_cut(&mut self, entry: &Entry, judge: &mut dyn FnMut(&ChangeBatch) -> Vec<Cut>) {
        let mut changes = Vec::new();
        let decoded: Vec<Decoded<'_>> =
            entry.batches.iter().map(|batch| Decoded::new(self.decode, batch, judge(batch))).collect();
        for (number, decoded) in decoded.iter().enumerate() {
            changes.extend(decoded.batch.ordinals.iter().enumerate().map(|(row, at)| (*at, number, row)));
        }
        changes.sort_unstable();
        for (_, number, row) in changes {
            self.change(&decoded[number], row);
        }
    }

    fn change(&mut self, decoded: &Decoded<'_>, row: usize) {
        let table = decoded.table;
        let image = &decoded.rows[row];
        let cut = decoded.cuts[row];
        assert_ne!(cut.new, Verdict::Unread, "a change of {} whose chunk is not loaded", table.name());
        assert_ne!(cut.old, Verdict::Unread, "a change of {} whose chunk is not loaded", table.name());
        match decoded.batch.operations[row] {
            Operation::Truncate if cut.new == Verdict::Apply => self.tables.clear(table),
            Operation::Delete if cut.new == Verdict::Apply => self.delete(table, &table.identity(image)),
            Operation::Insert if cut.new == Verdict::Apply => self.insert(table, image.clone()),
            Operation::Upsert if cut.new == Verdict::Apply => self.tables.put(table, image.clone()),
            Operation::Update => self.update(decoded, row, cut),
            _ => {}
        }
    }

    fn insert(&mut self, table: Standard, row: Row) {
        if self.rereads.contains_key(&(table, table.identity(&row))) {
            self.tables.put(table, row);
        } else {
            self.tables.insert(table, row);
        }
    }

    fn delete(&mut self, table: Standard, identity: &Row) {
        let gone = self.tables.remove(table, identity).is_some();
        let awaited = !self.every_change || self.rereads.contains_key(&(table, identity.clone()));
        assert!(gone || awaited, "{} has no such row to delete: {identity:?}", table.name());
    }

    fn update(&mut self, decoded: &Decoded<'_>, row: usize, cut: Cut) {
        let table = decoded.table;
        let mut image = decoded.rows[row].clone();
        let new = table.identity(&image);
        let old = decoded.old_identity(row).unwrap_or_else(|| new.clone());
        let before = (cut.old == Verdict::Apply).then(|| self.tables.remove(table, &old)).flatten();
        let awaited = self.rereads.contains_key(&(table, old.clone()));
        let found = before.is_some() || awaited || cut.old != Verdict::Apply;
        assert!(found, "{} has no such row to update: {old:?}", table.name());
        if cut.new != Verdict::Apply {
            return;
        }
        let mask = decoded.batch.mask(row);
        match (mask, before) {
            (None, _) => self.insert(table, image),
            (Some(mask), Some(before)) => {
                for column in mask.iter() {
                    image[column].clone_from(&before[column]);
                }
                self.insert(table, image);
            }
            (Some(_), None) => {
                self.rereads.insert((table, new), decoded.key(row));
            }
        }
    }
}

/// A batch as text, with its verdicts.
struct Decoded<'a> {
    batch: &'a ChangeBatch,
    table: Standard,
    rows: Vec<Row>,
    old: Vec<Row>,
    cuts: Vec<Cut>,
}

impl<'a> Decoded<'a> {
    fn new(decode: &dyn Decode, batch: &'a ChangeBatch, cuts: Vec<Cut>) -> Self {
        let columns: Vec<&Column> =
            batch.table.old_columns().into_iter().map(|column| &batch.table.columns[column]).collect();
        let old = batch.old.as_ref().map(|old| decode_rows(decode, &columns, &old.keys));
        assert_eq!(cuts.len(), batch.len(), "one verdict for each change");
        Self {
            batch,
            table: standard(&batch.table),
            rows: decode_full(decode, &batch.table, &batch.rows),
            old: old.unwrap_or_default(),
            cuts,
        }
    }

    fn old_identity(&self, row: usize) -> Option<Row> {
        self.batch.old_row(row).map(|at| self.old[at].clone())
    }

    fn key(&self, row: usize) -> RowKey {
        let table = &self.batch.table;
        let columns: Vec<ArrayRef> =
            table.row_key.iter().map(|&column| Arc::clone(self.batch.rows.column(column))).collect();
        RowKey::of(&columns, row).unwrap_or_else(|error| panic!("{error}"))
    }
}
