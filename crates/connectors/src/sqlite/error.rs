//! From SQLite's result codes to what the engine does.

use rusqlite::ErrorCode;
use rusqlite::ffi;
use syncline_core::{Error, ErrorKind, Result};

/// The kind of an error with this code.
fn kind_of(code: ErrorCode) -> ErrorKind {
    match code {
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::SchemaChanged
        | ErrorCode::FileLockingProtocolFailed => ErrorKind::Retriable,
        ErrorCode::DiskFull
        | ErrorCode::OutOfMemory
        | ErrorCode::ReadOnly
        | ErrorCode::PermissionDenied
        | ErrorCode::SystemIoFailure => ErrorKind::Resource,
        ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig => ErrorKind::Data,
        ErrorCode::CannotOpen => ErrorKind::Configuration,
        ErrorCode::OperationInterrupted => ErrorKind::Cancelled,
        _ => ErrorKind::Permanent,
    }
}

/// What the operator can do, where the kind alone does not say it.
fn remedy_of(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            "another process holds the file's lock for long; end its transaction, then run again"
        }
        ErrorCode::DatabaseCorrupt => {
            "the file is damaged: restore it from a backup, or save what is left with `sqlite3 FILE .recover`"
        }
        ErrorCode::NotADatabase => "the file is not a SQLite database (or is encrypted); correct the URL",
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
            "give this user the right to write the file and its folder"
        }
        ErrorCode::CannotOpen => "check that the path exists and that this user may read and write it",
        ErrorCode::SystemIoFailure => "look at the state of the disk in the system's log",
        _ => return None,
    })
}

/// Classifies an error of the SQLite library.
pub(super) fn from_sqlite(error: rusqlite::Error, doing: &str) -> Error {
    let (failure, message) = match &error {
        rusqlite::Error::SqliteFailure(failure, message) => (*failure, message.clone()),
        rusqlite::Error::SqlInputError { error, msg, .. } => (*error, Some(msg.clone())),
        _ => return Error::bug(lower(&error.to_string())).with_source(error).context(doing),
    };
    let code = format!("SQLite {}", failure.extended_code);
    if failure.extended_code == ffi::SQLITE_CONSTRAINT_TRIGGER {
        // The text is the application's own `RAISE`, which may quote the row.
        let refused = Error::new(ErrorKind::Data, "a trigger refused the row").with_code(code);
        return refused.with_rows_at_fault().context(doing);
    }
    let message = message.unwrap_or_else(|| failure.to_string());
    let mapped = Error::new(kind_of(failure.code), lower(&message)).with_code(code);
    let mapped = if is_of_rows(&failure) { mapped.with_rows_at_fault() } else { mapped };
    let mapped = match remedy_of(failure.code) {
        Some(remedy) => mapped.with_remedy(remedy),
        None => mapped,
    };
    mapped.with_source(error).context(doing)
}

/// SQLite's own messages name tables, columns and constraints, never values; only their first letter is changed.
fn lower(message: &str) -> String {
    let mut letters = message.chars();
    match (letters.next(), message.chars().nth(1)) {
        (Some(first), Some(second)) if second.is_lowercase() => first.to_lowercase().chain(letters).collect(),
        _ => message.to_owned(),
    }
}

/// Whether single rows are refused, and others would not be. Foreign keys are checked over all rows of a load.
fn is_of_rows(failure: &ffi::Error) -> bool {
    kind_of(failure.code) == ErrorKind::Data && failure.extended_code != ffi::SQLITE_CONSTRAINT_FOREIGNKEY
}

/// Whether a statement failed because another row has its key or a unique value of it.
pub(super) fn is_conflict(error: &rusqlite::Error) -> bool {
    matches!(
        error,
        rusqlite::Error::SqliteFailure(failure, _) if matches!(
            failure.extended_code,
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID
        )
    )
}

/// Turns a result of the SQLite library into ours.
pub(super) trait During<T> {
    /// Classifies the error and says what was being done.
    fn during(self, doing: &str) -> Result<T>;
}

impl<T> During<T> for rusqlite::Result<T> {
    fn during(self, doing: &str) -> Result<T> {
        self.map_err(|error| from_sqlite(error, doing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(extended_code: i32, message: &str) -> Error {
        from_sqlite(
            rusqlite::Error::SqliteFailure(ffi::Error::new(extended_code), Some(message.to_owned())),
            "writing",
        )
    }

    #[test]
    fn codes_decide_not_texts() {
        assert_eq!(failure(ffi::SQLITE_FULL, "x").kind(), ErrorKind::Resource);
        assert_eq!(failure(ffi::SQLITE_BUSY_SNAPSHOT, "x").kind(), ErrorKind::Retriable);
        assert_eq!(failure(ffi::SQLITE_CONSTRAINT_NOTNULL, "x").kind(), ErrorKind::Data);
        assert!(failure(ffi::SQLITE_CONSTRAINT_NOTNULL, "x").rows_at_fault());
        assert!(!failure(ffi::SQLITE_CONSTRAINT_FOREIGNKEY, "x").rows_at_fault());
        assert!(!failure(ffi::SQLITE_FULL, "x").rows_at_fault());
        assert_eq!(failure(ffi::SQLITE_CORRUPT, "x").kind(), ErrorKind::Permanent);
        assert!(failure(ffi::SQLITE_NOTADB, "x").remedy().is_some());
    }

    #[test]
    fn what_a_trigger_raises_is_not_repeated() {
        let error = failure(ffi::SQLITE_CONSTRAINT_TRIGGER, "secret 42");
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
}
