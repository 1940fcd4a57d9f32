//! What a table is, exactly, so that a SQLite destination can recreate it: its own statements.
//!
//! Triggers and views are not in it: their effects come with the source's rows.

use std::collections::BTreeSet;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use syncline_core::{Error, Family, NativeDefinition, Result, TableId, TableSchema};

use super::catalog::Table;
use super::{catalog, ddl};

/// A table's exact definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Definition {
    /// The CREATE TABLE statement, without excluded columns.
    pub(super) sql: String,
    /// CREATE INDEX statements by name, without those that need an excluded column.
    pub(super) indexes: Vec<(String, String)>,
    /// UNIQUE constraints stand in the CREATE TABLE statement, where nobody can add them afterwards.
    pub(super) inline_unique: bool,
    /// Types are enforced, and ANY means any.
    pub(super) strict: bool,
    /// [`Table::shape`] at the source, when it was discovered.
    pub(super) shape: String,
}

impl Definition {
    /// The definition of a source's table, without the excluded columns.
    pub(super) fn new(table: &Table, excluded: &BTreeSet<&str>) -> Result<Self> {
        let sql = ddl::without_columns(&table.sql, excluded)?;
        if !excluded.is_empty() {
            prove(&sql, table, excluded)?;
        }
        let kept = |(_, sql): &&(String, String)| excluded.is_empty() || !ddl::mentions(sql, excluded);
        Ok(Self {
            sql,
            indexes: table.indexes.iter().filter(kept).cloned().collect(),
            inline_unique: table.unique.iter().any(|index| index.inline && !index.key),
            strict: table.strict,
            shape: table.shape(),
        })
    }

    /// The form in which a schema carries it.
    pub(super) fn to_native(&self) -> Result<NativeDefinition> {
        let definition = serde_json::to_value(self)
            .map_err(|error| Error::bug("a definition cannot be written as JSON").with_source(error))?;
        Ok(NativeDefinition { family: Family::SQLITE, definition })
    }

    /// The definition a schema carries, if it comes from this family.
    pub(super) fn of(table: &TableSchema) -> Result<Option<Self>> {
        let Some(native) = table.native.as_ref().filter(|native| native.family == Family::SQLITE) else {
            return Ok(None);
        };
        serde_json::from_value(native.definition.clone()).map(Some).map_err(|error| {
            Error::bug("a definition cannot be read back").with_source(error).with_table(&table.id)
        })
    }
}

/// Shortening a statement is done on its text: what came out is proved on a database in memory.
fn prove(sql: &str, table: &Table, excluded: &BTreeSet<&str>) -> Result<()> {
    let refuse = || {
        Error::configuration("a column cannot be excluded: other parts of the table's definition need it")
            .with_table(&TableId::new(super::MAIN, table.name.as_str()))
            .with_remedy(
                "exclude these columns too, or create the table at the destination and use --prepare keep",
            )
    };
    let conn = Connection::open_in_memory().map_err(|error| refuse().with_source(error))?;
    conn.execute(sql, []).map_err(|error| refuse().with_source(error))?;
    let cut = catalog::table(&conn, &table.name)?.ok_or_else(refuse)?;
    let expected = table.columns.iter().filter(|c| c.stored && !excluded.contains(c.name.as_str()));
    let same = |(a, b): (&catalog::TableColumn, &catalog::TableColumn)| {
        (a.name == b.name)
            && a.declared == b.declared
            && a.not_null == b.not_null
            && a.key_place == b.key_place
    };
    let found: Vec<_> = cut.columns.iter().filter(|c| c.stored).collect();
    let expected: Vec<_> = expected.collect();
    if found.len() == expected.len() && found.into_iter().zip(expected).all(same) {
        Ok(())
    } else {
        Err(refuse())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_that_a_check_needs_is_refused() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a INT, b INT CHECK (b > a)); CREATE INDEX i ON t(a)",
        )
        .unwrap();
        let table = catalog::table(&conn, "t").unwrap().unwrap();
        assert!(Definition::new(&table, &BTreeSet::from(["a"])).is_err());
        assert!(Definition::new(&table, &BTreeSet::from(["b"])).unwrap().indexes.len() == 1);
    }
}
