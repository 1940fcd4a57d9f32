//! Rows in the order of a version column.
//!
//! A version is an integer, or a text that is a time (`2024-02-29 12:00:00.5`, with `T` and an offset if it likes). SQLite has
//! one writer at a time, so integers that are given inside the writing transaction become visible in their order. A time may
//! be taken before the transaction waits for its turn, and has seconds where many transactions fit in one: nothing is promised
//! of it.
//!
//! Texts are brought to numbers by a function of ours, so an index is of use to integers only.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType as ArrowType;
use async_trait::async_trait;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, params_from_iter};
use syncline_core::{
    Bound, Carriage, Column, DataType, Error, ErrorKind, ReplicaState, Result, RowKey, TableSchema, Version,
    VersionPage, VersionRange, VersionRows, VersionState, Versions, civil,
};

use super::super::catalog::{KeyColumn, Table};
use super::super::connect::{blocking, open_reader};
use super::super::error::During;
use super::super::quote::{ident, idents};
use super::super::rows::RowsBuilder;
use super::super::{cells, rows, value};
use super::SqliteSource;
use super::page::verified;

const DOING: &str = "reading by version";
/// The function that makes a number of a value; NULL if it is none.
const NUMBER: &str = "syncline_version";

/// A connection to a table with its version column.
struct Versioned {
    conn: Connection,
    found: Table,
    table: Arc<TableSchema>,
    /// The version as SQL: the column itself, if it is declared to be an integer.
    number: String,
    name: String,
}

impl Versioned {
    fn open(path: &Path, table: &Arc<TableSchema>, column: usize) -> Result<Self> {
        let conn = open_reader(path)?;
        conn.create_scalar_function(
            NUMBER,
            1,
            FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_UTF8,
            |context| Ok(number(context.get_raw(0))),
        )
        .during(DOING)?;
        let found = verified(&conn, table)?;
        let of = table.columns.get(column).ok_or_else(|| Error::bug("a version column that is not there"))?;
        let name = ident(&of.name);
        let number = if is_integer(of) { name.clone() } else { format!("{NUMBER}({name})") };
        Ok(Self { conn, found, table: Arc::clone(table), number, name })
    }

    fn rows_of(&self, range: &VersionRange) -> String {
        let (name, number) = (ident(&self.found.name), &self.number);
        let within = match *range {
            VersionRange::ALL => "true".to_owned(),
            VersionRange { from: Version::NONE, to } => format!("({number} <= {to} OR {number} IS NULL)"),
            VersionRange { from, to } => format!("{number} BETWEEN {from} AND {to}"),
        };
        format!("FROM {name} WHERE {within}")
    }

    fn state(&self, range: &VersionRange) -> Result<VersionState> {
        let sql = format!("SELECT {}, typeof({}) {}", self.number, self.name, self.rows_of(range));
        let mut statement = self.conn.prepare(&sql).during(DOING)?;
        let mut rows = statement.query([]).during(DOING)?;
        let (mut state, mut unversioned) = (ReplicaState::default(), 0);
        while let Some(row) = rows.next().during(DOING)? {
            match row.get_ref(0).during(DOING)? {
                ValueRef::Integer(number) => state.add(Version(number)),
                ValueRef::Null if row.get_ref(1).during(DOING)? == ValueRef::Text(b"null") => {
                    unversioned += 1;
                }
                _ => return Err(no_version(&self.name).with_table(&self.table.id)),
            }
        }
        Ok(VersionState { state, unversioned })
    }

    fn nth_last(&self, range: &VersionRange, rows: u64) -> Result<Option<Version>> {
        let number = &self.number;
        let sql = format!(
            "SELECT {number} {} AND {number} IS NOT NULL ORDER BY {number} DESC LIMIT 1 OFFSET {rows}",
            self.rows_of(range)
        );
        let found = self.conn.query_row(&sql, [], |row| row.get(0)).optional().during(DOING)?;
        Ok(found.map(Version))
    }

    fn page(
        &self,
        range: &VersionRange,
        after: Option<&(Version, RowKey)>,
        max: (usize, usize),
    ) -> Result<VersionRows> {
        let columns = idents(self.table.columns.iter().map(|column| column.name.as_str()));
        let key: Vec<String> = self.found.key.iter().map(KeyColumn::comparable).collect();
        let (key, number) = (key.join(", "), &self.number);
        let mut sql = format!("SELECT {columns} {}", self.rows_of(range));
        let keys = match after {
            Some((version, place)) => {
                let params: Vec<String> = (1..=self.found.key.len()).map(|n| format!("?{n}")).collect();
                let behind = format!("({key}) > ({})", params.join(", "));
                sql.push_str(&if *version == Version::NONE {
                    format!(" AND ({number} IS NOT NULL OR {behind})")
                } else {
                    format!(" AND {number} >= {version} AND ({number} > {version} OR {behind})")
                });
                Some(RowKey::to_batch(std::slice::from_ref(place), &self.table)?)
            }
            None => None,
        };
        sql.push_str(&format!(" ORDER BY {number}, {key} LIMIT {}", max.0));
        let cells =
            keys.as_ref().map(|keys| cells::row(&self.table, self.table.row_key.iter().copied(), keys, 0));
        let cells: Vec<ToSqlOutput<'_>> = cells.transpose()?.unwrap_or_default();
        let mut statement = self.conn.prepare(&sql).during(DOING)?;
        let mut rows = statement.query(params_from_iter(&cells)).during(DOING)?;
        let mut builder = RowsBuilder::new(&self.table);
        let mut is_end = true;
        while let Some(row) = rows.next().during(DOING)? {
            builder.push(row)?;
            if builder.rows() >= max.0 || builder.bytes() >= max.1 {
                is_end = false;
                break;
            }
        }
        Ok(VersionRows { rows: builder.finish()?, is_end })
    }
}

fn is_integer(column: &Column) -> bool {
    rows::data_type(&column.native_type) == DataType::Int(64)
}

/// The number that a value is as a version.
fn number(value: ValueRef<'_>) -> Option<i64> {
    match value {
        ValueRef::Integer(number) => Some(number),
        ValueRef::Text(text) => time(std::str::from_utf8(text).ok()?),
        ValueRef::Null | ValueRef::Real(_) | ValueRef::Blob(_) => None,
    }
}

fn time(text: &str) -> Option<i64> {
    civil::instant(text).or_else(|| civil::timestamp(text))
}

fn no_version(column: &str) -> Error {
    Error::new(
        ErrorKind::Data,
        format!("column {column} holds a value that is neither an integer nor a time"),
    )
    .with_remedy("correct the value, or name another column with --version-column")
}

impl SqliteSource {
    /// A look at a table's versions, over a connection of its own.
    async fn versioned<T: Send + 'static>(
        &self,
        table: &Arc<TableSchema>,
        column: usize,
        look: impl FnOnce(Versioned) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (path, table) = (self.path.clone(), Arc::clone(table));
        blocking(move || look(Versioned::open(&path, &table, column)?)).await
    }
}

#[async_trait]
impl Versions for SqliteSource {
    async fn bound(&self, table: &Arc<TableSchema>, column: usize) -> Result<Bound> {
        let column =
            table.columns.get(column).ok_or_else(|| Error::bug("a version column that is not there"))?;
        Ok(if is_integer(column) {
            Bound::Safe(Version::MAX)
        } else {
            Bound::None("a time may be older than that of a transaction that was committed before".to_owned())
        })
    }

    async fn state(
        &self,
        table: &Arc<TableSchema>,
        column: usize,
        range: &VersionRange,
    ) -> Result<VersionState> {
        let range = *range;
        self.versioned(table, column, move |versioned| versioned.state(&range)).await
    }

    async fn nth_last(
        &self,
        table: &Arc<TableSchema>,
        column: usize,
        range: &VersionRange,
        rows: u64,
    ) -> Result<Option<Version>> {
        let range = *range;
        self.versioned(table, column, move |versioned| versioned.nth_last(&range, rows)).await
    }

    async fn page(
        &self,
        table: &Arc<TableSchema>,
        column: usize,
        page: &VersionPage<'_>,
    ) -> Result<VersionRows> {
        let (range, max) = (page.range, (page.rows_max, page.bytes_max));
        let after = page.after.map(|place| (place.version, place.key.clone()));
        self.versioned(table, column, move |versioned| versioned.page(&range, after.as_ref(), max)).await
    }

    fn version(&self, column: &Column, values: &ArrayRef, row: usize) -> Result<Version> {
        if values.is_null(row) {
            return Ok(Version::NONE);
        }
        let found = match (column.carriage, values.data_type()) {
            (Carriage::Native, ArrowType::Binary) => {
                number(value::decode(values.as_binary::<i32>().value(row))?)
            }
            (_, ArrowType::Int64) => Some(values.as_primitive::<Int64Type>().value(row)),
            (_, ArrowType::Timestamp(..)) => {
                Some(values.as_primitive::<TimestampMicrosecondType>().value(row))
            }
            // An integer in a column that is declared otherwise comes as its digits.
            (_, ArrowType::Utf8) => {
                let text = values.as_string::<i32>().value(row);
                text.parse().ok().or_else(|| time(text))
            }
            _ => None,
        };
        found.map(Version).ok_or_else(|| no_version(&column.name))
    }
}

#[cfg(test)]
mod tests {
    use syncline_core::{Carry, Selection, VersionPlace};

    use super::super::discover::discover;
    use super::*;

    /// Pages of two rows each of what a column holds.
    async fn paged(declared: &str, values: &str) -> Vec<i64> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(&format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared}); INSERT INTO t VALUES {values}"
        ))
        .unwrap();
        let source = super::super::open(&format!("sqlite:{}", path.display())).unwrap();
        let table = Arc::new(discover(&conn, &Selection::all(Carry::Native)).unwrap().remove(0));
        let versions = source.versions().unwrap();
        let (mut found, mut after) = (Vec::new(), None::<VersionPlace>);
        loop {
            let page = VersionPage {
                range: VersionRange::ALL,
                after: after.as_ref(),
                rows_max: 2,
                bytes_max: 1 << 20,
            };
            let VersionRows { rows, is_end } = versions.page(&table, 1, &page).await.unwrap();
            for row in 0..rows.num_rows() {
                let version = versions.version(&table.columns[1], rows.column(1), row).unwrap();
                after = Some(VersionPlace { version, key: RowKey::of(&rows.columns()[..1], row).unwrap() });
                found.push(version.0);
            }
            if is_end {
                let state = versions.state(&table, 1, &VersionRange::ALL).await.unwrap();
                assert_eq!(state.state.rows + state.unversioned, found.len() as u64);
                return found;
            }
        }
    }

    #[tokio::test]
    async fn rows_of_one_version_are_not_lost_between_pages() {
        let none = Version::NONE.0;
        assert_eq!(
            paged("INTEGER", "(1, 5), (2, NULL), (3, 5), (4, 5), (5, 1), (6, NULL), (7, NULL)").await,
            [none, none, none, 1, 5, 5, 5]
        );
        let times =
            "(1, '1970-01-01T00:00:02Z'), (2, '1970-01-01 00:00:01.5'), (3, 7), (4, '1970-01-01 00:00:02')";
        assert_eq!(paged("DATETIME", times).await, [7, 1_500_000, 2_000_000, 2_000_000]);
    }

    #[tokio::test]
    #[should_panic(expected = "neither an integer nor a time")]
    async fn what_is_no_version_is_said() {
        paged("TEXT", "(1, 'soon')").await;
    }
}
