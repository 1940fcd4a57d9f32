//! Rows that were set aside earlier, before the changes that follow them.
//!
//! Lines of a collapse mean what they say all at once, not one after the other: two rows may have exchanged their keys. So
//! they are put back as states, not as changes.

use std::collections::HashSet;

use syncline_core::{ChangeBatch, LetterId, Operation, Result};

use super::{Collapse, KeyOf, Line, Row, State};

impl Collapse {
    /// Puts rows in that were set aside, each a batch of one line, before any change of their keys. What the destination has
    /// at a key that a row moved to is not known: it counts as there.
    pub(crate) fn seed(&mut self, letters: impl IntoIterator<Item = (LetterId, ChangeBatch)>) -> Result<()> {
        let mut lines = Vec::new();
        for (id, batch) in letters {
            self.seeded = true;
            let number = self.adopt(batch);
            let place = (number, 0);
            if !self.table.has_row_key() {
                self.sequence.push(place);
                continue;
            }
            let origin = match self.batches[number].old_row(0) {
                Some(old) => Some((self.there(place, KeyOf::Old)?, (number, old))),
                None => None,
            };
            let slot = match self.batches[number].operations[0] {
                Operation::Insert => self.slot(place, KeyOf::New, false)?,
                _ => self.there(place, KeyOf::New)?,
            };
            lines.push((id, slot, place, origin));
        }
        for (id, slot, place, origin) in lines {
            self.slots[slot].state = match self.batches[place.0].operations[0] {
                Operation::Delete => State::Dead { row: place, old_image: false },
                _ => {
                    let absent = self.absent(place);
                    State::Live(Row { origin, letter: Some(id), behind: true, ..Row::new(place, absent) })
                }
            };
        }
        Ok(())
    }

    /// Lets rows that were set aside be written as any other.
    pub(crate) fn release(&mut self) {
        for slot in &mut self.slots {
            if let State::Live(row) = &mut slot.state {
                row.behind = false;
            }
        }
    }

    /// The slot of a key at which the destination may have a row.
    fn there(&mut self, place: super::Place, which: KeyOf) -> Result<usize> {
        let slot = self.slot(place, which, true)?;
        self.slots[slot].existed = self.truncate.is_none();
        Ok(slot)
    }

    /// Lines that wait, and the others. What is written at a key that a waiting row still has at the destination waits with
    /// it: the row there is what the waiting one is completed from.
    pub(super) fn apart<'a>(&'a self, lines: Vec<Line<'a>>) -> (Vec<Line<'a>>, Vec<Line<'a>>) {
        if !self.seeded {
            return (Vec::new(), lines);
        }
        let live = |slot: usize| match &self.slots[slot].state {
            State::Live(row) if !row.is_incomplete() => Some(row),
            State::Live(_) | State::Dead { .. } => None,
        };
        let mut open: Vec<usize> =
            (0..self.slots.len()).filter(|&slot| live(slot).is_some_and(|row| row.behind)).collect();
        let mut waits: HashSet<usize> = open.iter().copied().collect();
        while let Some(slot) = open.pop() {
            let origin = live(slot).and_then(|row| row.origin).map(|(origin, _)| origin);
            if let Some(origin) = origin.filter(|&origin| live(origin).is_some())
                && waits.insert(origin)
            {
                open.push(origin);
            }
        }
        lines.into_iter().partition(|line| line.slot.is_some_and(|slot| waits.contains(&slot)))
    }
}
