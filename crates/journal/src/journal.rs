//! The journal as its users see it.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use syncline_core::{Entry, Error, Position, Result};
use tokio::sync::watch;

use crate::failure::disk;
use crate::freed;
use crate::need::{Need, Usage};
use crate::options::Options;
use crate::reader::Reader;
use crate::recovery::{make_dir, recover};
use crate::segment::Segment;
use crate::shape::Interner;
use crate::state::{Offer, Shared};
use crate::tidy::tidy_if_due;
use crate::writer::{Writer, take_lock};

/// A journal; clones are handles of the same one. The last of them to go closes it, and blocks until what was appended
/// is durable.
///
/// One task appends; any number of readers read. Every method may be called from any task, and every future dropped at
/// any await: an entry whose append was dropped is in the journal whole or not at all.
#[derive(Debug, Clone)]
pub struct Journal {
    handle: Arc<Handle>,
}

/// What the clones share, and the owner of the writer's thread.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    durable: watch::Receiver<Position>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Journal {
    /// Opens the journal in a directory, or makes it. Checks every checksum; cuts a torn tail at the last whole entry, and
    /// pieces of a transaction whose end never came.
    ///
    /// # Errors
    /// Configuration, naming the directory, if another process has it open; conflict, naming the file, if what was
    /// durable is damaged; resource if the directory cannot be written.
    pub async fn open(options: Options) -> Result<Self> {
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(options)).await;
        opened.map_err(|error| Error::bug("opening the journal broke off").with_source(error))?
    }

    fn open_blocking(options: Options) -> Result<Self> {
        make_dir(&options.dir)?;
        let lock = take_lock(&options.dir)?;
        let interner = Interner::default();
        let segments = recover(&options.dir, &interner)?;
        let end = segments.back().map(|segment: &Segment| segment.to.clone());
        let (sender, durable) = watch::channel(end.unwrap_or_default());
        let dir = options.dir.clone();
        let shared = Arc::new(Shared::new(options, interner, segments));
        let writer = Writer::new(lock, sender, shared.clone())?;
        let thread = std::thread::Builder::new()
            .name("syncline-journal".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| disk("cannot start the writer of", &dir, error))?;
        Ok(Self { handle: Arc::new(Handle { shared, durable, writer: Mutex::new(Some(thread)) }) })
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Where the first entry kept begins; `None` if there is no entry.
    #[must_use]
    pub fn start(&self) -> Option<Position> {
        let state = self.shared().lock();
        let first = state.segments.iter().find(|segment| segment.entries > 0);
        let on_disk = first.map(|segment| segment.header.from.clone());
        on_disk.or_else(|| state.held(state.durable_seq + 1).map(|entry| entry.from.clone()))
    }

    /// Where the last whole entry ends, else where the empty journal stands; `None` if that was never set.
    #[must_use]
    pub fn end(&self) -> Option<Position> {
        self.shared().lock().end.clone()
    }

    /// Discards everything, also what is not yet durable. The journal is then empty and ends at `at`, durably. Readers
    /// made before are refused from then on.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub async fn reset(&self, at: Position) -> Result<()> {
        match self.shared().ask_reset(at)?.await {
            Ok(()) => Ok(()),
            Err(_) => {
                Err(self.failed().unwrap_or_else(|| Error::bug("the journal was closed during a reset")))
            }
        }
    }

    /// Appends an entry. Waits while the journal is over its budget, except inside a transaction (after a piece), and
    /// while more than [`Options::memory_bytes`] are on their way to the disk. Returns once readers can have the entry,
    /// which is before it is durable ([`Journal::durable`]).
    ///
    /// # Errors
    /// Conflict if the entry does not begin at [`Journal::end`]; whatever the writer failed with before (resource if the
    /// disk is full): from then on every append fails so. Cancelled after [`Journal::close`].
    pub async fn append(&self, entry: Entry) -> Result<()> {
        let shared = self.shared();
        let mut room = shared.room.subscribe();
        let mut offered = entry;
        let mut held_back = None;
        loop {
            room.borrow_and_update();
            offered = match shared.offer(offered)? {
                Offer::Taken => return Ok(()),
                Offer::WaitForWriter(entry) => {
                    held_back = None;
                    entry
                }
                Offer::WaitForBudget(entry) => {
                    held_back = held_back.or_else(|| Some(HeldBack::new(shared)));
                    // What was sealed since the last `retain` may be free already, and no other may come before this.
                    if tidy_if_due(&self.handle.shared).await? {
                        offered = entry;
                        continue;
                    }
                    entry
                }
            };
            if room.changed().await.is_err() {
                return Err(Error::bug("the journal is gone while it is appended to"));
            }
        }
    }

    /// The end of what is durable, counted by whole entries; [`Position::start`] as long as there is no end. Its sender is
    /// dropped when the writer stops, so that whoever waits for more is told: see [`Journal::failed`].
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<Position> {
        self.handle.durable.clone()
    }

    /// What the writer failed with. From then on the journal takes nothing more; opening it again finds all that was
    /// durable.
    #[must_use]
    pub fn failed(&self) -> Option<Error> {
        self.shared().lock().failure.as_ref().map(crate::failure::Failure::to_error)
    }

    /// A reader of the entries that end after `after`, and of the pieces that belong to them.
    ///
    /// It gives entries that may not be durable yet. A destination's checkpoint must not pass [`Journal::durable`]: after
    /// a crash the journal would end before the checkpoint, and the source would cut its entries elsewhere. So a load is
    /// written at once, and waits for `durable` before it commits.
    #[must_use]
    pub fn reader(&self, after: &Position) -> Reader {
        Reader::new(self.handle.shared.clone(), after)
    }

    /// Says what lanes still need; all else is freed, here and now or when it pays. Needs only shrink: what was let go
    /// does not come back. Until the first call everything is kept.
    ///
    /// # Errors
    /// As any write to this machine's disk; nothing needed is lost then.
    pub async fn retain(&self, needs: Vec<Need>) -> Result<()> {
        self.shared().lock().needs = Some(needs);
        tidy_if_due(&self.handle.shared).await.map(|_| ())
    }

    /// From where on each lane finds everything, also after what an earlier process freed; `None` if nothing was freed since
    /// the last [`Journal::reset`]. A lane that stands before its place misses changes.
    ///
    /// # Errors
    /// As any read of this machine's disk; conflict if the file that says so is damaged.
    pub fn freed_by(&self) -> Result<Option<Vec<Need>>> {
        freed::recall(&self.shared().options.dir)
    }

    /// Whether what is appended is made durable at once, because somebody waits for it, or in groups of some milliseconds.
    pub fn set_urgent(&self, urgent: bool) {
        let mut state = self.shared().lock();
        if std::mem::replace(&mut state.urgent, urgent) != urgent {
            drop(state);
            self.shared().work.notify_one();
        }
    }

    /// Waits until everything appended so far is durable.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub async fn sync(&self) -> Result<()> {
        let mut durable = self.durable();
        let end = {
            let mut state = self.shared().lock();
            state.wanted_seq = state.last_seq;
            state.end.clone().unwrap_or_default()
        };
        self.shared().work.notify_one();
        while *durable.borrow_and_update() < end {
            if durable.changed().await.is_err() {
                return self.failed().map_or(Ok(()), Err);
            }
        }
        Ok(())
    }

    /// How full it is.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.shared().usage()
    }

    /// Makes everything appended durable, stops the writer and gives the directory free. May be repeated.
    ///
    /// # Errors
    /// What the writer failed with.
    pub async fn close(&self) -> Result<()> {
        self.handle.stop();
        let mut durable = self.durable();
        // The writer drops the sender last of all.
        while durable.changed().await.is_ok() {}
        self.failed().map_or(Ok(()), Err)
    }
}

/// While it lives, an append waits for the budget.
struct HeldBack<'a>(&'a Shared);

impl<'a> HeldBack<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.lock().held_back += 1;
        Self(shared)
    }
}

impl Drop for HeldBack<'_> {
    fn drop(&mut self) {
        self.0.lock().held_back -= 1;
    }
}

impl Handle {
    fn stop(&self) {
        self.shared.lock().closing = true;
        self.shared.wake_all();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic of the writer is in `failure` already.
        let _ = thread.map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_is_bounded_while_nobody_reads() {
        let dir = tempfile::tempdir().unwrap();
        let memory_bytes = 20_000;
        let options = Options { memory_bytes, ..Options::new(dir.path(), 1 << 30) };
        let journal = Journal::open(options).await.unwrap();
        journal.reset(Position::from_u64(0)).await.unwrap();
        let mut reader = journal.reader(&Position::from_u64(0));
        for n in 0..2000 {
            let entry = Entry::progress(Position::from_u64(n), Position::from_u64(n + 1));
            let most = memory_bytes + entry.bytes();
            journal.append(entry).await.unwrap();
            assert!(journal.shared().lock().tail_bytes() <= most);
        }
        for n in 0..2000 {
            assert_eq!(reader.next().await.unwrap().from, Position::from_u64(n));
        }
        assert!(reader.try_next().await.unwrap().is_none());
        // What every reader has passed is let go with the next group.
        journal.append(Entry::progress(Position::from_u64(2000), Position::from_u64(2001))).await.unwrap();
        journal.close().await.unwrap();
        assert!(journal.shared().lock().tail_bytes() <= 300);
    }
}
