//! A lane's way through the journal: what it has passed, and what of that is committed.

use std::collections::BTreeSet;
use std::sync::Arc;

use syncline_core::{ChangeBatch, Entry, Lane, Position, Result, TableId};
use syncline_journal::{Interest, Journal, Reader};

/// A lane and its reader.
pub(crate) struct LaneReader {
    pub(crate) lane: Lane,
    /// Where the checkpoint has the lane.
    pub(crate) committed: Position,
    /// What was taken from the journal; ahead of `committed` only by ranges without changes of this lane.
    pub(crate) passed: Position,
    reader: Reader,
    ahead: Option<Arc<Entry>>,
}

impl LaneReader {
    pub(crate) fn new(journal: &Journal, lane: Lane, at: &Position) -> Self {
        Self { lane, committed: at.clone(), passed: at.clone(), reader: journal.reader(at), ahead: None }
    }

    /// Begins again at what is committed (a load was dropped).
    pub(crate) fn rewind(&mut self, journal: &Journal) {
        self.passed = self.committed.clone();
        self.reader = journal.reader(&self.committed);
        self.ahead = None;
    }

    /// The next entry if it may be loaded: its transaction is closed in the journal, and it does not go beyond `limit`.
    pub(crate) async fn peek(
        &mut self,
        journal: &Journal,
        limit: Option<&Position>,
    ) -> Result<Option<Arc<Entry>>> {
        if self.ahead.is_none() {
            self.ahead = self.reader.try_next().await?;
        }
        let Some(entry) = &self.ahead else { return Ok(None) };
        let open = entry.is_piece() && journal.end().is_none_or(|end| end <= entry.to);
        // A limit is the end of some entry: one beyond a piece's place is at or beyond the end of its transaction.
        let beyond = limit.is_some_and(|limit| entry.to > *limit || (entry.is_piece() && entry.to == *limit));
        Ok((!open && !beyond).then(|| Arc::clone(entry)))
    }

    /// Takes what `peek` showed.
    pub(crate) fn take(&mut self) {
        if let Some(entry) = self.ahead.take()
            && entry.to > self.passed
        {
            self.passed = entry.to.clone();
        }
    }

    /// Waits until the journal has something after what was taken. Cancel-safe.
    pub(crate) async fn wait(&mut self) -> Result<()> {
        if self.ahead.is_none() {
            self.ahead = Some(self.reader.next().await?);
        } else {
            // Something is there that may not be loaded yet (an open transaction): its end wakes the loader by time.
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
        match &self.lane {
            Lane::Main => Interest::AllExcept(apart.clone()),
            Lane::Table(id) => Interest::Only(id.clone()),
        }
    }
}
