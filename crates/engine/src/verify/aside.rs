//! Dead letters in a scan that cannot say which rows they are: they are known by how many rows of which kind they make differ.
//!
//! That is enough where the letters are all there is, or where what is left is of one kind. Else nothing is called drift and
//! nothing equal: the rows are undecided until the letters are gone.

use syncline_core::{Result, TableSchema};

use super::TableVerified;
use crate::attempt::Attempt;
use crate::diff::Counts;
use crate::letters;

/// Rows that a table's letters make differ.
#[derive(Default)]
pub(super) struct Aside {
    /// Those of which it is known how.
    counts: Counts,
    /// Those that are missing, or changed if a row stood at their key.
    upserts: u64,
}

impl Aside {
    /// # Errors
    /// A conflict if a letter cannot be read.
    pub(super) fn of(attempt: &Attempt, table: &TableSchema) -> Result<Self> {
        let mut aside = Self::default();
        for letter in attempt.checkpoint().letters.values().filter(|letter| letter.table == table.id) {
            let view = letters::view(letter, None)?;
            aside.add(view.operation, !view.moved_from.is_empty(), table.has_row_key());
        }
        Ok(aside)
    }

    /// `moved`: the row is at the destination under another key, or, without a row key, with other values.
    fn add(&mut self, operation: &str, moved: bool, has_row_key: bool) {
        let counts = &mut self.counts;
        match operation {
            "delete" => counts.surplus += 1,
            _ if moved => (counts.surplus, counts.missing) = (counts.surplus + 1, counts.missing + 1),
            "update" if has_row_key => counts.changed += 1,
            "upsert" if has_row_key => self.upserts += 1,
            _ => counts.missing += 1,
        }
    }

    /// What differs without the letters; `None` if that cannot be said.
    fn rest_of(&self, drift: &Counts) -> Option<Counts> {
        let mut rest = Counts {
            missing: drift.missing.checked_sub(self.counts.missing)?,
            surplus: drift.surplus.checked_sub(self.counts.surplus)?,
            changed: drift.changed.checked_sub(self.counts.changed)?,
            ..*drift
        };
        let more = (rest.missing + rest.changed).checked_sub(self.upserts)?;
        match (rest.missing, rest.changed) {
            _ if self.upserts == 0 => {}
            (_, 0) => rest.missing = more,
            (0, _) => rest.changed = more,
            _ if more == 0 => (rest.missing, rest.changed) = (0, 0),
            _ => return None,
        }
        Some(rest)
    }

    fn rows(&self) -> u64 {
        self.counts.missing + self.counts.surplus + self.counts.changed + self.upserts
    }
}

/// Rows that are set aside are no drift. Where they cannot be told from drift, all that differ are undecided.
pub(super) fn leave_out(report: &mut TableVerified, aside: &Aside) {
    if let Some(rest) = aside.rest_of(&report.drift) {
        report.drift = rest;
        report.set_aside += aside.rows();
    } else {
        let drift = std::mem::take(&mut report.drift);
        report.undecided += drift.missing + drift.surplus + drift.changed + drift.repeated;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(letters: &[(&str, bool)], drift: [u64; 3]) -> Option<[u64; 3]> {
        let mut aside = Aside::default();
        letters.iter().for_each(|&(operation, moved)| aside.add(operation, moved, true));
        let [missing, surplus, changed] = drift;
        let drift = Counts { missing, surplus, changed, ..Counts::default() };
        aside.rest_of(&drift).map(|rest| [rest.missing, rest.surplus, rest.changed])
    }

    #[test]
    fn each_letter_takes_the_rows_it_makes_differ_and_hides_no_other() {
        // A refused update is a changed row, and does not hide a missing one.
        assert_eq!(rest(&[("update", false)], [1, 0, 1]), Some([1, 0, 0]));
        assert_eq!(rest(&[("update", true)], [1, 1, 0]), Some([0, 0, 0]));
        assert_eq!(rest(&[("delete", false), ("insert", false)], [2, 1, 0]), Some([1, 0, 0]));
        assert_eq!(rest(&[("upsert", false)], [3, 0, 0]), Some([2, 0, 0]));
        assert_eq!(rest(&[("upsert", false), ("upsert", false)], [1, 0, 1]), Some([0, 0, 0]));
        // One of the two is the letter's: which is not known.
        assert_eq!(rest(&[("upsert", false)], [1, 0, 1]), None);
        // A letter that does not show as it should.
        assert_eq!(rest(&[("update", false)], [1, 0, 0]), None);
        assert_eq!(rest(&[], [1, 2, 3]), Some([1, 2, 3]));
    }

    #[test]
    fn what_cannot_be_told_apart_is_undecided() {
        let table = syncline_core::TableId::new("s", "t");
        let mut report = TableVerified::new(&table);
        report.drift = Counts { missing: 1, changed: 1, ..Counts::default() };
        leave_out(&mut report, &Aside { upserts: 1, ..Aside::default() });
        assert_eq!((report.undecided, report.set_aside, report.left_over()), (2, 0, 0));
    }
}
