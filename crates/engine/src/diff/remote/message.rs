//! What the two ends say to each other. Heads are JSON; what is large or binary is the body.

use serde::{Deserialize, Serialize};
use syncline_core::unique::UniqueColumns;
use syncline_core::{Carry, Column, Prepare, SchemaMap, Selection, TableId, TablePattern, VersionRange};

use super::failure::Failure;
use crate::diff::pairing::Class;
use crate::table_sync::Holding;

/// The first message of the asking end. It holds the token, so it has no `Debug`.
#[derive(Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) connection: String,
    pub(super) token: String,
}

/// The answer to it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Welcome {
    /// Whose native values the side carries.
    pub(super) family: String,
}

/// A question.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// The tables of a selection. Answer: JSON of the tables as the body.
    Discover(Wanted),
    /// Opens a table, in the place of the one that was open; the body is a list of the hash key and [`Open`] as JSON, which may
    /// have many columns. Answer: its number.
    Open,
    /// Scans the open table; the scans are kept. Answer: the digests, as a list of replies.
    Scan { table: u32, ranges: Vec<(u64, u8)>, size: u32 },
    /// Part of a sketch of the last scan; the body is the request. Answer: the reply as the body.
    Sketch { table: u32, range: usize },
    /// Keys that a lookup knows by their hashes. Answer: a list of keys.
    Keys { table: u32 },
    /// Rows that a lookup knows, or whose key it knows. Answer: a list of encoded rows.
    Found { table: u32 },
    /// How often the rows are there that a lookup knows. Answer: a list of counts and rows, by turns.
    Counted { table: u32 },
    /// Rows of these keys, now; the body is a list of encoded keys. Answer: the read mark, and a batch as the body.
    ByKey { table: u32 },
    /// Whether columns are unique. Answer: JSON as the body.
    Unique { table: u32, of: UniqueColumns },
    /// Gives up the snapshots.
    Release,
    /// Whether the other end is still there.
    Ping,
    /// What is about writing.
    Push(PushAsk),
}

/// A question to an agent that writes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PushAsk {
    /// What would stop or hurt a pipeline of these tables; the body is JSON of them. Answer: JSON of what was found, as the
    /// body.
    Check { schema_map: SchemaMap },
    /// Takes a pipeline for as long as the session lasts, or until it is released; the body is JSON of its tables. Answer: JSON
    /// of the tables that were brought in before, as the body.
    Hold { holding: Holding, by: String },
    /// Makes a table, or finds it fit; the body is JSON of it.
    BringIn { prepare: Option<Prepare> },
    /// Opens a table for the requests of a table sync; the body is a list of [`Open`] and of the source's table, cut to the same
    /// columns, both as JSON, which may have many columns. Answer: its number.
    Open { version: usize },
    /// [`syncline_core::Replica::state`]. Answer: the state.
    State { table: u32, range: VersionRange },
    /// [`syncline_core::Replica::manifest`]; the body is the place after which, if there is one. Answer: whether there is more; a
    /// list of keys and versions, by turns, and then of the next place, as the body.
    Manifest { table: u32, range: VersionRange, rows_max: usize, bytes_max: usize },
    /// [`syncline_core::Replica::upsert`]; the body is a batch.
    Upsert { table: u32 },
    /// [`syncline_core::Replica::delete`]; the body is a list of keys.
    Delete { table: u32 },
    /// Forgets a pipeline; its tables stay.
    Forget { holding: Holding },
}

/// What a check found at the other end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Finding {
    pub(super) severity: u8,
    pub(super) table: Option<TableId>,
    pub(super) message: String,
    pub(super) remedy: Option<String>,
}

/// Tables and columns that are wanted. No more than this can be asked of a database: no query, no statement.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wanted {
    include: Vec<TablePattern>,
    exclude: Vec<TablePattern>,
    exclude_columns: Vec<(TablePattern, String)>,
    carry: Carry,
}

impl Wanted {
    pub(super) fn of(selection: &Selection) -> Self {
        Self {
            include: selection.include.clone(),
            exclude: selection.exclude.clone(),
            exclude_columns: selection.exclude_columns.clone(),
            carry: selection.carry,
        }
    }

    pub(super) fn selection(self) -> Selection {
        Selection {
            include: self.include,
            exclude: self.exclude,
            exclude_columns: self.exclude_columns,
            ..Selection::all(self.carry)
        }
    }
}

/// A table as it is compared: part of a body.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) table: TableId,
    /// In the order of the comparison, those of the key first, as they were discovered.
    pub(super) columns: Vec<Column>,
    /// What they are compared as.
    pub(super) classes: Vec<Class>,
    pub(super) key_columns: usize,
}

/// An answer's head.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said<T> {
    Done(T),
    Failed(Failure),
}
