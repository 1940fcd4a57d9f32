//! The two ends of a comparison: one asks, one answers. Neither does any I/O; the caller carries messages.
//!
//! The asking end holds the *left* side. It asks for the digest, then for a small sketch, then for as much more of it as
//! the last one's estimate says, until the difference decodes or the largest sketch is too small. What was sent is never
//! sent again, so all rounds together cost what the last size alone would have. The answering end keeps no state.

use super::error::DiffError;
use super::judge::{Judge, Next, Outcome};
use super::message::{CellRun, Opening, Reply, Request};
use super::scan::Scan;
use super::theirs::Theirs;

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
    theirs: Theirs,
    /// Once the digest is there.
    judge: Option<Judge>,
    traffic: Traffic,
}

impl<'a> Asker<'a> {
    /// Begins with the left side's scan and the first request. `ranges_max` bounds into how many ranges, and so how many
    /// further scans of both sides, a large difference is cut.
    #[must_use]
    pub fn new(scan: &'a Scan, ranges_max: u64) -> (Self, Request) {
        let mut theirs = Theirs::new(scan.terms().clone());
        theirs.awaits(Request::Digest);
        (Self { scan, ranges_max, theirs, judge: None, traffic: Traffic::default() }, Request::Digest)
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
        self.theirs.receive_bytes(bytes)?;
        self.step()
    }

    /// The reply to the last request. After an error or [`Step::Done`] nothing more is received.
    ///
    /// # Errors
    /// [`DiffError::NotAsked`] if it answers something else, [`DiffError::Contradiction`] if no scan gives it.
    pub fn receive(&mut self, reply: Reply) -> Result<Step, DiffError> {
        self.theirs.receive(reply)?;
        self.step()
    }

    /// What the other side said of its scan, once it has.
    #[must_use]
    pub fn theirs(&self) -> Option<&Opening> {
        self.theirs.opening()
    }

    /// Bytes and rounds so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    fn step(&mut self) -> Result<Step, DiffError> {
        let next = match (&self.judge, self.theirs.sketch()) {
            (Some(judge), Some(sketch)) => judge.judge(&self.scan.sketch().fold(sketch.size())?, sketch)?,
            _ => {
                let theirs = *self.theirs.opening().ok_or(DiffError::NotAsked)?;
                let terms = self.scan.terms().clone();
                let (judge, next) = Judge::begin(terms, self.scan.opening(), theirs, self.ranges_max);
                self.judge = Some(judge);
                next
            }
        };
        Ok(match next {
            Next::Done(outcome) => Step::Done(outcome),
            Next::Sketches(want) => {
                let request = self.theirs.lacks(want).ok_or(DiffError::Sizes)?;
                self.theirs.awaits(request);
                Step::Ask(request)
            }
        })
    }
}

/// The answering end: what a scan says to a request.
///
/// # Errors
/// [`DiffError::NotAsked`] if the sketch asked for is larger than the scan's, or no larger than what is there already.
pub fn answer(scan: &Scan, request: Request) -> Result<Reply, DiffError> {
    let (have, want) = match request {
        Request::Digest => return Ok(Reply::Digest(scan.opening())),
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

/// What is said of a scan before any cell, as the bytes of a reply: for an end that need not be asked for it.
#[must_use]
pub fn opening_bytes(scan: &Scan) -> Vec<u8> {
    Reply::Digest(scan.opening()).to_bytes(scan.fingerprint())
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
