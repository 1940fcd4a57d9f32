//! What a scan of one range has left: here as a whole, or at an agent, of which as much is fetched as is needed.

use std::borrow::Cow;

use syncline_core::{Error, Result};

use super::side::Side;
use super::sketches::{KeyRange, Opening, Scan, Sketch, SketchSize, Theirs};

/// A scan of one range.
pub(super) enum Scanned {
    /// This process has made it.
    Here(Scan),
    /// An agent has made it, as the scan of so many-th range of its last one.
    There {
        /// Place among the ranges that were scanned together.
        at: usize,
        /// What is known of it.
        theirs: Theirs,
    },
}

impl Scanned {
    pub(super) fn range(&self) -> KeyRange {
        match self {
            Self::Here(scan) => scan.range(),
            Self::There { theirs, .. } => theirs.terms().range,
        }
    }

    /// What is said of it before any cell.
    pub(super) fn opening(&self) -> Result<Opening> {
        match self {
            Self::Here(scan) => Ok(scan.opening()),
            Self::There { theirs, .. } => {
                theirs.opening().copied().ok_or_else(|| Error::bug("a scan without its digest"))
            }
        }
    }

    /// Its sketch in this size.
    pub(super) async fn sketch(&mut self, side: &Side, size: SketchSize) -> Result<Cow<'_, Sketch>> {
        match self {
            Self::Here(scan) => Ok(Cow::Owned(scan.sketch().fold(size)?)),
            Self::There { at, theirs } => {
                let agent = side.agent().ok_or_else(|| Error::bug("a scan of an agent that is not there"))?;
                agent.sketch(theirs, *at, size).await.map(Cow::Borrowed)
            }
        }
    }
}
