//! The way back from the bytes of a row key to the values of its columns, each in its own Arrow type.

use std::sync::Arc;

use arrow_array::builder::FixedSizeBinaryBuilder;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Int16Array, Int32Array, Int64Array,
    StringArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array,
    UInt64Array,
};
use arrow_schema::{DataType, TimeUnit};

use crate::error::{Error, Result};

/// Values of one key column, `None` for NULL, as `RowKey::of` wrote them.
///
/// # Errors
/// A conflict if the bytes are not values of this type; a bug if no key column has it.
pub(crate) fn array(values: &[Option<&[u8]>], data_type: &DataType) -> Result<ArrayRef> {
    macro_rules! signed {
        ($array:ty, $int:ty) => {
            numbers(values, |bytes| Some(<$int>::from_be_bytes(bytes.try_into().ok()?) ^ <$int>::MIN))?
                .into_iter()
                .collect::<$array>()
        };
    }
    macro_rules! unsigned {
        ($array:ty, $int:ty) => {
            Arc::new(
                numbers(values, |bytes| Some(<$int>::from_be_bytes(bytes.try_into().ok()?)))?
                    .into_iter()
                    .collect::<$array>(),
            )
        };
    }
    Ok(match data_type {
        DataType::Binary => Arc::new(BinaryArray::from(values.to_vec())),
        DataType::Utf8 => {
            let texts = numbers(values, |bytes| std::str::from_utf8(bytes).ok())?;
            Arc::new(texts.into_iter().collect::<StringArray>())
        }
        DataType::FixedSizeBinary(width) => fixed(values, *width)?,
        DataType::Boolean => {
            let truths = numbers(values, |bytes| bytes.first().map(|byte| *byte != 0))?;
            Arc::new(truths.into_iter().collect::<BooleanArray>())
        }
        DataType::Int16 => Arc::new(signed!(Int16Array, i16)),
        DataType::Int32 => Arc::new(signed!(Int32Array, i32)),
        DataType::Int64 => Arc::new(signed!(Int64Array, i64)),
        DataType::Date32 => Arc::new(signed!(Date32Array, i32)),
        DataType::Time64(TimeUnit::Microsecond) => Arc::new(signed!(Time64MicrosecondArray, i64)),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            Arc::new(signed!(TimestampMicrosecondArray, i64).with_timezone_opt(zone.clone()))
        }
        DataType::Decimal128(precision, scale) => {
            let decimals = signed!(Decimal128Array, i128).with_precision_and_scale(*precision, *scale);
            Arc::new(decimals.map_err(|error| Error::bug("a decimal key").with_source(error))?)
        }
        DataType::UInt8 => unsigned!(UInt8Array, u8),
        DataType::UInt16 => unsigned!(UInt16Array, u16),
        DataType::UInt32 => unsigned!(UInt32Array, u32),
        DataType::UInt64 => unsigned!(UInt64Array, u64),
        other => {
            return Err(Error::bug(format!("a column of Arrow type {other} cannot be part of a row key")));
        }
    })
}

fn numbers<'a, T>(
    values: &[Option<&'a [u8]>],
    read: impl Fn(&'a [u8]) -> Option<T>,
) -> Result<Vec<Option<T>>> {
    let one = |value: &Option<&'a [u8]>| match value {
        None => Ok(None),
        Some(bytes) => read(bytes).map(Some).ok_or_else(damaged),
    };
    values.iter().map(one).collect()
}

fn fixed(values: &[Option<&[u8]>], width: i32) -> Result<ArrayRef> {
    let mut array = FixedSizeBinaryBuilder::with_capacity(values.len(), width);
    for value in values {
        match value {
            None => array.append_null(),
            Some(bytes) => array.append_value(bytes).map_err(|_| damaged())?,
        }
    }
    Ok(Arc::new(array.finish()))
}

fn damaged() -> Error {
    Error::conflict("a stored row key is not of its columns' types")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::RowKey;

    #[test]
    fn values_of_every_type_come_back() {
        let fixed = |bytes: [u8; 4]| {
            let mut array = FixedSizeBinaryBuilder::with_capacity(2, 4);
            array.append_value(bytes).unwrap();
            array.append_null();
            Arc::new(array.finish()) as ArrayRef
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(BinaryArray::from(vec![Some(&b"a\0"[..]), None])),
            Arc::new(StringArray::from(vec![Some("ä"), None])),
            fixed([0, 1, 2, 255]),
            Arc::new(BooleanArray::from(vec![Some(true), Some(false)])),
            Arc::new(Int16Array::from(vec![-2, i16::MAX])),
            Arc::new(Int32Array::from(vec![Some(i32::MIN), None])),
            Arc::new(Int64Array::from(vec![-1, i64::MAX])),
            Arc::new(Date32Array::from(vec![-719_528, 1])),
            Arc::new(Time64MicrosecondArray::from(vec![0, 86_399_999_999])),
            Arc::new(TimestampMicrosecondArray::from(vec![-1, 1]).with_timezone("UTC")),
            Arc::new(Decimal128Array::from(vec![-12, 34]).with_precision_and_scale(10, 2).unwrap()),
            Arc::new(UInt8Array::from(vec![0, 255])),
            Arc::new(UInt16Array::from(vec![0, 65_535])),
            Arc::new(UInt32Array::from(vec![0, u32::MAX])),
            Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])),
        ];
        for column in columns {
            let keys: Vec<RowKey> =
                (0..2).map(|row| RowKey::of(std::slice::from_ref(&column), row).unwrap()).collect();
            let values: Vec<Option<&[u8]>> = keys.iter().map(|key| key.values().unwrap()[0]).collect();
            assert_eq!(&array(&values, column.data_type()).unwrap(), &column, "{}", column.data_type());
        }
        assert!(array(&[Some(b"abc")], &DataType::Int32).is_err());
    }
}
