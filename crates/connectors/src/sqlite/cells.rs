//! Values of Arrow arrays as SQLite stores them.
//!
//! Native values are stored as what they are. Typed values of other families are stored so that nothing is lost and
//! SQLite's own functions read them:
//!
//! | typed | stored as |
//! |---|---|
//! | bool | integer 0 or 1 |
//! | integers | integer; an unsigned one beyond 2^63 does not fit |
//! | floats | real; NaN does not fit, for SQLite would make it NULL |
//! | decimal, numeric | text with every digit |
//! | text, JSON, native text | text |
//! | bytes | blob |
//! | date, time, timestamp | text `YYYY-MM-DD`, `HH:MM:SS[.ffffff]`, both with a space; an instant ends in `+00:00` |
//! | uuid | text, with hyphens |
//! | array | text: a JSON array of the same |

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use syncline_core::{Carriage, Column, DataType, Error, ErrorKind, Result, TableSchema, civil};

use super::value;

/// A value ready to be bound.
pub(super) type Cell<'a> = ToSqlOutput<'a>;

/// The value of a cell, for comparing.
pub(super) fn value_ref<'a>(cell: &'a Cell<'a>) -> ValueRef<'a> {
    match cell {
        ToSqlOutput::Borrowed(value) => *value,
        ToSqlOutput::Owned(value) => ValueRef::from(value),
        _ => ValueRef::Null,
    }
}

/// The cells of one row of these columns of a table; `columns` are the columns of `batch`, in its order.
pub(super) fn row<'a>(
    table: &TableSchema,
    columns: impl IntoIterator<Item = usize>,
    batch: &'a RecordBatch,
    row: usize,
) -> Result<Vec<Cell<'a>>> {
    columns
        .into_iter()
        .zip(batch.columns())
        .map(|(column, array)| {
            cell(&table.columns[column], array, row).map_err(|error| error.with_table(&table.id))
        })
        .collect()
}

/// One value.
pub(super) fn cell<'a>(column: &Column, array: &'a ArrayRef, row: usize) -> Result<Cell<'a>> {
    if array.is_null(row) {
        return Ok(ToSqlOutput::Borrowed(ValueRef::Null));
    }
    match column.carriage {
        Carriage::Native => Ok(ToSqlOutput::Borrowed(value::decode(array.as_binary::<i32>().value(row))?)),
        Carriage::NativeText => {
            Ok(ToSqlOutput::Borrowed(ValueRef::Text(array.as_binary::<i32>().value(row))))
        }
        Carriage::Typed => typed(column, &column.data_type, array, row),
    }
}

fn typed<'a>(column: &Column, data_type: &DataType, array: &'a ArrayRef, row: usize) -> Result<Cell<'a>> {
    let text = |text: String| Ok(ToSqlOutput::Owned(Value::Text(text)));
    let integer = |number: i64| Ok(ToSqlOutput::Borrowed(ValueRef::Integer(number)));
    match data_type {
        DataType::Bool => integer(i64::from(array.as_boolean().value(row))),
        DataType::Int(0..=16) => integer(array.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int(17..=32) => integer(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int(_) => integer(array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt(0..=8) => integer(array.as_primitive::<UInt8Type>().value(row).into()),
        DataType::UInt(9..=16) => integer(array.as_primitive::<UInt16Type>().value(row).into()),
        DataType::UInt(17..=32) => integer(array.as_primitive::<UInt32Type>().value(row).into()),
        DataType::UInt(_) => integer(
            i64::try_from(array.as_primitive::<UInt64Type>().value(row))
                .map_err(|_| misfit(column, "is beyond 64-bit signed integers"))?,
        ),
        DataType::Float32 => real(column, array.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => real(column, array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal { scale, .. } => {
            text(decimal(array.as_primitive::<Decimal128Type>().value(row), *scale))
        }
        DataType::Numeric | DataType::Text | DataType::Json | DataType::Native(_) => {
            Ok(ToSqlOutput::Borrowed(ValueRef::Text(array.as_string::<i32>().value(row).as_bytes())))
        }
        DataType::Bytes => Ok(ToSqlOutput::Borrowed(ValueRef::Blob(array.as_binary::<i32>().value(row)))),
        DataType::Date => text(civil::date_text(array.as_primitive::<Date32Type>().value(row).into())),
        DataType::Time => text(civil::time_text(array.as_primitive::<Time64MicrosecondType>().value(row))),
        DataType::Timestamp => {
            text(civil::timestamp_text(array.as_primitive::<TimestampMicrosecondType>().value(row)))
        }
        DataType::TimestampTz => {
            text(civil::instant_text(array.as_primitive::<TimestampMicrosecondType>().value(row)))
        }
        DataType::Uuid => {
            let bytes = <&[u8; 16]>::try_from(array.as_fixed_size_binary().value(row));
            text(civil::uuid_text(bytes.map_err(|_| Error::bug("a uuid has 16 bytes"))?))
        }
        DataType::Array(element) => {
            text(json(column, element, &array.as_list::<i32>().value(row))?.to_string())
        }
    }
}

fn misfit(column: &Column, what: &str) -> Error {
    Error::new(ErrorKind::Data, format!("a value of column {} {what}", column.name))
        .with_rows_at_fault()
        .with_remedy("exclude the column, or change the value at the source")
}

fn real<'a>(column: &Column, number: f64) -> Result<Cell<'a>> {
    if number.is_nan() {
        return Err(misfit(column, "is NaN, which SQLite would store as NULL"));
    }
    Ok(ToSqlOutput::Borrowed(ValueRef::Real(number)))
}

fn json(column: &Column, element: &DataType, array: &ArrayRef) -> Result<serde_json::Value> {
    let value = |row: usize| -> Result<serde_json::Value> {
        if array.is_null(row) {
            return Ok(serde_json::Value::Null);
        }
        if let DataType::Array(inner) = element {
            return json(column, inner, &array.as_list::<i32>().value(row));
        }
        Ok(match value_ref(&typed(column, element, array, row)?) {
            ValueRef::Null => serde_json::Value::Null,
            ValueRef::Integer(number) if *element == DataType::Bool => (number == 1).into(),
            ValueRef::Integer(number) => number.into(),
            ValueRef::Real(number) if number.is_finite() => number.into(),
            ValueRef::Real(_) => return Err(misfit(column, "is infinite inside an array")),
            ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
            ValueRef::Blob(bytes) => {
                bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
            }
        })
    };
    (0..array.len()).map(value).collect()
}

fn decimal(value: i128, scale: i8) -> String {
    let digits = value.unsigned_abs().to_string();
    let sign = if value < 0 { "-" } else { "" };
    match usize::from(scale.unsigned_abs()) {
        0 => format!("{sign}{digits}"),
        zeros if scale < 0 => format!("{sign}{digits}{}", "0".repeat(zeros)),
        places => {
            let digits = format!("{digits:0>width$}", width = places + 1);
            let (whole, part) = digits.split_at(digits.len() - places);
            format!("{sign}{whole}.{part}")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn decimals_keep_every_digit() {
        assert_eq!(decimal(-5, 2), "-0.05");
        assert_eq!(decimal(123_450, 2), "1234.50");
        assert_eq!(decimal(7, 0), "7");
        assert_eq!(decimal(7, -2), "700");
    }

    proptest! {
        #[test]
        fn sqlite_reads_the_dates_we_write(seconds in -62_167_219_200_i64..253_402_300_799) {
            let conn = Connection::open_in_memory().unwrap();
            let text = civil::timestamp_text(seconds * 1_000_000);
            let expected: String = conn.query_row("SELECT datetime(?1, 'unixepoch')", [seconds], |row| row.get(0)).unwrap();
            prop_assert_eq!(text, expected);
        }
    }
}
