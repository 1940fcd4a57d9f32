//! An error on its way to the other end. It holds what `Display` shows and what an operator can do, never a row's value: such
//! are not in errors.

use serde::{Deserialize, Serialize};
use syncline_core::{Error, ErrorKind, TableId};

/// Longest text that is taken from the other end.
const LETTERS_MAX: usize = 2_000;

const KINDS: [ErrorKind; 12] = [
    ErrorKind::Retriable,
    ErrorKind::Unknown,
    ErrorKind::Permanent,
    ErrorKind::Configuration,
    ErrorKind::Data,
    ErrorKind::Conflict,
    ErrorKind::Guard,
    ErrorKind::DeadLetters,
    ErrorKind::Fenced,
    ErrorKind::Resource,
    ErrorKind::Cancelled,
    ErrorKind::Bug,
];

/// What is told of an error.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    kind: String,
    message: String,
    table: Option<TableId>,
    remedy: Option<String>,
    /// Whether single rows of what was written are at fault.
    #[serde(default)]
    rows_at_fault: bool,
}

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        Self {
            kind: format!("{:?}", error.kind()),
            // It names the table itself.
            message: cut(&error.to_string()),
            table: error.table().cloned(),
            remedy: error.remedy().map(cut),
            rows_at_fault: error.rows_at_fault(),
        }
    }

    /// The error here. Its text comes from elsewhere, so nothing in it steers a terminal.
    pub(super) fn into_error(self) -> Error {
        let kind = KINDS.into_iter().find(|kind| format!("{kind:?}") == self.kind);
        let error = Error::new(kind.unwrap_or(ErrorKind::Permanent), cut(&self.message));
        let error = if self.rows_at_fault { error.with_rows_at_fault() } else { error };
        match self.remedy {
            Some(remedy) => error.with_remedy(cut(&remedy)),
            None => error,
        }
    }
}

pub(super) fn cut(text: &str) -> String {
    text.chars().take(LETTERS_MAX).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
