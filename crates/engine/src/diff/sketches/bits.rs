//! Numbers of so many bits each, one after the other: the cells of a message. The lowest bit comes first.

use super::error::DiffError;

/// Bits that are being written.
#[derive(Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    /// What is not yet a whole byte, and how many bits that is.
    rest: u8,
    filled: u32,
}

impl BitWriter {
    /// Appends the lowest bits of a number.
    pub(super) fn push(&mut self, mut number: u128, mut bits: u32) {
        while bits > 0 {
            let taken = bits.min(8 - self.filled);
            let low = number.to_le_bytes()[0] & low_bits(taken);
            self.rest |= low << self.filled;
            self.filled += taken;
            number >>= taken;
            bits -= taken;
            if self.filled == 8 {
                self.bytes.push(self.rest);
                (self.rest, self.filled) = (0, 0);
            }
        }
    }

    /// The bytes, the last one filled up with zeros.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.bytes.push(self.rest);
        }
        self.bytes
    }
}

/// Bits that are being read.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next number of so many bits, at most 128.
    ///
    /// # Errors
    /// [`DiffError::Malformed`] if there are not so many.
    pub(super) fn take(&mut self, bits: u32) -> Result<u128, DiffError> {
        let (mut number, mut done) = (0, 0);
        while done < bits {
            let byte = self.bytes.get(self.at / 8).ok_or(DiffError::Malformed("it is cut off"))?;
            let skipped = self.at % 8;
            let taken = (bits - done).min(8 - u32::try_from(skipped).unwrap_or(0));
            number |= u128::from(byte >> skipped & low_bits(taken)) << done;
            done += taken;
            self.at += taken as usize;
        }
        Ok(number)
    }

    /// Whether nothing but the last byte's zeros is left.
    pub(super) fn is_at_end(&self) -> bool {
        let (whole, begun) = (self.at / 8, self.at % 8);
        match begun {
            0 => whole == self.bytes.len(),
            _ => whole + 1 == self.bytes.len() && self.bytes[whole] >> begun == 0,
        }
    }
}

fn low_bits(count: u32) -> u8 {
    u8::MAX.checked_shr(8 - count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back_as_they_went_in(numbers in proptest::collection::vec((any::<u128>(), 0u32..=128), 0..20)) {
            let mut writer = BitWriter::default();
            numbers.iter().for_each(|(number, bits)| writer.push(*number, *bits));
            let bytes = writer.into_bytes();
            let all: u32 = numbers.iter().map(|(_, bits)| bits).sum();
            prop_assert_eq!(bytes.len(), all.div_ceil(8) as usize);
            let mut reader = BitReader::new(&bytes);
            for (number, bits) in numbers {
                let expected = if bits == 128 { number } else { number & ((1 << bits) - 1) };
                prop_assert_eq!(reader.take(bits), Ok(expected));
            }
            prop_assert!(reader.is_at_end());
            prop_assert!(reader.take(8).is_err());
        }
    }
}
