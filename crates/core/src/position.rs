//! A place in a source's log.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place in a source's log: opaque bytes whose lexicographic order is the log's order inside one partition.
///
/// An LSN is eight bytes big-endian, a SQLite log number likewise; nothing outside a connector looks inside. The
/// connector's [`crate::Streams::show`] gives the text that the system's own users know.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position(Box<[u8]>);

impl Position {
    /// The place before everything.
    #[must_use]
    pub fn start() -> Self {
        Self::default()
    }

    /// A position from its ordered bytes.
    pub fn from_bytes(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// A position that is one number.
    #[must_use]
    pub fn from_u64(number: u64) -> Self {
        Self(Box::new(number.to_be_bytes()))
    }

    /// The number of [`Position::from_u64`]; the start is 0. `None` if this is not such a position.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self.0.len() {
            0 => Some(0),
            8 => Some(u64::from_be_bytes(self.0.as_ref().try_into().ok()?)),
            _ => None,
        }
    }

    /// The ordered bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("start");
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Position({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_bytes_is_order_of_numbers() {
        assert!(Position::start() < Position::from_u64(0));
        assert!(Position::from_u64(255) < Position::from_u64(256));
        assert_eq!(Position::from_u64(7).as_u64(), Some(7));
    }
}
