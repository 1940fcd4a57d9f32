//! What would stop or hurt a pipeline at its source, with the statement that mends it. Reads only.

use rusqlite::Connection;
use syncline_core::{Finding, Result, Selection, Severity, TableId};

use super::super::catalog::{self, Table};
use super::super::error::During;
use super::super::quote::ident;
use super::super::{MAIN, OURS};
use super::discover;

/// What the tables are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Snapshot,
    Stream,
}

/// All findings.
pub(super) fn check(conn: &Connection, selection: &Selection, wanted: Use) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    journal_mode(conn, wanted, &mut findings)?;
    for table in discover::selected(conn, selection)? {
        if wanted == Use::Stream {
            streamed_table(conn, &table, &mut findings)?;
        }
    }
    virtual_tables(conn, selection, &mut findings)?;
    if wanted == Use::Stream {
        findings.push(finding(
            Severity::Note,
            "capture_triggers",
            None,
            "changes are captured by triggers in the source's file, which log the keys of changed rows (also of rows \
             that INSERT OR REPLACE removes, whether recursive_triggers is on or off); a connection that turns \
             triggers off is not seen",
            Some("allow them with --capture triggers; `syncline drop NAME` removes them"),
        ));
        if conn.is_readonly(rusqlite::MAIN_DB).during("checking the file")? {
            findings.push(finding(
                Severity::Error,
                "read_only",
                None,
                "the file is write-protected, so no triggers can be installed",
                Some("give this user the right to write the file, or read it with --mode snapshot"),
            ));
        }
    }
    Ok(findings)
}

fn finding(
    severity: Severity,
    code: &'static str,
    table: Option<&Table>,
    message: &str,
    remedy: Option<&str>,
) -> Finding {
    Finding {
        severity,
        code,
        table: table.map(|table| TableId::new(MAIN, table.name.as_str())),
        message: message.to_owned(),
        remedy: remedy.map(str::to_owned),
    }
}

/// Only in WAL mode do readers and writers not hold each other up.
fn journal_mode(conn: &Connection, wanted: Use, findings: &mut Vec<Finding>) -> Result<()> {
    let mode: String =
        conn.pragma_query_value(None, "journal_mode", |row| row.get(0)).during("checking the file")?;
    if !mode.eq_ignore_ascii_case("wal") {
        let severity = if wanted == Use::Stream { Severity::Warning } else { Severity::Note };
        let message = format!(
            "the file's journal mode is {mode}: while a chunk or changes are read, commits of the application wait \
             (and fail if it has set no busy timeout)"
        );
        findings.push(finding(severity, "journal_mode", None, &message, Some("PRAGMA journal_mode = WAL")));
    }
    Ok(())
}

fn streamed_table(conn: &Connection, table: &Table, findings: &mut Vec<Finding>) -> Result<()> {
    let mut refuse = |code, message: &str, remedy: &str| {
        findings.push(finding(Severity::Error, code, Some(table), message, Some(remedy)));
    };
    if table.key.is_empty() {
        refuse(
            "primary_key",
            "without a primary key nothing says which row a change is about",
            "give the table a primary key, exclude it, or read it with --mode snapshot",
        );
        return Ok(());
    }
    if let Some(index) = table.unique.iter().find(|index| !index.is_known()) {
        refuse(
            "unique_index",
            &format!("the expressions of unique index {} cannot be read", index.name),
            &format!("DROP INDEX {}, or exclude the table", ident(&index.name)),
        );
    }
    let known = catalog::strings(conn, "SELECT name FROM pragma_collation_list", &[])?;
    let unknown =
        table.key.iter().find(|key| !known.iter().any(|name| name.eq_ignore_ascii_case(&key.collation)));
    if let Some(key) = unknown {
        refuse(
            "collation",
            &format!(
                "the key's collation {} is the application's own; rows cannot be found by it",
                key.collation
            ),
            "exclude the table, or read it with --mode snapshot",
        );
    } else if let Some(condition) = null_condition(table) {
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {} WHERE {condition})", ident(&table.name));
        if conn.query_row(&sql, [], |row| row.get::<_, bool>(0)).during("looking for keys that are NULL")? {
            refuse(
                "null_key",
                "rows have NULL in the primary key, so nothing identifies them",
                &format!("SELECT * FROM {} WHERE {condition}", ident(&table.name)),
            );
        }
    }
    user_triggers(conn, table, findings)
}

/// NULL in a key column that does not forbid it; SQLite allows that outside of integer keys and WITHOUT ROWID tables.
fn null_condition(table: &Table) -> Option<String> {
    if table.integer_key || table.without_rowid {
        return None;
    }
    let open = table.key.iter().filter(|key| table.column(&key.name).is_some_and(|column| !column.not_null));
    let parts: Vec<_> = open.map(|key| format!("{} IS NULL", ident(&key.name))).collect();
    (!parts.is_empty()).then(|| parts.join(" OR "))
}

fn user_triggers(conn: &Connection, table: &Table, findings: &mut Vec<Finding>) -> Result<()> {
    let sql =
        "SELECT name FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 AND name NOT LIKE ?2";
    let names = catalog::strings(conn, sql, &[&table.name, &format!("{OURS}%")])?;
    if !names.is_empty() {
        let message = format!(
            "it has triggers of its own ({}); what they write in selected tables is captured like any other write",
            names.join(", ")
        );
        findings.push(finding(Severity::Note, "user_triggers", Some(table), &message, None));
    }
    Ok(())
}

fn virtual_tables(conn: &Connection, selection: &Selection, findings: &mut Vec<Finding>) -> Result<()> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual' ORDER BY name";
    for name in catalog::strings(conn, sql, &[])? {
        if selection.takes(&TableId::new(MAIN, name.as_str())) {
            let message = format!("the virtual table {name} is not read: its content belongs to its module");
            findings.push(finding(Severity::Note, "virtual_table", None, &message, None));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use syncline_core::Carry;

    use super::*;

    fn codes(sql: &str, wanted: Use) -> Vec<(&'static str, Severity)> {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(sql).unwrap();
        let findings = check(&conn, &Selection::all(Carry::Native), wanted).unwrap();
        findings.into_iter().map(|finding| (finding.code, finding.severity)).collect()
    }

    #[test]
    fn what_cannot_be_streamed_is_an_error_only_for_a_stream() {
        for (sql, code) in [
            ("CREATE TABLE t(a)", "primary_key"),
            ("CREATE TABLE t(a PRIMARY KEY); INSERT INTO t VALUES (NULL)", "null_key"),
        ] {
            assert!(codes(sql, Use::Stream).contains(&(code, Severity::Error)), "{sql}");
            assert!(codes(sql, Use::Snapshot).iter().all(|(_, s)| *s < Severity::Error), "{sql}");
        }
    }

    #[test]
    fn a_healthy_table_has_notes_at_most() {
        let sql = "CREATE TABLE t(a INTEGER PRIMARY KEY, b UNIQUE); CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END;
                   CREATE UNIQUE INDEX i ON t(lower(b)) WHERE b > 'x'";
        let codes = codes(sql, Use::Stream);
        assert!(codes.contains(&("user_triggers", Severity::Note)));
        assert!(codes.iter().all(|(_, severity)| *severity < Severity::Error), "{codes:?}");
    }
}
