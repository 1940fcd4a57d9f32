//! The publication: exactly the pipeline's tables, with their columns where some are excluded.

use std::collections::BTreeSet;
use std::sync::Arc;

use syncline_core::{Error, Result, TableId, TableSchema};

use crate::postgres::connect::Session;
use crate::postgres::source::catalog::Catalog;
use crate::postgres::source::check::{excluded_of, server::Server};
use crate::postgres::{error, quote};

/// From this version on a publication has column lists and row filters.
const COLUMN_LISTS: u32 = 150_000;

/// A table as it is published.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    table: TableId,
    /// Set only where columns are left out.
    columns: Option<BTreeSet<String>>,
}

/// The tables of a pipeline as they are to be published.
pub(super) fn members(catalog: &Catalog, tables: &[Arc<TableSchema>]) -> BTreeSet<Member> {
    let relations = catalog.by_name();
    let member = |table: &Arc<TableSchema>| {
        let complete =
            relations.get(&table.id).is_none_or(|relation| excluded_of(relation, table).is_empty());
        let columns = || table.columns.iter().map(|column| column.name.clone()).collect();
        Member { table: table.id.clone(), columns: (!complete).then(columns) }
    };
    tables.iter().map(member).collect()
}

/// Makes the publication, or makes it fit.
///
/// # Errors
/// A conflict if the slot exists without it: what was written since cannot be decoded.
pub(super) async fn ensure(
    session: &Session,
    server: &Server,
    name: &str,
    members: &BTreeSet<Member>,
    slot_exists: bool,
) -> Result<()> {
    let failed = |e| error::from_client(e, "setting up the publication");
    let sql = "SELECT puballtables, pubviaroot AND pubinsert AND pubupdate AND pubdelete AND pubtruncate
               FROM pg_publication WHERE pubname = $1";
    let Some(found) = session.query_opt(sql, &[&name]).await.map_err(failed)? else {
        if slot_exists {
            return Err(Error::conflict(format!("publication {name} is gone while its slot is still there"))
                .with_changes_missing());
        }
        let statement = format!(
            "CREATE PUBLICATION {} {} WITH (publish_via_partition_root = true)",
            quote::ident(name),
            if members.is_empty() { String::new() } else { format!("FOR {}", tables(members)) }
        );
        return session.batch_execute(&statement).await.map_err(failed);
    };
    if found.get(0) {
        return Err(Error::conflict(format!("publication {name} is one for all tables, which is not ours"))
            .with_remedy(format!("drop it: DROP PUBLICATION {};", quote::ident(name))));
    }
    if !found.get::<_, bool>(1) {
        let statement = format!(
            "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)",
            quote::ident(name)
        );
        session.batch_execute(&statement).await.map_err(failed)?;
    }
    let published = published(session, server, name).await?;
    if published.is_none() {
        tracing::warn!(
            publication = name,
            "somebody put a row filter on the publication; it is removed, but what it held back while it stood is missing"
        );
    }
    if published.as_ref() != Some(members) {
        session.batch_execute(&alter(name, members, published.as_ref())).await.map_err(failed)?;
    }
    Ok(())
}

/// Tables are replaced in one statement, which leaves alone those that stay as they are.
fn alter(name: &str, members: &BTreeSet<Member>, published: Option<&BTreeSet<Member>>) -> String {
    let name = quote::ident(name);
    if !members.is_empty() {
        return format!("ALTER PUBLICATION {name} SET {}", tables(members));
    }
    let gone = published.into_iter().flatten().map(|member| quote::table(&member.table));
    format!("ALTER PUBLICATION {name} DROP TABLE {}", gone.collect::<Vec<_>>().join(", "))
}

/// `ONLY`, because tables that inherit from one are tables of their own here; a partitioned table is its root.
fn tables(members: &BTreeSet<Member>) -> String {
    let table = |member: &Member| {
        let name = quote::table(&member.table);
        match &member.columns {
            None => format!("ONLY {name}"),
            Some(columns) => format!("ONLY {name} ({})", quote::idents(columns.iter().map(String::as_str))),
        }
    };
    format!("TABLE {}", members.iter().map(table).collect::<Vec<_>>().join(", "))
}

/// The tables in a publication; `None` if there is no such publication. A table that was dropped, or dropped and made
/// again, is not among them: the publication knew the table, not its name. Nor is one that has become a partition: what
/// happens to it is told of its root.
pub(super) async fn captured(session: &Session, name: &str) -> Result<Option<BTreeSet<TableId>>> {
    let sql = "SELECT n.nspname::text, c.relname::text
               FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid
               LEFT JOIN pg_class c ON c.oid = r.prrelid AND NOT c.relispartition LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE p.pubname = $1";
    let rows = session.query(sql, &[&name]).await;
    let rows = rows.map_err(|e| error::from_client(e, "reading the publication"))?;
    if rows.is_empty() {
        return Ok(None);
    }
    let table = |row: &tokio_postgres::Row| {
        Some(TableId::new(row.get::<_, Option<String>>(0)?, row.get::<_, String>(1)))
    };
    Ok(Some(rows.iter().filter_map(table).collect()))
}

/// What is published now; `None` if a row filter, which is not ours, must go.
async fn published(session: &Session, server: &Server, name: &str) -> Result<Option<BTreeSet<Member>>> {
    let (columns, filtered) = if server.version >= COLUMN_LISTS {
        (
            "CASE WHEN r.prattrs IS NOT NULL THEN ARRAY(SELECT a.attname::text FROM unnest(r.prattrs::int2[]) k(attnum)
                 JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = k.attnum) END",
            "r.prqual IS NOT NULL",
        )
    } else {
        ("NULL::text[]", "false")
    };
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text, {columns}, {filtered}
         FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
         JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE p.pubname = $1"
    );
    let rows = session.query(&sql, &[&name]).await;
    let rows = rows.map_err(|e| error::from_client(e, "reading the publication"))?;
    if rows.iter().any(|row| row.get(3)) {
        return Ok(None);
    }
    let member = |row: &tokio_postgres::Row| Member {
        table: TableId::new(row.get::<_, String>(0), row.get::<_, String>(1)),
        columns: row.get::<_, Option<Vec<String>>>(2).map(|columns| columns.into_iter().collect()),
    };
    Ok(Some(rows.iter().map(member).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_named_without_their_descendants() {
        let member = |name: &str, columns: Option<&[&str]>| Member {
            table: TableId::new("s", name),
            columns: columns.map(|c| c.iter().map(|c| (*c).to_owned()).collect()),
        };
        let members = BTreeSet::from([member("a", None), member("b", Some(&["x", "y\""]))]);
        assert_eq!(tables(&members), "TABLE ONLY \"s\".\"a\", ONLY \"s\".\"b\" (\"x\", \"y\"\"\")");
        assert_eq!(
            alter("p", &BTreeSet::new(), Some(&members)),
            "ALTER PUBLICATION \"p\" DROP TABLE \"s\".\"a\", \"s\".\"b\""
        );
    }
}
