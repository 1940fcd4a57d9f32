//! The contracts of a source.
//!
//! Roles are small: every source can be checked and discovered; snapshot and stream are abilities offered through
//! accessors, so that the compiler and the support matrix know who has them.
//!
//! # Rules for every method
//! - *Cancellation*: every future may be dropped at any await; nothing at the source is left half done by that which the
//!   next call of the same method does not mend.
//! - *Idempotence*: `open`, `settled`, `plan`, `finish` and `drop_pipeline` may be repeated at will.
//! - *Retries* belong to the engine. A connector makes one try and classifies its error.
//! - *Values*: the same value comes out of snapshot, stream and `read_keys` bit for bit, in the carriage that
//!   [`Source::discover`] wrote into the column.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::batch::ChangeBatch;
use crate::checkpoint::TableState;
use crate::digests::Digests;
use crate::encoding::BulkRows;
use crate::entry::{Entry, Transaction};
use crate::error::{Error, Result};
use crate::load::Bulk;
use crate::name::{Family, PipelineName, TableId};
use crate::position::Position;
use crate::report::{Finding, Retained};
use crate::schema::{Column, TableSchema};
use crate::selection::{Query, Selection};
use crate::unique::UniqueIndexes;
use crate::versions::Versions;

/// A system that is read.
#[async_trait]
pub trait Source: Send + Sync {
    /// Whose native values it carries.
    fn family(&self) -> Family;

    /// Host, port and database, or path; without secrets.
    fn address(&self) -> String;

    /// Everything that would stop or hurt a pipeline, with the statement that mends it. `streamed`: whether changes are
    /// to be streamed too. Changes nothing.
    ///
    /// # Errors
    /// Only if the check itself cannot be made; what it finds is in the list.
    async fn check(&self, selection: &Selection, streamed: bool) -> Result<Vec<Finding>>;

    /// The selected tables, in name order, without excluded and generated columns.
    ///
    /// # Errors
    /// Configuration if a pattern of the selection matches no table or an excluded column does not exist.
    async fn discover(&self, selection: &Selection) -> Result<Vec<TableSchema>>;

    /// The ability to read what exists.
    fn snapshots(&self) -> Option<&dyn Snapshots>;

    /// The ability to read changes.
    fn streams(&self) -> Option<&dyn Streams>;

    /// The ability to read rows in the order of a version column.
    fn versions(&self) -> Option<&dyn Versions> {
        None
    }

    /// What keeps two rows of this table apart, as far as the system enforces it and says so.
    ///
    /// # Errors
    /// As any read.
    async fn unique_indexes(&self, table: &TableId) -> Result<UniqueIndexes> {
        let _ = table;
        Ok(UniqueIndexes::default())
    }

    /// The ability to sum up rows where they are.
    fn digests(&self) -> Option<&dyn Digests> {
        None
    }

    /// The ability to compute rows that stand for a table.
    fn queries(&self) -> Option<&dyn Queries> {
        None
    }
}

/// The ability to take the rows of queries for tables.
pub trait Queries: Send + Sync {
    /// A source whose only tables are these queries. It can be discovered and read, not streamed; each read of a query is a
    /// transaction of its own that cannot write.
    fn as_source(&self, queries: Vec<Query>) -> Arc<dyn Source>;
}

/// How chunks are to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// Key ranges wherever they are possible, whatever they cost (`--snapshot resumable`).
    pub resumable: bool,
    /// Which moment the rows are of.
    pub moment: Moment,
    /// How many chunks of the table will be read at the same time. Chunks that only follow each other may be large where
    /// a restart cannot go on with them anyway.
    pub readers: usize,
}

/// Which moment the rows of a table are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// One for all tables of the run, unless `resumable`: no stream follows.
    OfRun,
    /// One for the table, or one for each chunk where the chunks are ranges of its key: a stream follows, and what a chunk
    /// saw decides over each change.
    OfTable,
    /// One for each chunk, however the table is cut, so that nothing is held for longer than a chunk takes. A row that is
    /// written meanwhile may come twice, or not at all, where the table is not cut by its key: for who looks again.
    OfChunk,
}

/// A part of a table that is read and loaded at once. The range is the connector's own text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Number, unique within the table's generation.
    pub n: u32,
    /// Which rows.
    pub range: String,
    /// Rows it may have; for progress only.
    pub rows_estimated: u64,
}

/// What remains of a table's snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkPlan {
    /// These chunks; none: everything is loaded.
    Chunks(Vec<Chunk>),
    /// What is loaded cannot be continued: empty the table, raise its generation, plan again. The text says why.
    StartOver(String),
}

/// What a read saw, in the connector's own text (for PostgreSQL, the snapshot).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReadMark(pub String);

impl fmt::Display for ReadMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A piece of a chunk.
#[derive(Debug, Clone)]
pub enum ChunkPart {
    /// Rows in their carried form.
    Rows(RecordBatch),
    /// Undecoded bulk bytes, only where the destination is of the same family.
    Bulk(Bulk),
}

/// A chunk being read.
#[async_trait]
pub trait ChunkReader: Send {
    /// What the read sees; fixed before the first row.
    fn mark(&self) -> &ReadMark;

    /// The next piece, of at most about a megabyte; `None` at the end.
    ///
    /// # Errors
    /// As any read; the chunk is then read again from its beginning.
    async fn next(&mut self) -> Result<Option<ChunkPart>>;
}

/// The outcome of beginning to read a chunk.
pub enum ChunkRead {
    /// It is being read.
    Reading(Box<dyn ChunkReader>),
    /// Its snapshot is lost or the table was rewritten: as [`ChunkPlan::StartOver`].
    StartOver(String),
}

/// The ability to read what a table holds, in chunks that can be cut from the stream exactly.
///
/// Every row key belongs to exactly one chunk of a generation. `read` may be called for several chunks at once.
#[async_trait]
pub trait Snapshots: Send + Sync {
    /// What remains to be read of `table`, given its ledger: of the whole table, or of the parts that join it
    /// ([`crate::Parts::joining`]), which never start over. A connector may hold resources (an exported snapshot) for the
    /// table from here until [`Snapshots::finish`].
    ///
    /// # Errors
    /// As any read.
    async fn plan(
        &self,
        table: &Arc<TableSchema>,
        state: &TableState,
        options: SnapshotOptions,
    ) -> Result<ChunkPlan>;

    /// Begins to read a chunk that `plan` of this process returned.
    ///
    /// # Errors
    /// As any read.
    async fn read(&self, table: &Arc<TableSchema>, chunk: &Chunk) -> Result<ChunkRead>;

    /// A cutter for the bulk pieces of the table's chunks; `None` if its chunks come as rows.
    fn bulk_rows(&self, table: &TableSchema) -> Option<Box<dyn BulkRows>> {
        let _ = table;
        None
    }

    /// A carried value as a person reads it, for a report.
    fn show(&self, column: &Column, value: &[u8]) -> String;

    /// Rows by key, with what the read saw. `keys` holds [`TableSchema::arrow_old`] of a table with a row key. Rows come
    /// in any order; keys without a row are left out.
    ///
    /// # Errors
    /// As any read.
    async fn read_keys(
        &self,
        table: &Arc<TableSchema>,
        keys: &RecordBatch,
    ) -> Result<(RecordBatch, ReadMark)>;

    /// The text of the ledger's range for a chunk of exactly these keys (a re-read).
    ///
    /// # Errors
    /// A bug if the keys have no such text.
    fn range_of_keys(&self, table: &TableSchema, keys: &RecordBatch) -> Result<String>;

    /// The judge over changes of a table in its window, for this ledger.
    ///
    /// # Errors
    /// A conflict if the ledger cannot be read.
    fn cut(&self, table: &Arc<TableSchema>, state: &TableState) -> Result<Box<dyn CutPlan>>;

    /// Whether a read saw every one of these transactions ([`Transaction::id`]).
    ///
    /// # Errors
    /// A conflict if the mark cannot be read.
    fn saw(&self, mark: &ReadMark, transactions: &[u64]) -> Result<bool>;

    /// Whether the chunks of the table's present plan are all read in one snapshot, taken when they were planned. If
    /// not, a chunk read now sees what is committed now, so that waiting changes may be applied before all chunks are
    /// loaded.
    fn reads_one_snapshot(&self, table: &TableId) -> bool;

    /// Gives up what `plan` held for the table.
    async fn finish(&self, table: &TableId);

    /// Gives up what is held between tables, when none is being read: a snapshot that all tables share. The next plan sees
    /// what is committed then.
    async fn release(&self) {}
}

/// What a change of a table in its window does to one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The key's chunk was read before the change: apply it.
    Apply,
    /// The key's chunk saw the change's transaction: skip it.
    Seen,
    /// The key's chunk is not in the ledger; it will be read later, and must then see the change.
    Unread,
    /// A chunk that may hold the key saw the change's transaction, or the key belongs to what was there before: apply it
    /// once more. Changes of a key that a chunk saw all come before those that it did not see, so they end where they were;
    /// what such a change leaves out is read again.
    Again,
    /// Only for a truncate: some chunks saw it and some did not. The snapshot starts over.
    Mixed,
}

/// Verdicts over the two keys of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Over the key the row has after the change (for a delete, the deleted key).
    pub new: Verdict,
    /// Over the key the row had before it; the same as `new` where the key did not change.
    pub old: Verdict,
}

/// Cuts the stream by transaction, per chunk. Pure.
pub trait CutPlan: Send + Sync {
    /// One cut per change of the batch; `transactions` is the entry's list.
    ///
    /// # Errors
    /// A conflict if a key cannot be placed.
    fn judge(&self, batch: &ChangeBatch, transactions: &[Transaction]) -> Result<Vec<Cut>>;
}

/// What a stream is opened for.
#[derive(Debug, Clone)]
pub struct StreamRequest {
    /// The pipeline; names of slot, publication and triggers derive from it.
    pub pipeline: PipelineName,
    /// All tables of the pipeline, as discovered.
    pub tables: Vec<Arc<TableSchema>>,
    /// Whether the user consented to capture triggers (`--capture triggers`).
    pub capture_triggers: bool,
}

/// What a stream stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// What the source has been told it may forget up to; for a new slot its consistent point.
    pub confirmed: Position,
    /// Whether this call made it.
    pub created: bool,
    /// What identifies the log (system, timeline, slot). A different one than remembered is a gap.
    pub identity: String,
    /// What [`Streams::settled`] waits for, taken after everything was set up.
    pub barrier: String,
}

/// The ability to read changes from a log that the source keeps for us.
#[async_trait]
pub trait Streams: Send + Sync {
    /// Makes what the stream needs (publication, slot, triggers), or finds it and adds what is missing. Refuses, with a
    /// configuration error, before anything is made, if a write of the source's own users would fail afterwards.
    ///
    /// # Errors
    /// Configuration as above; conflict if what is found is not ours or has lost its log.
    async fn open(&self, request: &StreamRequest) -> Result<Origin>;

    /// Whom an [`Streams::open`] of this pipeline that has not come back waits for; asked beside it, about once a second.
    /// `None` if it waits for nobody, or if that cannot be said.
    ///
    /// # Errors
    /// As any read.
    async fn opening_waits_for(&self, pipeline: &PipelineName) -> Result<Option<String>> {
        let _ = pipeline;
        Ok(None)
    }

    /// The tables whose changes the pipeline's log has had without a hole so far; asked before [`Streams::open`] adds any.
    /// `None` if nothing is set up yet, or if the stream itself stops a table whose log has a hole.
    ///
    /// # Errors
    /// As any read.
    async fn captured(&self, pipeline: &PipelineName) -> Result<Option<BTreeSet<TableId>>> {
        let _ = pipeline;
        Ok(None)
    }

    /// What these tables are made of now, if rows come and go with a part of a table without a word in the log (partitions
    /// that are attached and detached): for each such table its parts as in [`crate::Parts::known`]. Tables without such
    /// parts are left out. A part that left and came back has another name than before.
    ///
    /// # Errors
    /// As any read.
    async fn parts(&self, tables: &[TableId]) -> Result<BTreeMap<TableId, BTreeMap<String, String>>> {
        let _ = tables;
        Ok(BTreeMap::new())
    }

    /// Which of these parts, as [`Streams::parts`] of this process named them, may hold rows that the log never had: all
    /// but those that are empty in a snapshot which sees them as parts of the table.
    ///
    /// # Errors
    /// As any read.
    async fn filled(&self, table: &TableId, parts: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        let _ = (table, parts);
        Ok(BTreeSet::new())
    }

    /// Whether all transactions that ran when the origin was opened have ended; until then no chunk may be read.
    /// Returns who is waited for.
    ///
    /// # Errors
    /// As any read.
    async fn settled(&self, origin: &Origin) -> Result<Option<String>>;

    /// Streams changes after `from`. Keeps the connection alive and sends what was acknowledged by itself, also while
    /// nobody calls `next`. With a `target`, sees to it that the stream reaches it also on an idle source.
    ///
    /// # Errors
    /// As any read; conflict if `from` is gone from the log.
    async fn stream(
        &self,
        request: &StreamRequest,
        from: &Position,
        target: Option<&Position>,
    ) -> Result<Box<dyn ChangeStream>>;

    /// A position at or after everything committed now.
    ///
    /// # Errors
    /// As any read.
    async fn end(&self) -> Result<Position>;

    /// Bytes (or log entries) between two positions.
    fn distance(&self, from: &Position, to: &Position) -> u64;

    /// A position as the system's own users write it.
    fn show(&self, position: &Position) -> String;

    /// What the pipeline leaves at the source; `None` if nothing.
    ///
    /// # Errors
    /// As any read.
    async fn retained(&self, pipeline: &PipelineName) -> Result<Option<Retained>>;

    /// Drops slot, publication and triggers of a pipeline; what is not there is no error.
    ///
    /// # Errors
    /// As any write.
    async fn drop_pipeline(&self, pipeline: &PipelineName) -> Result<()>;
}

/// What a stream says.
#[derive(Debug)]
pub enum StreamEvent {
    /// A range of the log; ranges follow each other without a gap.
    Entry(Entry),
    /// From here on the changes of this table cannot be decoded; none of them will come. The others go on.
    TableStopped {
        /// Which.
        table: TableId,
        /// Why, with the remedy.
        error: Error,
    },
}

/// A stream of changes.
#[async_trait]
pub trait ChangeStream: Send {
    /// The next event. Returns what is there at once and gathers only while more arrives without waiting, up to about a
    /// megabyte: natural batching begins here. Cancel-safe.
    ///
    /// # Errors
    /// Retriable if the connection was lost: open the stream again.
    async fn next(&mut self) -> Result<StreamEvent>;

    /// Lets the source forget everything up to `position`. Never blocks; sent with the next status.
    fn acknowledge(&mut self, position: &Position);

    /// The source's own end of log as last heard.
    fn source_end(&self) -> Option<Position>;

    /// Ends in order: the source has heard the last acknowledgement, and what the stream held there is free. Bounded by a
    /// few seconds. Dropping the stream without it does the same in the background, if the process lives so long.
    async fn close(&mut self) {}
}
