//! What a read saw: `pg_current_snapshot()` as text, `xmin:xmax:xip,xip…`.
//!
//! Visibility does not follow the log's order, so an LSN could not say it. On a server in recovery the list of running
//! transactions would be empty and the text untrue; such a server is refused as a source.

use std::str::FromStr;

use syncline_core::{Error, Result};

/// Half of the 32-bit transaction numbers: two that live at the same time are never farther apart.
const HALF: u64 = 1 << 31;

/// A snapshot. Transaction numbers are 64 bits wide, the upper half counting wraparounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Everything below has ended and, if it committed, is visible.
    xmin: u64,
    /// Nothing at or above had ended.
    xmax: u64,
    /// What ran between the two, ascending.
    running: Vec<u64>,
}

impl FromStr for Snapshot {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let mut parts = text.split(':');
            let (xmin, xmax) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let list = parts.next()?;
            let running = list.split(',').filter(|xid| !xid.is_empty()).map(|xid| xid.parse().ok());
            let mut running: Vec<u64> = running.collect::<Option<_>>()?;
            running.sort_unstable();
            (parts.next().is_none() && xmin <= xmax).then_some(Self { xmin, xmax, running })
        };
        parse().ok_or_else(|| Error::conflict("a read mark of the ledger is not a PostgreSQL snapshot"))
    }
}

impl Snapshot {
    /// Whether it saw a committed transaction, given by the number that the log gives: the lower 32 bits.
    pub(super) fn saw(&self, transaction: u64) -> bool {
        let xid = self.widen(transaction);
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }

    /// The 64-bit number nearest to this snapshot with these lower 32 bits.
    fn widen(&self, transaction: u64) -> u64 {
        if transaction > u64::from(u32::MAX) {
            return transaction;
        }
        let near = (self.xmax & !u64::from(u32::MAX)) | transaction;
        if near > self.xmax + HALF {
            near.saturating_sub(HALF * 2)
        } else if near + HALF < self.xmax {
            near + HALF * 2
        } else {
            near
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn damaged_marks_are_refused() {
        for text in ["", "1:2", "2:1:", "1:2:x", "1:2:3:4", "a:b:c"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
        assert_eq!("5:9:".parse::<Snapshot>().unwrap().running, Vec::<u64>::new());
    }

    proptest! {
        /// Against a reference that knows the whole 64-bit number and walks the list.
        #[test]
        fn visibility_survives_wraparound(
            xmin in (1_u64 << 31)..(1_u64 << 40),
            span in 0_u64..2000,
            running in proptest::collection::vec(0_u64..2000, 0..20),
            distance in -2_000_000_000_i64..2_000_000_000,
        ) {
            let xmax = xmin + span;
            let list: Vec<u64> = running.iter().map(|r| xmin + r).filter(|&x| x < xmax).collect();
            let text = list.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
            let snapshot: Snapshot = format!("{xmin}:{xmax}:{text}").parse().unwrap();
            let near = [xmin, xmax, xmin.saturating_sub(1), xmax + 1, xmin + span / 2];
            for xid in near.into_iter().chain([xmax.checked_add_signed(distance).unwrap()]).chain(list.clone()) {
                let seen = xid < xmin || (xid < xmax && !list.contains(&xid));
                prop_assert_eq!(snapshot.saw(xid & u64::from(u32::MAX)), seen, "{} in {}:{}", xid, xmin, xmax);
            }
        }
    }
}
