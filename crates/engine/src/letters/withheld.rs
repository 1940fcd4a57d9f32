//! Rows that refer to others, held back until everything else of their load is written: then each of them either finds the row
//! it refers to, or is set aside.

use std::collections::BTreeMap;

use syncline_core::{Error, ErrorKind, Load, Operation, Part, Result, TableId};

use super::clerk::Clerk;
use super::lines::{groups, keys_of};
use super::sift::picked;
use crate::collapse::Lines;

/// Bytes of a load's changes of tables whose rows are held back.
const BYTES_MAX: usize = 64 << 20;

/// What lets such a load be written after all.
const REMEDY: &str = "let the user switch foreign keys off for its loads: as a superuser, GRANT SET ON PARAMETER \
    session_replication_role TO the user; or drop the foreign key at the destination";

/// Rows of a load that come last. A table has one part in such a load: what a part sets aside would be unknown to the changes
/// of the next one, which are taken before anything is offered.
#[derive(Default)]
pub(crate) struct Withheld {
    lines: BTreeMap<TableId, Lines>,
}

/// Whether changes of tables whose rows come last may still be gathered. `bytes`: what they are now.
///
/// # Errors
/// Data if they are too many.
pub(crate) fn require_room(table: &TableId, bytes: usize) -> Result<()> {
    if bytes <= BYTES_MAX {
        return Ok(());
    }
    Err(too_hard(table, "the load is too large to find them"))
}

/// The changes of a table whose rows come last have two shapes in one load.
pub(crate) fn two_shapes(table: &TableId) -> Error {
    too_hard(table, "the load changes the table's shape, so they cannot be found")
}

fn too_hard(table: &TableId, why: &str) -> Error {
    Error::new(ErrorKind::Data, format!("rows of a load refer to rows that are not there, and {why}"))
        .with_table(table)
        .with_remedy(REMEDY)
}

impl Withheld {
    /// Holds the rows of a table back. What can be written before is given back: deletes, which may be what lets a row go that
    /// another table's rows referred to.
    ///
    /// # Errors
    /// A bug if rows of the table are held already.
    pub(crate) fn hold(&mut self, table: &TableId, lines: Lines) -> Result<Option<Lines>> {
        let (now, later) =
            if lines.batch.table.has_row_key() { departures(&lines)? } else { (None, Some(lines)) };
        if let Some(later) = later
            && self.lines.insert(table.clone(), later).is_some()
        {
            return Err(Error::bug("rows of a table are held back twice in a load").with_table(table));
        }
        Ok(now)
    }

    /// Writes what was held back, and sets aside what refers to nothing; the number of rows that are written.
    ///
    /// # Errors
    /// Data if something else than these rows is in the way; else as [`Clerk::sift`].
    pub(crate) async fn write(&mut self, load: &mut dyn Load, clerk: &mut Clerk) -> Result<u64> {
        if self.lines.is_empty() {
            return Ok(0);
        }
        if let Some(error) = load.check_now().await? {
            return Err(error);
        }
        let mut written = 0;
        while !self.lines.is_empty() {
            let whole = self.offer_whole(load).await?;
            written += whole;
            // Rows of one table may refer to those of another that come with others at fault.
            if whole == 0 {
                written += self.sift_next(load, clerk).await?;
            }
        }
        Ok(written)
    }

    /// Offers the rows of each table, without looking for rows at fault.
    async fn offer_whole(&mut self, load: &mut dyn Load) -> Result<u64> {
        let mut written = 0;
        let mut refused = BTreeMap::new();
        for (table, lines) in std::mem::take(&mut self.lines) {
            if load.offer(Part::Changes(lines.batch.clone())).await?.is_none() {
                written += lines.batch.len() as u64;
            } else {
                refused.insert(table, lines);
            }
        }
        self.lines = refused;
        Ok(written)
    }

    async fn sift_next(&mut self, load: &mut dyn Load, clerk: &mut Clerk) -> Result<u64> {
        let Some((table, lines)) = self.lines.pop_first() else { return Ok(0) };
        clerk.sift(load, &table, &lines).await
    }
}

/// Rows that only go, and the others.
fn departures(lines: &Lines) -> Result<(Option<Lines>, Option<Lines>)> {
    let batch = &lines.batch;
    let first = usize::from(batch.operations.first() == Some(&Operation::Truncate));
    let keys = (first..batch.len()).map(|row| keys_of(batch, row)).collect::<Result<Vec<_>>>()?;
    let goes = |row: &usize| matches!(batch.operations[*row], Operation::Delete | Operation::Truncate);
    let (mut now, mut later): (Vec<usize>, Vec<usize>) = ((0..first).collect(), Vec::new());
    for group in groups(&keys) {
        let group: Vec<usize> = group.iter().map(|row| row + first).collect();
        if group.iter().all(goes) { now.extend(group) } else { later.extend(group) }
    }
    let some = |mut rows: Vec<usize>| {
        rows.sort_unstable();
        if rows.is_empty() { Ok(None) } else { picked(lines, &rows).map(Some) }
    };
    Ok((some(now)?, some(later)?))
}
