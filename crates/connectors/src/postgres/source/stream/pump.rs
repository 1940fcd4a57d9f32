//! Messages in, events out: what both ways of reading (walsender, peek) share.

use std::sync::Arc;
use std::time::Duration;

use syncline_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::super::super::lsn::Lsn;
use super::assemble::{Assembler, ENTRY_BYTES};
use super::handover::Handover;
use super::slot::PageSizes;

/// Progress without changes is handed over this often at most, unless it reaches the target: each one costs the journal
/// an entry.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// While somebody always waits, this many entries are closed in one window at most. An entry of one small transaction costs
/// everybody after us more than the transaction does, so under load they are gathered; below 2,000 commits a second
/// none waits.
const PACE_ENTRIES: u32 = 8;
const PACE_WINDOW: Duration = Duration::from_millis(4);

/// Counts the entries closed in a window.
struct Pace {
    window_began: Instant,
    entries: u32,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { window_began: now, entries: 0 }
    }

    fn count(&mut self, now: Instant) {
        if now.duration_since(self.window_began) >= PACE_WINDOW {
            *self = Self::new(now);
        }
        self.entries += 1;
    }

    /// Until when the next entry has to wait, if it has to.
    fn waits_until(&self, now: Instant) -> Option<Instant> {
        let end = self.window_began + PACE_WINDOW;
        (self.entries >= PACE_ENTRIES && now < end).then_some(end)
    }
}

/// Where the stream is to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) wanted: Lsn,
    /// The same place as far as records are concerned.
    pub(super) enough: Lsn,
}

impl Target {
    pub(super) fn new(wanted: Lsn, sizes: PageSizes) -> Self {
        Self { wanted, enough: sizes.before_header(wanted) }
    }
}

/// The reader's side of the stream, whichever way the messages come.
pub(super) struct Pump {
    assembler: Assembler,
    handover: Arc<Handover>,
    target: Option<Target>,
    progressed_at: Instant,
    pace: Pace,
}

impl Pump {
    pub(super) fn new(assembler: Assembler, handover: Arc<Handover>, target: Option<Target>) -> Self {
        let now = Instant::now();
        Self { assembler, handover, target, progressed_at: now, pace: Pace::new(now) }
    }

    pub(super) fn handover(&self) -> &Handover {
        &self.handover
    }

    pub(super) fn share_handover(&self) -> Arc<Handover> {
        self.handover.clone()
    }

    /// Up to here everything is gathered.
    pub(super) fn end(&self) -> Lsn {
        self.assembler.end()
    }

    /// Whether the target is still ahead.
    pub(super) fn is_before_target(&self) -> bool {
        self.target.is_some_and(|target| self.end() < target.enough)
    }

    /// Takes one message. Returns whether there is room for more.
    ///
    /// # Errors
    /// As [`Assembler::message`].
    #[inline]
    pub(super) fn message(&mut self, body: &[u8]) -> Result<Room> {
        self.assembler.message(body)?;
        Ok(self.hand_over())
    }

    /// Everything that committed before `at` has been received.
    pub(super) fn seen(&mut self, at: Lsn) {
        self.assembler.seen(at);
    }

    /// The next messages come by another connection.
    ///
    /// # Errors
    /// As [`Assembler::change_connection`].
    pub(super) fn change_connection(&mut self) -> Result<()> {
        self.assembler.change_connection()
    }

    #[inline]
    fn hand_over(&mut self) -> Room {
        let Some(first) = self.assembler.pop() else { return Room::Left };
        self.handover.put(first);
        while let Some(event) = self.assembler.pop() {
            self.handover.put(event);
        }
        self.room()
    }

    pub(super) fn room(&self) -> Room {
        if self.handover.has_room() { Room::Left } else { Room::None }
    }

    /// Whether an entry would be closed now, and would rather have what has arrived meanwhile in it.
    pub(super) fn would_take_more(&self) -> bool {
        self.assembler.has_whole_changes()
            && self.assembler.pending_bytes() < ENTRY_BYTES
            && self.handover.is_wanted()
    }

    /// Hands over what is ready; closes the pending entry if somebody waits for it.
    ///
    /// # Errors
    /// A bug in assembling.
    pub(super) fn deliver(&mut self) -> Result<()> {
        if let Some(target) = self.target.filter(|target| self.end() >= target.enough) {
            self.assembler.seen(target.wanted);
        }
        let ready = self.assembler.has_whole_changes() || self.is_progress_due();
        if ready && self.handover.is_wanted() && self.paced_until().is_none() {
            let now = Instant::now();
            self.pace.count(now);
            self.progressed_at = now;
            self.assembler.close()?;
        }
        self.hand_over();
        Ok(())
    }

    /// Until when no entry is closed, whoever waits for one.
    pub(super) fn paced_until(&self) -> Option<Instant> {
        self.pace.waits_until(Instant::now())
    }

    /// Whether nobody waits for an entry.
    pub(super) fn is_unhurried(&self) -> bool {
        !self.handover.is_wanted()
    }

    fn is_progress_due(&self) -> bool {
        let arrived = self.target.is_some_and(|target| self.end() >= target.wanted);
        self.assembler.has_progress() && (arrived || self.progressed_at.elapsed() >= PROGRESS_INTERVAL)
    }

    /// Hands over everything that is gathered.
    ///
    /// # Errors
    /// A bug inside a transaction.
    pub(super) fn deliver_all(&mut self) -> Result<()> {
        self.assembler.close()?;
        self.progressed_at = Instant::now();
        self.hand_over();
        Ok(())
    }

    /// Waits until everything gathered is acknowledged; it must have been delivered.
    ///
    /// # Errors
    /// Cancelled if the consumer is gone before that.
    pub(super) async fn acknowledged(&self) -> Result<()> {
        // A consumer that is gone may have acknowledged everything before it went.
        while self.handover.acknowledged() < self.end() {
            self.consumer_moved().await?;
        }
        Ok(())
    }

    /// Waits until the consumer did something.
    ///
    /// # Errors
    /// Cancelled if it is gone.
    pub(super) async fn consumer_moved(&self) -> Result<()> {
        if self.handover.is_closed() {
            return Err(closed());
        }
        self.handover.consumer_moved().await;
        Ok(())
    }
}

/// Whether more may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Left,
    None,
}

/// The consumer dropped the stream: nobody sees this error.
pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Cancelled, "the stream was closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_wait_only_under_load() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::new(start);
        for millis in [0, 10, 20, 30, 40, 50, 60, 70, 80, 90] {
            pace.count(at(millis));
            assert_eq!(pace.waits_until(at(millis)), None);
        }
        for _ in 1..PACE_ENTRIES {
            pace.count(at(91));
        }
        assert_eq!(pace.waits_until(at(91)), Some(at(94)));
        assert_eq!(pace.waits_until(at(94)), None);
        pace.count(at(94));
        assert_eq!(pace.waits_until(at(94)), None);
    }
}
