//! The digest of a table: whether two sides are equal, in 48 bytes.
//!
//! Sums, not XORs: equal rows must not cancel each other, and neither must a part that was read twice. The checks are no
//! linear function of the row hashes, so both sums agree by accident with a probability of 2⁻¹⁶⁰.

use super::hash::{KeyHash, RowHash};

/// Count and sums over all rows of one side. Equal digests mean equal tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableDigest {
    /// Rows, each as often as it is there.
    pub rows: u64,
    /// Sum of the row hashes, modulo 2¹²⁸.
    pub row_sum: u128,
    /// Sum of the row hashes' checks, modulo 2⁶⁴.
    pub check_sum: u64,
    /// Sum of the key hashes, modulo 2⁶⁴: if only it is equal, rows were updated, none inserted or deleted.
    pub key_sum: u64,
}

impl TableDigest {
    #[inline]
    pub(super) fn add(&mut self, row: RowHash, check: u64, key: KeyHash) {
        self.rows += 1;
        self.row_sum = self.row_sum.wrapping_add(row.number());
        self.check_sum = self.check_sum.wrapping_add(check);
        self.key_sum = self.key_sum.wrapping_add(key.0);
    }

    /// Adds another part of the same side.
    pub fn merge(&mut self, other: &Self) {
        self.rows = self.rows.wrapping_add(other.rows);
        self.row_sum = self.row_sum.wrapping_add(other.row_sum);
        self.check_sum = self.check_sum.wrapping_add(other.check_sum);
        self.key_sum = self.key_sum.wrapping_add(other.key_sum);
    }

    /// Without what another side has: what the two differ by.
    pub fn subtract(&mut self, other: &Self) {
        self.rows = self.rows.wrapping_sub(other.rows);
        self.row_sum = self.row_sum.wrapping_sub(other.row_sum);
        self.check_sum = self.check_sum.wrapping_sub(other.check_sum);
        self.key_sum = self.key_sum.wrapping_sub(other.key_sum);
    }

    /// Adds a row so often; negative: takes it away.
    pub(super) fn add_copies(&mut self, row: RowHash, check: u64, key: KeyHash, copies: i64) {
        let factor = copies.cast_unsigned();
        self.rows = self.rows.wrapping_add(factor);
        self.row_sum =
            self.row_sum.wrapping_add(row.number().wrapping_mul(i128::from(copies).cast_unsigned()));
        self.check_sum = self.check_sum.wrapping_add(check.wrapping_mul(factor));
        self.key_sum = self.key_sum.wrapping_add(key.0.wrapping_mul(factor));
    }
}
