//! What the parts of a load do to rows.
//!
//! # Unique values that change hands
//! A part is sorted by key, and parts are not in the order of the source's statements, so a row may want a unique value
//! that another row still has at this moment. That row is *displaced*: deleted, and remembered. Because a load ends at a
//! state the source had, its own change must come later in the same load and write it anew (SQLite sources always send
//! whole rows; absent columns are filled before anything of their part is written). If it has not come by the commit, the
//! destination holds a row the source does not have, and the load fails instead of losing it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow_array::RecordBatch;
use rusqlite::{CachedStatement, Connection};
use syncline_core::{
    ChangeBatch, Counts, Error, ErrorKind, Operation, Part, Result, RowKey, TableId, TableSchema,
};

use super::super::cells::{self, Cell, value_ref};
use super::super::error::{During, from_sqlite, is_conflict};
use super::super::value::{self, Owned};
use super::plan::Plan;
use super::writer::Writer;

const DOING: &str = "writing rows";

/// Bytes of keys that may be displaced at once.
const DISPLACED_BYTES_MAX: usize = 64 << 20;

/// What a load has done so far.
#[derive(Clone, Default)]
pub(super) struct Applied {
    pub(super) counts: Counts,
    /// Rows whose absent columns had no row to come from.
    pub(super) missing: Vec<(TableId, RowKey)>,
    /// Rows loaded per table.
    pub(super) loaded: HashMap<TableId, u64>,
    displaced: HashMap<TableId, HashSet<Vec<u8>>>,
    displaced_bytes: usize,
}

impl Applied {
    /// Applies a part. After an error the load is to be rolled back.
    pub(super) fn part(&mut self, writer: &mut Writer, part: &Part) -> Result<()> {
        let table = match part {
            Part::Changes(batch) => &batch.table,
            Part::Rows { table, .. } | Part::Empty(table) | Part::Bulk { table, .. } => table,
        };
        let plan = writer.plan(table)?;
        let mut work = Work { conn: &writer.conn, plan: &plan, applied: self };
        let done = match part {
            Part::Changes(batch) if table.has_row_key() => work.keyed(batch),
            Part::Changes(batch) => work.keyless(batch),
            Part::Rows { rows, .. } => work.rows(rows),
            Part::Empty(_) => work.empty(),
            Part::Bulk { .. } => Err(Error::bug("SQLite has no bulk form")),
        };
        done.map_err(|error| error.with_table(&table.id))
    }

    /// Applies a part that may be refused. What it displaces must come back with it: whether a later part of the load brings
    /// it is not known here.
    pub(super) fn part_alone(&mut self, writer: &mut Writer, part: &Part) -> Result<()> {
        let before = self.displaced.clone();
        self.part(writer, part)?;
        let stays = |table: &TableId, key: &Vec<u8>| before.get(table).is_some_and(|keys| keys.contains(key));
        let lost = self.displaced.iter().find(|(table, keys)| keys.iter().any(|key| !stays(table, key)));
        match lost {
            None => Ok(()),
            Some((table, _)) => Err(Error::new(ErrorKind::Data, "another row has a unique value of the row")
                .with_table(table)
                .with_rows_at_fault()),
        }
    }

    /// Refuses a load that has displaced rows for good.
    pub(super) fn check(&self) -> Result<()> {
        match self.displaced.iter().find(|(_, keys)| !keys.is_empty()) {
            None => Ok(()),
            Some((table, keys)) => Err(Error::new(
                ErrorKind::Data,
                format!("{} rows that the source does not have hold unique values that it has", keys.len()),
            )
            .with_table(table)
            .with_rows_at_fault()
            .with_remedy(
                "delete these rows at the destination and run again; or start over with `syncline drop NAME`, then sync with \
                 --prepare recreate",
            )),
        }
    }
}

/// The work on one part.
struct Work<'a> {
    conn: &'a Connection,
    plan: &'a Plan,
    applied: &'a mut Applied,
}

impl<'a> Work<'a> {
    fn statement(&self, sql: &str) -> Result<CachedStatement<'a>> {
        self.conn.prepare_cached(sql).during(DOING)
    }

    fn table(&self) -> &'a Arc<TableSchema> {
        &self.plan.table
    }

    fn empty(&mut self) -> Result<()> {
        self.statement(&self.plan.empty)?.execute([]).during(DOING)?;
        self.applied.displaced.remove(&self.table().id);
        Ok(())
    }

    /// Rows of a chunk. Where rows were kept, one may have the key already and is overwritten.
    fn rows(&mut self, rows: &RecordBatch) -> Result<()> {
        let mut insert = self.statement(&self.plan.insert)?;
        for at in 0..rows.num_rows() {
            for (place, (column, array)) in self.table().columns.iter().zip(rows.columns()).enumerate() {
                let cell = cells::cell(column, array, at)?;
                self.plan.accept(place, value_ref(&cell))?;
                insert.raw_bind_parameter(place + 1, &cell).during(DOING)?;
            }
            match insert.raw_execute() {
                Ok(_) => {}
                Err(error) if is_conflict(&error) && self.table().has_row_key() => {
                    let row = cells::row(self.table(), 0..self.table().columns.len(), rows, at)?;
                    self.write(&row)?;
                }
                Err(error) => return Err(from_sqlite(error, DOING)),
            }
        }
        let count = rows.num_rows() as u64;
        self.applied.counts.applied += count;
        *self.applied.loaded.entry(self.table().id.clone()).or_default() += count;
        Ok(())
    }

    /// Truncate; fill absent columns; delete deleted keys and old keys; write.
    fn keyed(&mut self, batch: &ChangeBatch) -> Result<()> {
        let mut first = 0;
        if batch.operations.first() == Some(&Operation::Truncate) {
            self.empty()?;
            self.applied.counts.applied += 1;
            first = 1;
        }
        let filled = self.fill(batch, first)?;
        for row in first..batch.len() {
            self.delete_for(batch, row)?;
            // What stands where a row would go that must be read again is another row.
            if let Some(None) = filled.get(&row) {
                let key = self.key(batch, row)?;
                self.delete(&key)?;
            }
        }
        for row in first..batch.len() {
            if batch.operations[row] == Operation::Delete {
                continue;
            }
            let written = match filled.get(&row) {
                None => {
                    let cells = cells::row(self.table(), 0..self.table().columns.len(), &batch.rows, row)?;
                    self.write(&cells)?
                }
                Some(Some(image)) => {
                    let cell = |value| value::kept(value).map(Cell::Borrowed);
                    let cells: Vec<Cell<'_>> = image.iter().map(cell).collect::<Result<_>>()?;
                    self.write(&cells)?
                }
                Some(None) => {
                    self.applied.counts.rereads += 1;
                    let keys: Vec<_> = self
                        .table()
                        .row_key
                        .iter()
                        .map(|&column| batch.rows.column(column).clone())
                        .collect();
                    self.applied.missing.push((self.table().id.clone(), RowKey::of(&keys, row)?));
                    continue;
                }
            };
            // A row that moved was deleted at its old key, whatever stood at the new one.
            if written || batch.old_row(row).is_some() {
                self.applied.counts.applied += 1;
            } else {
                self.applied.counts.unchanged += 1;
            }
        }
        *self.applied.loaded.entry(self.table().id.clone()).or_default() += (batch.len() - first) as u64;
        Ok(())
    }

    /// Whole images of the rows that leave out columns, `None` where no row is there to fill them from.
    fn fill(&mut self, batch: &ChangeBatch, first: usize) -> Result<HashMap<usize, Option<Vec<Owned>>>> {
        let mut filled = HashMap::new();
        for row in first..batch.len() {
            let Some(mask) = batch.mask(row).filter(|_| batch.operations[row] != Operation::Delete) else {
                continue;
            };
            let key = match self.old_key(batch, row)? {
                Some(old) => old,
                None => self.key(batch, row)?,
            };
            let image = match self.current(&key)? {
                None => None,
                Some(current) => {
                    let new = cells::row(self.table(), 0..self.table().columns.len(), &batch.rows, row)?;
                    let value = |(column, (current, new)): (usize, (Owned, Cell<'_>))| {
                        if mask.contains(column) { current } else { value::keep(value_ref(&new)) }
                    };
                    Some(current.into_iter().zip(new).enumerate().map(value).collect())
                }
            };
            filled.insert(row, image);
        }
        Ok(filled)
    }

    fn key<'b>(&self, batch: &'b ChangeBatch, row: usize) -> Result<Vec<Cell<'b>>> {
        let part =
            |&column: &usize| cells::cell(&self.table().columns[column], batch.rows.column(column), row);
        let key: Vec<_> = self.table().row_key.iter().map(part).collect::<Result<_>>()?;
        whole(key)
    }

    fn old_key<'b>(&self, batch: &'b ChangeBatch, row: usize) -> Result<Option<Vec<Cell<'b>>>> {
        let (Some(place), Some(old)) = (batch.old_row(row), &batch.old) else { return Ok(None) };
        whole(cells::row(self.table(), self.table().row_key.iter().copied(), &old.keys, place)?).map(Some)
    }

    /// The row with a key, as it is now.
    fn current(&self, key: &[Cell<'_>]) -> Result<Option<Vec<Owned>>> {
        let mut statement = self.statement(&self.plan.select)?;
        let mut rows = statement.query(rusqlite::params_from_iter(key)).during(DOING)?;
        let Some(row) = rows.next().during(DOING)? else { return Ok(None) };
        let value = |column| row.get_ref(column).map(value::keep).during(DOING);
        (0..self.table().columns.len()).map(value).collect::<Result<_>>().map(Some)
    }

    fn delete_for(&mut self, batch: &ChangeBatch, row: usize) -> Result<()> {
        if batch.operations[row] != Operation::Delete {
            if let Some(old) = self.old_key(batch, row)? {
                self.delete(&old)?;
            }
            return Ok(());
        }
        let key = self.key(batch, row)?;
        if self.delete(&key)? {
            self.applied.counts.applied += 1;
        } else {
            self.applied.counts.unchanged += 1;
        }
        Ok(())
    }

    /// Deletes the row with a key; a displaced one counts as there.
    fn delete(&mut self, key: &[Cell<'_>]) -> Result<bool> {
        let mut statement = self.statement(&self.plan.delete)?;
        let deleted = statement.execute(rusqlite::params_from_iter(key)).during(DOING)?;
        Ok(self.settle(key) || deleted > 0)
    }

    /// A change of a displaced row has come.
    fn settle(&mut self, key: &[Cell<'_>]) -> bool {
        match self.applied.displaced.get_mut(&self.plan.table.id) {
            Some(displaced) if !displaced.is_empty() => {
                displaced.remove(&key_bytes(key.iter().map(value_ref)))
            }
            _ => false,
        }
    }

    /// Writes a whole row unless it is there already, exactly; returns whether it was written.
    fn write(&mut self, row: &[Cell<'_>]) -> Result<bool> {
        let key: Vec<Cell<'_>> =
            self.table().row_key.iter().map(|&column| Cell::Borrowed(value_ref(&row[column]))).collect();
        let key = whole(key)?;
        self.settle(&key);
        self.accept(row)?;
        let present = {
            let mut statement = self.statement(&self.plan.select)?;
            let mut rows = statement.query(rusqlite::params_from_iter(&key)).during(DOING)?;
            match rows.next().during(DOING)? {
                None => None,
                Some(found) => Some(is_same(found, row)?),
            }
        };
        let sql = match (present, &self.plan.update) {
            (Some(true), _) | (Some(false), None) => return Ok(false),
            (Some(false), Some(update)) => update,
            (None, _) => &self.plan.insert,
        };
        let mut statement = self.statement(sql)?;
        bind(&mut statement, row)?;
        match statement.raw_execute() {
            Ok(_) => return Ok(true),
            Err(error) if !is_conflict(&error) => return Err(from_sqlite(error, DOING)),
            Err(_) => {}
        }
        self.displace(row)?;
        bind(&mut statement, row)?;
        statement.raw_execute().during(DOING)?;
        Ok(true)
    }

    fn accept(&self, row: &[Cell<'_>]) -> Result<()> {
        row.iter().enumerate().try_for_each(|(column, cell)| self.plan.accept(column, value_ref(cell)))
    }

    /// Deletes the rows that cannot stand beside this one, and remembers them.
    fn displace(&mut self, row: &[Cell<'_>]) -> Result<()> {
        for sql in &self.plan.displace {
            let mut statement = self.statement(sql)?;
            bind(&mut statement, row)?;
            let mut rows = statement.raw_query();
            while let Some(displaced) = rows.next().during(DOING)? {
                let parts = (0..self.plan.table.row_key.len()).map(|part| displaced.get_ref(part));
                let parts: Vec<_> = parts.collect::<rusqlite::Result<_>>().during(DOING)?;
                let key = key_bytes(parts.into_iter());
                self.applied.displaced_bytes += key.len() + 48;
                self.applied.displaced.entry(self.plan.table.id.clone()).or_default().insert(key);
            }
        }
        if self.applied.displaced_bytes > DISPLACED_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Data,
                "too many rows exchange unique values in one transaction",
            )
            .with_remedy("start over with `syncline drop NAME`, then sync with --prepare recreate"));
        }
        Ok(())
    }

    /// Without a row key: one by one, in order, and a delete or update takes exactly one equal row.
    fn keyless(&mut self, batch: &ChangeBatch) -> Result<()> {
        let columns = 0..self.table().columns.len();
        for row in 0..batch.len() {
            let done = match batch.operations[row] {
                Operation::Truncate => {
                    self.empty()?;
                    true
                }
                Operation::Delete => {
                    self.delete_one(&cells::row(self.table(), columns.clone(), &batch.rows, row)?)?
                }
                Operation::Insert | Operation::Upsert | Operation::Update => {
                    let mut new = cells::row(self.table(), columns.clone(), &batch.rows, row)?;
                    if let (Some(place), Some(old)) = (batch.old_row(row), &batch.old) {
                        let old = cells::row(self.table(), columns.clone(), &old.keys, place)?;
                        self.delete_one(&old)?;
                        let absent = batch.mask(row).into_iter().flat_map(syncline_core::ColumnMask::iter);
                        for column in absent {
                            new[column] = old[column].clone();
                        }
                    }
                    self.accept(&new)?;
                    let mut insert = self.statement(&self.plan.insert)?;
                    insert.execute(rusqlite::params_from_iter(&new)).during(DOING)?;
                    true
                }
            };
            if done {
                self.applied.counts.applied += 1;
            } else {
                self.applied.counts.unchanged += 1;
            }
        }
        Ok(())
    }

    fn delete_one(&self, image: &[Cell<'_>]) -> Result<bool> {
        let sql = self.plan.delete_one.as_deref();
        let sql = sql.ok_or_else(|| Error::bug("a keyless change of a table with a key"))?;
        let deleted = self.statement(sql)?.execute(rusqlite::params_from_iter(image)).during(DOING)?;
        Ok(deleted > 0)
    }
}

/// Binds the parameters that the statement has; those of columns it does not mention are left out.
fn bind(statement: &mut CachedStatement<'_>, row: &[Cell<'_>]) -> Result<()> {
    let count = statement.parameter_count();
    row.iter()
        .take(count)
        .enumerate()
        .try_for_each(|(place, cell)| statement.raw_bind_parameter(place + 1, cell))
        .during(DOING)
}

/// A key without NULL: nothing identifies a row by one.
fn whole(key: Vec<Cell<'_>>) -> Result<Vec<Cell<'_>>> {
    if key.iter().any(|part| value_ref(part) == rusqlite::types::ValueRef::Null) {
        return Err(Error::new(ErrorKind::Data, "a change has NULL in its row key"));
    }
    Ok(key)
}

fn is_same(found: &rusqlite::Row<'_>, row: &[Cell<'_>]) -> Result<bool> {
    for (column, cell) in row.iter().enumerate() {
        if !value::identical(found.get_ref(column).during(DOING)?, value_ref(cell)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A key as bytes that are equal exactly when the key is.
fn key_bytes<'v>(parts: impl Iterator<Item = rusqlite::types::ValueRef<'v>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        let start = bytes.len();
        bytes.extend_from_slice(&[0; 8]);
        value::encode(part, &mut bytes);
        let length = (bytes.len() - start - 8) as u64;
        bytes[start..start + 8].copy_from_slice(&length.to_le_bytes());
    }
    bytes
}
