//! What must be known of a table to cut it into chunks: its leaves with size and file, and its key's order.

use std::sync::Arc;

use syncline_core::{Error, Result, TableId, TableSchema};

use super::order::Order;
use crate::postgres::connect::Session;
use crate::postgres::error;

/// A table as it lies on disk.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    pub(super) partitioned: bool,
    /// What holds the rows: the table itself, or its leaf partitions.
    pub(super) leaves: Vec<Leaf>,
    /// The first column of the row key, if its order can be reproduced exactly.
    pub(super) key: Option<LeadingKey>,
}

/// A table or partition that holds rows.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub(super) id: TableId,
    /// `pg_relation_filenode`.
    pub(super) node: u32,
    pub(super) blocks: u64,
    /// With TOAST.
    pub(super) bytes: u64,
}

/// The first column of a row key.
#[derive(Debug, Clone)]
pub(super) struct LeadingKey {
    pub(super) column: String,
    pub(super) order: Order,
    /// `pg_stats.correlation`: 1 if the table lies in the key's order, -1 if in the opposite one.
    pub(super) correlation: Option<f32>,
    /// `pg_stats.histogram_bounds`, as text, ascending.
    pub(super) histogram: Vec<String>,
}

impl Survey {
    pub(super) fn bytes(&self) -> u64 {
        self.leaves.iter().map(|leaf| leaf.bytes).sum()
    }
}

/// Looks at a table. Takes no lock and reads no row.
pub(super) async fn survey(session: &Session, table: &Arc<TableSchema>) -> Result<Survey> {
    let failed = |e| error::from_client(e, "looking at a table's size").with_table(&table.id);
    let found = session
        .query_opt(
            "SELECT c.oid, c.relkind = 'p' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')",
            &[&table.id.schema, &table.id.name],
        )
        .await
        .map_err(failed)?;
    let found = found.ok_or_else(|| {
        Error::configuration("it is no longer there")
            .with_table(&table.id)
            .with_remedy("run again: the tables are looked up at each start")
    })?;
    let (oid, partitioned): (u32, bool) = (found.get(0), found.get(1));
    let leaves = session
        .query(
            "SELECT n.nspname::text, c.relname::text, pg_relation_filenode(c.oid),
                    pg_relation_size(c.oid) / current_setting('block_size')::int8, pg_table_size(c.oid)
             FROM (SELECT $1::oid AS oid WHERE NOT $2
                   UNION ALL SELECT relid FROM pg_partition_tree($1::oid) WHERE isleaf AND $2) leaf
             JOIN pg_class c ON c.oid = leaf.oid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind = 'r' ORDER BY 1, 2",
            &[&oid, &partitioned],
        )
        .await
        .map_err(failed)?;
    let leaves = leaves.iter().map(|row| Leaf {
        id: TableId::new(row.get::<_, String>(0), row.get::<_, String>(1)),
        node: row.get::<_, Option<u32>>(2).unwrap_or_default(),
        blocks: row.get::<_, i64>(3).unsigned_abs(),
        bytes: row.get::<_, i64>(4).unsigned_abs(),
    });
    let key = match table.row_key.first() {
        Some(&column) if !partitioned => leading_key(session, table, oid, column).await?,
        _ => None,
    };
    Ok(Survey { partitioned, leaves: leaves.collect(), key })
}

/// A text column sorts by bytes if its collation, or the database's where it has none of its own, is C; a database's
/// provider is known from version 15 on, before it was always the C library.
const LEADING_KEY: &str = "
    WITH RECURSIVE base AS (
        SELECT t.oid, t.typtype, t.typbasetype, a.attcollation, a.attname
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = $1 AND a.attname = $2
        UNION ALL
        SELECT t.oid, t.typtype, t.typbasetype, base.attcollation, base.attname
        FROM base JOIN pg_type t ON t.oid = base.typbasetype WHERE base.typtype = 'd'
    )
    SELECT t.typname::text, t.typnamespace = 'pg_catalog'::regnamespace,
           base.attcollation IN ('pg_catalog.\"C\"'::regcollation, 'pg_catalog.\"POSIX\"'::regcollation)
           OR (base.attcollation = 'pg_catalog.\"default\"'::regcollation AND EXISTS (
               SELECT FROM pg_database d WHERE d.datname = current_database() AND d.datcollate IN ('C', 'POSIX')
               AND coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c')),
           s.correlation, s.histogram_bounds::text::text[]
    FROM base JOIN pg_type t ON t.oid = base.oid
    LEFT JOIN pg_stats s ON s.schemaname = $3 AND s.tablename = $4 AND s.attname = base.attname AND NOT s.inherited
    WHERE base.typtype <> 'd'";

async fn leading_key(
    session: &Session,
    table: &Arc<TableSchema>,
    oid: u32,
    column: usize,
) -> Result<Option<LeadingKey>> {
    let column = &table.columns[column].name;
    let row = session
        .query_opt(LEADING_KEY, &[&oid, column, &table.id.schema, &table.id.name])
        .await
        .map_err(|e| error::from_client(e, "looking at a table's key").with_table(&table.id))?;
    let Some(row) = row.filter(|row| row.get::<_, bool>(1)) else { return Ok(None) };
    Ok(Order::of(row.get(0), row.get(2)).map(|order| LeadingKey {
        column: column.clone(),
        order,
        correlation: row.get(3),
        histogram: row.get::<_, Option<Vec<String>>>(4).unwrap_or_default(),
    }))
}
