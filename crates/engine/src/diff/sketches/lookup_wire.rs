//! What a second scan looks for, as bytes.
//!
//! ```text
//! lookup  count of keys u32 · their hashes, u64 each · row hashes, 12 bytes each
//! ```

use super::difference::Lookup;
use super::error::DiffError;
use super::hash::{HashKey, KeyHash, RowHash};

const KEY_BYTES: usize = 8;
const ROW_BYTES: usize = 12;

impl Lookup {
    /// Its bytes, without the hash key.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let count = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
        let mut out = Vec::with_capacity(4 + self.keys.len() * KEY_BYTES + self.rows.len() * ROW_BYTES);
        out.extend(count.to_le_bytes());
        self.keys.iter().for_each(|key| out.extend(key.0.to_le_bytes()));
        self.rows.iter().for_each(|row| out.extend(&row.number().to_le_bytes()[..ROW_BYTES]));
        out
    }

    /// Reads [`Self::to_bytes`]; memory is bounded by the bytes at hand.
    ///
    /// # Errors
    /// [`DiffError::Malformed`] if they are cut off or their count does not fit them.
    pub fn from_bytes(hash_key: &HashKey, bytes: &[u8]) -> Result<Self, DiffError> {
        const CUT_OFF: DiffError = DiffError::Malformed("what is looked for is cut off");
        let (count, rest) = bytes.split_first_chunk::<4>().ok_or(CUT_OFF)?;
        let length = usize::try_from(u32::from_le_bytes(*count)).ok().and_then(|n| n.checked_mul(KEY_BYTES));
        let (keys, rows) = length.and_then(|length| rest.split_at_checked(length)).ok_or(CUT_OFF)?;
        if !rows.len().is_multiple_of(ROW_BYTES) {
            return Err(CUT_OFF);
        }
        let key = |bytes: &[u8]| Some(KeyHash(u64::from_le_bytes(bytes.try_into().ok()?)));
        let row = |bytes: &[u8]| {
            let mut number = [0; 16];
            number[..ROW_BYTES].copy_from_slice(bytes);
            RowHash::new(u128::from_le_bytes(number))
        };
        Ok(Self {
            hash_key: hash_key.clone(),
            keys: keys.chunks_exact(KEY_BYTES).filter_map(key).collect(),
            rows: rows.chunks_exact(ROW_BYTES).filter_map(row).collect(),
        })
    }
}
