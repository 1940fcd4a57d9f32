//! The statements that write one table.

use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use syncline_core::{Carriage, Column, Error, ErrorKind, Result, TableSchema};

use super::super::affinity::Affinity;
use super::super::catalog::{self, Table};
use super::super::quote::{ident, idents};
use super::super::unique::UniqueIndex;

/// The statements for a table. Unless said otherwise `?1` and on are all columns in the schema's order.
pub(super) struct Plan {
    pub(super) table: Arc<TableSchema>,
    /// What each column does to native values.
    pub(super) affinities: Vec<Affinity>,
    pub(super) insert: String,
    /// All columns of the row with a key; `?1` and on are the key.
    pub(super) select: String,
    /// Sets all columns outside the key; `None` if there are none.
    pub(super) update: Option<String>,
    /// `?1` and on are the key.
    pub(super) delete: String,
    pub(super) empty: String,
    /// Deletes rows that cannot stand beside a new one, and returns their keys.
    pub(super) displace: Vec<String>,
    /// Deletes one row that is the same in all columns; only without a row key.
    pub(super) delete_one: Option<String>,
}

impl Plan {
    /// Refuses a value that would not stay what it is.
    pub(super) fn accept(&self, column: usize, value: ValueRef<'_>) -> Result<()> {
        if self.affinities[column].keeps(value) {
            return Ok(());
        }
        let column = &self.table.columns[column];
        let class = value.data_type().to_string().to_lowercase();
        Err(Error::new(
            ErrorKind::Data,
            format!(
                "column {} is declared {} and holds a value of storage class {class}, which SQLite itself would convert",
                column.name, column.native_type
            ),
        )
        .with_rows_at_fault()
        .with_remedy("the source's schema was edited by hand: rewrite the column there with UPDATE … SET c = c, then run again"))
    }

    /// Looks at the table in the destination's file.
    pub(super) fn new(conn: &Connection, table: &Arc<TableSchema>) -> Result<Self> {
        let gone =
            || Error::new(ErrorKind::Data, "the table is not at the destination").with_table(&table.id);
        let found = catalog::table(conn, &table.id.name)?.ok_or_else(gone)?;
        let name = ident(&found.name);
        let columns: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
        let all = idents(columns.iter().copied());
        let params: Vec<_> = (1..=columns.len()).map(|n| format!("?{n}")).collect();
        let by_key = key_condition(&found, table, |part| part + 1);
        let outside = (0..columns.len()).filter(|column| !table.row_key.contains(column));
        let sets: Vec<_> =
            outside.map(|column| format!("{} = ?{}", ident(columns[column]), column + 1)).collect();
        let by_key_in_row = key_condition(&found, table, |part| table.row_key[part] + 1);
        let keyed = table.has_row_key();
        let affinity = |column: &Column| match (column.carriage, found.column(&column.name)) {
            (Carriage::Native, Some(there)) => Affinity::of(&there.declared, found.strict),
            // Typed values are stored in the published form, whatever the user's own table makes of it.
            _ => Affinity::Blob,
        };
        Ok(Self {
            affinities: table.columns.iter().map(affinity).collect(),
            insert: format!("INSERT OR ABORT INTO {name} ({all}) VALUES ({})", params.join(", ")),
            select: format!("SELECT {all} FROM {name} WHERE {by_key}"),
            update: (keyed && !sets.is_empty())
                .then(|| format!("UPDATE OR ABORT {name} SET {} WHERE {by_key_in_row}", sets.join(", "))),
            delete: format!("DELETE FROM {name} WHERE {by_key}"),
            empty: format!("DELETE FROM {name}"),
            displace: if keyed { displacements(&found, table, &by_key_in_row) } else { Vec::new() },
            delete_one: (!keyed).then(|| delete_one(&found, table)),
            table: Arc::clone(table),
        })
    }
}

/// The row with exactly this key: what its index calls equal, and then the same storage class and bytes.
fn key_condition(found: &Table, table: &TableSchema, param: impl Fn(usize) -> usize) -> String {
    let part = |(part, &column): (usize, &usize)| {
        let name = &table.columns[column].name;
        let (column, param) = (ident(name), format!("?{}", param(part)));
        if found.integer_key && found.key[0].name.eq_ignore_ascii_case(name) {
            return format!("({column} = {param} AND typeof({param}) = 'integer')");
        }
        let same = format!("typeof({column}) = typeof({param})");
        match collation(found, table, name) {
            collation if collation.eq_ignore_ascii_case("BINARY") => {
                format!("({column} = {param} COLLATE BINARY AND {same})")
            }
            collation => format!(
                "({column} = {param} COLLATE {} AND {column} = {param} COLLATE BINARY AND {same})",
                ident(&collation)
            ),
        }
    };
    let parts: Vec<_> = table.row_key.iter().enumerate().map(part).collect();
    if parts.is_empty() { "0".to_owned() } else { parts.join(" AND ") }
}

/// By which the index on the row key compares a column, so that the lookup can use it.
fn collation(found: &Table, table: &TableSchema, column: &str) -> String {
    let index = found.unique.iter().find(|index| is_on_row_key(index, table));
    let term = index.and_then(|index| {
        index.terms.iter().find(|term| term.column.as_deref().is_some_and(|c| c.eq_ignore_ascii_case(column)))
    });
    term.map_or_else(|| "BINARY".to_owned(), |term| term.collation.clone())
}

/// Whether an index keeps two rows with the same row key apart.
pub(super) fn is_on_row_key(index: &UniqueIndex, table: &TableSchema) -> bool {
    let has = |name: &str| {
        index.terms.iter().any(|term| term.column.as_deref().is_some_and(|c| c.eq_ignore_ascii_case(name)))
    };
    index.predicate.is_none()
        && index.terms.len() == table.row_key.len()
        && table.row_key.iter().all(|&column| has(&table.columns[column].name))
}

fn displacements(found: &Table, table: &TableSchema, own_key: &str) -> Vec<String> {
    let columns: Vec<_> = found.columns.iter().map(|column| column.name.as_str()).collect();
    // A generated column, and one that the source does not have, conflicts only in ways that are not known here.
    let new = |name: &str| {
        let place = table.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name));
        place.map_or_else(|| "NULL".to_owned(), |place| format!("?{}", place + 1))
    };
    let keys = idents(table.row_key.iter().map(|&column| table.columns[column].name.as_str()));
    let statement = |index: &UniqueIndex| {
        let condition = index.conflict(&columns, &new);
        format!("DELETE FROM {} WHERE {condition} AND NOT ({own_key}) RETURNING {keys}", ident(&found.name))
    };
    found.unique.iter().map(statement).collect()
}

fn delete_one(found: &Table, table: &TableSchema) -> String {
    let part = |(place, column): (usize, &Column)| {
        let (column, param) = (ident(&column.name), format!("?{}", place + 1));
        format!("{column} IS {param} COLLATE BINARY AND typeof({column}) = typeof({param})")
    };
    let image = table.columns.iter().enumerate().map(part).collect::<Vec<_>>().join(" AND ");
    let name = ident(&found.name);
    match found.rowid() {
        Some(rowid) => {
            format!("DELETE FROM {name} WHERE {rowid} = (SELECT {rowid} FROM {name} WHERE {image} LIMIT 1)")
        }
        // Equal rows cannot be in a WITHOUT ROWID table.
        None => format!("DELETE FROM {name} WHERE {image}"),
    }
}
