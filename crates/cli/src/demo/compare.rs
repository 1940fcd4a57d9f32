//! The judge of the demo: a full comparison of two SQLite files, row by row, value by value, both ways at once.
//!
//! It must not share a line with what it judges: no connector, no schema, no value of Syncline is used here, only SQLite
//! itself. Values are equal if their storage class and all their bits are.

use std::cmp::Ordering;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row, Rows, Statement};
use serde::Serialize;

use super::shop::{TABLES, Table};

/// One value, with its storage class.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cell {
    Null,
    Integer(i64),
    /// The bits: -0.0 is not 0.0, and nothing is rounded.
    Real(u64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl Cell {
    fn of(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Real(number) => Self::Real(number.to_bits()),
            ValueRef::Text(text) => Self::Text(text.to_vec()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }

    /// SQLite's own order under collation BINARY, for the values that the orders of [`TABLES`] use.
    fn order(&self, other: &Self) -> Ordering {
        let class = |cell: &Self| match cell {
            Self::Null => 0,
            Self::Integer(_) | Self::Real(_) => 1,
            Self::Text(_) => 2,
            Self::Blob(_) => 3,
        };
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a.cmp(b),
            (Self::Real(a), Self::Real(b)) => f64::from_bits(*a).total_cmp(&f64::from_bits(*b)),
            (Self::Text(a), Self::Text(b)) | (Self::Blob(a), Self::Blob(b)) => a.cmp(b),
            _ => class(self).cmp(&class(other)),
        }
    }
}

/// What became of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct TableResult {
    pub(super) table: &'static str,
    /// Rows at the source.
    pub(super) rows: u64,
    /// Values compared.
    pub(super) values: u64,
    /// Rows only the source has.
    pub(super) missing: u64,
    /// Rows only the destination has.
    pub(super) surplus: u64,
    /// Rows both have under one key, with another value in them.
    pub(super) different: u64,
    /// Columns are the same: name, declared type, NOT NULL, place in the key.
    pub(super) same_columns: bool,
}

/// What became of all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Comparison {
    pub(super) tables: Vec<TableResult>,
}

impl Comparison {
    /// Whether nothing at all differs.
    pub(super) fn is_equal(&self) -> bool {
        self.tables.iter().all(|t| t.same_columns && t.missing + t.surplus + t.different == 0)
    }

    /// Rows of the source.
    pub(super) fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Values compared.
    pub(super) fn values(&self) -> u64 {
        self.tables.iter().map(|table| table.values).sum()
    }
}

/// Compares all tables of the shop in two files.
pub(super) fn compare(source: &Path, destination: &Path) -> rusqlite::Result<Comparison> {
    let open = |path| {
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
    };
    let (source, destination) = (open(source)?, open(destination)?);
    let tables =
        TABLES.iter().map(|table| compare_table(&source, &destination, table)).collect::<Result<_, _>>()?;
    Ok(Comparison { tables })
}

fn compare_table(
    source: &Connection,
    destination: &Connection,
    table: &Table,
) -> rusqlite::Result<TableResult> {
    let mut result = TableResult {
        table: table.name,
        rows: 0,
        values: 0,
        missing: 0,
        surplus: 0,
        different: 0,
        same_columns: columns(source, table.name)? == columns(destination, table.name)?,
    };
    if !result.same_columns {
        return Ok(result);
    }
    let (mut from, mut to) = (select(source, table)?, select(destination, table)?);
    let (mut left, mut right) = (Side::of(from.query([])?, table)?, Side::of(to.query([])?, table)?);
    loop {
        let order = match (&left.row, &right.row) {
            (None, None) => return Ok(result),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => by_key(a, b, &left.key),
        };
        match order {
            Ordering::Less => result.missing += 1,
            Ordering::Greater => result.surplus += 1,
            Ordering::Equal => {
                let cells = left.row.as_ref().map_or(0, Vec::len);
                result.values += cells as u64;
                result.different += u64::from(left.row != right.row);
            }
        }
        if order.is_le() {
            result.rows += 1;
            left.advance()?;
        }
        if order.is_ge() {
            right.advance()?;
        }
    }
}

/// One side's rows, one at a time.
struct Side<'a> {
    rows: Rows<'a>,
    row: Option<Vec<Cell>>,
    key: Vec<usize>,
}

impl<'a> Side<'a> {
    fn of(rows: Rows<'a>, table: &Table) -> rusqlite::Result<Self> {
        let key = match rows.as_ref() {
            Some(statement) => {
                table.order.iter().map(|name| statement.column_index(name)).collect::<Result<_, _>>()?
            }
            None => Vec::new(),
        };
        let mut side = Self { rows, row: None, key };
        side.advance()?;
        Ok(side)
    }

    fn advance(&mut self) -> rusqlite::Result<()> {
        self.row = self.rows.next()?.map(cells).transpose()?;
        Ok(())
    }
}

fn cells(row: &Row<'_>) -> rusqlite::Result<Vec<Cell>> {
    (0..row.as_ref().column_count()).map(|n| row.get_ref(n).map(Cell::of)).collect()
}

fn by_key(a: &[Cell], b: &[Cell], key: &[usize]) -> Ordering {
    key.iter().map(|&n| a[n].order(&b[n])).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn select<'a>(connection: &'a Connection, table: &Table) -> rusqlite::Result<Statement<'a>> {
    let order: Vec<_> = table.order.iter().map(|column| format!("\"{column}\" COLLATE BINARY")).collect();
    connection.prepare(&format!("SELECT * FROM \"{}\" ORDER BY {}", table.name, order.join(", ")))
}

type ColumnRow = (String, String, bool, i64);

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<ColumnRow>> {
    connection
        .prepare("SELECT name, type, \"notnull\", pk FROM pragma_table_xinfo(?1) ORDER BY cid")?
        .query_map([table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::shop::{Size, build};
    use super::*;

    /// What a change of one side is seen as: (missing, surplus, different).
    fn seen_as(sql: &str) -> (u64, u64, u64) {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.db"), dir.path().join("b.db"));
        for path in [&a, &b] {
            build(path, Size::of(400), 1, &AtomicBool::new(false)).unwrap();
        }
        Connection::open(&b).unwrap().execute_batch(sql).unwrap();
        let result = compare(&a, &b).unwrap();
        assert!(!result.is_equal(), "{sql}");
        let sum = |count: fn(&TableResult) -> u64| result.tables.iter().map(count).sum();
        (sum(|t| t.missing), sum(|t| t.surplus), sum(|t| t.different))
    }

    #[test]
    fn the_smallest_difference_is_seen() {
        assert_eq!(seen_as("UPDATE everything SET anything = 1 WHERE id = 1"), (0, 0, 1));
        assert_eq!(seen_as("DELETE FROM order_items WHERE order_id = 1 AND line = 1"), (1, 0, 0));
        assert_eq!(
            seen_as("INSERT INTO visits SELECT visited_at, 'new', customer_id, 1 FROM visits LIMIT 1"),
            (0, 1, 0)
        );
        assert_eq!(
            seen_as("PRAGMA foreign_keys = off; UPDATE products SET sku = 'x' WHERE sku = 'SKU-0000001'"),
            (1, 1, 0)
        );
        assert_eq!(seen_as("ALTER TABLE reviews ADD COLUMN extra"), (0, 0, 0));
    }

    #[test]
    fn a_number_of_another_class_is_another_value() {
        assert_ne!(Cell::of(ValueRef::Integer(1)), Cell::of(ValueRef::Real(1.0)));
        assert_ne!(Cell::of(ValueRef::Real(0.0)), Cell::of(ValueRef::Real(-0.0)));
        assert_ne!(Cell::of(ValueRef::Text(b"1")), Cell::of(ValueRef::Blob(b"1")));
    }
}
