//! Letters of a table without a row key: rows are told apart by their values alone.
//!
//! A letter is an insert, an update with the row that the destination still has, or a delete of that row. A later change names
//! its row by all its values; if that is the row of a letter, the change goes into the letter. Of equal rows one is as good
//! as the other, so it does not matter whether a change takes the one that waits or one that is there.

use arrow_array::{ArrayRef, RecordBatch};
use arrow_select::interleave::interleave;
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
        let mut found = None;
        for (&id, aside) in &self.asides {
            if wanted(&aside.line)?.is_some_and(|row| row.columns() == before.columns()) {
                found = Some(id);
                break;
            }
        }
        let Some(id) = found else { return Ok(false) };
        self.follow(id, batch, row)?;
        Ok(true)
    }

    /// A change of the row that a letter holds.
    fn follow(&mut self, id: LetterId, batch: &ChangeBatch, row: usize) -> Result<()> {
        let Some(mut aside) = self.asides.remove(&id) else { return Ok(()) };
        if self.found.contains(&id) {
            self.taken_up.insert(id);
        }
        self.superseded += 1;
        if let Some(line) = followed(&aside.line, batch, row)? {
            aside.line = line;
            // It is tried again at the end of the load.
            aside.standing = Standing::Refused;
            self.asides.insert(id, aside);
        } else {
            self.superseded += 1;
        }
        Ok(())
    }
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
