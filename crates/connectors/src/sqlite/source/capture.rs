//! Triggers and log tables in the source's file.
//!
//! | table | holds |
//! |---|---|
//! | `_syncline_meta` | per pipeline: the log's identity, and up to where it was pruned |
//! | `_syncline_captured` | per pipeline and table: its number, its shape and unique indexes when the triggers were made, and why it is lost, if it is |
//! | `_syncline_log_NAME` | one row per touched key: `seq` (never reused), table, time, the key's values as they are |
//!
//! # What the triggers log
//! Keys only. AFTER triggers log the new key of an insert, the old key of a delete, and of an update the old key and, if
//! it is another one, the new key. BEFORE triggers log the keys of the rows that `INSERT OR REPLACE` or
//! `UPDATE OR REPLACE` would delete without a delete trigger: those that a unique index keeps apart from the new row.
//! One key too many costs a look; it is never wrong.
//!
//! # Never in the way
//! The triggers run inside the application's own statements, perhaps in an SQLite ten years old: only syntax and functions
//! that every version has stand in them, and nothing in them can fail (no constraint, no conversion). Two keys that SQLite calls
//! equal (`1` and `1.0`, `a` and `A` under NOCASE) are two keys here.
//!
//! # Lost
//! A table that was recreated, altered or left the pipeline for a while has changes that nobody logged. It is marked lost,
//! durably. The pipeline hears of it before its next stream is opened ([`whole`]), which captures the table anew.

mod holes;

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use syncline_core::{Error, PipelineName, Result, Retained, StreamRequest, TableSchema};

use super::super::catalog::{self, Table};
use super::super::error::During;
use super::super::quote::{ident, literal};
use super::super::value::{our_number, sql_number};
use super::page::verified;

use holes::check_known;
pub(super) use holes::whole;

/// Milliseconds since 1970. `unixepoch` would read better, but is unknown to an application's older SQLite.
const NOW: &str = "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)";

const META: &str = "_syncline_meta";
const CAPTURED: &str = "_syncline_captured";
const LOST_REMEDY: &str = "run again with --recover diff, which compares and repairs it, or with --prepare truncate, which reads it again; or \
                           start over: `syncline drop NAME`, then sync with --prepare recreate";

/// The name of a pipeline's log.
pub(super) fn log_table(pipeline: &PipelineName) -> String {
    format!("_syncline_log_{pipeline}")
}

/// What a pipeline's log is.
#[derive(Debug, Clone)]
pub(super) struct Log {
    pub(super) created: bool,
    pub(super) identity: String,
    /// Up to where it was pruned.
    pub(super) acknowledged: u64,
    pub(super) end: u64,
}

/// A table with triggers.
#[derive(Debug, Clone)]
pub(super) struct Captured {
    /// Its number in the log.
    pub(super) number: i64,
    pub(super) name: String,
    shape: String,
    unique: BTreeSet<String>,
    /// Why its changes are not all in the log.
    pub(super) lost: Option<String>,
}

/// Makes log and triggers, or finds them and adds what is missing. One transaction: all of it or nothing.
pub(super) fn install(conn: &mut Connection, request: &StreamRequest) -> Result<Log> {
    let doing = "installing the capture triggers";
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate).during(doing)?;
    for table in &request.tables {
        refuse_uncapturable(&transaction, table)?;
    }
    let created = make_tables(&transaction, request)?;
    let known = captured(&transaction, &request.pipeline)?;
    for table in &known {
        check_known(&transaction, request, table)?;
    }
    for table in &request.tables {
        if !known.iter().any(|known| known.name == table.id.name) {
            let number = next_number(&transaction, &request.pipeline)?;
            add(&transaction, &request.pipeline, table, number)?;
        }
    }
    let log = read_log(&transaction, &request.pipeline, created)?;
    transaction.commit().during(doing)?;
    Ok(log)
}

fn refuse_uncapturable(conn: &Connection, table: &TableSchema) -> Result<()> {
    let found = verified(conn, table)?;
    let refuse = |what: String, remedy: &str| {
        Err(Error::configuration(what).with_table(&table.id).with_remedy(remedy.to_owned()))
    };
    if found.key.is_empty() {
        return refuse(
            "a table without a primary key cannot be captured by triggers".to_owned(),
            "give it a primary key, exclude it, or read it with --mode snapshot",
        );
    }
    match found.unique.iter().find(|index| !index.is_known()) {
        Some(index) => refuse(
            format!("the expressions of its unique index {} cannot be read", index.name),
            "exclude the table, or read it with --mode snapshot",
        ),
        None => Ok(()),
    }
}

/// Returns whether the pipeline's log was made now.
fn make_tables(conn: &Connection, request: &StreamRequest) -> Result<bool> {
    let doing = "making the log";
    conn.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {META}(pipeline TEXT PRIMARY KEY, identity TEXT NOT NULL,
           acknowledged INTEGER NOT NULL);
         CREATE TABLE IF NOT EXISTS {CAPTURED}(pipeline TEXT NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL,
           shape TEXT NOT NULL, uniques TEXT NOT NULL, lost TEXT, PRIMARY KEY(pipeline, number),
           UNIQUE(pipeline, name));"
    ))
    .during(doing)?;
    let log = log_table(&request.pipeline);
    let sql = format!("INSERT OR IGNORE INTO {META} VALUES (?1, lower(hex(randomblob(16))), 0)");
    let created = conn.execute(&sql, [request.pipeline.as_str()]).during(doing)? == 1;
    let columns = catalog::strings(conn, "SELECT name FROM pragma_table_info(?1, 'main')", &[&log])?;
    match (created, columns.is_empty()) {
        (false, true) => {
            return Err(
                Error::conflict(format!("the log {log} of this pipeline is gone")).with_changes_missing()
            );
        }
        (true, false) => {
            return Err(Error::conflict(format!("a table {log} exists and is not a log of this pipeline"))
                .with_remedy(format!("rename it, or drop it with: DROP TABLE {}", ident(&log))));
        }
        (true, true) => {
            let sql = format!(
                "CREATE TABLE {}(seq INTEGER PRIMARY KEY AUTOINCREMENT, number INTEGER, at INTEGER)",
                ident(&log)
            );
            conn.execute_batch(&sql).during(doing)?;
        }
        (false, false) => {}
    }
    let wanted = request.tables.iter().map(|table| table.row_key.len()).max().unwrap_or(0);
    for part in columns.len().saturating_sub(3) + 1..=wanted {
        // Without a declared type: a value is stored as it is.
        conn.execute_batch(&format!("ALTER TABLE {} ADD COLUMN k{part}", ident(&log))).during(doing)?;
    }
    Ok(created)
}

fn read_log(conn: &Connection, pipeline: &PipelineName, created: bool) -> Result<Log> {
    let found = find_log(conn, pipeline)?;
    found
        .map(|log| Log { created, ..log })
        .ok_or_else(|| Error::conflict("the pipeline's log is gone").with_changes_missing())
}

/// A pipeline's log, if the file has one.
pub(super) fn find_log(conn: &Connection, pipeline: &PipelineName) -> Result<Option<Log>> {
    if !exists(conn, META)? || !exists(conn, &log_table(pipeline))? {
        return Ok(None);
    }
    let sql = format!("SELECT identity, acknowledged FROM {META} WHERE pipeline = ?1");
    let found: Option<(String, i64)> = conn
        .query_row(&sql, [pipeline.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
        .during("reading the log")?;
    let Some((identity, acknowledged)) = found else { return Ok(None) };
    let acknowledged = our_number(acknowledged);
    Ok(Some(Log { created: false, identity, acknowledged, end: end(conn, pipeline)? }))
}

/// The newest number of a log, also after everything was pruned.
pub(super) fn end(conn: &Connection, pipeline: &PipelineName) -> Result<u64> {
    let newest = conn
        .prepare_cached("SELECT seq FROM main.sqlite_sequence WHERE name = ?1")
        .and_then(|mut statement| statement.query_row([log_table(pipeline)], |row| row.get(0)).optional())
        .during("reading the end of the log")?;
    Ok(newest.map_or(0, our_number))
}

fn exists(conn: &Connection, table: &str) -> Result<bool> {
    conn.prepare_cached("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1")
        .and_then(|mut statement| statement.exists([table]))
        .during("reading the catalogue")
}

/// The tables of a pipeline that have triggers, or had.
pub(super) fn captured(conn: &Connection, pipeline: &PipelineName) -> Result<Vec<Captured>> {
    let doing = "reading the captured tables";
    if !exists(conn, CAPTURED)? {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT number, name, shape, uniques, lost FROM {CAPTURED} WHERE pipeline = ?1");
    let mut statement = conn.prepare_cached(&sql).during(doing)?;
    let rows = statement
        .query_map([pipeline.as_str()], |row| {
            let unique: String = row.get(3)?;
            Ok(Captured {
                number: row.get(0)?,
                name: row.get(1)?,
                shape: row.get(2)?,
                unique: serde_json::from_str(&unique).unwrap_or_default(),
                lost: row.get(4)?,
            })
        })
        .during(doing)?;
    rows.collect::<rusqlite::Result<_>>().during(doing)
}

/// Why a captured table's log has a hole, if it has one.
pub(super) fn hole(conn: &Connection, pipeline: &PipelineName, table: &Captured) -> Result<Option<String>> {
    if table.lost.is_some() {
        return Ok(table.lost.clone());
    }
    let Some(found) = catalog::table(conn, &table.name)? else {
        return Ok(Some("it was dropped or renamed at the source".to_owned()));
    };
    if found.shape() != table.shape {
        return Ok(Some("its definition was changed at the source".to_owned()));
    }
    if !uniques(&found).is_subset(&table.unique) {
        return Ok(Some("a unique index was added at the source".to_owned()));
    }
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE";
    let present = catalog::strings(conn, sql, &[&table.name])?;
    let missing = triggers(&found, pipeline, table.number).iter().any(|(name, _)| !present.contains(name));
    Ok(missing
        .then(|| "its capture triggers are gone (the table was recreated, or they were dropped)".to_owned()))
}

/// The error that stops a lost table.
pub(super) fn lost(table: &TableSchema, why: &str) -> Error {
    Error::new(syncline_core::ErrorKind::Data, format!("changes were not logged: {why}"))
        .with_table(&table.id)
        .with_remedy(LOST_REMEDY)
}

fn uniques(table: &Table) -> BTreeSet<String> {
    table.unique.iter().map(super::super::unique::UniqueIndex::signature).collect()
}

fn next_number(conn: &Connection, pipeline: &PipelineName) -> Result<i64> {
    let sql = format!("SELECT 1 + coalesce(max(number), 0) FROM {CAPTURED} WHERE pipeline = ?1");
    conn.query_row(&sql, [pipeline.as_str()], |row| row.get(0)).during("numbering a table")
}

fn add(conn: &Connection, pipeline: &PipelineName, table: &TableSchema, number: i64) -> Result<()> {
    let doing = "installing the capture triggers";
    let found = verified(conn, table)?;
    for (_, sql) in triggers(&found, pipeline, number) {
        conn.execute(&sql, []).during(doing).map_err(|error| error.with_table(&table.id))?;
    }
    let unique = serde_json::to_string(&uniques(&found))
        .map_err(|error| Error::bug("unique indexes cannot be written as JSON").with_source(error))?;
    let sql =
        format!("INSERT INTO {CAPTURED}(pipeline, number, name, shape, uniques) VALUES (?1, ?2, ?3, ?4, ?5)");
    conn.execute(&sql, (pipeline.as_str(), number, &table.id.name, found.shape(), unique)).during(doing)?;
    Ok(())
}

/// Names and statements of a table's triggers.
fn triggers(table: &Table, pipeline: &PipelineName, number: i64) -> Vec<(String, String)> {
    let writer = Writer { table, log: ident(&log_table(pipeline)), number };
    let changed = writer.key_changed();
    let mut triggers = vec![
        ("ai", "AFTER INSERT", writer.log_values("NEW", "")),
        ("ad", "AFTER DELETE", writer.log_values("OLD", "")),
        (
            "au",
            "AFTER UPDATE",
            writer.log_values("OLD", "") + &writer.log_values("NEW", &format!(" WHERE {changed}")),
        ),
    ];
    if !table.unique.is_empty() {
        triggers.push(("bi", "BEFORE INSERT", writer.log_replaced("")));
        triggers.push(("bu", "BEFORE UPDATE", writer.log_replaced_by_update()));
    }
    triggers
        .into_iter()
        .map(|(kind, when, body)| {
            let name = format!("_syncline_{pipeline}_{number}_{kind}");
            let sql =
                format!("CREATE TRIGGER {} {when} ON {} BEGIN {body} END", ident(&name), ident(&table.name));
            (name, sql)
        })
        .collect()
}

/// Writes the statements inside the triggers.
struct Writer<'a> {
    table: &'a Table,
    log: String,
    number: i64,
}

impl Writer<'_> {
    fn insert(&self, keys: &str) -> String {
        let parts: Vec<_> = (1..=self.table.key.len()).map(|part| format!("k{part}")).collect();
        format!(
            "INSERT INTO {}(number, at, {}) SELECT {}, {NOW}, {keys}",
            self.log,
            parts.join(", "),
            self.number
        )
    }

    fn keys(&self, of: &str) -> String {
        let keys: Vec<_> = self.table.key.iter().map(|key| format!("{of}.{}", ident(&key.name))).collect();
        keys.join(", ")
    }

    fn log_values(&self, of: &str, condition: &str) -> String {
        format!("{}{condition}; ", self.insert(&self.keys(of)))
    }

    /// Differences that a collation or a comparison of numbers would not see count too.
    fn differs(column: &str) -> String {
        let column = ident(column);
        format!(
            "(NEW.{column} IS NOT OLD.{column} COLLATE BINARY OR typeof(NEW.{column}) <> typeof(OLD.{column}))"
        )
    }

    fn key_changed(&self) -> String {
        let parts: Vec<_> = self.table.key.iter().map(|key| Self::differs(&key.name)).collect();
        parts.join(" OR ")
    }

    /// For every unique index, the keys of the rows that cannot stand beside the new one. An integer key is no index: the
    /// row that has it has the key that is logged anyway.
    fn log_replaced(&self, and: &str) -> String {
        let columns: Vec<_> = self.table.columns.iter().map(|column| column.name.as_str()).collect();
        let own: Vec<_> = self.table.key.iter().map(|key| ident(&key.name)).collect();
        let new = |column: &str| format!("NEW.{}", ident(column));
        let one = |index: &super::super::unique::UniqueIndex| {
            let condition = index.conflict(&columns, &new);
            format!(
                "{} FROM {} WHERE {condition}{and}; ",
                self.insert(&own.join(", ")),
                ident(&self.table.name)
            )
        };
        self.table.unique.iter().map(one).collect()
    }

    /// Only for updates that change a value of a unique index: most do not.
    fn log_replaced_by_update(&self) -> String {
        let mut changed = BTreeSet::new();
        for index in &self.table.unique {
            if index.terms.iter().any(|term| term.column.is_none()) || index.predicate.is_some() {
                // An expression may depend on any column.
                return self.log_replaced("");
            }
            changed.extend(index.terms.iter().filter_map(|term| term.column.as_deref()).map(Self::differs));
        }
        let changed: Vec<_> = changed.into_iter().collect();
        self.log_replaced(&format!(" AND ({})", changed.join(" OR ")))
    }
}

/// Drops the triggers of a pipeline, or of one of its tables.
fn drop_triggers(conn: &Connection, pipeline: &PipelineName, number: Option<i64>) -> Result<()> {
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'trigger' AND instr(sql, ?1) > 0
               AND substr(name, 1, length(?2)) = ?2";
    let prefix = match number {
        Some(number) => format!("_syncline_{pipeline}_{number}_"),
        None => format!("_syncline_{pipeline}_"),
    };
    // By the log they write to, not by the name alone: the names of pipeline `a` begin those of `a_b`.
    for trigger in catalog::strings(conn, sql, &[&ident(&log_table(pipeline)), &prefix])? {
        conn.execute_batch(&format!("DROP TRIGGER {}", ident(&trigger)))
            .during("dropping a capture trigger")?;
    }
    Ok(())
}

/// Removes everything of a pipeline from the file, and the common tables with the last.
pub(super) fn remove(conn: &mut Connection, pipeline: &PipelineName) -> Result<()> {
    let doing = "dropping the capture triggers";
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate).during(doing)?;
    drop_triggers(&transaction, pipeline, None)?;
    if exists(&transaction, META)? {
        let log = ident(&log_table(pipeline));
        transaction.execute_batch(&format!("DROP TABLE IF EXISTS {log}")).during(doing)?;
        for table in [CAPTURED, META] {
            let sql = format!("DELETE FROM {table} WHERE pipeline = ?1");
            transaction.execute(&sql, [pipeline.as_str()]).during(doing)?;
        }
        let sql = format!("SELECT count(*) FROM {META}");
        if transaction.query_row(&sql, [], |row| row.get::<_, i64>(0)).during(doing)? == 0 {
            transaction.execute_batch(&format!("DROP TABLE {META}; DROP TABLE {CAPTURED}")).during(doing)?;
        }
    }
    transaction.commit().during(doing)
}

/// Entries deleted in one transaction: the application waits for the lock a few milliseconds at most.
const PRUNE_STEP: u64 = 5_000;

/// Forgets entries up to `upto`, one small step; returns whether there is more to do.
pub(super) fn prune(conn: &mut Connection, pipeline: &PipelineName, upto: u64) -> Result<bool> {
    let doing = "pruning the log";
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate).during(doing)?;
    let log = ident(&log_table(pipeline));
    let first: Option<i64> =
        transaction.query_row(&format!("SELECT min(seq) FROM {log}"), [], |row| row.get(0)).during(doing)?;
    let step = first.map_or(upto, |first| upto.min(our_number(first).saturating_add(PRUNE_STEP)));
    transaction.execute(&format!("DELETE FROM {log} WHERE seq <= ?1"), [sql_number(step)]).during(doing)?;
    let sql = format!("UPDATE {META} SET acknowledged = max(acknowledged, ?2) WHERE pipeline = ?1");
    transaction.execute(&sql, (pipeline.as_str(), sql_number(step))).during(doing)?;
    transaction.commit().during(doing)?;
    Ok(step < upto)
}

/// What a pipeline leaves in the file.
pub(super) fn retained(conn: &Connection, pipeline: &PipelineName) -> Result<Option<Retained>> {
    let Some(log) = find_log(conn, pipeline)? else { return Ok(None) };
    let table = ident(&log_table(pipeline));
    let waiting: i64 = conn
        .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
        .during("reading the log")?;
    let sql =
        "SELECT name FROM main.sqlite_schema WHERE type = 'trigger' AND instr(sql, ?1) > 0 ORDER BY name";
    let triggers = catalog::strings(conn, sql, &[&table])?;
    let drops: String = triggers.iter().map(|name| format!("DROP TRIGGER {}; ", ident(name))).collect();
    let name = literal(pipeline.as_str());
    Ok(Some(Retained {
        what: format!(
            "{} capture triggers and the log {} with {waiting} of {} entries waiting",
            triggers.len(),
            log_table(pipeline),
            log.end
        ),
        bytes: None,
        drop_statement: format!(
            "BEGIN; {drops}DROP TABLE {table}; DELETE FROM {CAPTURED} WHERE pipeline = {name}; \
             DELETE FROM {META} WHERE pipeline = {name}; COMMIT;"
        ),
    }))
}
