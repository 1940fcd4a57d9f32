//! What the demo measures while the run goes on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use syncline_engine::Phase;
use tokio::sync::oneshot;

use crate::progress::view::View;

/// Lags kept; at one every 120 ms this is longer than any demo needs.
const SAMPLES_MAX: usize = 100_000;

/// What was measured.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched {
    /// From the run's start to the first moment of streaming.
    pub(super) snapshot: Option<Duration>,
    began_at: Option<Instant>,
    lags_ms: Vec<u64>,
}

impl Watched {
    /// The lag that a part (in percent) of all moments of streaming did not exceed.
    pub(super) fn lag_ms(&self, percent: usize) -> Option<u64> {
        let mut lags = self.lags_ms.clone();
        lags.sort_unstable();
        let at = lags.len().checked_sub(1)? * percent / 100;
        lags.get(at).copied()
    }
}

/// Watches a run. Clones watch together.
#[derive(Clone)]
pub(super) struct Watcher {
    watched: Arc<Mutex<Watched>>,
    streaming: Arc<Mutex<Option<oneshot::Sender<()>>>>,
}

impl Watcher {
    /// A watcher, and what says that the stream has begun.
    pub(super) fn new() -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Self { watched: Arc::default(), streaming: Arc::new(Mutex::new(Some(sender))) }, receiver)
    }

    /// Takes a moment.
    pub(super) fn note(&mut self, now: Instant, view: &View) {
        let mut watched = lock(&self.watched);
        let began_at = *watched.began_at.get_or_insert(now);
        if view.progress.phase != Phase::Streaming {
            return;
        }
        if let Some(sender) = lock(&self.streaming).take() {
            watched.snapshot = Some(now.duration_since(began_at));
            // Nobody waits any more if the demo is being stopped.
            let _ = sender.send(());
        }
        if let Some(lag) = view.progress.lag_ms.filter(|_| watched.lags_ms.len() < SAMPLES_MAX) {
            watched.lags_ms.push(lag);
        }
    }

    /// What was measured so far.
    pub(super) fn watched(&self) -> Watched {
        lock(&self.watched).clone()
    }

    /// The run has ended, however it did: nobody need wait for its stream.
    pub(super) fn end(&self) {
        lock(&self.streaming).take();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is whole after every statement; a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lags_by_percent() {
        let watched = Watched { lags_ms: vec![30, 10, 20, 1000], ..Watched::default() };
        assert_eq!([watched.lag_ms(50), watched.lag_ms(100)], [Some(20), Some(1000)]);
        assert_eq!(Watched::default().lag_ms(50), None);
    }
}
