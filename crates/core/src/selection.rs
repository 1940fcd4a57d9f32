//! Which tables and columns a pipeline takes, and under which schema they land.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::name::TableId;
use crate::schema::Carry;

/// `schema.table`, where `*` stands for any run of characters in either half. Without a dot the schema is any.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TablePattern {
    schema: String,
    name: String,
}

impl TablePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A configuration error if a half is empty.
    pub fn new(text: &str) -> Result<Self> {
        let (schema, name) = text.split_once('.').unwrap_or(("*", text));
        if schema.is_empty() || name.is_empty() {
            return Err(Error::configuration(format!("`{text}` is not a table pattern"))
                .with_remedy("write schema.table, with * for any characters, as in 'public.*'"));
        }
        Ok(Self { schema: schema.to_owned(), name: name.to_owned() })
    }

    /// Whether a table's name fits.
    #[must_use]
    pub fn matches(&self, table: &TableId) -> bool {
        wildcard(&self.schema, &table.schema) && wildcard(&self.name, &table.name)
    }
}

impl TryFrom<String> for TablePattern {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::new(&text)
    }
}

impl From<TablePattern> for String {
    fn from(pattern: TablePattern) -> Self {
        format!("{}.{}", pattern.schema, pattern.name)
    }
}

/// Greedy matching with one place to fall back to: linear for one `*`, quadratic at worst.
fn wildcard(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// What a pipeline takes from its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Tables taken; empty means all user tables.
    pub include: Vec<TablePattern>,
    /// Tables left out, also if included.
    pub exclude: Vec<TablePattern>,
    /// Columns that never leave the source, as (table pattern, column name).
    pub exclude_columns: Vec<(TablePattern, String)>,
    /// How values are to be carried.
    pub carry: Carry,
}

impl Selection {
    /// Every user table, every column.
    #[must_use]
    pub fn all(carry: Carry) -> Self {
        Self { include: Vec::new(), exclude: Vec::new(), exclude_columns: Vec::new(), carry }
    }

    /// Whether a table is taken.
    #[must_use]
    pub fn takes(&self, table: &TableId) -> bool {
        (self.include.is_empty() || self.include.iter().any(|p| p.matches(table)))
            && !self.exclude.iter().any(|p| p.matches(table))
    }

    /// Names of the columns of a table that are left out.
    #[must_use]
    pub fn excluded_columns(&self, table: &TableId) -> BTreeSet<&str> {
        self.exclude_columns.iter().filter(|(p, _)| p.matches(table)).map(|(_, c)| c.as_str()).collect()
    }
}

/// A query whose rows stand for a table: the desired state of a destination, computed at the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The table that its rows stand for.
    pub table: TableId,
    /// The source's own SQL, one statement that returns rows.
    pub sql: String,
    /// Columns of it that identify a row; none: equal rows are counted.
    pub key: Vec<String>,
}

/// Where the tables of a source schema land at the destination; a schema not named keeps its name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SchemaMap(pub Vec<(String, String)>);

impl SchemaMap {
    /// A table's name at the destination.
    #[must_use]
    pub fn map(&self, table: &TableId) -> TableId {
        let to = self.0.iter().find(|(from, _)| *from == table.schema);
        TableId::new(to.map_or(table.schema.as_str(), |(_, to)| to.as_str()), table.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let matches = |p: &str, s: &str, n: &str| TablePattern::new(p).unwrap().matches(&TableId::new(s, n));
        assert!(matches("public.*", "public", "users"));
        assert!(matches("*.us*rs", "x", "us_ers"));
        assert!(matches("users", "x", "users"));
        assert!(!matches("public.user", "public", "users"));
        assert!(!matches("public.*_old", "public", "users"));
        assert!(matches("a*b*c.x", "a1b2b3c", "x"));
        assert!(TablePattern::new("public.").is_err());
    }
}
