//! Reading a table page by page inside one read transaction.
//!
//! A page is a query of its own that goes on where the last one ended, by rowid or by key, so that nothing but the
//! transaction is held between pages, and several chunks can share one transaction.

use std::sync::Arc;

use arrow_array::RecordBatch;
use rusqlite::Connection;
use rusqlite::types::{ToSqlOutput, ValueRef};
use syncline_core::{Error, ErrorKind, Result, TableSchema};

use super::super::catalog::{self, KeyColumn, Table};
use super::super::definition::Definition;
use super::super::error::During;
use super::super::quote::{ident, idents};
use super::super::rows::{BATCH_BYTES, RowsBuilder};
use super::super::value::{self, Owned, sql_number};
use super::range::Range;

/// Where the next page begins.
#[derive(Debug, Clone)]
enum Cursor {
    /// At this rowid, up to the other, both inclusive.
    Rowid { from: i64, to: i64 },
    /// After this key; `None`: at the beginning.
    Key(Option<Vec<Owned>>),
    /// After so many rows: for tables whose columns hide every name of the rowid.
    Offset(u64),
    /// Nowhere.
    End,
}

/// A range of a table being read.
pub(super) struct Pages {
    table: Arc<TableSchema>,
    sql: String,
    /// The first page of a read by key: a row value has no "before everything".
    first: Option<String>,
    cursor: Cursor,
}

impl Pages {
    /// Looks at the table in the transaction in which it will be read.
    pub(super) fn new(conn: &Connection, table: &Arc<TableSchema>, range: &Range) -> Result<Self> {
        let found = verified(conn, table)?;
        let name = ident(&found.name);
        let columns = idents(table.columns.iter().map(|column| column.name.as_str()));
        let integer_key = || found.key.first().filter(|_| found.integer_key).map(|key| ident(&key.name));
        let rowid = found.rowid().map(str::to_owned).or_else(integer_key);
        let (sql, cursor) = match (range, rowid) {
            (Range::Rows(_), _) => {
                return Err(Error::bug("a range of single rows is not a chunk to be read"));
            }
            (Range::Keys(from, to), Some(rowid)) => {
                (by_rowid(&columns, &name, &rowid), Cursor::Rowid { from: *from, to: *to })
            }
            (Range::All, Some(rowid)) => {
                (by_rowid(&columns, &name, &rowid), Cursor::Rowid { from: i64::MIN, to: i64::MAX })
            }
            (Range::Keys(..), None) => {
                return Err(Error::conflict("the table has no integer key any more").with_table(&table.id));
            }
            (Range::All, None) if found.without_rowid => {
                let (first, sql) = by_key(&columns, &name, &found);
                return Ok(Self {
                    table: Arc::clone(table),
                    sql,
                    first: Some(first),
                    cursor: Cursor::Key(None),
                });
            }
            (Range::All, None) => {
                (format!("SELECT {columns} FROM {name} LIMIT -1 OFFSET ?1"), Cursor::Offset(0))
            }
        };
        Ok(Self { table: Arc::clone(table), sql, first: None, cursor })
    }

    /// The next page of about a megabyte; `None` at the end.
    pub(super) fn next(&mut self, conn: &Connection) -> Result<Option<RecordBatch>> {
        let cursor = self.cursor.clone();
        let params: Vec<ValueRef<'_>> = match &cursor {
            Cursor::End => return Ok(None),
            Cursor::Rowid { from, to } => vec![ValueRef::Integer(*from), ValueRef::Integer(*to)],
            Cursor::Key(None) => Vec::new(),
            Cursor::Key(Some(key)) => key.iter().map(value::kept).collect::<Result<_>>()?,
            Cursor::Offset(rows) => vec![ValueRef::Integer(sql_number(*rows))],
        };
        let doing = "reading a chunk";
        let mut builder = RowsBuilder::new(&self.table);
        let sql = self.first.take().unwrap_or_else(|| self.sql.clone());
        let mut statement = conn.prepare_cached(&sql).during(doing)?;
        let mut rows = statement
            .query(rusqlite::params_from_iter(params.into_iter().map(ToSqlOutput::Borrowed)))
            .during(doing)?;
        while let Some(row) = rows.next().during(doing)? {
            builder.push(row)?;
            if builder.bytes() >= BATCH_BYTES {
                self.cursor = self.after(row, builder.rows())?;
                return builder.finish().map(Some);
            }
        }
        self.cursor = Cursor::End;
        if builder.rows() == 0 { Ok(None) } else { builder.finish().map(Some) }
    }

    fn after(&self, row: &rusqlite::Row<'_>, rows: usize) -> Result<Cursor> {
        let columns = self.table.columns.len();
        let doing = "reading a chunk";
        Ok(match &self.cursor {
            Cursor::Rowid { to, .. } => match row.get::<_, i64>(columns).during(doing)?.checked_add(1) {
                Some(from) => Cursor::Rowid { from, to: *to },
                None => Cursor::End,
            },
            Cursor::Key(_) => {
                let parts = columns..columns + self.table.row_key.len();
                let part = |place| row.get_ref(place).map(value::keep).during(doing);
                Cursor::Key(Some(parts.map(part).collect::<Result<_>>()?))
            }
            Cursor::Offset(before) => Cursor::Offset(before + rows as u64),
            Cursor::End => Cursor::End,
        })
    }
}

fn by_rowid(columns: &str, name: &str, rowid: &str) -> String {
    format!("SELECT {columns}, {rowid} FROM {name} WHERE {rowid} BETWEEN ?1 AND ?2 ORDER BY {rowid}")
}

/// The queries for the first page and for the others.
fn by_key(columns: &str, name: &str, table: &Table) -> (String, String) {
    let plain = idents(table.key.iter().map(|key| key.name.as_str()));
    let key = table.key.iter().map(KeyColumn::comparable).collect::<Vec<_>>().join(", ");
    let params = (1..=table.key.len()).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ");
    let select = format!("SELECT {columns}, {plain} FROM {name}");
    (format!("{select} ORDER BY {key}"), format!("{select} WHERE ({key}) > ({params}) ORDER BY {key}"))
}

/// The query for the row of one key, `?1` and on. It finds what the key's index calls equal: the caller compares.
pub(super) fn select_by_key(found: &Table, table: &TableSchema) -> String {
    let part = |(place, key): (usize, &KeyColumn)| format!("{} = ?{}", key.comparable(), place + 1);
    let condition: Vec<_> = found.key.iter().enumerate().map(part).collect();
    let columns = idents(table.columns.iter().map(|column| column.name.as_str()));
    format!("SELECT {columns} FROM {} WHERE {}", ident(&found.name), condition.join(" AND "))
}

/// The table as the file has it now, if it still is what was discovered.
pub(super) fn verified(conn: &Connection, table: &TableSchema) -> Result<Table> {
    let changed = |what: &str| {
        Error::new(ErrorKind::Data, what).with_table(&table.id).with_remedy(
            "drop the pipeline with `syncline drop NAME` and sync it anew with --prepare recreate",
        )
    };
    let found =
        catalog::table(conn, &table.id.name)?.ok_or_else(|| changed("the table is not there any more"))?;
    match Definition::of(table)? {
        Some(definition) if definition.shape != found.shape() => {
            Err(changed("its definition is not what it was when the run began"))
        }
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use syncline_core::{Carry, Selection};

    use super::super::discover::discover;
    use super::*;

    fn rows(definition: &str, range: &Range) -> usize {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(definition).unwrap();
        let fill =
            "INSERT INTO t(a, b) WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
                    SELECT i, hex(zeroblob(500)) FROM n";
        conn.execute(fill, []).unwrap();
        let table = Arc::new(discover(&conn, &Selection::all(Carry::Native)).unwrap().remove(0));
        let mut pages = Pages::new(&conn, &table, range).unwrap();
        let (mut count, mut read) = (0, 0);
        while let Some(page) = pages.next(&conn).unwrap() {
            read += page.num_rows();
            count += 1;
        }
        assert!(count >= 3, "{definition}: one page");
        read
    }

    #[test]
    fn pages_hold_every_row_once_whatever_the_table() {
        for definition in [
            "CREATE TABLE t(a INTEGER PRIMARY KEY, b)",
            "CREATE TABLE t(a, b)",
            "CREATE TABLE t(a INTEGER, b TEXT, PRIMARY KEY(b, a)) WITHOUT ROWID",
            "CREATE TABLE t(a TEXT, b TEXT, PRIMARY KEY(b, a COLLATE NOCASE)) WITHOUT ROWID",
            "CREATE TABLE t(a, b, rowid, oid, _rowid_)",
            "CREATE TABLE t(a INTEGER PRIMARY KEY, b, rowid, oid, _rowid_)",
        ] {
            assert_eq!(rows(definition, &Range::All), 5000, "{definition}");
        }
        assert_eq!(rows("CREATE TABLE t(a INTEGER PRIMARY KEY, b)", &Range::Keys(-5, 4000)), 4000);
    }
}
