//! Bodies of messages: lists of byte strings, and batches of rows.
//!
//! ```text
//! list  length u32 · bytes, for each of them
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::RecordBatch;
use syncline_core::{Error, Result, TableSchema, encoding};

use super::frame::malformed;
use crate::ipc;

/// A list that is being written.
#[derive(Default)]
pub(super) struct List(Vec<u8>);

impl List {
    pub(super) fn of<'a>(items: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>> {
        let mut list = Self::default();
        items.into_iter().try_for_each(|item| list.push(item))?;
        Ok(list.0)
    }

    pub(super) fn push(&mut self, item: &[u8]) -> Result<()> {
        let length = u32::try_from(item.len()).map_err(|_| Error::bug("a row of more than 4 GiB"))?;
        self.0.extend(length.to_le_bytes());
        self.0.extend_from_slice(item);
        Ok(())
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Reads a list.
///
/// # Errors
/// Permanent if it is cut off.
pub(super) fn items(mut bytes: &[u8]) -> Result<Vec<&[u8]>> {
    let cut_off = || malformed("a list is cut off");
    let mut items = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(cut_off)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| cut_off())?;
        let (item, rest) = rest.split_at_checked(length).ok_or_else(cut_off)?;
        items.push(item);
        bytes = rest;
    }
    Ok(items)
}

/// Takes an encoded row from the other end, if it has so many columns.
///
/// # Errors
/// Permanent if it has not.
pub(super) fn row(row: &[u8], columns: usize) -> Result<&[u8]> {
    let fits = encoding::values(row).is_ok_and(|values| values.len() == columns);
    if fits { Ok(row) } else { Err(malformed("a row has other columns")) }
}

/// The bytes of a batch.
pub(super) fn batch_bytes(rows: &RecordBatch) -> Result<Vec<u8>> {
    ipc::to_bytes(rows).map_err(|error| Error::bug("rows cannot be written").with_source(error))
}

/// A batch of a table's rows.
///
/// # Errors
/// Permanent if it is none, or has other columns.
pub(super) fn batch(bytes: &[u8], table: &TableSchema) -> Result<RecordBatch> {
    // Arrow checks what it reads; where it asserts instead, the other end must not end this process.
    let read = catch_unwind(AssertUnwindSafe(|| ipc::from_bytes(bytes)));
    let batch = read.ok().and_then(Result::ok).flatten().ok_or_else(|| malformed("rows cannot be read"))?;
    let (expected, found) = (table.arrow(), batch.schema());
    let same = expected.fields().len() == found.fields().len()
        && expected.fields().iter().zip(found.fields()).all(|(a, b)| a.data_type() == b.data_type());
    if same { Ok(batch) } else { Err(malformed("rows have other columns")) }
}
