//! What stood on a table before its first snapshot and cannot stand during it: dropped, remembered, and made again.
//!
//! While a window is open a table shows states the source never had, which a secondary unique index would refuse, and a
//! table that others reference cannot be dropped. The statement that makes each such index or foreign key again is kept in
//! the bookkeeping, and goes from there in the transaction that runs it.

use syncline_core::{PipelineName, Result, TableId};
use tokio_postgres::Client;

use super::super::error::from_client;
use super::super::quote::{ident, table as quoted};
use super::existing::{Existing, ExistingIndex, Referencing};

/// When a statement is to be run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    Indexes,
    ForeignKeys,
}

impl Until {
    fn as_str(self) -> &'static str {
        match self {
            Self::Indexes => "indexes",
            Self::ForeignKeys => "foreign_keys",
        }
    }
}

/// Whose table it is, here and there.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) pipeline: &'a PipelineName,
    pub(super) table: &'a TableId,
    pub(super) target: &'a TableId,
}

/// Sets aside every index by which two rows with different keys exclude each other, and the foreign keys that rely on
/// one.
///
/// # Errors
/// As any DDL.
pub(super) async fn unique_indexes(
    client: &Client,
    owner: Owner<'_>,
    existing: &Existing,
    key: &[&str],
) -> Result<()> {
    for index in existing.indexes.iter().filter(|index| !key.is_empty() && index.excludes(key)) {
        for reference in existing.referencing.iter().filter(|reference| reference.index == index.oid) {
            foreign_key(client, owner, reference).await?;
        }
        let (statement, drop) = index_statements(owner.target, index);
        remember(client, owner, Until::Indexes, owner.target, &index.name, &statement).await?;
        run(client, owner, &drop).await?;
    }
    Ok(())
}

fn index_statements(target: &TableId, index: &ExistingIndex) -> (String, String) {
    match (&index.constraint, &index.constraint_definition) {
        (Some(constraint), Some(definition)) => (
            format!("ALTER TABLE {} ADD CONSTRAINT {} {definition}", quoted(target), ident(constraint)),
            format!("ALTER TABLE {} DROP CONSTRAINT {}", quoted(target), ident(constraint)),
        ),
        _ => {
            let name = TableId::new(&target.schema, &index.name);
            (index.statement.clone(), format!("DROP INDEX {}", quoted(&name)))
        }
    }
}

/// Sets aside every foreign key of another table that points to this one, so that it can be dropped.
///
/// # Errors
/// As any DDL.
pub(super) async fn references(client: &Client, owner: Owner<'_>, existing: &Existing) -> Result<()> {
    for reference in &existing.referencing {
        foreign_key(client, owner, reference).await?;
    }
    Ok(())
}

async fn foreign_key(client: &Client, owner: Owner<'_>, reference: &Referencing) -> Result<()> {
    let (table, name) = (quoted(&reference.table), ident(&reference.name));
    let statement = format!("ALTER TABLE {table} ADD CONSTRAINT {name} {}", reference.definition);
    remember(client, owner, Until::ForeignKeys, &reference.table, &reference.name, &statement).await?;
    run(client, owner, &format!("ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")).await
}

async fn remember(
    client: &Client,
    owner: Owner<'_>,
    until: Until,
    of: &TableId,
    object: &str,
    statement: &str,
) -> Result<()> {
    let sql = "INSERT INTO syncline.set_aside \
        (pipeline, schema, name, step, object, owner_schema, owner_name, statement) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
    let (pipeline, step) = (owner.pipeline.as_str(), until.as_str());
    let table = owner.table;
    client
        .execute(
            sql,
            &[&pipeline, &table.schema, &table.name, &step, &object, &of.schema, &of.name, &statement],
        )
        .await
        .map_err(|error| from_client(error, "remembering a definition").with_table(table))?;
    Ok(())
}

/// Forgets a table's own indexes that were set aside: it is made anew from its definition.
///
/// # Errors
/// As any write.
pub(super) async fn forget_indexes(client: &Client, owner: Owner<'_>) -> Result<()> {
    let sql = "DELETE FROM syncline.set_aside WHERE pipeline = $1 AND schema = $2 AND name = $3 AND step = 'indexes'";
    client
        .execute(sql, &[&owner.pipeline.as_str(), &owner.table.schema, &owner.table.name])
        .await
        .map_err(|error| from_client(error, "forgetting a definition").with_table(owner.table))?;
    Ok(())
}

/// Makes again what was set aside until this step. What stands again already, or has lost its table, is forgotten.
///
/// # Errors
/// Data if the rows do not allow it.
pub(super) async fn restore(client: &Client, owner: Owner<'_>, until: Until) -> Result<()> {
    let sql = "DELETE FROM syncline.set_aside s WHERE pipeline = $1 AND schema = $2 AND name = $3 AND step = $4 \
        RETURNING statement, to_regclass(quote_ident(owner_schema) || '.' || quote_ident(owner_name)) IS NULL \
            OR to_regclass(quote_ident(owner_schema) || '.' || quote_ident(object)) IS NOT NULL \
            OR EXISTS (SELECT FROM pg_constraint c WHERE c.conname = s.object AND c.conrelid = \
                to_regclass(quote_ident(owner_schema) || '.' || quote_ident(owner_name)))";
    let rows = client
        .query(sql, &[&owner.pipeline.as_str(), &owner.table.schema, &owner.table.name, &until.as_str()])
        .await
        .map_err(|error| from_client(error, "reading a definition").with_table(owner.table))?;
    for row in rows.iter().filter(|row| !row.get::<_, bool>(1)) {
        run(client, owner, row.get(0)).await?;
    }
    Ok(())
}

async fn run(client: &Client, owner: Owner<'_>, statement: &str) -> Result<()> {
    let done = client.batch_execute(statement).await;
    done.map_err(|error| from_client(error, "changing the destination's table").with_table(owner.table))
}
