//! Stopping a run from outside.

use tokio_util::sync::CancellationToken;

/// Stops a run: gently ([`Control::drain`]) or at once ([`Control::abort`]). Neither loses anything.
#[derive(Debug, Clone, Default)]
pub struct Control {
    drain: CancellationToken,
    abort: CancellationToken,
}

impl Control {
    /// Nothing asked for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets what is in flight commit, then ends the run.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Ends the run where it stands; open loads roll back.
    pub fn abort(&self) {
        self.drain.cancel();
        self.abort.cancel();
    }

    pub(crate) fn draining(&self) -> &CancellationToken {
        &self.drain
    }

    pub(crate) fn aborting(&self) -> &CancellationToken {
        &self.abort
    }
}
