//! What SQLite does to a value that is stored in a column: its affinity (the documentation's section 3.1).
//!
//! A value that was stored through SQLite is already what its column makes of it, and stored again at a table with the same
//! declarations it stays so. Files whose schema was edited by hand hold others; those are refused, for they cannot be
//! stored as they are.

use rusqlite::types::ValueRef;

/// An affinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affinity {
    /// Everything stays.
    Blob,
    /// Numbers become text.
    Text,
    /// Texts that look like numbers become numbers, and reals without a fraction integers. INTEGER stores alike.
    Numeric,
    /// As numeric, but numbers become reals.
    Real,
}

impl Affinity {
    /// The affinity of a declared type.
    pub(super) fn of(declared: &str, strict: bool) -> Self {
        let upper = declared.to_ascii_uppercase();
        let has = |words: &[&str]| words.iter().any(|word| upper.contains(word));
        if has(&["INT"]) {
            Self::Numeric
        } else if has(&["CHAR", "CLOB", "TEXT"]) {
            Self::Text
        } else if upper.is_empty() || has(&["BLOB"]) || (strict && upper == "ANY") {
            Self::Blob
        } else if has(&["REAL", "FLOA", "DOUB"]) {
            Self::Real
        } else {
            Self::Numeric
        }
    }

    /// Whether a value stays what it is.
    pub(super) fn keeps(self, value: ValueRef<'_>) -> bool {
        match (self, value) {
            (Self::Blob, _) | (_, ValueRef::Null | ValueRef::Blob(_)) | (Self::Text, ValueRef::Text(_)) => {
                true
            }
            (Self::Numeric, ValueRef::Integer(_)) => true,
            // Reals without a fraction lie in the file as integers, and integers have no negative zero.
            (Self::Real, ValueRef::Real(number)) => number != 0.0 || number.is_sign_positive(),
            (Self::Text, ValueRef::Integer(_) | ValueRef::Real(_)) | (Self::Real, ValueRef::Integer(_)) => {
                false
            }
            (Self::Numeric, ValueRef::Real(number)) => {
                // Exactly the integers that SQLite turns: those that a 64-bit integer holds.
                const BOUND: f64 = 9_223_372_036_854_775_808.0;
                number.fract() != 0.0 || !(-BOUND..BOUND).contains(&number)
            }
            (Self::Numeric | Self::Real, ValueRef::Text(text)) => !looks_like_a_number(text),
        }
    }
}

fn looks_like_a_number(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let digits = |&byte: &u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E');
    text.iter().all(digits) && std::str::from_utf8(text).is_ok_and(|text| text.parse::<f64>().is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::Connection;
    use rusqlite::types::Value;

    use super::super::value;
    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            any::<f64>().prop_filter("NaN is NULL", |f| !f.is_nan()).prop_map(Value::Real),
            any::<i32>().prop_map(|n| Value::Real(f64::from(n))),
            Just(Value::Real(-0.0)),
            "[ ]?[+-]?[0-9]{0,3}[.]?[0-9]{0,3}(e[+-]?[0-9]{1,2})?[ ]?".prop_map(Value::Text),
            "[0-9a-z ]{0,4}".prop_map(Value::Text),
        ]
    }

    proptest! {
        #[test]
        fn what_is_said_to_stay_stays(value in any_value()) {
            let conn = Connection::open_in_memory().unwrap();
            for declared in ["", "TEXT", "INTEGER", "NUMERIC", "REAL", "ANY"] {
                conn.execute_batch(&format!("CREATE TABLE IF NOT EXISTS \"{declared}t\"(a {declared})")).unwrap();
                let sql = format!("INSERT INTO \"{declared}t\" VALUES (?1) RETURNING a");
                let affinity = Affinity::of(declared, false);
                conn.query_row(&sql, [&value], |row| {
                    let stored = row.get_ref(0)?;
                    if affinity.keeps((&value).into()) {
                        assert!(value::identical(stored, (&value).into()), "{declared}: {value:?}");
                    }
                    Ok(())
                }).unwrap();
            }
        }
    }
}
