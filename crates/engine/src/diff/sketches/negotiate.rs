//! The two ends of a comparison: one asks, one answers. Neither does any I/O; the caller carries messages.
//!
//! The asking end holds the *left* side. It asks for the digest, then for a small sketch, then for as much more of it as
//! the last one's estimate says, until the difference decodes or the largest sketch is too small. What was sent is never
//! sent again, so all rounds together cost what the last size alone would have. The answering end keeps no state.

use super::decode::Decoded;
use super::difference::Difference;
use super::error::DiffError;
use super::message::{CellRun, Opening, Reply, Request};
use super::range::RangePlan;
use super::scan::Scan;
use super::sketch::{Sketch, SketchSize};

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

/// What the asking end does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask this.
    Ask(Request),
    /// It is over.
    Done(Outcome),
}

/// What a comparison has cost on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Requests sent.
    pub rounds: u32,
    /// Bytes of the requests.
    pub sent_bytes: u64,
    /// Bytes of the replies.
    pub received_bytes: u64,
}

/// The asking end.
#[derive(Debug)]
pub struct Asker<'a> {
    scan: &'a Scan,
    ranges_max: u64,
    asked: Option<Request>,
    theirs: Option<Opening>,
    sketch: Option<Sketch>,
    traffic: Traffic,
}

impl<'a> Asker<'a> {
    /// Begins with the left side's scan and the first request. `ranges_max` bounds into how many ranges, and so how many
    /// further scans of both sides, a large difference is cut.
    #[must_use]
    pub fn new(scan: &'a Scan, ranges_max: u64) -> (Self, Request) {
        let asked = Request::Digest;
        let (theirs, sketch, traffic) = (None, None, Traffic::default());
        (Self { scan, ranges_max, asked: Some(asked), theirs, sketch, traffic }, asked)
    }

    /// A request as bytes, counted.
    pub fn send(&mut self, request: Request) -> Vec<u8> {
        let bytes = request.to_bytes(self.scan.fingerprint());
        self.traffic.rounds += 1;
        self.traffic.sent_bytes += bytes.len() as u64;
        bytes
    }

    /// The reply to the last request, as bytes.
    ///
    /// # Errors
    /// As [`Self::receive`], and whatever is wrong with the bytes.
    pub fn receive_bytes(&mut self, bytes: &[u8]) -> Result<Step, DiffError> {
        self.traffic.received_bytes += bytes.len() as u64;
        let asked = self.asked.ok_or(DiffError::NotAsked)?;
        self.receive(Reply::from_bytes(bytes, asked, self.scan.fingerprint())?)
    }

    /// The reply to the last request. After an error or [`Step::Done`] nothing more is received.
    ///
    /// # Errors
    /// [`DiffError::NotAsked`] if it answers something else, [`DiffError::Contradiction`] if no scan gives it.
    pub fn receive(&mut self, reply: Reply) -> Result<Step, DiffError> {
        let step = match (self.asked.take(), reply) {
            (Some(Request::Digest), Reply::Digest(opening)) => self.open(opening),
            (Some(Request::Cells { have, want }), Reply::Cells(run))
                if (run.have, run.want) == (have, want) =>
            {
                self.take_cells(run)?
            }
            _ => return Err(DiffError::NotAsked),
        };
        if let Step::Ask(request) = step {
            self.asked = Some(request);
        }
        Ok(step)
    }

    /// What the other side said of its scan, once it has.
    #[must_use]
    pub fn theirs(&self) -> Option<&Opening> {
        self.theirs.as_ref()
    }

    /// Bytes and rounds so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    fn open(&mut self, theirs: Opening) -> Step {
        self.theirs = Some(theirs);
        let ours = self.scan.digest();
        if *ours == theirs.digest {
            return Step::Done(Outcome::Equal);
        }
        // At least as many rows differ as one side has more; beyond that nothing is known yet.
        let first = SketchSize::for_difference(ours.rows.abs_diff(theirs.digest.rows));
        let want = first.min(SketchSize::MIN.doubled(DOUBLINGS_MAX)).min(self.largest(&theirs));
        Step::Ask(Request::Cells { have: None, want })
    }

    fn take_cells(&mut self, run: CellRun) -> Result<Step, DiffError> {
        let theirs = self.theirs.ok_or(DiffError::NotAsked)?;
        let sketch = match self.sketch.take() {
            Some(smaller) => smaller.grow(run.want, &run.cells)?,
            None => {
                let sketch = Sketch::from_cells(run.want, run.cells)?;
                require_digest(&sketch, &theirs)?;
                sketch
            }
        };
        let mut difference = self.scan.sketch().fold(run.want)?;
        difference.subtract(&sketch)?;
        match difference.decode(self.scan.hash_key(), self.scan.identity())? {
            Decoded::Difference(found) if found.is_empty() => {
                Err(DiffError::Contradiction("its digest differs and its sketch does not"))
            }
            Decoded::Difference(found) => Ok(Step::Done(Outcome::Different(found))),
            Decoded::Undecodable { estimate } => {
                self.sketch = Some(sketch);
                let more = self.scan.digest().rows.abs_diff(theirs.digest.rows);
                Ok(self.go_on(run.want, self.largest(&theirs), estimate.max(more)))
            }
        }
    }

    /// What to do when a sketch was too small.
    fn go_on(&self, have: SketchSize, largest: SketchSize, estimate: u64) -> Step {
        // Copies of few rows can make the estimate of a table without keys far too high.
        let is_sure = self.scan.identity() == super::Identity::Key;
        let is_hopeless = is_sure && estimate / 2 > largest.cells() as u64;
        if have < largest && !is_hopeless {
            let fitting = SketchSize::for_difference(estimate);
            let want = fitting.clamp(have.doubled(1), have.doubled(DOUBLINGS_MAX)).min(largest);
            return Step::Ask(Request::Cells { have: Some(have), want });
        }
        let plan = RangePlan::fitting(self.scan.range(), estimate, largest, self.ranges_max);
        Step::Done(match plan {
            Some(plan) => Outcome::Ranges { plan, estimate },
            None => Outcome::TooLarge { estimate },
        })
    }

    fn largest(&self, theirs: &Opening) -> SketchSize {
        self.scan.sketch().size().min(theirs.largest)
    }
}

/// Each sub-table of an honest sketch holds every row once, so its sums are the digest's.
fn require_digest(sketch: &Sketch, theirs: &Opening) -> Result<(), DiffError> {
    let digest = &theirs.digest;
    let is_whole = sketch.totals().all(|total| {
        let rows = u64::from(total.count.cast_unsigned());
        rows == digest.rows & u64::from(u32::MAX)
            && total.row_sum == digest.row_sum
            && total.check_sum == digest.check_sum
    });
    if is_whole { Ok(()) } else { Err(DiffError::Contradiction("its sketch is not what its digest says")) }
}

/// The answering end: what a scan says to a request.
///
/// # Errors
/// [`DiffError::NotAsked`] if the sketch asked for is larger than the scan's, or no larger than what is there already.
pub fn answer(scan: &Scan, request: Request) -> Result<Reply, DiffError> {
    let (have, want) = match request {
        Request::Digest => {
            let (digest, long_keys) = (*scan.digest(), scan.long_keys());
            return Ok(Reply::Digest(Opening { digest, long_keys, largest: scan.sketch().size() }));
        }
        Request::Cells { have, want } => (have, want),
    };
    if want > scan.sketch().size() || have.is_some_and(|have| have >= want) {
        return Err(DiffError::NotAsked);
    }
    let sketch = scan.sketch().fold(want)?;
    let cells = match have {
        Some(have) => sketch.growth(have)?,
        None => sketch.cells().to_vec(),
    };
    Ok(Reply::Cells(CellRun { have, want, cells, common: scan.common().clone() }))
}

/// [`answer`], from bytes to bytes.
///
/// # Errors
/// As [`answer`], and whatever is wrong with the bytes.
pub fn answer_bytes(scan: &Scan, request: &[u8]) -> Result<Vec<u8>, DiffError> {
    let fingerprint = scan.fingerprint();
    Ok(answer(scan, Request::from_bytes(request, fingerprint)?)?.to_bytes(fingerprint))
}

/// Compares two scans that are in this process.
///
/// # Errors
/// [`DiffError::OtherComparison`] if they were made with different terms.
pub fn compare(left: &Scan, right: &Scan, ranges_max: u64) -> Result<Outcome, DiffError> {
    if left.fingerprint() != right.fingerprint() {
        return Err(DiffError::OtherComparison);
    }
    let (mut asker, mut request) = Asker::new(left, ranges_max);
    // Each round asks for a larger sketch, so it ends.
    loop {
        match asker.receive(answer(right, request)?)? {
            Step::Ask(next) => request = next,
            Step::Done(outcome) => return Ok(outcome),
        }
    }
}
