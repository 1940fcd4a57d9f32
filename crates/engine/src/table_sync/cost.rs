//! How large a batch should be, from what batches have cost so far: a fixed part and a part for each byte,
//! t = a + b·bytes, fitted by least squares. Pure.

use serde::{Deserialize, Serialize};

/// The first batch ever.
const BYTES_AT_FIRST: u64 = 256 << 10;
/// Smallest and largest batch that is aimed at.
const BYTES_MIN: u64 = 16 << 10;
const BYTES_MAX: u64 = 8 << 20;
/// Batches that are remembered.
const HISTORY_MAX: usize = 32;
/// Batches without which nothing is fitted.
const HISTORY_MIN: usize = 4;
/// How long a batch may take: what waits behind it waits so long.
const MICROS_MAX: f64 = 5_000_000.0;
/// The fixed part of a batch's time should be this share of the whole, at most.
const FIXED_SHARE: f64 = 0.1;

/// What batches have cost, and what follows from it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Costs {
    /// Bytes and microseconds of the last batches that went well, oldest first.
    history: Vec<(u64, u64)>,
    /// Above this, batches have failed; it recovers with each one that goes well.
    ceiling: Option<u64>,
}

impl Costs {
    /// Bytes that the next batch should have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let wanted = self.fitted().unwrap_or_else(|| match self.history.last() {
            // Sizes must differ for the two parts to be told from each other.
            Some(&(bytes, _)) => bytes.max(BYTES_AT_FIRST / 2).saturating_mul(2),
            None => BYTES_AT_FIRST,
        });
        wanted.min(self.ceiling.unwrap_or(BYTES_MAX)).clamp(BYTES_MIN, BYTES_MAX)
    }

    /// A batch went well.
    pub fn went_well(&mut self, bytes: u64, micros: u64) {
        self.history.push((bytes, micros));
        if self.history.len() > HISTORY_MAX {
            self.history.remove(0);
        }
        self.ceiling = self.ceiling.map(|at| at + at / 4).filter(|&at| at < BYTES_MAX);
    }

    /// A batch failed as a whole: the next ones are smaller.
    pub fn failed(&mut self, bytes: u64) {
        let half = (bytes.min(self.bytes()) / 2).max(BYTES_MIN);
        self.ceiling = Some(half.min(self.ceiling.unwrap_or(BYTES_MAX)));
    }

    /// The size at which the fixed part is small beside the whole, unless that takes too long.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate of a size, bounded on both sides"
    )]
    fn fitted(&self) -> Option<u64> {
        if self.history.len() < HISTORY_MIN {
            return None;
        }
        let n = self.history.len() as f64;
        let mean =
            |of: fn(&(u64, u64)) -> u64| self.history.iter().map(|batch| of(batch) as f64).sum::<f64>() / n;
        let (bytes_mean, micros_mean) = (mean(|batch| batch.0), mean(|batch| batch.1));
        let (mut spread, mut together) = (0.0, 0.0);
        for &(bytes, micros) in &self.history {
            let bytes = bytes as f64 - bytes_mean;
            spread += bytes * bytes;
            together += bytes * (micros as f64 - micros_mean);
        }
        if spread.sqrt() < 0.1 * bytes_mean * n.sqrt() {
            return None;
        }
        let per_byte = (together / spread).max(1e-6);
        let fixed = (micros_mean - per_byte * bytes_mean).max(0.0);
        let cheap = fixed * (1.0 - FIXED_SHARE) / (FIXED_SHARE * per_byte);
        let in_time = (MICROS_MAX - fixed).max(0.0) / per_byte;
        Some(cheap.max(BYTES_AT_FIRST as f64).min(in_time).min(BYTES_MAX as f64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends batches of the size that is asked for to a far side that costs so much.
    fn tuned(fixed: u64, bytes_per_milli: u64) -> Costs {
        let mut costs = Costs::default();
        for _ in 0..20 {
            let bytes = costs.bytes();
            costs.went_well(bytes, fixed + bytes * 1000 / bytes_per_milli);
        }
        costs
    }

    #[test]
    fn the_size_follows_from_what_batches_cost() {
        // 100 ms and 100 MB/s: all the fixed cost asks for the most.
        assert_eq!(tuned(100_000, 100_000).bytes(), BYTES_MAX);
        // 1 ms and 10 MB/s: 9 ms of work beside it.
        assert!(tuned(1_000, 10_000).bytes() <= BYTES_AT_FIRST * 2);
        // 20 kB/s: no longer than five seconds.
        let slow = tuned(10_000, 20).bytes();
        assert!((80_000..=100_000).contains(&slow), "{slow}");
    }

    #[test]
    fn what_fails_shrinks_and_recovers() {
        let mut costs = tuned(100_000, 100_000);
        costs.failed(BYTES_MAX);
        assert_eq!(costs.bytes(), BYTES_MAX / 2);
        costs.failed(costs.bytes());
        assert_eq!(costs.bytes(), BYTES_MAX / 4);
        for _ in 0..100 {
            costs.failed(1);
        }
        assert_eq!(costs.bytes(), BYTES_MIN);
        for _ in 0..100 {
            costs.went_well(costs.bytes(), 100_000 + costs.bytes() / 100);
        }
        assert!(costs.bytes() > BYTES_AT_FIRST);
    }
}
