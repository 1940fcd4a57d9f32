//! What two scans come to, wherever they were made: from their digests to the size of sketch that may do, and from two
//! sketches of a size to the difference, a larger size, or the ranges to be compared instead.

use super::decode::Decoded;
use super::difference::Difference;
use super::error::DiffError;
use super::message::Opening;
use super::range::RangePlan;
use super::scan::Identity;
use super::sketch::{Sketch, SketchSize};
use super::terms::Terms;

/// How often a size is doubled at once. An estimate from a small sketch is vague, and what is sent too much is not got
/// back; a round trip is cheap beside a scan.
const DOUBLINGS_MAX: u32 = 3;

/// How a comparison of one range ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The two sides are equal.
    Equal,
    /// They differ in these rows.
    Different(Difference),
    /// They differ in too many for one sketch: compare these ranges, each by a scan of its own.
    Ranges {
        /// What to compare.
        plan: RangePlan,
        /// About how many rows differ; an update counts twice.
        estimate: u64,
    },
    /// They differ in more than so many ranges could show: a case for the guard.
    TooLarge {
        /// About how many rows differ; an update counts twice.
        estimate: u64,
    },
}

/// What a judge needs to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Both sketches in this size.
    Sketches(SketchSize),
    /// Nothing: it is over.
    Done(Outcome),
}

/// Two scans of one range, of which the digests are known.
#[derive(Debug)]
pub struct Judge {
    terms: Terms,
    left: Opening,
    right: Opening,
    ranges_max: u64,
}

impl Judge {
    /// Begins with both digests. `ranges_max` bounds into how many ranges, and so how many further scans of both sides, a large
    /// difference is cut.
    #[must_use]
    pub fn begin(terms: Terms, left: Opening, right: Opening, ranges_max: u64) -> (Self, Next) {
        let judge = Self { terms, left, right, ranges_max };
        if left.digest == right.digest {
            return (judge, Next::Done(Outcome::Equal));
        }
        // At least as many rows differ as one side has more; beyond that nothing is known yet.
        let first = SketchSize::for_difference(judge.more());
        let want = first.min(SketchSize::MIN.doubled(DOUBLINGS_MAX)).min(judge.largest());
        (judge, Next::Sketches(want))
    }

    /// Judges two sketches of the size that was wanted.
    ///
    /// # Errors
    /// [`DiffError::Sizes`] if they have two sizes; [`DiffError::Contradiction`] if no two scans give them.
    pub fn judge(&self, left: &Sketch, right: &Sketch) -> Result<Next, DiffError> {
        let size = left.size();
        let mut difference = left.clone();
        difference.subtract(right)?;
        let mut digest = self.left.digest;
        digest.subtract(&self.right.digest);
        match difference.decode(&self.terms.hash_key, self.terms.identity, &digest)? {
            Decoded::Difference(found) => Ok(Next::Done(Outcome::Different(found))),
            Decoded::Undecodable { estimate } => Ok(self.go_on(size, estimate.max(self.more()))),
        }
    }

    /// What to do when a sketch was too small.
    fn go_on(&self, have: SketchSize, estimate: u64) -> Next {
        let largest = self.largest();
        // Copies of few rows can make the estimate of a table without keys far too high.
        let is_sure = self.terms.identity == Identity::Key;
        let is_hopeless = is_sure && estimate / 2 > largest.cells() as u64;
        if have < largest && !is_hopeless {
            let fitting = SketchSize::for_difference(estimate);
            let want = fitting.clamp(have.doubled(1), have.doubled(DOUBLINGS_MAX)).min(largest);
            return Next::Sketches(want);
        }
        let plan = RangePlan::fitting(self.terms.range, estimate, largest, self.ranges_max);
        Next::Done(match plan {
            Some(plan) => Outcome::Ranges { plan, estimate },
            None => Outcome::TooLarge { estimate },
        })
    }

    /// Rows that one side has more.
    fn more(&self) -> u64 {
        self.left.digest.rows.abs_diff(self.right.digest.rows)
    }

    fn largest(&self) -> SketchSize {
        self.left.largest.min(self.right.largest)
    }
}
