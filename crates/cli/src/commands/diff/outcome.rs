//! What became of a table.

use serde::Serialize;
use syncline_engine::diff::{Exceeded, NotUnique, Repaired, TableDiff};

use crate::exit::Exit;

/// One table, compared.
#[derive(Debug, Clone, Serialize)]
pub(super) struct TableOutcome {
    /// What was found.
    pub(super) diff: TableDiff,
    /// What was decided, and done.
    pub(super) decision: Decision,
    /// What the destination enforces and nobody looked at before rows were written, or would be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) unique_not_checked: Vec<String>,
}

/// What was decided about a table, and done.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Decision {
    /// There is nothing to do.
    Equal,
    /// It differs; nothing else was asked for.
    Compared,
    /// It differs, and would be repaired.
    Planned,
    /// The guard stopped its repair, or an approved plan does not have it (then nothing is exceeded).
    Stopped {
        /// What would be too much.
        exceeded: Vec<Exceeded>,
    },
    /// Columns that should be unique are not; nothing was written.
    NotUnique(Vec<NotUnique>),
    /// The differing rows are too many to be named.
    TooMany,
    /// It was repaired.
    Repaired(Repaired),
    /// Its repair failed. Nothing of it was written.
    Failed {
        /// Why, with the remedy.
        error: String,
        #[serde(skip)]
        exit: Exit,
    },
}

impl TableOutcome {
    /// Whether the two sides are not equal now, as far as is known.
    pub(super) fn is_different(&self) -> bool {
        match &self.decision {
            Decision::Equal => false,
            Decision::NotUnique(_) => !self.diff.is_equal(),
            Decision::Repaired(done) => done.left > 0,
            _ => true,
        }
    }

    /// How the process ends if this is all it did.
    pub(super) fn exit(&self) -> Exit {
        match &self.decision {
            Decision::Failed { exit, .. } => *exit,
            Decision::NotUnique(_) => Exit::FAILED,
            Decision::Stopped { .. } | Decision::TooMany => Exit::GUARD,
            _ if self.is_different() => Exit::DIFFERENT,
            _ => Exit::DONE,
        }
    }

    /// Lets go of the values of rows: they are shown once and not kept.
    pub(super) fn forget_values(&mut self) {
        self.diff.samples.clear();
        if let Decision::NotUnique(violations) = &mut self.decision {
            violations.iter_mut().for_each(|violation| violation.some.clear());
        }
    }
}
