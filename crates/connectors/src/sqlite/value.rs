//! The native form of a value: one byte for the storage class, then the value. NULL is Arrow's null.
//!
//! SQLite's types belong to values, not to columns. An integer in a TEXT column, a text in an INTEGER column, `1` beside
//! `1.0`: each is what it is, and arrives as what it is.
//!
//! | class | tag | bytes |
//! |---|---|---|
//! | integer | 1 | eight, big-endian, sign turned: bytes sort as the numbers do |
//! | real | 2 | eight, big-endian, the bits of IEEE 754 |
//! | text | 3 | as stored, in UTF-8 unless the application wrote something else |
//! | blob | 4 | as stored |

use rusqlite::types::ValueRef;
use syncline_core::{Error, Result};

const INTEGER: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;

/// Appends the native form of a value; NULL has none and returns false.
pub(super) fn encode(value: ValueRef<'_>, out: &mut Vec<u8>) -> bool {
    match value {
        ValueRef::Null => return false,
        ValueRef::Integer(number) => {
            out.push(INTEGER);
            out.extend_from_slice(&(number ^ i64::MIN).to_be_bytes());
        }
        ValueRef::Real(number) => {
            out.push(REAL);
            out.extend_from_slice(&number.to_bits().to_be_bytes());
        }
        ValueRef::Text(bytes) => {
            out.push(TEXT);
            out.extend_from_slice(bytes);
        }
        ValueRef::Blob(bytes) => {
            out.push(BLOB);
            out.extend_from_slice(bytes);
        }
    }
    true
}

/// Reads [`encode`].
pub(super) fn decode(bytes: &[u8]) -> Result<ValueRef<'_>> {
    let broken = || Error::conflict("a carried SQLite value is damaged");
    let (&tag, payload) = bytes.split_first().ok_or_else(broken)?;
    let eight = || -> Result<[u8; 8]> { payload.try_into().map_err(|_| broken()) };
    Ok(match tag {
        INTEGER => ValueRef::Integer(i64::from_be_bytes(eight()?) ^ i64::MIN),
        REAL => ValueRef::Real(f64::from_bits(u64::from_be_bytes(eight()?))),
        TEXT => ValueRef::Text(payload),
        BLOB => ValueRef::Blob(payload),
        _ => return Err(broken()),
    })
}

/// A native value as a person reads it: a text as it is, a blob in SQL's own form.
pub(super) fn shown(bytes: &[u8]) -> String {
    match decode(bytes) {
        Ok(ValueRef::Null) | Err(_) => "NULL".to_owned(),
        Ok(ValueRef::Integer(number)) => number.to_string(),
        Ok(ValueRef::Real(number)) => format!("{number:?}"),
        Ok(ValueRef::Text(text)) => String::from_utf8_lossy(text).into_owned(),
        Ok(ValueRef::Blob(bytes)) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("x'{hex}'")
        }
    }
}

/// A value that is kept: its native form, `None` for NULL. Texts need not be UTF-8, so rusqlite's own form will not do.
pub(super) type Owned = Option<Vec<u8>>;

/// Keeps a value.
pub(super) fn keep(value: ValueRef<'_>) -> Owned {
    let mut bytes = Vec::new();
    encode(value, &mut bytes).then_some(bytes)
}

/// A kept value.
pub(super) fn kept(value: &Owned) -> Result<ValueRef<'_>> {
    value.as_deref().map_or(Ok(ValueRef::Null), decode)
}

/// The same storage class and the same bits. SQL's `=` and `IS` would call `1` and `1.0` the same.
pub(super) fn identical(left: ValueRef<'_>, right: ValueRef<'_>) -> bool {
    match (left, right) {
        (ValueRef::Real(left), ValueRef::Real(right)) => left.to_bits() == right.to_bits(),
        (left, right) => left == right,
    }
}

/// A number of ours as SQLite's integers: beyond their end there is nothing to be found.
pub(super) fn sql_number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that SQLite gave us and that is never negative.
pub(super) fn our_number(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::types::Value;

    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            any::<u64>().prop_map(|bits| Value::Real(f64::from_bits(bits))),
            any::<String>().prop_map(Value::Text),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Blob),
        ]
    }

    fn encoded(value: ValueRef<'_>) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        encode(value, &mut bytes).then_some(bytes)
    }

    proptest! {
        #[test]
        fn values_survive_bit_for_bit(value in any_value()) {
            match encoded((&value).into()) {
                None => prop_assert_eq!(value, Value::Null),
                Some(bytes) => prop_assert!(identical(decode(&bytes).unwrap(), (&value).into())),
            }
        }

        #[test]
        fn equal_bytes_mean_identical_values(left in any_value(), right in any_value()) {
            let (left, right) = (ValueRef::from(&left), ValueRef::from(&right));
            prop_assert_eq!(encoded(left) == encoded(right), identical(left, right));
        }

        #[test]
        fn integers_sort_as_their_bytes(left in any::<i64>(), right in any::<i64>()) {
            let bytes = |number| encoded(ValueRef::Integer(number)).unwrap();
            prop_assert_eq!(left.cmp(&right), bytes(left).cmp(&bytes(right)));
        }

        #[test]
        fn damaged_bytes_are_refused_or_read_as_what_they_are(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            if let Ok(value) = decode(&bytes) {
                prop_assert_eq!(encoded(value).unwrap(), bytes);
            }
        }
    }
}
