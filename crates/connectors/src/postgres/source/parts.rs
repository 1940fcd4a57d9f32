//! The leaves of partitioned tables: which there are, and whether a new one came with rows.
//!
//! ATTACH, DETACH and DROP of a partition write nothing that the log would carry. What tells them is the catalogue: a leaf
//! is named by its way down from the root, each step an object number and the transaction that wrote its row of
//! `pg_inherits`. So a leaf that left and came back has another name than before, and a renamed one keeps its own.

use std::collections::{BTreeMap, BTreeSet};

use syncline_core::{Error, ErrorKind, Result, TableId};
use tokio_postgres::SimpleQueryMessage;

use super::pool::Pool;
use crate::postgres::{error, quote};

/// Every root with itself, then what is below it.
const LEAVES: &str = "
    WITH RECURSIVE tree AS (
        SELECT c.oid AS root, c.oid AS member, '' AS way
        FROM unnest($1::text[], $2::text[]) AS wanted(schema, name)
        JOIN pg_namespace n ON n.nspname = wanted.schema
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
        WHERE c.relkind = 'p' AND NOT c.relispartition
        UNION ALL
        SELECT tree.root, i.inhrelid, concat_ws('/', nullif(tree.way, ''), i.inhrelid || ':' || i.xmin::text)
        FROM tree JOIN pg_inherits i ON i.inhparent = tree.member WHERE NOT i.inhdetachpending
    )
    SELECT rn.nspname::text, r.relname::text, tree.way, n.nspname::text, c.relname::text, c.relkind = 'p'
    FROM tree JOIN pg_class c ON c.oid = tree.member JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class r ON r.oid = tree.root JOIN pg_namespace rn ON rn.oid = r.relnamespace";

/// Longest wait for a lock on a leaf, when it is asked for its rows.
const LOCK_WAIT: &str = "1s";

/// The leaves of those tables that are partitioned, by the name of each.
pub(super) async fn leaves(
    pool: &Pool,
    tables: &[TableId],
) -> Result<BTreeMap<TableId, BTreeMap<String, TableId>>> {
    let session = pool.take().await?;
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let rows = session.query(LEAVES, &[&schemas, &names]).await;
    let rows = rows.map_err(|e| error::from_client(e, "looking at partitions"))?;
    pool.give(session);
    let mut found: BTreeMap<TableId, BTreeMap<String, TableId>> = BTreeMap::new();
    for row in &rows {
        let leaves = found.entry(TableId::new(row.get::<_, String>(0), row.get::<_, String>(1))).or_default();
        if !row.get::<_, bool>(5) {
            leaves.insert(row.get(2), TableId::new(row.get::<_, String>(3), row.get::<_, String>(4)));
        }
    }
    Ok(found)
}

/// Which of these leaves may hold rows. ATTACH waits for everybody who writes to the leaf, so what comes into a leaf that
/// is seen attached and empty comes by the log. One that somebody has locked counts as holding some.
pub(super) async fn filled(
    pool: &Pool,
    table: &TableId,
    parts: &BTreeSet<String>,
) -> Result<BTreeSet<String>> {
    let found = leaves(pool, std::slice::from_ref(table)).await?;
    let leaves = found.get(table).into_iter().flatten();
    let mut filled = BTreeSet::new();
    for (part, leaf) in leaves.filter(|(part, _)| parts.contains(*part)) {
        if holds_rows(pool, leaf).await? {
            filled.insert(part.clone());
        }
    }
    Ok(filled)
}

async fn holds_rows(pool: &Pool, leaf: &TableId) -> Result<bool> {
    let session = pool.take().await?;
    let sql = format!(
        "BEGIN; SET LOCAL lock_timeout = '{LOCK_WAIT}'; SELECT EXISTS (SELECT FROM ONLY {}); COMMIT",
        quote::table(leaf)
    );
    let answer = match session.simple_query(&sql).await {
        Ok(messages) => messages
            .iter()
            .any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t"))),
        // Locked; or gone again, which the next look will find.
        Err(e) if e.code().is_some_and(|code| code.code() == "55P03") => true,
        Err(e) if e.code().is_some_and(|code| code.code() == "42P01") => false,
        Err(e) if e.code().is_some_and(|code| code.code() == "42501") => {
            let user = "the user of the URL";
            let remedy = format!("GRANT SELECT ON {} TO {user}, then run again", quote::table(leaf));
            let error = error::from_client(e, "looking whether a partition holds rows");
            return Err(Error::new(ErrorKind::Data, format!("partition {leaf} may not be read"))
                .with_remedy(remedy)
                .with_source(error));
        }
        Err(e) => return Err(error::from_client(e, "looking whether a partition holds rows")),
    };
    session.batch_execute("ROLLBACK").await.map_err(|e| error::from_client(e, "looking at a partition"))?;
    pool.give(session);
    Ok(answer)
}
