//! What a part does to a table: the order that `Part::Changes` fixes, over plain maps.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::RecordBatch;
use syncline_core::{ChangeBatch, Counts, Error, ErrorKind, Operation, Result, RowKey, TableSchema};

use super::destination::StoredTable;
use super::rows::{Row, TableRows, from_batch, keys_of, keys_of_old};
use super::session::key_is_whole;

/// What became of a part.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) counts: Counts,
    pub(crate) rereads: Vec<RowKey>,
}

/// Appends the rows of a chunk, or merges them where rows were before or are read again.
pub(crate) fn rows(table: &mut StoredTable, batch: &RecordBatch, reread: bool) -> Result<Applied> {
    let merge = reread || table.merged;
    let schema = Arc::clone(&table.schema);
    if !key_is_whole(&schema, batch) {
        return Err(Error::new(ErrorKind::Data, "a row of a chunk has no key").with_table(&schema.id));
    }
    let rows = from_batch(batch)?;
    let applied = rows.len() as u64;
    match Arc::make_mut(&mut table.rows) {
        TableRows::Bag(bag) => bag.extend(rows.into_iter().map(Arc::new)),
        TableRows::Keyed(keyed) => {
            for (key, row) in keys_of(&schema, batch)?.into_iter().zip(rows) {
                if keyed.insert(key, Arc::new(row)).is_some() && !merge {
                    return Err(Error::bug("a chunk with a key that is there already").with_table(&schema.id));
                }
            }
        }
    }
    Ok(Applied { counts: Counts { applied, ..Counts::default() }, rereads: Vec::new() })
}

/// Applies changes.
pub(crate) fn changes(table: &mut StoredTable, batch: &ChangeBatch, reread_missing: bool) -> Result<Applied> {
    let schema = Arc::clone(&table.schema);
    if schema.has_row_key() && !table.key_built {
        return Err(Error::bug("changes before the key is built").with_table(&schema.id));
    }
    let images = from_batch(&batch.rows)?;
    match Arc::make_mut(&mut table.rows) {
        TableRows::Keyed(keyed) => Keyed::new(&schema, batch, images)?.apply(keyed, reread_missing),
        TableRows::Bag(bag) => one_by_one(&schema, batch, images, bag),
    }
}

/// A part of changes of a table with a row key.
struct Keyed<'a> {
    schema: &'a TableSchema,
    batch: &'a ChangeBatch,
    keys: Vec<RowKey>,
    old: Vec<RowKey>,
    images: Vec<Row>,
}

impl<'a> Keyed<'a> {
    fn new(schema: &'a TableSchema, batch: &'a ChangeBatch, images: Vec<Row>) -> Result<Self> {
        let keys = keys_of(schema, &batch.rows)?;
        let old = batch.old.as_ref().map(|old| keys_of_old(&old.keys)).transpose()?.unwrap_or_default();
        Ok(Self { schema, batch, keys, old, images })
    }

    fn apply(mut self, rows: &mut BTreeMap<RowKey, Arc<Row>>, reread_missing: bool) -> Result<Applied> {
        let mut applied = Applied::default();
        let truncated = self.batch.operations.first() == Some(&Operation::Truncate);
        if truncated {
            rows.clear();
            applied.counts.applied += 1;
        }
        let first = usize::from(truncated);
        let missing = self.fill(first, rows, reread_missing)?;
        let before: Vec<Option<Arc<Row>>> = self.keys.iter().map(|key| rows.get(key).cloned()).collect();
        let mut gone = vec![false; self.keys.len()];
        for (change, gone) in gone.iter_mut().enumerate().skip(first) {
            if self.batch.operations[change] == Operation::Delete {
                *gone = rows.remove(&self.keys[change]).is_some();
            } else if let Some(old) = self.moved_from(change) {
                *gone = rows.remove(old).is_some();
            }
        }
        for change in first..self.keys.len() {
            if missing.contains(&change) {
                // Another row may stand there still.
                rows.remove(&self.keys[change]);
                applied.counts.rereads += 1;
                applied.rereads.push(self.keys[change].clone());
            } else if self.write(change, rows, before[change].as_deref()) || gone[change] {
                applied.counts.applied += 1;
            } else {
                applied.counts.unchanged += 1;
            }
        }
        Ok(applied)
    }

    /// Fills absent columns from the rows as they were; returns the changes that found no row.
    fn fill(
        &mut self,
        first: usize,
        rows: &BTreeMap<RowKey, Arc<Row>>,
        reread_missing: bool,
    ) -> Result<HashSet<usize>> {
        let mut missing = HashSet::new();
        for change in first..self.keys.len() {
            let Some(mask) = self.batch.mask(change) else { continue };
            let from = self.moved_from(change).unwrap_or(&self.keys[change]);
            let Some(row) = rows.get(from).cloned() else {
                missing.insert(change);
                continue;
            };
            for column in mask.iter() {
                self.images[change][column].clone_from(&row[column]);
            }
        }
        if !missing.is_empty() && !reread_missing {
            return Err(Error::conflict("a row whose unchanged columns are to be kept is missing")
                .with_table(&self.schema.id));
        }
        Ok(missing)
    }

    fn moved_from(&self, change: usize) -> Option<&RowKey> {
        let old = self.batch.old_row(change).map(|at| &self.old[at]);
        old.filter(|old| **old != self.keys[change])
    }

    /// Writes a row; whether that changed anything.
    fn write(&self, change: usize, rows: &mut BTreeMap<RowKey, Arc<Row>>, before: Option<&Row>) -> bool {
        if self.batch.operations[change] == Operation::Delete {
            return false;
        }
        let image = &self.images[change];
        if before == Some(image) && rows.contains_key(&self.keys[change]) {
            return false;
        }
        rows.insert(self.keys[change].clone(), Arc::new(image.clone()));
        before != Some(image)
    }
}

/// Applies changes of a table without a row key, in order; a delete or update takes exactly one equal row.
fn one_by_one(
    schema: &TableSchema,
    batch: &ChangeBatch,
    images: Vec<Row>,
    bag: &mut Vec<Arc<Row>>,
) -> Result<Applied> {
    let old = batch.old.as_ref().map(|old| from_batch(&old.keys)).transpose()?.unwrap_or_default();
    let mut applied = Applied::default();
    for (change, image) in images.into_iter().enumerate() {
        match batch.operations[change] {
            Operation::Truncate => bag.clear(),
            Operation::Insert => bag.push(Arc::new(image)),
            Operation::Delete => take(schema, bag, &image)?,
            Operation::Update | Operation::Upsert => {
                let before = batch.old_row(change).map(|at| &old[at]);
                let before = before.ok_or_else(|| {
                    Error::bug("an update without its old image, of a table without a row key")
                })?;
                take(schema, bag, before)?;
                bag.push(Arc::new(image));
            }
        }
        applied.counts.applied += 1;
    }
    Ok(applied)
}

fn take(schema: &TableSchema, bag: &mut Vec<Arc<Row>>, row: &Row) -> Result<()> {
    let found = bag.iter().position(|there| there.as_ref() == row);
    let found = found.ok_or_else(|| {
        Error::conflict("a row that is to be changed or deleted is missing").with_table(&schema.id)
    })?;
    bag.swap_remove(found);
    Ok(())
}

/// Checks the unique indexes of a table.
pub(crate) fn check_unique(table: &StoredTable) -> Result<()> {
    let rows: Vec<&Arc<Row>> = match table.rows.as_ref() {
        TableRows::Keyed(rows) => rows.values().collect(),
        TableRows::Bag(rows) => rows.iter().collect(),
    };
    for index in &table.unique {
        let mut seen = HashSet::new();
        for row in &rows {
            let value: Row = index.iter().map(|&column| row[column].clone()).collect();
            if value.iter().all(Option::is_some) && !seen.insert(value) {
                return Err(Error::new(ErrorKind::Data, "two rows with one unique value")
                    .with_code("duplicate")
                    .with_table(&table.schema.id)
                    .with_rows_at_fault());
            }
        }
    }
    Ok(())
}
