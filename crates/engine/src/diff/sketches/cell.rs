//! A cell of a sketch, and an element, which is a cell that holds one row.
//!
//! A cell adds up what was put in: how many rows, their hashes, the checks of these, and the XOR of their keys. Everything
//! is linear, so adding a row, merging two parts, folding, subtracting and peeling are [`Cell::add`] and
//! [`Cell::subtract`].
//!
//! A cell is *pure* if it holds one row, any number of times, on one side. It is recognised by the division of the hashes'
//! sum by the count, by the place the hash belongs to, and by the checks' sum. The check of a sum says nothing about the
//! checks of its parts; but the rows of a cell share the place's bits of their hashes, and so does what is divided. So a cell
//! that is not pure passes with a probability of about 2⁻³³, whatever its place, and a decode looks at up to five times as
//! many cells as the sketch has: of a sketch of 2²⁰ cells one in some thousand decodes meets such a cell. It does not lie for
//! that: most such cells have no key, and what a decode finds is held against the digests ([`super::decode`]).
//!
//! Why the check depends on the row alone, though cells could be checked by their keys: an update puts the same key in
//! twice. Where both rows meet in one cell, with a third, the key that is left is whole, and the row is not. Also an even
//! number of equal rows leaves no key at all, but must still be recognised.

use super::hash::{HashKey, KeyHash, RowHash};

/// Longest encoded key, in bytes, that cells carry. Of longer ones they carry the hash.
pub const KEY_BYTES_MAX: usize = 32;

/// What the key field holds: nothing, a key (its length and one more, 1 to 33), or a key's hash.
const TAG_NONE: u8 = 0;
const TAG_HASH: u8 = 0xff;

/// Bytes of a key field: the key, then its tag.
pub(super) const KEY_FIELD_BYTES: usize = KEY_BYTES_MAX + 1;

/// A key in a cell: its bytes, then its tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct KeyField([u8; KEY_FIELD_BYTES]);

/// Sums over the rows of a cell, negative where the other side's rows were taken away. One cache line.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C, align(64))]
pub(super) struct Cell {
    /// Modulo 2¹²⁸.
    pub(super) row_sum: u128,
    /// Modulo 2³².
    pub(super) check_sum: u32,
    /// Modulo 2³²: more rows than that in a cell do no harm, as long as the two sides differ by less than 2³¹ there.
    pub(super) count: i32,
    pub(super) key: KeyField,
}

/// A key as far as a sketch tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyRef {
    /// Its canonical encoding.
    Bytes(Box<[u8]>),
    /// It is longer than [`KEY_BYTES_MAX`]: a second scan of the key columns finds it ([`super::Lookup`]).
    Hash(KeyHash),
    /// The table has no key, or the row is there an even number of times, which a XOR does not survive: a second scan
    /// finds it by its row hash.
    Unknown,
}

impl KeyField {
    pub(super) const EMPTY: Self = Self([0; KEY_FIELD_BYTES]);
    /// All bits set.
    pub(super) const FULL: Self = Self([u8::MAX; KEY_FIELD_BYTES]);

    #[inline]
    pub(super) fn of(key: &[u8], hash: KeyHash) -> Self {
        let mut bytes = [0; KEY_FIELD_BYTES];
        if key.len() > KEY_BYTES_MAX {
            bytes[..8].copy_from_slice(&hash.0.to_le_bytes());
            bytes[KEY_BYTES_MAX] = TAG_HASH;
        } else {
            bytes[..key.len()].copy_from_slice(key);
            bytes[KEY_BYTES_MAX] = key.len().to_le_bytes()[0] + 1;
        }
        Self(bytes)
    }

    #[inline]
    fn xor(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(byte, other)| *byte ^= other);
    }

    #[inline]
    pub(super) fn and(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(byte, other)| *byte &= other);
    }

    #[inline]
    pub(super) fn or(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(byte, other)| *byte |= other);
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_FIELD_BYTES] {
        &self.0
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8; KEY_FIELD_BYTES] {
        &mut self.0
    }

    /// The key of a pure cell. `None` if no key leaves this field: there are several rows, or nonsense.
    pub(super) fn key(&self) -> Option<KeyRef> {
        let (bytes, tag) = (&self.0[..KEY_BYTES_MAX], self.0[KEY_BYTES_MAX]);
        let length = match tag {
            TAG_NONE => 0,
            TAG_HASH => 8,
            tag => usize::from(tag) - 1,
        };
        if length > KEY_BYTES_MAX || bytes[length..].iter().any(|byte| *byte != 0) {
            return None;
        }
        let key = &bytes[..length];
        Some(match tag {
            TAG_NONE => KeyRef::Unknown,
            TAG_HASH => KeyRef::Hash(KeyHash(u64::from_le_bytes(key.try_into().ok()?))),
            _ => KeyRef::Bytes(key.into()),
        })
    }
}

impl Default for KeyField {
    fn default() -> Self {
        Self::EMPTY
    }
}

const _: () = assert!(size_of::<Cell>() == 64);

impl Cell {
    /// A row, once.
    #[inline]
    pub(super) fn element(row: RowHash, check: u64, key: KeyField) -> Self {
        Self { row_sum: row.number(), check_sum: low(check), count: 1, key }
    }

    #[inline]
    pub(super) fn add(&mut self, other: &Self) {
        self.row_sum = self.row_sum.wrapping_add(other.row_sum);
        self.check_sum = self.check_sum.wrapping_add(other.check_sum);
        self.count = self.count.wrapping_add(other.count);
        self.key.xor(&other.key);
    }

    #[inline]
    pub(super) fn subtract(&mut self, other: &Self) {
        self.row_sum = self.row_sum.wrapping_sub(other.row_sum);
        self.check_sum = self.check_sum.wrapping_sub(other.check_sum);
        self.count = self.count.wrapping_sub(other.count);
        self.key.xor(&other.key);
    }

    pub(super) fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// The row of a cell that holds only one, however often, if it belongs to this place.
    pub(super) fn pure_row(
        &self,
        hash_key: &HashKey,
        is_its_place: impl Fn(RowHash) -> bool,
    ) -> Option<RowHash> {
        let copies = self.count.unsigned_abs();
        let negative = self.count < 0;
        let sum = if negative { self.row_sum.wrapping_neg() } else { self.row_sum };
        let row = match copies {
            0 => return None,
            1 => RowHash::new(sum)?,
            _ if !sum.is_multiple_of(u128::from(copies)) => return None,
            _ => RowHash::new(sum / u128::from(copies))?,
        };
        if !is_its_place(row) {
            return None;
        }
        let checks = if negative { self.check_sum.wrapping_neg() } else { self.check_sum };
        (low(hash_key.check(row)).wrapping_mul(copies) == checks).then_some(row)
    }
}

/// What cells have of a check: it is looked at beside a hash of 96 bits and the hash's place.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
pub(super) fn low(check: u64) -> u32 {
    check as u32
}
