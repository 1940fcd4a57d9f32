//! What a database file says about its tables. Read by the source, and by the destination about its own tables.

use rusqlite::{Connection, OptionalExtension};
use syncline_core::Result;

use super::error::During;
use super::quote::ident;
use super::unique::UniqueIndex;
use super::{MAIN, OURS, ddl};
use syncline_core::unique::{EnforcedIndex, UniqueColumns, UniqueIndexes};

/// A table as the file has it.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) name: String,
    /// `CREATE TABLE …`, as the application wrote it.
    pub(super) sql: String,
    pub(super) without_rowid: bool,
    pub(super) strict: bool,
    /// All columns, generated and hidden ones too.
    pub(super) columns: Vec<TableColumn>,
    /// The declared primary key, in its own order.
    pub(super) key: Vec<KeyColumn>,
    /// The key is another name of the rowid.
    pub(super) integer_key: bool,
    /// Everything that keeps two rows apart, without an integer key.
    pub(super) unique: Vec<UniqueIndex>,
    /// `CREATE INDEX` statements of the table, by name.
    pub(super) indexes: Vec<(String, String)>,
}

/// A column.
#[derive(Debug, Clone)]
pub(super) struct TableColumn {
    pub(super) name: String,
    /// The declared type, as written; may be empty.
    pub(super) declared: String,
    pub(super) not_null: bool,
    pub(super) has_default: bool,
    /// Neither generated nor hidden: values are written to it.
    pub(super) stored: bool,
    /// Place in the primary key, from 1; 0 outside.
    pub(super) key_place: u32,
}

/// A column of the primary key.
#[derive(Debug, Clone)]
pub(super) struct KeyColumn {
    pub(super) name: String,
    /// By which the key's own index compares.
    pub(super) collation: String,
    /// That is not the column's own collation.
    differs: bool,
}

impl KeyColumn {
    /// The column as the key's index compares it. A collation is written only where it must be: with one, SQLite does
    /// not use the index for a comparison of row values.
    pub(super) fn comparable(&self) -> String {
        if self.differs {
            format!("{} COLLATE {}", ident(&self.name), ident(&self.collation))
        } else {
            ident(&self.name)
        }
    }
}

impl Table {
    /// A name under which the rowid can be read; `None` where there is none, or columns have taken all its names.
    pub(super) fn rowid(&self) -> Option<&'static str> {
        let taken = |name: &&str| self.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        if self.without_rowid {
            None
        } else {
            ["rowid", "_rowid_", "oid"].into_iter().find(|name| !taken(name))
        }
    }

    /// What the file enforces, its row id's name too.
    pub(super) fn unique_indexes(&self) -> UniqueIndexes {
        let mut found = UniqueIndexes::default();
        let plain = |name: &str, columns: Vec<String>| EnforcedIndex {
            name: name.to_owned(),
            of: UniqueColumns::named(columns),
            by_bytes: true,
            valid: true,
        };
        if self.integer_key {
            let key = self.key.iter().map(|column| column.name.clone());
            found.plain.push(plain("primary key", key.collect()));
        }
        for index in &self.unique {
            let columns: Option<Vec<String>> = index.terms.iter().map(|term| term.column.clone()).collect();
            let by_bytes = index.terms.iter().all(|term| term.collation.eq_ignore_ascii_case("BINARY"));
            match columns.filter(|_| index.predicate.is_none() && by_bytes) {
                Some(columns) => found.plain.push(plain(&index.name, columns)),
                None => found.others.push(index.name.clone()),
            }
        }
        found
    }

    /// A column by name, without regard to case, as SQLite does.
    pub(super) fn column(&self, name: &str) -> Option<&TableColumn> {
        self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name))
    }

    /// What a pipeline depends on: anything else may change without harm. Compared as text.
    pub(super) fn shape(&self) -> String {
        let columns: Vec<_> = self
            .columns
            .iter()
            .map(|c| serde_json::json!([c.name, c.declared, c.not_null, c.stored, c.key_place]))
            .collect();
        serde_json::json!({ "columns": columns, "without_rowid": self.without_rowid, "strict": self.strict })
            .to_string()
    }
}

/// Names of all tables of the application: no views, no virtual tables and their shadows, nothing of SQLite's or ours.
pub(super) fn table_names(conn: &Connection) -> Result<Vec<String>> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' ORDER BY name";
    let names = strings(conn, sql, &[])?;
    let ours = |name: &str| {
        let lower = name.to_ascii_lowercase();
        lower.starts_with(OURS) || lower.starts_with("sqlite_")
    };
    Ok(names.into_iter().filter(|name| !ours(name)).collect())
}

/// The first column of every row of a query.
pub(super) fn strings(conn: &Connection, sql: &str, params: &[&dyn rusqlite::ToSql]) -> Result<Vec<String>> {
    let doing = "reading the catalogue";
    let mut statement = conn.prepare_cached(sql).during(doing)?;
    let rows = statement.query_map(params, |row| row.get(0)).during(doing)?;
    rows.collect::<rusqlite::Result<_>>().during(doing)
}

/// One table; `None` if there is none of this name.
pub(super) fn table(conn: &Connection, name: &str) -> Result<Option<Table>> {
    let found = conn
        .prepare_cached(
            "SELECT s.name, s.sql, l.wr, l.strict FROM main.sqlite_schema s
             JOIN pragma_table_list l ON l.schema = 'main' AND l.name = s.name
             WHERE s.type = 'table' AND s.name = ?1 COLLATE NOCASE AND l.type = 'table'",
        )
        .and_then(|mut statement| {
            statement
                .query_row([name], |row| {
                    let (name, sql): (String, String) = (row.get(0)?, row.get(1)?);
                    Ok((name, sql, row.get::<_, bool>(2)?, row.get::<_, bool>(3)?))
                })
                .optional()
        })
        .during("reading the catalogue")?;
    let Some((name, sql, without_rowid, strict)) = found else { return Ok(None) };
    let columns = columns(conn, &name)?;
    let indexes = indexes(conn, &name)?;
    let key_index = indexes.iter().find(|index| index.origin == "pk");
    let mut key_columns: Vec<_> = columns.iter().filter(|column| column.key_place > 0).collect();
    key_columns.sort_by_key(|column| column.key_place);
    let integer_key = !without_rowid && key_columns.len() == 1 && key_index.is_none();
    let collation = |column: &str| {
        let term =
            key_index.and_then(|index| index.terms.iter().find(|t| t.column.as_deref() == Some(column)));
        term.map_or_else(|| "BINARY".to_owned(), |term| term.collation.clone())
    };
    let mut key = Vec::with_capacity(key_columns.len());
    for column in key_columns {
        let (collation, own) = (collation(&column.name), own_collation(conn, &name, &column.name)?);
        let differs = !integer_key && !own.eq_ignore_ascii_case(&collation);
        key.push(KeyColumn { name: column.name.clone(), collation, differs });
    }
    let unique = indexes.iter().filter(|index| index.unique).map(IndexRow::to_unique).collect();
    let indexes = indexes.into_iter().filter_map(|index| index.sql.map(|sql| (index.name, sql))).collect();
    Ok(Some(Table { name, sql, without_rowid, strict, columns, key, integer_key, unique, indexes }))
}

fn own_collation(conn: &Connection, table: &str, column: &str) -> Result<String> {
    let metadata =
        conn.column_metadata(Some(MAIN), table, column).during("reading the columns of a table")?;
    Ok(metadata.1.map_or_else(|| "BINARY".to_owned(), |name| name.to_string_lossy().into_owned()))
}

fn columns(conn: &Connection, table: &str) -> Result<Vec<TableColumn>> {
    let doing = "reading the columns of a table";
    let mut statement = conn
        .prepare_cached("SELECT name, type, \"notnull\", dflt_value IS NOT NULL, hidden, pk FROM pragma_table_xinfo(?1, 'main')")
        .during(doing)?;
    let rows = statement
        .query_map([table], |row| {
            Ok(TableColumn {
                name: row.get(0)?,
                declared: row.get(1)?,
                not_null: row.get(2)?,
                has_default: row.get(3)?,
                stored: row.get::<_, i64>(4)? == 0,
                key_place: row.get(5)?,
            })
        })
        .during(doing)?;
    rows.collect::<rusqlite::Result<_>>().during(doing)
}

/// An index as the pragmas give it.
struct IndexRow {
    name: String,
    unique: bool,
    /// `c` for CREATE INDEX, `u` for UNIQUE, `pk` for PRIMARY KEY.
    origin: String,
    sql: Option<String>,
    terms: Vec<IndexTerm>,
}

struct IndexTerm {
    /// `None` for an expression.
    column: Option<String>,
    collation: String,
}

impl IndexRow {
    fn to_unique(&self) -> UniqueIndex {
        let text = self.sql.as_deref().and_then(ddl::index_text);
        let expression = |place: usize| text.as_ref().and_then(|text| text.terms.get(place).cloned());
        let terms = self
            .terms
            .iter()
            .enumerate()
            .map(|(place, term)| super::unique::Term {
                column: term.column.clone(),
                expression: if term.column.is_some() { None } else { expression(place) },
                collation: term.collation.clone(),
            })
            .collect();
        UniqueIndex {
            name: self.name.clone(),
            inline: self.origin != "c",
            key: self.origin == "pk",
            terms,
            predicate: text.and_then(|text| text.predicate),
        }
    }
}

fn indexes(conn: &Connection, table: &str) -> Result<Vec<IndexRow>> {
    let doing = "reading the indexes of a table";
    let mut statement = conn
        .prepare_cached(
            "SELECT l.name, l.\"unique\", l.origin, s.sql FROM pragma_index_list(?1, 'main') l
             LEFT JOIN main.sqlite_schema s ON s.type = 'index' AND s.name = l.name ORDER BY l.seq DESC",
        )
        .during(doing)?;
    let rows = statement
        .query_map([table], |row| {
            Ok(IndexRow {
                name: row.get(0)?,
                unique: row.get(1)?,
                origin: row.get(2)?,
                sql: row.get(3)?,
                terms: Vec::new(),
            })
        })
        .during(doing)?;
    let mut indexes: Vec<IndexRow> = rows.collect::<rusqlite::Result<_>>().during(doing)?;
    for index in &mut indexes {
        index.terms = terms(conn, &index.name)?;
    }
    Ok(indexes)
}

fn terms(conn: &Connection, index: &str) -> Result<Vec<IndexTerm>> {
    let doing = "reading the columns of an index";
    let mut statement = conn
        .prepare_cached("SELECT name, coll FROM pragma_index_xinfo(?1, 'main') WHERE key ORDER BY seqno")
        .during(doing)?;
    let rows = statement
        .query_map([index], |row| {
            let collation: Option<String> = row.get(1)?;
            Ok(IndexTerm { column: row.get(0)?, collation: collation.unwrap_or_else(|| "BINARY".to_owned()) })
        })
        .during(doing)?;
    rows.collect::<rusqlite::Result<_>>().during(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> Table {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(sql).unwrap();
        table(&conn, "T").unwrap().unwrap()
    }

    #[test]
    fn keys() {
        let table = read("CREATE TABLE t(b TEXT, a INTEGER, PRIMARY KEY(a, b COLLATE NOCASE))");
        let key: Vec<_> = table.key.iter().map(|k| (k.name.as_str(), k.collation.as_str())).collect();
        assert_eq!(key, [("a", "BINARY"), ("b", "NOCASE")]);
        assert!(!table.integer_key);
        assert!(read("CREATE TABLE t(a INTEGER PRIMARY KEY)").integer_key);
        assert!(!read("CREATE TABLE t(a INTEGER PRIMARY KEY) WITHOUT ROWID").integer_key);
        assert!(!read("CREATE TABLE t(a INT PRIMARY KEY)").integer_key);
    }

    #[test]
    fn generated_columns_are_not_stored_and_rowid_names_can_be_taken() {
        let table = read("CREATE TABLE t(rowid TEXT, oid INT, g AS (oid + 1), PRIMARY KEY(oid))");
        assert_eq!(table.columns.iter().filter(|c| c.stored).count(), 2);
        assert_eq!(table.rowid(), Some("_rowid_"));
        assert_eq!(read("CREATE TABLE t(rowid, oid, _rowid_)").rowid(), None);
    }
}
