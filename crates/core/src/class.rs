//! What values of two systems are compared as.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::schema::DataType;

/// What the values of a pair of columns are compared as.
///
/// Both sides are brought to the class before they are compared, as the destination would store the source's value: a
/// value that is not of the class (a text that is no date) equals only the very same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The bytes that both sides carry: the same family, the same type. `1.0` and `1.00` differ.
    Native,
    /// Whole numbers and truth values (0 and 1).
    Integer,
    /// 64-bit floating point; −0 is 0.
    Float,
    /// Exact decimals of any length; trailing zeros do not count.
    Decimal,
    /// Text, byte by byte. JSON and types without a typed form are their text.
    Text,
    /// Bytes.
    Bytes,
    /// Calendar dates.
    Date,
    /// Times of day, microseconds.
    Time,
    /// Civil times, microseconds.
    Timestamp,
    /// Instants, microseconds.
    Instant,
    /// 128-bit identifiers.
    Uuid,
}

impl Class {
    /// The class of a type's own values.
    #[must_use]
    pub fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Bool | DataType::Int(_) | DataType::UInt(_) => Self::Integer,
            DataType::Float32 | DataType::Float64 => Self::Float,
            DataType::Decimal { .. } | DataType::Numeric => Self::Decimal,
            DataType::Text | DataType::Json | DataType::Native(_) | DataType::Array(_) => Self::Text,
            DataType::Bytes => Self::Bytes,
            DataType::Date => Self::Date,
            DataType::Time => Self::Time,
            DataType::Timestamp => Self::Timestamp,
            DataType::TimestampTz => Self::Instant,
            DataType::Uuid => Self::Uuid,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native value",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Decimal => "decimal",
            Self::Text => "text",
            Self::Bytes => "bytes",
            Self::Date => "date",
            Self::Time => "time",
            Self::Timestamp => "timestamp",
            Self::Instant => "instant",
            Self::Uuid => "uuid",
        })
    }
}
