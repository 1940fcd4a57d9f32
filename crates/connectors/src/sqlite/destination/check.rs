//! What would stop or hurt a pipeline at its destination, with the statement that mends it. Reads only.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use syncline_core::{Error, Finding, Result, SchemaMap, Severity, TableId, TableSchema};

use super::super::OURS;
use super::super::catalog;
use super::super::connect::open_reader;
use super::super::definition::Definition;
use super::super::error::During;
use super::{prepare, refuse_other_schemas};

/// All findings.
pub(super) fn check(path: &Path, tables: &[Arc<TableSchema>], map: &SchemaMap) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if let Err(error) = refuse_other_schemas(map) {
        findings.push(of_error("schema_map", None, &error));
    }
    equal_names(tables, &mut findings);
    for table in tables {
        if let Err(error) = try_definition(table) {
            findings.push(of_error("definition", Some(&table.id), &error));
        }
    }
    if path.exists() {
        let conn = open_reader(path)?;
        for table in tables {
            existing_table(&conn, table, &mut findings)?;
        }
    } else {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            let error = Error::configuration(format!("there is no folder {}", folder.display()))
                .with_remedy("create it, or correct the path in the sqlite: URL");
            findings.push(of_error("folder", None, &error));
        }
    }
    Ok(findings)
}

fn of_error(code: &'static str, table: Option<&TableId>, error: &Error) -> Finding {
    Finding {
        severity: Severity::Error,
        code,
        table: table.cloned(),
        message: error.to_string(),
        remedy: error.remedy().map(str::to_owned),
    }
}

fn equal_names(tables: &[Arc<TableSchema>], findings: &mut Vec<Finding>) {
    let mut seen: BTreeMap<String, &TableId> = BTreeMap::new();
    for table in tables {
        if let Some(other) = seen.insert(table.id.name.to_ascii_lowercase(), &table.id) {
            findings.push(Finding {
                severity: Severity::Error,
                code: "equal_names",
                table: Some(table.id.clone()),
                message: format!("it would land in the same table as {other}: SQLite has no schemas"),
                remedy: Some("exclude one of them, or load them into files of their own".to_owned()),
            });
        }
    }
}

/// Makes the table in memory: collations and functions of the source's application are unknown here.
fn try_definition(table: &TableSchema) -> Result<()> {
    let doing = "trying the table's definition";
    let conn = Connection::open_in_memory().during(doing)?;
    conn.execute(&prepare::create_statement(table)?, []).during(doing)?;
    for (_, sql) in Definition::of(table)?.map(|definition| definition.indexes).unwrap_or_default() {
        conn.execute(&sql, []).during(doing)?;
    }
    Ok(())
}

fn existing_table(conn: &Connection, table: &TableSchema, findings: &mut Vec<Finding>) -> Result<()> {
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE";
    let names = catalog::strings(conn, sql, &[&table.id.name])?;
    let (capture, own): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.starts_with(OURS));
    if own.is_empty() {
        return Ok(());
    }
    let (severity, what) = if capture.is_empty() {
        (
            Severity::Note,
            "they do not fire for rows that are loaded: what they did at the source comes with its rows",
        )
    } else {
        (
            Severity::Warning,
            "they fire for rows that are loaded, because the table is the source of another pipeline",
        )
    };
    findings.push(Finding {
        severity,
        code: "user_triggers",
        table: Some(table.id.clone()),
        message: format!("it has triggers of its own ({}); {what}", own.join(", ")),
        remedy: None,
    });
    Ok(())
}
