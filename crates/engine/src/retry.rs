//! Back-off between attempts: exponential, with jitter, bounded in delay and in patience.

use std::time::Duration;

/// How patient a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Shortest delay between attempts.
    pub delay_min: Duration,
    /// Longest delay.
    pub delay_max: Duration,
    /// How long a run that was never fully open keeps trying: a wrong host should not look like work.
    pub patience_opening: Duration,
    /// How long a run that was open keeps trying without progress, unless it follows.
    pub patience_running: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            delay_min: Duration::from_millis(200),
            delay_max: Duration::from_secs(15),
            patience_opening: Duration::from_secs(10),
            patience_running: Duration::from_secs(300),
        }
    }
}

/// Decides whether and when to try again.
pub(crate) struct Backoff {
    policy: RetryPolicy,
    delay: Duration,
    waited: Duration,
    random: u64,
}

impl Backoff {
    /// `seed` makes the jitter; the same seed gives the same delays.
    pub(crate) fn new(policy: RetryPolicy, seed: u64) -> Self {
        Self { policy, delay: policy.delay_min, waited: Duration::ZERO, random: seed | 1 }
    }

    /// There was progress: the next delay is the shortest again.
    pub(crate) fn reset(&mut self) {
        self.delay = self.policy.delay_min;
        self.waited = Duration::ZERO;
    }

    /// The next delay, `None` when patience is at its end.
    pub(crate) fn next(&mut self, opened: bool, follow: bool) -> Option<Duration> {
        let patience = if !opened {
            self.policy.patience_opening
        } else if follow {
            Duration::MAX
        } else {
            self.policy.patience_running
        };
        if self.waited >= patience {
            return None;
        }
        let delay = self.delay.mul_f64(self.jitter());
        self.waited = self.waited.saturating_add(delay);
        self.delay = (self.delay * 2).min(self.policy.delay_max);
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
        let mut backoff = Backoff::new(RetryPolicy::default(), 7);
        let delays: Vec<_> = std::iter::from_fn(|| backoff.next(true, false)).collect();
        assert!(delays.iter().all(|d| *d <= RetryPolicy::default().delay_max));
        assert!(
            delays.len() > 15 && delays.iter().sum::<Duration>() >= RetryPolicy::default().patience_running
        );
        backoff.reset();
        assert!(backoff.next(true, false).unwrap() <= RetryPolicy::default().delay_min);
    }

    #[test]
    fn a_run_that_never_opened_gives_up_soon() {
        let mut backoff = Backoff::new(RetryPolicy::default(), 7);
        let total: Duration = std::iter::from_fn(|| backoff.next(false, true)).sum();
        assert!(total < RetryPolicy::default().patience_opening + RetryPolicy::default().delay_max);
    }
}
