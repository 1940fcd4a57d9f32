//! Rows that refer to others, held back until everything else of their load is written: then each of them either finds the row
//! it refers to, or is set aside.

use std::collections::{BTreeMap, VecDeque};

use syncline_core::{Error, ErrorKind, Load, Operation, Part, Result, TableId};

use super::clerk::Clerk;
use super::lines::{groups, keys_of};
use super::sift::picked;
use crate::collapse::Lines;

/// Bytes of rows that may be held back.
const BYTES_MAX: usize = 64 << 20;

/// Rows of a load that come last, by table, in order.
#[derive(Default)]
pub(crate) struct Withheld {
    lines: BTreeMap<TableId, VecDeque<Lines>>,
    bytes: usize,
}

impl Withheld {
    /// Holds rows of a table back. What can be written before is given back: deletes, which may be what lets a row go that
    /// another table's rows referred to.
    ///
    /// # Errors
    /// Data if they are too many.
    pub(crate) fn hold(&mut self, table: &TableId, lines: Lines) -> Result<Option<Lines>> {
        let is_first = !self.lines.contains_key(table);
        let (now, later) = if is_first && lines.batch.table.has_row_key() {
            departures(&lines)?
        } else {
            (None, Some(lines))
        };
        let Some(later) = later else { return Ok(now) };
        self.bytes += later.batch.bytes();
        if self.bytes > BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Data,
                "rows of a load refer to rows that are not there, and the load is too large to find them",
            )
            .with_table(table));
        }
        self.lines.entry(table.clone()).or_default().push_back(later);
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

    /// Offers what comes next of each table, without looking for rows at fault.
    async fn offer_whole(&mut self, load: &mut dyn Load) -> Result<u64> {
        let mut written = 0;
        for lines in self.lines.values_mut() {
            while let Some(next) = lines.front() {
                if load.offer(Part::Changes(next.batch.clone())).await?.is_some() {
                    break;
                }
                written += next.batch.len() as u64;
                let _ = lines.pop_front();
            }
        }
        self.lines.retain(|_, lines| !lines.is_empty());
        Ok(written)
    }

    async fn sift_next(&mut self, load: &mut dyn Load, clerk: &mut Clerk) -> Result<u64> {
        let mut written = 0;
        if let Some((table, lines)) = self.lines.iter_mut().next()
            && let Some(next) = lines.pop_front()
        {
            written = clerk.sift(load, table, &next).await?;
        }
        self.lines.retain(|_, lines| !lines.is_empty());
        Ok(written)
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
