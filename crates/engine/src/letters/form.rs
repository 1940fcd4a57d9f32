//! What a dead letter's change is as bytes: the shape of its table, what is done, and the row as Arrow IPC.
//!
//! Layout: a `u32` little-endian length and a header in JSON, a length and the row as an Arrow IPC stream, and in the same
//! way the old key, if there is one. The shape is part of it, so that a letter can be read when its table has changed.

use std::sync::Arc;

use arrow_array::RecordBatch;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use syncline_core::{ChangeBatch, ColumnMask, Error, Masks, OldKeys, Operation, Result, TableSchema};

use crate::ipc;

#[derive(Serialize, Deserialize)]
struct Header {
    table: TableSchema,
    operation: Operation,
    ordinal: u64,
    absent: Vec<usize>,
    moved: bool,
}

/// The bytes of a batch of one row.
///
/// # Errors
/// A bug if it cannot be written.
pub(crate) fn to_bytes(line: &ChangeBatch) -> Result<Bytes> {
    let old = line.old.as_ref().zip(line.old_row(0));
    let header = Header {
        table: TableSchema { rows_estimated: None, ..line.table.as_ref().clone() },
        operation: *line.operations.first().ok_or_else(|| Error::bug("a dead letter without a row"))?,
        ordinal: line.ordinals.first().copied().unwrap_or(0),
        absent: line.mask(0).map(|mask| mask.iter().collect()).unwrap_or_default(),
        moved: old.is_some(),
    };
    let json = serde_json::to_vec(&header).map_err(|error| unwritable().with_source(error))?;
    let mut out = Vec::with_capacity(json.len() + line.rows.get_array_memory_size() + 512);
    put(&mut out, &json)?;
    put(&mut out, &stream_of(&line.rows)?)?;
    if let Some((old, row)) = old {
        put(&mut out, &stream_of(&old.keys.slice(row, 1))?)?;
    }
    Ok(out.into())
}

/// Reads [`to_bytes`].
///
/// # Errors
/// A conflict if the bytes are not a letter's.
pub(crate) fn from_bytes(mut bytes: &[u8]) -> Result<ChangeBatch> {
    let header: Header =
        serde_json::from_slice(take(&mut bytes)?).map_err(|error| damaged().with_source(error))?;
    let table = Arc::new(header.table);
    let rows = batch_of(take(&mut bytes)?)?;
    let old = if header.moved { Some(batch_of(take(&mut bytes)?)?) } else { None };
    let fits = rows.num_rows() == 1
        && rows.schema() == table.arrow()
        && old.as_ref().is_none_or(|old| old.num_rows() == 1 && old.schema() == table.arrow_old());
    if !fits {
        return Err(damaged());
    }
    let mut mask = ColumnMask::none();
    header.absent.iter().for_each(|&column| mask.insert(column));
    let masks = (!mask.is_empty()).then(|| {
        let mut masks = Masks::new();
        masks.push(&mask);
        masks
    });
    ChangeBatch {
        table,
        rows,
        operations: vec![header.operation],
        ordinals: vec![header.ordinal],
        transactions: vec![0],
        masks,
        old: old.map(|keys| OldKeys { row: vec![Some(0)], keys }),
    }
    .check()
}

fn put(out: &mut Vec<u8>, piece: &[u8]) -> Result<()> {
    let length = u32::try_from(piece.len()).map_err(|_| Error::bug("a row of more than 4 GiB"))?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(piece);
    Ok(())
}

fn take<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| damaged())?;
    let (piece, rest) = rest.split_at_checked(length).ok_or_else(damaged)?;
    *bytes = rest;
    Ok(piece)
}

fn stream_of(rows: &RecordBatch) -> Result<Vec<u8>> {
    ipc::to_bytes(rows).map_err(|error| unwritable().with_source(error))
}

fn batch_of(bytes: &[u8]) -> Result<RecordBatch> {
    let batch = ipc::from_bytes(bytes).map_err(|error| damaged().with_source(error))?;
    batch.ok_or_else(damaged)
}

fn unwritable() -> Error {
    Error::bug("a dead letter cannot be written")
}

fn damaged() -> Error {
    Error::conflict("a dead letter is damaged")
}
