//! What a reader takes from the disk at once.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use syncline_core::{Entry, Position, Result};

use crate::entries::Entries;
use crate::frame::Frames;
use crate::segment::reaches;
use crate::shape::Shape;
use crate::state::{Shared, State};

/// Entries taken from the disk at once: enough to be worth a visit to another thread.
const FILL_BYTES: usize = 1024 * 1024;

/// Where a reader stands.
#[derive(Debug, Clone)]
pub(crate) enum Cursor {
    /// It wants what a lane at this position needs.
    After(Position),
    /// It wants the entries after this number.
    Seq(u64),
}

/// Where in a file the next entry begins, so that it need not be looked for.
#[derive(Debug, Clone)]
pub(crate) struct Resume {
    file: Arc<File>,
    offset: u64,
}

/// What was taken.
#[derive(Debug)]
pub(crate) struct Fill {
    pub(crate) entries: Vec<(u64, Arc<Entry>)>,
    pub(crate) cursor: Cursor,
    pub(crate) resume: Option<Resume>,
}

/// A piece of a file to be read.
struct Range {
    file: Arc<File>,
    path: PathBuf,
    shapes: Vec<Arc<Shape>>,
    from: u64,
    limit: u64,
    last_seq: u64,
}

/// Reads on from a cursor, up to [`FILL_BYTES`] or the end of what is durable in one segment. Blocks.
pub(crate) fn fill(shared: &Shared, cursor: &Cursor, resume: Option<&Resume>) -> Result<Fill> {
    let range = {
        let state = shared.lock();
        match range(&state, cursor, resume) {
            Some(range) => range,
            // All that is left of the disk was let go: go on in memory.
            None => {
                let cursor = Cursor::Seq(state.durable_seq);
                return Ok(Fill { entries: Vec::new(), cursor, resume: None });
            }
        }
    };
    let frames = Frames::new(range.file.clone(), range.from, range.limit);
    let mut reader = Entries::new(frames, &range.shapes, &range.path);
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(head) = reader.next()? {
        let wanted = match cursor {
            Cursor::After(after) => reaches(&head.to, head.is_piece(), after),
            Cursor::Seq(seq) => head.seq > *seq,
        };
        if !wanted {
            reader.skip_batches(&head)?;
            continue;
        }
        let seq = head.seq;
        let entry = reader.with_batches(head, |_| true)?;
        bytes += entry.bytes();
        entries.push((seq, Arc::new(entry)));
        if bytes >= FILL_BYTES {
            let resume = Some(Resume { file: range.file.clone(), offset: reader.offset() });
            return Ok(Fill { entries, cursor: Cursor::Seq(seq), resume });
        }
    }
    let resume = Some(Resume { file: range.file.clone(), offset: range.limit });
    Ok(Fill { entries, cursor: Cursor::Seq(range.last_seq), resume })
}

/// What to read for a cursor: the rest of the first segment that has something for it.
fn range(state: &State, cursor: &Cursor, resume: Option<&Resume>) -> Option<Range> {
    let segment = match cursor {
        Cursor::After(after) => state.segments.iter().find(|segment| !segment.is_behind(after)),
        Cursor::Seq(seq) => {
            let first = state.segments.partition_point(|segment| segment.last_seq <= *seq);
            state.segments.get(first)
        }
    }?;
    let known = resume.filter(|resume| Arc::ptr_eq(&resume.file, &segment.file)).map(|resume| resume.offset);
    let from = known.unwrap_or_else(|| match cursor {
        Cursor::After(after) => segment.offset_of_position(after),
        Cursor::Seq(seq) => segment.offset_of_seq(*seq),
    });
    Some(Range {
        file: segment.file.clone(),
        path: segment.path.clone(),
        shapes: segment.shapes.clone(),
        from,
        limit: segment.bytes,
        last_seq: segment.last_seq,
    })
}
