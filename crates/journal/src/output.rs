//! Entries on their way into a segment's file: encoded, gathered, written in large pieces.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use syncline_core::{ChangeBatch, Entry, Error, Result};

use crate::batch_frame::BatchEncoder;
use crate::entry_frame::put_entry;
use crate::failure::disk;
use crate::frame::{self, Kind};
use crate::segment::{Note, Segment};
use crate::shape::{Interner, ShapeTable};

/// Handed to the system at once; the buffer grows beyond it by at most one entry.
const WRITE_BYTES: usize = 1024 * 1024;

/// First bytes of a group frame's payload: rare enough to be searched for in a damaged file.
pub(crate) const GROUP_MAGIC: &[u8; 16] = b"\x89syncline group\n";

/// A segment being written at its end.
pub(crate) struct Output {
    file: Arc<File>,
    path: PathBuf,
    /// End of what is written.
    offset: u64,
    buffer: Vec<u8>,
    shapes: ShapeTable,
    encoder: BatchEncoder,
    notes: Vec<Note>,
}

impl Output {
    /// Goes on where a segment ends.
    pub(crate) fn resume(segment: &Segment) -> Result<Self> {
        Ok(Self {
            file: segment.file.clone(),
            path: segment.path.clone(),
            offset: segment.bytes,
            buffer: Vec::new(),
            shapes: ShapeTable::resume(segment.shapes.clone()),
            encoder: BatchEncoder::new()?,
            notes: Vec::new(),
        })
    }

    /// End of the segment, with what is not yet written.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Marks that all before was synced. A later reader that finds damage before a group knows that it is no torn tail.
    pub(crate) fn begin_group(&mut self) -> Result<()> {
        let offset = self.end();
        frame::append(&mut self.buffer, Kind::Group, |out, _| {
            out.extend_from_slice(GROUP_MAGIC);
            out.extend(offset.to_le_bytes());
            Ok(())
        })
    }

    /// Encodes an entry, and writes if enough has gathered.
    pub(crate) fn put(&mut self, seq: u64, entry: &Entry, interner: &Interner) -> Result<()> {
        let mut batches = Vec::with_capacity(entry.batches.len());
        for batch in &entry.batches {
            let number = self.put_shape(batch, interner)?;
            batches.push((number, 0));
        }
        frame::append(&mut self.buffer, Kind::Entry, |out, _| {
            put_entry(out, seq, entry);
            Ok(())
        })?;
        for (batch, (number, bytes)) in entry.batches.iter().zip(&mut batches) {
            *bytes = self.put_batch(batch, *number).map_err(|error| error.with_table(&batch.table.id))?;
        }
        let (to, is_piece, end) = (entry.to.clone(), entry.is_piece(), self.end());
        self.notes.push(Note { seq, to, is_piece, end, batches });
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn put_shape(&mut self, batch: &ChangeBatch, interner: &Interner) -> Result<usize> {
        let (number, is_new) = self.shapes.number(&batch.table, interner);
        if is_new {
            let json = serde_json::to_vec(&*batch.table)
                .map_err(|error| Error::bug("a table cannot be written as JSON").with_source(error))?;
            frame::append(&mut self.buffer, Kind::Schema, |out, _| {
                out.extend_from_slice(&json);
                Ok(())
            })?;
        }
        Ok(number as usize)
    }

    fn put_batch(&mut self, batch: &ChangeBatch, number: usize) -> Result<u64> {
        let begin = self.buffer.len();
        let shape = &self.shapes.shapes()[number];
        let encoder = &mut self.encoder;
        frame::append(&mut self.buffer, Kind::Batch, |out, start| {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            encoder.put_batch(out, start, number, batch, shape)
        })?;
        Ok((self.buffer.len() - begin) as u64)
    }

    /// Hands everything to the system.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.file
            .write_all_at(&self.buffer, self.offset)
            .map_err(|error| disk("cannot write", &self.path, error))?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        // One huge entry must not keep its memory for ever.
        self.buffer.shrink_to(4 * WRITE_BYTES);
        Ok(())
    }

    /// Makes everything durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.sync_data().map_err(|error| disk("cannot sync", &self.path, error))
    }

    /// Tells a segment what was put since the last time.
    pub(crate) fn publish(&mut self, segment: &mut Segment) {
        let known = segment.shapes.len();
        segment.shapes.extend_from_slice(&self.shapes.shapes()[known..]);
        for note in self.notes.drain(..) {
            segment.note(note);
        }
    }

    /// Cuts off what was written and is not known to be durable. Without success nothing is lost: the next to open the
    /// journal cuts it.
    pub(crate) fn cut(&self, durable: u64) {
        if let Err(error) = self.file.set_len(durable) {
            tracing::warn!(error = %error, "a torn tail stays in the journal until it is opened again");
        }
    }
}
