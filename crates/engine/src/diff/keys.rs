//! Keys as a comparison knows them, given back to the side that they are to be read from.

use std::sync::Arc;

use arrow_array::builder::FixedSizeBinaryBuilder;
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow_schema::{DataType as ArrowType, TimeUnit};
use syncline_core::{Column, Error, Result, TableSchema, civil, encoding};

use super::pairing::{Class, ComparedColumn};

/// The encoded value of one key column, `None` for NULL.
type Value<'a> = Option<&'a [u8]>;

/// Encoded keys as [`TableSchema::arrow_old`] of a side's table.
///
/// A value that the side's type cannot hold becomes NULL, which is no key: no row comes back for it.
///
/// # Errors
/// A conflict if the bytes are not keys of this table; a bug if a key column has a type that no key is read by.
pub(crate) fn batch(
    keys: &[Box<[u8]>],
    columns: &[ComparedColumn],
    table: &TableSchema,
) -> Result<RecordBatch> {
    let mut values: Vec<Vec<Value<'_>>> = vec![Vec::with_capacity(keys.len()); columns.len()];
    for key in keys {
        let parts = encoding::values(key)?;
        if parts.len() != columns.len() {
            return Err(Error::conflict("a key has another number of columns").with_table(&table.id));
        }
        values.iter_mut().zip(parts).for_each(|(column, part)| column.push(part));
    }
    let arrays = columns.iter().zip(&table.columns).zip(&values);
    let arrays = arrays.map(|((compared, column), values)| array(compared.class, column, values));
    RecordBatch::try_new(table.arrow_old(), arrays.collect::<Result<_>>()?)
        .map_err(|error| Error::bug("keys do not fit their table").with_source(error).with_table(&table.id))
}

/// Encoded rows as [`TableSchema::arrow`] of a side's table, for tables without a key.
///
/// # Errors
/// Configuration if a value cannot be given back from its encoding: a text that is not of its column's class, or a list.
pub(super) fn rows(
    rows: &[Box<[u8]>],
    columns: &[ComparedColumn],
    table: &TableSchema,
) -> Result<RecordBatch> {
    let mut values: Vec<Vec<Value<'_>>> = vec![Vec::with_capacity(rows.len()); columns.len()];
    for row in rows {
        values.iter_mut().zip(encoding::values(row)?).for_each(|(column, value)| column.push(value));
    }
    let mut arrays = Vec::with_capacity(columns.len());
    for ((compared, column), values) in columns.iter().zip(&table.columns).zip(&values) {
        let lost = || {
            Error::configuration(format!("values of column {} cannot be given back", column.name))
                .with_table(&table.id)
                .with_remedy("give the table a key: rows are then read again by it")
        };
        let array = match column.arrow_type() {
            ArrowType::Decimal128(precision, scale) => decimals(values, precision, scale)?,
            ArrowType::List(_) => return Err(lost()),
            _ => array(compared.class, column, values)?,
        };
        if array.null_count() != values.iter().filter(|value| value.is_none()).count() {
            return Err(lost());
        }
        arrays.push(array);
    }
    RecordBatch::try_new(table.arrow(), arrays)
        .map_err(|error| Error::bug("rows do not fit their table").with_source(error).with_table(&table.id))
}

/// Decimals out of their digits.
fn decimals(values: &[Value<'_>], precision: u8, scale: i8) -> Result<ArrayRef> {
    let array: Decimal128Array = values.iter().map(|value| unscaled((*value)?, scale)).collect();
    array
        .with_precision_and_scale(precision, scale)
        .map(|array| Arc::new(array) as ArrayRef)
        .map_err(|error| Error::bug("a decimal has its column's precision").with_source(error))
}

/// `-12.5` at scale 2: -1250.
fn unscaled(digits: &[u8], scale: i8) -> Option<i128> {
    let text = std::str::from_utf8(digits).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let missing = usize::try_from(scale).ok()?.checked_sub(fraction.len())?;
    format!("{whole}{fraction}{}", "0".repeat(missing)).parse().ok()
}

fn array(class: Class, column: &Column, values: &[Value<'_>]) -> Result<ArrayRef> {
    let arrow = column.arrow_type();
    let number = |value: &Value<'_>| value.and_then(whole);
    macro_rules! numbers {
        ($array:ty) => {
            Arc::new(values.iter().map(|v| number(v)?.try_into().ok()).collect::<$array>())
        };
    }
    Ok(match arrow {
        ArrowType::Binary => Arc::new(BinaryArray::from(values.to_vec())),
        ArrowType::Utf8 => Arc::new(values.iter().map(|v| text(class, (*v)?)).collect::<StringArray>()),
        ArrowType::Boolean => {
            Arc::new(values.iter().map(|v| number(v).map(|n| n != 0)).collect::<BooleanArray>())
        }
        ArrowType::Int16 => numbers!(Int16Array),
        ArrowType::Int32 => numbers!(Int32Array),
        ArrowType::Int64 => numbers!(Int64Array),
        ArrowType::UInt8 => numbers!(UInt8Array),
        ArrowType::UInt16 => numbers!(UInt16Array),
        ArrowType::UInt32 => numbers!(UInt32Array),
        ArrowType::UInt64 => numbers!(UInt64Array),
        ArrowType::Date32 => numbers!(Date32Array),
        ArrowType::Time64(TimeUnit::Microsecond) => numbers!(Time64MicrosecondArray),
        ArrowType::Timestamp(TimeUnit::Microsecond, zone) => {
            let micros: TimestampMicrosecondArray =
                values.iter().map(|v| number(v)?.try_into().ok()).collect();
            Arc::new(micros.with_timezone_opt(zone))
        }
        ArrowType::Float64 => Arc::new(values.iter().map(|v| float(class, (*v)?)).collect::<Float64Array>()),
        #[allow(clippy::cast_possible_truncation, reason = "it was widened from this very type")]
        ArrowType::Float32 => {
            Arc::new(values.iter().map(|v| Some(float(class, (*v)?)? as f32)).collect::<Float32Array>())
        }
        ArrowType::FixedSizeBinary(16) => uuids(values)?,
        other => {
            return Err(Error::bug(format!("rows cannot be read by a key column of Arrow type {other}")));
        }
    })
}

/// A whole number of 8 or 16 bytes.
fn whole(bytes: &[u8]) -> Option<i128> {
    match bytes.len() {
        8 => Some(i64::from_be_bytes(bytes.try_into().ok()?).into()),
        16 => Some(i128::from_be_bytes(bytes.try_into().ok()?)),
        _ => None,
    }
}

fn float(class: Class, bytes: &[u8]) -> Option<f64> {
    match class {
        Class::Float => Some(f64::from_be_bytes(bytes.try_into().ok()?)),
        _ => std::str::from_utf8(bytes).ok()?.parse().ok(),
    }
}

fn uuids(values: &[Value<'_>]) -> Result<ArrayRef> {
    let mut array = FixedSizeBinaryBuilder::with_capacity(values.len(), 16);
    for value in values {
        match value.filter(|bytes| bytes.len() == 16) {
            Some(bytes) => array
                .append_value(bytes)
                .map_err(|error| Error::bug("a uuid has 16 bytes").with_source(error))?,
            None => array.append_null(),
        }
    }
    Ok(Arc::new(array.finish()))
}

/// The text of an encoded value, in the form that the published mapping gives it.
pub(super) fn text(class: Class, bytes: &[u8]) -> Option<String> {
    Some(match class {
        Class::Integer => whole(bytes)?.to_string(),
        Class::Float => float(class, bytes)?.to_string(),
        Class::Text | Class::Decimal | Class::Native | Class::Bytes => {
            String::from_utf8(bytes.to_vec()).ok()?
        }
        Class::Uuid => civil::uuid_text(bytes.try_into().ok()?),
        Class::Date => civil::date_text(micros(bytes)?),
        Class::Time => civil::time_text(micros(bytes)?),
        Class::Timestamp => civil::timestamp_text(micros(bytes)?),
        Class::Instant => civil::instant_text(micros(bytes)?),
    })
}

/// Days or microseconds.
fn micros(bytes: &[u8]) -> Option<i64> {
    i64::try_from(whole(bytes)?).ok()
}
