//! One column being filled: the innermost loop of the stream.
//!
//! A value is copied once, from the read buffer to the end of the column's bytes. Nothing is allocated per value.

use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray};
use arrow_buffer::{Buffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use syncline_core::{Carriage, Column, Error, Result};

use super::pgoutput::Value;

/// Which form of a value a column takes from the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The type's binary form as it is.
    Binary,
    /// The type's text form as it is.
    Text,
}

impl Form {
    /// # Errors
    /// Configuration if the column's carriage is not spoken here.
    pub(super) fn of(column: &Column) -> Result<Self> {
        match column.carriage {
            Carriage::Native => Ok(Self::Binary),
            Carriage::NativeText => Ok(Self::Text),
            Carriage::Typed => Err(Error::configuration(format!(
                "column {} cannot be streamed to a destination of another family yet",
                column.name
            ))
            .with_remedy("stream to a PostgreSQL destination, or use --mode snapshot")),
        }
    }
}

/// Why a value cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It came in the other form.
    OtherForm,
    /// The column holds as many bytes as an array can.
    Full,
}

/// A column being filled.
pub(super) struct ColumnBuilder {
    form: Form,
    /// End of each value in `bytes`.
    ends: Vec<i32>,
    bytes: Vec<u8>,
    nulls: NullBufferBuilder,
}

impl ColumnBuilder {
    pub(super) fn new(form: Form) -> Self {
        Self { form, ends: Vec::new(), bytes: Vec::new(), nulls: NullBufferBuilder::new(0) }
    }

    /// Appends a value; one that was not sent stands as null.
    #[inline]
    pub(super) fn append(&mut self, value: Value<'_>) -> Result<(), Refused> {
        let bytes = match (value, self.form) {
            (Value::Binary(bytes), Form::Binary) | (Value::Text(bytes), Form::Text) => bytes,
            (Value::Null | Value::Unchanged, _) => {
                self.append_null();
                return Ok(());
            }
            (Value::Binary(_) | Value::Text(_), _) => return Err(Refused::OtherForm),
        };
        let end = i32::try_from(self.bytes.len() + bytes.len()).map_err(|_| Refused::Full)?;
        self.bytes.extend_from_slice(bytes);
        self.ends.push(end);
        self.nulls.append_non_null();
        Ok(())
    }

    #[inline]
    pub(super) fn append_null(&mut self) {
        self.ends.push(self.ends.last().copied().unwrap_or(0));
        self.nulls.append_null();
    }

    /// Forgets what comes after the first `rows` values.
    pub(super) fn truncate(&mut self, rows: usize) {
        if rows < self.ends.len() {
            self.ends.truncate(rows);
            self.nulls.truncate(rows);
            let end = self.ends.last().map_or(0, |&end| usize::try_from(end).unwrap_or(0));
            self.bytes.truncate(end);
        }
    }

    /// The array of all values; the column is empty afterwards.
    pub(super) fn finish(&mut self) -> Result<ArrayRef> {
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

#[cfg(test)]
mod tests {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;

    use super::*;

    #[test]
    fn values_nulls_and_truncation() {
        let mut column = ColumnBuilder::new(Form::Binary);
        column.append(Value::Binary(b"abc")).unwrap();
        column.append(Value::Null).unwrap();
        column.append(Value::Binary(b"")).unwrap();
        column.append(Value::Binary(b"gone")).unwrap();
        assert_eq!(column.append(Value::Text(b"1")), Err(Refused::OtherForm));
        column.truncate(3);
        column.append(Value::Binary(b"d")).unwrap();
        let array = column.finish().unwrap();
        let array = array.as_binary::<i32>();
        let values: Vec<_> = array.iter().collect();
        assert_eq!(values, [Some(&b"abc"[..]), None, Some(b""), Some(b"d")]);
        assert_eq!(column.finish().unwrap().len(), 0);
    }
}
