//! What lanes still need of a journal, and what that costs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use syncline_core::{Lane, Position, TableId};

/// What one lane still needs: the entries that end after `after`, as far as they have changes of its tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// Where the lane stands.
    pub after: Position,
    /// Its tables.
    pub tables: Interest,
}

/// The tables of a lane. Which lane that is, and which tables a lane has, is said here alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interest {
    /// One table that goes apart.
    Only(TableId),
    /// All tables but these: the main lane.
    AllExcept(BTreeSet<TableId>),
}

impl Interest {
    /// The tables of `lane`, while those of `apart` have lanes of their own.
    #[must_use]
    pub fn of(lane: &Lane, apart: &BTreeSet<TableId>) -> Self {
        match lane {
            Lane::Main => Self::AllExcept(apart.clone()),
            Lane::Table(id) => Self::Only(id.clone()),
        }
    }

    /// The lane whose tables these are.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Self::Only(id) => Lane::Table(id.clone()),
            Self::AllExcept(_) => Lane::Main,
        }
    }

    /// Whether a table is in the set.
    #[must_use]
    pub fn covers(&self, table: &TableId) -> bool {
        match self {
            Self::Only(id) => id == table,
            Self::AllExcept(ids) => !ids.contains(table),
        }
    }
}

/// How full a journal is, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk and on their way to it.
    pub bytes: u64,
    /// What they may be.
    pub budget_bytes: u64,
    /// Whether an append is waiting for room: the source is held back.
    pub held_back: bool,
    /// Bytes of changes that each [`Need`] of the last [`crate::Journal::retain`] still pins on disk, in its order.
    /// Counted by segment: a segment in which a lane stands counts with all changes of the lane's tables.
    pub needed: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_has_its_tables_and_tables_have_their_lane() {
        let id = TableId::new("public", "a");
        for apart in [BTreeSet::new(), BTreeSet::from([id.clone()])] {
            for lane in [Lane::Main, Lane::Table(id.clone())] {
                assert_eq!(Interest::of(&lane, &apart).lane(), lane);
            }
            assert_eq!(Interest::of(&Lane::Main, &apart).covers(&id), apart.is_empty());
        }
    }
}
