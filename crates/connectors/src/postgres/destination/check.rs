//! What would stop or hurt a pipeline at this destination, with the statement that mends it. Changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use syncline_core::{Finding, Result, SchemaMap, Severity, TableId, TableSchema};
use tokio_postgres::Client;

use super::super::connect::Session;
use super::super::definition::{Definition, TypeKind};
use super::super::error::from_client;
use super::super::quote::{ident, table as quoted};
use super::super::url::Address;
use super::existing::{self, Existing};
use super::rename::Renaming;
use super::{bookkeeping, ddl, finish, fit};

/// Oldest version that has MERGE and settings that can be granted.
const VERSION_MIN: i32 = 150_000;

/// What one check works with.
struct Check<'a> {
    client: &'a Client,
    map: &'a SchemaMap,
    /// Whether this user may switch triggers and foreign keys off for its loads.
    replica: bool,
    /// The pipeline's tables, as they are called at the source and at the destination.
    tables: BTreeSet<TableId>,
    targets: BTreeSet<TableId>,
    findings: Vec<Finding>,
}

/// Checks a destination for these tables.
///
/// # Errors
/// Only if the check itself cannot be made.
pub(super) async fn check(
    address: &Address,
    tables: &[Arc<TableSchema>],
    map: &SchemaMap,
) -> Result<Vec<Finding>> {
    let session = Session::connect(address, "check").await?;
    let ids: BTreeSet<TableId> = tables.iter().map(|table| table.id.clone()).collect();
    let targets = ids.iter().map(|id| map.map(id)).collect();
    let mut check =
        Check { client: &session, map, replica: true, tables: ids, targets, findings: Vec::new() };
    if !check.server().await? {
        return Ok(check.findings);
    }
    check.replica = finish::may_be_replica(&session).await?;
    check.schemas(tables).await?;
    let owned = bookkeeping::format(&session).await?.is_some();
    for table in tables {
        check.table(table, owned).await?;
    }
    if !check.replica {
        check.deferrable_note(tables).await?;
    }
    Ok(check.findings)
}

fn finding(
    severity: Severity,
    code: &'static str,
    table: Option<&TableId>,
    message: impl Into<String>,
    remedy: Option<String>,
) -> Finding {
    Finding { severity, code, table: table.cloned(), message: message.into(), remedy }
}

impl Check<'_> {
    async fn row(&self, sql: &str) -> Result<tokio_postgres::Row> {
        let row = self.client.query_one(sql, &[]).await;
        row.map_err(|error| from_client(error, "checking the destination"))
    }

    fn error(
        &mut self,
        code: &'static str,
        table: Option<&TableId>,
        message: impl Into<String>,
        remedy: Option<String>,
    ) {
        self.findings.push(finding(Severity::Error, code, table, message, remedy));
    }

    /// Whether the server can be a destination at all.
    async fn server(&mut self) -> Result<bool> {
        let sql = "SELECT current_setting('server_version_num')::int4, current_setting('server_version'), \
            pg_is_in_recovery(), current_setting('server_encoding')";
        let row = self.row(sql).await?;
        let (number, version): (i32, String) = (row.get(0), row.get(1));
        if number < VERSION_MIN {
            let message = format!("the server is PostgreSQL {version}; a destination needs 15 or later");
            self.error("server_version", None, message, Some("upgrade the server".into()));
            return Ok(false);
        }
        if row.get(2) {
            let remedy = Some("use the URL of the primary".into());
            self.error("read_only", None, "the server is a standby and cannot be written", remedy);
            return Ok(false);
        }
        let encoding: String = row.get(3);
        if encoding != "UTF8" {
            let message = format!(
                "the database's encoding is {encoding}: text that it lacks characters for stops its table"
            );
            self.findings.push(finding(Severity::Warning, "encoding", None, message, None));
        }
        Ok(true)
    }

    /// Whether missing schemas can be created and tables can be created in those that are there.
    async fn schemas(&mut self, tables: &[Arc<TableSchema>]) -> Result<()> {
        let mut schemas: Vec<String> = vec!["syncline".to_owned()];
        for table in tables {
            let definition = ddl::definition_of(table)?;
            let renaming = Renaming::new(self.map, definition.as_ref());
            schemas.extend(ddl::schemas(table, definition.as_ref(), &renaming));
        }
        schemas.sort();
        schemas.dedup();
        let sql = "SELECT s.name, n.oid IS NOT NULL, \
                CASE WHEN n.oid IS NULL THEN has_database_privilege(current_database(), 'CREATE') \
                    ELSE has_schema_privilege(n.oid, 'CREATE') END, \
                quote_ident(current_user::text), quote_ident(current_database()::text) \
            FROM unnest($1::text[]) AS s(name) LEFT JOIN pg_namespace n ON n.nspname = s.name ORDER BY s.name";
        let rows = self.client.query(sql, &[&schemas]).await;
        for row in rows.map_err(|error| from_client(error, "checking schemas"))? {
            let (schema, exists, allowed): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
            let (user, database): (String, String) = (row.get(3), row.get(4));
            if allowed {
                continue;
            }
            let (message, remedy) = if exists {
                let grant = format!("GRANT USAGE, CREATE ON SCHEMA {} TO {user};", ident(&schema));
                (format!("no right to create tables in schema {schema}"), grant)
            } else {
                let grant = format!("GRANT CREATE ON DATABASE {database} TO {user};");
                (format!("schema {schema} is missing, and there is no right to create it"), grant)
            };
            self.error("create_privilege", None, message, Some(remedy));
        }
        Ok(())
    }

    async fn table(&mut self, table: &Arc<TableSchema>, owned: bool) -> Result<()> {
        let definition = ddl::definition_of(table)?;
        let renaming = Renaming::new(self.map, definition.as_ref());
        let target = renaming.table(&table.id);
        if let Some(long) = fit::long_names(table, &target).into_iter().next() {
            let remedy = Some("exclude the table or the column, or give it a shorter name".to_owned());
            self.error("name_length", Some(&table.id), long, remedy);
            return Ok(());
        }
        if owned && let Err(error) = bookkeeping::refuse_foreign_owner(self.client, None, &target).await {
            // Which pipeline asks is not known here; its own tables are a note, others' are refused when it opens.
            let note = finding(Severity::Note, "owner", Some(&table.id), error.to_string(), None);
            self.findings.push(note);
        }
        if let Some(definition) = &definition {
            self.extensions(table, definition).await?;
            self.future_foreign_keys(table, definition).await?;
        }
        let Some(existing) = existing::read(self.client, &target).await? else { return Ok(()) };
        for misfit in fit::misfits(table, definition.as_ref(), &renaming, &existing) {
            let remedy = Some("change the table as said, or use --prepare recreate".to_owned());
            self.error(
                "columns",
                Some(&table.id),
                format!("the destination's table does not fit: {misfit}"),
                remedy,
            );
        }
        self.existing_table(table, &target, &existing).await
    }

    async fn extensions(&mut self, table: &TableSchema, definition: &Definition) -> Result<()> {
        for defined in &definition.types {
            let TypeKind::Extension { extension } = &defined.kind else { continue };
            let sql = "SELECT EXISTS (SELECT FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
                WHERE n.nspname = $1 AND t.typname = $2)";
            let row = self.client.query_one(sql, &[&defined.schema, &defined.name]).await;
            let there: bool = row.map_err(|error| from_client(error, "checking extensions"))?.get(0);
            if !there {
                let message =
                    format!("extension `{extension}` is missing, whose type {} it uses", defined.name);
                let remedy =
                    format!("CREATE EXTENSION {} SCHEMA {};", ident(extension), ident(&defined.schema));
                self.error("extension", Some(&table.id), message, Some(remedy));
            }
        }
        Ok(())
    }

    /// Foreign keys that would be created, and whose work while loading could neither be switched off nor wait.
    async fn future_foreign_keys(&mut self, table: &TableSchema, definition: &Definition) -> Result<()> {
        if self.replica {
            return Ok(());
        }
        for key in definition.foreign_keys.iter().filter(|key| self.tables.contains(&key.referenced)) {
            if let Some(why) = finish::refused_without_replica(key) {
                let code = if ddl::cascades(&key.suffix) { "cascade" } else { "foreign_key" };
                let remedy = finish::grant_replica(self.client).await?;
                self.findings.push(finding(Severity::Error, code, Some(&table.id), why, Some(remedy)));
            }
        }
        Ok(())
    }

    /// Says once that foreign keys will be otherwise than at the source.
    async fn deferrable_note(&mut self, tables: &[Arc<TableSchema>]) -> Result<()> {
        let mut changed = 0_usize;
        for table in tables {
            let definition = ddl::definition_of(table)?;
            let keys = definition.iter().flat_map(|definition| &definition.foreign_keys);
            let made = keys.filter(|key| self.tables.contains(&key.referenced));
            changed += made.filter(|key| !ddl::is_deferrable(&key.suffix)).count();
        }
        if changed == 0 {
            return Ok(());
        }
        let message = format!(
            "{changed} foreign keys become DEFERRABLE at the destination: this user may not switch them off while loading"
        );
        let remedy = Some(finish::grant_replica(self.client).await?);
        self.findings.push(finding(Severity::Note, "foreign_keys_deferrable", None, message, remedy));
        Ok(())
    }

    /// Foreign keys that stand already between the pipeline's tables: rows of a child may come before those of its parent,
    /// in a commit before it, which no deferring helps against.
    async fn standing_foreign_keys(
        &mut self,
        table: &TableSchema,
        target: &TableId,
        existing: &Existing,
    ) -> Result<()> {
        let between = existing.foreign_keys.iter().filter(|key| self.targets.contains(&key.referenced));
        for name in between.map(|key| key.name.clone()).collect::<Vec<_>>() {
            let message = format!(
                "foreign key `{name}` stands already, and this user may not switch it off: a load may write its rows \
                before those it points to"
            );
            let drop = format!("ALTER TABLE {} DROP CONSTRAINT {};", quoted(target), ident(&name));
            let remedy = format!("{} -- or: {drop}", finish::grant_replica(self.client).await?);
            self.error("foreign_key", Some(&table.id), message, Some(remedy));
        }
        let strangers = existing
            .referencing
            .iter()
            .filter(|key| !self.targets.contains(&key.table) && !ddl::cascades(&key.definition));
        for key in strangers.cloned().collect::<Vec<_>>() {
            let message = format!(
                "foreign key `{}` of {} points to the destination's table, and this user may not switch it off: it may \
                refuse a load that writes a row anew",
                key.name, key.table
            );
            let remedy = Some(finish::grant_replica(self.client).await?);
            self.findings.push(finding(Severity::Warning, "referenced", Some(&table.id), message, remedy));
        }
        Ok(())
    }

    async fn existing_table(
        &mut self,
        table: &TableSchema,
        target: &TableId,
        existing: &Existing,
    ) -> Result<()> {
        let sql = "SELECT pg_has_role(c.relowner, 'USAGE'), c.relhasrules, \
                ARRAY(SELECT t.tgname::text FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal \
                    AND t.tgenabled IN ('A', 'R')), \
                ARRAY(SELECT t.tgname::text FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal \
                    AND t.tgenabled = 'O'), \
                EXISTS (SELECT FROM pg_constraint f WHERE f.contype = 'f' AND (f.confrelid = c.oid) \
                    AND (f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd'))), \
                quote_ident(pg_get_userbyid(c.relowner)), quote_ident(current_user::text) \
            FROM pg_class c WHERE c.oid = $1";
        let row = self.client.query_one(sql, &[&existing.oid]).await;
        let row = row.map_err(|error| from_client(error, "checking a table").with_table(target))?;
        let (owns, rules, cascades): (bool, bool, bool) = (row.get(0), row.get(1), row.get(4));
        let (always, ordinary): (Vec<String>, Vec<String>) = (row.get(2), row.get(3));
        let id = Some(&table.id);
        if !owns {
            let (owner, user): (String, String) = (row.get(5), row.get(6));
            let remedy = Some(format!("GRANT {owner} TO {user};"));
            self.error("owner_privilege", id, "the destination's table belongs to another role", remedy);
        }
        if rules && existing.is_table() {
            let message = "the destination's table has rules, which MERGE refuses";
            self.error("rules", id, message, Some("drop the rules, or use --prepare recreate".into()));
        }
        for trigger in &always {
            let message = format!("trigger `{trigger}` fires for replicated rows too");
            let remedy =
                format!("ALTER TABLE {} ENABLE TRIGGER {}; -- ordinary", quoted(target), ident(trigger));
            self.findings.push(finding(Severity::Warning, "trigger_always", id, message, Some(remedy)));
        }
        if self.replica {
            return Ok(());
        }
        self.standing_foreign_keys(table, target, existing).await?;
        let grant = finish::grant_replica(self.client).await?;
        for trigger in &ordinary {
            let message =
                format!("trigger `{trigger}` fires for every loaded row: this user may not switch it off");
            self.findings.push(finding(Severity::Warning, "trigger", id, message, Some(grant.clone())));
        }
        if cascades {
            let message = "foreign keys with cascading actions point to the destination's table, and this user may \
                not switch them off: loads would change rows of other tables";
            self.error("cascade", id, message, Some(grant));
        }
        Ok(())
    }
}
