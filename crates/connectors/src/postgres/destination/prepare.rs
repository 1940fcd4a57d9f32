//! A table before its first chunk: created, emptied, kept, or refused.
//!
//! One transaction that checks the fence first, to fail early, and last, where it counts: holding the fence's row while a
//! large table is emptied would stop the heartbeat. Whatever is there before stays unless `recreate` was asked for; what cannot stand during
//! the window is set aside ([`super::set_aside`]).

use std::sync::Arc;

use syncline_core::{Error, Prepare, Prepared, Result, TableId, TableSchema};
use tokio_postgres::Client;

use super::super::definition::{Definition, TypeDefinition, TypeKind};
use super::super::error::from_client;
use super::super::quote::{ident, literal, table as quoted};
use super::bookkeeping::{self, Registered};
use super::existing::{self, Existing};
use super::rename::Renaming;
use super::session::Pipeline;
use super::sessions::Purpose;
use super::set_aside::{self, Owner};
use super::{ddl, delta, finish, fit};

/// Definitions change one after another: tables share schemas and types.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('syncline definitions', 0))";

/// What a table's preparation works with.
struct Work<'a> {
    client: &'a Client,
    table: &'a TableSchema,
    target: TableId,
    definition: Option<Definition>,
    renaming: Renaming<'a>,
    owner: Owner<'a>,
}

/// Prepares a table.
///
/// # Errors
/// Configuration with the choices if it has rows and no mode was given; configuration if it does not fit.
pub(super) async fn prepare(
    pipeline: &Pipeline,
    table: &Arc<TableSchema>,
    mode: Option<Prepare>,
) -> Result<Prepared> {
    fit::understands(table)?;
    let target = pipeline.map.map(&table.id);
    if let Some(long) = fit::long_names(table, &target).into_iter().next() {
        return Err(Error::configuration(long)
            .with_table(&table.id)
            .with_remedy("exclude the table or the column, or give it a shorter name"));
    }
    let lease = pipeline.sessions.lease(Purpose::Definition).await?;
    let client = lease.client()?;
    begin(client, pipeline).await?;
    let definition = ddl::definition_of(table)?;
    bookkeeping::refuse_foreign_owner(client, Some((&pipeline.name, &table.id)), &target).await?;
    let existing = existing::read(client, &target).await?;
    let renaming = Renaming::new(&pipeline.map, definition.as_ref());
    let owner = Owner { pipeline: &pipeline.name, table: &table.id, target: &target };
    let work =
        Work { client, table, target: target.clone(), definition: definition.clone(), renaming, owner };
    let before = bookkeeping::registered(client, &pipeline.name, &table.id).await?.unwrap_or_default();
    let registered = match (existing, mode) {
        (None, _) => work.create().await?,
        (Some(existing), Some(Prepare::Recreate)) => work.recreate(&existing).await?,
        (Some(existing), Some(Prepare::Truncate)) => work.truncate(&existing, before).await?,
        (Some(existing), Some(Prepare::Keep)) => work.keep(&existing, before).await?,
        (Some(existing), None) => work.adopt(&existing, before).await?,
    };
    bookkeeping::register(client, &pipeline.name, &table.id, &target, registered).await?;
    check_fence(client, pipeline).await?;
    let committed = client.batch_execute("COMMIT").await;
    committed.map_err(|error| from_client(error, "preparing a table").with_table(&table.id))?;
    drop(work);
    lease.give_back();
    Ok(if registered.kept { Prepared::HasRows } else { Prepared::Empty })
}

/// Begins a transaction for definitions.
pub(super) async fn begin(client: &Client, pipeline: &Pipeline) -> Result<()> {
    let failed = |error| from_client(error, "preparing a table");
    client.batch_execute("BEGIN").await.map_err(failed)?;
    client.batch_execute(LOCK).await.map_err(failed)?;
    bookkeeping::is_ours(client, &pipeline.name, pipeline.fence).await
}

/// Checks the fence in the client's transaction, and keeps it until its end.
///
/// # Errors
/// Fenced.
pub(super) async fn check_fence(client: &Client, pipeline: &Pipeline) -> Result<()> {
    let step = delta::fence(&pipeline.name, pipeline.fence);
    let statement =
        client.prepare(step.sql).await.map_err(|error| from_client(error, "checking the fence"))?;
    match client.execute_raw(&statement, step.params).await {
        Ok(_) => Ok(()),
        Err(error) if error.code().is_some_and(|code| code.code() == delta::MISFIT) => {
            Err(step.misfit.into_error())
        }
        Err(error) => Err(from_client(error, "checking the fence")),
    }
}

impl Work<'_> {
    async fn create(&self) -> Result<Registered> {
        for schema in ddl::schemas(self.table, self.definition.as_ref(), &self.renaming) {
            self.ensure_schema(&schema).await?;
        }
        for defined in self.definition.iter().flat_map(|definition| &definition.types) {
            self.ensure_type(defined).await?;
        }
        for statement in ddl::create_table(self.table, self.definition.as_ref(), &self.renaming) {
            self.run(&statement, "creating the table").await?;
        }
        Ok(Registered { created: true, ..Registered::default() })
    }

    async fn recreate(&self, existing: &Existing) -> Result<Registered> {
        if !existing.is_table() {
            return Err(Error::configuration(
                "the destination has something of this name that is not a table",
            )
            .with_table(&self.target)
            .with_remedy("rename it, or choose another schema with --schema-map"));
        }
        set_aside::references(self.client, self.owner, existing).await?;
        set_aside::forget_indexes(self.client, self.owner).await?;
        let dropped = self.client.batch_execute(&format!("DROP TABLE {}", quoted(&self.target))).await;
        dropped.map_err(|error| {
            let needed = error.code().is_some_and(|code| code.code() == "2BP01");
            let error = from_client(error, "dropping the table").with_table(&self.target);
            if needed {
                let why = "views or other objects depend on the table";
                return Error::configuration(why)
                    .with_table(&self.target)
                    .with_remedy("drop them first, or use --prepare truncate")
                    .with_source(error);
            }
            error
        })?;
        self.create().await
    }

    async fn truncate(&self, existing: &Existing, before: Registered) -> Result<Registered> {
        self.fits(existing)?;
        set_aside::unique_indexes(self.client, self.owner, existing, &self.key()).await?;
        self.empty(existing).await?;
        Ok(Registered { kept: false, ..before })
    }

    /// Rows of other tables that point here stay as they are: their foreign keys must neither refuse nor take them along.
    async fn empty(&self, existing: &Existing) -> Result<()> {
        let doing = "emptying the table";
        if existing.referencing.is_empty() {
            return self.run(&empty_statement(&self.target, false), doing).await;
        }
        let empty = empty_statement(&self.target, true);
        if finish::may_be_replica(self.client).await? {
            let statements = format!(
                "SET LOCAL session_replication_role = replica; {empty}; SET LOCAL session_replication_role TO DEFAULT"
            );
            return self.run(&statements, doing).await;
        }
        let choices = format!("use --prepare recreate, or: {}", finish::grant_replica(self.client).await?);
        if let Some(key) = existing.referencing.iter().find(|key| ddl::cascades(&key.definition)) {
            let why = format!(
                "emptying the table would change rows of {}, by foreign key `{}`, which this user may not switch off",
                key.table, key.name
            );
            return Err(Error::configuration(why).with_table(&self.table.id).with_remedy(choices));
        }
        self.run(&empty, doing).await.map_err(|error| error.with_remedy(choices))
    }

    async fn keep(&self, existing: &Existing, before: Registered) -> Result<Registered> {
        self.fits(existing)?;
        // Changes of parts that join may be applied before their chunks come.
        let kept = before.joined || existing::has_rows(self.client, &self.target).await?;
        set_aside::unique_indexes(self.client, self.owner, existing, &self.key()).await?;
        if kept {
            finish::ensure_key(self.client, self.table, &self.target).await.map_err(|error| {
                error.with_remedy("make the row key unique in the kept rows, or use --prepare truncate")
            })?;
        }
        Ok(Registered { kept, ..before })
    }

    /// A table that stands there already, without an instruction what to do with it: taken if it is empty.
    async fn adopt(&self, existing: &Existing, before: Registered) -> Result<Registered> {
        if !existing.is_table() || existing::has_rows(self.client, &self.target).await? {
            return Err(Error::configuration("the destination's table has rows already")
                .with_table(&self.target)
                .with_remedy(
                    "choose: --prepare recreate drops it and creates it anew, --prepare truncate empties it, \
                     --prepare keep overwrites rows of the same key and keeps the others",
                ));
        }
        self.fits(existing)?;
        set_aside::unique_indexes(self.client, self.owner, existing, &self.key()).await?;
        Ok(Registered { kept: false, ..before })
    }

    fn key(&self) -> Vec<&str> {
        self.table.row_key.iter().map(|&column| self.table.columns[column].name.as_str()).collect()
    }

    fn fits(&self, existing: &Existing) -> Result<()> {
        let misfits = fit::misfits(self.table, self.definition.as_ref(), &self.renaming, existing);
        if misfits.is_empty() {
            return Ok(());
        }
        Err(Error::configuration(format!("the destination's table does not fit: {}", misfits.join("; ")))
            .with_table(&self.target)
            .with_remedy("change the table as said, or use --prepare recreate"))
    }

    async fn ensure_schema(&self, schema: &str) -> Result<()> {
        let sql = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
        let row = self.client.query_one(sql, &[&schema]).await;
        let exists: bool = row.map_err(|error| self.failed(error, "looking for the schema"))?.get(0);
        if exists {
            return Ok(());
        }
        self.run(&format!("CREATE SCHEMA {}", ident(schema)), "creating the schema").await
    }

    async fn ensure_type(&self, defined: &TypeDefinition) -> Result<()> {
        let name = ddl::type_name(defined, &self.renaming);
        let sql = "SELECT t.oid, t.typtype::text, \
            ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid) \
            FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = $1 AND t.typname = $2";
        let found = self.client.query_opt(sql, &[&name.schema, &name.name]).await;
        let found = found.map_err(|error| self.failed(error, "looking for a type"))?;
        match (found, ddl::create_type(defined, &self.renaming)) {
            (None, Some(statement)) => self.run(&statement, "creating a type").await,
            (None, None) => Err(self.missing_extension(defined, &name)),
            (Some(row), _) => self.check_type(defined, &name, row.get(1), &row.get::<_, Vec<String>>(2)),
        }
    }

    fn check_type(
        &self,
        defined: &TypeDefinition,
        name: &TableId,
        kind: &str,
        labels: &[String],
    ) -> Result<()> {
        let wrong = |what: String| Error::configuration(what).with_table(&self.target);
        let expected = match &defined.kind {
            TypeKind::Enum { labels: needed } => {
                if let Some(missing) = needed.iter().find(|label| !labels.contains(label)) {
                    return Err(wrong(format!("type {name} exists without some of the source's labels"))
                        .with_remedy(format!(
                            "ALTER TYPE {} ADD VALUE {};",
                            quoted(name),
                            literal(missing)
                        )));
                }
                "e"
            }
            TypeKind::Domain { .. } => "d",
            TypeKind::Composite { .. } => "c",
            TypeKind::Range { .. } => "r",
            TypeKind::Extension { .. } => kind,
        };
        if kind == expected {
            return Ok(());
        }
        Err(wrong(format!("type {name} exists and is of another kind"))
            .with_remedy("rename it, or choose another schema with --schema-map"))
    }

    fn missing_extension(&self, defined: &TypeDefinition, name: &TableId) -> Error {
        let extension = match &defined.kind {
            TypeKind::Extension { extension } => extension.as_str(),
            _ => "",
        };
        Error::configuration(format!("type {name} of extension `{extension}` is missing at the destination"))
            .with_table(&self.target)
            .with_remedy(format!("CREATE EXTENSION {} SCHEMA {};", ident(extension), ident(&name.schema)))
    }

    async fn run(&self, statement: &str, doing: &str) -> Result<()> {
        self.client.batch_execute(statement).await.map_err(|error| self.failed(error, doing))
    }

    fn failed(&self, error: tokio_postgres::Error, doing: &str) -> Error {
        from_client(error, doing).with_table(&self.table.id)
    }
}

/// The statements that empty a table. One that others reference cannot be truncated; the lock waits, as truncating does,
/// for every open load of the table, whose rows the delete would not see.
pub(super) fn empty_statement(target: &TableId, referenced: bool) -> String {
    let target = quoted(target);
    if referenced {
        format!("LOCK TABLE {target} IN SHARE ROW EXCLUSIVE MODE; DELETE FROM {target}")
    } else {
        format!("TRUNCATE {target}")
    }
}
