//! Rows of a part, taken apart: which of them can be written without which others.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_select::take::take_record_batch;
use syncline_core::{ChangeBatch, Error, Masks, OldKeys, Result, RowKey};

/// Some rows of a batch, in their order, in memory of their own.
pub(crate) fn pick(batch: &ChangeBatch, rows: &[usize]) -> Result<ChangeBatch> {
    let old = batch.old.as_ref().map(|old| pick_old(old, rows)).transpose()?.flatten();
    let masks = batch.masks.as_ref().map(|masks| {
        let mut picked = Masks::new();
        rows.iter().for_each(|&row| picked.push(masks.of(row)));
        picked
    });
    ChangeBatch {
        table: Arc::clone(&batch.table),
        rows: gather(&batch.rows, rows)?,
        operations: rows.iter().map(|&row| batch.operations[row]).collect(),
        ordinals: rows.iter().map(|&row| batch.ordinals[row]).collect(),
        transactions: rows.iter().map(|&row| batch.transactions[row]).collect(),
        masks: masks.filter(|masks| !masks.is_trivial()),
        old,
    }
    .check()
}

fn pick_old(old: &OldKeys, rows: &[usize]) -> Result<Option<OldKeys>> {
    let mut images = Vec::new();
    let mut places = Vec::with_capacity(rows.len());
    for &row in rows {
        places.push(old.row[row].map(|image| {
            images.push(image as usize);
            // Fewer than the rows of a batch.
            u32::try_from(images.len() - 1).unwrap_or(u32::MAX)
        }));
    }
    if images.is_empty() {
        return Ok(None);
    }
    Ok(Some(OldKeys { row: places, keys: gather(&old.keys, &images)? }))
}

fn gather(batch: &RecordBatch, rows: &[usize]) -> Result<RecordBatch> {
    let rows: UInt32Array =
        rows.iter().map(|&row| u32::try_from(row).unwrap_or(u32::MAX)).collect::<Vec<_>>().into();
    take_record_batch(batch, &rows).map_err(|error| Error::bug("rows cannot be picked").with_source(error))
}

/// The key columns of a batch.
pub(crate) fn key_columns(batch: &ChangeBatch) -> Vec<ArrayRef> {
    batch.table.row_key.iter().map(|&column| Arc::clone(batch.rows.column(column))).collect()
}

/// Every key that a row stands at: its own, then the one it has at the destination, if that is another. None in a table
/// without a row key.
pub(crate) fn keys_of(batch: &ChangeBatch, row: usize) -> Result<Vec<RowKey>> {
    if !batch.table.has_row_key() {
        return Ok(Vec::new());
    }
    let mut keys = vec![RowKey::of(&key_columns(batch), row)?];
    if let (Some(old), Some(place)) = (&batch.old, batch.old_row(row)) {
        let key = RowKey::of(old.keys.columns(), place)?;
        if keys[0] != key {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// Groups of things that share a key, each in order, in the order of their first. Rows that hand keys on to each other are
/// written together or not at all: each is completed from, or takes the place of, what the other leaves.
pub(crate) fn groups(keys: &[Vec<RowKey>]) -> Vec<Vec<usize>> {
    let mut first_at: HashMap<&RowKey, usize> = HashMap::new();
    let mut group: Vec<usize> = (0..keys.len()).collect();
    for (row, keys) in keys.iter().enumerate() {
        for key in keys {
            let other = *first_at.entry(key).or_insert(row);
            let (a, b) = (root(&mut group, other), root(&mut group, row));
            group[a.max(b)] = a.min(b);
        }
    }
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut place: HashMap<usize, usize> = HashMap::new();
    for row in 0..keys.len() {
        let root = root(&mut group, row);
        let at = *place.entry(root).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[at].push(row);
    }
    groups
}

fn root(group: &mut [usize], mut row: usize) -> usize {
    while group[row] != row {
        group[row] = group[group[row]];
        row = group[row];
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_hand_keys_on_are_one_group() {
        let key = |n: u8| RowKey(Box::new([n]));
        let row = |keys: &[u8]| keys.iter().map(|&n| key(n)).collect::<Vec<_>>();
        let rows = [row(&[1]), row(&[2, 3]), row(&[4]), row(&[3, 5]), row(&[5, 2]), row(&[6, 4])];
        assert_eq!(groups(&rows), [vec![0], vec![1, 3, 4], vec![2, 5]]);
        assert!(groups(&[]).is_empty());
    }
}
