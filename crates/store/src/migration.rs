//! The format of the state file and how an older one is brought forward.
//!
//! `user_version` counts the migrations a file has; `application_id` says that it is ours. A migration is never edited
//! once it is released; a new one is appended.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};
use syncline_core::{Error, Result};

use crate::error::classify;

/// "SYNC", so that `file` and we recognise our own.
const APPLICATION_ID: i64 = 0x5359_4E43;

/// All migrations, oldest first.
pub(crate) const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_first.sql"),
    include_str!("../migrations/0002_kinds.sql"),
    include_str!("../migrations/0003_asks.sql"),
    include_str!("../migrations/0004_table_syncs.sql"),
];

/// Brings a file to the newest format, in one transaction.
pub(crate) fn migrate(connection: &mut Connection, migrations: &[&str], path: &Path) -> Result<()> {
    if version_of(connection, path)? == migrations.len() {
        return Ok(());
    }
    let sqlite = |error| classify(error, path);
    // Immediate: two processes that open a new directory at once must not both migrate it.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sqlite)?;
    let version = version_of(&transaction, path)?;
    let missing = migrations.get(version..).ok_or_else(|| newer(version, migrations.len(), path))?;
    for migration in missing {
        transaction.execute_batch(migration).map_err(sqlite)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(sqlite)?;
    let newest = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    transaction.pragma_update(None, "user_version", newest).map_err(sqlite)?;
    transaction.commit().map_err(sqlite)
}

fn version_of(connection: &Connection, path: &Path) -> Result<usize> {
    // In one statement: another process may be making the file at this moment.
    let sql = "SELECT (SELECT application_id FROM pragma_application_id), \
               (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)";
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let read: rusqlite::Result<(i64, i64, i64)> = connection.query_row(sql, [], row);
    let (owner, version, tables) = read.map_err(|error| classify(error, path))?;
    if owner != APPLICATION_ID && tables > 0 {
        return Err(Error::configuration(format!("{} is not a state file of syncline", path.display()))
            .with_remedy("choose another --state-dir"));
    }
    usize::try_from(version).map_err(|_| newer(usize::MAX, MIGRATIONS.len(), path))
}

fn newer(found: usize, known: usize, path: &Path) -> Error {
    Error::configuration(format!(
        "the state file {} has format {found}; this version of syncline knows {known}",
        path.display()
    ))
    .with_remedy("use the newer syncline that wrote it, or choose another --state-dir")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use syncline_core::ErrorKind;

    use super::*;

    const OLD: &[&str] = &["CREATE TABLE a (x INTEGER)"];
    const NEW: &[&str] = &["CREATE TABLE a (x INTEGER)", "ALTER TABLE a ADD COLUMN y INTEGER DEFAULT 7"];

    fn path() -> PathBuf {
        PathBuf::from("state.db")
    }

    #[test]
    fn an_older_format_is_brought_forward_with_its_rows() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, OLD, &path()).unwrap();
        connection.execute("INSERT INTO a (x) VALUES (1)", []).unwrap();
        migrate(&mut connection, NEW, &path()).unwrap();
        migrate(&mut connection, NEW, &path()).unwrap();
        let row: (i64, i64) =
            connection.query_row("SELECT x, y FROM a", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(row, (1, 7));
    }

    #[test]
    fn a_failed_migration_changes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, OLD, &path()).unwrap();
        assert!(migrate(&mut connection, &[OLD[0], "CREATE TABLE b (x)", "nonsense"], &path()).is_err());
        assert_eq!(version_of(&connection, &path()).unwrap(), 1);
        migrate(&mut connection, NEW, &path()).unwrap();
    }

    #[test]
    fn a_newer_format_is_refused_with_a_remedy() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, NEW, &path()).unwrap();
        let error = migrate(&mut connection, OLD, &path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.remedy().unwrap().contains("newer syncline"));
    }

    #[test]
    fn a_file_of_somebody_else_is_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE theirs (x)").unwrap();
        let error = migrate(&mut connection, OLD, &path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
    }
}
