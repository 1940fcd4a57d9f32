//! Reading a journal in order, from memory where that has it, else from disk.

use std::sync::Arc;

use syncline_core::{Entry, Error, Result};

/// Reads entries in order. Made by [`crate::Journal::reader`].
///
/// - Both methods may be dropped at any await and called again; no entry is lost or given twice.
/// - Where the journal has let go of changes that no lane needed, the reader finds progress in their place, so the
///   entries it gives always follow each other without a gap.
/// - A reader never waits for durability: see [`crate::Journal::reader`].
#[derive(Debug)]
pub struct Reader;

impl Reader {
    /// The next entry; waits for it.
    ///
    /// # Errors
    /// Conflict, naming the file, if a segment is damaged, or if the journal was reset under this reader; cancelled if it
    /// was closed; the writer's error if it failed and nothing more is there.
    #[expect(clippy::unused_async, reason = "the signature is fixed before the body")]
    pub async fn next(&mut self) -> Result<Arc<Entry>> {
        Err(Error::bug("the journal cannot be read yet"))
    }

    /// The next entry if it is there, `None` if nothing more is there now. May read the disk, never waits for an append.
    ///
    /// # Errors
    /// As [`Reader::next`].
    #[expect(clippy::unused_async, reason = "the signature is fixed before the body")]
    pub async fn try_next(&mut self) -> Result<Option<Arc<Entry>>> {
        Err(Error::bug("the journal cannot be read yet"))
    }
}
