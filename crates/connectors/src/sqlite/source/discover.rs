//! The selected tables of a file as schemas.

use std::collections::BTreeSet;

use rusqlite::Connection;
use syncline_core::{Column, Error, Result, Selection, TableId, TableSchema};

use super::super::MAIN;
use super::super::catalog::{self, Table};
use super::super::definition::Definition;
use super::super::error::During;
use super::super::quote::ident;
use super::super::rows;
use super::super::value::our_number;

/// Rows are counted up to here; beyond, their number is guessed.
const COUNT_MAX: u64 = 1_000_000;

/// The selected tables, in name order.
pub(super) fn discover(conn: &Connection, selection: &Selection) -> Result<Vec<TableSchema>> {
    // One transaction: the tables fit each other.
    conn.execute_batch("BEGIN").during("reading the catalogue")?;
    let tables = selected(conn, selection)?;
    tables.iter().map(|table| schema(conn, table, selection)).collect()
}

/// The selected tables as the file has them.
pub(super) fn selected(conn: &Connection, selection: &Selection) -> Result<Vec<Table>> {
    let names = catalog::table_names(conn)?;
    let ids: Vec<TableId> = names.iter().map(|name| TableId::new(MAIN, name.as_str())).collect();
    if let Some(pattern) = selection.include.iter().find(|p| !ids.iter().any(|id| p.matches(id))) {
        return Err(Error::configuration(format!("no table fits `{}`", String::from(pattern.clone())))
            .with_remedy(
                "list the tables with `syncline discover URL`; the schema of every table is `main`",
            ));
    }
    let mut tables = Vec::new();
    for id in ids.iter().filter(|id| selection.takes(id)) {
        tables.extend(catalog::table(conn, &id.name)?);
    }
    for (pattern, column) in &selection.exclude_columns {
        let exists = |table: &Table| {
            pattern.matches(&TableId::new(MAIN, table.name.as_str())) && table.column(column).is_some()
        };
        if !tables.iter().any(exists) {
            return Err(Error::configuration(format!(
                "the excluded column `{}.{column}` does not exist",
                String::from(pattern.clone())
            )));
        }
    }
    Ok(tables)
}

fn schema(conn: &Connection, table: &Table, selection: &Selection) -> Result<TableSchema> {
    let id = TableId::new(MAIN, table.name.as_str());
    let named = selection.excluded_columns(&id);
    let excluded: BTreeSet<&str> = table
        .columns
        .iter()
        .map(|column| column.name.as_str())
        .filter(|name| named.iter().any(|n| n.eq_ignore_ascii_case(name)))
        .collect();
    let columns: Vec<Column> = table
        .columns
        .iter()
        .filter(|column| column.stored && !excluded.contains(column.name.as_str()))
        .map(|column| Column {
            name: column.name.clone(),
            data_type: rows::data_type(&column.declared),
            nullable: !column.not_null,
            native_type: column.declared.clone(),
            carriage: rows::carriage(selection.carry),
        })
        .collect();
    if columns.is_empty() {
        return Err(Error::configuration("every column of the table is excluded").with_table(&id));
    }
    let place = |name: &str| columns.iter().position(|column| column.name == name);
    let row_key: Option<Vec<usize>> = table.key.iter().map(|key| place(&key.name)).collect();
    let row_key = row_key.ok_or_else(|| {
        Error::configuration("a column of the primary key is excluded")
            .with_table(&id)
            .with_remedy("take the column out of --exclude-column, or exclude the whole table")
    })?;
    Ok(TableSchema {
        row_key,
        columns,
        version: 1,
        rows_estimated: Some(estimate(conn, table)?),
        native: Some(Definition::new(table, &excluded)?.to_native()?),
        id,
    })
}

/// Exact up to [`COUNT_MAX`]; beyond, by the span of the rowids, but no more than fit into the file.
fn estimate(conn: &Connection, table: &Table) -> Result<u64> {
    let doing = "counting rows";
    let name = ident(&table.name);
    let sql = format!("SELECT count(*) FROM (SELECT 1 FROM {name} LIMIT {COUNT_MAX})");
    let counted = our_number(conn.query_row(&sql, [], |row| row.get(0)).during(doing)?);
    let Some(rowid) = table.rowid().filter(|_| counted == COUNT_MAX) else { return Ok(counted) };
    let sql = format!("SELECT max({rowid}) FROM {name}");
    let last: i64 = conn.query_row(&sql, [], |row| row.get(0)).during(doing)?;
    let sql = format!("SELECT min({rowid}) FROM {name}");
    let first: i64 = conn.query_row(&sql, [], |row| row.get(0)).during(doing)?;
    let sql = "SELECT page_count * page_size / 16 FROM pragma_page_count, pragma_page_size";
    let fit = our_number(conn.query_row(sql, [], |row| row.get(0)).during(doing)?);
    Ok(last.abs_diff(first).min(fit).max(COUNT_MAX))
}

#[cfg(test)]
mod tests {
    use syncline_core::{Carry, TablePattern};

    use super::*;

    fn db() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE b(k2 TEXT, k1 INT, v, g AS (v || 'x'), PRIMARY KEY(k1, k2)) WITHOUT ROWID;
             CREATE TABLE a(x); CREATE VIEW v AS SELECT 1; CREATE TABLE _syncline_x(y); INSERT INTO a VALUES (1);
             CREATE VIRTUAL TABLE f USING fts5(t);",
        )
        .unwrap();
        conn
    }

    #[test]
    fn tables_of_the_application_only_with_keys_in_their_order() {
        let tables = discover(&db(), &Selection::all(Carry::Native)).unwrap();
        let names: Vec<_> = tables.iter().map(|t| t.id.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!((tables[0].row_key.len(), tables[0].rows_estimated), (0, Some(1)));
        assert_eq!(tables[1].row_key, [1, 0]);
        assert_eq!(tables[1].columns.len(), 3, "generated columns are not carried");
    }

    #[test]
    fn patterns_and_columns_that_do_not_exist_are_refused() {
        let mut selection = Selection::all(Carry::Native);
        selection.exclude_columns = vec![(TablePattern::new("main.b").unwrap(), "V".to_owned())];
        assert_eq!(discover(&db(), &selection).unwrap()[1].columns.len(), 2);
        selection.exclude_columns = vec![(TablePattern::new("main.b").unwrap(), "k1".to_owned())];
        assert!(discover(&db(), &selection).is_err());
        selection.exclude_columns = vec![(TablePattern::new("main.b").unwrap(), "nix".to_owned())];
        assert!(discover(&db(), &selection).is_err());
        selection.exclude_columns.clear();
        selection.include = vec![TablePattern::new("main.nix").unwrap()];
        assert!(discover(&db(), &selection).is_err());
    }
}
