//! The letters of all tables in one load: taken up by its changes, set aside by what the destination refuses, and never more
//! than may be, however many loads set rows aside at the same time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::RecordBatch;
use syncline_core::{
    Change, ChangeBatch, Error, Load, Operation, Part, Position, Result, TableId, TableSchema,
};

use super::desk::{Desk, TakenUp};
use super::{LETTERS_BYTES_MAX, reconsider_all, sift, too_large, too_many};
use crate::attempt::Attempt;
use crate::collapse::Lines;
use crate::cut::Decision;
use crate::restoring;

/// What loads that are open are about to do to the letters of the checkpoint.
#[derive(Default)]
pub(crate) struct Pending {
    loads: u64,
    added: BTreeMap<u64, Size>,
}

impl Pending {
    /// What there will be if every open load commits as it is so far. What another load takes up gives no room before that is
    /// committed.
    fn after(&self, number: u64, before: Size) -> Size {
        let mut after = before;
        for (&other, &added) in &self.added {
            let room = if other == number { i64::MIN } else { 0 };
            after += Size { letters: added.letters.max(room), bytes: added.bytes.max(room) };
        }
        after
    }
}

/// Letters and their bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    letters: i64,
    bytes: i64,
}

impl std::ops::AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.letters += other.letters;
        self.bytes += other.bytes;
    }
}

/// The letters of one load.
pub(crate) struct Clerk {
    attempt: Arc<Attempt>,
    /// Its number among the open loads.
    number: u64,
    desks: BTreeMap<TableId, Desk>,
    /// Where a letter stands that it sets aside.
    position: Position,
}

/// What a load did with letters.
#[derive(Default)]
pub(crate) struct Settled {
    /// Changes of the checkpoint.
    pub(crate) changes: Vec<Change>,
    /// Letters of earlier loads that were taken up.
    pub(crate) taken_up: u64,
    /// Letters that the load set aside.
    pub(crate) set_aside: u64,
    /// Letters and changes that nothing is left of.
    pub(crate) superseded: u64,
    /// Rows that were refused at first and are written.
    pub(crate) written: u64,
}

impl Clerk {
    /// `position`: where the load ends.
    pub(crate) fn new(attempt: &Arc<Attempt>, position: Position) -> Self {
        let number = {
            let mut pending = pending(attempt);
            pending.loads += 1;
            pending.loads
        };
        Self { attempt: Arc::clone(attempt), number, desks: BTreeMap::new(), position }
    }

    /// Takes up the letters that changes are about.
    ///
    /// # Errors
    /// As [`Desk::take_up`].
    pub(crate) fn take_up(&mut self, batch: &ChangeBatch, decisions: Option<&[Decision]>) -> Result<TakenUp> {
        let id = &batch.table.id;
        if !self.desks.contains_key(id) {
            let Some(desk) = self.attempt.desk(id)? else { return Ok(TakenUp::default()) };
            self.desks.insert(id.clone(), desk);
        }
        self.desk(id)?.take_up(batch, decisions)
    }

    /// Sets rows aside behind the letters they descend from.
    ///
    /// # Errors
    /// Of kind `DeadLetters` if they are too many.
    pub(crate) fn put_behind(&mut self, table: &TableId, lines: &Lines) -> Result<()> {
        let (attempt, position) = (Arc::clone(&self.attempt), self.position.clone());
        self.desk(table)?.put_behind(lines, &position, &|| attempt.next_letter())?;
        self.require_room(table, None)
    }

    /// Writes what can be written of a part, and sets the rest aside; the number of rows that are written.
    ///
    /// # Errors
    /// As [`sift::sift`]; of kind `DeadLetters` if too much is refused.
    pub(crate) async fn sift(&mut self, load: &mut dyn Load, table: &TableId, lines: &Lines) -> Result<u64> {
        if !lines.batch.table.has_row_key() {
            return self.sift_in_order(load, table, lines).await;
        }
        let sifted = sift::sift(load, lines, self.room()).await?;
        let last = sifted.refused.last().map(|(_, refusal)| refusal.reason.clone());
        let (attempt, position) = (Arc::clone(&self.attempt), self.position.clone());
        self.desk(table)?.put_refused(lines, sifted.refused, &position, &|| attempt.next_letter())?;
        self.require_room(table, last.as_deref())?;
        Ok(sifted.written)
    }

    /// Without a key rows are told apart by their values, and each change is about what those before it have left: what is
    /// refused is a letter before the next change is looked at.
    async fn sift_in_order(&mut self, load: &mut dyn Load, table: &TableId, lines: &Lines) -> Result<u64> {
        let mut written = 0;
        let mut open = vec![(0..lines.batch.len()).collect::<Vec<usize>>()];
        while let Some(rows) = open.pop() {
            let part = sift::picked(lines, &rows)?;
            let kept = match self.desk(table)?.take_up(&part.batch, None)?.kept {
                Some(kept) => kept.into_iter().map(|place| rows[place]).collect(),
                None => rows,
            };
            if kept.is_empty() {
                continue;
            }
            let part = sift::picked(lines, &kept)?;
            let Some(error) = load.offer(Part::Changes(part.batch.clone())).await? else {
                written += kept.len() as u64;
                continue;
            };
            if kept.len() > 1 {
                let (left, right) = kept.split_at(kept.len() / 2);
                open.extend([right.to_vec(), left.to_vec()]);
                continue;
            }
            if part.batch.operations.first() == Some(&Operation::Truncate) {
                return Err(error);
            }
            let refusal = sift::Refusal::of(&error);
            let reason = refusal.reason.clone();
            let (attempt, position) = (Arc::clone(&self.attempt), self.position.clone());
            let desk = self.desk(table)?;
            desk.put_refused(&part, vec![(0, refusal)], &position, &|| attempt.next_letter())?;
            self.require_room(table, Some(&reason))?;
        }
        Ok(written)
    }

    /// Writes what can be written of rows of a chunk, and sets the rest aside.
    ///
    /// # Errors
    /// As [`Clerk::sift`].
    pub(crate) async fn sift_rows(
        &mut self,
        load: &mut dyn Load,
        table: &Arc<TableSchema>,
        rows: &RecordBatch,
    ) -> Result<()> {
        for (row, refusal) in sift::sift_rows(load, table, rows, self.room()).await? {
            // What stands at the key may be a row that was there before the snapshot.
            let operation = if table.has_row_key() { Operation::Upsert } else { Operation::Insert };
            let batch = restoring::of(table, rows.slice(row, 1), vec![operation])?;
            let lines = Lines { batch, letters: vec![None] };
            let reason = refusal.reason.clone();
            let (attempt, position) = (Arc::clone(&self.attempt), self.position.clone());
            let desk = self.desk(&table.id)?;
            desk.put_refused(&lines, vec![(0, refusal)], &position, &|| attempt.next_letter())?;
            self.require_room(&table.id, Some(&reason))?;
        }
        Ok(())
    }

    fn desk(&mut self, table: &TableId) -> Result<&mut Desk> {
        if !self.desks.contains_key(table) {
            self.desks.insert(table.clone(), Desk::open(table, [])?);
        }
        self.desks.get_mut(table).ok_or_else(|| Error::bug("a table without its letters"))
    }

    /// Letters of the checkpoint, and those there will be if every open load commits as it is so far.
    fn standing(&self) -> (Size, Size) {
        let mut ours = Size::default();
        for desk in self.desks.values() {
            let (letters, bytes) = desk.added();
            ours += Size { letters, bytes };
        }
        // Under one lock with what a commit makes of both: a load is in the list or in the checkpoint.
        let mut pending = pending(&self.attempt);
        pending.added.insert(self.number, ours);
        let checkpoint = self.attempt.checkpoint();
        let mut before = Size::default();
        for letter in checkpoint.letters.values() {
            before += Size { letters: 1, bytes: i64::try_from(letter.bytes()).unwrap_or(i64::MAX) };
        }
        (before, pending.after(self.number, before))
    }

    /// Takes the load off the list of those that are open. Its letters are to be in the checkpoint before the lock is let go.
    pub(crate) fn leave(&self) -> MutexGuard<'_, Pending> {
        let mut pending = pending(&self.attempt);
        pending.added.remove(&self.number);
        pending
    }

    /// How many rows may still be set aside.
    fn room(&self) -> usize {
        let (before, after) = self.standing();
        let left = before.letters.max(self.letters_max()) - after.letters;
        usize::try_from(left).unwrap_or(0)
    }

    fn letters_max(&self) -> i64 {
        i64::try_from(self.attempt.context.pipeline.dead_letters_max).unwrap_or(i64::MAX)
    }

    /// Refuses to set aside more than may be. Letters of earlier runs stay whatever the bound is now.
    fn require_room(&self, table: &TableId, reason: Option<&str>) -> Result<()> {
        let (before, after) = self.standing();
        if after.letters > before.letters.max(self.letters_max()) {
            return Err(too_many(table, self.attempt.context.pipeline.dead_letters_max, reason));
        }
        let bytes_max = i64::try_from(LETTERS_BYTES_MAX).unwrap_or(i64::MAX);
        if after.bytes > before.bytes.max(bytes_max) {
            return Err(too_large(table));
        }
        Ok(())
    }

    /// Tries once more what was refused, and says what is to be committed. To be committed by
    /// [`Attempt::commit_with_letters`].
    ///
    /// # Errors
    /// As [`Load::offer`].
    pub(crate) async fn settle(&mut self, mut load: Option<&mut dyn Load>) -> Result<Settled> {
        let mut settled = Settled::default();
        if let Some(load) = &mut load {
            settled.written = reconsider_all(&mut **load, &mut self.desks).await?;
        }
        for desk in self.desks.values() {
            let outcome = desk.outcome()?;
            settled.taken_up += outcome.taken_up;
            settled.set_aside += outcome.set_aside;
            settled.superseded += outcome.superseded;
            settled.changes.extend(outcome.changes);
        }
        Ok(settled)
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        drop(self.leave());
    }
}

fn pending(attempt: &Attempt) -> MutexGuard<'_, Pending> {
    let pending: &Mutex<Pending> = &attempt.pending_letters;
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says which rows are set aside for the first time.
pub(crate) fn warn_of(letters: &[Change]) {
    for change in letters {
        if let Change::PutLetter { id, letter } = change
            && letter.attempts == 1
        {
            tracing::warn!(letter = %id, table = %letter.table, reason = letter.reason, "a row is set aside");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_load_takes_up_gives_no_room_before_it_commits() {
        let size = |letters| Size { letters, bytes: letters * 100 };
        let pending = Pending { loads: 3, added: [(1, size(-4)), (2, size(3)), (3, size(1))].into() };
        let after = |number| pending.after(number, size(10));
        assert_eq!((after(2).letters, after(2).bytes), (14, 1400));
        assert_eq!(after(1).letters, 10);
    }
}
