//! A lane's way through the journal: what it has passed, and what of that is committed.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use syncline_core::{ChangeBatch, Entry, Error, Lane, Position, Result, TableId};
use syncline_journal::{Interest, Journal, Reader};

/// Bytes of entries after which a load takes no further transaction.
const RANGE_BYTES_TARGET: usize = 16 << 20;
/// Entries taken in one go, so that other lanes get their turn where ranges have nothing for this one.
const RANGE_ENTRIES_MAX: usize = 4096;

/// A lane and its reader.
pub(crate) struct LaneReader {
    pub(crate) lane: Lane,
    /// Where the checkpoint has the lane.
    pub(crate) committed: Position,
    /// What was taken from the journal; ahead of `committed` only by ranges without changes of this lane.
    pub(crate) passed: Position,
    reader: Reader,
    /// Read and not taken yet; bounded by [`RANGE_BYTES_TARGET`] and one entry.
    ahead: VecDeque<Arc<Entry>>,
}

impl LaneReader {
    pub(crate) fn new(journal: &Journal, lane: Lane, at: &Position) -> Self {
        let reader = journal.reader(at);
        Self { lane, committed: at.clone(), passed: at.clone(), reader, ahead: VecDeque::new() }
    }

    /// Begins again at what is committed (a load was dropped).
    pub(crate) fn rewind(&mut self, journal: &Journal) {
        self.passed = self.committed.clone();
        self.reader = journal.reader(&self.committed);
        self.ahead.clear();
    }

    /// The end of the next range to load: whole transactions up to the byte target, or one that is larger. `None` if
    /// nothing waits. A range does not go beyond `limit`, nor into a transaction that has not closed yet.
    pub(crate) async fn range(
        &mut self,
        journal: &Journal,
        limit: Option<&Position>,
    ) -> Result<Option<Position>> {
        let mut end = None;
        let (mut bytes, mut entries) = (0, 0);
        while bytes < RANGE_BYTES_TARGET && entries < RANGE_ENTRIES_MAX {
            if self.ahead.len() <= entries {
                let Some(entry) = self.reader.try_next().await? else { return Ok(end) };
                self.ahead.push_back(entry);
            }
            let entry = &self.ahead[entries];
            if limit.is_some_and(|limit| entry.to > *limit) {
                return Ok(end);
            }
            bytes += entry.bytes();
            entries += 1;
            if !entry.is_piece() {
                end = Some(entry.to.clone());
            }
        }
        if end.is_some() { Ok(end) } else { self.end_of_large(journal, limit).await }
    }

    /// The end of a transaction larger than a range, which is not held in memory: a second reader looks ahead.
    async fn end_of_large(&self, journal: &Journal, limit: Option<&Position>) -> Result<Option<Position>> {
        if journal.end().is_none_or(|end| end <= self.passed)
            || limit.is_some_and(|limit| *limit <= self.passed)
        {
            return Ok(None);
        }
        let mut scout = journal.reader(&self.passed);
        while let Some(entry) = scout.try_next().await? {
            if !entry.is_piece() {
                return Ok(Some(entry.to.clone()));
            }
        }
        Ok(None)
    }

    /// The next entry of a range that ends at `end`; `None` when the range is taken.
    pub(crate) async fn next(&mut self, end: &Position) -> Result<Option<Arc<Entry>>> {
        if self.passed >= *end {
            return Ok(None);
        }
        let entry = match self.ahead.pop_front() {
            Some(entry) => entry,
            None => {
                self.reader.try_next().await?.ok_or_else(|| Error::bug("a range of the journal broke off"))?
            }
        };
        if entry.to > *end {
            return Err(Error::bug("an entry of the journal crosses the end of its range"));
        }
        if !entry.is_piece() {
            self.passed = entry.to.clone();
        }
        Ok(Some(entry))
    }

    /// Waits until the journal has something after what was taken. Cancel-safe.
    pub(crate) async fn wait(&mut self) -> Result<()> {
        if self.ahead.is_empty() {
            let entry = self.reader.next().await?;
            self.ahead.push_back(entry);
        } else {
            // Something is there that may not be loaded yet (an open transaction, a limit): time wakes the loader.
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Whether a batch is this lane's.
    pub(crate) fn takes(&self, batch: &ChangeBatch, apart: &BTreeSet<TableId>) -> bool {
        match &self.lane {
            Lane::Main => !apart.contains(&batch.table.id),
            Lane::Table(id) => *id == batch.table.id,
        }
    }

    /// What the journal must keep for this lane.
    pub(crate) fn interest(&self, apart: &BTreeSet<TableId>) -> Interest {
        Interest::of(&self.lane, apart)
    }
}
