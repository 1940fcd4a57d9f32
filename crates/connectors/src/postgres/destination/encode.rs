//! Values as PostgreSQL's binary forms: fields of COPY, and arrays that are parameters.
//!
//! Native values are their own binary form already. Typed values are encoded by their Arrow type; what has no direct binary
//! form there (numerics as text, JSON, other systems' types) travels as text, and SQL casts it.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, BinaryArray};
use arrow_schema::{DataType as ArrowType, TimeUnit};
use bytes::{BufMut, BytesMut};
use syncline_core::{Carriage, Column, DataType, Error, Result};

/// Days from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
const EPOCH_US: i64 = 946_684_800_000_000;

/// OIDs of built-in types that typed values become.
pub(super) mod oid {
    pub(in super::super) const BOOL: u32 = 16;
    pub(in super::super) const BYTEA: u32 = 17;
    pub(in super::super) const INT8: u32 = 20;
    pub(in super::super) const INT2: u32 = 21;
    pub(in super::super) const INT4: u32 = 23;
    pub(in super::super) const TEXT: u32 = 25;
    pub(in super::super) const FLOAT4: u32 = 700;
    pub(in super::super) const FLOAT8: u32 = 701;
    pub(in super::super) const BPCHAR: u32 = 1042;
    pub(in super::super) const VARCHAR: u32 = 1043;
    pub(in super::super) const DATE: u32 = 1082;
    pub(in super::super) const TIME: u32 = 1083;
    pub(in super::super) const TIMESTAMP: u32 = 1114;
    pub(in super::super) const TIMESTAMPTZ: u32 = 1184;
    pub(in super::super) const NUMERIC: u32 = 1700;
    pub(in super::super) const UUID: u32 = 2950;
}

/// A type in which values reach the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WireType {
    pub(super) oid: u32,
    /// Its arrays.
    pub(super) array_oid: u32,
    pub(super) sql: &'static str,
}

const fn wire(oid: u32, array_oid: u32, sql: &'static str) -> WireType {
    WireType { oid, array_oid, sql }
}

/// The type in which a column's values reach the server, `None` if they are in the binary form of whatever type the
/// destination's column has.
pub(super) fn wire_type(column: &Column) -> Option<WireType> {
    match column.carriage {
        Carriage::Native => None,
        Carriage::NativeText => Some(wire(oid::TEXT, 1009, "text")),
        Carriage::Typed => Some(typed_wire(&column.data_type)),
    }
}

fn typed_wire(data_type: &DataType) -> WireType {
    match data_type {
        DataType::Bool => wire(oid::BOOL, 1000, "bool"),
        DataType::Int(0..=16) | DataType::UInt(0..=8) => wire(oid::INT2, 1005, "int2"),
        DataType::Int(17..=32) | DataType::UInt(9..=16) => wire(oid::INT4, 1007, "int4"),
        DataType::Int(_) | DataType::UInt(17..=32) => wire(oid::INT8, 1016, "int8"),
        DataType::UInt(_) | DataType::Decimal { .. } => wire(oid::NUMERIC, 1231, "numeric"),
        DataType::Float32 => wire(oid::FLOAT4, 1021, "float4"),
        DataType::Float64 => wire(oid::FLOAT8, 1022, "float8"),
        DataType::Bytes => wire(oid::BYTEA, 1001, "bytea"),
        DataType::Date => wire(oid::DATE, 1182, "date"),
        DataType::Time => wire(oid::TIME, 1183, "time"),
        DataType::Timestamp => wire(oid::TIMESTAMP, 1115, "timestamp"),
        DataType::TimestampTz => wire(oid::TIMESTAMPTZ, 1185, "timestamptz"),
        DataType::Uuid => wire(oid::UUID, 2951, "uuid"),
        DataType::Array(element) => array_wire(&typed_wire(element)),
        DataType::Text | DataType::Numeric | DataType::Json | DataType::Native(_) => {
            wire(oid::TEXT, 1009, "text")
        }
    }
}

/// The type of arrays of `element`; arrays of arrays are one type in PostgreSQL.
fn array_wire(element: &WireType) -> WireType {
    let sql = match element.oid {
        oid::BOOL => "bool[]",
        oid::INT2 => "int2[]",
        oid::INT4 => "int4[]",
        oid::INT8 => "int8[]",
        oid::NUMERIC => "numeric[]",
        oid::FLOAT4 => "float4[]",
        oid::FLOAT8 => "float8[]",
        oid::BYTEA => "bytea[]",
        oid::DATE => "date[]",
        oid::TIME => "time[]",
        oid::TIMESTAMP => "timestamp[]",
        oid::TIMESTAMPTZ => "timestamptz[]",
        oid::UUID => "uuid[]",
        _ => "text[]",
    };
    wire(element.array_oid, 0, sql)
}

/// A column of a batch, ready to be read row by row.
pub(super) enum Reader<'a> {
    Bytes(&'a BinaryArray),
    Other(&'a ArrayRef),
}

impl<'a> Reader<'a> {
    pub(super) fn new(column: &'a ArrayRef) -> Self {
        column.as_binary_opt::<i32>().map_or(Self::Other(column), Self::Bytes)
    }

    /// Appends a field as COPY and arrays have it: its length and its bytes, or -1 for NULL.
    ///
    /// # Errors
    /// Data if the value is too long for the protocol; a bug if the Arrow type has no form here.
    pub(super) fn append(&self, row: usize, out: &mut BytesMut) -> Result<()> {
        match self {
            Self::Bytes(array) => match array.is_valid(row).then(|| array.value(row)) {
                Some(value) => append_bytes(value, out),
                None => {
                    out.put_i32(-1);
                    Ok(())
                }
            },
            Self::Other(array) => append_typed(array, row, out),
        }
    }

    /// The value alone, `None` for NULL.
    ///
    /// # Errors
    /// As [`Reader::append`].
    pub(super) fn value(&self, row: usize) -> Result<Option<bytes::Bytes>> {
        let mut field = BytesMut::new();
        self.append(row, &mut field)?;
        let is_null = field.starts_with(&(-1_i32).to_be_bytes());
        Ok((!is_null).then(|| field.freeze().slice(4..)))
    }

    /// Whether any of the rows is NULL.
    fn has_null(&self, rows: &[usize]) -> bool {
        let nulls = match self {
            Self::Bytes(array) => array.nulls(),
            Self::Other(array) => array.nulls(),
        };
        nulls.is_some_and(|nulls| rows.iter().any(|&row| nulls.is_null(row)))
    }
}

fn append_bytes(value: &[u8], out: &mut BytesMut) -> Result<()> {
    let length = i32::try_from(value.len()).map_err(|_| {
        Error::new(syncline_core::ErrorKind::Data, "a value is longer than 2 GiB").with_rows_at_fault()
    })?;
    out.put_i32(length);
    out.put_slice(value);
    Ok(())
}

/// An array of the values of `rows`, as a parameter.
///
/// # Errors
/// As [`Reader::append`].
pub(super) fn array(reader: &Reader<'_>, rows: &[usize], element_oid: u32) -> Result<bytes::Bytes> {
    let mut out = BytesMut::with_capacity(20 + rows.len() * 12);
    array_header(&mut out, rows.len(), reader.has_null(rows), element_oid);
    for &row in rows {
        reader.append(row, &mut out)?;
    }
    Ok(out.freeze())
}

/// The header of an array of one dimension.
pub(super) fn array_header(out: &mut BytesMut, length: usize, has_null: bool, element_oid: u32) {
    out.put_i32(i32::from(length > 0));
    out.put_i32(i32::from(has_null));
    out.put_u32(element_oid);
    if length > 0 {
        out.put_i32(i32::try_from(length).unwrap_or(i32::MAX));
        out.put_i32(1);
    }
}

/// Appends a value whose length is known only afterwards.
fn append_sized(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut) -> Result<()>) -> Result<()> {
    let at = out.len();
    out.put_i32(0);
    write(out)?;
    let length = i32::try_from(out.len() - at - 4).unwrap_or(i32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn append_typed(array: &ArrayRef, row: usize, out: &mut BytesMut) -> Result<()> {
    if array.is_null(row) {
        out.put_i32(-1);
        return Ok(());
    }
    macro_rules! value {
        ($t:ty) => {
            array.as_primitive::<$t>().value(row)
        };
    }
    macro_rules! fixed {
        ($value:expr) => {
            append_bytes(&$value.to_be_bytes(), out)
        };
    }
    match array.data_type() {
        ArrowType::Boolean => append_bytes(&[u8::from(array.as_boolean().value(row))], out),
        ArrowType::Int16 => fixed!(value!(Int16Type)),
        ArrowType::Int32 => fixed!(value!(Int32Type)),
        ArrowType::Int64 => fixed!(value!(Int64Type)),
        ArrowType::UInt8 => fixed!(i16::from(value!(UInt8Type))),
        ArrowType::UInt16 => fixed!(i32::from(value!(UInt16Type))),
        ArrowType::UInt32 => fixed!(i64::from(value!(UInt32Type))),
        ArrowType::UInt64 => append_numeric(i128::from(value!(UInt64Type)), 0, out),
        ArrowType::Float32 => fixed!(value!(Float32Type)),
        ArrowType::Float64 => fixed!(value!(Float64Type)),
        ArrowType::Decimal128(_, scale) => append_numeric(value!(Decimal128Type), *scale, out),
        ArrowType::Date32 => fixed!(value!(Date32Type).saturating_sub(EPOCH_DAYS)),
        ArrowType::Time64(TimeUnit::Microsecond) => fixed!(value!(Time64MicrosecondType)),
        ArrowType::Timestamp(TimeUnit::Microsecond, _) => {
            fixed!(value!(TimestampMicrosecondType).saturating_sub(EPOCH_US))
        }
        ArrowType::Utf8 => append_bytes(array.as_string::<i32>().value(row).as_bytes(), out),
        ArrowType::Binary => append_bytes(array.as_binary::<i32>().value(row), out),
        ArrowType::FixedSizeBinary(_) => append_bytes(array.as_fixed_size_binary().value(row), out),
        ArrowType::List(_) => append_list(&array.as_list::<i32>().value(row), out),
        other => Err(Error::bug(format!("values of Arrow type {other} have no form in PostgreSQL"))),
    }
}

fn append_list(elements: &ArrayRef, out: &mut BytesMut) -> Result<()> {
    let element_oid = element_oid(elements.data_type())?;
    append_sized(out, |out| {
        array_header(out, elements.len(), elements.null_count() > 0, element_oid);
        (0..elements.len()).try_for_each(|row| append_typed(elements, row, out))
    })
}

fn element_oid(arrow: &ArrowType) -> Result<u32> {
    Ok(match arrow {
        ArrowType::Boolean => oid::BOOL,
        ArrowType::Int16 | ArrowType::UInt8 => oid::INT2,
        ArrowType::Int32 | ArrowType::UInt16 => oid::INT4,
        ArrowType::Int64 | ArrowType::UInt32 => oid::INT8,
        ArrowType::UInt64 | ArrowType::Decimal128(..) => oid::NUMERIC,
        ArrowType::Float32 => oid::FLOAT4,
        ArrowType::Float64 => oid::FLOAT8,
        ArrowType::Binary => oid::BYTEA,
        ArrowType::Date32 => oid::DATE,
        ArrowType::Time64(_) => oid::TIME,
        ArrowType::Timestamp(_, None) => oid::TIMESTAMP,
        ArrowType::Timestamp(_, Some(_)) => oid::TIMESTAMPTZ,
        ArrowType::FixedSizeBinary(_) => oid::UUID,
        ArrowType::Utf8 => oid::TEXT,
        other => {
            return Err(Error::bug(format!("arrays of Arrow type {other} have no form in PostgreSQL")));
        }
    })
}

/// `numeric`'s binary form: groups of four decimal digits, the weight of the first, a sign, the digits after the point.
fn append_numeric(value: i128, scale: i8, out: &mut BytesMut) -> Result<()> {
    const GROUP: usize = 4;
    let mut digits = value.unsigned_abs().to_string();
    let fraction = usize::try_from(scale).unwrap_or(0);
    digits.extend(std::iter::repeat_n('0', usize::from(scale.min(0).unsigned_abs())));
    if digits.len() < fraction {
        digits.insert_str(0, &"0".repeat(fraction - digits.len()));
    }
    let integer = digits.len() - fraction;
    digits.insert_str(0, &"0".repeat((GROUP - integer % GROUP) % GROUP));
    digits.extend(std::iter::repeat_n('0', (GROUP - fraction % GROUP) % GROUP));
    let mut groups: Vec<i16> = digits
        .as_bytes()
        .chunks(GROUP)
        .map(|group| group.iter().fold(0, |number, digit| number * 10 + i16::from(digit - b'0')))
        .collect();
    let leading = groups.iter().take_while(|&&group| group == 0).count();
    let mut weight = i16::try_from(integer.div_ceil(GROUP)).unwrap_or(i16::MAX) - 1;
    if leading == groups.len() {
        groups.clear();
        weight = 0;
    } else {
        groups.drain(..leading);
        weight -= i16::try_from(leading).unwrap_or(i16::MAX);
    }
    while groups.last() == Some(&0) {
        groups.pop();
    }
    append_sized(out, |out| {
        out.put_i16(i16::try_from(groups.len()).unwrap_or(i16::MAX));
        out.put_i16(weight);
        out.put_u16(if value < 0 { 0x4000 } else { 0 });
        out.put_i16(i16::from(scale.max(0)));
        groups.iter().for_each(|&group| out.put_i16(group));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(value: i128, scale: i8) -> Vec<i16> {
        let mut out = BytesMut::new();
        append_numeric(value, scale, &mut out).unwrap();
        out[4..].chunks(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]])).collect()
    }

    #[test]
    fn numerics_have_base_ten_thousand_digits() {
        // count, weight, sign, digits after the point, groups
        assert_eq!(numeric(0, 2), [0, 0, 0, 2]);
        assert_eq!(numeric(100, 2), [1, 0, 0, 2, 1]);
        assert_eq!(numeric(-12_345_678, 3), [3, 1, 0x4000, 3, 1, 2345, 6780]);
        assert_eq!(numeric(5, 6), [1, -2, 0, 6, 500]);
        assert_eq!(numeric(7, -4), [1, 1, 0, 0, 7]);
        assert_eq!(numeric(10_000, 0), [1, 1, 0, 0, 1]);
    }
}
