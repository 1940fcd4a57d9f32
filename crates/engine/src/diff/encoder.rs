//! Rows of Arrow arrays in the canonical encoding, each value as what its column is compared as.
//!
//! | class | bytes |
//! |---|---|
//! | native | as carried |
//! | integer | 8 bytes big-endian, two's complement; 16 beyond 64 bits |
//! | float | 8 bytes big-endian of the 64-bit float; one NaN, no −0 |
//! | decimal | text of the digits, without an exponent and without zeros that say nothing |
//! | text, bytes | themselves |
//! | date, time, timestamp, instant | days or microseconds, 8 bytes big-endian |
//! | uuid | 16 bytes |
//!
//! A value that is not of its column's class keeps its text behind a mark that no value of the class can have: it equals
//! the very same text only.

use std::borrow::Cow;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow_buffer::NullBuffer;
use arrow_schema::DataType as ArrowType;
use syncline_core::encoding::append_value;
use syncline_core::{Error, Result, civil};

use super::pairing::{Class, ComparedColumn};

/// Before the text of a value that is not of its class. Longer than any value of a fixed length, and not of the letters
/// of a decimal.
const MISFIT: &[u8] = b"\0not of its class\0";

/// Encodes the rows of one side.
#[derive(Debug, Clone)]
pub struct Encoder {
    classes: Vec<Class>,
}

impl Encoder {
    /// An encoder for these columns.
    #[must_use]
    pub fn new(columns: &[ComparedColumn]) -> Self {
        Self { classes: columns.iter().map(|column| column.class).collect() }
    }

    /// Gives each row of a batch of the side's table.
    ///
    /// # Errors
    /// What `row` returns; a bug if the batch has other columns.
    pub fn rows(&self, batch: &RecordBatch, row: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if batch.num_columns() != self.classes.len() {
            return Err(Error::bug("a batch to be compared has another number of columns"));
        }
        let columns: Vec<Column<'_>> = self
            .classes
            .iter()
            .zip(batch.columns())
            .map(|(class, array)| Column::new(*class, array))
            .collect();
        let mut encoded = Vec::new();
        for at in 0..batch.num_rows() {
            encoded.clear();
            for column in &columns {
                column.append(at, &mut encoded)?;
            }
            row(&encoded)?;
        }
        Ok(())
    }
}

/// A column of a batch: its type is looked at once, not for each value.
struct Column<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Binary(&'a BinaryArray),
    Text(&'a StringArray),
    /// Eight bytes big-endian.
    Words(Box<dyn Fn(usize) -> [u8; 8] + 'a>),
    /// Whatever needs a look at each value.
    Others(Class, &'a ArrayRef),
}

impl<'a> Column<'a> {
    fn new(class: Class, array: &'a ArrayRef) -> Self {
        let values = match (class, array.data_type()) {
            (Class::Native | Class::Bytes | Class::Text, ArrowType::Binary) => {
                Values::Binary(array.as_binary())
            }
            (Class::Native | Class::Bytes | Class::Text, ArrowType::Utf8) => Values::Text(array.as_string()),
            _ => words(class, array).map_or(Values::Others(class, array), Values::Words),
        };
        Self { nulls: array.nulls(), values }
    }

    fn append(&self, at: usize, row: &mut Vec<u8>) -> Result<()> {
        if self.nulls.is_some_and(|nulls| nulls.is_null(at)) {
            return append_value(None, row);
        }
        match &self.values {
            Values::Binary(array) => append_value(Some(array.value(at)), row),
            Values::Text(array) => append_value(Some(array.value(at).as_bytes()), row),
            Values::Words(word) => append_value(Some(&word(at)), row),
            Values::Others(class, array) => append_value(Some(&value(*class, array, at)?), row),
        }
    }
}

/// The values of a class that always has eight bytes in arrays of this type.
fn words(class: Class, array: &ArrayRef) -> Option<Box<dyn Fn(usize) -> [u8; 8] + '_>> {
    macro_rules! numbers {
        ($type:ty) => {{
            let values = array.as_primitive::<$type>().values();
            Some(Box::new(move |at: usize| i64::from(values[at]).to_be_bytes()))
        }};
    }
    match (class, array.data_type()) {
        (Class::Integer, ArrowType::Int16) => numbers!(Int16Type),
        (Class::Integer, ArrowType::Int32) => numbers!(Int32Type),
        (Class::Integer, ArrowType::Int64) => numbers!(Int64Type),
        (Class::Integer, ArrowType::UInt8) => numbers!(UInt8Type),
        (Class::Integer, ArrowType::UInt16) => numbers!(UInt16Type),
        (Class::Integer, ArrowType::UInt32) => numbers!(UInt32Type),
        (Class::Date | Class::Time | Class::Timestamp | Class::Instant, ArrowType::Date32) => {
            numbers!(Date32Type)
        }
        (Class::Date | Class::Time | Class::Timestamp | Class::Instant, ArrowType::Time64(_)) => {
            numbers!(Time64MicrosecondType)
        }
        (Class::Date | Class::Time | Class::Timestamp | Class::Instant, ArrowType::Timestamp(..)) => {
            numbers!(TimestampMicrosecondType)
        }
        (Class::Float, ArrowType::Float64) => {
            let values = array.as_primitive::<Float64Type>().values();
            Some(Box::new(move |at: usize| float_word(values[at])))
        }
        _ => None,
    }
}

/// The bytes of a value that is there.
fn value(class: Class, array: &ArrayRef, at: usize) -> Result<Cow<'_, [u8]>> {
    match class {
        Class::Native | Class::Bytes => Ok(Cow::Borrowed(raw(array, at)?)),
        Class::Text => raw(array, at).map(Cow::Borrowed),
        Class::Integer => match integer(array, at) {
            Some(number) => Ok(Cow::Owned(integer_bytes(number))),
            None => parsed(array, at, |text| text.parse().ok().map(integer_bytes)),
        },
        Class::Float => match float(array, at) {
            Some(number) => Ok(Cow::Owned(float_bytes(number))),
            None => parsed(array, at, |text| text.parse().ok().map(float_bytes)),
        },
        Class::Decimal => decimal(array, at),
        Class::Uuid => uuid(array, at),
        Class::Date => moment(array, at, civil::date),
        Class::Time => moment(array, at, civil::time),
        Class::Timestamp => moment(array, at, civil::timestamp),
        Class::Instant => moment(array, at, civil::instant),
    }
}

/// Bytes as they are carried.
fn raw(array: &ArrayRef, at: usize) -> Result<&[u8]> {
    match array.data_type() {
        ArrowType::Binary => Ok(array.as_binary::<i32>().value(at)),
        ArrowType::Utf8 => Ok(array.as_string::<i32>().value(at).as_bytes()),
        ArrowType::FixedSizeBinary(_) => Ok(array.as_fixed_size_binary().value(at)),
        other => Err(Error::bug(format!("values of Arrow type {other} have no bytes of their own"))),
    }
}

/// A text as the class's bytes; one that is not of the class keeps its letters.
fn parsed(array: &ArrayRef, at: usize, parse: impl FnOnce(&str) -> Option<Vec<u8>>) -> Result<Cow<'_, [u8]>> {
    let bytes = raw(array, at)?;
    let parsed = std::str::from_utf8(bytes).ok().and_then(parse);
    Ok(Cow::Owned(parsed.unwrap_or_else(|| misfit(bytes))))
}

/// The letters of a value behind the mark.
fn misfit(bytes: &[u8]) -> Vec<u8> {
    [MISFIT, bytes].concat()
}

fn integer(array: &ArrayRef, at: usize) -> Option<i128> {
    Some(match array.data_type() {
        ArrowType::Boolean => i128::from(array.as_boolean().value(at)),
        ArrowType::Int16 => array.as_primitive::<Int16Type>().value(at).into(),
        ArrowType::Int32 => array.as_primitive::<Int32Type>().value(at).into(),
        ArrowType::Int64 => array.as_primitive::<Int64Type>().value(at).into(),
        ArrowType::UInt8 => array.as_primitive::<UInt8Type>().value(at).into(),
        ArrowType::UInt16 => array.as_primitive::<UInt16Type>().value(at).into(),
        ArrowType::UInt32 => array.as_primitive::<UInt32Type>().value(at).into(),
        ArrowType::UInt64 => array.as_primitive::<UInt64Type>().value(at).into(),
        _ => return None,
    })
}

fn integer_bytes(number: i128) -> Vec<u8> {
    i64::try_from(number)
        .map_or_else(|_| number.to_be_bytes().to_vec(), |number| number.to_be_bytes().to_vec())
}

fn float(array: &ArrayRef, at: usize) -> Option<f64> {
    match array.data_type() {
        ArrowType::Float32 => Some(array.as_primitive::<Float32Type>().value(at).into()),
        ArrowType::Float64 => Some(array.as_primitive::<Float64Type>().value(at)),
        ArrowType::Decimal128(_, scale) => {
            decimal_text(array.as_primitive::<Decimal128Type>().value(at), *scale).parse().ok()
        }
        // As a destination of floating point would store it.
        #[allow(
            clippy::cast_precision_loss,
            reason = "rounding to the other side's type is what is asked for"
        )]
        _ => integer(array, at).map(|number| number as f64),
    }
}

fn float_bytes(number: f64) -> Vec<u8> {
    float_word(number).to_vec()
}

fn float_word(number: f64) -> [u8; 8] {
    let number = if number.is_nan() { f64::NAN } else { number + 0.0 };
    number.to_be_bytes()
}

fn decimal(array: &ArrayRef, at: usize) -> Result<Cow<'_, [u8]>> {
    if let ArrowType::Utf8 | ArrowType::Binary = array.data_type()
        && let Some(number) = already_plain(raw(array, at)?)
    {
        return Ok(Cow::Borrowed(number));
    }
    let number = match array.data_type() {
        ArrowType::Decimal128(_, scale) => {
            Some(decimal_text(array.as_primitive::<Decimal128Type>().value(at), *scale))
        }
        _ => integer(array, at).map(|number| number.to_string()),
    };
    match number.as_deref().and_then(plain) {
        Some(number) => Ok(Cow::Owned(number.into_bytes())),
        None => parsed(array, at, |text| plain(text).map(String::into_bytes)),
    }
}

fn decimal_text(value: i128, scale: i8) -> String {
    format!("{value}e{}", -i32::from(scale))
}

/// The decimal itself without its last zeros, if nothing else is to be done about it, as with nearly all that come from a
/// database: digits with a point, no zero in front.
fn already_plain(text: &[u8]) -> Option<&[u8]> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let point = digits.iter().position(|byte| *byte == b'.');
    let (whole, part) = digits.split_at(point.unwrap_or(digits.len()));
    let part = part.get(1..).unwrap_or_default();
    let is_plain = match whole {
        [] => false,
        // Minus zero is zero, and 0.00 too.
        [b'0'] => digits.len() == text.len() && (point.is_none() || part.iter().any(|digit| *digit != b'0')),
        [first, ..] => *first != b'0',
    };
    if !is_plain || !whole.iter().chain(part).all(u8::is_ascii_digit) {
        return None;
    }
    let Some(last) = part.iter().rposition(|digit| *digit != b'0') else {
        return Some(&text[..text.len() - part.len() - usize::from(point.is_some())]);
    };
    Some(&text[..text.len() - part.len() + last + 1])
}

/// Digits that an exponent may stand for: more than any system's decimals have.
const EXPONENT_MAX: i32 = 200_000;

/// A decimal without an exponent and without zeros that say nothing; `None` if it is no number. NaN and infinities are
/// words of their own.
fn plain(text: &str) -> Option<String> {
    let lower = text.trim().to_ascii_lowercase();
    if matches!(lower.as_str(), "nan" | "infinity" | "-infinity") {
        return Some(lower);
    }
    let (number, exponent) = match lower.split_once('e') {
        Some((number, exponent)) => (number, exponent.parse().ok()?),
        None => (lower.as_str(), 0_i32),
    };
    let (sign, number) = match number.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = [whole, part].concat();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) || exponent.abs() > EXPONENT_MAX
    {
        return None;
    }
    let point = i64::try_from(whole.len()).ok()? + i64::from(exponent);
    let significant = digits.trim_end_matches('0');
    let leading = significant.len() - significant.trim_start_matches('0').len();
    let (significant, point) = (&significant[leading..], point - i64::try_from(leading).ok()?);
    if significant.is_empty() {
        return Some("0".to_owned());
    }
    let length = i64::try_from(significant.len()).ok()?;
    let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or(0));
    Some(if point <= 0 {
        format!("{sign}0.{}{significant}", zeros(-point))
    } else if point >= length {
        format!("{sign}{significant}{}", zeros(point - length))
    } else {
        let (whole, part) = significant.split_at(usize::try_from(point).ok()?);
        format!("{sign}{whole}.{part}")
    })
}

fn uuid(array: &ArrayRef, at: usize) -> Result<Cow<'_, [u8]>> {
    let bytes = raw(array, at)?;
    if bytes.len() == 16 && !matches!(array.data_type(), ArrowType::Utf8) {
        return Ok(Cow::Borrowed(bytes));
    }
    parsed(array, at, |text| civil::uuid(text).map(|uuid| uuid.to_vec()))
}

fn moment(array: &ArrayRef, at: usize, parse: impl FnOnce(&str) -> Option<i64>) -> Result<Cow<'_, [u8]>> {
    let number = match array.data_type() {
        ArrowType::Date32 => i64::from(array.as_primitive::<Date32Type>().value(at)),
        ArrowType::Time64(_) => array.as_primitive::<Time64MicrosecondType>().value(at),
        ArrowType::Timestamp(..) => array.as_primitive::<TimestampMicrosecondType>().value(at),
        _ => return parsed(array, at, |text| parse(text).map(|number| number.to_be_bytes().to_vec())),
    };
    Ok(Cow::Owned(number.to_be_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array, Int32Array,
        Int64Array, StringArray, TimestampMicrosecondArray,
    };
    use proptest::prelude::*;

    use super::*;

    fn bytes(class: Class, array: impl Array + 'static) -> Vec<u8> {
        let array: ArrayRef = Arc::new(array);
        value(class, &array, 0).unwrap().into_owned()
    }

    fn text(class: Class, text: &str) -> Vec<u8> {
        bytes(class, StringArray::from(vec![text]))
    }

    #[test]
    fn one_value_has_one_encoding_whatever_carries_it() {
        assert_eq!(
            bytes(Class::Integer, BooleanArray::from(vec![true])),
            bytes(Class::Integer, Int64Array::from(vec![1]))
        );
        assert_eq!(bytes(Class::Integer, Int32Array::from(vec![-7])), text(Class::Integer, "-7"));
        assert_eq!(
            bytes(Class::Float, Float32Array::from(vec![0.5])),
            bytes(Class::Float, Float64Array::from(vec![0.5]))
        );
        assert_eq!(
            bytes(Class::Float, Float64Array::from(vec![-0.0])),
            bytes(Class::Float, Int64Array::from(vec![0]))
        );
        let decimal = Decimal128Array::from(vec![1_200]).with_precision_and_scale(10, 2).unwrap();
        assert_eq!(bytes(Class::Decimal, decimal), text(Class::Decimal, "12.000"));
        let uuid = FixedSizeBinaryArray::try_from_iter([[0xab_u8; 16]].iter()).unwrap();
        assert_eq!(bytes(Class::Uuid, uuid), text(Class::Uuid, "ABABABAB-abab-abab-abab-abababababab"));
        let instant = TimestampMicrosecondArray::from(vec![1]).with_timezone("UTC");
        assert_eq!(bytes(Class::Instant, instant), text(Class::Instant, "1970-01-01 02:00:00.000001+02:00"));
    }

    #[test]
    fn a_value_that_is_not_of_its_class_equals_itself_only() {
        for class in [Class::Integer, Class::Float, Class::Decimal, Class::Uuid, Class::Date, Class::Instant]
        {
            assert_eq!(text(class, "x"), misfit(b"x"));
            assert_ne!(text(class, "x"), text(class, "y"));
        }
    }

    #[test]
    fn decimals_have_one_form() {
        for (given, expected) in [
            ("1.10", "1.1"),
            ("0010", "10"),
            ("-0.00", "0"),
            ("1e3", "1000"),
            ("12.5e-4", "0.00125"),
            (".5", "0.5"),
            ("+7.", "7"),
            ("100", "100"),
            ("NaN", "nan"),
            ("-Infinity", "-infinity"),
            ("1200e-2", "12"),
        ] {
            assert_eq!(plain(given).as_deref(), Some(expected), "{given}");
        }
        for given in [
            "0", "-0", "0.0", "0.50", "-0.5", "10", "100.00", "-1.50", "01", "1.", "7.000100", "-", "", "1.x",
        ] {
            let expected = plain(given).unwrap_or_else(|| "none".to_owned());
            if let Some(found) = already_plain(given.as_bytes()) {
                assert_eq!(std::str::from_utf8(found), Ok(expected.as_str()), "{given}");
            }
        }
        assert_eq!(already_plain(b"100.50"), Some(&b"100.5"[..]));
        assert_eq!(already_plain(b"100.00"), Some(&b"100"[..]));
        for given in ["", ".", "-", "1e", "1.2.3", "0x10", "1e999999999", "١"] {
            assert_eq!(plain(given), None, "{given}");
        }
    }

    proptest! {
        #[test]
        fn decimals_are_equal_exactly_when_their_numbers_are(a in any::<i64>(), b in any::<i64>(), shift in 0_u32..6) {
            let power = 10_i128.pow(shift);
            let left = plain(&format!("{a}e-{shift}"));
            let right = plain(&format!("{}e-{}", i128::from(a) * power, 2 * shift));
            prop_assert_eq!(&left, &right);
            prop_assert_eq!(left == plain(&format!("{b}e-{shift}")), a == b);
        }
    }
}
