//! The row key of one row, as bytes that can be compared, hashed, stored and given back to the source.

use arrow_array::{Array, ArrayRef, RecordBatch};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::key_values;
use crate::schema::TableSchema;

/// The carried bytes of the key columns of one row, each with its length before it, so that `('a|b','c')` and
/// `('a','b|c')` differ. Equal bytes mean the same row of the source; different bytes may still be equal to the
/// database (`1.0` and `1.00`), which is why loads delete before they merge.
///
/// Layout: for each key column a `u32` little-endian length and the bytes; `u32::MAX` for NULL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowKey(pub Box<[u8]>);

const NULL: u32 = u32::MAX;

/// Appends the key bytes of row `row` of `columns` to `out`.
///
/// # Errors
/// A bug if a column is not carried as bytes and has no key form.
pub fn append_key(columns: &[ArrayRef], row: usize, out: &mut Vec<u8>) -> Result<()> {
    for column in columns {
        append_value(column, row, out)?;
    }
    Ok(())
}

fn append_value(column: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<()> {
    if column.is_null(row) {
        out.extend_from_slice(&NULL.to_le_bytes());
        return Ok(());
    }
    let value = key_bytes(column, row)?;
    let length = u32::try_from(value.len()).ok().filter(|&n| n != NULL);
    let length = length.ok_or_else(|| Error::bug("a key value is longer than 4 GiB"))?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&value);
    Ok(())
}

/// The bytes of one value; integers big-endian with the sign turned so that byte order is their order.
fn key_bytes(column: &ArrayRef, row: usize) -> Result<std::borrow::Cow<'_, [u8]>> {
    use std::borrow::Cow;

    use arrow_array::cast::AsArray;
    use arrow_array::types::{
        Date32Type, Decimal128Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
        TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    };
    use arrow_schema::{DataType, TimeUnit};
    macro_rules! signed {
        ($t:ty, $int:ty) => {
            Cow::Owned((column.as_primitive::<$t>().value(row) ^ <$int>::MIN).to_be_bytes().to_vec())
        };
    }
    macro_rules! unsigned {
        ($t:ty) => {
            Cow::Owned(column.as_primitive::<$t>().value(row).to_be_bytes().to_vec())
        };
    }
    Ok(match column.data_type() {
        DataType::Binary => Cow::Borrowed(column.as_binary::<i32>().value(row)),
        DataType::Utf8 => Cow::Borrowed(column.as_string::<i32>().value(row).as_bytes()),
        DataType::FixedSizeBinary(_) => Cow::Borrowed(column.as_fixed_size_binary().value(row)),
        DataType::Boolean => Cow::Owned(vec![u8::from(column.as_boolean().value(row))]),
        DataType::Int16 => signed!(Int16Type, i16),
        DataType::Int32 => signed!(Int32Type, i32),
        DataType::Int64 => signed!(Int64Type, i64),
        DataType::Date32 => signed!(Date32Type, i32),
        DataType::Time64(TimeUnit::Microsecond) => signed!(Time64MicrosecondType, i64),
        DataType::Timestamp(TimeUnit::Microsecond, _) => signed!(TimestampMicrosecondType, i64),
        DataType::Decimal128(..) => signed!(Decimal128Type, i128),
        DataType::UInt8 => unsigned!(UInt8Type),
        DataType::UInt16 => unsigned!(UInt16Type),
        DataType::UInt32 => unsigned!(UInt32Type),
        DataType::UInt64 => unsigned!(UInt64Type),
        other => {
            return Err(Error::bug(format!("a column of Arrow type {other} cannot be part of a row key")));
        }
    })
}

impl RowKey {
    /// The key of row `row`, whose key columns are `columns` in key order.
    ///
    /// # Errors
    /// A bug if a column has no key form.
    pub fn of(columns: &[ArrayRef], row: usize) -> Result<Self> {
        let mut bytes = Vec::with_capacity(columns.len() * 12);
        append_key(columns, row, &mut bytes)?;
        Ok(Self(bytes.into_boxed_slice()))
    }

    /// The values of the key columns, `None` for NULL.
    ///
    /// # Errors
    /// A conflict if the bytes were not written by [`RowKey::of`].
    pub fn values(&self) -> Result<Vec<Option<&[u8]>>> {
        let broken = || Error::conflict("a stored row key is damaged");
        let mut rest: &[u8] = &self.0;
        let mut values = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_at_checked(4).ok_or_else(broken)?;
            let length = u32::from_le_bytes(length.try_into().map_err(|_| broken())?);
            if length == NULL {
                values.push(None);
                rest = after;
                continue;
            }
            let length = usize::try_from(length).map_err(|_| broken())?;
            let (value, after) = after.split_at_checked(length).ok_or_else(broken)?;
            values.push(Some(value));
            rest = after;
        }
        Ok(values)
    }

    /// Keys as a record batch of the key columns of `table`, in key order.
    ///
    /// # Errors
    /// A conflict if a key has another number of columns, or other values than they can hold.
    pub fn to_batch(keys: &[Self], table: &TableSchema) -> Result<RecordBatch> {
        let mut columns: Vec<Vec<Option<&[u8]>>> = vec![Vec::with_capacity(keys.len()); table.row_key.len()];
        for key in keys {
            let values = key.values()?;
            if values.len() != columns.len() {
                return Err(
                    Error::conflict("a stored row key has another number of columns").with_table(&table.id)
                );
            }
            for (column, value) in columns.iter_mut().zip(values) {
                column.push(value);
            }
        }
        let schema = table.arrow_old();
        let arrays = columns.iter().zip(schema.fields());
        let arrays = arrays.map(|(values, field)| key_values::array(values, field.data_type()));
        let arrays =
            arrays.collect::<Result<Vec<ArrayRef>>>().map_err(|error| error.with_table(&table.id))?;
        RecordBatch::try_new(schema, arrays)
            .map_err(|error| Error::bug("row keys do not fit their table").with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::BinaryArray;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_are_equal_exactly_when_their_values_are(
            left in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..6)), 1..4),
            right in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..6)), 1..4),
        ) {
            let key = |values: &Vec<Option<Vec<u8>>>| {
                let columns: Vec<ArrayRef> = values
                    .iter()
                    .map(|v| Arc::new(BinaryArray::from(vec![v.as_deref()])) as ArrayRef)
                    .collect();
                RowKey::of(&columns, 0).unwrap()
            };
            prop_assert_eq!(key(&left) == key(&right), left == right);
            let back: Vec<Option<Vec<u8>>> =
                key(&left).values().unwrap().into_iter().map(|v| v.map(<[u8]>::to_vec)).collect();
            prop_assert_eq!(back, left);
        }

        #[test]
        fn damaged_keys_are_refused_not_misread(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(values) = RowKey(bytes.clone().into_boxed_slice()).values() {
                let length: usize = values.iter().map(|v| 4 + v.map_or(0, <[u8]>::len)).sum();
                prop_assert_eq!(length, bytes.len());
            }
        }
    }
}
