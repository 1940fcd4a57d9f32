//! What is known of a segment without reading it: its range, whose changes are in it, and where to begin to read.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use syncline_core::Position;

use crate::need::Need;
use crate::segment_file::Header;
use crate::shape::Shape;

/// Distance between places where reading may begin.
const MARK_BYTES: u64 = 256 * 1024;

/// A whole entry in a segment, as far as the journal has to remember it.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) seq: u64,
    pub(crate) to: Position,
    pub(crate) is_piece: bool,
    /// Offset of what follows the entry.
    pub(crate) end: u64,
    /// Shape number and bytes of each of its batches.
    pub(crate) batches: Vec<(usize, u64)>,
}

/// What a segment holds of one shape.
#[derive(Debug, Clone, Default)]
pub(crate) struct Use {
    pub(crate) bytes: u64,
    last_to: Position,
    last_is_piece: bool,
}

/// A place where an entry may begin: everything before it has at most this number and position.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) offset: u64,
    pub(crate) seq_before: u64,
    pub(crate) to_before: Position,
}

/// A segment of a journal.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: Header,
    pub(crate) path: PathBuf,
    /// Open as long as anybody reads it, also after it was removed or rewritten.
    pub(crate) file: Arc<File>,
    /// End of what is whole and durable in it.
    pub(crate) bytes: u64,
    /// `to` of its last whole entry, else its `from`.
    pub(crate) to: Position,
    pub(crate) last_seq: u64,
    pub(crate) entries: u64,
    /// Where its last pieces begin, if a transaction goes on in the next segment.
    pub(crate) open_since: Option<u64>,
    pub(crate) shapes: Vec<Arc<Shape>>,
    /// What was wanted of it when this process rewrote it: again it pays only when that became much less.
    pub(crate) live_when_rewritten: Option<u64>,
    uses: Vec<Use>,
    marks: Vec<Mark>,
}

impl Segment {
    /// A segment without entries, whose header ends at `bytes`.
    pub(crate) fn empty(header: Header, path: PathBuf, file: Arc<File>, bytes: u64) -> Self {
        let last_seq = header.first_seq.saturating_sub(1);
        let to = header.from.clone();
        let mark = Mark { offset: bytes, seq_before: last_seq, to_before: to.clone() };
        Self {
            header,
            path,
            file,
            bytes,
            to,
            last_seq,
            entries: 0,
            open_since: None,
            shapes: Vec::new(),
            live_when_rewritten: None,
            uses: Vec::new(),
            marks: vec![mark],
        }
    }

    /// Remembers the next entry. Its shapes are known already.
    pub(crate) fn note(&mut self, note: Note) {
        self.uses.resize(self.shapes.len(), Use::default());
        for (number, bytes) in note.batches {
            let used = &mut self.uses[number];
            used.bytes += bytes;
            used.last_to.clone_from(&note.to);
            used.last_is_piece = note.is_piece;
        }
        let begin = self.bytes;
        self.open_since = if note.is_piece { self.open_since.or(Some(begin)) } else { None };
        self.bytes = note.end;
        self.last_seq = note.seq;
        self.to = note.to;
        self.entries += 1;
        if self.marks.last().is_none_or(|mark| self.bytes - mark.offset >= MARK_BYTES) {
            let (seq_before, to_before) = (self.last_seq, self.to.clone());
            self.marks.push(Mark { offset: self.bytes, seq_before, to_before });
        }
    }

    /// Whether a lane at `after` has all of it behind itself.
    pub(crate) fn is_behind(&self, after: &Position) -> bool {
        !reaches(&self.to, self.open_since.is_some(), after)
    }

    /// Bytes of changes in it that a need wants.
    pub(crate) fn needed_bytes(&self, need: &Need) -> u64 {
        self.wanted_by(need).map(|used| used.bytes).sum()
    }

    /// Bytes of changes in it that any of the needs wants.
    pub(crate) fn live_bytes(&self, needs: &[Need]) -> u64 {
        let wanted = |(shape, used): &(&Arc<Shape>, &Use)| needs.iter().any(|need| wants(need, shape, used));
        self.shapes.iter().zip(&self.uses).filter(wanted).map(|(_, used)| used.bytes).sum()
    }

    fn wanted_by<'a>(&'a self, need: &'a Need) -> impl Iterator<Item = &'a Use> {
        self.shapes
            .iter()
            .zip(&self.uses)
            .filter(|(shape, used)| wants(need, shape, used))
            .map(|(_, used)| used)
    }

    /// How many of its shapes have changes in it.
    pub(crate) fn used_shapes(&self) -> usize {
        self.uses.len()
    }

    /// Where to begin to read the entries after number `seq`.
    pub(crate) fn offset_of_seq(&self, seq: u64) -> u64 {
        let after = self.marks.partition_point(|mark| mark.seq_before <= seq);
        self.marks[after.saturating_sub(1)].offset
    }

    /// Where to begin to read what a lane at `after` needs.
    pub(crate) fn offset_of_position(&self, after: &Position) -> u64 {
        // Strictly before: pieces that begin at `after` belong to what follows.
        let first = self.marks.partition_point(|mark| mark.to_before < *after);
        self.marks[first.saturating_sub(1)].offset
    }
}

fn wants(need: &Need, shape: &Shape, used: &Use) -> bool {
    used.bytes > 0
        && need.tables.covers(&shape.table.id)
        && reaches(&used.last_to, used.last_is_piece, &need.after)
}

/// Whether an entry is needed by a lane at `after`: it ends later, or is a piece of a transaction that does.
pub(crate) fn reaches(to: &Position, is_piece: bool, after: &Position) -> bool {
    if is_piece { to >= after } else { to > after }
}
