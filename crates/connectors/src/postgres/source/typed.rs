//! Values for destinations of another family: from the server's text form into typed Arrow arrays.
//!
//! Text on purpose, for snapshot, stream and re-reads alike: one decoder per type, and a column without a typed form is
//! its text. A value that the typed form cannot hold (an infinite date) is a data error of its table, never changed.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, FixedSizeBinaryBuilder, Float32Builder, Float64Builder,
    Int16Builder, Int32Builder, Int64Builder, StringBuilder, Time64MicrosecondBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType as ArrowType, TimeUnit};
use bytes::Bytes;
use syncline_core::{Carriage, Column, DataType, Error, ErrorKind, Result, TableSchema};

use super::copy_text;
use super::datetime::{self, EPOCH_DAYS, EPOCH_US};
use super::hex::{from_hex, to_hex};
use super::snapshot::with_rest;

const DAY_US: i64 = 86_400_000_000;

/// The server reads `J` and a day's number as a date, whatever the year.
const JULIAN_DAY_1970: i64 = 2_440_588;

/// Whether a table's values are carried typed. All columns of a pipeline are or none is.
pub(super) fn is_typed(table: &TableSchema) -> bool {
    table.columns.iter().any(|column| column.carriage == Carriage::Typed)
}

/// Builds the array of one column from the text of its values.
pub(super) struct ColumnDecoder {
    name: String,
    builder: Builder,
}

enum Builder {
    /// The family's own bytes, as they come.
    Raw(BinaryBuilder),
    Bool(BooleanBuilder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Uuid(FixedSizeBinaryBuilder),
}

impl Builder {
    fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Bool => Self::Bool(BooleanBuilder::new()),
            DataType::Int(0..=16) => Self::Int16(Int16Builder::new()),
            DataType::Int(17..=32) => Self::Int32(Int32Builder::new()),
            DataType::Int(_) => Self::Int64(Int64Builder::new()),
            DataType::Float32 => Self::Float32(Float32Builder::new()),
            DataType::Float64 => Self::Float64(Float64Builder::new()),
            DataType::Numeric | DataType::Text | DataType::Json | DataType::Native(_) => {
                Self::Text(StringBuilder::new())
            }
            DataType::Bytes => Self::Bytes(BinaryBuilder::new()),
            DataType::Date => Self::Date(Date32Builder::new()),
            DataType::Time => Self::Time(Time64MicrosecondBuilder::new()),
            DataType::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new()),
            DataType::TimestampTz => Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            DataType::Uuid => Self::Uuid(FixedSizeBinaryBuilder::new(16)),
            DataType::UInt(_) | DataType::Decimal { .. } | DataType::Array(_) => return None,
        })
    }

    fn append_null(&mut self) {
        match self {
            Self::Raw(b) | Self::Bytes(b) => b.append_null(),
            Self::Bool(b) => b.append_null(),
            Self::Int16(b) => b.append_null(),
            Self::Int32(b) => b.append_null(),
            Self::Int64(b) => b.append_null(),
            Self::Float32(b) => b.append_null(),
            Self::Float64(b) => b.append_null(),
            Self::Text(b) => b.append_null(),
            Self::Date(b) => b.append_null(),
            Self::Time(b) => b.append_null(),
            Self::Timestamp(b) => b.append_null(),
            Self::Uuid(b) => b.append_null(),
        }
    }

    /// `None` if the typed form cannot hold the value.
    fn append(&mut self, value: &[u8]) -> Option<()> {
        if let Self::Raw(b) = self {
            b.append_value(value);
            return Some(());
        }
        let text = std::str::from_utf8(value).ok()?;
        match self {
            Self::Raw(_) => return None,
            Self::Bool(b) => b.append_value(match text {
                "t" => true,
                "f" => false,
                _ => return None,
            }),
            Self::Int16(b) => b.append_value(text.parse().ok()?),
            Self::Int32(b) => b.append_value(text.parse().ok()?),
            Self::Int64(b) => b.append_value(text.parse().ok()?),
            Self::Float32(b) => b.append_value(text.parse().ok()?),
            Self::Float64(b) => b.append_value(text.parse().ok()?),
            Self::Text(b) => b.append_value(text),
            Self::Bytes(b) => b.append_value(from_hex(text.strip_prefix("\\x")?)?),
            Self::Date(b) => {
                let days = datetime::date(text).filter(|&days| days != i32::MAX && days != i32::MIN)?;
                b.append_value(days.checked_add(EPOCH_DAYS)?);
            }
            Self::Time(b) => b.append_value(datetime::time(text)?),
            Self::Timestamp(b) => {
                let micros = datetime::timestamp(text).filter(|&us| us != i64::MAX && us != i64::MIN)?;
                b.append_value(micros.checked_add(EPOCH_US)?);
            }
            Self::Uuid(b) => b.append_value(from_hex(&text.replace('-', ""))?).ok()?,
        }
        Some(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Raw(b) | Self::Bytes(b) => Arc::new(b.finish()),
            Self::Bool(b) => Arc::new(b.finish()),
            Self::Int16(b) => Arc::new(b.finish()),
            Self::Int32(b) => Arc::new(b.finish()),
            Self::Int64(b) => Arc::new(b.finish()),
            Self::Float32(b) => Arc::new(b.finish()),
            Self::Float64(b) => Arc::new(b.finish()),
            Self::Text(b) => Arc::new(b.finish()),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Time(b) => Arc::new(b.finish()),
            Self::Timestamp(b) => Arc::new(b.finish()),
            Self::Uuid(b) => Arc::new(b.finish()),
        }
    }
}

impl ColumnDecoder {
    /// A decoder for a column, typed or carried as the family's own bytes.
    pub(super) fn new(column: &Column) -> Result<Self> {
        let builder = match column.carriage {
            Carriage::Native | Carriage::NativeText => Some(Builder::Raw(BinaryBuilder::new())),
            Carriage::Typed => Builder::of(&column.data_type),
        };
        let builder = builder.ok_or_else(|| Error::bug("a column of a type that this source never gives"))?;
        Ok(Self { name: column.name.clone(), builder })
    }

    /// Appends a value as it is carried, or, for a typed column, in the server's text form.
    ///
    /// # Errors
    /// Data if the column's typed form cannot hold it; the message names the column, not the value.
    pub(super) fn append(&mut self, value: Option<&[u8]>) -> Result<()> {
        let Some(value) = value else {
            self.builder.append_null();
            return Ok(());
        };
        self.builder.append(value).ok_or_else(|| {
            let message = format!("column {} holds a value that its typed form cannot hold", self.name);
            Error::new(ErrorKind::Data, message).with_remedy(
                "exclude the column, or replace the value (an infinite date, a date beyond the range)",
            )
        })
    }

    /// The array of everything appended; the decoder begins anew.
    pub(super) fn finish(&mut self) -> ArrayRef {
        self.builder.finish()
    }
}

/// Decodes the rows of a COPY in text form that comes in pieces.
pub(super) struct RowDecoder {
    table: TableSchema,
    /// The beginning of a row whose end has not come.
    rest: Vec<u8>,
}

impl RowDecoder {
    pub(super) fn new(table: &TableSchema) -> Self {
        Self { table: table.clone(), rest: Vec::new() }
    }

    /// The rows that end in this piece.
    pub(super) fn decode(&mut self, piece: &Bytes) -> Result<RecordBatch> {
        let decoders = self.table.columns.iter().map(ColumnDecoder::new).collect::<Result<Vec<_>>>();
        let mut decoders = decoders?;
        let table = &self.table.id;
        with_rest(&mut self.rest, piece, |bytes| {
            let (rows, rest) = copy_text::rows(bytes);
            for row in rows {
                decode_row(row, &mut decoders).map_err(|error| error.with_table(table))?;
            }
            Ok(bytes.len() - rest.len())
        })?;
        batch(&self.table, &mut decoders)
    }
}

fn decode_row(row: &[u8], decoders: &mut [ColumnDecoder]) -> Result<()> {
    let mut fields = copy_text::fields(row);
    for decoder in decoders {
        let field = fields.next().ok_or_else(other_columns)?;
        decoder.append(field.as_deref())?;
    }
    if fields.next().is_some() { Err(other_columns()) } else { Ok(()) }
}

fn other_columns() -> Error {
    Error::bug("a row of COPY has another number of columns")
}

/// A typed key's value in a text form that the server reads back as the same value.
pub(super) fn key_text(column: &ArrayRef, row: usize) -> Result<Option<Vec<u8>>> {
    if column.is_null(row) {
        return Ok(None);
    }
    Ok(Some(match column.data_type() {
        ArrowType::Utf8 => column.as_string::<i32>().value(row).as_bytes().to_vec(),
        ArrowType::Binary => format!("\\x{}", to_hex(column.as_binary::<i32>().value(row))).into_bytes(),
        ArrowType::FixedSizeBinary(16) => to_hex(column.as_fixed_size_binary().value(row)).into_bytes(),
        ArrowType::Boolean => column.as_boolean().value(row).to_string().into_bytes(),
        ArrowType::Int16 => column.as_primitive::<Int16Type>().value(row).to_string().into_bytes(),
        ArrowType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string().into_bytes(),
        ArrowType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string().into_bytes(),
        ArrowType::Float32 => column.as_primitive::<Float32Type>().value(row).to_string().into_bytes(),
        ArrowType::Float64 => column.as_primitive::<Float64Type>().value(row).to_string().into_bytes(),
        ArrowType::Date32 => {
            let days = i64::from(column.as_primitive::<Date32Type>().value(row));
            format!("J{}", days + JULIAN_DAY_1970).into_bytes()
        }
        ArrowType::Time64(TimeUnit::Microsecond) => {
            clock_text(column.as_primitive::<Time64MicrosecondType>().value(row)).into_bytes()
        }
        ArrowType::Timestamp(TimeUnit::Microsecond, _) => {
            moment_text(column.as_primitive::<TimestampMicrosecondType>().value(row)).into_bytes()
        }
        other => return Err(Error::bug(format!("a key column of Arrow type {other} has no text form"))),
    }))
}

/// A moment, in microseconds since 1970, in a form that the server reads at any date it knows.
pub(super) fn moment_text(micros: i64) -> String {
    let (days, clock) = (micros.div_euclid(DAY_US), micros.rem_euclid(DAY_US));
    format!("J{} {}", days + JULIAN_DAY_1970, clock_text(clock))
}

fn clock_text(micros: i64) -> String {
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    format!("{:02}:{:02}:{:02}.{micros:06}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// The record batch of a table's decoders.
pub(super) fn batch(table: &TableSchema, decoders: &mut [ColumnDecoder]) -> Result<RecordBatch> {
    let columns = decoders.iter_mut().map(ColumnDecoder::finish).collect();
    RecordBatch::try_new(table.arrow(), columns).map_err(|error| {
        Error::bug("decoded columns do not fit their table").with_source(error).with_table(&table.id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(data_type: DataType, text: &str) -> Result<ArrayRef> {
        let column = Column {
            name: "c".into(),
            data_type,
            nullable: true,
            native_type: String::new(),
            carriage: Carriage::Typed,
        };
        let mut decoder = ColumnDecoder::new(&column)?;
        decoder.append(Some(text.as_bytes()))?;
        decoder.append(None)?;
        Ok(decoder.finish())
    }

    #[test]
    fn values_keep_their_meaning() {
        let int = decode(DataType::Int(32), "-7").unwrap();
        assert_eq!((int.as_primitive::<Int32Type>().value(0), int.is_null(1)), (-7, true));
        let float = decode(DataType::Float64, "-Infinity").unwrap();
        assert!(float.as_primitive::<Float64Type>().value(0) == f64::NEG_INFINITY);
        assert_eq!(decode(DataType::Bytes, "\\x00ff").unwrap().as_binary::<i32>().value(0), [0, 255]);
        assert_eq!(decode(DataType::Numeric, "1.10").unwrap().as_string::<i32>().value(0), "1.10");
        assert_eq!(decode(DataType::Date, "1970-01-02").unwrap().as_primitive::<Date32Type>().value(0), 1);
        let instant = decode(DataType::TimestampTz, "1970-01-01 00:00:00.000001+00").unwrap();
        assert_eq!(instant.as_primitive::<TimestampMicrosecondType>().value(0), 1);
        assert_eq!(key_text(&instant, 0).unwrap().unwrap(), b"J2440588 00:00:00.000001");
    }

    #[test]
    fn what_does_not_fit_is_a_data_error_without_the_value() {
        for (data_type, text) in [
            (DataType::Date, "infinity"),
            (DataType::Timestamp, "-infinity"),
            (DataType::TimestampTz, "294276-12-31 23:59:59+00"),
            (DataType::Int(16), "70000"),
        ] {
            let error = decode(data_type, text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data);
            assert!(!error.to_string().contains(text));
        }
    }
}
