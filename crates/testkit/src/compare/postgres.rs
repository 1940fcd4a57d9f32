//! Two PostgreSQL databases: tables, rows, and if asked the definitions of columns, keys and indexes.

use std::collections::BTreeSet;

use futures::future::try_join;
use futures::{StreamExt, TryStreamExt};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};

use super::differing::Differing;
use super::postgres_definitions;
use crate::postgres::Postgres;

/// Rows become text in the same way on both sides, whatever the servers' settings.
const SESSION: &str = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres';
    SET extra_float_digits = 1; SET bytea_output = 'hex'; SET search_path = pg_catalog; SET enable_indexscan = off;
    SET enable_indexonlyscan = off; SET enable_bitmapscan = off";

/// Partitions are seen through their root.
const TABLES: &str = "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^(pg_|information_schema$|_?syncline)'
    ORDER BY 1, 2";

/// Generated columns are compared as well: they are a function of the rest, or something is wrong.
const COLUMNS: &str = "SELECT quote_ident(attname) FROM pg_attribute
    WHERE attrelid = to_regclass(format('%I.%I', $1::text, $2::text)) AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

const KEY: &str =
    "SELECT quote_ident(a.attname) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
    WHERE i.indrelid = to_regclass(format('%I.%I', $1::text, $2::text)) AND i.indisprimary
    AND a.attnum = ANY(i.indkey::int2[]) ORDER BY a.attnum";

/// A comparison of all tables of two databases; options first, then [`Comparison::differences`] or
/// [`Comparison::assert_equal`].
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    only: Option<BTreeSet<String>>,
    except: BTreeSet<String>,
    excluded_columns: BTreeSet<String>,
    schemas: Vec<(String, String)>,
    definitions: Definitions,
}

/// Which definitions are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Definitions {
    /// None: rows only.
    #[default]
    Ignored,
    /// Columns with their exact types and `NOT NULL`, in order, and the primary key.
    ColumnsAndKeys,
    /// Also every index.
    Indexes,
    /// Also foreign keys.
    ForeignKeys,
}

impl Comparison {
    /// All tables outside the system's and Syncline's own schemas.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only these tables, `schema.table` as at the source.
    #[must_use]
    pub fn only<T: Into<String>>(mut self, tables: impl IntoIterator<Item = T>) -> Self {
        self.only = Some(tables.into_iter().map(Into::into).collect());
        self
    }

    /// Without this table, `schema.table`.
    #[must_use]
    pub fn except(mut self, table: impl Into<String>) -> Self {
        self.except.insert(table.into());
        self
    }

    /// Without this column, `schema.table.column`; the destination must not have it.
    #[must_use]
    pub fn excluded_column(mut self, column: impl Into<String>) -> Self {
        self.excluded_columns.insert(column.into());
        self
    }

    /// A schema that has another name at the destination.
    #[must_use]
    pub fn schema(mut self, source: impl Into<String>, destination: impl Into<String>) -> Self {
        self.schemas.push((source.into(), destination.into()));
        self
    }

    /// Compares definitions too.
    #[must_use]
    pub fn definitions(mut self, definitions: Definitions) -> Self {
        self.definitions = definitions;
        self
    }

    /// Requires a database of one server to equal a database of another, or of the same.
    ///
    /// # Panics
    /// If they differ, with the first rows that do.
    pub async fn assert_equal(&self, source: (&Postgres, &str), destination: (&Postgres, &str)) {
        let differences = self.differences(source, destination).await;
        assert!(differences.is_empty(), "the databases differ\n{}", differences.join("\n"));
    }

    /// What differs, table by table; empty if nothing does.
    ///
    /// # Panics
    /// If a database cannot be read.
    pub async fn differences(
        &self,
        source: (&Postgres, &str),
        destination: (&Postgres, &str),
    ) -> Vec<String> {
        let sides = Sides {
            source: source.0.client(source.1).await,
            destination: destination.0.client(destination.1).await,
        };
        self.compare(&sides).await.unwrap_or_else(|error| panic!("cannot compare: {error:?}"))
    }

    async fn compare(&self, sides: &Sides) -> Result<Vec<String>, Error> {
        try_join(sides.source.batch_execute(SESSION), sides.destination.batch_execute(SESSION)).await?;
        let (at_source, at_destination) = try_join(tables(&sides.source), tables(&sides.destination)).await?;
        let wanted: Vec<_> =
            at_source.into_iter().filter(|table| self.wants(table)).map(|table| self.pair(table)).collect();
        let mut differences = Vec::new();
        if let Some(only) = &self.only {
            let seen: BTreeSet<_> = wanted.iter().map(Pair::name).collect();
            differences.extend(only.difference(&seen).map(|table| format!("{table}: not at the source")));
        } else {
            let expected: BTreeSet<_> = wanted.iter().map(|pair| &pair.destination).collect();
            let surplus = at_destination.iter().filter(|table| !expected.contains(table));
            let names = surplus.map(|(schema, table)| format!("{schema}.{table}"));
            let names = names.filter(|name| !self.except.contains(name));
            differences.extend(names.map(|name| format!("{name}: only at the destination")));
        }
        for pair in wanted {
            if at_destination.contains(&pair.destination) {
                differences.extend(self.compare_table(sides, &pair).await?);
            } else {
                differences.push(format!("{}: not at the destination", pair.name()));
            }
        }
        Ok(differences)
    }

    async fn compare_table(&self, sides: &Sides, pair: &Pair) -> Result<Vec<String>, Error> {
        let mut differences = postgres_definitions::differences(sides, pair, self.definitions).await?;
        let (columns, at_destination) = try_join(
            column_names(&sides.source, COLUMNS, &pair.source),
            column_names(&sides.destination, COLUMNS, &pair.destination),
        )
        .await?;
        let columns: Vec<_> = columns.into_iter().filter(|column| !self.excludes(pair, column)).collect();
        if columns.iter().collect::<BTreeSet<_>>() != at_destination.iter().collect::<BTreeSet<_>>() {
            differences.push(format!("{}: columns {columns:?} became {at_destination:?}", pair.name()));
            return Ok(differences);
        }
        let (source, destination) = try_join(
            digest(&sides.source, &pair.source, &columns),
            digest(&sides.destination, &pair.destination, &columns),
        )
        .await?;
        if source != destination {
            differences.push(differing_rows(sides, pair, &columns).await?);
        }
        Ok(differences)
    }

    fn wants(&self, (schema, table): &(String, String)) -> bool {
        let name = format!("{schema}.{table}");
        self.only.as_ref().is_none_or(|only| only.contains(&name)) && !self.except.contains(&name)
    }

    fn excludes(&self, pair: &Pair, quoted_column: &str) -> bool {
        self.excluded_columns.contains(&format!("{}.{}", pair.name(), quoted_column.trim_matches('"')))
    }

    fn pair(&self, source: (String, String)) -> Pair {
        let renamed = self.schemas.iter().find(|(from, _)| *from == source.0).map(|(_, to)| to.clone());
        let destination = (renamed.unwrap_or_else(|| source.0.clone()), source.1.clone());
        Pair { source, destination }
    }
}

/// A session at each side.
pub(super) struct Sides {
    pub(super) source: Client,
    pub(super) destination: Client,
}

/// One table, by schema and name, at each side.
pub(super) struct Pair {
    pub(super) source: (String, String),
    pub(super) destination: (String, String),
}

impl Pair {
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.source.0, self.source.1)
    }
}

async fn tables(client: &Client) -> Result<Vec<(String, String)>, Error> {
    let rows = client.query(TABLES, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn column_names(client: &Client, query: &str, table: &(String, String)) -> Result<Vec<String>, Error> {
    let rows = client.query(query, &[&table.0, &table.1]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Count and sums of hashes: the same for the same multiset of rows, in any order.
async fn digest(client: &Client, table: &(String, String), columns: &[String]) -> Result<String, Error> {
    let half = |from| format!("coalesce(sum(('x' || substr(h, {from}, 16))::bit(64)::bigint::numeric), 0)");
    let query = format!(
        "SELECT format('%s %s %s', count(*), {}, {}) FROM (SELECT md5(ROW({})::text) AS h FROM {}) rows",
        half(1),
        half(17),
        columns.join(", "),
        quoted(table)
    );
    Ok(client.query_one(&query, &[]).await?.get(0))
}

async fn differing_rows(sides: &Sides, pair: &Pair, columns: &[String]) -> Result<String, Error> {
    let key = column_names(&sides.source, KEY, &pair.source).await?;
    let mut differing = Differing::default();
    let query = |table| rows_query(table, &key, columns);
    // One row of each side in turn, so that equal rows in the same order cancel before the next are read.
    let parameters: [&(dyn ToSql + Sync); 0] = [];
    let (source, destination) = try_join(
        sides.source.query_raw(&query(&pair.source), parameters),
        sides.destination.query_raw(&query(&pair.destination), parameters),
    )
    .await?;
    let mut rows = futures::stream::select(
        source.map_ok(|row| (true, row)).boxed_local(),
        destination.map_ok(|row| (false, row)).boxed_local(),
    );
    while let Some((at_source, row)) = rows.try_next().await? {
        if at_source {
            differing.at_source(row.get(0), row.get(1));
        } else {
            differing.at_destination(row.get(0), row.get(1));
        }
    }
    // Rows written between the digest and this look may have made both sides equal.
    Ok(differing.describe(&pair.name()).unwrap_or_else(|| format!("{}: rows still change", pair.name())))
}

fn rows_query(table: &(String, String), key: &[String], columns: &[String]) -> String {
    let (shown, order) = if key.is_empty() {
        ("''".to_owned(), "2".to_owned())
    } else {
        (format!("ROW({})::text", key.join(", ")), key.join(", "))
    };
    format!("SELECT {shown}, ROW({})::text FROM {} ORDER BY {order}", columns.join(", "), quoted(table))
}

fn quoted((schema, table): &(String, String)) -> String {
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    format!("{}.{}", quote(schema), quote(table))
}
