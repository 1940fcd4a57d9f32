//! Many changes of a table into one per row key, sorted: what a load writes.
//!
//! For each key the first and the last state matter: whether the row was there before the part, and what it is after it.
//! A row that moved keeps the key it had first; columns that its later changes left out come from its earlier ones; what
//! none of them carried stays absent and is filled by the destination. Keys are compared as carried bytes.
//!
//! Rows that were set aside earlier ([`Collapse::seed`]) come before the changes that follow them. Where these carry the whole
//! row, it is written like any other; else it waits on, with what they did carry.

mod build;
mod partial;
mod seed;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BinaryArray};
use hashbrown::HashTable;
use syncline_core::key::append_key;
use syncline_core::{ChangeBatch, ColumnMask, Error, LetterId, Operation, Result, RowKey, TableSchema};

use crate::cut::Decision;

/// A row of one of the batches put in.
type Place = (usize, usize);

/// What the collapse of a table's changes gives.
pub(crate) struct Collapsed {
    /// The part's batch; `None` if nothing is left to write.
    pub(crate) batch: Option<Lines>,
    /// Rows that go on waiting as dead letters.
    pub(crate) waiting: Option<Lines>,
    /// Changes that were overtaken inside the part.
    pub(crate) superseded: u64,
    /// Rows of the batch beyond the changes put in: a change that is applied again may delete at both of its keys.
    pub(crate) surplus: u64,
    /// Changes that a snapshot saw.
    pub(crate) skipped: u64,
    /// Rows that must be read again.
    pub(crate) rereads: Vec<RowKey>,
}

/// Rows of a part, collapsed and sorted by key.
pub(crate) struct Lines {
    /// The rows.
    pub(crate) batch: ChangeBatch,
    /// For each row the letter it descends from.
    pub(crate) letters: Vec<Option<LetterId>>,
}

/// One key of the part.
struct Slot {
    key: std::ops::Range<usize>,
    /// Whether the destination has a row with this key before the part.
    existed: bool,
    state: State,
}

enum State {
    /// No row with this key after the part; the place holds the key's values.
    Dead { row: Place, old_image: bool },
    /// A row.
    Live(Row),
}

#[derive(Clone)]
struct Row {
    row: Place,
    /// Where the row was before the part, if elsewhere: slot of that key, and place of its old image.
    origin: Option<(usize, Place)>,
    absent: ColumnMask,
    /// Columns whose value is not in `row` but in an earlier one.
    earlier: Vec<(usize, Place)>,
    /// It came from where the destination does not have it: what is absent is nowhere there, whatever row may stand under
    /// its old key now.
    foreign: bool,
    /// The letter it was before, if it was one.
    letter: Option<LetterId>,
    /// No change since then has carried the whole row.
    behind: bool,
}

impl Row {
    fn new(row: Place, absent: ColumnMask) -> Self {
        Self { row, origin: None, absent, earlier: Vec::new(), foreign: false, letter: None, behind: false }
    }

    fn is_incomplete(&self) -> bool {
        self.foreign && !self.absent.is_empty()
    }
}

/// Collects a table's changes in order, then gives what is left of them.
pub(crate) struct Collapse {
    table: Arc<TableSchema>,
    batches: Vec<ChangeBatch>,
    keys: Vec<KeyColumns>,
    slots: Vec<Slot>,
    index: HashTable<usize>,
    hasher: RandomState,
    arena: Vec<u8>,
    scratch: Vec<u8>,
    truncate: Option<Place>,
    /// Rows in order, for a table without a row key.
    sequence: Vec<Place>,
    taken: u64,
    skipped: u64,
    /// Changes applied again.
    again: u64,
    /// Whether rows were set aside earlier.
    seeded: bool,
    bytes: usize,
}

/// The key columns of a batch, resolved once.
struct KeyColumns {
    new: Vec<ArrayRef>,
    old: Vec<ArrayRef>,
}

impl KeyColumns {
    fn of(batch: &ChangeBatch) -> Self {
        let new = batch.table.row_key.iter().map(|&column| Arc::clone(batch.rows.column(column))).collect();
        let old = batch.old.as_ref().map(|old| old.keys.columns().to_vec()).unwrap_or_default();
        Self { new, old }
    }
}

/// Appends a key; the common case of one binary column without the general way's dispatch.
fn key_into(columns: &[ArrayRef], row: usize, out: &mut Vec<u8>) -> Result<()> {
    if let [column] = columns
        && let Some(binary) = column.as_any().downcast_ref::<BinaryArray>()
        && binary.is_valid(row)
    {
        let value = binary.value(row);
        let length =
            u32::try_from(value.len()).map_err(|_| Error::bug("a key value is longer than 4 GiB"))?;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(value);
        return Ok(());
    }
    append_key(columns, row, out)
}

impl Collapse {
    pub(crate) fn new(table: Arc<TableSchema>) -> Self {
        Self {
            table,
            batches: Vec::new(),
            keys: Vec::new(),
            slots: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
            arena: Vec::new(),
            scratch: Vec::new(),
            truncate: None,
            sequence: Vec::new(),
            taken: 0,
            skipped: 0,
            again: 0,
            seeded: false,
            bytes: 0,
        }
    }

    /// Bytes held until the part is written.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.arena.len() + self.slots.len() * size_of::<Slot>()
    }

    /// Takes a batch of the same shape. `decisions`: one per row, or `None` where every change applies.
    pub(crate) fn push(&mut self, batch: ChangeBatch, decisions: Option<&[Decision]>) -> Result<()> {
        let number = self.adopt(batch);
        for row in 0..self.batches[number].len() {
            let decision = decisions.map_or(Decision::Apply, |decisions| decisions[row]);
            match decision {
                Decision::Skip => self.skipped += 1,
                Decision::StartOver => return Err(Error::bug("a truncate reached the collapse uncut")),
                _ if self.batches[number].operations[row] == Operation::Truncate => {
                    self.take_truncate((number, row));
                }
                _ if !self.table.has_row_key() => self.sequence.push((number, row)),
                Decision::Apply => self.take((number, row))?,
                Decision::DeleteOld => self.take_departure((number, row))?,
                Decision::Arrive => self.take_arrival((number, row))?,
                Decision::Again => self.take_again((number, row))?,
            }
        }
        Ok(())
    }

    fn adopt(&mut self, batch: ChangeBatch) -> usize {
        self.bytes += batch.bytes();
        self.taken += batch.len() as u64;
        self.keys.push(KeyColumns::of(&batch));
        self.batches.push(batch);
        self.batches.len() - 1
    }

    fn take_truncate(&mut self, place: Place) {
        self.truncate = Some(place);
        self.slots.clear();
        self.index.clear();
        self.arena.clear();
        self.sequence.clear();
    }

    fn take(&mut self, place: Place) -> Result<()> {
        let (number, row) = place;
        let operation = self.batches[number].operations[row];
        if operation == Operation::Delete {
            let slot = self.slot(place, KeyOf::New, true)?;
            self.slots[slot].state = State::Dead { row: place, old_image: false };
            return Ok(());
        }
        let moved_from = match self.batches[number].old_row(row) {
            Some(old) => Some((self.slot(place, KeyOf::Old, true)?, (number, old))),
            None => None,
        };
        let slot = self.slot(place, KeyOf::New, operation != Operation::Insert && moved_from.is_none())?;
        let next = match moved_from {
            Some((from, old_place)) if from != slot => self.moved(place, from, old_place, slot),
            _ => self.changed_in_place(place, slot),
        };
        self.slots[slot].state = State::Live(next);
        Ok(())
    }

    /// The row's new state after a change that kept its key (or brought it into being).
    fn changed_in_place(&self, place: Place, slot: usize) -> Row {
        let absent = self.absent(place);
        match &self.slots[slot].state {
            State::Live(before) => after(before, place, absent),
            State::Dead { .. } => Row::new(place, absent),
        }
    }

    /// The row's new state after a move; the key it left is dead.
    fn moved(&mut self, place: Place, from: usize, old_place: Place, to: usize) -> Row {
        let absent = self.absent(place);
        let dead = State::Dead { row: old_place, old_image: true };
        let mut next = match std::mem::replace(&mut self.slots[from].state, dead) {
            State::Live(before) => {
                let mut next = after(&before, place, absent);
                if before.origin.is_none() && self.slots[from].existed && !before.foreign {
                    next.origin = Some((from, old_place));
                }
                next
            }
            State::Dead { .. } => Row { origin: Some((from, old_place)), ..Row::new(place, absent) },
        };
        if next.origin.is_some_and(|(origin, _)| origin == to) {
            next.origin = None;
        }
        next
    }

    fn absent(&self, (number, row): Place) -> ColumnMask {
        self.batches[number].mask(row).cloned().unwrap_or_default()
    }

    /// The slot of one of a change's keys; a new one is dead, and `existed` says whether the destination has the row.
    fn slot(&mut self, (number, row): Place, which: KeyOf, existed: bool) -> Result<usize> {
        self.scratch.clear();
        let (columns, at) = match which {
            KeyOf::New => (&self.keys[number].new, row),
            KeyOf::Old => (&self.keys[number].old, self.batches[number].old_row(row).unwrap_or(row)),
        };
        key_into(columns, at, &mut self.scratch)?;
        let hash = self.hasher.hash_one(self.scratch.as_slice());
        let same = |&slot: &usize| self.arena[self.slots[slot].key.clone()] == self.scratch[..];
        if let Some(&slot) = self.index.find(hash, same) {
            return Ok(slot);
        }
        let start = self.arena.len();
        self.arena.extend_from_slice(&self.scratch);
        let slot = self.slots.len();
        let state = State::Dead { row: (number, at), old_image: matches!(which, KeyOf::Old) };
        self.slots.push(Slot {
            key: start..self.arena.len(),
            existed: existed && self.truncate.is_none(),
            state,
        });
        let (slots, arena, hasher) = (&self.slots, &self.arena, &self.hasher);
        self.index.insert_unique(hash, slot, |&other| hasher.hash_one(&arena[slots[other].key.clone()]));
        Ok(slot)
    }

    /// What is left.
    pub(crate) fn finish(self) -> Result<Collapsed> {
        if self.batches.is_empty() {
            return Ok(Collapsed {
                batch: None,
                waiting: None,
                superseded: 0,
                surplus: 0,
                skipped: 0,
                rereads: Vec::new(),
            });
        }
        let lines = if self.table.has_row_key() { self.lines() } else { self.lines_in_order() };
        let rows = lines.len() as u64;
        let (waiting, lines) = self.apart(lines);
        let (batch, waiting) = (self.built(&lines)?, self.built(&waiting)?);
        let surplus = rows.saturating_sub(self.taken - self.skipped);
        if surplus > self.again {
            return Err(Error::bug("a collapse gave more rows than it took changes"));
        }
        let superseded = self.taken - self.skipped + surplus - rows;
        Ok(Collapsed { batch, waiting, superseded, surplus, skipped: self.skipped, rereads: self.rereads() })
    }

    /// Rows that the part leaves incomplete where no row of the destination can complete them.
    fn rereads(&self) -> Vec<RowKey> {
        let incomplete =
            self.slots.iter().filter(|slot| matches!(&slot.state, State::Live(row) if row.is_incomplete()));
        incomplete.map(|slot| RowKey(self.arena[slot.key.clone()].into())).collect()
    }

    /// Output lines of a table with a row key, sorted by key.
    fn lines(&self) -> Vec<Line<'_>> {
        let implied: std::collections::HashSet<usize> = self
            .slots
            .iter()
            .filter_map(|slot| match &slot.state {
                State::Live(Row { origin: Some((from, _)), .. }) => Some(*from),
                _ => None,
            })
            .collect();
        let mut order: Vec<usize> = (0..self.slots.len())
            .filter(|&slot| match &self.slots[slot].state {
                State::Live(row) if !row.is_incomplete() => true,
                State::Live(_) | State::Dead { .. } => self.slots[slot].existed && !implied.contains(&slot),
            })
            .collect();
        let key = |slot: usize| &self.arena[self.slots[slot].key.clone()];
        order.sort_unstable_by(|&a, &b| key(a).cmp(key(b)));
        let truncate = self.truncate.map(|place| Line { place, what: What::Truncate, slot: None });
        truncate.into_iter().chain(order.into_iter().map(|slot| self.line(slot))).collect()
    }

    fn line(&self, number: usize) -> Line<'_> {
        let slot = &self.slots[number];
        let line = |place: Place, what| Line { place, what, slot: Some(number) };
        match &slot.state {
            State::Dead { row, old_image } => {
                line(*row, if *old_image { What::DeleteOldImage } else { What::Delete })
            }
            State::Live(row) if row.is_incomplete() => line(row.row, What::Delete),
            State::Live(row) if slot.existed || row.origin.is_some() => {
                line(row.row, What::Write(Operation::Update, row))
            }
            State::Live(row) => line(row.row, What::Write(Operation::Insert, row)),
        }
    }

    fn lines_in_order(&self) -> Vec<Line<'_>> {
        let truncate = self.truncate.map(|place| Line { place, what: What::Truncate, slot: None });
        let rows = self.sequence.iter().map(|&place| Line { place, what: What::AsItIs, slot: None });
        truncate.into_iter().chain(rows).collect()
    }
}

/// A row's state after a later change of it: what the change leaves out stays as it was.
fn after(before: &Row, place: Place, mut absent: ColumnMask) -> Row {
    let mut earlier = Vec::new();
    let behind = before.behind && !absent.is_empty();
    for column in absent.clone().iter() {
        if before.absent.contains(column) {
            continue;
        }
        let known = before.earlier.iter().find(|(c, _)| *c == column).map_or(before.row, |(_, place)| *place);
        earlier.push((column, known));
        absent.remove(column);
    }
    Row {
        row: place,
        origin: before.origin,
        absent,
        earlier,
        foreign: before.foreign,
        letter: before.letter,
        behind,
    }
}

#[derive(Clone, Copy)]
enum KeyOf {
    New,
    Old,
}

/// One row of the part.
struct Line<'a> {
    place: Place,
    what: What<'a>,
    /// The slot of its key, if it has one.
    slot: Option<usize>,
}

enum What<'a> {
    Truncate,
    Delete,
    /// A delete whose key is known from an old image: `place` counts rows of the batch's old images.
    DeleteOldImage,
    Write(Operation, &'a Row),
    /// As it came (no row key).
    AsItIs,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow_array::RecordBatch;
    use proptest::prelude::*;
    use syncline_core::{Carriage, Column, DataType, Masks, OldKeys, TableId};

    use super::*;

    fn table() -> Arc<TableSchema> {
        let column = |name: &str| Column {
            name: name.into(),
            data_type: DataType::Bytes,
            nullable: true,
            native_type: "bytes".into(),
            carriage: Carriage::Native,
        };
        Arc::new(TableSchema {
            id: TableId::new("s", "t"),
            columns: vec![column("k"), column("a"), column("b")],
            row_key: vec![0],
            version: 1,
            rows_estimated: None,
            native: None,
        })
    }

    /// One change in the tests' own words.
    #[derive(Debug, Clone)]
    enum Say {
        Insert(u8, u8, u8),
        /// Old key, new key, a, b; `None`: left out.
        Update(u8, u8, Option<u8>, Option<u8>),
        Delete(u8),
        Truncate,
    }

    fn batch_of(changes: &[Say]) -> ChangeBatch {
        let mut columns: [Vec<Option<Vec<u8>>>; 3] = Default::default();
        let (mut operations, mut masks, mut old_row, mut old_keys) = (vec![], Masks::new(), vec![], vec![]);
        for change in changes {
            let mut mask = ColumnMask::none();
            let mut old = None;
            let (operation, row) = match change {
                Say::Insert(k, a, b) => (Operation::Insert, [Some(*k), Some(*a), Some(*b)]),
                Say::Update(from, to, a, b) => {
                    for (column, value) in [(1, a), (2, b)] {
                        if value.is_none() {
                            mask.insert(column);
                        }
                    }
                    old = (from != to).then_some(*from);
                    (Operation::Update, [Some(*to), *a, *b])
                }
                Say::Delete(k) => (Operation::Delete, [Some(*k), None, None]),
                Say::Truncate => (Operation::Truncate, [None; 3]),
            };
            operations.push(operation);
            masks.push(&mask);
            old_row.push(old.map(|key| {
                old_keys.push(Some(vec![key]));
                u32::try_from(old_keys.len() - 1).unwrap()
            }));
            for (column, value) in columns.iter_mut().zip(row) {
                column.push(value.map(|v| vec![v]));
            }
        }
        let array = |values: &Vec<Option<Vec<u8>>>| {
            Arc::new(values.iter().map(|v| v.as_deref()).collect::<BinaryArray>()) as ArrayRef
        };
        let count = operations.len();
        ChangeBatch {
            table: table(),
            rows: RecordBatch::try_new(table().arrow(), columns.iter().map(array).collect()).unwrap(),
            operations,
            ordinals: (0..count as u64).collect(),
            transactions: vec![0; count],
            masks: Some(masks),
            old: Some(OldKeys {
                row: old_row,
                keys: RecordBatch::try_new(table().arrow_old(), vec![array(&old_keys)]).unwrap(),
            }),
        }
        .check()
        .unwrap()
    }

    type Rows = BTreeMap<u8, (u8, u8)>;

    /// What the changes mean, one after the other.
    fn apply_one_by_one(rows: &mut Rows, changes: &[Say]) {
        for change in changes {
            match change {
                Say::Insert(k, a, b) => assert!(rows.insert(*k, (*a, *b)).is_none()),
                Say::Update(from, to, a, b) => {
                    let (old_a, old_b) = rows.remove(from).unwrap();
                    assert!(rows.insert(*to, (a.unwrap_or(old_a), b.unwrap_or(old_b))).is_none());
                }
                Say::Delete(k) => assert!(rows.remove(k).is_some()),
                Say::Truncate => rows.clear(),
            }
        }
    }

    /// What the contract of `Part::Changes` says a destination does.
    fn apply_part(rows: &mut Rows, part: &ChangeBatch) {
        let value = |batch: &RecordBatch, column: usize, row: usize| {
            let array = batch.column(column).as_any().downcast_ref::<BinaryArray>().unwrap();
            array.is_valid(row).then(|| array.value(row)[0])
        };
        let mut written = Vec::new();
        let mut gone = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for row in 0..part.len() {
            if part.operations[row] == Operation::Truncate {
                assert_eq!(row, 0);
                rows.clear();
                continue;
            }
            let key = value(&part.rows, 0, row).unwrap();
            assert!(seen.insert(key), "two rows of one key");
            if part.operations[row] == Operation::Delete {
                gone.push(key);
                continue;
            }
            let old = part.old_row(row).map(|old| value(&part.old.as_ref().unwrap().keys, 0, old).unwrap());
            if part.operations[row] == Operation::Insert {
                assert!(!rows.contains_key(&key), "an insert of a row that is there");
                assert!(part.mask(row).is_none());
            }
            let fill = |column: usize, before: fn(&(u8, u8)) -> u8, rows: &Rows| match part.mask(row) {
                Some(mask) if mask.contains(column) => before(&rows[&old.unwrap_or(key)]),
                _ => value(&part.rows, column, row).unwrap(),
            };
            written.push((key, (fill(1, |r| r.0, rows), fill(2, |r| r.1, rows))));
            gone.extend(old);
        }
        for key in gone {
            rows.remove(&key);
        }
        rows.extend(written);
    }

    /// Kind, key, other key, and the values of both columns.
    type Wish = (u8, u8, u8, Option<u8>, Option<u8>);

    /// Valid changes: chosen numbers are mapped to keys that are, or are not, there.
    fn make_valid(start: &Rows, wishes: &[Wish]) -> Vec<Say> {
        let mut rows = start.clone();
        let mut changes = Vec::new();
        for &(kind, pick, other, a, b) in wishes {
            let present: Vec<u8> = rows.keys().copied().collect();
            let absent: Vec<u8> = (0..8).filter(|k| !rows.contains_key(k)).collect();
            let pick_of = |from: &Vec<u8>, n: u8| (!from.is_empty()).then(|| from[n as usize % from.len()]);
            let change = match kind % 16 {
                0..=3 => pick_of(&absent, pick).map(|k| Say::Insert(k, a.unwrap_or(1), b.unwrap_or(2))),
                4..=7 => pick_of(&present, pick).map(|k| Say::Update(k, k, a, b)),
                8..=11 => {
                    pick_of(&present, pick).zip(pick_of(&absent, other)).map(|(f, t)| Say::Update(f, t, a, b))
                }
                12..=14 => pick_of(&present, pick).map(Say::Delete),
                _ => Some(Say::Truncate),
            };
            if let Some(change) = change {
                apply_one_by_one(&mut rows, std::slice::from_ref(&change));
                changes.push(change);
            }
        }
        changes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// Trap 10: key change, swap, chain, delete and re-insert in one batch.
        #[test]
        fn a_collapsed_part_means_what_its_changes_mean(
            start in proptest::collection::btree_map(0u8..8, (any::<u8>(), any::<u8>()), 0..8),
            wishes in proptest::collection::vec(
                (any::<u8>(), any::<u8>(), any::<u8>(), proptest::option::of(any::<u8>()), proptest::option::of(any::<u8>())), 0..24),
            cut in 0usize..24,
        ) {
            let changes = make_valid(&start, &wishes);
            let mut expected = start.clone();
            apply_one_by_one(&mut expected, &changes);
            let mut collapse = Collapse::new(table());
            let (first, second) = changes.split_at(cut.min(changes.len()));
            collapse.push(batch_of(first), None).unwrap();
            collapse.push(batch_of(second), None).unwrap();
            let collapsed = collapse.finish().unwrap();
            let mut found = start.clone();
            let mut rows = 0;
            if let Some(Lines { batch: part, .. }) = &collapsed.batch {
                rows = part.len() as u64;
                apply_part(&mut found, part);
            }
            prop_assert_eq!(found, expected);
            prop_assert_eq!(rows + collapsed.superseded, changes.len() as u64);
        }
    }

    /// As [`apply_part`], upon any rows: what has nothing to be completed from is read again.
    fn apply_again(rows: &mut Rows, part: &ChangeBatch, reread: &mut std::collections::BTreeSet<u8>) {
        let value = |batch: &RecordBatch, column: usize, row: usize| {
            let array = batch.column(column).as_any().downcast_ref::<BinaryArray>().unwrap();
            array.is_valid(row).then(|| array.value(row)[0])
        };
        let (mut written, mut gone) = (Vec::new(), Vec::new());
        for row in 0..part.len() {
            if part.operations[row] == Operation::Truncate {
                rows.clear();
                continue;
            }
            let key = value(&part.rows, 0, row).unwrap();
            if part.operations[row] == Operation::Delete {
                gone.push(key);
                continue;
            }
            assert!(
                part.operations[row] != Operation::Insert || !rows.contains_key(&key),
                "an insert of a row that is there"
            );
            let old = part.old_row(row).map(|old| value(&part.old.as_ref().unwrap().keys, 0, old).unwrap());
            let before = rows.get(&old.unwrap_or(key)).copied();
            let fill = |column: usize, before: Option<u8>| match part.mask(row) {
                Some(mask) if mask.contains(column) => before,
                _ => value(&part.rows, column, row),
            };
            match (fill(1, before.map(|r| r.0)), fill(2, before.map(|r| r.1))) {
                (Some(a), Some(b)) => written.push((key, (a, b))),
                _ => {
                    reread.insert(key);
                    // What stands where a row would go that must be read again is another row.
                    gone.push(key);
                }
            }
            gone.extend(old);
        }
        for key in gone {
            rows.remove(&key);
        }
        rows.extend(written);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        /// Trap 12: some keys stand where a snapshot has them, the others before all changes; the changes that the snapshot
        /// saw are applied again, then those that it did not see. Every row is right, or is read again.
        #[test]
        fn changes_applied_again_end_where_they_were(
            start in proptest::collection::btree_map(0u8..8, (any::<u8>(), any::<u8>()), 0..8),
            wishes in proptest::collection::vec(
                (any::<u8>(), any::<u8>(), any::<u8>(), proptest::option::of(any::<u8>()), proptest::option::of(any::<u8>())), 0..24),
            seen in 0usize..24,
            joining in any::<u8>(),
            parts in 1usize..6,
        ) {
            let changes = make_valid(&start, &wishes);
            let seen = seen.min(changes.len());
            let (mut snapshot, mut expected) = (start.clone(), start.clone());
            apply_one_by_one(&mut snapshot, &changes[..seen]);
            apply_one_by_one(&mut expected, &changes);
            let is_joining = |key: &u8| joining & (1 << key) != 0;
            let old = start.into_iter().filter(|(key, _)| !is_joining(key));
            let mut found: Rows = old.chain(snapshot.into_iter().filter(|(key, _)| is_joining(key))).collect();
            let mut reread = std::collections::BTreeSet::new();
            let (mut rows, mut superseded, mut surplus) = (0, 0, 0);
            for (number, chunk) in changes.chunks(parts).enumerate() {
                let decision = |at| if number * parts + at < seen { Decision::Again } else { Decision::Apply };
                let mut collapse = Collapse::new(table());
                collapse.push(batch_of(chunk), Some(&(0..chunk.len()).map(decision).collect::<Vec<_>>())).unwrap();
                let collapsed = collapse.finish().unwrap();
                superseded += collapsed.superseded;
                surplus += collapsed.surplus;
                reread.extend(collapsed.rereads.iter().map(|key| *key.0.last().unwrap()));
                if let Some(Lines { batch: part, .. }) = &collapsed.batch {
                    rows += part.len() as u64;
                    apply_again(&mut found, part, &mut reread);
                }
            }
            for key in reread {
                let _ = (found.remove(&key), expected.remove(&key));
            }
            prop_assert_eq!(found, expected);
            prop_assert_eq!(rows + superseded, changes.len() as u64 + surplus);
        }
    }
}
