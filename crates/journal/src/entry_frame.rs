//! The payload of an entry's frame: everything of an entry but its batches.

use syncline_core::{Entry, Position, Transaction};

use crate::bytes::{Malformed, Parsed, Payload, put_bytes, put_count, put_difference, put_varint};

/// An entry without its batches.
#[derive(Debug)]
pub(crate) struct EntryHead {
    /// Counts the entries of a journal, those of discarded ones too. Rising; with holes where entries were let go.
    pub(crate) seq: u64,
    pub(crate) from: Position,
    pub(crate) to: Position,
    pub(crate) transactions: Vec<Transaction>,
    /// Frames with batches that follow.
    pub(crate) batches: usize,
}

impl EntryHead {
    pub(crate) fn is_piece(&self) -> bool {
        self.from == self.to
    }
}

pub(crate) fn put_entry(out: &mut Vec<u8>, seq: u64, entry: &Entry) {
    put_varint(out, seq);
    put_bytes(out, entry.from.as_bytes());
    put_bytes(out, entry.to.as_bytes());
    put_count(out, entry.batches.len());
    put_count(out, entry.transactions.len());
    // Transactions of one entry lie close to each other in number and in time.
    let (mut id, mut time) = (0_u64, 0_i64);
    for transaction in &entry.transactions {
        put_difference(out, transaction.id.wrapping_sub(id).cast_signed());
        put_difference(out, transaction.committed_at_us.wrapping_sub(time));
        (id, time) = (transaction.id, transaction.committed_at_us);
    }
}

pub(crate) fn parse_entry(payload: &[u8]) -> Parsed<EntryHead> {
    let mut payload = Payload::new(payload);
    let seq = payload.varint()?;
    let from = Position::from_bytes(payload.bytes()?);
    let to = Position::from_bytes(payload.bytes()?);
    let batches = usize::try_from(payload.varint()?).map_err(|_| Malformed)?;
    let count = payload.count()?;
    let mut transactions = Vec::with_capacity(count);
    let (mut id, mut time) = (0_u64, 0_i64);
    for _ in 0..count {
        id = id.wrapping_add(payload.difference()?.cast_unsigned());
        time = time.wrapping_add(payload.difference()?);
        transactions.push(Transaction { id, committed_at_us: time });
    }
    if payload.is_at_end() && to >= from {
        Ok(EntryHead { seq, from, to, transactions, batches })
    } else {
        Err(Malformed)
    }
}
