//! Columns, keys and indexes of two tables, as PostgreSQL itself writes them.

use std::collections::BTreeSet;

use futures::future::try_join;
use tokio_postgres::{Client, Error};

use super::postgres::{Definitions, Pair, Sides};

const COLUMNS: &str = "SELECT format('%s %s%s', quote_ident(attname), format_type(atttypid, atttypmod),
    CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END) FROM pg_attribute
    WHERE attrelid = to_regclass(format('%I.%I', $1::text, $2::text)) AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

/// Constraints are compared by content; their names may differ.
const PRIMARY_KEY: &str = "SELECT pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = to_regclass(format('%I.%I', $1::text, $2::text)) AND contype = 'p'";

/// From `USING` on, so that neither the index's name nor the schema's is compared.
const INDEXES: &str = "SELECT format('%s%s', CASE WHEN indisunique THEN 'UNIQUE ' ELSE '' END,
    substring(pg_get_indexdef(indexrelid) FROM ' USING .*$')) FROM pg_index
    WHERE indrelid = to_regclass(format('%I.%I', $1::text, $2::text)) AND NOT indisprimary AND indisvalid";

const FOREIGN_KEYS: &str = "SELECT pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = to_regclass(format('%I.%I', $1::text, $2::text)) AND contype = 'f'";

pub(super) async fn differences(
    sides: &Sides,
    pair: &Pair,
    wanted: Definitions,
) -> Result<Vec<String>, Error> {
    let mut queries = Vec::new();
    if wanted != Definitions::Ignored {
        queries.extend([("column", COLUMNS), ("primary key", PRIMARY_KEY)]);
    }
    if matches!(wanted, Definitions::Indexes | Definitions::ForeignKeys) {
        queries.push(("index", INDEXES));
    }
    if wanted == Definitions::ForeignKeys {
        queries.push(("foreign key", FOREIGN_KEYS));
    }
    let mut differences = Vec::new();
    for (what, query) in queries {
        let (source, destination) = try_join(
            definitions(&sides.source, query, &pair.source),
            definitions(&sides.destination, query, &pair.destination),
        )
        .await?;
        let lost = source.difference(&destination).map(|text| ("only at the source", text));
        let found = destination.difference(&source).map(|text| ("only at the destination", text));
        differences
            .extend(lost.chain(found).map(|(side, text)| format!("{}: {what} {side}: {text}", pair.name())));
    }
    Ok(differences)
}

async fn definitions(
    client: &Client,
    query: &str,
    table: &(String, String),
) -> Result<BTreeSet<String>, Error> {
    let rows = client.query(query, &[&table.0, &table.1]).await?;
    // Types of a renamed schema appear with its name; a schema's own name is not part of what is compared.
    let own_schema = format!("{}.", table.0);
    Ok(rows.iter().map(|row| row.get::<_, String>(0).replace(&own_schema, "")).collect())
}
