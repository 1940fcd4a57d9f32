//! Two SQLite files: every table, every column with its storage class, every row.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Result, Row};

use super::differing::Differing;

/// SQLite's own tables, and what Syncline keeps beside the data.
const TABLES: &str =
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
    AND name NOT LIKE 'syncline\\_%' ESCAPE '\\' AND name NOT LIKE '\\_syncline%' ESCAPE '\\'";

/// Requires two files to hold the same tables with the same rows.
///
/// # Panics
/// If they differ, with the first rows that do, or cannot be read.
pub fn assert_equal(source: &Path, destination: &Path) {
    let differences = differences(source, destination);
    assert!(differences.is_empty(), "the databases differ\n{}", differences.join("\n"));
}

/// What differs, table by table; empty if nothing does.
///
/// # Panics
/// If a file cannot be read.
#[must_use]
pub fn differences(source: &Path, destination: &Path) -> Vec<String> {
    let open = |path: &Path| {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags(path, flags)
            .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()))
    };
    compare(&open(source), &open(destination)).unwrap_or_else(|error| panic!("cannot compare: {error}"))
}

fn compare(source: &Connection, destination: &Connection) -> Result<Vec<String>> {
    let (at_source, at_destination) = (tables(source)?, tables(destination)?);
    let lost = at_source.difference(&at_destination).map(|table| format!("{table}: not at the destination"));
    let found =
        at_destination.difference(&at_source).map(|table| format!("{table}: only at the destination"));
    let mut differences: Vec<_> = lost.chain(found).collect();
    for table in at_source.intersection(&at_destination) {
        differences.extend(compare_table(source, destination, table)?);
    }
    Ok(differences)
}

fn compare_table(source: &Connection, destination: &Connection, table: &str) -> Result<Option<String>> {
    let (columns, at_destination) = (columns(source, table)?, columns(destination, table)?);
    if columns != at_destination {
        return Ok(Some(format!("{table}: columns {columns:?} became {at_destination:?}")));
    }
    let mut differing = Differing::default();
    let query = rows_query(table, &columns);
    let (mut of_source, mut of_destination) = (source.prepare(&query)?, destination.prepare(&query)?);
    let (mut of_source, mut of_destination) = (of_source.query([])?, of_destination.query([])?);
    // One row of each side in turn, so that equal rows in the same order cancel before the next are read.
    loop {
        let row = of_source.next()?.map(|row| text(row, columns.len())).transpose()?;
        let partner = of_destination.next()?.map(|row| text(row, columns.len())).transpose()?;
        if row.is_none() && partner.is_none() {
            return Ok(differing.describe(table));
        }
        if row != partner {
            row.into_iter().for_each(|row| differing.at_source(String::new(), row));
            partner.into_iter().for_each(|row| differing.at_destination(String::new(), row));
        }
    }
}

fn tables(connection: &Connection) -> Result<BTreeSet<String>> {
    connection.prepare(TABLES)?.query_map([], |row| row.get(0))?.collect()
}

/// Name, declared type, `NOT NULL`, place in the primary key.
fn columns(connection: &Connection, table: &str) -> Result<Vec<(String, String, bool, u32)>> {
    let query = "SELECT name, upper(type), \"notnull\", pk FROM pragma_table_xinfo(?1) WHERE hidden <> 1";
    let read = |row: &Row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    connection.prepare(query)?.query_map([table], read)?.collect()
}

fn rows_query(table: &str, columns: &[(String, String, bool, u32)]) -> String {
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let names: Vec<_> = columns.iter().map(|(name, ..)| quote(name)).collect();
    // By bytes, not by the columns' own collations: rows that only those call equal must still meet their partner.
    let order: Vec<_> = names.iter().map(|name| format!("{name} COLLATE BINARY")).collect();
    format!("SELECT {} FROM {} ORDER BY {}", names.join(", "), quote(table), order.join(", "))
}

fn text(row: &Row, columns: usize) -> Result<String> {
    let mut text = String::new();
    for index in 0..columns {
        text.push_str(&match row.get_ref(index)? {
            ValueRef::Null => "null ".to_owned(),
            ValueRef::Integer(value) => format!("integer:{value} "),
            // The bits too, for numbers that differ in the last one.
            ValueRef::Real(value) => format!("real:{value}/{:016x} ", value.to_bits()),
            ValueRef::Text(bytes) => format!("text:{:?} ", bytes.escape_ascii().to_string()),
            ValueRef::Blob(bytes) => {
                format!("blob:{} ", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
            }
        });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(sql: &str) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        connection
    }

    #[test]
    fn a_storage_class_a_bit_and_a_duplicate_are_differences() {
        let table = "CREATE TABLE t (a, b);";
        let rows = "INSERT INTO t VALUES (1, 'x'), (1, 'x'), (NULL, x'00'), (0.0, 2)";
        let source = database(&format!("{table}{rows}"));
        assert_eq!(compare(&source, &database(&format!("{table}{rows}"))).unwrap(), Vec::<String>::new());
        for other in [
            "INSERT INTO t VALUES (1.0, 'x'), (1, 'x'), (NULL, x'00'), (0.0, 2)",
            "INSERT INTO t VALUES (1, 'x'), (NULL, x'00'), (0.0, 2)",
            "INSERT INTO t VALUES (1, 'x'), (1, x'78'), (NULL, x'00'), (0.0, 2)",
        ] {
            let differences = compare(&source, &database(&format!("{table}{other}"))).unwrap();
            assert_eq!(differences.len(), 1, "{other}: {differences:?}");
        }
        assert_eq!(compare(&source, &database("CREATE TABLE t (a, b INT)")).unwrap().len(), 1);
        assert_eq!(compare(&source, &database("CREATE TABLE u (a, b)")).unwrap().len(), 2);
    }
}
