//! The order of a key's values, reproduced exactly: which of two keys the server's own index puts first.
//!
//! Only for types whose order is that of a number or of bytes. Others (numeric, text under a language's collation,
//! floats with their NaN) are not here, and their tables are read in one snapshot instead.

use std::borrow::Cow;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType as ArrowType, TimeUnit};
use serde::{Deserialize, Serialize};
use syncline_core::Carriage;

use crate::postgres::source::datetime::{self, EPOCH_DAYS, EPOCH_US};
use crate::postgres::source::hex::from_hex;

/// How the values of a type are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Order {
    /// `smallint`, `integer`, `bigint`.
    Int,
    Date,
    Timestamp,
    TimestampTz,
    Time,
    Uuid,
    Bytea,
    /// `text` and `varchar` under collation C.
    Text,
}

/// A key in its order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum OrderedKey<'a> {
    Number(i64),
    Bytes(Cow<'a, [u8]>),
}

impl OrderedKey<'_> {
    pub(super) fn into_owned(self) -> OrderedKey<'static> {
        match self {
            Self::Number(number) => OrderedKey::Number(number),
            Self::Bytes(bytes) => OrderedKey::Bytes(Cow::Owned(bytes.into_owned())),
        }
    }
}

impl Order {
    /// The order of a built-in type; `collated_c` says whether a text column sorts by bytes.
    pub(super) fn of(type_name: &str, collated_c: bool) -> Option<Self> {
        Some(match type_name {
            "int2" | "int4" | "int8" => Self::Int,
            "date" => Self::Date,
            "timestamp" => Self::Timestamp,
            "timestamptz" => Self::TimestampTz,
            "time" => Self::Time,
            "uuid" => Self::Uuid,
            "bytea" => Self::Bytea,
            "text" | "varchar" if collated_c => Self::Text,
            _ => return None,
        })
    }

    /// The type to which a bound is cast in SQL: one that the key's index can compare with.
    pub(super) fn sql_type(self) -> &'static str {
        match self {
            Self::Int => "int8",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::TimestampTz => "timestamptz",
            Self::Time => "time",
            Self::Uuid => "uuid",
            Self::Bytea => "bytea",
            Self::Text => "text",
        }
    }

    /// From the server's text form.
    pub(super) fn of_text(self, text: &[u8]) -> Option<OrderedKey<'_>> {
        if self == Self::Text {
            return Some(OrderedKey::Bytes(Cow::Borrowed(text)));
        }
        let text = std::str::from_utf8(text).ok()?;
        Some(match self {
            Self::Int => OrderedKey::Number(text.parse().ok()?),
            Self::Date => OrderedKey::Number(i64::from(datetime::date(text)?)),
            Self::Timestamp | Self::TimestampTz => OrderedKey::Number(datetime::timestamp(text)?),
            Self::Time => OrderedKey::Number(datetime::time(text)?),
            Self::Uuid => {
                let bytes = from_hex(&text.replace('-', ""))?;
                OrderedKey::Bytes(Cow::Owned((bytes.len() == 16).then_some(bytes)?))
            }
            Self::Bytea => OrderedKey::Bytes(Cow::Owned(from_hex(text.strip_prefix("\\x")?)?)),
            Self::Text => return None,
        })
    }

    /// From the server's binary form.
    pub(super) fn of_binary(self, bytes: &[u8]) -> Option<OrderedKey<'_>> {
        Some(match self {
            Self::Int | Self::Date | Self::Timestamp | Self::TimestampTz | Self::Time => {
                OrderedKey::Number(match bytes.len() {
                    2 => i64::from(i16::from_be_bytes(bytes.try_into().ok()?)),
                    4 => i64::from(i32::from_be_bytes(bytes.try_into().ok()?)),
                    8 => i64::from_be_bytes(bytes.try_into().ok()?),
                    _ => return None,
                })
            }
            Self::Uuid | Self::Bytea | Self::Text => OrderedKey::Bytes(Cow::Borrowed(bytes)),
        })
    }

    /// From a carried value; `None` if it is NULL or not of this type.
    pub(super) fn of_value(
        self,
        column: &ArrayRef,
        row: usize,
        carriage: Carriage,
    ) -> Option<OrderedKey<'_>> {
        if column.is_null(row) {
            return None;
        }
        match carriage {
            Carriage::Native => self.of_binary(column.as_binary_opt::<i32>()?.value(row)),
            Carriage::NativeText => self.of_text(column.as_binary_opt::<i32>()?.value(row)),
            Carriage::Typed => self.of_typed(column, row),
        }
    }

    /// Arrow counts from 1970, the server from 2000.
    fn of_typed(self, column: &ArrayRef, row: usize) -> Option<OrderedKey<'_>> {
        let number = |number: i64| Some(OrderedKey::Number(number));
        match column.data_type() {
            ArrowType::Int16 => number(column.as_primitive::<Int16Type>().value(row).into()),
            ArrowType::Int32 => number(column.as_primitive::<Int32Type>().value(row).into()),
            ArrowType::Int64 => number(column.as_primitive::<Int64Type>().value(row)),
            ArrowType::Date32 => {
                number(i64::from(column.as_primitive::<Date32Type>().value(row)) - i64::from(EPOCH_DAYS))
            }
            ArrowType::Time64(TimeUnit::Microsecond) => {
                number(column.as_primitive::<Time64MicrosecondType>().value(row))
            }
            ArrowType::Timestamp(TimeUnit::Microsecond, _) => {
                number(column.as_primitive::<TimestampMicrosecondType>().value(row).checked_sub(EPOCH_US)?)
            }
            ArrowType::FixedSizeBinary(_) => {
                Some(OrderedKey::Bytes(Cow::Borrowed(column.as_fixed_size_binary().value(row))))
            }
            ArrowType::Binary => Some(OrderedKey::Bytes(Cow::Borrowed(column.as_binary::<i32>().value(row)))),
            ArrowType::Utf8 => self.of_text(column.as_string::<i32>().value(row).as_bytes()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::postgres::source::hex::to_hex;

    proptest! {
        #[test]
        fn integers_keep_their_order_in_every_form(a in any::<i32>(), b in any::<i32>()) {
            let (x, y) = (a.to_be_bytes(), b.to_be_bytes());
            prop_assert_eq!(Order::Int.of_binary(&x).unwrap().cmp(&Order::Int.of_binary(&y).unwrap()), a.cmp(&b));
            let (x, y) = (a.to_string(), b.to_string());
            let (x, y) = (Order::Int.of_text(x.as_bytes()).unwrap(), Order::Int.of_text(y.as_bytes()).unwrap());
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }

        #[test]
        fn bytes_keep_their_order_in_every_form(
            a in proptest::collection::vec(any::<u8>(), 0..20), b in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let text = |bytes: &[u8]| format!("\\x{}", to_hex(bytes));
            let (x, y) = (text(&a), text(&b));
            let (x, y) = (Order::Bytea.of_text(x.as_bytes()).unwrap(), Order::Bytea.of_text(y.as_bytes()).unwrap());
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x, Order::Bytea.of_binary(&a).unwrap());
        }
    }

    #[test]
    fn text_and_binary_agree() {
        let uuid = Order::Uuid.of_text(b"00112233-4455-6677-8899-aabbccddeeff").unwrap().into_owned();
        assert_eq!(
            uuid,
            Order::Uuid.of_binary(&from_hex("00112233445566778899aabbccddeeff").unwrap()).unwrap()
        );
        assert_eq!(Order::Date.of_text(b"2000-01-03"), Order::Date.of_binary(&2_i32.to_be_bytes()));
        assert!(Order::Date.of_text(b"-infinity") < Order::Date.of_text(b"4714-11-24 BC"));
        assert!(Order::Uuid.of_text(b"0011").is_none());
        assert!(Order::Int.of_binary(&[1, 2, 3]).is_none());
    }
}
