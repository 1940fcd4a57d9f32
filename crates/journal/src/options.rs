//! Where a journal lives and how much it may hold.

use std::path::PathBuf;

const MIB: u64 = 1024 * 1024;

/// Where a journal lives and how much it may hold.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its own directory; made if it is absent.
    pub dir: PathBuf,
    /// Bytes on disk and on their way to it, beyond which [`crate::Journal::append`] waits. Exceeded by at most one
    /// entry, and by as much as a transaction that has begun needs to its end.
    pub budget_bytes: u64,
    /// Size at which a segment is sealed (or a quarter of the budget, if that is less).
    pub segment_bytes: u64,
    /// Bytes of entries kept in memory for readers that keep up.
    pub memory_bytes: usize,
}

impl Options {
    /// Segments of a sixteenth of the budget (1 to 64 MiB), and a quarter of it (at most 32 MiB) in memory.
    pub fn new(dir: impl Into<PathBuf>, budget_bytes: u64) -> Self {
        let memory_bytes = usize::try_from((budget_bytes / 4).min(32 * MIB)).unwrap_or(usize::MAX);
        let segment_bytes = (budget_bytes / 16).clamp(MIB, 64 * MIB);
        Self { dir: dir.into(), budget_bytes, segment_bytes, memory_bytes }
    }

    /// Where the active segment is sealed.
    pub(crate) fn seal_bytes(&self) -> u64 {
        self.segment_bytes.min(self.budget_bytes / 4)
    }

    /// Where segments that hold little of what is needed are rewritten.
    pub(crate) fn high_water_bytes(&self) -> u64 {
        self.budget_bytes / 4 * 3
    }
}
