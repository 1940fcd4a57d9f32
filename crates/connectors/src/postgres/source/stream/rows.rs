//! Changes of one table being gathered into a [`ChangeBatch`].
//!
//! What an update carries beyond its new row depends on the table's row key:
//!
//! | row key | old row sent | old image kept |
//! |---|---|---|
//! | yes | none, or one with the same key | none |
//! | yes | one with another key | the old key |
//! | none | the whole row (REPLICA IDENTITY FULL) | the whole row |
//!
//! An unchanged TOAST value is taken from the old row where that was sent, and masked otherwise. In a key column it is
//! never masked: without the old row the change cannot be identified, and the table stops.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use syncline_core::{ChangeBatch, ColumnMask, Error, Masks, OldKeys, Operation, Result, TableSchema};

use super::column::{ColumnBuilder, Refused};
use super::pgoutput::{Malformed, OldTuple, Tuple, Value};

/// Why a change cannot be taken.
#[derive(Debug)]
pub(super) enum Reject {
    /// The bytes are no change: the stream ends.
    Malformed(Malformed),
    /// The change does not fit the table as it is known: the table stops.
    Unfit(&'static str),
    /// A value does not fit its column: the table stops.
    Value(Error),
    /// Anything else ends the stream.
    Broken(Error),
}

impl From<Malformed> for Reject {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

const NO_OLD_ROW: Reject =
    Reject::Unfit("a change came without the old row that a table without a row key needs");
const KEY_NOT_SENT: Reject = Reject::Unfit("a change came without the columns of the row key");
const KEY_UNCHANGED: Reject =
    Reject::Unfit("an update left out a row key value that is stored out of line, so its row cannot be told");
const OTHER_FORM: Reject = Reject::Unfit("a value came in another form (binary, text) than was asked for");
const TOO_LARGE: Reject = Reject::Unfit("one column's changes exceed 2 GiB");

impl From<Refused> for Reject {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::OtherForm => OTHER_FORM,
            Refused::Full => TOO_LARGE,
            Refused::Unfit(error) => Self::Value(error),
        }
    }
}

/// Place of a change: in the log, and in the list of its entry's transactions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) ordinal: u64,
    pub(super) transaction: u32,
}

/// Changes of one table.
pub(super) struct TableRows {
    table: Arc<TableSchema>,
    arrow: SchemaRef,
    is_key: Vec<bool>,
    /// For each column its place in an old image.
    old_place: Vec<Option<usize>>,
    columns: Vec<ColumnBuilder>,
    operations: Vec<Operation>,
    ordinals: Vec<u64>,
    transactions: Vec<u32>,
    masks: Option<Masks>,
    old: Option<OldImages>,
}

/// Old images of some of the rows; made when the first one comes.
struct OldImages {
    row: Vec<Option<u32>>,
    columns: Vec<ColumnBuilder>,
    count: u32,
}

impl TableRows {
    /// # Errors
    /// A bug if a column has a type that this source never gives.
    pub(super) fn new(table: Arc<TableSchema>) -> Result<Self> {
        let columns = table.columns.iter().map(ColumnBuilder::of);
        let columns = columns.collect::<Result<_>>().map_err(|error: Error| error.with_table(&table.id))?;
        let old_columns = table.old_columns();
        let old_place = |column| old_columns.iter().position(|&old| old == column);
        Ok(Self {
            arrow: table.arrow(),
            is_key: (0..table.columns.len()).map(|column| table.row_key.contains(&column)).collect(),
            old_place: (0..table.columns.len()).map(old_place).collect(),
            columns,
            operations: Vec::new(),
            ordinals: Vec::new(),
            transactions: Vec::new(),
            masks: None,
            old: None,
            table,
        })
    }

    pub(super) fn table(&self) -> &Arc<TableSchema> {
        &self.table
    }

    pub(super) fn len(&self) -> usize {
        self.operations.len()
    }

    /// Appends an insert. After an error the row may be half there: [`TableRows::truncate`].
    #[inline]
    pub(super) fn insert(&mut self, new: Tuple<'_>, place: Place) -> Result<(), Reject> {
        let mut values = new.values();
        for column in &mut self.columns {
            let value = values.value()?;
            if value == Value::Unchanged {
                return Err(Malformed("an insert that leaves out a value").into());
            }
            column.append(value)?;
        }
        values.end()?;
        self.row(Operation::Insert, place, None, None)
    }

    /// Appends an update.
    pub(super) fn update(
        &mut self,
        old: Option<OldTuple<'_>>,
        new: Tuple<'_>,
        place: Place,
    ) -> Result<(), Reject> {
        match old {
            _ if !self.table.has_row_key() => {
                let Some(OldTuple::Full(old)) = old else { return Err(NO_OLD_ROW) };
                let mask = self.fill(old, new)?.mask;
                self.row(Operation::Update, place, mask, Some(old))
            }
            None => {
                let mask = self.fill_alone(new)?;
                self.row(Operation::Update, place, mask, None)
            }
            Some(OldTuple::Full(old)) => {
                let filled = self.fill(old, new)?;
                self.row(Operation::Update, place, filled.mask, filled.moved.then_some(old))
            }
            Some(OldTuple::Key(old)) => {
                let filled = self.fill_beside_key(old, new)?;
                self.row(Operation::Update, place, filled.mask, filled.moved.then_some(old))
            }
        }
    }

    /// Appends a delete.
    pub(super) fn delete(&mut self, old: OldTuple<'_>, place: Place) -> Result<(), Reject> {
        let keyed = self.table.has_row_key();
        let tuple = match old {
            OldTuple::Key(_) if !keyed => return Err(NO_OLD_ROW),
            OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple,
        };
        let mut values = tuple.values();
        for (column, &is_key) in self.columns.iter_mut().zip(&self.is_key) {
            let value = values.value()?;
            match value {
                Value::Null | Value::Unchanged if is_key => return Err(KEY_NOT_SENT),
                Value::Unchanged if !keyed => return Err(NO_OLD_ROW),
                _ if is_key || !keyed => column.append(value)?,
                _ => column.append_null()?,
            }
        }
        values.end()?;
        self.row(Operation::Delete, place, None, None)
    }

    /// Appends a truncate.
    pub(super) fn clear(&mut self, place: Place) -> Result<(), Reject> {
        self.columns.iter_mut().try_for_each(ColumnBuilder::append_null)?;
        self.row(Operation::Truncate, place, None, None)
    }

    /// The new row of an update without an old one.
    #[inline]
    fn fill_alone(&mut self, new: Tuple<'_>) -> Result<Option<ColumnMask>, Reject> {
        let mut values = new.values();
        let mut mask = None;
        for (index, column) in self.columns.iter_mut().enumerate() {
            let value = values.value()?;
            if value == Value::Unchanged {
                if self.is_key[index] {
                    return Err(KEY_UNCHANGED);
                }
                mask.get_or_insert_with(ColumnMask::none).insert(index);
            }
            column.append(value)?;
        }
        values.end()?;
        Ok(mask)
    }

    /// The new row of an update whose whole old row was sent.
    fn fill(&mut self, old: Tuple<'_>, new: Tuple<'_>) -> Result<Filled, Reject> {
        self.fill_by(old, new, |_| true)
    }

    /// The new row of an update of which only the old key was sent: null elsewhere means "not sent".
    fn fill_beside_key(&mut self, old: Tuple<'_>, new: Tuple<'_>) -> Result<Filled, Reject> {
        self.fill_by(old, new, |is_key| is_key)
    }

    #[inline]
    fn fill_by(
        &mut self,
        old: Tuple<'_>,
        new: Tuple<'_>,
        was_sent: impl Fn(bool) -> bool,
    ) -> Result<Filled, Reject> {
        let (mut old, mut new) = (old.values(), new.values());
        let mut filled = Filled { mask: None, moved: false };
        for (index, column) in self.columns.iter_mut().enumerate() {
            let is_key = self.is_key[index];
            let (before, mut after) = (old.value()?, new.value()?);
            if is_key && matches!(before, Value::Null | Value::Unchanged) {
                return Err(KEY_NOT_SENT);
            }
            if after == Value::Unchanged {
                if was_sent(is_key) && before != Value::Unchanged {
                    after = before;
                } else {
                    filled.mask.get_or_insert_with(ColumnMask::none).insert(index);
                }
            }
            filled.moved |= is_key && before != after;
            column.append(after)?;
        }
        old.end()?;
        new.end()?;
        Ok(filled)
    }

    /// Completes a row whose columns are appended. `old`: its old image, if it keeps one.
    #[inline]
    fn row(
        &mut self,
        operation: Operation,
        place: Place,
        mask: Option<ColumnMask>,
        old: Option<Tuple<'_>>,
    ) -> Result<(), Reject> {
        if let Some(mask) = mask {
            let complete = self.operations.len();
            self.masks.get_or_insert_with(|| Masks { of_row: vec![0; complete], ..Masks::new() }).push(&mask);
        } else if let Some(masks) = &mut self.masks {
            masks.of_row.push(0);
        }
        if let Some(old) = old {
            self.push_old(old)?;
        } else if let Some(images) = &mut self.old {
            images.row.push(None);
        }
        self.operations.push(operation);
        self.ordinals.push(place.ordinal);
        self.transactions.push(place.transaction);
        Ok(())
    }

    fn push_old(&mut self, old: Tuple<'_>) -> Result<(), Reject> {
        let images = match &mut self.old {
            Some(images) => images,
            none => {
                let images = OldImages::new(&self.table, self.operations.len());
                none.insert(images.map_err(Reject::Broken)?)
            }
        };
        let mut values = old.values();
        for place in &self.old_place {
            let value = values.value()?;
            if let Some(place) = place {
                images.columns[*place].append(value)?;
            }
        }
        images.row.push(Some(images.count));
        images.count += 1;
        Ok(())
    }

    /// Forgets what comes after the first `rows` changes, and what is half there.
    ///
    /// # Errors
    /// A bug in a column.
    pub(super) fn truncate(&mut self, rows: usize) -> Result<()> {
        self.columns.iter_mut().try_for_each(|column| column.truncate(rows))?;
        self.operations.truncate(rows);
        self.ordinals.truncate(rows);
        self.transactions.truncate(rows);
        if let Some(masks) = &mut self.masks {
            masks.of_row.truncate(rows);
        }
        if let Some(images) = &mut self.old {
            images.row.truncate(rows);
            images.count = images.row.iter().flatten().last().map_or(0, |last| last + 1);
            let count = images.count as usize;
            images.columns.iter_mut().try_for_each(|column| column.truncate(count))?;
        }
        Ok(())
    }

    /// The batch of everything gathered; nothing is left afterwards.
    pub(super) fn finish(&mut self) -> Result<ChangeBatch> {
        let old = self.old.take().map(|images| images.finish(&self.table)).transpose()?;
        let rows = batch(&self.arrow, &mut self.columns, self.operations.len(), &self.table)?;
        let batch = ChangeBatch {
            table: self.table.clone(),
            rows,
            operations: std::mem::take(&mut self.operations),
            ordinals: std::mem::take(&mut self.ordinals),
            transactions: std::mem::take(&mut self.transactions),
            masks: self.masks.take(),
            old,
        };
        batch.check()
    }
}

/// What became of a new row.
struct Filled {
    mask: Option<ColumnMask>,
    /// Whether the row has another key than before.
    moved: bool,
}

impl OldImages {
    fn new(table: &TableSchema, rows: usize) -> Result<Self> {
        let column = |index: usize| ColumnBuilder::of(&table.columns[index]);
        let columns = table.old_columns().into_iter().map(column).collect::<Result<_>>()?;
        Ok(Self { row: vec![None; rows], columns, count: 0 })
    }

    fn finish(mut self, table: &TableSchema) -> Result<OldKeys> {
        let rows = self.count as usize;
        Ok(OldKeys { keys: batch(&table.arrow_old(), &mut self.columns, rows, table)?, row: self.row })
    }
}

fn batch(
    schema: &SchemaRef,
    columns: &mut [ColumnBuilder],
    rows: usize,
    table: &TableSchema,
) -> Result<RecordBatch> {
    let arrays = columns.iter_mut().map(ColumnBuilder::finish).collect::<Result<_>>()?;
    // A table may have no column at all.
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), arrays, &options).map_err(|error| {
        Error::bug("columns do not fit their table").with_source(error).with_table(&table.id)
    })
}

/// Cuts a batch in two: the first `rows` changes, and the others as changes of the transaction that is number 0.
pub(super) fn split(batch: ChangeBatch, rows: usize) -> (ChangeBatch, ChangeBatch) {
    let mut head = batch.clone();
    let mut tail = batch;
    head.rows = head.rows.slice(0, rows);
    head.operations.truncate(rows);
    head.ordinals.truncate(rows);
    head.transactions.truncate(rows);
    head.masks.iter_mut().for_each(|masks| masks.of_row.truncate(rows));
    head.old.iter_mut().for_each(|old| old.row.truncate(rows));
    tail.rows = tail.rows.slice(rows, tail.rows.num_rows() - rows);
    tail.operations.drain(..rows);
    tail.ordinals.drain(..rows);
    tail.transactions.drain(..rows);
    tail.transactions.fill(0);
    tail.masks.iter_mut().for_each(|masks| drop(masks.of_row.drain(..rows)));
    tail.old.iter_mut().for_each(|old| drop(old.row.drain(..rows)));
    (head, tail)
}

#[cfg(test)]
mod tests;
