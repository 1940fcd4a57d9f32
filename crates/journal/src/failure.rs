//! Errors of this machine's disk, and the one that a writer ended with.

use std::io;
use std::path::Path;

use syncline_core::{Error, ErrorKind};

/// An error of the disk, with what to do about it.
pub(crate) fn disk(what: &str, path: &Path, error: io::Error) -> Error {
    let error = Error::io(format!("journal: {what} {}", path.display()), error);
    if error.kind() == ErrorKind::Resource {
        return error.with_remedy(format!(
            "free space on the disk of {} or give this user the right to write there, then run again: nothing \
             durable was lost",
            path.display()
        ));
    }
    error
}

/// What a writer ended with. Kept apart from [`Error`], because everybody who asks gets one of their own.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    kind: ErrorKind,
    message: String,
    cause: Option<String>,
    remedy: Option<String>,
    code: Option<String>,
}

impl Failure {
    pub(crate) fn of(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.to_string(),
            cause: std::error::Error::source(error).map(ToString::to_string),
            remedy: error.remedy().map(str::to_owned),
            code: error.code().map(str::to_owned),
        }
    }

    pub(crate) fn to_error(&self) -> Error {
        let mut error = Error::new(self.kind, self.message.clone());
        if let Some(cause) = &self.cause {
            error = error.with_source(cause.clone());
        }
        if let Some(remedy) = &self.remedy {
            error = error.with_remedy(remedy.clone());
        }
        if let Some(code) = &self.code {
            error = error.with_code(code.clone());
        }
        error
    }
}
