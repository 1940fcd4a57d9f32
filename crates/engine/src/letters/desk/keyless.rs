//! Letters of a table without a row key: rows are told apart by their values alone.
//!
//! A letter is an insert, an update with the row that the destination still has, or a delete of that row. A later change names
//! its row by all its values; if that is the row of a letter, the change goes into the letter. Of equal rows one is as good
//! as the other, so it does not matter whether a change takes the one that waits or one that is there.

use std::hash::{DefaultHasher, Hash, Hasher};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_select::interleave::interleave;
use syncline_core::key::append_key;
use syncline_core::{ChangeBatch, Error, LetterId, OldKeys, Operation, Result};

use super::{Desk, Standing, TakenUp};
use crate::cut::Decision;
use crate::letters::lines::pick;
use crate::restoring;

impl Desk {
    /// Lets changes go into the letters of their rows; says which are left.
    pub(super) fn take_up_by_value(
        &mut self,
        batch: &ChangeBatch,
        decisions: Option<&[Decision]>,
    ) -> Result<TakenUp> {
        self.require_shape(&batch.table)?;
        let mut kept = Vec::with_capacity(batch.len());
        for row in 0..batch.len() {
            let is_skipped = decisions.is_some_and(|decisions| decisions[row] == Decision::Skip);
            if is_skipped || !self.goes_into_a_letter(batch, row)? {
                kept.push(row);
            }
        }
        Ok(TakenUp { letters: Vec::new(), kept: (kept.len() < batch.len()).then_some(kept) })
    }

    fn goes_into_a_letter(&mut self, batch: &ChangeBatch, row: usize) -> Result<bool> {
        let before = match batch.operations[row] {
            Operation::Insert | Operation::Upsert => return Ok(false),
            Operation::Truncate => {
                self.supersede_all();
                return Ok(false);
            }
            Operation::Delete => batch.rows.slice(row, 1),
            Operation::Update => match (&batch.old, batch.old_row(row)) {
                (Some(old), Some(place)) => old.keys.slice(place, 1),
                _ => return Ok(false),
            },
        };
        let Some(id) = self.letter_of(&before)? else { return Ok(false) };
        self.follow(id, batch, row)?;
        Ok(true)
    }

    /// The first letter that has this row, however many letters there are.
    fn letter_of(&self, row: &RecordBatch) -> Result<Option<LetterId>> {
        for id in self.by_row.get(&hash(row)).into_iter().flatten() {
            if let Some(aside) = self.asides.get(id)
                && wanted(&aside.line)?.is_some_and(|wanted| wanted.columns() == row.columns())
            {
                return Ok(Some(*id));
            }
        }
        Ok(None)
    }

    /// A change of the row that a letter holds.
    fn follow(&mut self, id: LetterId, batch: &ChangeBatch, row: usize) -> Result<()> {
        let Some(aside) = self.lift(id) else { return Ok(()) };
        if self.found.contains(&id) {
            self.taken_up.insert(id);
        }
        self.superseded += 1;
        if let Some(line) = followed(&aside.line, batch, row)? {
            // It is tried again at the end of the load.
            self.lay(id, line, aside.keys, aside.note, Standing::Refused)?;
        } else {
            self.superseded += 1;
        }
        Ok(())
    }
}

/// A hash of the row that the source has of a letter; `None` if it has none, or if rows have a key.
pub(super) fn hash_of(line: &ChangeBatch) -> Result<Option<u64>> {
    if line.table.has_row_key() {
        return Ok(None);
    }
    Ok(wanted(line)?.map(|row| hash(&row)))
}

/// Equal rows have equal hashes. A column that has no form as a key (floating point) does not go in; rows are compared after.
fn hash(row: &RecordBatch) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut bytes = Vec::new();
    for column in row.columns() {
        bytes.clear();
        if append_key(std::slice::from_ref(column), 0, &mut bytes).is_ok() {
            bytes.hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// The row as the source has it, all of it; `None` if the source has none.
fn wanted(line: &ChangeBatch) -> Result<Option<RecordBatch>> {
    if line.operations.first() == Some(&Operation::Delete) {
        return Ok(None);
    }
    whole(line).map(Some)
}

/// A row with what it leaves out taken from what it was before.
fn whole(line: &ChangeBatch) -> Result<RecordBatch> {
    let (Some(mask), Some(old), Some(place)) = (line.mask(0), &line.old, line.old_row(0)) else {
        return Ok(line.rows.clone());
    };
    let mut columns = Vec::with_capacity(line.rows.num_columns());
    for (column, carried) in line.rows.columns().iter().enumerate() {
        let from = if mask.contains(column) { (old.keys.column(column), place) } else { (carried, 0) };
        columns.push(interleave(&[from.0.as_ref()], &[(0, from.1)]).map_err(not_formed)?);
    }
    RecordBatch::try_new(line.table.arrow(), columns).map_err(not_formed)
}

/// What a letter becomes by a change of its row; `None` if nothing is left of it.
fn followed(letter: &ChangeBatch, change: &ChangeBatch, row: usize) -> Result<Option<ChangeBatch>> {
    let is_delete = change.operations[row] == Operation::Delete;
    let at_destination = letter.old.as_ref().zip(letter.old_row(0));
    if is_delete {
        return at_destination
            .map(|(old, place)| {
                let columns: Vec<ArrayRef> = old.keys.slice(place, 1).columns().to_vec();
                let row = RecordBatch::try_new(letter.table.arrow(), columns).map_err(not_formed)?;
                restoring::of(&letter.table, row, vec![Operation::Delete])
            })
            .transpose();
    }
    let row = whole(&pick(change, &[row])?)?;
    let Some((old, place)) = at_destination else {
        return restoring::of(&letter.table, row, vec![Operation::Insert]).map(Some);
    };
    let old = OldKeys { row: vec![Some(0)], keys: old.keys.slice(place, 1) };
    let update = restoring::of(&letter.table, row, vec![Operation::Insert])?;
    ChangeBatch { operations: vec![Operation::Update], old: Some(old), ..update }.check().map(Some)
}

fn not_formed(error: arrow_schema::ArrowError) -> Error {
    Error::bug("the row of a dead letter cannot be formed").with_source(error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::BinaryArray;
    use syncline_core::{Carriage, Column, DataType, TableId, TableSchema};

    use super::*;
    use crate::collapse::Lines;
    use crate::letters::sift::Refusal;

    fn lines(values: std::ops::Range<u32>, operation: Operation) -> Lines {
        let column = Column {
            name: "v".into(),
            data_type: DataType::Bytes,
            nullable: true,
            native_type: "bytes".into(),
            carriage: Carriage::Native,
        };
        let table = Arc::new(TableSchema {
            id: TableId::new("s", "t"),
            columns: vec![column],
            row_key: Vec::new(),
            version: 1,
            rows_estimated: None,
            native: None,
        });
        let count = values.len();
        let bytes = values.map(|value| Some(value.to_be_bytes())).collect::<BinaryArray>();
        let rows = RecordBatch::try_new(table.arrow(), vec![Arc::new(bytes)]).unwrap();
        let batch = restoring::of(&table, rows, vec![operation; count]).unwrap();
        Lines { batch, letters: vec![None; count] }
    }

    #[test]
    fn a_letter_is_found_by_its_row_without_a_look_at_the_others() {
        let (lines, id) = (lines(0..500, Operation::Insert), TableId::new("s", "t"));
        let mut desk = Desk::open(&id, []).unwrap();
        let refusal = Refusal { reason: "refused".into(), code: None };
        let refused = (0..500).map(|row| (row, refusal.clone())).collect();
        let next = std::cell::Cell::new(0);
        let number = || LetterId(next.replace(next.get() + 1));
        desk.put_refused(&lines, refused, &syncline_core::Position::default(), &number).unwrap();
        assert_eq!((desk.asides.len(), desk.by_row.len()), (500, 500));
        let deletes = self::lines(100..600, Operation::Delete).batch;
        let taken = desk.take_up(&deletes, None).unwrap();
        assert_eq!(taken.kept, Some((400..500).collect::<Vec<usize>>()));
        assert_eq!((desk.asides.len(), desk.by_row.len()), (100, 100));
        desk.supersede_all();
        assert!(desk.asides.is_empty() && desk.by_row.is_empty());
    }
}
