//! Back-off between attempts: exponential, with jitter, bounded in delay and in patience.

use std::time::Duration;

/// Shortest delay.
const DELAY_MIN: Duration = Duration::from_millis(200);
/// Longest delay.
const DELAY_MAX: Duration = Duration::from_secs(15);
/// How long a run that was never fully open keeps trying: a wrong host should not look like work.
const PATIENCE_OPENING: Duration = Duration::from_secs(10);
/// How long a run that was open keeps trying without progress, unless it follows.
const PATIENCE_RUNNING: Duration = Duration::from_secs(300);

/// Decides whether and when to try again.
pub(crate) struct Backoff {
    delay: Duration,
    waited: Duration,
    random: u64,
}

impl Backoff {
    /// `seed` makes the jitter; the same seed gives the same delays.
    pub(crate) fn new(seed: u64) -> Self {
        Self { delay: DELAY_MIN, waited: Duration::ZERO, random: seed | 1 }
    }

    /// There was progress: the next delay is the shortest again.
    pub(crate) fn reset(&mut self) {
        self.delay = DELAY_MIN;
        self.waited = Duration::ZERO;
    }

    /// The next delay, `None` when patience is at its end.
    pub(crate) fn next(&mut self, opened: bool, follow: bool) -> Option<Duration> {
        let patience = if !opened {
            PATIENCE_OPENING
        } else if follow {
            Duration::MAX
        } else {
            PATIENCE_RUNNING
        };
        if self.waited >= patience {
            return None;
        }
        let delay = self.delay.mul_f64(self.jitter());
        self.waited = self.waited.saturating_add(delay);
        self.delay = (self.delay * 2).min(DELAY_MAX);
        Some(delay)
    }

    /// Between 0.5 and 1.0 (xorshift64: Marsaglia 2003).
    fn jitter(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let unit = f64::from(u32::try_from(self.random >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX);
        0.5 + unit / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_bound_and_patience_ends() {
        let mut backoff = Backoff::new(7);
        let delays: Vec<_> = std::iter::from_fn(|| backoff.next(true, false)).collect();
        assert!(delays.iter().all(|d| *d <= DELAY_MAX));
        assert!(delays.len() > 15 && delays.iter().sum::<Duration>() >= PATIENCE_RUNNING);
        backoff.reset();
        assert!(backoff.next(true, false).unwrap() <= DELAY_MIN);
    }

    #[test]
    fn a_run_that_never_opened_gives_up_soon() {
        let mut backoff = Backoff::new(7);
        let total: Duration = std::iter::from_fn(|| backoff.next(false, true)).sum();
        assert!(total < PATIENCE_OPENING + DELAY_MAX);
    }
}
