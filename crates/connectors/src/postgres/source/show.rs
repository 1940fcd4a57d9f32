//! Carried values as a person reads them: what a report shows of a row.
//!
//! The common types as the server itself would write them in ISO style; whatever else has a binary form is shown in
//! hexadecimal. Nothing is computed from this text.

use syncline_core::{Carriage, Column, DataType, civil};

use super::datetime::{EPOCH_DAYS, EPOCH_US};
use super::hex::to_hex;

/// A carried value as text.
pub(super) fn value(column: &Column, bytes: &[u8]) -> String {
    let text = match column.carriage {
        Carriage::NativeText => String::from_utf8(bytes.to_vec()).ok(),
        Carriage::Native | Carriage::Typed => binary(column, bytes),
    };
    text.unwrap_or_else(|| format!("\\x{}", to_hex(bytes)))
}

fn binary(column: &Column, bytes: &[u8]) -> Option<String> {
    Some(match &column.data_type {
        DataType::Bool => if *bytes == [0] { "false" } else { "true" }.to_owned(),
        DataType::Int(_) => whole(bytes)?.to_string(),
        DataType::Float32 => f32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        DataType::Float64 => f64::from_be_bytes(bytes.try_into().ok()?).to_string(),
        DataType::Decimal { .. } | DataType::Numeric => numeric(bytes)?,
        DataType::Uuid => civil::uuid_text(bytes.try_into().ok()?),
        DataType::Date => civil::date_text(whole(bytes)?.checked_add(EPOCH_DAYS.into())?),
        DataType::Time => civil::time_text(whole(bytes)?),
        DataType::Timestamp => civil::timestamp_text(whole(bytes)?.checked_add(EPOCH_US)?),
        DataType::TimestampTz => civil::instant_text(whole(bytes)?.checked_add(EPOCH_US)?),
        // The binary form of jsonb begins with its version.
        DataType::Json if bytes.first() == Some(&1) => String::from_utf8(bytes[1..].to_vec()).ok()?,
        DataType::Text | DataType::Json => String::from_utf8(bytes.to_vec()).ok()?,
        DataType::Native(_) => {
            let text = std::str::from_utf8(bytes).ok()?;
            text.chars().all(|letter| !letter.is_control()).then(|| text.to_owned())?
        }
        DataType::UInt(_) | DataType::Bytes | DataType::Array(_) => return None,
    })
}

fn whole(bytes: &[u8]) -> Option<i64> {
    Some(match bytes.len() {
        2 => i16::from_be_bytes(bytes.try_into().ok()?).into(),
        4 => i32::from_be_bytes(bytes.try_into().ok()?).into(),
        8 => i64::from_be_bytes(bytes.try_into().ok()?),
        _ => return None,
    })
}

/// The binary form of `numeric`: digits of base 10,000, the place of the first one, sign, and digits after the point
/// (`numeric_send` in the server's `numeric.c`).
fn numeric(bytes: &[u8]) -> Option<String> {
    let words: Vec<i16> = bytes.chunks_exact(2).map(|word| i16::from_be_bytes([word[0], word[1]])).collect();
    let (&[count, weight, sign, scale], digits) = words.split_first_chunk::<4>()?;
    if usize::try_from(count).ok()? != digits.len() || !bytes.len().is_multiple_of(2) {
        return None;
    }
    let sign = match sign.cast_unsigned() {
        0x0000 => "",
        0x4000 => "-",
        0xC000 => return Some("NaN".to_owned()),
        0xD000 => return Some("Infinity".to_owned()),
        0xF000 => return Some("-Infinity".to_owned()),
        _ => return None,
    };
    let (weight, scale) = (i32::from(weight), usize::try_from(scale).ok()?);
    let digit = |place: i32| -> String {
        let at = usize::try_from(weight - place).ok().and_then(|at| digits.get(at));
        format!("{:04}", at.copied().unwrap_or(0))
    };
    let whole: String = (0..=weight.max(0)).rev().map(digit).collect();
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        whole => whole,
    };
    let groups = i32::try_from(scale.div_ceil(4)).ok()?;
    let part: String = (1..=groups).map(|place| digit(-place)).collect();
    Some(if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{}", part.get(..scale)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numerics_are_written_as_the_server_does() {
        let words = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        assert_eq!(numeric(&words(&[2, 0, 0, 2, 12, 3400])).as_deref(), Some("12.34"));
        assert_eq!(numeric(&words(&[1, 0xFFFF, 0x4000, 4, 5])).as_deref(), Some("-0.0005"));
        assert_eq!(numeric(&words(&[1, 2, 0, 0, 7])).as_deref(), Some("700000000"));
        assert_eq!(numeric(&words(&[0, 0, 0, 3])).as_deref(), Some("0.000"));
        assert_eq!(numeric(&words(&[0, 0, 0xC000, 0])).as_deref(), Some("NaN"));
        assert_eq!(numeric(&words(&[3, 0, 0, 0, 1])), None);
        assert_eq!(numeric(&[0]), None);
    }
}
