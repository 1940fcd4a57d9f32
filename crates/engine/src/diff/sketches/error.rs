//! Why a comparison does not go on: almost always because of what the other side has sent.

use syncline_core::{Error, ErrorKind};

/// What is wrong with a message, or with two sketches that were put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiffError {
    /// The other side speaks another version of the protocol.
    #[error("the other side compares by version {0} of the protocol")]
    Version(u8),
    /// The bytes are no message, or a bound in them does not hold.
    #[error("a message of the comparison is malformed: {0}")]
    Malformed(&'static str),
    /// Another hash key, range or kind of table.
    #[error("the message belongs to another comparison")]
    OtherComparison,
    /// It does not answer the question, or asks for what a scan has not.
    #[error("the message does not fit what was asked")]
    NotAsked,
    /// Sketches of different sizes.
    #[error("sketches of different sizes cannot be put together")]
    Sizes,
    /// The bounds hold, but no scan gives such numbers.
    #[error("the other side's sketch contradicts itself: {0}")]
    Contradiction(&'static str),
}

impl From<DiffError> for Error {
    fn from(error: DiffError) -> Self {
        let kind = match error {
            DiffError::Version(_) => ErrorKind::Configuration,
            DiffError::Malformed(_) | DiffError::NotAsked | DiffError::Contradiction(_) => {
                ErrorKind::Permanent
            }
            DiffError::OtherComparison => ErrorKind::Conflict,
            DiffError::Sizes => ErrorKind::Bug,
        };
        Self::new(kind, error.to_string())
    }
}
