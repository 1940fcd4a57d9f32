//! Rows in the order of a version column.
//!
//! # What is safe
//! A transaction that writes `now()` writes its own start. So no row with a version below the start of the oldest open
//! transaction will appear any more. That holds for a `timestamptz` column whose default is the server's clock, if every open
//! transaction can be seen: by a role that may, on a server that is no standby, and while none is prepared (a prepared
//! transaction's start is not kept: `pg_prepared_xacts.prepared` is when it was prepared). A session shows the start of its
//! transaction a moment after it took it, which [`MARGIN_US`] allows for. Nothing of the kind holds for a sequence.
//!
//! # Cost
//! A look at the state counts all rows. Pages go by an index on the version column if there is one, else each sorts the table.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int16Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType as ArrowType;
use async_trait::async_trait;
use futures::{StreamExt, pin_mut};
use syncline_core::{
    Bound, Column, DataType, Error, ErrorKind, ReplicaState, Result, RowKey, TableSchema, Version,
    VersionPage, VersionPlace, VersionRange, VersionRows, VersionState, Versions,
};
use tokio_postgres::types::ToSql;

use super::PostgresSource;
use super::datetime::EPOCH_US;
use super::snapshot::keys;
use super::typed::{self, ColumnDecoder, moment_text};
use crate::postgres::connect::Session;
use crate::postgres::{error, quote};

/// How much earlier than it shows a transaction may have begun.
const MARGIN_US: i64 = 1_000_000;

/// What the bound of a `now()` column rests on, in one look. The clock is read before the transactions.
const LOOK: &str = "SELECT (extract(epoch FROM c.at) * 1000000)::int8,
        (SELECT (extract(epoch FROM min(a.xact_start)) * 1000000)::int8 FROM pg_catalog.pg_stat_activity a
            WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()),
        (SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()),
        pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), pg_catalog.pg_is_in_recovery()
    FROM (SELECT pg_catalog.clock_timestamp() AS at OFFSET 0) c";

/// Whether a column's default is the server's clock.
const IS_CLOCK: &str = "SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid)
        ~* '^\\(?(now\\(\\)|CURRENT_TIMESTAMP|transaction_timestamp\\(\\)|statement_timestamp\\(\\)|clock_timestamp\\(\\))'
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = $1::text::regclass AND a.attname = $2";

/// The first day of the Julian calendar, before which there is no time in PostgreSQL; microseconds since 1970.
const FIRST_MOMENT_US: i64 = -2_440_588 * 86_400_000_000;

/// What kind of version a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer,
    Instant,
    Civil,
}

impl Kind {
    fn of(column: &Column) -> Result<Self> {
        match column.data_type {
            DataType::Int(_) => Ok(Self::Integer),
            DataType::TimestampTz => Ok(Self::Instant),
            DataType::Timestamp => Ok(Self::Civil),
            _ => Err(Error::configuration(format!(
                "column {} is of type {}, which is no version",
                column.name, column.native_type
            ))
            .with_remedy("a version is a smallint, integer, bigint, timestamptz or timestamp column")),
        }
    }

    /// The column as a number, NULL where it has none.
    fn number(self, name: &str) -> String {
        match self {
            Self::Integer => format!("{name}::int8"),
            Self::Instant | Self::Civil => format!(
                "CASE WHEN pg_catalog.isfinite({name}) THEN (extract(epoch FROM {name}) * 1000000)::int8 END"
            ),
        }
    }

    /// A version as a literal of the column's type.
    fn literal(self, version: Version) -> String {
        // Halving a range may come to versions below every time that the server knows.
        let time = if version.0 < FIRST_MOMENT_US { "-infinity".to_owned() } else { moment_text(version.0) };
        match self {
            Self::Integer => format!("'{version}'::pg_catalog.int8"),
            Self::Instant => format!("{}::pg_catalog.timestamptz", quote::literal(&time)),
            Self::Civil => format!("{}::pg_catalog.timestamp", quote::literal(&time)),
        }
    }

    /// Which rows a range holds. The ends of the range are no literals: a time type ends before.
    fn within(self, name: &str, range: &VersionRange) -> String {
        let mut all = Vec::new();
        if range.from > Version::MIN {
            all.push(format!("{name} >= {}", self.literal(range.from)));
        }
        if range.to < Version::MAX {
            all.push(format!("{name} <= {}", self.literal(range.to)));
        }
        match (range.from, all.is_empty()) {
            (Version::NONE, true) => "true".to_owned(),
            (Version::NONE, false) => format!("({} OR {name} IS NULL)", all.join(" AND ")),
            (_, true) => format!("{name} IS NOT NULL"),
            (_, false) => all.join(" AND "),
        }
    }
}

/// A table with its version column.
struct Versioned<'a> {
    table: &'a Arc<TableSchema>,
    kind: Kind,
    name: String,
}

impl<'a> Versioned<'a> {
    fn new(table: &'a Arc<TableSchema>, column: usize) -> Result<Self> {
        let of = table.columns.get(column).ok_or_else(|| Error::bug("a version column that is not there"))?;
        let kind = Kind::of(of).map_err(|error| error.with_table(&table.id))?;
        Ok(Self { table, kind, name: quote::ident(&of.name) })
    }

    fn failed(&self) -> impl Fn(tokio_postgres::Error) -> Error {
        let id = self.table.id.clone();
        move |e| error::from_client(e, "reading by version").with_table(&id)
    }

    async fn rows_of(&self, session: &Session, range: &VersionRange) -> Result<String> {
        let (only, name) = (keys::only(session, self.table).await?, quote::table(&self.table.id));
        Ok(format!("FROM {only}{name} WHERE {}", self.kind.within(&self.name, range)))
    }

    /// The statement of a page. The values of a place's key are its parameters.
    async fn page(&self, session: &Session, page: &VersionPage<'_>) -> Result<String> {
        let rows = self.rows_of(session, &page.range).await?;
        let mut sql = format!("SELECT {} {rows}", keys::values(self.table));
        if let Some(place) = page.after {
            let after = self.after(session, place.version).await?;
            let _ = write!(sql, " AND ({after})");
        }
        let key = self.table.row_key.iter().map(|&column| quote::ident(&self.table.columns[column].name));
        // Rows without a version come first; only then is that said, because an index has them last.
        let nulls = if page.range.from == Version::NONE { " NULLS FIRST" } else { "" };
        let order: Vec<String> = [format!("{}{nulls}", self.name)].into_iter().chain(key).collect();
        let _ = write!(sql, " ORDER BY {} LIMIT {}", order.join(", "), page.rows_max);
        Ok(sql)
    }

    /// After a place: said so that an index on the version is of use, and with operators that are found on no search path.
    async fn after(&self, session: &Session, version: Version) -> Result<String> {
        let greater = keys::operators(session, self.table, ">").await?;
        let equal = keys::operators(session, self.table, "=").await?;
        let mut after = String::from("false");
        for (place, &column) in self.table.row_key.iter().enumerate().rev() {
            let column = &self.table.columns[column];
            let (name, value) = (quote::ident(&column.name), keys::parameter(column, place));
            let (greater, equal) = (&greater[place], &equal[place]);
            after = format!("({name} {greater} {value} OR ({name} {equal} {value} AND {after}))");
        }
        let name = &self.name;
        if version == Version::NONE {
            return Ok(format!("{name} IS NOT NULL OR {after}"));
        }
        let version = self.kind.literal(version);
        Ok(format!("{name} >= {version} AND ({name} > {version} OR {after})"))
    }
}

#[async_trait]
impl Versions for PostgresSource {
    async fn bound(&self, table: &Arc<TableSchema>, column: usize) -> Result<Bound> {
        let versioned = Versioned::new(table, column)?;
        let none = |why: &str| Ok(Bound::None(why.to_owned()));
        match versioned.kind {
            Kind::Integer => return none("numbers of a sequence become visible in no order"),
            Kind::Civil => return none("a timestamp without time zone is in the zone of each session"),
            Kind::Instant => {}
        }
        let session = self.pool.take().await?;
        let (name, column) = (quote::table(&table.id), &table.columns[column].name);
        let clock = session.query_opt(IS_CLOCK, &[&name, column]).await.map_err(versioned.failed())?;
        if !clock.and_then(|row| row.get::<_, Option<bool>>(0)).unwrap_or(false) {
            self.pool.give(session);
            return none("the column's default is not now(), so others than the server may fill it");
        }
        let look = session.query_one(LOOK, &[]).await.map_err(versioned.failed())?;
        self.pool.give(session);
        if !look.get::<_, bool>(3) {
            return none("the role does not see all transactions: GRANT pg_read_all_stats TO it");
        }
        if look.get::<_, bool>(4) {
            return none("a standby does not know the transactions that are open at its primary");
        }
        if look.get::<_, i64>(2) > 0 {
            return none("a prepared transaction is open, whose start is not known");
        }
        let (now, oldest): (i64, Option<i64>) = (look.get(0), look.get(1));
        Ok(Bound::Safe(Version(oldest.unwrap_or(now).min(now) - MARGIN_US)))
    }

    async fn state(
        &self,
        table: &Arc<TableSchema>,
        column: usize,
        range: &VersionRange,
    ) -> Result<VersionState> {
        let versioned = Versioned::new(table, column)?;
        let session = self.pool.take().await?;
        let sql = format!(
            "SELECT pg_catalog.count(*), pg_catalog.count(v), pg_catalog.max(v), pg_catalog.sum(v)::text \
             FROM (SELECT {} AS v {}) AS versions",
            versioned.kind.number(&versioned.name),
            versioned.rows_of(&session, range).await?
        );
        let row = session.query_one(&sql, &[]).await.map_err(versioned.failed())?;
        self.pool.give(session);
        let count = |column: usize| row.get::<_, i64>(column).unsigned_abs();
        let sum: i128 = row
            .get::<_, Option<&str>>(3)
            .map_or(Ok(0), str::parse)
            .map_err(|error| Error::bug("a sum of versions is a number").with_source(error))?;
        let sum = u64::try_from(sum.rem_euclid(1 << 64)).map_err(|_| Error::bug("a remainder of 2^64"))?;
        let max_version = row.get::<_, Option<i64>>(2).map(Version);
        let state = ReplicaState { rows: count(1), max_version, version_sum: sum };
        Ok(VersionState { state, unversioned: count(0) - count(1) })
    }

    async fn nth_last(
        &self,
        table: &Arc<TableSchema>,
        column: usize,
        range: &VersionRange,
        rows: u64,
    ) -> Result<Option<Version>> {
        let versioned = Versioned::new(table, column)?;
        let session = self.pool.take().await?;
        let (number, name) = (versioned.kind.number(&versioned.name), &versioned.name);
        let sql = format!(
            "SELECT {number} {} AND {name} IS NOT NULL ORDER BY {name} DESC OFFSET {rows} LIMIT 1",
            versioned.rows_of(&session, range).await?
        );
        let row = session.query_opt(&sql, &[]).await.map_err(versioned.failed())?;
        self.pool.give(session);
        Ok(row.and_then(|row| row.get::<_, Option<i64>>(0)).map(Version))
    }

    async fn page(
        &self,
        table: &Arc<TableSchema>,
        column: usize,
        page: &VersionPage<'_>,
    ) -> Result<VersionRows> {
        let versioned = Versioned::new(table, column)?;
        let failed = versioned.failed();
        let key = page.after.map(|place| key_of(table, place)).transpose()?.unwrap_or_default();
        let key: Vec<&(dyn ToSql + Sync)> = key.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let session = self.pool.take().await?;
        let sql = versioned.page(&session, page).await?;
        let mut decoders = table.columns.iter().map(ColumnDecoder::new).collect::<Result<Vec<_>>>()?;
        let (mut rows, mut bytes) = (0, 0);
        let stream = session.query_raw(&sql, key).await.map_err(&failed)?;
        pin_mut!(stream);
        let mut is_end = true;
        while let Some(row) = stream.next().await {
            let row = row.map_err(&failed)?;
            for (index, decoder) in decoders.iter_mut().enumerate() {
                let value: Option<keys::Wire<'_>> = row.try_get(index).map_err(&failed)?;
                bytes += value.as_ref().map_or(4, |wire| wire.0.len() + 4);
                decoder.append(value.map(|wire| wire.0)).map_err(|error| error.with_table(&table.id))?;
            }
            rows += 1;
            if rows >= page.rows_max || bytes >= page.bytes_max {
                is_end = false;
                break;
            }
        }
        // What is left of the answer is thrown away as it comes; the session is free after it.
        self.pool.give(session);
        Ok(VersionRows { rows: typed::batch(table, &mut decoders)?, is_end })
    }

    fn version(&self, column: &Column, values: &ArrayRef, row: usize) -> Result<Version> {
        if values.is_null(row) {
            return Ok(Version::NONE);
        }
        let kind = Kind::of(column)?;
        let odd = || {
            let message = format!("column {} holds a value that is no version", column.name);
            Error::new(ErrorKind::Data, message).with_remedy("name another column with --version-column")
        };
        Ok(Version(match values.data_type() {
            ArrowType::Binary => {
                let number = native(values.as_binary::<i32>().value(row)).ok_or_else(odd)?;
                match kind {
                    Kind::Integer => number,
                    Kind::Instant | Kind::Civil => number.saturating_add(EPOCH_US),
                }
            }
            ArrowType::Int16 => values.as_primitive::<Int16Type>().value(row).into(),
            ArrowType::Int32 => values.as_primitive::<Int32Type>().value(row).into(),
            ArrowType::Int64 => values.as_primitive::<Int64Type>().value(row),
            ArrowType::Timestamp(..) => values.as_primitive::<TimestampMicrosecondType>().value(row),
            _ => return Err(odd()),
        }))
    }
}

/// A number in the binary form that all these types have.
fn native(bytes: &[u8]) -> Option<i64> {
    Some(match bytes.len() {
        2 => i16::from_be_bytes(bytes.try_into().ok()?).into(),
        4 => i32::from_be_bytes(bytes.try_into().ok()?).into(),
        8 => i64::from_be_bytes(bytes.try_into().ok()?),
        _ => return None,
    })
}

fn key_of(table: &Arc<TableSchema>, place: &VersionPlace) -> Result<Vec<keys::WireValue>> {
    let keys: RecordBatch = RowKey::to_batch(std::slice::from_ref(&place.key), table)?;
    keys::parameters(table, &keys, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_said_without_the_ends_that_no_type_has() {
        let range = |from, to| VersionRange { from, to };
        let within = |kind: Kind, range| kind.within("v", &range);
        assert_eq!(within(Kind::Instant, VersionRange::ALL), "true");
        assert_eq!(within(Kind::Instant, range(Version::MIN, Version::MAX)), "v IS NOT NULL");
        assert_eq!(
            within(Kind::Integer, range(Version::NONE, Version(7))),
            "(v <= '7'::pg_catalog.int8 OR v IS NULL)"
        );
        let instants = within(Kind::Instant, range(Version(0), Version(1)));
        assert!(instants.contains("'J2440588 00:00:00.000000'::pg_catalog.timestamptz"), "{instants}");
        let low = within(Kind::Civil, range(Version(i64::MIN / 2), Version(FIRST_MOMENT_US)));
        assert_eq!(
            low,
            "v >= '-infinity'::pg_catalog.timestamp AND v <= 'J0 00:00:00.000000'::pg_catalog.timestamp"
        );
    }

    #[test]
    fn values_are_versions_in_every_carriage() {
        assert_eq!(native(&(-2_i16).to_be_bytes()), Some(-2));
        assert_eq!(native(&5_i32.to_be_bytes()), Some(5));
        assert_eq!(native(b"abc"), None);
    }
}
