//! Messages of `pgoutput` built by hand, for tests of what reads them.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use bytes::BufMut;
use syncline_core::{Carriage, ChangeBatch, Column, DataType, TableId, TableSchema};

use super::pgoutput::Value;

pub(super) fn begin(commit_start: u64, committed_at: i64, xid: u32) -> Vec<u8> {
    let mut out = vec![b'B'];
    out.put_u64(commit_start);
    out.put_i64(committed_at);
    out.put_u32(xid);
    out
}

pub(super) fn commit(start: u64, end: u64) -> Vec<u8> {
    let mut out = vec![b'C', 0];
    out.put_u64(start);
    out.put_u64(end);
    out.put_i64(0);
    out
}

/// Columns: name, type, part of the identity.
pub(super) fn relation(
    id: u32,
    schema: &str,
    name: &str,
    identity: u8,
    columns: &[(&str, u32, bool)],
) -> Vec<u8> {
    let mut out = vec![b'R'];
    out.put_u32(id);
    text(&mut out, schema);
    text(&mut out, name);
    out.put_u8(identity);
    out.put_u16(columns.len().try_into().unwrap());
    for (name, type_oid, is_identity) in columns {
        out.put_u8(u8::from(*is_identity));
        text(&mut out, name);
        out.put_u32(*type_oid);
        out.put_i32(-1);
    }
    out
}

pub(super) fn insert(relation: u32, new: &[Value<'_>]) -> Vec<u8> {
    let mut out = vec![b'I'];
    out.put_u32(relation);
    tuple(&mut out, b'N', new);
    out
}

pub(super) fn update(relation: u32, old: Option<(u8, &[Value<'_>])>, new: &[Value<'_>]) -> Vec<u8> {
    let mut out = vec![b'U'];
    out.put_u32(relation);
    if let Some((kind, old)) = old {
        tuple(&mut out, kind, old);
    }
    tuple(&mut out, b'N', new);
    out
}

pub(super) fn delete(relation: u32, kind: u8, old: &[Value<'_>]) -> Vec<u8> {
    let mut out = vec![b'D'];
    out.put_u32(relation);
    tuple(&mut out, kind, old);
    out
}

pub(super) fn truncate(relations: &[u32]) -> Vec<u8> {
    let mut out = vec![b'T'];
    out.put_u32(relations.len().try_into().unwrap());
    out.put_u8(0);
    relations.iter().for_each(|relation| out.put_u32(*relation));
    out
}

pub(super) fn message(flags: u8, at: u64) -> Vec<u8> {
    let mut out = vec![b'M', flags];
    out.put_u64(at);
    text(&mut out, "syncline");
    out.put_u32(2);
    out.put_slice(b"hi");
    out
}

/// One of each kind, with the number of parts (values, columns, tables) in it.
pub(super) fn all() -> Vec<(Vec<u8>, usize)> {
    let row = [Value::Binary(b"\0\0\0\x01"), Value::Null, Value::Unchanged, Value::Text(b"t")];
    let key = [Value::Binary(b"\0\0\0\x02"), Value::Null, Value::Null, Value::Null];
    vec![
        (begin(10, -5, 7), 0),
        (commit(10, 20), 0),
        (relation(3, "public", "t", b'd', &[("id", 23, true), ("n", 25, false)]), 2),
        (insert(3, &row), 4),
        (update(3, None, &row), 4),
        (update(3, Some((b'K', &key)), &row), 8),
        (update(3, Some((b'O', &row)), &row), 8),
        (delete(3, b'K', &key), 4),
        (delete(3, b'O', &row), 4),
        (truncate(&[3, 4]), 2),
        (message(0, 99), 0),
        (message(1, 99), 0),
        (vec![b'Y', 0, 0, 0, 1, b'p', 0, b't', 0], 0),
        (vec![b'O', 0, 0, 0, 0, 0, 0, 0, 1, b'o', 0], 0),
    ]
}

fn tuple(out: &mut Vec<u8>, kind: u8, values: &[Value<'_>]) {
    out.put_u8(kind);
    out.put_u16(values.len().try_into().unwrap());
    for value in values {
        let (kind, bytes) = match value {
            Value::Null => (b'n', None),
            Value::Unchanged => (b'u', None),
            Value::Text(bytes) => (b't', Some(bytes)),
            Value::Binary(bytes) => (b'b', Some(bytes)),
        };
        out.put_u8(kind);
        if let Some(bytes) = bytes {
            out.put_u32(bytes.len().try_into().unwrap());
            out.put_slice(bytes);
        }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

/// A table of binary columns.
pub(super) fn table(name: &str, columns: &[&str], row_key: &[usize]) -> Arc<TableSchema> {
    let column = |name: &&str| Column {
        name: (*name).to_owned(),
        data_type: DataType::Bytes,
        nullable: true,
        native_type: "bytea".to_owned(),
        carriage: Carriage::Native,
    };
    Arc::new(TableSchema {
        id: TableId::new("public", name),
        columns: columns.iter().map(column).collect(),
        row_key: row_key.to_vec(),
        version: 1,
        rows_estimated: None,
        native: None,
    })
}

/// A binary value.
pub(super) fn b(text: &'static str) -> Value<'static> {
    Value::Binary(text.as_bytes())
}

/// A batch as text: operation, new row, absent columns, old row.
pub(super) fn show(batch: &ChangeBatch) -> Vec<String> {
    (0..batch.len())
        .map(|row| {
            let mask: Vec<_> = batch.mask(row).map(|mask| mask.iter().collect()).unwrap_or_default();
            let mask = if mask.is_empty() { String::new() } else { format!(" without {mask:?}") };
            let old = batch.old_row(row).map(|old| show_row(&batch.old.as_ref().unwrap().keys, old));
            let old = old.map(|old| format!(" was {old}")).unwrap_or_default();
            format!("{:?} {}{mask}{old}", batch.operations[row], show_row(&batch.rows, row))
        })
        .collect()
}

fn show_row(rows: &RecordBatch, row: usize) -> String {
    let value = |column: &ArrayRef| match column.is_null(row) {
        true => "-".to_owned(),
        false => String::from_utf8_lossy(column.as_binary::<i32>().value(row)).into_owned(),
    };
    rows.columns().iter().map(value).collect::<Vec<_>>().join(",")
}
