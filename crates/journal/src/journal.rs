//! The journal as its users see it.

#![expect(
    clippy::unused_async,
    clippy::needless_pass_by_value,
    reason = "signatures are fixed before their bodies"
)]

use syncline_core::{Entry, Error, Position, Result};
use tokio::sync::watch;

use crate::need::{Need, Usage};
use crate::options::Options;
use crate::reader::Reader;

/// A journal; clones are handles of the same one.
///
/// One task appends; any number of readers read. Every method may be called from any task, and every future dropped at
/// any await: an entry whose append was dropped is in the journal whole or not at all.
#[derive(Debug, Clone)]
pub struct Journal;

fn unbuilt() -> Error {
    Error::bug("the journal is not built yet")
}

impl Journal {
    /// Opens the journal in a directory, or makes it. Checks every checksum; cuts a torn tail at the last whole entry, and
    /// pieces of a transaction whose end never came.
    ///
    /// # Errors
    /// Configuration, naming the directory, if another process has it open; conflict, naming the file, if what was
    /// durable is damaged; resource if the directory cannot be written.
    pub async fn open(options: Options) -> Result<Self> {
        let _ = options;
        Err(unbuilt())
    }

    /// Where the first entry kept begins; `None` if there is no entry.
    #[must_use]
    pub fn start(&self) -> Option<Position> {
        None
    }

    /// Where the last whole entry ends, else where the empty journal stands; `None` if that was never set.
    #[must_use]
    pub fn end(&self) -> Option<Position> {
        None
    }

    /// Discards everything, also what is not yet durable. The journal is then empty and ends at `at`, durably. Readers
    /// made before are refused from then on.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub async fn reset(&self, at: Position) -> Result<()> {
        let _ = at;
        Err(unbuilt())
    }

    /// Appends an entry. Waits while the journal is over its budget, except inside a transaction (after a piece); returns
    /// once readers can have the entry, which is before it is durable ([`Journal::durable`]).
    ///
    /// # Errors
    /// Conflict if the entry does not begin at [`Journal::end`]; whatever the writer failed with before (resource if the
    /// disk is full): from then on every append fails so. Cancelled after [`Journal::close`].
    pub async fn append(&self, entry: Entry) -> Result<()> {
        let _ = entry;
        Err(unbuilt())
    }

    /// The end of what is durable, counted by whole entries; [`Position::start`] as long as there is no end. Its sender is
    /// dropped when the writer stops, so that whoever waits for more is told: see [`Journal::failed`].
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<Position> {
        watch::channel(Position::start()).1
    }

    /// What the writer failed with. From then on the journal takes nothing more; opening it again finds all that was
    /// durable.
    #[must_use]
    pub fn failed(&self) -> Option<Error> {
        None
    }

    /// A reader of the entries that end after `after`, and of the pieces that belong to them.
    ///
    /// It gives entries that may not be durable yet. A destination's checkpoint must not pass [`Journal::durable`]: after
    /// a crash the journal would end before the checkpoint, and the source would cut its entries elsewhere. So a load is
    /// written at once, and waits for `durable` before it commits.
    #[must_use]
    pub fn reader(&self, after: &Position) -> Reader {
        let _ = after;
        Reader
    }

    /// Says what lanes still need; all else is freed, here and now or when it pays. Needs only shrink: what was let go
    /// does not come back. Until the first call everything is kept.
    ///
    /// # Errors
    /// As any write to this machine's disk; nothing needed is lost then.
    pub async fn retain(&self, needs: Vec<Need>) -> Result<()> {
        let _ = needs;
        Err(unbuilt())
    }

    /// How full it is.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage { bytes: 0, budget_bytes: 0, held_back: false, needed: Vec::new() }
    }

    /// Makes everything appended durable, stops the writer and gives the directory free. May be repeated.
    ///
    /// # Errors
    /// What the writer failed with.
    pub async fn close(&self) -> Result<()> {
        Err(unbuilt())
    }
}
