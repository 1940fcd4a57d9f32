//! What all handles, readers and the writer of a journal share.
//!
//! One mutex guards it. It is held for moments, never across a read, a write or an await. Files are the writer's (the
//! active segment) and [`crate::tidy`]'s (sealed ones); both take `structure` before they add or remove a segment other
//! than at the end.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use syncline_core::{Entry, Error, ErrorKind, Position, Result};
use tokio::sync::{oneshot, watch};

use crate::failure::Failure;
use crate::need::{Need, Usage};
use crate::options::Options;
use crate::segment::{Segment, reaches};
use crate::shape::Interner;

/// Taken by the writer at once, in bytes of entries: bounds how long an entry waits for the sync of others.
const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// How long an entry may wait for others to be made durable with it, unless somebody waits for it ...
const GROUP_WAIT: Duration = Duration::from_millis(20);
/// ... or this much is waiting.
const GROUP_WAIT_BYTES: usize = 1024 * 1024;

/// An entry in memory.
#[derive(Debug)]
struct Held {
    entry: Arc<Entry>,
    bytes: usize,
}

/// What is shared.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) interner: Interner,
    state: Mutex<State>,
    /// Held while sealed segments are freed or rewritten, or all are discarded.
    pub(crate) structure: Mutex<()>,
    /// Wakes the writer.
    pub(crate) work: Condvar,
    /// Ticks when an entry was appended, or nothing more will be.
    pub(crate) appended: watch::Sender<u64>,
    /// Ticks when there may be room.
    pub(crate) room: watch::Sender<u64>,
}

/// What the mutex guards.
#[derive(Debug)]
pub(crate) struct State {
    /// In order; the last one is active. Empty as long as the journal has no position.
    pub(crate) segments: VecDeque<Segment>,
    /// `to` of the last whole entry appended.
    pub(crate) end: Option<Position>,
    /// Whether the last entry appended was a piece.
    pub(crate) in_transaction: bool,
    /// Number of the last entry appended.
    pub(crate) last_seq: u64,
    /// Number of the last entry that is durable.
    pub(crate) durable_seq: u64,
    /// The last entries, up to `last_seq`.
    tail: VecDeque<Held>,
    tail_bytes: usize,
    /// Of these, what is not yet durable.
    pending_bytes: usize,
    /// Since when the oldest of them waits.
    pending_since: Option<Instant>,
    /// Whether entries are to be made durable at once.
    pub(crate) urgent: bool,
    /// Entries up to this number are to be made durable at once.
    pub(crate) wanted_seq: u64,
    /// Whether the entry before the tail is a piece of a transaction that goes on in it.
    tail_cuts_transaction: bool,
    /// Appends that wait for the budget.
    pub(crate) held_back: usize,
    pub(crate) needs: Option<Vec<Need>>,
    /// For each reader, the last entry that it has behind itself.
    pub(crate) readers: HashMap<u64, u64>,
    pub(crate) readers_made: u64,
    /// Counts resets.
    pub(crate) resets: u64,
    pub(crate) closing: bool,
    pub(crate) failure: Option<Failure>,
    reset: Option<Reset>,
}

/// A reset that the writer is asked for.
#[derive(Debug)]
pub(crate) struct Reset {
    pub(crate) at: Position,
    /// Dropped without an answer if the writer failed.
    pub(crate) done: oneshot::Sender<()>,
}

/// What the writer is to do.
pub(crate) enum Work {
    /// Write these entries, numbered from the first on.
    Write(u64, Vec<Arc<Entry>>),
    Reset(Reset),
    Stop,
}

/// What became of an offered entry.
pub(crate) enum Offer {
    Taken,
    /// The writer must catch up first.
    WaitForWriter(Entry),
    /// Something must be freed first.
    WaitForBudget(Entry),
}

impl Shared {
    pub(crate) fn new(options: Options, interner: Interner, segments: VecDeque<Segment>) -> Self {
        let last_seq = segments.back().map_or(0, |segment| segment.last_seq);
        let state = State {
            end: segments.back().map(|segment| segment.to.clone()),
            segments,
            in_transaction: false,
            last_seq,
            durable_seq: last_seq,
            tail: VecDeque::new(),
            tail_bytes: 0,
            pending_bytes: 0,
            pending_since: None,
            urgent: false,
            wanted_seq: 0,
            tail_cuts_transaction: false,
            held_back: 0,
            needs: None,
            readers: HashMap::new(),
            readers_made: 0,
            resets: 0,
            closing: false,
            failure: None,
            reset: None,
        };
        Self {
            options,
            interner,
            state: Mutex::new(state),
            structure: Mutex::new(()),
            work: Condvar::new(),
            appended: watch::Sender::new(0),
            room: watch::Sender::new(0),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a defect that the writer's end reports; the state itself is changed in single steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody who waits that something changed.
    pub(crate) fn wake_all(&self) {
        self.work.notify_all();
        self.appended.send_modify(|tick| *tick += 1);
        self.room.send_modify(|tick| *tick += 1);
    }

    /// Takes an entry if it may be taken now.
    pub(crate) fn offer(&self, entry: Entry) -> Result<Offer> {
        let mut state = self.lock();
        state.check_open()?;
        state.check_fits(&entry)?;
        if entry.is_piece() && entry.batches.is_empty() {
            return Ok(Offer::Taken);
        }
        if state.pending_bytes > 0 && state.pending_bytes >= self.options.memory_bytes {
            return Ok(Offer::WaitForWriter(entry));
        }
        if !state.in_transaction && state.bytes() >= self.options.budget_bytes {
            return Ok(Offer::WaitForBudget(entry));
        }
        let was_idle = state.pending_since.is_none();
        state.hold(entry);
        state.let_go(self.options.memory_bytes);
        let wake = was_idle || state.group_wait().is_zero();
        drop(state);
        if wake {
            self.work.notify_one();
        }
        self.appended.send_modify(|tick| *tick += 1);
        Ok(Offer::Taken)
    }

    /// Asks the writer for a reset.
    pub(crate) fn ask_reset(&self, at: Position) -> Result<oneshot::Receiver<()>> {
        let (done, receiver) = oneshot::channel();
        let mut state = self.lock();
        state.check_open()?;
        state.reset = Some(Reset { at, done });
        drop(state);
        self.work.notify_one();
        Ok(receiver)
    }

    /// Waits for something to do. Only the writer calls this.
    pub(crate) fn next_work(&self) -> Work {
        let mut state = self.lock();
        loop {
            if let Some(reset) = state.reset.take() {
                return Work::Reset(reset);
            }
            if state.durable_seq < state.last_seq {
                let wait = state.group_wait();
                if wait.is_zero() {
                    let (first, entries) = state.pending();
                    return Work::Write(first, entries);
                }
                let waited = self.work.wait_timeout(state, wait);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            if state.closing {
                return Work::Stop;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How full the journal is.
    pub(crate) fn usage(&self) -> Usage {
        let state = self.lock();
        let pinned = |need| state.segments.iter().map(|segment| segment.needed_bytes(need)).sum();
        Usage {
            bytes: state.bytes(),
            budget_bytes: self.options.budget_bytes,
            held_back: state.held_back > 0,
            needed: state.needs.iter().flatten().map(pinned).collect(),
        }
    }
}

impl State {
    /// Bytes on disk and on their way to it.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum::<u64>() + self.pending_bytes as u64
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        match &self.failure {
            Some(failure) => Err(failure.to_error()),
            None if self.closing => Err(Error::new(ErrorKind::Cancelled, "the journal is closed")),
            None => Ok(()),
        }
    }

    fn check_fits(&self, entry: &Entry) -> Result<()> {
        let Some(end) = &self.end else {
            return Err(Error::conflict("the journal has no position yet")
                .with_remedy("this is a defect: the engine must reset a new journal first"));
        };
        if entry.from != *end || entry.to < entry.from {
            return Err(Error::conflict(format!(
                "an entry ({}, {}] does not follow the journal's end {end}",
                entry.from, entry.to
            ))
            .with_remedy("run again: the stream begins anew at the journal's end"));
        }
        Ok(())
    }

    fn hold(&mut self, entry: Entry) {
        let bytes = entry.bytes();
        self.in_transaction = entry.is_piece();
        self.end = Some(entry.to.clone());
        self.last_seq += 1;
        self.tail_bytes += bytes;
        self.pending_bytes += bytes;
        let _ = self.pending_since.get_or_insert_with(Instant::now);
        self.tail.push_back(Held { entry: Arc::new(entry), bytes });
    }

    /// Number of the first entry in memory; one above the last if there is none.
    pub(crate) fn tail_seq(&self) -> u64 {
        self.last_seq + 1 - self.tail.len() as u64
    }

    fn place(&self, seq: u64) -> Option<usize> {
        seq.checked_sub(self.tail_seq()).and_then(|place| usize::try_from(place).ok())
    }

    /// An entry, if it is in memory.
    pub(crate) fn held(&self, seq: u64) -> Option<Arc<Entry>> {
        self.place(seq).and_then(|place| self.tail.get(place)).map(|held| held.entry.clone())
    }

    /// The last number that a lane at `after` has behind itself, if memory can tell.
    pub(crate) fn seq_behind(&self, after: &Position) -> Option<u64> {
        let begin = self.tail.front().map(|held| &held.entry.from).or(self.end.as_ref());
        let covered =
            begin.is_none_or(|begin| if self.tail_cuts_transaction { after > begin } else { after >= begin });
        let behind = |held: &Held| !reaches(&held.entry.to, held.entry.is_piece(), after);
        covered.then(|| self.tail_seq() + self.tail.partition_point(behind) as u64 - 1)
    }

    /// How long what is pending may still wait for company. A sync for every small entry would keep the disk busy that
    /// the destination's server may share with us, and nobody but the source waits for it.
    fn group_wait(&self) -> Duration {
        let now = self.closing || self.urgent || self.durable_seq < self.wanted_seq;
        match self.pending_since {
            Some(since) if !now && self.pending_bytes < GROUP_WAIT_BYTES => {
                GROUP_WAIT.saturating_sub(since.elapsed())
            }
            _ => Duration::ZERO,
        }
    }

    fn pending(&self) -> (u64, Vec<Arc<Entry>>) {
        let first = self.durable_seq + 1;
        let mut room = GROUP_BYTES;
        let mut entries = Vec::new();
        for held in self.tail.iter().skip(self.place(first).unwrap_or(0)) {
            entries.push(held.entry.clone());
            room = room.saturating_sub(held.bytes);
            if room == 0 {
                break;
            }
        }
        (first, entries)
    }

    /// Notes that entries up to `seq` are durable.
    pub(crate) fn mark_durable(&mut self, seq: u64, memory_bytes: usize) {
        let first = self.place(self.durable_seq + 1).unwrap_or(0);
        let end = self.place(seq + 1).unwrap_or(0);
        self.pending_bytes -= self.tail.range(first..end).map(|held| held.bytes).sum::<usize>();
        self.durable_seq = seq;
        self.pending_since = (seq < self.last_seq).then(Instant::now);
        self.let_go(memory_bytes);
    }

    /// Lets go of durable entries that memory has no room or no reader for.
    fn let_go(&mut self, memory_bytes: usize) {
        // What every reader has passed is only of use to one that is made later, which the disk serves as well.
        let passed = self.readers.values().min().copied().unwrap_or(0);
        while self.tail_seq() <= self.durable_seq
            && (self.tail_bytes > memory_bytes || self.tail_seq() <= passed)
            && let Some(held) = self.tail.pop_front()
        {
            self.tail_bytes -= held.bytes;
            self.tail_cuts_transaction = held.entry.is_piece();
        }
    }

    /// Discards everything; `segment` is all there is.
    pub(crate) fn discard(&mut self, segment: Segment) -> VecDeque<Segment> {
        self.end = Some(segment.to.clone());
        self.in_transaction = false;
        self.last_seq = segment.last_seq;
        self.durable_seq = segment.last_seq;
        self.tail.clear();
        self.tail_bytes = 0;
        self.pending_bytes = 0;
        self.pending_since = None;
        self.tail_cuts_transaction = false;
        self.resets += 1;
        std::mem::replace(&mut self.segments, VecDeque::from([segment]))
    }

    /// Bytes of entries in memory.
    #[cfg(test)]
    pub(crate) fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }
}
