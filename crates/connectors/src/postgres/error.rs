//! From SQLSTATE to what the engine does.

use syncline_core::error::MISSING_PART;
use syncline_core::{Error, ErrorKind};

/// A foreign key.
const NO_PARENT: &str = "23503";
/// A row that is too large for its page or for an index.
const TOO_LARGE: &str = "54000";

/// The kind of an error with this SQLSTATE.
pub(crate) fn kind_of(sqlstate: &str) -> ErrorKind {
    match sqlstate {
        // Object in use: the walsender of a dropped connection keeps its slot for a moment.
        "55006" | "55P03" | "57P01" | "57P02" | "57P03" | "57P05" | "40001" | "40P01" | "25P03" | "25P04"
        | "57014" => ErrorKind::Retriable,
        "53100" | "53200" | "53400" | "58030" => ErrorKind::Resource,
        "53300" => ErrorKind::Retriable,
        "3D000" | "3F000" | "42501" | "42P01" | "42704" | "0A000" | "55000" => ErrorKind::Configuration,
        code => match code.get(..2) {
            Some("08") => ErrorKind::Retriable,
            Some("28") => ErrorKind::Configuration,
            Some("22" | "23") => ErrorKind::Data,
            _ if code == TOO_LARGE => ErrorKind::Data,
            _ => ErrorKind::Permanent,
        },
    }
}

/// Whether single rows are refused, and others would not be. A foreign key is not about the row alone: the one it points to
/// may come later in the same load.
fn is_of_rows(code: &str) -> bool {
    (matches!(code.get(..2), Some("22" | "23")) && code != NO_PARENT) || code == TOO_LARGE
}

/// Classifies an error of the SQL client. The server's message is kept, its `DETAIL` is not: it holds row values.
pub(crate) fn from_client(error: tokio_postgres::Error, doing: &str) -> Error {
    if let Some(server) = error.as_db_error() {
        let code = server.code().code();
        // Every other check that a row can fail has a name.
        let homeless = code == "23514" && server.constraint().is_none();
        let mut mapped = Error::new(kind_of(code), safe_message(code, server.message()));
        let code = if homeless { MISSING_PART } else { code };
        mapped = mapped.with_code(code);
        if is_of_rows(code) {
            mapped = mapped.with_rows_at_fault();
        }
        if code == NO_PARENT {
            mapped = mapped.with_broken_reference();
        }
        if let Some(remedy) = remedy_of(code).map(str::to_owned).or_else(|| server.hint().map(str::to_owned))
        {
            mapped = mapped.with_remedy(remedy);
        }
        return mapped.context(doing);
    }
    let kind = if error.is_closed()
        || std::error::Error::source(&error).is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
    {
        ErrorKind::Retriable
    } else {
        ErrorKind::Permanent
    };
    Error::new(kind, lower_message(&error)).with_source(error).context(doing)
}

/// The client's own message with the cause that names the trouble (`connection refused`), never a value.
fn lower_message(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Messages of data errors quote the offending value; only what they are about is kept.
pub(crate) fn safe_message(code: &str, message: &str) -> String {
    if code.starts_with("22") {
        match message.split_once(": \"") {
            Some((what, _)) => what.to_owned(),
            None => message.to_owned(),
        }
    } else {
        message.to_owned()
    }
}

/// What the operator can do about a SQLSTATE, where the server's hint does not say it.
pub(crate) fn remedy_of(code: &str) -> Option<&'static str> {
    Some(match code {
        "28P01" | "28000" => "check user and password in the URL, and pg_hba.conf at the server",
        "3D000" => "create the database first, or correct its name in the URL",
        "42501" => {
            "grant the missing privilege to the user of the URL; `syncline check` prints the statements"
        }
        "53100" => "free disk space at the server, then run again: it goes on from the checkpoint",
        "53300" => "raise max_connections at the server, or lower --workers",
        "53400" => "raise max_replication_slots or max_wal_senders at the server",
        MISSING_PART => "make a partition that takes the row at the destination, then run again",
        "57P03" => "the server is starting or stopping; run again when it is up",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_do_not_reach_messages() {
        assert_eq!(
            safe_message("22P02", "invalid input syntax for type integer: \"secret\""),
            "invalid input syntax for type integer"
        );
        assert_eq!(kind_of("23505"), ErrorKind::Data);
        assert_eq!(kind_of("28P01"), ErrorKind::Configuration);
        assert_eq!(kind_of("08006"), ErrorKind::Retriable);
    }

    #[test]
    fn a_row_is_told_from_its_table() {
        assert!(
            ["22003", "22P02", "23502", "23505", "23514", "23P01", "54000"]
                .iter()
                .all(|code| is_of_rows(code))
        );
        assert!([MISSING_PART, "23503", "42P01", "42703", "40001", ""].iter().all(|code| !is_of_rows(code)));
    }
}
