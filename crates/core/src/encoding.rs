//! The canonical encoding of a row: what is compared when two sides are compared.
//!
//! Layout: for each column an `i32` big-endian length and the value's bytes; the length is −1 for NULL, and no bytes
//! follow. So `('a|b', 'c')` and `('a', 'b|c')` differ, and NULL is no text. It is what COPY's binary form has between two
//! row headers: rows of a PostgreSQL table are compared as they come. What a value's bytes are is decided by who compares
//! (`syncline_engine::diff`); here is only how they stand one after the other.

use crate::error::{Error, ErrorKind, Result};

/// The length that says NULL.
const NULL: i32 = -1;

/// Appends a value to a row.
///
/// # Errors
/// Data if it is longer than 2 GiB.
pub fn append_value(value: Option<&[u8]>, row: &mut Vec<u8>) -> Result<()> {
    let length = match value {
        None => NULL,
        Some(value) => i32::try_from(value.len())
            .map_err(|_| Error::new(ErrorKind::Data, "a value is longer than 2 GiB"))?,
    };
    row.extend_from_slice(&length.to_be_bytes());
    row.extend_from_slice(value.unwrap_or_default());
    Ok(())
}

/// Bytes that the first `columns` columns take. `None` if the row is shorter.
#[must_use]
pub fn prefix(row: &[u8], columns: usize) -> Option<usize> {
    let mut at = 0_usize;
    for _ in 0..columns {
        at = after_value(row, at)?;
    }
    (at <= row.len()).then_some(at)
}

/// Where the value that begins at `at` ends. Its bytes may be cut off, its length is not.
fn after_value(row: &[u8], at: usize) -> Option<usize> {
    let length: [u8; 4] = row.get(at..at.checked_add(4)?)?.try_into().ok()?;
    // A negative length is NULL, which has no bytes.
    at.checked_add(4)?.checked_add(usize::try_from(i32::from_be_bytes(length)).unwrap_or(0))
}

/// The values of a row, `None` for NULL.
///
/// # Errors
/// A conflict if the bytes are not a row.
pub fn values(row: &[u8]) -> Result<Vec<Option<&[u8]>>> {
    let broken = || Error::conflict("an encoded row is damaged");
    let mut values = Vec::new();
    let mut at = 0;
    while at < row.len() {
        let end = after_value(row, at).ok_or_else(broken)?;
        let bytes = row.get(at + 4..end).ok_or_else(broken)?;
        let is_null = row[at..at + 4] == NULL.to_be_bytes();
        values.push((!is_null).then_some(bytes));
        at = end;
    }
    Ok(values)
}

/// Cuts a family's bulk stream into encoded rows.
pub trait BulkRows: Send {
    /// Takes the next piece, cut anywhere, and gives each row that ends in it.
    ///
    /// # Errors
    /// What `row` returns; a bug if the stream is not of the form.
    fn cut(&mut self, piece: &[u8], row: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>;

    /// To be called after the last piece.
    ///
    /// # Errors
    /// Retriable if the stream ended within a row.
    fn end(&mut self) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_back_as_they_went_in(
            row in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)), 0..6),
            columns in 0_usize..6,
        ) {
            let mut bytes = Vec::new();
            for value in &row {
                append_value(value.as_deref(), &mut bytes).unwrap();
            }
            let back: Vec<Option<Vec<u8>>> = values(&bytes).unwrap().into_iter().map(|v| v.map(<[u8]>::to_vec)).collect();
            prop_assert_eq!(&back, &row);
            let length = |values: &[Option<Vec<u8>>]| values.iter().map(|v| 4 + v.as_ref().map_or(0, Vec::len)).sum::<usize>();
            prop_assert_eq!(prefix(&bytes, columns), row.get(..columns).map(length));
        }

        #[test]
        fn damaged_rows_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40), columns in 0_usize..6) {
            if let Some(end) = prefix(&bytes, columns) {
                prop_assert!(end <= bytes.len());
            }
            if let Ok(values) = values(&bytes) {
                let length: usize = values.iter().map(|v| 4 + v.map_or(0, <[u8]>::len)).sum();
                prop_assert_eq!(length, bytes.len());
            }
        }
    }
}
