//! With how much care a load is written: each refusal that may be the fault of single rows is answered by a try with more.

use std::collections::BTreeSet;

use syncline_core::{Error, TableId};

use crate::attempt::Attempt;

/// How a load writes its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Care {
    /// At once: a row that is refused fails the load.
    Usual,
    /// The same load was refused for its rows: those at fault are found and set aside.
    Sift,
    /// The same load was refused at its end: rows of these tables refer to others that are not there, or break another rule that
    /// waits for the commit. Whether a row is at fault is known when everything else is written, so theirs come last.
    Refer(BTreeSet<TableId>),
}

impl Care {
    /// The care with which a load is tried again that failed by this error; `None` if that would not help.
    pub(crate) fn after(&self, attempt: &Attempt, error: &Error) -> Option<Self> {
        let table = error.table().filter(|id| attempt.tables.contains_key(*id))?;
        if attempt.context.pipeline.dead_letters_max == 0 {
            return None;
        }
        if !error.rows_at_fault() && !error.breaks_reference() {
            return None;
        }
        match self {
            Self::Usual if error.rows_at_fault() => Some(Self::Sift),
            Self::Usual | Self::Sift => Some(Self::Refer([table.clone()].into())),
            Self::Refer(tables) if tables.contains(table) => None,
            Self::Refer(tables) => Some(Self::Refer(tables.iter().chain([table]).cloned().collect())),
        }
    }

    /// Whether rows of a table come last.
    pub(crate) fn withholds(&self, table: &TableId) -> bool {
        matches!(self, Self::Refer(tables) if tables.contains(table))
    }
}
