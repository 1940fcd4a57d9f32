//! The per-row lists of a change batch: constant or evenly rising ones cost nothing, others are plain arrays.
//!
//! No list is compressed row by row: writing and reading them is a copy.

use crate::bytes::{Malformed, Parsed, Payload};

const CONSTANT: u8 = 0;
const PLAIN: u8 = 1;
/// Each one above the one before it.
const COUNTING: u8 = 2;
/// Distances from the first, in 32 bits.
const NEAR: u8 = 3;

macro_rules! put_plain {
    ($out:expr, $values:expr, $bytes:literal) => {{
        let start = $out.len();
        $out.resize(start + $values.len() * $bytes, 0);
        for (slot, value) in $out[start..].chunks_exact_mut($bytes).zip($values) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
    }};
}

macro_rules! take_plain {
    ($payload:expr, $count:expr, $number:ty) => {{
        let bytes = $count.checked_mul(size_of::<$number>()).ok_or(Malformed)?;
        let bytes = $payload.take(bytes)?.chunks_exact(size_of::<$number>());
        bytes.map(|chunk| chunk.try_into().map(<$number>::from_le_bytes).unwrap_or_default())
    }};
}

pub(crate) fn put_u8s(out: &mut Vec<u8>, values: impl ExactSizeIterator<Item = u8> + Clone) {
    let first = values.clone().next().unwrap_or_default();
    if values.clone().all(|value| value == first) {
        out.extend([CONSTANT, first]);
        return;
    }
    out.push(PLAIN);
    out.extend(values);
}

pub(crate) fn take_u8s(payload: &mut Payload<'_>, count: usize) -> Parsed<Vec<u8>> {
    match payload.u8()? {
        CONSTANT => Ok(vec![payload.u8()?; count]),
        PLAIN => Ok(payload.take(count)?.to_vec()),
        _ => Err(Malformed),
    }
}

pub(crate) fn put_u32s(out: &mut Vec<u8>, values: &[u32]) {
    let first = values.first().copied().unwrap_or_default();
    if values.iter().all(|&value| value == first) {
        out.push(CONSTANT);
        out.extend(first.to_le_bytes());
        return;
    }
    out.push(PLAIN);
    put_plain!(out, values, 4);
}

pub(crate) fn take_u32s(payload: &mut Payload<'_>, count: usize) -> Parsed<Vec<u32>> {
    match payload.u8()? {
        CONSTANT => Ok(vec![payload.u32()?; count]),
        PLAIN => Ok(take_plain!(payload, count, u32).collect()),
        _ => Err(Malformed),
    }
}

pub(crate) fn put_u64s(out: &mut Vec<u8>, values: &[u64]) {
    let first = values.first().copied().unwrap_or_default();
    let start = out.len();
    out.push(PLAIN);
    out.extend(first.to_le_bytes());
    if values.iter().enumerate().all(|(n, &value)| value == first.wrapping_add(n as u64)) {
        out[start] = COUNTING;
    } else if values.iter().all(|value| value.wrapping_sub(first) <= u64::from(u32::MAX)) {
        out[start] = NEAR;
        let near = |value: &u64| u32::try_from(value.wrapping_sub(first)).unwrap_or_default();
        put_plain!(out, values.iter().map(near), 4);
    } else {
        put_plain!(out, values, 8);
    }
}

pub(crate) fn take_u64s(payload: &mut Payload<'_>, count: usize) -> Parsed<Vec<u64>> {
    let form = payload.u8()?;
    let first = payload.u64()?;
    match form {
        COUNTING => Ok((0..count as u64).map(|n| first.wrapping_add(n)).collect()),
        NEAR => Ok(take_plain!(payload, count, u32).map(|near| first.wrapping_add(near.into())).collect()),
        PLAIN => Ok(take_plain!(payload, count, u64).collect()),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn u64s() -> impl Strategy<Value = Vec<u64>> {
        prop_oneof![
            vec(any::<u64>(), 0..40),
            vec(u64::MAX - 1..=u64::MAX, 0..4),
            vec(0..5_000_000_u64, 0..40),
            (0..u64::MAX - 40, 0..40_u64).prop_map(|(first, n)| (first..first + n).collect()),
        ]
    }

    proptest! {
        #[test]
        fn lists_survive(
            bytes in vec(0..3_u8, 0..40),
            words in prop_oneof![vec(any::<u32>(), 0..40), vec(7..8_u32, 0..40)],
            longs in u64s(),
        ) {
            let mut out = Vec::new();
            put_u8s(&mut out, bytes.iter().copied());
            put_u32s(&mut out, &words);
            put_u64s(&mut out, &longs);
            let mut payload = Payload::new(&out);
            prop_assert_eq!(take_u8s(&mut payload, bytes.len()), Ok(bytes));
            prop_assert_eq!(take_u32s(&mut payload, words.len()), Ok(words));
            prop_assert_eq!(take_u64s(&mut payload, longs.len()), Ok(longs));
            prop_assert!(payload.is_at_end());
        }
    }
}
