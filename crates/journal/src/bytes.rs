//! Numbers and byte strings in a frame's payload: little-endian, with varints for what is small as a rule.
//!
//! Reading never panics and never trusts a length: what was damaged in a way that its checksum did not see is
//! [`Malformed`], not a crash.

/// Bytes that no version of the journal wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The result of reading a payload.
pub(crate) type Parsed<T> = Result<T, Malformed>;

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// A signed difference, small ones of either sign short.
pub(crate) fn put_difference(out: &mut Vec<u8>, value: i64) {
    put_varint(out, (value << 1).cast_unsigned() ^ (value >> 63).cast_unsigned());
}

pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    put_varint(out, count as u64);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// A payload being read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payload<'a> {
    whole: &'a [u8],
    at: usize,
}

impl<'a> Payload<'a> {
    pub(crate) fn new(whole: &'a [u8]) -> Self {
        Self { whole, at: 0 }
    }

    /// How far it is read.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at == self.whole.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let bytes = self.whole.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(crate) fn u8(&mut self) -> Parsed<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Parsed<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Parsed<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn varint(&mut self) -> Parsed<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    pub(crate) fn difference(&mut self) -> Parsed<i64> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// A count of things that take at least one byte each, so that a damaged one cannot ask for endless memory.
    pub(crate) fn count(&mut self) -> Parsed<usize> {
        let count = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        if count > self.whole.len() - self.at { Err(Malformed) } else { Ok(count) }
    }

    pub(crate) fn bytes(&mut self) -> Parsed<&'a [u8]> {
        let count = self.count()?;
        self.take(count)
    }

    /// Skips the padding before something that must stand at a multiple of `alignment`.
    pub(crate) fn align(&mut self, alignment: usize) -> Parsed<()> {
        self.take(self.at.next_multiple_of(alignment) - self.at).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_survive(value in any::<u64>(), difference in any::<i64>(), bytes in any::<Vec<u8>>()) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_difference(&mut out, difference);
            put_bytes(&mut out, &bytes);
            let mut payload = Payload::new(&out);
            prop_assert_eq!(payload.varint(), Ok(value));
            prop_assert_eq!(payload.difference(), Ok(difference));
            prop_assert_eq!(payload.bytes(), Ok(&bytes[..]));
            prop_assert!(payload.is_at_end());
        }
    }

    #[test]
    fn a_count_beyond_the_payload_is_malformed() {
        let mut out = Vec::new();
        put_varint(&mut out, u64::MAX);
        assert_eq!(Payload::new(&out).count(), Err(Malformed));
    }
}
