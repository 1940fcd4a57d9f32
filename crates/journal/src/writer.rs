//! The writer: one thread per journal that owns the active segment and the directory's lock.
//!
//! It takes whatever has been appended since it last looked, writes it, syncs once, and tells how far things are durable.
//! While it syncs, the next group gathers. It ends when the journal is closed (after everything is durable) or with the
//! first error, which is then everybody's; its [`watch::Sender`] ends with it.

use std::fs::File;
use std::sync::Arc;

use syncline_core::{Entry, Error, Position, Result, failpoint};
use tokio::sync::watch;

use crate::failure::{Failure, disk};
use crate::freed;
use crate::output::Output;
use crate::segment::Segment;
use crate::segment_file::{self, Header};
use crate::state::{Reset, Shared, State, Work};

/// The writer.
pub(crate) struct Writer {
    // Dropped in this order: who sees that the sender is gone may open the directory again.
    lock: Option<File>,
    durable: Option<watch::Sender<Position>>,
    shared: Arc<Shared>,
    output: Option<Output>,
}

impl Writer {
    pub(crate) fn new(lock: File, durable: watch::Sender<Position>, shared: Arc<Shared>) -> Result<Self> {
        let output = shared.lock().segments.back().map(Output::resume).transpose()?;
        Ok(Self { lock: Some(lock), durable: Some(durable), shared, output })
    }

    /// Works until the journal is closed or something fails.
    pub(crate) fn run(mut self) {
        loop {
            let outcome = match self.shared.next_work() {
                Work::Write(first, entries) => self.write(first, &entries),
                Work::Reset(reset) => self.reset(reset),
                Work::Stop => return,
            };
            if let Err(error) = outcome {
                self.fail(&error);
                return;
            }
        }
    }

    fn write(&mut self, first: u64, entries: &[Arc<Entry>]) -> Result<()> {
        failpoint::hit("journal_write")?;
        let mut in_group = false;
        for (seq, entry) in (first..).zip(entries) {
            let output = self.output.as_mut().ok_or_else(|| Error::bug("entries without a segment"))?;
            if !in_group {
                output.begin_group()?;
                in_group = true;
            }
            output.put(seq, entry, &self.shared.interner)?;
            // Sealed as soon as it is full, not when the next entry comes: that one may wait for it to be freed.
            if output.end() >= self.shared.options.seal_bytes() {
                self.sync(seq)?;
                self.roll()?;
                in_group = false;
            }
        }
        if in_group { self.sync(first + entries.len() as u64 - 1) } else { Ok(()) }
    }

    /// Makes everything up to `seq` durable and says so.
    fn sync(&mut self, seq: u64) -> Result<()> {
        let output = self.output.as_mut().ok_or_else(|| Error::bug("a sync without a segment"))?;
        output.sync()?;
        failpoint::hit("journal_synced")?;
        let mut state = self.shared.lock();
        let segment = active(&mut state)?;
        output.publish(segment);
        let whole = segment.to.clone();
        state.mark_durable(seq, self.shared.options.memory_bytes);
        drop(state);
        self.announce(whole);
        Ok(())
    }

    /// A piece ends where the last whole entry ended, so `to` is always the end of whole entries.
    fn announce(&self, whole: Position) {
        if let Some(durable) = &self.durable {
            durable.send_if_modified(|end| {
                let moved = *end != whole;
                *end = whole;
                moved
            });
        }
        self.shared.room.send_modify(|tick| *tick += 1);
    }

    /// Seals the active segment and begins the next.
    fn roll(&mut self) -> Result<()> {
        let header = {
            let mut state = self.shared.lock();
            let sealed = active(&mut state)?;
            Header {
                id: sealed.header.last_id + 1,
                last_id: sealed.header.last_id + 1,
                begins: false,
                first_seq: sealed.last_seq + 1,
                from: sealed.to.clone(),
            }
        };
        let segment = self.create(header)?;
        self.shared.lock().segments.push_back(segment);
        // An append that waits for the budget may free what is now sealed.
        self.shared.room.send_modify(|tick| *tick += 1);
        Ok(())
    }

    fn reset(&mut self, reset: Reset) -> Result<()> {
        let shared = self.shared.clone();
        let _structure = shared.structure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let header = {
            let state = shared.lock();
            let id = state.segments.back().map_or(0, |segment| segment.header.last_id + 1);
            Header { id, last_id: id, begins: true, first_seq: state.last_seq + 1, from: reset.at.clone() }
        };
        // From here on the old segments do not count, whether or not their removal succeeds.
        let mut segment = self.create(header)?;
        let discarded = {
            let mut state = shared.lock();
            // What was appended since is discarded with the rest, and its numbers are not given again.
            segment.last_seq = state.last_seq;
            state.discard(segment)
        };
        for segment in &discarded {
            segment_file::remove(&segment.path)?;
        }
        freed::forget(&shared.options.dir)?;
        self.announce(reset.at);
        shared.wake_all();
        // Nobody waits any more if the caller was dropped.
        let _ = reset.done.send(());
        Ok(())
    }

    /// A new active segment, not yet known to the others.
    fn create(&mut self, header: Header) -> Result<Segment> {
        let (file, path, bytes) = segment_file::create(&self.shared.options.dir, &header)?;
        let segment = Segment::empty(header, path, Arc::new(file), bytes);
        self.output = Some(Output::resume(&segment)?);
        Ok(segment)
    }

    fn fail(&mut self, error: &Error) {
        tracing::error!(error = %error, "the journal stops");
        let mut state = self.shared.lock();
        state.failure = Some(Failure::of(error));
        let durable = state.segments.back().map(|segment| segment.bytes);
        drop(state);
        if let (Some(output), Some(durable)) = (&self.output, durable) {
            output.cut(durable);
        }
    }
}

fn active(state: &mut State) -> Result<&mut Segment> {
    state.segments.back_mut().ok_or_else(|| Error::bug("a journal without an active segment"))
}

impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.lock().failure = Some(Failure::of(&Error::bug("the journal's writer panicked")));
        }
        self.output = None;
        // Unlocked, not only closed: a child that this process just forked may hold the file open until it execs.
        if let Some(Err(error)) = self.lock.take().map(|lock| lock.unlock()) {
            tracing::warn!(error = %error, "the journal's lock is held until this process ends");
        }
        self.durable = None;
        self.shared.wake_all();
    }
}

/// Takes the directory's lock, which ends with the file.
///
/// # Errors
/// Configuration, naming the directory, if another process has it.
pub(crate) fn take_lock(dir: &std::path::Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| disk("cannot open", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(Error::configuration(format!("the journal {} is in use by another process", dir.display()))
                .with_remedy(
                    "end the run that uses it (`syncline status` names it), or choose another --state-dir",
                ))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(disk("cannot lock", &path, error)),
    }
}
