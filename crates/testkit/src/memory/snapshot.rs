//! Which transactions a read saw.

use std::collections::BTreeSet;
use std::fmt;

use syncline_core::{Error, Result};

/// A set of visible transactions, written `xmin:xmax:running,…` as PostgreSQL writes its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    running: BTreeSet<u64>,
}

impl Snapshot {
    /// The snapshot of a moment when `running` were under way and `next` was the next number.
    pub(crate) fn new(running: &BTreeSet<u64>, next: u64) -> Self {
        Self { xmin: running.first().copied().unwrap_or(next), xmax: next, running: running.clone() }
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// A conflict if the text is not a snapshot.
    pub fn parse(text: &str) -> Result<Self> {
        let broken = || Error::conflict(format!("`{text}` is not a read mark of the memory source"));
        let number = |part: &str| part.parse::<u64>().map_err(|_| broken());
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(running), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(broken());
        };
        let running =
            running.split(',').filter(|part| !part.is_empty()).map(number).collect::<Result<_>>()?;
        Ok(Self { xmin: number(xmin)?, xmax: number(xmax)?, running })
    }

    /// Whether this transaction's effects are seen.
    #[must_use]
    pub fn saw(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && !self.running.contains(&xid))
    }

    /// The transactions that were under way.
    pub fn running(&self) -> impl Iterator<Item = u64> + '_ {
        self.running.iter().copied()
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running: Vec<String> = self.running.iter().map(u64::to_string).collect();
        write!(f, "{}:{}:{}", self.xmin, self.xmax, running.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_survives_its_text() {
        let snapshot = Snapshot::new(&BTreeSet::from([5, 7]), 9);
        assert_eq!(Snapshot::parse(&snapshot.to_string()).unwrap(), snapshot);
        assert_eq!([4, 5, 6, 7, 8, 9].map(|xid| snapshot.saw(xid)), [true, false, true, false, true, false]);
        assert!(Snapshot::parse("1:2").is_err());
    }
}
