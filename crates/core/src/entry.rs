//! What a source emits and a journal keeps: a range of the log with its changes.

use serde::{Deserialize, Serialize};

use crate::batch::ChangeBatch;
use crate::position::Position;

/// One transaction of the source, as far as an entry has changes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// The source's own number of it (an xid). Only the connector that wrote it can say what it means.
    pub id: u64,
    /// When it committed, microseconds since 1970 UTC, by the source's clock; 0 if unknown.
    pub committed_at_us: i64,
}

/// The changes of the log range (`from`, `to`].
///
/// - `to > from`: every transaction that committed in the range is here whole, or its last piece is. Without batches it
///   is *progress*: nothing of interest happened in the range.
/// - `to == from` with batches: a *piece* of a transaction too large for one entry. Pieces follow each other; the entry
///   that closes the transaction has `to > from`. A journal that ends in pieces ends, in truth, before them.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Where the range begins, exclusive: the `to` of the entry before.
    pub from: Position,
    /// Where it ends, inclusive.
    pub to: Position,
    /// The transactions that `ChangeBatch::transactions` counts, in commit order.
    pub transactions: Vec<Transaction>,
    /// Changes, at most one batch per table and shape.
    pub batches: Vec<ChangeBatch>,
}

impl Entry {
    /// Progress without changes.
    #[must_use]
    pub fn progress(from: Position, to: Position) -> Self {
        Self { from, to, transactions: Vec::new(), batches: Vec::new() }
    }

    /// Whether this is a piece of a transaction that goes on in the next entry.
    #[must_use]
    pub fn is_piece(&self) -> bool {
        self.from == self.to
    }

    /// Number of changes.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.batches.iter().map(ChangeBatch::len).sum()
    }

    /// Bytes held in memory, near enough for a budget.
    #[must_use]
    pub fn bytes(&self) -> usize {
        256 + self.transactions.len() * size_of::<Transaction>()
            + self.batches.iter().map(ChangeBatch::bytes).sum::<usize>()
    }
}
