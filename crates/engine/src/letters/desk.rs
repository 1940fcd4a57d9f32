//! The letters of one table as a load knows them: those it found, those it took up again, those it sets aside.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use syncline_core::key::append_key;
use syncline_core::{
    Change, ChangeBatch, Error, ErrorKind, Letter, LetterId, Operation, Position, Result, RowKey, TableId,
    TableSchema,
};

mod keyless;

use super::form;
use super::lines::{groups, key_columns, keys_of, pick};
use super::now_ms;
use super::sift::Refusal;
use crate::collapse::Lines;
use crate::cut::Decision;

/// A row that is set aside.
struct Aside {
    line: ChangeBatch,
    keys: Vec<RowKey>,
    note: Note,
    standing: Standing,
    /// Only without a row key: a hash of the row as the source has it.
    row: Option<u64>,
}

/// What is remembered of a letter beside its row.
#[derive(Clone)]
struct Note {
    position: Position,
    reason: Refusal,
    attempts: u32,
    first_at_ms: i64,
    last_at_ms: i64,
}

/// What this load did with a letter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing.
    Found,
    /// It put later changes behind it.
    Waits,
    /// It was refused.
    Refused,
}

/// What a batch of changes takes up.
#[derive(Default)]
pub(crate) struct TakenUp {
    /// Rows that come before the changes.
    pub(crate) letters: Vec<(LetterId, ChangeBatch)>,
    /// Only without a row key: the changes that are left, if some have gone into letters.
    pub(crate) kept: Option<Vec<usize>>,
}

/// Letters of a table.
pub(crate) struct Desk {
    table: TableId,
    asides: BTreeMap<LetterId, Aside>,
    /// Only without a row key: letters by their rows.
    by_row: HashMap<u64, BTreeSet<LetterId>>,
    /// Those of the checkpoint.
    found: BTreeSet<LetterId>,
    found_bytes: usize,
    /// Of these, those that this load took up.
    taken_up: BTreeSet<LetterId>,
    /// Of letters that were taken up, for the case that they are set aside again.
    notes: BTreeMap<LetterId, Note>,
    /// Letters that no row is left of, and changes that have gone into letters.
    superseded: u64,
}

/// What a load did with a table's letters.
#[derive(Default)]
pub(crate) struct Outcome {
    /// The changes of the checkpoint.
    pub(crate) changes: Vec<Change>,
    /// Letters of earlier loads that were taken up: their changes are offered once more.
    pub(crate) taken_up: u64,
    /// Letters that this load set aside.
    pub(crate) set_aside: u64,
    /// Letters that were superseded before anything was made of them.
    pub(crate) superseded: u64,
}

impl Desk {
    /// A table's letters as the checkpoint has them.
    ///
    /// # Errors
    /// A conflict if one cannot be read.
    pub(crate) fn open<'a>(
        table: &TableId,
        letters: impl IntoIterator<Item = (&'a LetterId, &'a Letter)>,
    ) -> Result<Self> {
        let mut desk = Self {
            table: table.clone(),
            asides: BTreeMap::new(),
            by_row: HashMap::new(),
            found: BTreeSet::new(),
            found_bytes: 0,
            taken_up: BTreeSet::new(),
            notes: BTreeMap::new(),
            superseded: 0,
        };
        for (&id, letter) in letters.into_iter().filter(|(_, letter)| letter.table == *table) {
            let line = form::from_bytes(&letter.change).map_err(|error| error.with_table(table))?;
            let note = Note {
                position: letter.position.clone(),
                reason: Refusal { reason: letter.reason.clone(), code: letter.code.clone() },
                attempts: letter.attempts,
                first_at_ms: letter.first_at_ms,
                last_at_ms: letter.last_at_ms,
            };
            desk.found.insert(id);
            desk.found_bytes += line.bytes();
            desk.lay(id, line, letter.keys.clone(), note, Standing::Found)?;
        }
        Ok(desk)
    }

    fn lay(
        &mut self,
        id: LetterId,
        line: ChangeBatch,
        keys: Vec<RowKey>,
        note: Note,
        standing: Standing,
    ) -> Result<()> {
        let row = keyless::hash_of(&line)?;
        let _ = self.lift(id);
        if let Some(row) = row {
            self.by_row.entry(row).or_default().insert(id);
        }
        self.asides.insert(id, Aside { line, keys, note, standing, row });
        Ok(())
    }

    fn lift(&mut self, id: LetterId) -> Option<Aside> {
        let aside = self.asides.remove(&id)?;
        if let Some(row) = aside.row
            && let Some(ids) = self.by_row.get_mut(&row)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_row.remove(&row);
            }
        }
        Some(aside)
    }

    /// Letters, and bytes of their rows near enough, that there are now beyond those that were found.
    pub(crate) fn added(&self) -> (i64, i64) {
        let size = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let bytes: usize = self.asides.values().map(|aside| aside.line.bytes()).sum();
        (size(self.asides.len()) - size(self.found.len()), size(bytes) - size(self.found_bytes))
    }

    /// Takes up the letters that these changes are about, with all that share a key with them, as rows that come before the
    /// changes.
    ///
    /// What a change is skipped for does not concern a letter: a read that saw the change has taken the letter's place, or has
    /// become the letter.
    ///
    /// # Errors
    /// Data if the table has another shape than they have.
    pub(crate) fn take_up(&mut self, batch: &ChangeBatch, decisions: Option<&[Decision]>) -> Result<TakenUp> {
        if self.asides.is_empty() {
            return Ok(TakenUp::default());
        }
        if !batch.table.has_row_key() {
            return self.take_up_by_value(batch, decisions);
        }
        let truncates = |row: usize| {
            batch.operations[row] == Operation::Truncate
                && decisions.is_none_or(|decisions| decisions[row] != Decision::Skip)
        };
        if (0..batch.len()).any(truncates) {
            self.supersede_all();
            return Ok(TakenUp::default());
        }
        self.require_shape(&batch.table)?;
        let ids = self.connected(&self.touched(batch, decisions)?);
        Ok(TakenUp { letters: self.take(ids), kept: None })
    }

    fn require_shape(&mut self, table: &Arc<TableSchema>) -> Result<()> {
        for aside in self.asides.values_mut() {
            aside.line.table = same_shape(&aside.line.table, table)?;
        }
        Ok(())
    }

    /// Takes up these letters, to be tried again.
    pub(crate) fn take(&mut self, ids: BTreeSet<LetterId>) -> Vec<(LetterId, ChangeBatch)> {
        let mut lines = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(aside) = self.lift(id) else { continue };
            if self.found.contains(&id) {
                self.taken_up.insert(id);
            }
            self.notes.insert(id, aside.note);
            lines.push((id, aside.line));
        }
        lines
    }

    fn supersede_all(&mut self) {
        let all = self.asides.keys().copied().collect();
        self.superseded += self.take(all).len() as u64;
    }

    /// Keys of letters that changes touch.
    fn touched(&self, batch: &ChangeBatch, decisions: Option<&[Decision]>) -> Result<HashSet<RowKey>> {
        let waiting: HashSet<&[u8]> =
            self.asides.values().flat_map(|aside| &aside.keys).map(|key| key.0.as_ref()).collect();
        let columns = key_columns(batch);
        let mut touched = HashSet::new();
        let mut key = Vec::new();
        let mut note = |key: &[u8]| {
            if waiting.contains(key) {
                touched.insert(RowKey(key.into()));
            }
        };
        for row in 0..batch.len() {
            let (new_counts, old_counts) = match decisions.map_or(Decision::Apply, |decisions| decisions[row])
            {
                Decision::Apply | Decision::Again => (true, true),
                Decision::Skip | Decision::StartOver => (false, false),
                Decision::DeleteOld => (false, true),
                Decision::Arrive => (true, false),
            };
            if new_counts {
                key.clear();
                append_key(&columns, row, &mut key)?;
                note(&key);
            }
            if let (true, Some(old), Some(place)) = (old_counts, &batch.old, batch.old_row(row)) {
                key.clear();
                append_key(old.keys.columns(), place, &mut key)?;
                note(&key);
            }
        }
        Ok(touched)
    }

    /// All letters that share keys with these, by however many others.
    fn connected(&self, keys: &HashSet<RowKey>) -> BTreeSet<LetterId> {
        if keys.is_empty() {
            return BTreeSet::new();
        }
        let touches = |group: &BTreeSet<LetterId>| {
            group
                .iter()
                .filter_map(|id| self.asides.get(id))
                .flat_map(|aside| &aside.keys)
                .any(|key| keys.contains(key))
        };
        self.groups().into_iter().filter(touches).flatten().collect()
    }

    /// Letters that can only be written together.
    pub(crate) fn groups(&self) -> Vec<BTreeSet<LetterId>> {
        let ids: Vec<LetterId> = self.asides.keys().copied().collect();
        let keys: Vec<Vec<RowKey>> = self.asides.values().map(|aside| aside.keys.clone()).collect();
        groups(&keys).into_iter().map(|group| group.into_iter().map(|place| ids[place]).collect()).collect()
    }

    /// Groups of which this load refused every letter.
    pub(crate) fn refused_groups(&self) -> Vec<BTreeSet<LetterId>> {
        let refused =
            |id: &LetterId| self.asides.get(id).is_some_and(|aside| aside.standing == Standing::Refused);
        self.groups().into_iter().filter(|group| group.iter().all(refused)).collect()
    }

    /// The rows of letters, as they are.
    pub(crate) fn rows(&self, ids: &BTreeSet<LetterId>) -> Vec<(LetterId, ChangeBatch)> {
        let row = |id: &LetterId| self.asides.get(id).map(|aside| (*id, aside.line.clone()));
        ids.iter().filter_map(row).collect()
    }

    /// Sets rows aside behind the letters they descend from: nothing new was tried.
    ///
    /// # Errors
    /// A bug if a row cannot be picked.
    pub(crate) fn put_behind(
        &mut self,
        lines: &Lines,
        position: &Position,
        next: &dyn Fn() -> LetterId,
    ) -> Result<()> {
        for row in 0..lines.batch.len() {
            // A row without a letter waits because another one still has its key.
            let reason = "the row that has its key at the destination was refused";
            let note =
                lines.letters[row].and_then(|id| self.notes.get(&id).cloned()).unwrap_or_else(|| Note {
                    position: position.clone(),
                    reason: Refusal { reason: reason.to_owned(), code: None },
                    attempts: 0,
                    first_at_ms: now_ms(),
                    last_at_ms: now_ms(),
                });
            self.put(lines, row, note, Standing::Waits, next)?;
        }
        Ok(())
    }

    /// Sets rows aside that were refused.
    ///
    /// # Errors
    /// A bug if a row cannot be picked.
    pub(crate) fn put_refused(
        &mut self,
        lines: &Lines,
        refused: Vec<(usize, Refusal)>,
        position: &Position,
        next: &dyn Fn() -> LetterId,
    ) -> Result<()> {
        for (row, reason) in refused {
            let now = now_ms();
            let before = lines.letters[row].and_then(|id| self.notes.get(&id).cloned());
            let note = Note {
                position: before.as_ref().map_or(position, |note| &note.position).clone(),
                reason,
                attempts: before.as_ref().map_or(0, |note| note.attempts) + 1,
                first_at_ms: before.as_ref().map_or(now, |note| note.first_at_ms),
                last_at_ms: now,
            };
            self.put(lines, row, note, Standing::Refused, next)?;
        }
        Ok(())
    }

    fn put(
        &mut self,
        lines: &Lines,
        row: usize,
        note: Note,
        standing: Standing,
        next: &dyn Fn() -> LetterId,
    ) -> Result<()> {
        let line = pick(&lines.batch, &[row])?;
        let keys = keys_of(&line, 0)?;
        let id = lines.letters[row].unwrap_or_else(next);
        self.lay(id, line, keys, note, standing)
    }

    /// These letters were tried once more, in vain.
    pub(crate) fn tried_again(&mut self, ids: &BTreeSet<LetterId>, refusal: &Refusal) {
        for id in ids {
            if let Some(aside) = self.asides.get_mut(id) {
                aside.note.attempts += 1;
                aside.note.last_at_ms = now_ms();
                aside.note.reason = refusal.clone();
                aside.standing = Standing::Refused;
            }
        }
    }

    /// What is to be committed.
    ///
    /// # Errors
    /// A bug if a row cannot be written as bytes.
    pub(crate) fn outcome(&self) -> Result<Outcome> {
        let mut outcome = Outcome {
            taken_up: self.taken_up.len() as u64,
            superseded: self.superseded,
            ..Outcome::default()
        };
        let gone = self.found.iter().filter(|id| !self.asides.contains_key(id));
        outcome.changes.extend(gone.map(|&id| Change::RemoveLetter { id }));
        for (&id, aside) in &self.asides {
            if aside.standing == Standing::Found {
                continue;
            }
            outcome.set_aside += 1;
            let letter = Letter {
                table: self.table.clone(),
                keys: aside.keys.clone(),
                position: aside.note.position.clone(),
                reason: aside.note.reason.reason.clone(),
                code: aside.note.reason.code.clone(),
                attempts: aside.note.attempts,
                first_at_ms: aside.note.first_at_ms,
                last_at_ms: aside.note.last_at_ms,
                change: form::to_bytes(&aside.line)?,
            };
            outcome.changes.push(Change::PutLetter { id, letter });
        }
        Ok(outcome)
    }
}

/// A letter's rows and changes of its table have one shape, or nothing can be said of both.
fn same_shape(letter: &Arc<TableSchema>, now: &Arc<TableSchema>) -> Result<Arc<TableSchema>> {
    if letter.columns == now.columns && letter.row_key == now.row_key {
        return Ok(Arc::clone(now));
    }
    Err(Error::new(ErrorKind::Data, "its dead letters have another shape than its changes have now")
        .with_table(&now.id)
        .with_remedy(
            "load or discard them first: `syncline dead-letters retry NAME`, `syncline dead-letters discard NAME ID`",
        ))
}
