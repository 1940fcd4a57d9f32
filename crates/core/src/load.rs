//! What a load is: its identity, its parts, and what comes back when it is durable.

use std::fmt;
use std::sync::Arc;

use arrow_array::RecordBatch;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::batch::ChangeBatch;
use crate::checkpoint::Lane;
use crate::key::RowKey;
use crate::name::{Family, PipelineName, TableId};
use crate::position::Position;
use crate::schema::TableSchema;

/// What a load is, apart from when and by whom it is tried. Deduplication tokens, staging and file names derive from
/// this alone, so that a second try is recognised as the same load.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LoadIdentity {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The lane it moves or belongs to.
    pub lane: Lane,
    /// What it holds.
    pub kind: LoadKind,
}

/// What a load holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LoadKind {
    /// The changes (from, to] of a lane.
    Changes {
        /// Exclusive.
        from: Position,
        /// Inclusive.
        to: Position,
    },
    /// One snapshot chunk.
    Chunk {
        /// Of which table.
        table: TableId,
        /// Of which generation of its snapshot.
        generation: u32,
        /// Which chunk.
        n: u32,
    },
    /// Rows read again.
    Reread {
        /// Of which table.
        table: TableId,
        /// Generation of the table's snapshot.
        generation: u32,
        /// Number of the re-read; it shares the numbers of the chunks.
        n: u32,
    },
    /// Rows in which a comparison found the two sides to differ.
    Repair {
        /// Of which table.
        table: TableId,
        /// The run that compared.
        run: i64,
        /// Number of the load in that run.
        n: u32,
    },
    /// Dead letters that are tried again; where the lane stands is not changed.
    Letters,
    /// Only the checkpoint changes (a table is opened, marked, reset).
    Bookkeeping,
}

impl fmt::Display for LoadIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            LoadKind::Changes { from, to } => {
                write!(f, "{}: changes ({from}, {to}] of lane {}", self.pipeline, self.lane)
            }
            LoadKind::Chunk { table, generation, n } => {
                write!(f, "{}: chunk {n} of table {table}, generation {generation}", self.pipeline)
            }
            LoadKind::Reread { table, generation, n } => {
                write!(f, "{}: re-read {n} of table {table}, generation {generation}", self.pipeline)
            }
            LoadKind::Repair { table, run, n } => {
                write!(f, "{}: repair {n} of table {table}, run {run}", self.pipeline)
            }
            LoadKind::Letters => write!(f, "{}: dead letters", self.pipeline),
            LoadKind::Bookkeeping => write!(f, "{}: bookkeeping of lane {}", self.pipeline, self.lane),
        }
    }
}

/// One write of a load, bounded by bytes. Parts apply in order inside the load's one commit.
#[derive(Debug, Clone)]
pub enum Part {
    /// Changes of one table. With a row key: collapsed to one change per key, sorted by key bytes, at most one truncate
    /// and that first; moved rows carry their first old key. Without a row key: uncollapsed, in order.
    ///
    /// Meaning, in this order: truncate if the first operation says so; fill absent columns of each row from the
    /// destination's row at its old key (else at its key); delete deleted keys and old keys of moved rows; write rows.
    Changes(ChangeBatch),
    /// Rows of a chunk in their carried form. The destination has none of their keys.
    Rows {
        /// Their table.
        table: Arc<TableSchema>,
        /// The rows.
        rows: RecordBatch,
    },
    /// Rows of a chunk in the family's bulk form, undecoded.
    Bulk {
        /// Their table.
        table: Arc<TableSchema>,
        /// A piece of the bulk stream; pieces of one load make one stream.
        bulk: Bulk,
    },
    /// Every row of the table goes (a snapshot begins anew).
    Empty(Arc<TableSchema>),
}

/// A piece of a family's bulk stream (for PostgreSQL: of COPY data).
#[derive(Debug, Clone)]
pub struct Bulk {
    /// Who understands it.
    pub family: Family,
    /// Which of the family's bulk forms (`binary`, `text`).
    pub form: &'static str,
    /// The bytes, cut anywhere.
    pub bytes: Bytes,
}

/// What a commit did with the changes it was given, for the sum at the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Rows written or deleted, and chunk rows loaded.
    pub applied: u64,
    /// Changes whose row already was as they wanted it.
    pub unchanged: u64,
    /// Changes put on the re-read list instead.
    pub rereads: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.applied += other.applied;
        self.unchanged += other.unchanged;
        self.rereads += other.rereads;
    }
}

/// A load is durable, and the delta with it.
///
/// For `Part::Changes` of tables with a row key, `applied + unchanged + rereads` is the number of rows in the parts
/// (a truncate counts as one applied); for chunks, `applied` is the number of rows loaded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Durable {
    /// What became of the changes.
    pub counts: Counts,
    /// Rows that went on the re-read list in this commit (`Delta::reread_missing`): their absent columns had no row to
    /// come from. Nothing stands at their keys after it, neither at the old one nor at the new one: what stood there was
    /// another row, from which a later move would be completed.
    pub rereads: Vec<(TableId, RowKey)>,
}
