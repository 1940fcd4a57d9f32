//! Types for tables of another family: the published mapping from [`DataType`] to PostgreSQL.
//!
//! | data type | PostgreSQL |
//! |---|---|
//! | bool | `boolean` |
//! | int 16, 32, 64 | `smallint`, `integer`, `bigint` |
//! | unsigned 8, 16, 32, 64 | `smallint`, `integer`, `bigint`, `numeric(20,0)` |
//! | float 32, 64 | `real`, `double precision` |
//! | decimal(p,s), numeric | `numeric(p,s)`, `numeric` |
//! | text, bytes | `text`, `bytea` |
//! | date, time, timestamp, timestamptz | `date`, `time`, `timestamp`, `timestamptz` |
//! | uuid | `uuid` |
//! | json | `json`, which keeps the text as it is |
//! | array of x | x`[]` |
//! | anything else | `text` |

use syncline_core::DataType;

/// The PostgreSQL type of a data type, as `format_type` writes it.
pub(super) fn sql_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Bool => "boolean".into(),
        DataType::Int(0..=16) | DataType::UInt(0..=8) => "smallint".into(),
        DataType::Int(17..=32) | DataType::UInt(9..=16) => "integer".into(),
        DataType::Int(_) | DataType::UInt(17..=32) => "bigint".into(),
        DataType::UInt(_) => "numeric(20,0)".into(),
        DataType::Float32 => "real".into(),
        DataType::Float64 => "double precision".into(),
        DataType::Decimal { precision, scale } => format!("numeric({precision},{scale})"),
        DataType::Numeric => "numeric".into(),
        DataType::Bytes => "bytea".into(),
        DataType::Date => "date".into(),
        DataType::Time => "time without time zone".into(),
        DataType::Timestamp => "timestamp without time zone".into(),
        DataType::TimestampTz => "timestamp with time zone".into(),
        DataType::Uuid => "uuid".into(),
        DataType::Json => "json".into(),
        DataType::Array(element) => format!("{}[]", sql_type(element).split('(').next().unwrap_or("text")),
        DataType::Text | DataType::Native(_) => "text".into(),
    }
}
