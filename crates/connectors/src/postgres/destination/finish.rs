//! Key, indexes, statistics and foreign keys, after the rows.
//!
//! A table that Syncline created gets all of its definition; one that was there before gets the key it needs, and what was
//! set aside. Every step is one transaction that checks the fence first, to fail early, and last, where it counts: an index
//! build may take longer than the pipeline is ours. Each can be repeated.

use std::sync::Arc;

use syncline_core::{Error, FinishStep, Result, TableId, TableSchema};
use tokio_postgres::Client;

use super::super::definition::{Definition, ForeignKey, IndexDdl, IndexDefinition};
use super::super::error::from_client;
use super::super::quote::table as quoted;
use super::bookkeeping::{self, Registered};
use super::ddl;
use super::existing::{self, Existing};
use super::prepare::check_fence;
use super::rename::Renaming;
use super::session::Pipeline;
use super::sessions::Purpose;
use super::set_aside::{self, Owner, Until};

/// All rows are there when an index is built: which of them is one too many is not the index's to say.
const ROWS_REMEDY: &str = "rows of the source do not fit this index: correct them at the source, or drop the index at the \
    destination and start the table over with --prepare truncate; then run again";

/// What a step works with.
struct Work<'a> {
    client: &'a Client,
    pipeline: &'a Pipeline,
    table: &'a TableSchema,
    target: &'a TableId,
    definition: Option<Definition>,
    registered: Registered,
}

/// Makes a step of a table's completion.
///
/// # Errors
/// Data if the rows do not allow the index or key.
pub(super) async fn finish(pipeline: &Pipeline, table: &Arc<TableSchema>, step: FinishStep) -> Result<()> {
    let lease = pipeline.sessions.lease(Purpose::Definition).await?;
    let client = lease.client()?;
    let failed = |error| from_client(error, "finishing a table").with_table(&table.id);
    client.batch_execute("BEGIN").await.map_err(failed)?;
    bookkeeping::is_ours(client, &pipeline.name, pipeline.fence).await?;
    let target = pipeline.map.map(&table.id);
    let registered = bookkeeping::registered(client, &pipeline.name, &table.id).await?.unwrap_or_default();
    let definition = ddl::definition_of(table)?.filter(|_| registered.created);
    let work = Work { client, pipeline, table, target: &target, definition, registered };
    let made = match step {
        FinishStep::Key => work.key().await,
        FinishStep::Indexes => work.indexes().await,
        FinishStep::ForeignKeys => work.foreign_keys().await,
    };
    made.map_err(|error| if error.rows_at_fault() { error.with_remedy(ROWS_REMEDY) } else { error })?;
    check_fence(client, pipeline).await?;
    client.batch_execute("COMMIT").await.map_err(failed)?;
    drop(work);
    lease.give_back();
    Ok(())
}

/// Gives a table that was there before the unique index by which its rows are found, if it has none.
///
/// # Errors
/// Data if two rows have the same key.
pub(super) async fn ensure_key(client: &Client, table: &TableSchema, target: &TableId) -> Result<()> {
    let existing = read(client, target).await?;
    let key = key_of(table);
    if key.is_empty() || existing.key_index(&key).is_some() {
        return Ok(());
    }
    let has_primary = existing.indexes.iter().any(|index| index.primary);
    let statement = if has_primary {
        ddl::create_key_index(target, &key)
    } else {
        ddl::add_primary_key(target, None, &key)
    };
    run(client, &statement, &table.id).await
}

impl Work<'_> {
    /// The primary key, if it is the row key; else a unique index on the row key. A primary key that is not the row key
    /// is a secondary unique index like any other, and comes after the window.
    async fn key(&self) -> Result<()> {
        let key = key_of(self.table);
        let existing = read(self.client, self.target).await?;
        let Some(definition) = &self.definition else {
            return ensure_key(self.client, self.table, self.target).await;
        };
        if let Some(primary) = &definition.primary_key
            && (key.is_empty() || same_columns(&primary.columns, &key))
        {
            return self.primary_key(&existing, definition).await;
        }
        if key.is_empty() || existing.key_index(&key).is_some() {
            return Ok(());
        }
        let identity = definition.indexes.iter().find(|index| index.identity && index.excludes);
        match identity {
            Some(index) => self.index(&existing, definition, index).await,
            None => run(self.client, &ddl::create_key_index(self.target, &key), &self.table.id).await,
        }
    }

    async fn primary_key(&self, existing: &Existing, definition: &Definition) -> Result<()> {
        let Some(primary) = &definition.primary_key else { return Ok(()) };
        if existing.indexes.iter().any(|index| index.primary) {
            return Ok(());
        }
        let columns: Vec<_> = primary.columns.iter().map(String::as_str).collect();
        let name = self.free_name(&primary.name).await?;
        run(self.client, &ddl::add_primary_key(self.target, name, &columns), &self.table.id).await
    }

    async fn indexes(&self) -> Result<()> {
        if let Some(definition) = &self.definition {
            let existing = read(self.client, self.target).await?;
            self.primary_key(&existing, definition).await?;
            for index in &definition.indexes {
                self.index(&existing, definition, index).await?;
            }
        }
        set_aside::restore(self.client, self.owner(), Until::Indexes).await?;
        run(self.client, &format!("ANALYZE {}", quoted(self.target)), &self.table.id).await
    }

    async fn index(
        &self,
        existing: &Existing,
        definition: &Definition,
        index: &IndexDefinition,
    ) -> Result<()> {
        let renaming = self.renaming(definition);
        let stands = existing.indexes.iter().any(|there| {
            there.name == index.name
                || match &index.ddl {
                    IndexDdl::Index { using, .. } => {
                        there.constraint.is_none()
                            && there.statement.ends_with(&format!(" USING {}", renaming.sql(using)))
                    }
                    IndexDdl::Constraint(text) => {
                        there.constraint_definition.as_deref() == Some(renaming.sql(text).as_str())
                    }
                }
        });
        if stands {
            return Ok(());
        }
        let name = self.free_name(&index.name).await?;
        run(self.client, &ddl::create_index(self.target, index, name, &renaming), &self.table.id).await
    }

    async fn foreign_keys(&self) -> Result<()> {
        for key in self.definition.iter().flat_map(|definition| &definition.foreign_keys) {
            self.foreign_key(key).await?;
        }
        set_aside::restore(self.client, self.owner(), Until::ForeignKeys).await
    }

    async fn foreign_key(&self, key: &ForeignKey) -> Result<()> {
        let failed = |error| from_client(error, "reading foreign keys").with_table(&self.table.id);
        let ours = bookkeeping::registered(self.client, &self.pipeline.name, &key.referenced).await?;
        if ours.is_none() {
            return Ok(());
        }
        let sql =
            "SELECT EXISTS (SELECT FROM pg_constraint WHERE conname = $1 AND conrelid = to_regclass($2))";
        let row = self.client.query_one(sql, &[&key.name, &quoted(self.target)]).await.map_err(failed)?;
        if row.get(0) {
            return Ok(());
        }
        let replica = may_be_replica(self.client).await?;
        if let Some(why) = refused_without_replica(key).filter(|_| !replica) {
            let error = Error::configuration(why).with_remedy(grant_replica(self.client).await?);
            return Err(error.with_table(&self.table.id));
        }
        let renaming = Renaming::new(&self.pipeline.map, self.definition.as_ref());
        run(self.client, &ddl::add_foreign_key(self.target, key, &renaming, !replica), &self.table.id).await
    }

    /// The name, if no other relation of the schema has it: names that were apart at the source may meet here.
    async fn free_name<'a>(&self, name: &'a str) -> Result<Option<&'a str>> {
        let sql = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
            WHERE n.nspname = $1 AND c.relname = $2)";
        let row = self.client.query_one(sql, &[&self.target.schema, &name]).await;
        let taken: bool = row.map_err(|error| from_client(error, "looking for a free name"))?.get(0);
        Ok((!taken).then_some(name))
    }

    fn renaming(&self, definition: &Definition) -> Renaming<'_> {
        Renaming::new(&self.pipeline.map, Some(definition))
    }

    fn owner(&self) -> Owner<'_> {
        debug_assert!(self.definition.is_none() || self.registered.created);
        Owner { pipeline: &self.pipeline.name, table: &self.table.id, target: self.target }
    }
}

/// Whether this user may switch triggers and foreign keys off for its loads.
///
/// # Errors
/// As any read.
pub(super) async fn may_be_replica(client: &Client) -> Result<bool> {
    let sql = "SELECT has_parameter_privilege(current_user, 'session_replication_role', 'SET')";
    let row = client.query_one(sql, &[]).await;
    Ok(row.map_err(|error| from_client(error, "reading privileges"))?.get(0))
}

/// The statement that allows it.
///
/// # Errors
/// As any read.
pub(super) async fn grant_replica(client: &Client) -> Result<String> {
    let sql =
        "SELECT 'GRANT SET ON PARAMETER session_replication_role TO ' || quote_ident(current_user) || ';'";
    let row = client.query_one(sql, &[]).await;
    Ok(row.map_err(|error| from_client(error, "reading privileges"))?.get(0))
}

/// Why a foreign key cannot stand where this user may not switch it off; `None` if it can, checked at the commit of each
/// load.
pub(super) fn refused_without_replica(key: &ForeignKey) -> Option<String> {
    let name = &key.name;
    if ddl::cascades(&key.suffix) {
        let why = "cascades, and this user may not switch its actions off while loading";
        return Some(format!("foreign key `{name}` {why}"));
    }
    let why = "is ON … RESTRICT, which cannot wait for a load's commit, and this user may not switch it off";
    ddl::restricts(&key.suffix).then(|| format!("foreign key `{name}` {why}"))
}

async fn read(client: &Client, target: &TableId) -> Result<Existing> {
    let existing = existing::read(client, target).await?;
    existing.ok_or_else(|| {
        Error::configuration("the destination's table is gone")
            .with_table(target)
            .with_remedy("start over with `syncline drop NAME`, then sync with --prepare recreate")
    })
}

fn key_of(table: &TableSchema) -> Vec<&str> {
    table.row_key.iter().map(|&column| table.columns[column].name.as_str()).collect()
}

fn same_columns(left: &[String], right: &[&str]) -> bool {
    left.len() == right.len() && right.iter().all(|name| left.iter().any(|column| column == name))
}

async fn run(client: &Client, statement: &str, table: &TableId) -> Result<()> {
    let done = client.batch_execute(statement).await;
    done.map_err(|error| from_client(error, "finishing a table").with_table(table))
}
