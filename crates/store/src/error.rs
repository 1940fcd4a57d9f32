//! What SQLite's codes mean for a run.

use std::path::Path;

use rusqlite::ErrorCode;
use syncline_core::{Error, ErrorKind};

/// Classifies an error of the state file by SQLite's code.
pub(crate) fn classify(error: rusqlite::Error, path: &Path) -> Error {
    let shown = path.display();
    let code = match &error {
        rusqlite::Error::SqlInputError { error, .. } => Some(*error),
        other => other.sqlite_error().copied(),
    };
    let Some(code) = code else {
        let what = format!("the state file {shown} does not hold what it should");
        return Error::conflict(what).with_remedy(damaged(path)).with_source(error);
    };
    let (kind, what) = match code.code {
        ErrorCode::DiskFull
        | ErrorCode::ReadOnly
        | ErrorCode::CannotOpen
        | ErrorCode::PermissionDenied
        | ErrorCode::SystemIoFailure
        | ErrorCode::OutOfMemory
        | ErrorCode::TooBig => (ErrorKind::Resource, format!("cannot use the state file {shown}")),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => {
            (ErrorKind::Retriable, format!("the state file {shown} is busy"))
        }
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            (ErrorKind::Conflict, format!("the state file {shown} is damaged"))
        }
        _ => (ErrorKind::Bug, format!("the state file {shown} refused a statement")),
    };
    let classified = Error::new(kind, what).with_code(code.extended_code.to_string()).with_source(error);
    match kind {
        ErrorKind::Resource => classified.with_remedy(format!(
            "see that the disk of {shown} has room and can be written by this user, or choose another --state-dir"
        )),
        ErrorKind::Conflict => classified.with_remedy(damaged(path)),
        _ => classified,
    }
}

fn damaged(path: &Path) -> String {
    format!(
        "move {} away and run again: it is made anew, and only the history of runs is lost",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    fn failure_of(prepare: &str, statement: &str) -> Error {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE a (x)").unwrap();
        connection.execute_batch(prepare).unwrap();
        classify(connection.execute(statement, []).unwrap_err(), Path::new("state.db"))
    }

    #[test]
    fn a_full_disk_and_a_read_only_one_are_resources_with_a_remedy() {
        let full = failure_of("PRAGMA max_page_count = 3", "INSERT INTO a VALUES (zeroblob(100000))");
        let read_only = failure_of("PRAGMA query_only = 1", "INSERT INTO a VALUES (1)");
        for error in [full, read_only] {
            assert_eq!(error.kind(), ErrorKind::Resource, "{error:?}");
            assert!(error.remedy().unwrap().contains("state.db"));
        }
    }

    #[test]
    fn a_wrong_statement_is_our_own_fault() {
        assert_eq!(failure_of("", "SELECT nothing").kind(), ErrorKind::Bug);
    }
}
