//! Everything that would stop or hurt a pipeline, found before anything is made.
//!
//! What the log cannot carry at all (definitions, sequences, large objects, generated columns, unlogged tables, what ATTACH
//! brings) is said here too, each once.

pub(super) mod server;

use std::collections::BTreeSet;

use syncline_core::{Error, Finding, Result, Selection, Severity, TableId, TableSchema};

use self::server::Server;
use super::catalog::{Catalog, Kind, Relation};
use super::identity;
use crate::postgres::connect::Session;
use crate::postgres::quote;

/// The findings over a selection.
pub(super) async fn check(session: &Session, selection: &Selection, streamed: bool) -> Result<Vec<Finding>> {
    let server = Server::read(session).await?;
    let catalog = Catalog::of_selection(session, selection).await?;
    let mut findings = server.findings();
    if streamed {
        findings.extend(server.stream_findings());
        findings.extend(server.slot_finding());
    }
    for relation in &catalog.relations {
        let excluded = selection.excluded_columns(&relation.id);
        findings.extend(of_reading(relation, &server));
        if streamed {
            findings.extend(of_streaming(relation, &excluded, &server));
        }
        findings.extend(notes(relation, streamed));
    }
    findings.extend(of_others(&catalog, selection));
    findings.extend(of_database(&server, streamed));
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.table.cmp(&b.table)));
    Ok(findings)
}

/// The first thing that forbids streaming these tables, as the error to refuse with. `needs_slot`: whether a slot is
/// still to be made.
pub(super) fn refusal(
    server: &Server,
    catalog: &Catalog,
    tables: &[std::sync::Arc<TableSchema>],
    needs_slot: bool,
) -> Option<Error> {
    let by_name = catalog.by_name();
    let mut findings = server.findings();
    findings.extend(server.stream_findings());
    if needs_slot && server.slots_free < 1 {
        findings.push(server::no_slot());
    }
    for table in tables {
        let Some(relation) = by_name.get(&table.id) else {
            return Some(gone(&table.id));
        };
        let excluded = excluded_of(relation, table);
        findings.extend(of_reading(relation, server));
        findings.extend(of_streaming(relation, &excluded, server));
    }
    findings.into_iter().find(|finding| finding.severity == Severity::Error).map(|finding| {
        let error = Error::configuration(finding.message);
        let error = match &finding.table {
            Some(table) => error.with_table(table),
            None => error,
        };
        match finding.remedy {
            Some(remedy) => error.with_remedy(remedy),
            None => error,
        }
    })
}

fn gone(table: &TableId) -> Error {
    Error::configuration("it is no longer there")
        .with_table(table)
        .with_remedy("run again: the tables are looked up at each start")
}

/// The columns of a relation that a pipeline leaves out.
pub(super) fn excluded_of<'a>(relation: &'a Relation, table: &TableSchema) -> BTreeSet<&'a str> {
    let kept: BTreeSet<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    let carried = relation.attributes.iter().filter(|a| !a.is_generated()).map(|a| a.name.as_str());
    carried.filter(|name| !kept.contains(name)).collect()
}

fn finding(
    severity: Severity,
    code: &'static str,
    table: &TableId,
    message: &str,
    remedy: Option<String>,
) -> Finding {
    Finding { severity, code, table: Some(table.clone()), message: message.to_owned(), remedy }
}

/// Rights to read every row.
fn of_reading(relation: &Relation, server: &Server) -> Vec<Finding> {
    let mut findings = Vec::new();
    let leaves = relation.members.iter().filter(|member| member.is_leaf() && !member.selectable);
    let unreadable =
        std::iter::once(&relation.id).filter(|_| !relation.selectable).chain(leaves.map(|leaf| &leaf.id));
    for id in unreadable {
        let remedy = format!(
            "GRANT USAGE ON SCHEMA {} TO {user}; GRANT SELECT ON {} TO {user};",
            quote::ident(&id.schema),
            quote::table(id),
            user = server.user()
        );
        findings.push(finding(Severity::Error, "select_privilege", id, "it may not be read", Some(remedy)));
    }
    if relation.rows_hidden {
        let remedy = format!("ALTER ROLE {} BYPASSRLS;", server.user());
        let message = "row-level security would hide rows of it";
        findings.push(finding(Severity::Error, "row_security", &relation.id, message, Some(remedy)));
    }
    for member in
        relation.members.iter().filter(|member| matches!(member.kind, Kind::Foreign | Kind::Unlogged))
    {
        let message = "a partition of it is a foreign or unlogged table, whose rows are not in the log";
        let remedy = format!("detach {} or exclude the table", quote::table(&member.id));
        findings.push(finding(Severity::Error, "partition_kind", &relation.id, message, Some(remedy)));
    }
    findings
}

/// What publishing needs, and what it would do.
fn of_streaming(relation: &Relation, excluded: &BTreeSet<&str>, server: &Server) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        identity::problem(relation, excluded, server.version).into_iter().collect();
    if !relation.owned {
        let remedy = format!("ALTER TABLE {} OWNER TO {};", quote::table(&relation.id), server.user());
        let message = "only its owner can publish it";
        findings.push(finding(Severity::Error, "ownership", &relation.id, message, Some(remedy)));
    }
    findings
}

/// What is good to know of a table.
fn notes(relation: &Relation, streamed: bool) -> Vec<Finding> {
    let mut notes = Vec::new();
    if relation.has_generated() {
        let message = "its generated columns are computed at the destination, not copied";
        notes.push(finding(Severity::Note, "generated_columns", &relation.id, message, None));
    }
    if streamed && relation.key_columns().is_empty() {
        let message = "it has no key: changes are applied one by one, and a delete takes one equal row";
        let remedy = format!("ALTER TABLE {} ADD PRIMARY KEY (…);", quote::table(&relation.id));
        notes.push(finding(Severity::Warning, "no_key", &relation.id, message, Some(remedy)));
    }
    if streamed && relation.kind == Kind::Partitioned {
        let message = "ATTACH, DETACH and DROP of a partition are not in the log: a partition that comes with rows is read when it \
            is noticed, one that goes stops the table";
        let remedy = "after a partition was detached or dropped, run again with --prepare truncate: only what has stopped is read \
            again"
            .to_owned();
        notes.push(finding(Severity::Note, "partitions", &relation.id, message, Some(remedy)));
    }
    notes
}

/// Relations that the patterns name and that cannot be replicated. Without patterns only unlogged tables are said:
/// nobody expects a view to be copied.
fn of_others(catalog: &Catalog, selection: &Selection) -> Vec<Finding> {
    let named = |id: &TableId| selection.include.iter().any(|pattern| pattern.matches(id));
    let unlogged = Kind::Unlogged.name();
    let others = catalog.others.iter().filter(|(id, what)| *what == unlogged || named(id));
    others
        .map(|(id, what)| {
            let remedy = (*what == unlogged).then(|| format!("ALTER TABLE {} SET LOGGED;", quote::table(id)));
            let code = if *what == unlogged { "unlogged" } else { "not_a_table" };
            finding(Severity::Warning, code, id, &format!("it is {what} and is left out"), remedy)
        })
        .collect()
}

/// What a database has beside tables.
fn of_database(server: &Server, streamed: bool) -> Vec<Finding> {
    let note = |code: &'static str, message: &str, remedy: &str| Finding {
        severity: Severity::Note,
        code,
        table: None,
        message: message.to_owned(),
        remedy: Some(remedy.to_owned()),
    };
    let mut notes = Vec::new();
    if streamed {
        let remedy = "after a change of a table's columns at the source, run again with --prepare recreate: it stops, and only \
            what has stopped is read again";
        notes.push(note("ddl", "changes of definitions (DDL) are not carried", remedy));
    }
    if server.sequences > 0 {
        let remedy = "before writing to the destination, set its sequences: SELECT setval(…)";
        notes.push(note("sequences", "the values of sequences are not copied", remedy));
    }
    if server.large_objects {
        let remedy = "copy them with pg_dump --large-objects, or store the bytes in a bytea column";
        notes.push(note("large_objects", "large objects are not copied", remedy));
    }
    if server.materialized_views > 0 {
        let remedy = "create and refresh them at the destination";
        notes.push(note("materialized_views", "materialized views are not copied", remedy));
    }
    notes
}
