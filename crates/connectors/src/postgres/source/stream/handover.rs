//! Between the task that owns the connection and whoever calls `next`: a queue bounded by bytes, and what both sides
//! need to know of each other.
//!
//! The reader closes an entry early only when somebody waits for one. While nobody does, it goes on gathering: batches
//! are as large as the consumer is slow.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use syncline_core::{Error, ErrorKind, Result, StreamEvent};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::super::super::lsn::Lsn;

/// Events waiting for the consumer hold this much, plus one entry.
const QUEUE_BYTES_MAX: usize = 8 << 20;

/// Shared by both sides.
pub(super) struct Handover {
    queue: Mutex<Queue>,
    /// An event came, or the end.
    consumer: Notify,
    /// Room came, somebody waits, something was acknowledged, or the consumer is gone.
    producer: Notify,
    acknowledged: AtomicU64,
    source_end: AtomicU64,
    closed: CancellationToken,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<(StreamEvent, usize)>,
    bytes: usize,
    /// Somebody found the queue empty and waits.
    wanted: bool,
    ended: bool,
    error: Option<Error>,
}

impl Handover {
    /// Nothing is acknowledged beyond what the source has confirmed.
    pub(super) fn new(confirmed: Lsn) -> Self {
        Self {
            queue: Mutex::default(),
            consumer: Notify::new(),
            producer: Notify::new(),
            acknowledged: AtomicU64::new(confirmed.0),
            source_end: AtomicU64::new(0),
            closed: CancellationToken::new(),
        }
    }

    // The queue is whole after each statement, so a panic elsewhere leaves nothing half done in it.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next event; after the end, the error that ended it, once.
    ///
    /// # Errors
    /// What ended the stream.
    pub(super) async fn take(&self) -> Result<StreamEvent> {
        loop {
            let arrived = self.consumer.notified();
            {
                let mut queue = self.queue();
                if let Some((event, bytes)) = queue.events.pop_front() {
                    queue.bytes -= bytes;
                    drop(queue);
                    self.producer.notify_one();
                    return Ok(event);
                }
                if queue.ended {
                    let over = || Error::new(ErrorKind::Retriable, "the stream has ended");
                    return Err(queue.error.take().unwrap_or_else(over));
                }
                queue.wanted = true;
            }
            self.producer.notify_one();
            arrived.await;
        }
    }

    /// Hands over an event. It is taken also without room: the caller asks [`Handover::has_room`] before it reads on.
    pub(super) fn put(&self, event: StreamEvent) {
        let bytes = match &event {
            StreamEvent::Entry(entry) => entry.bytes(),
            StreamEvent::TableStopped { .. } => 0,
        };
        let mut queue = self.queue();
        queue.events.push_back((event, bytes));
        queue.bytes += bytes;
        queue.wanted = false;
        drop(queue);
        self.consumer.notify_one();
    }

    /// Ends the stream after what is queued.
    pub(super) fn end(&self, error: Option<Error>) {
        let mut queue = self.queue();
        queue.ended = true;
        queue.error = queue.error.take().or(error);
        drop(queue);
        self.consumer.notify_one();
    }

    /// Whether the reader may go on reading.
    pub(super) fn has_room(&self) -> bool {
        self.queue().bytes < QUEUE_BYTES_MAX
    }

    /// Whether somebody waits for an event and there is none.
    pub(super) fn is_wanted(&self) -> bool {
        let queue = self.queue();
        queue.wanted && queue.events.is_empty()
    }

    /// Waits until the consumer did something.
    pub(super) async fn consumer_moved(&self) {
        self.producer.notified().await;
    }

    /// The source may forget up to here. Only forward.
    pub(super) fn acknowledge(&self, position: Lsn) {
        if self.acknowledged.fetch_max(position.0, Ordering::AcqRel) < position.0 {
            self.producer.notify_one();
        }
    }

    pub(super) fn acknowledged(&self) -> Lsn {
        Lsn(self.acknowledged.load(Ordering::Acquire))
    }

    /// The source's log reaches at least to here.
    pub(super) fn heard(&self, end: Lsn) {
        self.source_end.fetch_max(end.0, Ordering::AcqRel);
    }

    pub(super) fn source_end(&self) -> Lsn {
        Lsn(self.source_end.load(Ordering::Acquire))
    }

    /// The consumer is gone.
    pub(super) fn close(&self) {
        self.closed.cancel();
        self.producer.notify_one();
    }

    /// Waits until the consumer is gone.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use syncline_core::Entry;

    use super::*;

    fn progress(to: u64) -> StreamEvent {
        StreamEvent::Entry(Entry::progress(Lsn(0).position(), Lsn(to).position()))
    }

    #[tokio::test]
    async fn a_cancelled_take_loses_nothing() {
        let handover = Arc::new(Handover::new(Lsn(0)));
        let waiting = tokio::time::timeout(Duration::from_millis(5), handover.take()).await;
        assert!(waiting.is_err());
        assert!(handover.is_wanted());
        handover.put(progress(1));
        handover.put(progress(2));
        assert!(!handover.is_wanted());
        for expected in [1, 2] {
            let StreamEvent::Entry(entry) = handover.take().await.unwrap() else { panic!() };
            assert_eq!(entry.to, Lsn(expected).position());
        }
    }

    #[tokio::test]
    async fn the_error_comes_after_the_events_and_once() {
        let handover = Handover::new(Lsn(0));
        handover.put(progress(1));
        handover.end(Some(Error::conflict("gap")));
        assert!(handover.take().await.is_ok());
        assert_eq!(handover.take().await.unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(handover.take().await.unwrap_err().kind(), ErrorKind::Retriable);
    }

    #[test]
    fn acknowledging_only_moves_forward() {
        let handover = Handover::new(Lsn(5));
        handover.acknowledge(Lsn(3));
        assert_eq!(handover.acknowledged(), Lsn(5));
        handover.acknowledge(Lsn(9));
        assert_eq!(handover.acknowledged(), Lsn(9));
    }
}
