//! Which rows cannot stand beside a new one.
//!
//! `INSERT OR REPLACE` deletes, without a delete trigger, every row that a unique index keeps apart from the new row: the
//! capture triggers must name them before. And a destination that hands a unique value from one row to another must
//! find the row that still has it. Both ask the same question, written here once as an SQL condition.

use super::quote::ident;

/// A unique index of any origin.
#[derive(Debug, Clone)]
pub(super) struct UniqueIndex {
    pub(super) name: String,
    /// Part of the CREATE TABLE statement.
    pub(super) inline: bool,
    /// The primary key's.
    pub(super) key: bool,
    pub(super) terms: Vec<Term>,
    /// The WHERE clause of a partial index.
    pub(super) predicate: Option<String>,
}

/// A term of an index: a column, or an expression.
#[derive(Debug, Clone)]
pub(super) struct Term {
    pub(super) column: Option<String>,
    /// The text of the expression; `None` for a column, and for a text that could not be read.
    pub(super) expression: Option<String>,
    pub(super) collation: String,
}

impl UniqueIndex {
    /// Whether the condition can be written: every expression's text was found.
    pub(super) fn is_known(&self) -> bool {
        self.terms.iter().all(|term| term.column.is_some() || term.expression.is_some())
    }

    /// The condition under which a row of the table cannot stand beside a new row. `new` writes a column's new value;
    /// `columns` are all columns of the table.
    ///
    /// NULLs never conflict, and `=` says so. An expression is computed over a row of the new values that carries the
    /// table's column names, so its text needs no rewriting.
    pub(super) fn conflict(&self, columns: &[&str], new: &dyn Fn(&str) -> String) -> String {
        let row = || {
            let values: Vec<_> = columns.iter().map(|c| format!("{} AS {}", new(c), ident(c))).collect();
            format!("(SELECT {})", values.join(", "))
        };
        let mut parts: Vec<String> = self
            .terms
            .iter()
            .map(|term| match (&term.column, &term.expression) {
                (Some(column), _) => {
                    format!("{} = {} COLLATE {}", ident(column), new(column), ident(&term.collation))
                }
                (None, expression) => {
                    let expression = expression.as_deref().unwrap_or("NULL");
                    format!(
                        "({expression}) = (SELECT {expression} FROM {}) COLLATE {}",
                        row(),
                        ident(&term.collation)
                    )
                }
            })
            .collect();
        if let Some(predicate) = &self.predicate {
            parts.push(format!("({predicate})"));
        }
        parts.join(" AND ")
    }

    /// A text that changes whenever the question does.
    pub(super) fn signature(&self) -> String {
        self.conflict(&[], &|column| format!("new.{}", ident(column)))
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use crate::sqlite::catalog;

    fn conflicts(table: &str, new: &str) -> Vec<i64> {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(table).unwrap();
        let table = catalog::table(&conn, "t").unwrap().unwrap();
        let columns: Vec<_> = table.columns.iter().map(|c| c.name.as_str()).collect();
        let values: Vec<&str> = new.split('|').collect();
        let value = |column: &str| {
            let place = columns.iter().position(|c| *c == column).unwrap();
            values[place].to_owned()
        };
        let conditions: Vec<_> = table.unique.iter().map(|u| u.conflict(&columns, &value)).collect();
        let sql = format!("SELECT id FROM t WHERE {} ORDER BY id", conditions.join(" OR "));
        let mut statement = conn.prepare(&sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT COLLATE NOCASE UNIQUE, b);
        INSERT INTO t VALUES (1, 'x', 1), (2, NULL, 2), (3, 'y', 5);";

    #[test]
    fn columns_conflict_by_the_indexs_collation_and_null_never() {
        assert_eq!(conflicts(T, "9|'X'|0"), [1]);
        assert_eq!(conflicts(T, "9|NULL|0"), [] as [i64; 0]);
    }

    #[test]
    fn expressions_and_predicates() {
        let expression = format!("{T} CREATE UNIQUE INDEX e ON t(b % 3, abs(b)) WHERE b <> 2");
        assert_eq!(conflicts(&expression, "9|'z'|5"), [3]);
        assert_eq!(conflicts(&expression, "9|'z'|2"), [] as [i64; 0]);
    }
}
