//! What keeps two rows of a table apart beside its row key.

use serde::{Deserialize, Serialize};

/// Columns of which no two rows may have the same values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UniqueColumns {
    /// Their names.
    pub columns: Vec<String>,
    /// Whether two NULLs are the same; else a row with a NULL among them is like no other.
    pub nulls_are_equal: bool,
}

impl UniqueColumns {
    /// Columns that somebody names: NULLs are like nothing, as everywhere in SQL.
    #[must_use]
    pub fn named(columns: Vec<String>) -> Self {
        Self { columns, nulls_are_equal: false }
    }
}

/// An index that keeps all rows of a table apart by columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnforcedIndex {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub of: UniqueColumns,
    /// Whether two values are the same there just if their bytes are; else by a rule of their type (1.0 and 1.00, letters of
    /// either case).
    pub by_bytes: bool,
    /// Whether the rows that are there were looked at, too; else it refuses only new ones.
    pub valid: bool,
}

/// What a system enforces on a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UniqueIndexes {
    /// Those over columns and all rows, the primary key's too.
    pub plain: Vec<EnforcedIndex>,
    /// The names of the others: over an expression, over some rows only, or with another rule than that equal values are equal.
    pub others: Vec<String>,
}
