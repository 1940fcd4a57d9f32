//! Dead letters: rows that a destination refused, set aside with their change so that all others go on.
//!
//! At every moment the destination's rows and its letters together are what the source had at the table's position. A
//! letter holds a row, not a key: a row that moved has both its keys behind it. Letters are part of the checkpoint and
//! change with it, by a delta. What their bytes mean is the engine's.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::key::RowKey;
use crate::name::TableId;
use crate::position::Position;

/// The number of a letter in its pipeline; never that of two letters at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LetterId(pub u64);

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A row that was refused.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Its table.
    pub table: TableId,
    /// Every key that waits behind it: first the row's own, then the one it still has at the destination, if that is
    /// another.
    pub keys: Vec<RowKey>,
    /// Where the load that set it aside ended.
    pub position: Position,
    /// Why it was refused, without row values.
    pub reason: String,
    /// The destination's own code, if it gave one.
    pub code: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was set aside, in milliseconds since 1970 UTC.
    pub first_at_ms: i64,
    /// When it was tried last.
    pub last_at_ms: i64,
    /// The row's change, collapsed, in the engine's own form. It holds row values.
    #[serde(with = "change_bytes")]
    pub change: Bytes,
}

/// Without the change and the keys, which are row values.
impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letter")
            .field("table", &self.table)
            .field("position", &self.position)
            .field("reason", &self.reason)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

impl Letter {
    /// Bytes it takes in memory, near enough for a budget.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.change.len()
            + self.reason.len()
            + self.keys.iter().map(|key| key.0.len() + 16).sum::<usize>()
            + 256
    }

    /// The keys in the one form in which destinations store them: for each a `u32` little-endian length and its bytes.
    ///
    /// # Errors
    /// A bug if a key is longer than 4 GiB.
    pub fn keys_to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(self.keys.iter().map(|key| key.0.len() + 4).sum());
        for key in &self.keys {
            let length = u32::try_from(key.0.len()).map_err(|_| Error::bug("a key is longer than 4 GiB"))?;
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&key.0);
        }
        Ok(out)
    }

    /// Reads [`Letter::keys_to_bytes`].
    ///
    /// # Errors
    /// A conflict if the bytes are not keys.
    pub fn keys_from_bytes(mut bytes: &[u8]) -> Result<Vec<RowKey>> {
        let damaged = || Error::conflict("the keys of a dead letter are damaged");
        let mut keys = Vec::new();
        while !bytes.is_empty() {
            let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
            let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| damaged())?;
            let (key, rest) = rest.split_at_checked(length).ok_or_else(damaged)?;
            keys.push(RowKey(key.into()));
            bytes = rest;
        }
        Ok(keys)
    }
}

/// Bytes as a list of numbers, as every other byte string of a checkpoint.
mod change_bytes {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.as_ref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        Vec::<u8>::deserialize(deserializer).map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(keys: &[&[u8]]) -> Letter {
        Letter {
            table: TableId::new("s", "t"),
            keys: keys.iter().map(|&key| RowKey(key.into())).collect(),
            position: Position::from_u64(3),
            reason: "refused".to_owned(),
            code: None,
            attempts: 1,
            first_at_ms: 1,
            last_at_ms: 2,
            change: Bytes::from_static(b"secret"),
        }
    }

    #[test]
    fn keys_survive_their_bytes_and_damage_is_seen() {
        for keys in [&[][..], &[b"a".as_slice()], &[b"".as_slice(), b"\xff\0x"]] {
            let letter = letter(keys);
            let bytes = letter.keys_to_bytes().unwrap();
            assert_eq!(Letter::keys_from_bytes(&bytes).unwrap(), letter.keys);
            if !bytes.is_empty() {
                assert!(Letter::keys_from_bytes(&bytes[..bytes.len() - 1]).is_err());
            }
        }
    }

    #[test]
    fn values_do_not_reach_logs() {
        assert!(!format!("{:?}", letter(&[b"secret"])).contains("secret"));
    }
}
