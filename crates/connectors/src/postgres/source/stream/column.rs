//! One column being filled: the innermost loop of the stream.
//!
//! A value that is carried as it comes is copied once, from the read buffer to the end of the column's bytes, and nothing
//! is allocated for it. A typed value is decoded by the one decoder that snapshots use too.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BinaryArray};
use arrow_buffer::{Buffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_select::concat::concat;
use syncline_core::{Carriage, Column, Error, Result};

use super::super::typed::ColumnDecoder;
use super::pgoutput::Value;

/// Why a value cannot be taken.
#[derive(Debug)]
pub(super) enum Refused {
    /// It came in the other form (binary, text) than the column takes.
    OtherForm,
    /// The column holds as many bytes as an array can.
    Full,
    /// The column's type cannot hold it.
    Unfit(Error),
}

/// A column being filled.
pub(super) enum ColumnBuilder {
    /// Binary values as they come.
    Binary(Raw),
    /// Text values as they come.
    Text(Raw),
    /// Text values, decoded.
    Typed(Box<Typed>),
}

impl ColumnBuilder {
    /// # Errors
    /// A bug if the column has a type that this source never gives.
    pub(super) fn of(column: &Column) -> Result<Self> {
        Ok(match column.carriage {
            Carriage::Native => Self::Binary(Raw::new()),
            Carriage::NativeText => Self::Text(Raw::new()),
            Carriage::Typed => Self::Typed(Box::new(Typed::of(column)?)),
        })
    }

    /// Appends a value; one that was not sent stands as null.
    #[inline]
    pub(super) fn append(&mut self, value: Value<'_>) -> Result<(), Refused> {
        match (value, self) {
            (Value::Binary(value), Self::Binary(column)) | (Value::Text(value), Self::Text(column)) => {
                column.append(value)
            }
            (Value::Null | Value::Unchanged, column) => column.append_null(),
            (Value::Text(value), Self::Typed(column)) => column.append(Some(value)),
            (Value::Binary(_) | Value::Text(_), _) => Err(Refused::OtherForm),
        }
    }

    #[inline]
    pub(super) fn append_null(&mut self) -> Result<(), Refused> {
        match self {
            Self::Binary(column) | Self::Text(column) => {
                column.append_null();
                Ok(())
            }
            Self::Typed(column) => column.append(None),
        }
    }

    /// Forgets what comes after the first `rows` values.
    pub(super) fn truncate(&mut self, rows: usize) -> Result<()> {
        match self {
            Self::Binary(column) | Self::Text(column) => {
                column.truncate(rows);
                Ok(())
            }
            Self::Typed(column) => column.truncate(rows),
        }
    }

    /// The array of all values; the column is empty afterwards.
    pub(super) fn finish(&mut self) -> Result<ArrayRef> {
        match self {
            Self::Binary(column) | Self::Text(column) => column.finish(),
            Self::Typed(column) => column.finish(),
        }
    }
}

/// Values as they come.
pub(super) struct Raw {
    /// End of each value in `bytes`.
    ends: Vec<i32>,
    bytes: Vec<u8>,
    nulls: NullBufferBuilder,
}

impl Raw {
    fn new() -> Self {
        Self { ends: Vec::new(), bytes: Vec::new(), nulls: NullBufferBuilder::new(0) }
    }

    #[inline]
    fn append(&mut self, value: &[u8]) -> Result<(), Refused> {
        let end = i32::try_from(self.bytes.len() + value.len()).map_err(|_| Refused::Full)?;
        self.bytes.extend_from_slice(value);
        self.ends.push(end);
        self.nulls.append_non_null();
        Ok(())
    }

    #[inline]
    fn append_null(&mut self) {
        self.ends.push(self.ends.last().copied().unwrap_or(0));
        self.nulls.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        if rows < self.ends.len() {
            self.ends.truncate(rows);
            self.nulls.truncate(rows);
            let end = self.ends.last().map_or(0, |&end| usize::try_from(end).unwrap_or(0));
            self.bytes.truncate(end);
        }
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let mut offsets = Vec::with_capacity(self.ends.len() + 1);
        offsets.push(0);
        offsets.append(&mut self.ends);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        let bytes = Buffer::from_vec(std::mem::take(&mut self.bytes));
        let array = BinaryArray::try_new(offsets, bytes, self.nulls.finish());
        array
            .map(|array| Arc::new(array) as ArrayRef)
            .map_err(|error| Error::bug("a column's parts do not fit each other").with_source(error))
    }
}

/// Decoded values.
pub(super) struct Typed {
    /// What was left of the values before the last truncation.
    head: Option<ArrayRef>,
    decoder: ColumnDecoder,
    rows: usize,
}

impl Typed {
    fn of(column: &Column) -> Result<Self> {
        Ok(Self { head: None, decoder: ColumnDecoder::new(column)?, rows: 0 })
    }

    fn append(&mut self, value: Option<&[u8]>) -> Result<(), Refused> {
        self.decoder.append(value).map_err(Refused::Unfit)?;
        self.rows += 1;
        Ok(())
    }

    /// Rare, so what was decoded is cut as an array.
    fn truncate(&mut self, rows: usize) -> Result<()> {
        if rows < self.rows {
            let all = self.finish()?;
            self.head = Some(all.slice(0, rows));
            self.rows = rows;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        self.rows = 0;
        let tail = self.decoder.finish();
        let Some(head) = self.head.take() else { return Ok(tail) };
        concat(&[&*head, &*tail])
            .map_err(|error| Error::bug("a column's parts do not fit each other").with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int32Type;
    use syncline_core::DataType;

    use super::*;

    fn column(data_type: DataType, carriage: Carriage) -> ColumnBuilder {
        ColumnBuilder::of(&Column {
            name: "c".to_owned(),
            data_type,
            nullable: true,
            native_type: String::new(),
            carriage,
        })
        .unwrap()
    }

    #[test]
    fn values_nulls_and_truncation() {
        let mut column = column(DataType::Text, Carriage::Native);
        column.append(Value::Binary(b"abc")).unwrap();
        column.append(Value::Null).unwrap();
        column.append(Value::Binary(b"")).unwrap();
        column.append(Value::Binary(b"gone")).unwrap();
        assert!(matches!(column.append(Value::Text(b"1")), Err(Refused::OtherForm)));
        column.truncate(3).unwrap();
        column.append(Value::Binary(b"d")).unwrap();
        let array = column.finish().unwrap();
        let array = array.as_binary::<i32>();
        let values: Vec<_> = array.iter().collect();
        assert_eq!(values, [Some(&b"abc"[..]), None, Some(b""), Some(b"d")]);
        assert_eq!(column.finish().unwrap().len(), 0);
    }

    #[test]
    fn typed_values_are_decoded_and_truncated_alike() {
        let mut column = column(DataType::Int(32), Carriage::Typed);
        column.append(Value::Text(b"1")).unwrap();
        column.append(Value::Unchanged).unwrap();
        column.append(Value::Text(b"3")).unwrap();
        assert!(matches!(column.append(Value::Text(b"x")), Err(Refused::Unfit(_))));
        assert!(matches!(column.append(Value::Binary(b"\0\0\0\x01")), Err(Refused::OtherForm)));
        column.truncate(2).unwrap();
        column.append(Value::Text(b"-4")).unwrap();
        let array = column.finish().unwrap();
        let values: Vec<_> = array.as_primitive::<Int32Type>().iter().collect();
        assert_eq!(values, [Some(1), None, Some(-4)]);
        assert_eq!(column.finish().unwrap().len(), 0);
    }
}
