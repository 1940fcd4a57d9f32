//! The contracts of a destination.
//!
//! # Rules
//! - *Fence*: [`Destination::open`] takes the pipeline's lock, raises its fencing token, and reads the checkpoint, in this
//!   order. Every commit checks the token in its own transaction; an older one fails with `Fenced` and changes nothing.
//! - *Order*: loads of one lane are committed one after another by the engine. Loads of different chunks, and a load of
//!   changes beside them, run at the same time.
//! - *Idempotence*: a load commits once. After an `Unknown` outcome the engine reads the checkpoint, compares the delta
//!   ([`crate::Checkpoint::standing`]) and tries again only if it fits.
//! - *Cancellation*: dropping a [`Load`] before `commit` rolls it back. A `commit` whose future is dropped has an unknown
//!   outcome.
//! - *Retries* belong to the engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, Delta};
use crate::error::{Error, Result};
use crate::letter::{Letter, LetterId};
use crate::load::{Durable, LoadIdentity, Part};
use crate::name::{Family, PipelineName, TableId};
use crate::report::Finding;
use crate::schema::TableSchema;
use crate::selection::SchemaMap;

/// A system that is written.
#[async_trait]
pub trait Destination: Send + Sync {
    /// Whose native values it understands.
    fn family(&self) -> Family;

    /// Host, port and database, or path; without secrets.
    fn address(&self) -> String;

    /// Everything that would stop or hurt a pipeline with these tables, with the statement that mends it. Changes nothing.
    ///
    /// # Errors
    /// Only if the check itself cannot be made.
    async fn check(&self, tables: &[Arc<TableSchema>], map: &SchemaMap) -> Result<Vec<Finding>>;

    /// Takes the pipeline: lock, fence, bookkeeping (made if absent). A dead holder on this host is ended and waited for;
    /// a foreign one is waited for up to 10 s while its heartbeat moves.
    ///
    /// # Errors
    /// Configuration, naming the holder, if another process holds the pipeline.
    async fn open(
        &self,
        pipeline: &PipelineName,
        holder: &Holder,
        map: &SchemaMap,
    ) -> Result<Arc<dyn DestinationSession>>;

    /// Which of these tables of the source belong to a pipeline here, and to which; the others are left out. Reads only,
    /// and makes nothing.
    ///
    /// # Errors
    /// As any read; configuration if the bookkeeping has a newer format.
    async fn owners(&self, tables: &[TableId], map: &SchemaMap) -> Result<BTreeMap<TableId, PipelineName>>;

    /// Forgets a pipeline: its rows of the bookkeeping, and the bookkeeping itself with the last pipeline. The tables it
    /// loaded stay.
    ///
    /// # Errors
    /// As any write; configuration if the pipeline is held by a running process.
    async fn drop_pipeline(&self, pipeline: &PipelineName) -> Result<()>;

    /// The dead letters of a pipeline, whoever holds it; none if it is not known here.
    ///
    /// # Errors
    /// As any read.
    async fn letters(&self, pipeline: &PipelineName) -> Result<BTreeMap<LetterId, Letter>>;
}

/// Who holds a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Host name.
    pub host: String,
    /// The kernel's id of this boot: a process id means nothing after a reboot.
    pub boot_id: String,
    /// Process id.
    pub pid: u32,
    /// Start of the process in clock ticks since boot, so that a reused process id is seen.
    pub process_start: u64,
}

/// What a destination promises about a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// Data and checkpoint commit together.
    Atomic,
    /// No transactions: the load's identity is stored before its first write, and after a crash exactly this load is
    /// formed again.
    Repeatable,
}

/// What to do with a table that exists at the destination before its first snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prepare {
    /// Drop it and create it anew.
    Recreate,
    /// Keep its definition, empty it.
    Truncate,
    /// Keep its rows; rows with the same key are overwritten.
    Keep,
}

/// What `prepare` found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// The table was created, or was there and empty: chunks may be appended without looking.
    Empty,
    /// It holds rows that stay: chunks must be merged.
    HasRows,
}

/// A step after a table's chunks are loaded. Each is idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishStep {
    /// A unique index on the row key: the primary key, if that is the row key. Needed before changes are applied.
    Key,
    /// All other indexes, a primary key that is not the row key among them, and statistics. After the window.
    Indexes,
    /// Foreign keys between tables of the pipeline. When all of them are consistent.
    ForeignKeys,
}

/// A pipeline held at its destination.
#[async_trait]
pub trait DestinationSession: Send + Sync {
    /// The fencing token.
    fn fence(&self) -> u64;

    /// What a commit promises.
    fn guarantee(&self) -> Guarantee;

    /// The checkpoint as it stands, read under the fence.
    ///
    /// # Errors
    /// Fenced if the token is no longer the newest.
    async fn checkpoint(&self) -> Result<Checkpoint>;

    /// Creates or prepares a table before its first chunk. Without `mode` a table with rows is refused.
    ///
    /// # Errors
    /// Configuration, with the choices, if the table has rows and no mode was given, or if its columns do not fit.
    async fn prepare(&self, table: &Arc<TableSchema>, mode: Option<Prepare>) -> Result<Prepared>;

    /// Brings a table that was prepared before up to what has become of it at the source since, as far as changes need it:
    /// new parts. What is there is left alone. Says whether anything was made. A load that lacks a part fails with the code
    /// [`crate::error::MISSING_PART`].
    ///
    /// # Errors
    /// Data, with the remedy, if something else stands where a part belongs; else as any write.
    async fn extend(&self, _table: &Arc<TableSchema>) -> Result<bool> {
        Ok(false)
    }

    /// Begins a load. Several may be open at once on different lanes and chunks.
    ///
    /// # Errors
    /// As any connection.
    async fn begin(&self, identity: &LoadIdentity) -> Result<Box<dyn Load>>;

    /// Makes a step of a table's completion.
    ///
    /// # Errors
    /// Data, if the rows do not allow the index or key.
    async fn finish(&self, table: &Arc<TableSchema>, step: FinishStep) -> Result<()>;

    /// Releases lock and connections.
    async fn close(&self);
}

/// A load in progress. Dropped: rolled back.
#[async_trait]
pub trait Load: Send {
    /// Writes a part. Parts apply in order.
    ///
    /// # Errors
    /// Data, with the table, if a row cannot be stored: the load is then to be dropped.
    async fn write(&mut self, part: Part) -> Result<()>;

    /// As [`Load::write`] for a part of changes, or of rows ([`Part::Rows`]), of which some may be refused: what the other end
    /// has to say about them is heard at once, and a part that it refuses for its rows ([`Error::rows_at_fault`]) leaves the load as it was before.
    /// That error is returned as a value; the load goes on.
    ///
    /// # Errors
    /// Whatever is not the fault of single rows: the load is then to be dropped.
    async fn offer(&mut self, part: Part) -> Result<Option<Error>>;

    /// Checks now what else would be checked by the commit (foreign keys that wait for it), and from now on with each
    /// [`Load::offer`]. If that does not hold, the error is returned as a value, and offers go on without it.
    ///
    /// # Errors
    /// Whatever is not the fault of rows: the load is then to be dropped.
    async fn check_now(&mut self) -> Result<Option<Error>> {
        Ok(None)
    }

    /// Commits the parts and the delta together.
    ///
    /// # Errors
    /// Unknown if the answer was lost; fenced; conflict if the delta does not fit. Nothing is written then (or, if
    /// unknown, all or nothing).
    async fn commit(self: Box<Self>, delta: &Delta) -> Result<Durable>;
}
