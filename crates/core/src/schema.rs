//! Tables and columns, and how the values of a column are carried.

use std::sync::Arc;

use arrow_schema::{DataType as ArrowType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::name::{Family, TableId};

/// The typed middle: what a value *is*, apart from how any one system writes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DataType {
    /// True or false.
    Bool,
    /// Signed integer of 16, 32 or 64 bits.
    Int(u8),
    /// Unsigned integer of 8 to 64 bits.
    UInt(u8),
    /// IEEE 754 of 32 bits.
    Float32,
    /// IEEE 754 of 64 bits.
    Float64,
    /// Exact decimal with at most 38 digits.
    Decimal {
        /// All digits.
        precision: u8,
        /// Digits after the point.
        scale: i8,
    },
    /// Exact decimal without bound; carried as its shortest exact text.
    Numeric,
    /// Unicode text.
    Text,
    /// Bytes.
    Bytes,
    /// Calendar date.
    Date,
    /// Time of day, microseconds.
    Time,
    /// Civil time, microseconds.
    Timestamp,
    /// Instant, microseconds since 1970 UTC.
    TimestampTz,
    /// 128-bit identifier.
    Uuid,
    /// JSON text.
    Json,
    /// Array of one element type.
    Array(Box<DataType>),
    /// Anything else, as the source's own text; the string is the source's name of the type.
    Native(String),
}

/// How a pipeline carries the values of a column in its Arrow arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Carriage {
    /// As the Arrow type of the column's [`DataType`].
    Typed,
    /// As the family's own binary value, in an Arrow binary array.
    Native,
    /// As the family's own text (UTF-8), in an Arrow binary array.
    NativeText,
}

/// What a source is asked to carry: its family's own values if the destination understands them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Carry {
    /// Native values wherever that is exact (the destination is of the same family).
    Native,
    /// Typed values only.
    Typed,
}

/// One column that is read and written. Generated columns are not here: no system lets them be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, neither quoted nor folded.
    pub name: String,
    /// What its values are.
    pub data_type: DataType,
    /// Whether NULL may stand in it.
    pub nullable: bool,
    /// The source's exact type, as its DDL writes it (`numeric(10,2)`).
    pub native_type: String,
    /// How its values travel.
    pub carriage: Carriage,
}

impl Column {
    /// The Arrow type of this column's arrays.
    #[must_use]
    pub fn arrow_type(&self) -> ArrowType {
        match self.carriage {
            Carriage::Native | Carriage::NativeText => ArrowType::Binary,
            Carriage::Typed => arrow_type_of(&self.data_type),
        }
    }
}

fn arrow_type_of(data_type: &DataType) -> ArrowType {
    match data_type {
        DataType::Bool => ArrowType::Boolean,
        DataType::Int(0..=16) => ArrowType::Int16,
        DataType::Int(17..=32) => ArrowType::Int32,
        DataType::Int(_) => ArrowType::Int64,
        DataType::UInt(0..=8) => ArrowType::UInt8,
        DataType::UInt(9..=16) => ArrowType::UInt16,
        DataType::UInt(17..=32) => ArrowType::UInt32,
        DataType::UInt(_) => ArrowType::UInt64,
        DataType::Float32 => ArrowType::Float32,
        DataType::Float64 => ArrowType::Float64,
        DataType::Decimal { precision, scale } => ArrowType::Decimal128(*precision, *scale),
        DataType::Bytes => ArrowType::Binary,
        DataType::Date => ArrowType::Date32,
        DataType::Time => ArrowType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp => ArrowType::Timestamp(TimeUnit::Microsecond, None),
        DataType::TimestampTz => ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Uuid => ArrowType::FixedSizeBinary(16),
        DataType::Array(element) => {
            ArrowType::List(Arc::new(Field::new_list_field(arrow_type_of(element), true)))
        }
        DataType::Numeric | DataType::Text | DataType::Json | DataType::Native(_) => ArrowType::Utf8,
    }
}

/// What only the source's own family can use to recreate a table exactly (enum types, identity columns, generated
/// columns, indexes, foreign keys, partitions). Opaque outside connectors of that family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativeDefinition {
    /// Who understands it.
    pub family: Family,
    /// The definition in the family's own form.
    pub definition: serde_json::Value,
}

/// A table as a pipeline sees it: excluded and generated columns are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// Name at the source.
    pub id: TableId,
    /// Columns in the source's order.
    pub columns: Vec<Column>,
    /// Indexes into `columns`, in key order: the columns by which the source identifies deletes. Empty: the table has
    /// no row key; its changes are applied one by one, and a delete takes exactly one equal row.
    pub row_key: Vec<usize>,
    /// Counts the shapes this table had in this pipeline.
    pub version: u32,
    /// Rows the source believes the table has; an estimate, for progress only.
    pub rows_estimated: Option<u64>,
    /// The exact definition for the same family.
    pub native: Option<NativeDefinition>,
}

impl TableSchema {
    /// Whether rows are identified by a key.
    #[must_use]
    pub fn has_row_key(&self) -> bool {
        !self.row_key.is_empty()
    }

    /// The Arrow schema of a full row image. Every field is nullable: a delete carries its key only.
    #[must_use]
    pub fn arrow(&self) -> SchemaRef {
        Arc::new(Schema::new(
            self.columns.iter().map(|c| Field::new(&c.name, c.arrow_type(), true)).collect::<Vec<_>>(),
        ))
    }

    /// Indexes of the columns of an *old* image: the row key, or every column where there is none.
    #[must_use]
    pub fn old_columns(&self) -> Vec<usize> {
        if self.has_row_key() { self.row_key.clone() } else { (0..self.columns.len()).collect() }
    }

    /// The Arrow schema of an old image ([`TableSchema::old_columns`]).
    #[must_use]
    pub fn arrow_old(&self) -> SchemaRef {
        let field = |&index: &usize| {
            let column = &self.columns[index];
            Field::new(&column.name, column.arrow_type(), true)
        };
        Arc::new(Schema::new(self.old_columns().iter().map(field).collect::<Vec<_>>()))
    }
}
