//! Changes of which only part counts, or which count once more: what the cut leaves of a change in a table's window.

use syncline_core::{Error, Operation, Result};

use super::{Collapse, KeyOf, Place, Row, State};

impl Collapse {
    pub(super) fn take_departure(&mut self, place: Place) -> Result<()> {
        let (number, row) = place;
        let old =
            self.batches[number].old_row(row).ok_or_else(|| Error::bug("a departure without an old key"))?;
        let slot = self.slot(place, KeyOf::Old, true)?;
        self.slots[slot].state = State::Dead { row: (number, old), old_image: true };
        Ok(())
    }

    pub(super) fn take_arrival(&mut self, place: Place) -> Result<()> {
        let absent = self.absent(place);
        let slot = self.slot(place, KeyOf::New, false)?;
        self.slots[slot].state = State::Live(Row { foreign: true, ..Row::new(place, absent) });
        Ok(())
    }

    /// The destination may already have what this change and later ones made of its row.
    pub(super) fn take_again(&mut self, place: Place) -> Result<()> {
        let (number, row) = place;
        self.again += 1;
        let slot = self.slot(place, KeyOf::New, true)?;
        self.slots[slot].existed = self.truncate.is_none();
        let absent = self.absent(place);
        if absent.is_empty() || self.batches[number].operations[row] == Operation::Delete {
            return self.take(place);
        }
        if self.batches[number].old_row(row).is_some() {
            self.take_departure(place)?;
        }
        self.slots[slot].state = State::Live(Row { foreign: true, ..Row::new(place, absent) });
        Ok(())
    }
}
