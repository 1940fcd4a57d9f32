//! What Syncline remembers on this machine: pipelines, their runs, what they last said of themselves, and copies of
//! their checkpoints.
//!
//! It is one SQLite file, `state.db`, that an operator may read with any SQLite tool. Nothing here decides what is
//! loaded: the checkpoint that counts stands at the destination, and a lost state directory loses only history.
//!
//! Not here: the journal (only where it lives), and anything asynchronous. Calls are short and block.

mod asks;
mod error;
mod migration;
mod process;
mod record;
mod runs;
mod store;
mod table_syncs;

pub use asks::{AskId, Asked};
pub use process::{is_alive, this_process};
pub use record::{PipelineRecord, RunId, RunKind, RunOutcome, RunRecord, StatusRecord};
pub use store::Store;
