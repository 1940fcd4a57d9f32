//! When the log has to be written to so that it moves: rarely, and one logical message at a time.
//!
//! - The walsender sends only what is flushed. A target taken from the insert position of an otherwise idle server may
//!   never be flushed by itself.
//! - A confirmed position that lags while nothing is pending holds the source's log for nothing.

use std::time::Duration;

use syncline_core::Result;
use tokio::time::Instant;

use super::super::super::lsn::Lsn;
use super::super::super::url::Address;
use super::pump::Pump;
use super::slot;
use super::startup::{self, Purpose};

/// A target may stay ahead of a log that does not move for so long.
const TARGET_WAIT: Duration = Duration::from_secs(1);
/// The confirmed position may lag for so long while nothing is pending.
const LAG_WAIT: Duration = Duration::from_secs(60);
/// Once a message was written, time for it to arrive.
const REPEAT_WAIT: Duration = Duration::from_secs(60);

/// Watches the stream and writes a message when it is stuck.
pub(super) struct Nudge<'a> {
    address: &'a Address,
    watch: Watch,
}

/// The decision, apart from its carrying out.
#[derive(Debug)]
struct Watch {
    end: Lsn,
    moved_at: Instant,
    lagging_since: Option<Instant>,
    nudged_at: Option<Instant>,
}

/// What the stream looks like.
#[derive(Debug, Clone, Copy)]
struct View {
    end: Lsn,
    acknowledged: Lsn,
    source_end: Lsn,
    before_target: bool,
}

impl<'a> Nudge<'a> {
    pub(super) fn new(address: &'a Address) -> Self {
        Self { address, watch: Watch::new(Instant::now()) }
    }

    /// Writes a message if the stream is stuck. A failure only delays what waits for it: the stream itself tells when the
    /// server is gone.
    pub(super) async fn if_stuck(&mut self, pump: &Pump) {
        let handover = pump.handover();
        let view = View {
            end: pump.end(),
            acknowledged: handover.acknowledged(),
            source_end: handover.source_end(),
            before_target: pump.is_before_target(),
        };
        if !self.watch.is_stuck(view, Instant::now()) {
            return;
        }
        match self.write().await {
            Ok(()) => {
                tracing::debug!(position = %view.end, "wrote a logical message, for the log stood still");
            }
            Err(error) => tracing::warn!(error = %error, "cannot write a logical message"),
        }
    }

    async fn write(&self) -> Result<()> {
        let mut sql = startup::connect(self.address, Purpose::Sql).await?;
        slot::emit_message(&mut sql).await?;
        sql.terminate().await;
        Ok(())
    }
}

impl Watch {
    fn new(now: Instant) -> Self {
        Self { end: Lsn(0), moved_at: now, lagging_since: None, nudged_at: None }
    }

    fn is_stuck(&mut self, view: View, now: Instant) -> bool {
        if view.end > self.end {
            (self.end, self.moved_at) = (view.end, now);
        }
        let idle_lag = view.acknowledged >= view.end && view.source_end > view.acknowledged;
        self.lagging_since = if idle_lag { self.lagging_since.or(Some(now)) } else { None };
        let late = |since: Instant, wait: Duration| now.duration_since(since) >= wait;
        let stuck = (view.before_target && late(self.moved_at, TARGET_WAIT))
            || self.lagging_since.is_some_and(|since| late(since, LAG_WAIT));
        let just_nudged = self.nudged_at.is_some_and(|at| !late(at, REPEAT_WAIT));
        if stuck && !just_nudged {
            self.nudged_at = Some(now);
        }
        stuck && !just_nudged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_TARGET: View =
        View { end: Lsn(10), acknowledged: Lsn(10), source_end: Lsn(10), before_target: false };

    #[test]
    fn trap_4_a_message_only_after_a_minute_of_lag_without_anything_pending() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let lagging = View { source_end: Lsn(20), ..AT_TARGET };
        assert!(!watch.is_stuck(lagging, at(0)));
        assert!(!watch.is_stuck(AT_TARGET, at(50)));
        assert!(!watch.is_stuck(lagging, at(55)));
        assert!(!watch.is_stuck(View { end: Lsn(15), source_end: Lsn(20), ..AT_TARGET }, at(80)));
        assert!(!watch.is_stuck(lagging, at(90)));
        assert!(watch.is_stuck(lagging, at(151)));
        assert!(!watch.is_stuck(lagging, at(152)));
    }

    #[test]
    fn a_target_ahead_of_a_log_that_stands_still_gets_one_message() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let at = |millis| start + Duration::from_millis(millis);
        let ahead = View { before_target: true, ..AT_TARGET };
        assert!(!watch.is_stuck(ahead, at(0)));
        assert!(!watch.is_stuck(View { end: Lsn(12), ..ahead }, at(900)));
        assert!(!watch.is_stuck(View { end: Lsn(12), ..ahead }, at(1_800)));
        assert!(watch.is_stuck(View { end: Lsn(12), ..ahead }, at(1_900)));
        assert!(!watch.is_stuck(View { end: Lsn(12), ..ahead }, at(3_000)));
    }
}
