//! A letter as a person reads it.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use serde::Serialize;
use syncline_core::{Carriage, Column, Letter, Operation, Result, Snapshots, civil};

use super::form;

/// What a letter's change would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LetterView {
    /// What is done: the row is new, is changed, or goes.
    pub operation: &'static str,
    /// The columns that the change carries.
    pub row: Vec<LetterValue>,
    /// Columns that stay as they are at the destination.
    pub left_out: Vec<String>,
    /// What the row is at the destination, if it is found there by something else than its key: the key from which it moved;
    /// without a row key all of it.
    pub moved_from: Vec<LetterValue>,
}

/// A column and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LetterValue {
    /// The column.
    pub column: String,
    /// As text; `None` for NULL.
    pub value: Option<String>,
}

/// Reads a letter. `snapshots`: the source, which knows how its native values are written.
///
/// # Errors
/// A conflict if the letter cannot be read.
pub fn view(letter: &Letter, snapshots: Option<&dyn Snapshots>) -> Result<LetterView> {
    let line = form::from_bytes(&letter.change)?;
    let value = |column: &Column, array: &ArrayRef, row| LetterValue {
        column: column.name.clone(),
        value: shown(column, array, row, snapshots),
    };
    let operation = line.operations.first().copied().unwrap_or(Operation::Upsert);
    let (table, mask) = (&line.table, line.mask(0));
    let identity = table.old_columns();
    let is_there = |column: usize| {
        mask.is_none_or(|mask| !mask.contains(column))
            && (operation != Operation::Delete || identity.contains(&column))
    };
    let (carried, left_out): (Vec<usize>, Vec<usize>) = (0..table.columns.len()).partition(|&n| is_there(n));
    let moved_from = match (&line.old, line.old_row(0)) {
        (Some(old), Some(row)) => {
            let keys = identity.iter().zip(old.keys.columns());
            keys.map(|(&column, array)| value(&table.columns[column], array, row)).collect()
        }
        _ => Vec::new(),
    };
    Ok(LetterView {
        operation: match operation {
            Operation::Insert => "insert",
            Operation::Upsert => "upsert",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Truncate => "truncate",
        },
        row: carried.iter().map(|&n| value(&table.columns[n], line.rows.column(n), 0)).collect(),
        left_out: match operation {
            Operation::Delete => Vec::new(),
            _ => left_out.iter().map(|&n| table.columns[n].name.clone()).collect(),
        },
        moved_from,
    })
}

/// The first of some rows.
pub(crate) fn values(
    columns: &[Column],
    rows: &RecordBatch,
    snapshots: Option<&dyn Snapshots>,
) -> Vec<LetterValue> {
    let value = |(column, array): (&Column, &ArrayRef)| LetterValue {
        column: column.name.clone(),
        value: shown(column, array, 0, snapshots),
    };
    columns.iter().zip(rows.columns()).map(value).collect()
}

fn shown(column: &Column, array: &ArrayRef, row: usize, snapshots: Option<&dyn Snapshots>) -> Option<String> {
    if array.is_null(row) {
        return None;
    }
    Some(match (column.carriage, snapshots) {
        (Carriage::Native | Carriage::NativeText, Some(snapshots))
            if *array.data_type() == DataType::Binary =>
        {
            snapshots.show(column, array.as_binary::<i32>().value(row))
        }
        _ => typed(array, row).unwrap_or_else(|| "(not shown)".to_owned()),
    })
}

fn typed(array: &ArrayRef, row: usize) -> Option<String> {
    macro_rules! number {
        ($t:ty) => {
            array.as_primitive::<$t>().value(row).to_string()
        };
    }
    Some(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).to_owned(),
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => number!(Float32Type),
        DataType::Float64 => number!(Float64Type),
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value_as_string(row),
        DataType::Date32 => civil::date_text(array.as_primitive::<Date32Type>().value(row).into()),
        DataType::Time64(TimeUnit::Microsecond) => {
            civil::time_text(array.as_primitive::<Time64MicrosecondType>().value(row))
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let at = array.as_primitive::<TimestampMicrosecondType>().value(row);
            if zone.is_some() { civil::instant_text(at) } else { civil::timestamp_text(at) }
        }
        DataType::FixedSizeBinary(16) => {
            civil::uuid_text(array.as_fixed_size_binary().value(row).try_into().ok()?)
        }
        DataType::Binary => {
            let bytes = array.as_binary::<i32>().value(row);
            let text = std::str::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control));
            text.map(str::to_owned).or_else(|| Some(hexadecimal(bytes)))?
        }
        _ => return None,
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold("\\x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}
