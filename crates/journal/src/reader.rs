//! Reading a journal in order, from memory where that has it, else from disk.

use std::collections::VecDeque;
use std::sync::Arc;

use syncline_core::{Entry, Error, Position, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::disk::{Cursor, Fill, Resume, fill};
use crate::segment::reaches;
use crate::state::{Shared, State};

/// Reads entries in order. Made by [`crate::Journal::reader`].
///
/// - Both methods may be dropped at any await and called again; no entry is lost or given twice.
/// - Where the journal has let go of changes that no lane needed, the reader finds progress in their place, so the
///   entries it gives always follow each other without a gap.
/// - A reader never waits for durability: see [`crate::Journal::reader`].
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    /// Number among the readers of this journal.
    id: u64,
    /// Resets of the journal when it was made.
    resets: u64,
    cursor: Cursor,
    /// Where the last entry given ended.
    position: Position,
    appended: watch::Receiver<u64>,
    /// Read from disk, not yet given. Bounded by one fill.
    ready: VecDeque<(u64, Arc<Entry>)>,
    resume: Option<Resume>,
    /// A fill under way; kept here so that a dropped future does not lose it.
    filling: Option<JoinHandle<Result<Fill>>>,
}

/// Where the next entry is.
enum Found {
    Memory(u64, Arc<Entry>),
    Disk,
    /// Not there yet; the reason if it never will be.
    Nowhere(Result<()>),
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, after: &Position) -> Self {
        let appended = shared.appended.subscribe();
        let mut state = shared.lock();
        state.readers_made += 1;
        let id = state.readers_made;
        let seq = state.seq_behind(after);
        state.readers.insert(id, seq.unwrap_or(0));
        let resets = state.resets;
        drop(state);
        Self {
            shared,
            id,
            resets,
            cursor: seq.map_or_else(|| Cursor::After(after.clone()), Cursor::Seq),
            position: after.clone(),
            appended,
            ready: VecDeque::new(),
            resume: None,
            filling: None,
        }
    }

    /// The next entry; waits for it.
    ///
    /// # Errors
    /// Conflict, naming the file, if a segment is damaged, or if the journal was reset under this reader; cancelled if it
    /// was closed; the writer's error if it failed and nothing more is there.
    pub async fn next(&mut self) -> Result<Arc<Entry>> {
        loop {
            self.appended.borrow_and_update();
            if let Some(entry) = self.advance().await? {
                return Ok(entry);
            }
            if self.appended.changed().await.is_err() {
                return Err(Error::bug("the journal is gone while it is read"));
            }
        }
    }

    /// The next entry if it is there, `None` if nothing more is there now. May read the disk, never waits for an append.
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub async fn try_next(&mut self) -> Result<Option<Arc<Entry>>> {
        self.advance().await
    }

    async fn advance(&mut self) -> Result<Option<Arc<Entry>>> {
        loop {
            if let Some((seq, entry)) = self.ready.pop_front() {
                if let Some(entry) = self.give(seq, entry) {
                    return Ok(Some(entry));
                }
                continue;
            }
            if self.filling.is_some() {
                self.finish_fill().await?;
                continue;
            }
            match self.locate()? {
                Found::Memory(seq, entry) => {
                    self.resume = None;
                    if let Some(entry) = self.give(seq, entry) {
                        return Ok(Some(entry));
                    }
                }
                Found::Disk => self.begin_fill(),
                Found::Nowhere(reason) => return reason.map(|()| None),
            }
        }
    }

    fn locate(&self) -> Result<Found> {
        let mut state = self.shared.lock();
        self.check_not_reset(&state)?;
        let Cursor::Seq(seq) = self.cursor else { return Ok(Found::Disk) };
        state.readers.insert(self.id, seq);
        if seq >= state.last_seq {
            return Ok(Found::Nowhere(state.check_open()));
        }
        Ok(match state.held(seq + 1) {
            Some(entry) => Found::Memory(seq + 1, entry),
            None => Found::Disk,
        })
    }

    fn check_not_reset(&self, state: &State) -> Result<()> {
        if state.resets == self.resets {
            return Ok(());
        }
        Err(Error::conflict("the journal was reset while it was read")
            .with_remedy("run again: it goes on from the checkpoint"))
    }

    fn begin_fill(&mut self) {
        let (shared, cursor, resume) = (self.shared.clone(), self.cursor.clone(), self.resume.take());
        self.filling = Some(tokio::task::spawn_blocking(move || fill(&shared, &cursor, resume.as_ref())));
    }

    async fn finish_fill(&mut self) -> Result<()> {
        let Some(filling) = &mut self.filling else { return Ok(()) };
        let outcome = filling.await;
        self.filling = None;
        let fill =
            outcome.map_err(|error| Error::bug("reading the journal broke off").with_source(error))??;
        self.cursor = fill.cursor;
        self.resume = fill.resume;
        self.ready = fill.entries.into();
        Ok(())
    }

    /// Gives an entry, unless it ends before what was asked for. Progress that stands for several entries may begin before
    /// what was given last: it is cut there.
    fn give(&mut self, seq: u64, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        // What was filled from disk has moved the cursor already.
        self.cursor = Cursor::Seq(seq.max(self.seq()));
        if !reaches(&entry.to, entry.is_piece(), &self.position) {
            return None;
        }
        let entry = if entry.batches.is_empty() && entry.from < self.position {
            Arc::new(Entry::progress(self.position.clone(), entry.to.clone()))
        } else {
            entry
        };
        self.position = entry.to.clone();
        Some(entry)
    }

    fn seq(&self) -> u64 {
        match self.cursor {
            Cursor::After(_) => 0,
            Cursor::Seq(seq) => seq,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.lock().readers.remove(&self.id);
    }
}
