//! Rewriting neighbouring segments to one that holds only what lanes still need.
//!
//! Entries keep their numbers and ranges. Entries without a wanted change collapse into progress, which carries the number
//! of the last of them, so that a reader in between finds its place. The new file takes the first one's name by a rename;
//! readers that have the old files open read on in them.

use std::path::Path;
use std::sync::Arc;

use syncline_core::{Entry, Error, Position, Result};

use crate::entries::Entries;
use crate::failure::disk;
use crate::frame::Frames;
use crate::need::Need;
use crate::output::Output;
use crate::segment::{Segment, reaches};
use crate::segment_file::{self, Header, create_unfinished};
use crate::shape::Interner;
use crate::tidy::Old;

/// Writes one segment in place of `run`, which is not empty. The files of the others still stand afterwards, but do not
/// count any more.
pub(crate) fn rewrite(dir: &Path, interner: &Interner, needs: &[Need], run: &[Old]) -> Result<Segment> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else {
        return Err(Error::bug("nothing to rewrite"));
    };
    let header = Header { last_id: last.header.last_id, ..first.header.clone() };
    let (file, unfinished) = create_unfinished(dir, header.id)?;
    let written = write(interner, needs, run, Segment::empty(header, unfinished.clone(), Arc::new(file), 0));
    let mut segment = match written {
        Ok(segment) => segment,
        Err(error) => {
            // The room it takes may be what is missing.
            segment_file::remove(&unfinished)?;
            return Err(error);
        }
    };
    if segment.to != last.to || segment.last_seq > last.last_seq {
        return Err(Error::bug("a rewritten segment does not end where it should"));
    }
    segment.live_when_rewritten = Some(segment.live_bytes(needs));
    segment.path = segment_file::finish(&segment.file, &unfinished)?;
    Ok(segment)
}

fn write(interner: &Interner, needs: &[Need], run: &[Old], unfinished: Segment) -> Result<Segment> {
    let Segment { header, path, file, .. } = unfinished;
    let bytes = header.to_bytes()?;
    std::os::unix::fs::FileExt::write_all_at(&*file, &bytes, 0)
        .map_err(|error| disk("cannot write", &path, error))?;
    let mut segment = Segment::empty(header, path, file, bytes.len() as u64);
    let mut rewriter = Rewriter { output: Output::resume(&segment)?, interner, needs, progress: None };
    for old in run {
        if old.is_wanted {
            rewriter.copy(old)?;
        } else {
            rewriter.pass(old.header.from.clone(), old.to.clone(), old.last_seq);
        }
    }
    rewriter.put_progress()?;
    rewriter.output.flush()?;
    rewriter.output.publish(&mut segment);
    Ok(segment)
}

struct Rewriter<'a> {
    output: Output,
    interner: &'a Interner,
    needs: &'a [Need],
    /// What was passed since the last entry kept, and the number of the last one passed.
    progress: Option<(Entry, u64)>,
}

impl Rewriter<'_> {
    /// Keeps what is wanted of a segment.
    fn copy(&mut self, old: &Old) -> Result<()> {
        let frames = Frames::new(old.file.clone(), old.begin, old.bytes);
        let mut entries = Entries::new(frames, &old.shapes, &old.path);
        while let Some(head) = entries.next()? {
            let (seq, is_piece) = (head.seq, head.is_piece());
            let needs: Vec<&Need> =
                self.needs.iter().filter(|need| reaches(&head.to, is_piece, &need.after)).collect();
            let entry =
                entries.with_batches(head, |table| needs.iter().any(|need| need.tables.covers(table)))?;
            if entry.batches.is_empty() {
                self.pass(entry.from, entry.to, seq);
                continue;
            }
            self.put_progress()?;
            self.output.put(seq, &with_used_transactions(entry), self.interner)?;
        }
        Ok(())
    }

    /// Passes a range in which nothing is wanted.
    fn pass(&mut self, from: Position, to: Position, seq: u64) {
        match &mut self.progress {
            Some((progress, last)) => {
                progress.to = to;
                *last = seq;
            }
            None => self.progress = Some((Entry::progress(from, to), seq)),
        }
    }

    fn put_progress(&mut self) -> Result<()> {
        match self.progress.take() {
            // Pieces alone have no range of their own.
            Some((progress, seq)) if progress.to > progress.from => {
                self.output.put(seq, &progress, self.interner)
            }
            _ => Ok(()),
        }
    }
}

/// Leaves out the transactions that no kept change belongs to.
fn with_used_transactions(mut entry: Entry) -> Entry {
    const UNUSED: u32 = u32::MAX;
    let mut places = vec![UNUSED; entry.transactions.len()];
    // In range: numbers are checked when a batch is read.
    for number in entry.batches.iter().flat_map(|batch| &batch.transactions) {
        places[*number as usize] = 0;
    }
    for (place, used) in (0..).zip(places.iter_mut().filter(|place| **place != UNUSED)) {
        *used = place;
    }
    for number in entry.batches.iter_mut().flat_map(|batch| &mut batch.transactions) {
        *number = places[*number as usize];
    }
    let mut kept = places.iter().map(|place| *place != UNUSED);
    entry.transactions.retain(|_| kept.next() == Some(true));
    entry
}
