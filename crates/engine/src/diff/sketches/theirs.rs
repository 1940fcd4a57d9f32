//! A scan that was made elsewhere, as far as it has been told: its digest, then its sketch, each size with only the cells
//! that were missing.

use super::cell::low;
use super::error::DiffError;
use super::message::{Opening, Reply, Request};
use super::sketch::{Sketch, SketchSize};
use super::terms::Terms;

/// The other side's scan of one range.
#[derive(Debug)]
pub struct Theirs {
    terms: Terms,
    asked: Option<Request>,
    opening: Option<Opening>,
    sketch: Option<Sketch>,
}

impl Theirs {
    /// A scan of which nothing is known yet.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self { terms, asked: None, opening: None, sketch: None }
    }

    /// What both sides have in common.
    #[must_use]
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// What was said of it, once it was.
    #[must_use]
    pub fn opening(&self) -> Option<&Opening> {
        self.opening.as_ref()
    }

    /// Its sketch in the largest size that was sent.
    #[must_use]
    pub fn sketch(&self) -> Option<&Sketch> {
        self.sketch.as_ref()
    }

    /// What to ask for its sketch in this size; `None` if it is there.
    #[must_use]
    pub fn lacks(&self, want: SketchSize) -> Option<Request> {
        let have = self.sketch.as_ref().map(Sketch::size);
        (have != Some(want)).then_some(Request::Cells { have, want })
    }

    /// A request as bytes: its answer is what is received next.
    pub fn ask(&mut self, request: Request) -> Vec<u8> {
        self.awaits(request);
        request.to_bytes(self.terms.fingerprint())
    }

    /// Says what is received next.
    pub(super) fn awaits(&mut self, request: Request) {
        self.asked = Some(request);
    }

    /// The reply to what was asked last, as bytes.
    ///
    /// # Errors
    /// As [`Self::receive`], and whatever is wrong with the bytes.
    pub fn receive_bytes(&mut self, bytes: &[u8]) -> Result<(), DiffError> {
        let asked = self.asked.ok_or(DiffError::NotAsked)?;
        self.receive(Reply::from_bytes(bytes, asked, self.terms.fingerprint())?)
    }

    /// The reply to what was asked last.
    ///
    /// # Errors
    /// [`DiffError::NotAsked`] if it answers something else, [`DiffError::Contradiction`] if no scan gives it.
    pub fn receive(&mut self, reply: Reply) -> Result<(), DiffError> {
        match (self.asked.take(), reply) {
            (Some(Request::Digest), Reply::Digest(opening)) => self.opening = Some(opening),
            (Some(Request::Cells { have, want }), Reply::Cells(run))
                if (run.have, run.want) == (have, want) =>
            {
                let opening = self.opening.ok_or(DiffError::NotAsked)?;
                self.sketch = Some(match self.sketch.take() {
                    Some(smaller) => smaller.grow(want, &run.cells)?,
                    None => {
                        let sketch = Sketch::from_cells(want, run.cells)?;
                        require_digest(&sketch, &opening)?;
                        sketch
                    }
                });
            }
            _ => return Err(DiffError::NotAsked),
        }
        Ok(())
    }
}

/// Each sub-table of an honest sketch holds every row once, so its sums are the digest's.
fn require_digest(sketch: &Sketch, opening: &Opening) -> Result<(), DiffError> {
    let digest = &opening.digest;
    let is_whole = sketch.totals().all(|total| {
        let rows = u64::from(total.count.cast_unsigned());
        rows == digest.rows & u64::from(u32::MAX)
            && total.row_sum == digest.row_sum
            && total.check_sum == low(digest.check_sum)
    });
    if is_whole { Ok(()) } else { Err(DiffError::Contradiction("its sketch is not what its digest says")) }
}
