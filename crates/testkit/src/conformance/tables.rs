//! The standard tables every harness creates, writes to them, and what they hold: all in text, of no system.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// One value as text, or NULL.
pub type Cell = Option<String>;

/// One row, in column order.
pub type Row = Vec<Cell>;

/// A row from texts; `"∅"` is NULL.
#[must_use]
pub fn cells(texts: &[&str]) -> Row {
    texts.iter().map(|text| (*text != "∅").then(|| (*text).to_owned())).collect()
}

/// A table that every harness creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standard {
    /// `items (id int primary key, name text not null, qty int, big text)`; `big` is what a system stores apart.
    Items,
    /// `pairs (a int, b text, v int, primary key (a, b))`.
    Pairs,
    /// `codes (id int primary key, code text unique)`.
    Codes,
    /// `log (line text, n int)`, without a key. Only where the harness offers it.
    Log,
}

impl Standard {
    /// Every standard table.
    pub const ALL: [Self; 4] = [Self::Items, Self::Pairs, Self::Codes, Self::Log];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Items => "items",
            Self::Pairs => "pairs",
            Self::Codes => "codes",
            Self::Log => "log",
        }
    }

    /// Its columns, each with whether it is an integer (else text).
    #[must_use]
    pub fn columns(self) -> &'static [(&'static str, bool)] {
        match self {
            Self::Items => &[("id", true), ("name", false), ("qty", true), ("big", false)],
            Self::Pairs => &[("a", true), ("b", false), ("v", true)],
            Self::Codes => &[("id", true), ("code", false)],
            Self::Log => &[("line", false), ("n", true)],
        }
    }

    /// How many of its first columns are its key; 0: it has none.
    #[must_use]
    pub fn key_columns(self) -> usize {
        match self {
            Self::Items | Self::Codes => 1,
            Self::Pairs => 2,
            Self::Log => 0,
        }
    }

    /// The statement that creates it in standard SQL, for harnesses that have such.
    #[must_use]
    pub fn create_statement(self) -> &'static str {
        match self {
            Self::Items => {
                "CREATE TABLE items (id integer NOT NULL PRIMARY KEY, name text NOT NULL, qty integer, big text)"
            }
            Self::Pairs => {
                "CREATE TABLE pairs (a integer NOT NULL, b text NOT NULL, v integer, PRIMARY KEY (a, b))"
            }
            Self::Codes => "CREATE TABLE codes (id integer NOT NULL PRIMARY KEY, code text UNIQUE)",
            Self::Log => "CREATE TABLE log (line text, n integer)",
        }
    }

    /// What identifies a row: its key, or all of it.
    #[must_use]
    pub fn identity(self, row: &[Cell]) -> Row {
        match self.key_columns() {
            0 => row.to_vec(),
            columns => row[..columns].to_vec(),
        }
    }
}

/// One write of the application. Rows are named by their key, in [`Standard::Log`] by all their values (of equal rows
/// exactly one is meant).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A new row.
    Insert(Standard, Row),
    /// Columns of a row, key columns too, get values.
    Update(Standard, Row, Vec<(usize, Cell)>),
    /// A row goes.
    Delete(Standard, Row),
    /// All rows go at once.
    Truncate(Standard),
}

impl Write {
    /// Its table.
    #[must_use]
    pub fn table(&self) -> Standard {
        match self {
            Self::Insert(table, _)
            | Self::Update(table, _, _)
            | Self::Delete(table, _)
            | Self::Truncate(table) => *table,
        }
    }

    /// This write as SQL that PostgreSQL and SQLite both understand. `row_id` is the system's own name of a row's place
    /// (`ctid`, `rowid`), for tables without a key.
    #[must_use]
    pub fn to_sql(&self, row_id: &str) -> String {
        let table = self.table();
        let name = table.name();
        let literal = |column: usize, cell: &Cell| match cell {
            None => "NULL".to_owned(),
            Some(text) if table.columns()[column].1 => text.clone(),
            Some(text) => format!("'{}'", text.replace('\'', "''")),
        };
        let place = |key: &Row| {
            let column = |(index, cell): (usize, &Cell)| match cell {
                None => format!("{} IS NULL", table.columns()[index].0),
                Some(_) => format!("{} = {}", table.columns()[index].0, literal(index, cell)),
            };
            let all = key.iter().enumerate().map(column).collect::<Vec<_>>().join(" AND ");
            match table.key_columns() {
                0 => format!("{row_id} = (SELECT {row_id} FROM {name} WHERE {all} LIMIT 1)"),
                _ => all,
            }
        };
        match self {
            Self::Insert(_, row) => {
                let values: Vec<String> = row.iter().enumerate().map(|(c, cell)| literal(c, cell)).collect();
                format!("INSERT INTO {name} VALUES ({})", values.join(", "))
            }
            Self::Update(_, key, set) => {
                let set: Vec<String> = set
                    .iter()
                    .map(|(c, cell)| format!("{} = {}", table.columns()[*c].0, literal(*c, cell)))
                    .collect();
                format!("UPDATE {name} SET {} WHERE {}", set.join(", "), place(key))
            }
            Self::Delete(_, key) => format!("DELETE FROM {name} WHERE {}", place(key)),
            Self::Truncate(_) => format!("TRUNCATE {name}"),
        }
    }
}

/// What the standard tables hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables(BTreeMap<Standard, BTreeMap<Row, Vec<Row>>>);

impl Tables {
    /// All rows of a table, sorted.
    #[must_use]
    pub fn rows(&self, table: Standard) -> Vec<Row> {
        let mut rows: Vec<Row> =
            self.0.get(&table).into_iter().flat_map(|rows| rows.values().flatten().cloned()).collect();
        rows.sort();
        rows
    }

    /// The row of this identity.
    #[must_use]
    pub fn get(&self, table: Standard, identity: &Row) -> Option<&Row> {
        self.0.get(&table)?.get(identity)?.last()
    }

    /// The identities that are there.
    #[must_use]
    pub fn identities(&self, table: Standard) -> Vec<Row> {
        self.0.get(&table).map(|rows| rows.keys().cloned().collect()).unwrap_or_default()
    }

    /// Puts a row; one with the same key must not be there.
    ///
    /// # Panics
    /// If the key is there already.
    pub fn insert(&mut self, table: Standard, row: Row) {
        let identity = table.identity(&row);
        let rows = self.0.entry(table).or_default().entry(identity).or_default();
        let room = table.key_columns() == 0 || rows.is_empty();
        assert!(room, "{} has this key already: {:?}", table.name(), table.identity(&row));
        rows.push(row);
    }

    /// Puts a row, whether or not one with its key is there.
    pub fn put(&mut self, table: Standard, row: Row) {
        if table.key_columns() > 0 {
            self.remove(table, &table.identity(&row));
        }
        self.insert(table, row);
    }

    /// Takes one row of this identity.
    pub fn remove(&mut self, table: Standard, identity: &Row) -> Option<Row> {
        let rows = self.0.get_mut(&table)?;
        let there = rows.get_mut(identity)?;
        let row = there.pop();
        if there.is_empty() {
            rows.remove(identity);
        }
        row
    }

    /// Takes all rows of a table.
    pub fn clear(&mut self, table: Standard) {
        self.0.remove(&table);
    }

    /// A number that tells states apart, without keeping them.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for table in Standard::ALL {
            self.rows(table).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Does a write.
    ///
    /// # Panics
    /// If the write does not fit what is there: a mistake of the case.
    pub fn write(&mut self, write: &Write) {
        match write {
            Write::Insert(table, row) => self.insert(*table, row.clone()),
            Write::Delete(table, key) => {
                assert!(self.remove(*table, key).is_some(), "no row to delete: {key:?}");
            }
            Write::Truncate(table) => self.clear(*table),
            Write::Update(table, key, set) => {
                let row = self.remove(*table, key);
                let mut row = row.unwrap_or_else(|| panic!("no row to update: {key:?}"));
                for (column, cell) in set {
                    row[*column].clone_from(cell);
                }
                self.insert(*table, row);
            }
        }
    }
}
