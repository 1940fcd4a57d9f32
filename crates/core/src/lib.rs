//! The words of Syncline as types: schema, change batch, position, checkpoint, error, and the contracts that a
//! connector fulfils.
//!
//! Everything here is data and traits. No file, socket, clock or thread is touched: that is what lets every other
//! room depend on this one, and this one on none.

pub mod batch;
pub mod checkpoint;
pub mod civil;
mod class;
pub mod destination;
pub mod digests;
pub mod encoding;
pub mod entry;
pub mod error;
pub mod failpoint;
pub mod key;
mod key_values;
pub mod letter;
pub mod load;
pub mod name;
pub mod number;
pub mod position;
pub mod replica;
pub mod report;
pub mod schema;
pub mod selection;
pub mod source;
pub mod unique;
pub mod versions;

pub use batch::{ChangeBatch, ColumnMask, Masks, OldKeys, Operation};
pub use checkpoint::{
    Change, Checkpoint, ChunkEntry, Delta, Lane, Misfit, Parts, Standing, TablePhase, TableState,
};
pub use class::Class;
pub use destination::{
    Destination, DestinationSession, FinishStep, Guarantee, Holder, Load, Prepare, Prepared,
};
pub use digests::Digests;
pub use entry::{Entry, Transaction};
pub use error::{Error, ErrorKind, Reaction, Result};
pub use key::RowKey;
pub use letter::{Letter, LetterId};
pub use load::{Bulk, Counts, Durable, LoadIdentity, LoadKind, Part};
pub use name::{Family, PipelineName, TableId};
pub use position::Position;
pub use replica::{
    Manifest, ManifestBounds, ManifestKey, ManifestPlace, Replica, ReplicaState, Version, VersionRange,
};
pub use report::{Finding, Retained, Severity};
pub use schema::{Carriage, Carry, Column, DataType, NativeDefinition, TableSchema};
pub use selection::{Query, SchemaMap, Selection, TablePattern};
pub use source::{
    ChangeStream, Chunk, ChunkPart, ChunkPlan, ChunkRead, ChunkReader, Cut, CutPlan, Moment, Origin, Queries,
    ReadMark, SnapshotOptions, Snapshots, Source, StreamEvent, StreamRequest, Streams, Verdict,
};
pub use versions::{Bound, VersionPage, VersionPlace, VersionRows, VersionState, Versions};
