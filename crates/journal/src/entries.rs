//! The entries of a segment's file, in order, as far as somebody wants them.

use std::path::Path;
use std::sync::Arc;

use syncline_core::{Entry, Result, TableId};

use crate::batch_frame::{parse_batch, shape_number};
use crate::entry_frame::{EntryHead, parse_entry};
use crate::failure::disk;
use crate::frame::{Fault, Frames, Head, Kind};
use crate::segment_file::damaged;
use crate::shape::Shape;

/// Reads entries. Memory: one frame, and what was asked for of one entry.
pub(crate) struct Entries<'a> {
    frames: Frames,
    shapes: &'a [Arc<Shape>],
    path: &'a Path,
    payload: Vec<u8>,
}

impl<'a> Entries<'a> {
    /// Entries of a range in which nothing may be torn: below the end of what is durable.
    pub(crate) fn new(frames: Frames, shapes: &'a [Arc<Shape>], path: &'a Path) -> Self {
        Self { frames, shapes, path, payload: Vec::new() }
    }

    /// Offset of what follows the last entry read.
    pub(crate) fn offset(&self) -> u64 {
        self.frames.offset()
    }

    /// The next entry's head; its batches are then to be read or skipped.
    pub(crate) fn next(&mut self) -> Result<Option<EntryHead>> {
        while let Some(head) = self.frames.head().map_err(|fault| self.error(&fault))? {
            if head.kind == Kind::Entry {
                self.read(&head)?;
                let entry = parse_entry(&self.payload).map_err(|_| self.malformed(&head))?;
                return Ok(Some(entry));
            }
            self.frames.skip(&head);
        }
        Ok(None)
    }

    /// Goes past an entry's batches without reading them.
    pub(crate) fn skip_batches(&mut self, entry: &EntryHead) -> Result<()> {
        for _ in 0..entry.batches {
            let head = self.batch_head()?;
            self.frames.skip(&head);
        }
        Ok(())
    }

    /// The entry with its batches of the tables that `wanted` names.
    pub(crate) fn with_batches(
        &mut self,
        entry: EntryHead,
        wanted: impl Fn(&TableId) -> bool,
    ) -> Result<Entry> {
        let mut batches = Vec::with_capacity(entry.batches);
        for _ in 0..entry.batches {
            let head = self.batch_head()?;
            self.read(&head)?;
            let number = shape_number(&self.payload).map_err(|_| self.malformed(&head))?;
            let shape = self.shapes.get(number).ok_or_else(|| self.malformed(&head))?;
            if wanted(&shape.table.id) {
                // The arrays keep the payload.
                let payload = std::mem::take(&mut self.payload);
                let batch = parse_batch(payload, shape, entry.transactions.len());
                batches.push(batch.map_err(|_| self.malformed(&head))?);
            }
        }
        Ok(Entry { from: entry.from, to: entry.to, transactions: entry.transactions, batches })
    }

    fn batch_head(&mut self) -> Result<Head> {
        let head = self.frames.head().map_err(|fault| self.error(&fault))?;
        head.filter(|head| head.kind == Kind::Batch)
            .ok_or_else(|| damaged(self.path, &format!("no batch at byte {}", self.frames.offset())))
    }

    fn read(&mut self, head: &Head) -> Result<()> {
        let outcome = self.frames.payload(head, &mut self.payload);
        outcome.map_err(|fault| self.error(&fault))
    }

    fn malformed(&self, head: &Head) -> syncline_core::Error {
        damaged(self.path, &format!("the frame at byte {} cannot be read", head.at))
    }

    fn error(&self, fault: &Fault) -> syncline_core::Error {
        match fault {
            Fault::Damaged(at) => damaged(self.path, &format!("the checksum at byte {at} does not fit")),
            Fault::Io(error) => disk("cannot read", self.path, std::io::Error::from(error.kind())),
        }
    }
}
