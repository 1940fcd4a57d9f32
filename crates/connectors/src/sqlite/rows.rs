//! Rows of SQLite as Arrow arrays, in the carriage that `discover` wrote into the columns.
//!
//! A typed column takes only values of its type. What does not fit is an error that names table and column: SQLite lets
//! any value stand in any column, and nothing is converted silently.

use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, BinaryArray, RecordBatch};
use arrow_buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::SchemaRef;
use rusqlite::Row;
use rusqlite::types::ValueRef;
use syncline_core::{Carriage, Carry, Column, DataType, Error, ErrorKind, Result, TableSchema};

use super::value;

/// A batch ends when it has grown to this. A single value may be larger.
pub(super) const BATCH_BYTES: usize = 1 << 20;

/// What a declared type means in the typed middle (SQLite's own rules of affinity, and two names that they miss).
///
/// | declared | typed as |
/// |---|---|
/// | contains `INT` | 64-bit integer |
/// | contains `CHAR`, `CLOB` or `TEXT` | text |
/// | contains `BLOB` | bytes |
/// | contains `REAL`, `FLOA` or `DOUB` | 64-bit float |
/// | `BOOL`, `BOOLEAN` | bool (0 and 1 only) |
/// | contains `DEC` or `NUM` | unbounded numeric |
/// | anything else (dates, JSON, no type) | SQLite's own text; blobs do not fit |
pub(super) fn data_type(declared: &str) -> DataType {
    let upper = declared.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| upper.contains(word));
    if has(&["INT"]) {
        DataType::Int(64)
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        DataType::Text
    } else if has(&["BLOB"]) {
        DataType::Bytes
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        DataType::Float64
    } else if upper == "BOOL" || upper == "BOOLEAN" {
        DataType::Bool
    } else if has(&["DEC", "NUM"]) {
        DataType::Numeric
    } else {
        DataType::Native(declared.to_owned())
    }
}

/// The carriage of every column under a carry.
pub(super) fn carriage(carry: Carry) -> Carriage {
    match carry {
        Carry::Native => Carriage::Native,
        Carry::Typed => Carriage::Typed,
    }
}

/// Byte values of one column.
struct BytesColumn {
    /// Whether each value carries its storage class.
    native: bool,
    offsets: Vec<i32>,
    data: Vec<u8>,
    valid: Vec<bool>,
}

impl BytesColumn {
    fn new(native: bool) -> Self {
        Self { native, offsets: vec![0], data: Vec::new(), valid: Vec::new() }
    }

    fn push(&mut self, value: ValueRef<'_>) -> Result<()> {
        let valid = match value {
            _ if self.native => value::encode(value, &mut self.data),
            ValueRef::Blob(bytes) => {
                self.data.extend_from_slice(bytes);
                true
            }
            _ => false,
        };
        let end = i32::try_from(self.data.len())
            .map_err(|_| Error::new(ErrorKind::Data, "values of one batch are larger than 2 GiB together"))?;
        self.valid.push(valid);
        self.offsets.push(end);
        Ok(())
    }

    fn finish(self) -> ArrayRef {
        let nulls = NullBuffer::from(self.valid);
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        Arc::new(BinaryArray::new(offsets, self.data.into(), nulls))
    }
}

enum Builder {
    Bytes(BytesColumn),
    Int(Int64Builder),
    Float(Float64Builder),
    Bool(BooleanBuilder),
    Text(StringBuilder),
    /// Numbers only, as their shortest exact text.
    Numeric(StringBuilder),
    /// Anything but a blob, as text.
    AnyText(StringBuilder),
}

impl Builder {
    fn new(column: &Column) -> Self {
        match (column.carriage, &column.data_type) {
            (Carriage::Native | Carriage::NativeText, _) => Self::Bytes(BytesColumn::new(true)),
            (Carriage::Typed, DataType::Int(_)) => Self::Int(Int64Builder::new()),
            (Carriage::Typed, DataType::Float64) => Self::Float(Float64Builder::new()),
            (Carriage::Typed, DataType::Bool) => Self::Bool(BooleanBuilder::new()),
            (Carriage::Typed, DataType::Bytes) => Self::Bytes(BytesColumn::new(false)),
            (Carriage::Typed, DataType::Text) => Self::Text(StringBuilder::new()),
            (Carriage::Typed, DataType::Numeric) => Self::Numeric(StringBuilder::new()),
            (Carriage::Typed, _) => Self::AnyText(StringBuilder::new()),
        }
    }

    /// Appends a value; false if it does not fit.
    fn push(&mut self, value: ValueRef<'_>) -> Result<bool> {
        match (self, value) {
            (Self::Bytes(column), value) => {
                if !column.native && !matches!(value, ValueRef::Blob(_) | ValueRef::Null) {
                    return Ok(false);
                }
                column.push(value)?;
            }
            (Self::Int(column), ValueRef::Null) => column.append_null(),
            (Self::Float(column), ValueRef::Null) => column.append_null(),
            (Self::Bool(column), ValueRef::Null) => column.append_null(),
            (Self::Text(column) | Self::Numeric(column) | Self::AnyText(column), ValueRef::Null) => {
                column.append_null();
            }
            (Self::Int(column), ValueRef::Integer(number)) => column.append_value(number),
            (Self::Float(column), ValueRef::Real(number)) => column.append_value(number),
            (Self::Bool(column), ValueRef::Integer(number @ 0..=1)) => column.append_value(number == 1),
            (Self::Numeric(column) | Self::AnyText(column), ValueRef::Integer(number)) => {
                column.append_value(number.to_string());
            }
            (Self::Numeric(column) | Self::AnyText(column), ValueRef::Real(number)) if number.is_finite() => {
                column.append_value(number.to_string());
            }
            (Self::Text(column) | Self::AnyText(column), ValueRef::Text(bytes)) => {
                match std::str::from_utf8(bytes) {
                    Ok(text) => column.append_value(text),
                    Err(_) => return Ok(false),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Bytes(column) => column.finish(),
            Self::Int(mut column) => Arc::new(column.finish()),
            Self::Float(mut column) => Arc::new(column.finish()),
            Self::Bool(mut column) => Arc::new(column.finish()),
            Self::Text(mut column) | Self::Numeric(mut column) | Self::AnyText(mut column) => {
                Arc::new(column.finish())
            }
        }
    }
}

/// Gathers rows of one table.
pub(super) struct RowsBuilder {
    table: Arc<TableSchema>,
    builders: Vec<Builder>,
    rows: usize,
    bytes: usize,
}

impl RowsBuilder {
    /// For full rows of `table`.
    pub(super) fn new(table: &Arc<TableSchema>) -> Self {
        let builders = table.columns.iter().map(Builder::new).collect();
        Self { table: Arc::clone(table), builders, rows: 0, bytes: 0 }
    }

    /// Appends a row whose first columns are the table's, in its order.
    pub(super) fn push(&mut self, row: &Row<'_>) -> Result<()> {
        for place in 0..self.builders.len() {
            let value = row
                .get_ref(place)
                .map_err(|error| Error::bug("a query has too few columns").with_source(error))?;
            self.push_value(place, value)?;
        }
        self.rows += 1;
        Ok(())
    }

    /// Appends a row of which only the row key is known; all else is null.
    pub(super) fn push_key(&mut self, key: &[ValueRef<'_>]) -> Result<()> {
        for place in 0..self.builders.len() {
            let part = self.table.row_key.iter().position(|&column| column == place);
            let value = part.and_then(|part| key.get(part)).copied().unwrap_or(ValueRef::Null);
            self.push_value(place, value)?;
        }
        self.rows += 1;
        Ok(())
    }

    fn push_value(&mut self, place: usize, value: ValueRef<'_>) -> Result<()> {
        self.bytes += match value {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len() + 5,
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 13,
        };
        if self.builders[place].push(value)? {
            return Ok(());
        }
        let column = &self.table.columns[place];
        let found = value.data_type().to_string().to_lowercase();
        Err(Error::new(
            ErrorKind::Data,
            format!(
                "column {} is declared {} and holds a value of storage class {found}, which does not fit",
                column.name,
                if column.native_type.is_empty() { "without a type" } else { &column.native_type },
            ),
        )
        .with_table(&self.table.id)
        .with_remedy("correct the value at the source, or exclude the column"))
    }

    /// Rows gathered.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes gathered, near enough for a budget.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The batch.
    pub(super) fn finish(self) -> Result<RecordBatch> {
        let schema: SchemaRef = self.table.arrow();
        let arrays = self.builders.into_iter().map(Builder::finish).collect();
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(self.rows));
        RecordBatch::try_new_with_options(schema, arrays, &options)
            .map_err(|error| Error::bug("rows do not fit their schema").with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use syncline_core::TableId;

    use super::*;

    fn table(carry: Carry, declared: &[&str]) -> Arc<TableSchema> {
        let column = |(place, declared): (usize, &&str)| Column {
            name: format!("c{place}"),
            data_type: data_type(declared),
            nullable: true,
            native_type: (*declared).to_owned(),
            carriage: carriage(carry),
        };
        Arc::new(TableSchema {
            id: TableId::new("main", "t"),
            columns: declared.iter().enumerate().map(column).collect(),
            row_key: vec![0],
            version: 1,
            rows_estimated: None,
            native: None,
        })
    }

    fn build(table: &Arc<TableSchema>, sql: &str) -> Result<RecordBatch> {
        let conn = rusqlite::Connection::open_in_memory().unwrap();
        let mut statement = conn.prepare(sql).unwrap();
        let mut rows = statement.query([]).unwrap();
        let mut builder = RowsBuilder::new(table);
        while let Some(row) = rows.next().unwrap() {
            builder.push(row)?;
        }
        builder.finish()
    }

    #[test]
    fn native_columns_take_every_storage_class() {
        let table = table(Carry::Native, &["INTEGER", "TEXT"]);
        let batch = build(&table, "VALUES (1, 5), (1.0, x'00ff00'), (NULL, ''), ('a', NULL)").unwrap();
        let column = batch.column(1).as_binary::<i32>();
        assert!(value::identical(value::decode(column.value(0)).unwrap(), ValueRef::Integer(5)));
        assert!(value::identical(value::decode(column.value(1)).unwrap(), ValueRef::Blob(&[0, 255, 0])));
        assert!(value::identical(value::decode(column.value(2)).unwrap(), ValueRef::Text(b"")));
        assert_eq!((batch.column(0).null_count(), column.null_count()), (1, 1));
    }

    #[test]
    fn a_typed_column_refuses_what_does_not_fit_and_names_it() {
        let table = table(Carry::Typed, &["INTEGER", "BOOLEAN", "DECIMAL(9,2)", "DATE"]);
        let batch = build(&table, "VALUES (1, 0, 1.5, '2024-01-01'), (NULL, 1, 7, 17)").unwrap();
        assert_eq!(batch.column(2).as_string::<i32>().value(1), "7");
        assert_eq!(batch.column(3).as_string::<i32>().value(1), "17");
        for bad in [
            "VALUES ('secret', 0, 0, 0)",
            "VALUES (1, 2, 0, 0)",
            "VALUES (1, 1, 'x', 0)",
            "VALUES (1,1,1,x'00')",
        ] {
            let error = build(&table, bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data);
            assert!(error.to_string().contains("table main.t: column c"), "{error}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
