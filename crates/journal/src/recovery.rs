//! Opening what an earlier process left.
//!
//! Every checksum is checked. What can only be the torn tail of the last write is cut; so are pieces of a transaction
//! whose end never came. Anything else that does not fit is damage to what was durable: it is reported, never repaired by
//! guess.
//!
//! A torn tail and damage are told apart exactly: each sync is preceded by a group frame, so a broken frame with a group
//! frame after it was durable once, and so was every frame of a segment that has a successor.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use syncline_core::{Error, Result, TableSchema};

use crate::batch_frame::shape_number;
use crate::bytes::Payload;
use crate::entry_frame::{EntryHead, parse_entry};
use crate::failure::disk;
use crate::frame::{Fault, Frames, HEAD_BYTES, Head, Kind};
use crate::output::GROUP_MAGIC;
use crate::segment::{Note, Segment};
use crate::segment_file::{Header, MAGIC, Unreadable, damaged, list, remove, sync_dir};
use crate::shape::Interner;

/// Makes a journal's directory.
pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| disk("cannot make the directory", dir, error))
}

/// Opens all segments of a directory, which nobody else uses.
pub(crate) fn recover(dir: &Path, interner: &Interner) -> Result<VecDeque<Segment>> {
    let files = current(&list(dir)?)?;
    let mut segments = VecDeque::with_capacity(files.len());
    let last = files.len().saturating_sub(1);
    for (place, (header, file, path)) in files.into_iter().enumerate() {
        let mut scan = Scan::begin(header, file, path, interner)?;
        if let Err(stop) = scan.run() {
            scan.refuse_damage(stop, place == last)?;
        }
        let segment = scan.finish();
        check_follows(segments.back(), &segment)?;
        segments.push_back(segment);
    }
    cut_open_pieces(&mut segments, interner)?;
    if let Some(active) = segments.back() {
        cut(active, active.bytes)?;
        sync_dir(&active.path).map_err(|error| disk("cannot sync", dir, error))?;
    }
    Ok(segments)
}

/// The segments that count. The others are left over from a reset or a rewrite that was interrupted; they are removed.
fn current(files: &[(u64, PathBuf)]) -> Result<Vec<(Header, File, PathBuf)>> {
    let mut kept: Vec<(Header, File, PathBuf)> = Vec::new();
    for (id, path) in files {
        let file = File::options().read(true).write(true).open(path);
        let file = file.map_err(|error| disk("cannot open", path, error))?;
        let header = read_header(&file, path)?;
        if header.id != *id {
            return Err(damaged(path, &format!("it calls itself number {}", header.id)));
        }
        if header.begins {
            for (_, _, discarded) in kept.drain(..) {
                remove(&discarded)?;
            }
        }
        match kept.last().map(|(before, ..)| before.last_id) {
            Some(covered) if *id <= covered => remove(path)?,
            Some(before) if *id > before + 1 => {
                return Err(damaged(path, &format!("segment {} before it is missing", before + 1)));
            }
            _ => kept.push((header, file, path.clone())),
        }
    }
    Ok(kept)
}

fn read_header(file: &File, path: &Path) -> Result<Header> {
    let mut magic = [0; MAGIC.len()];
    let unreadable = || damaged(path, "its header cannot be read");
    if file.read_exact_at(&mut magic, 0).is_err() || &magic != MAGIC {
        return Err(unreadable());
    }
    let length = length_of(file, path)?;
    let file = Arc::new(file.try_clone().map_err(|error| disk("cannot open", path, error))?);
    let mut frames = Frames::new(file, MAGIC.len() as u64, length);
    let head = frames.head().ok().flatten().filter(|head| head.kind == Kind::Header);
    let mut payload = Vec::new();
    let read = head.and_then(|head| frames.payload(&head, &mut payload).ok());
    read.ok_or_else(unreadable)?;
    Header::parse(&payload).map_err(|error| match error {
        Unreadable::Damaged => unreadable(),
        Unreadable::Format(format) => Error::configuration(format!(
            "the journal's segment {} has format {format}, which this version of syncline does not know",
            path.display()
        ))
        .with_remedy("use the newer syncline that wrote it until its changes are loaded"),
    })
}

fn length_of(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().map_err(|error| disk("cannot read", path, error))?.len())
}

fn check_follows(before: Option<&Segment>, segment: &Segment) -> Result<()> {
    let Some(before) = before else { return Ok(()) };
    if segment.header.from == before.to && segment.header.first_seq > before.last_seq {
        return Ok(());
    }
    Err(damaged(&segment.path, "it does not go on where the segment before it ends"))
}

/// Cuts the pieces of a transaction that goes on behind the last entry.
fn cut_open_pieces(segments: &mut VecDeque<Segment>, interner: &Interner) -> Result<()> {
    while let Some(last) = segments.back() {
        let before_is_open = segments.iter().rev().nth(1).is_some_and(|segment| segment.open_since.is_some());
        let begin = last.offset_of_seq(0);
        let is_empty_inside = before_is_open && last.entries == 0;
        let Some(open_since) = last.open_since.or(is_empty_inside.then_some(begin)) else { return Ok(()) };
        tracing::info!(segment = %last.path.display(), "pieces of an unfinished transaction are cut");
        if before_is_open && open_since == begin {
            remove(&last.path)?;
            segments.pop_back();
            continue;
        }
        cut(last, open_since)?;
        let (header, path) = (last.header.clone(), last.path.clone());
        let file = File::options().read(true).write(true).open(&path);
        let file = file.map_err(|error| disk("cannot open", &path, error))?;
        let mut scan = Scan::begin(header, file, path, interner)?;
        if let Err(stop) = scan.run() {
            scan.refuse_damage(stop, false)?;
        }
        segments.pop_back();
        segments.push_back(scan.finish());
        return Ok(());
    }
    Ok(())
}

/// Cuts a segment's file and makes what is left durable.
fn cut(segment: &Segment, bytes: u64) -> Result<()> {
    segment
        .file
        .set_len(bytes)
        .and_then(|()| segment.file.sync_all())
        .map_err(|error| disk("cannot cut", &segment.path, error))
}

/// Why a scan ended before the end of the file.
enum Stop {
    Fault(Fault),
    /// A frame whose checksum fits, and that no version of ours wrote.
    Malformed(u64),
    /// An entry whose last batches are missing.
    Incomplete,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A segment being scanned. `segment` knows all entries that are whole.
struct Scan<'a> {
    segment: Segment,
    frames: Frames,
    length: u64,
    payload: Vec<u8>,
    interner: &'a Interner,
    /// An entry whose batches are being gathered.
    open: Option<(EntryHead, Vec<(usize, u64)>)>,
}

impl<'a> Scan<'a> {
    fn begin(header: Header, file: File, path: PathBuf, interner: &'a Interner) -> Result<Self> {
        let length = length_of(&file, &path)?;
        let bytes = header.to_bytes()?.len() as u64;
        let file = Arc::new(file);
        let frames = Frames::new(file.clone(), bytes, length);
        let segment = Segment::empty(header, path, file, bytes);
        Ok(Self { segment, frames, length, payload: Vec::new(), interner, open: None })
    }

    fn run(&mut self) -> Result<(), Stop> {
        while let Some(head) = self.frames.head()? {
            self.frames.payload(&head, &mut self.payload)?;
            self.take(&head).ok_or(Stop::Malformed(head.at))?;
        }
        if self.open.is_some() { Err(Stop::Incomplete) } else { Ok(()) }
    }

    /// Takes a frame. `None` if it does not belong there.
    fn take(&mut self, head: &Head) -> Option<()> {
        match head.kind {
            Kind::Header => None,
            Kind::Group => is_group(&self.payload, head.at).then_some(()).filter(|()| self.open.is_none()),
            Kind::Schema => {
                let table: TableSchema = serde_json::from_slice(&self.payload).ok()?;
                self.segment.shapes.push(self.interner.intern(&Arc::new(table)));
                Some(())
            }
            Kind::Entry => {
                let entry = parse_entry(&self.payload).ok()?;
                let follows = entry.from == self.segment.to && entry.seq > self.segment.last_seq;
                if self.open.is_some() || !follows {
                    return None;
                }
                self.open = Some((entry, Vec::new()));
                self.close_if_whole(head.end())
            }
            Kind::Batch => {
                let number = shape_number(&self.payload).ok()?;
                let (_, batches) = self.open.as_mut()?;
                self.segment.shapes.get(number)?;
                batches.push((number, head.end() - head.at));
                self.close_if_whole(head.end())
            }
        }
    }

    fn close_if_whole(&mut self, end: u64) -> Option<()> {
        if let Some((entry, batches)) = self.open.take_if(|(entry, batches)| batches.len() == entry.batches) {
            let is_piece = entry.is_piece();
            self.segment.note(Note { seq: entry.seq, to: entry.to, is_piece, end, batches });
        }
        Some(())
    }

    /// Accepts a torn tail, and refuses damage.
    fn refuse_damage(&mut self, stop: Stop, is_last: bool) -> Result<()> {
        let at = match stop {
            Stop::Fault(Fault::Io(error)) => return Err(disk("cannot read", &self.segment.path, error)),
            Stop::Malformed(at) => {
                return Err(damaged(
                    &self.segment.path,
                    &format!("the frame at byte {at} does not belong there"),
                ));
            }
            Stop::Fault(Fault::Damaged(at)) => at,
            Stop::Incomplete => self.segment.bytes,
        };
        if !is_last || self.has_group_after(at)? {
            return Err(damaged(&self.segment.path, &format!("the checksum at byte {at} does not fit")));
        }
        tracing::warn!(
            segment = %self.segment.path.display(), bytes = self.length - self.segment.bytes, "a torn tail is cut"
        );
        Ok(())
    }

    /// The segment without what follows its last whole entry: shapes whose first entry was torn are written again.
    fn finish(self) -> Segment {
        let mut segment = self.segment;
        let used = segment.used_shapes();
        segment.shapes.truncate(used);
        segment
    }

    /// Whether a group frame stands anywhere after an offset.
    fn has_group_after(&self, at: u64) -> Result<bool> {
        const STEP: usize = 1024 * 1024;
        let frame = HEAD_BYTES + GROUP_MAGIC.len() + size_of::<u64>();
        let mut bytes = Vec::new();
        let mut from = at + 1;
        while from < self.length {
            let ahead = usize::try_from(self.length - from).unwrap_or(usize::MAX).min(STEP + frame);
            bytes.resize(ahead, 0);
            self.segment
                .file
                .read_exact_at(&mut bytes, from)
                .map_err(|error| disk("cannot read", &self.segment.path, error))?;
            let places = bytes.windows(GROUP_MAGIC.len()).enumerate();
            for (place, _) in places.filter(|(_, window)| window == GROUP_MAGIC) {
                let begin = (from + place as u64).saturating_sub(HEAD_BYTES as u64);
                if begin > at && self.is_group_at(begin) {
                    return Ok(true);
                }
            }
            from += STEP as u64;
        }
        Ok(false)
    }

    fn is_group_at(&self, begin: u64) -> bool {
        let mut frames = Frames::new(self.segment.file.clone(), begin, self.length);
        let Ok(Some(head)) = frames.head() else { return false };
        let mut payload = Vec::new();
        head.kind == Kind::Group && frames.payload(&head, &mut payload).is_ok() && is_group(&payload, begin)
    }
}

fn is_group(payload: &[u8], at: u64) -> bool {
    let mut payload = Payload::new(payload);
    payload.take(GROUP_MAGIC.len()) == Ok(GROUP_MAGIC) && payload.u64() == Ok(at)
}
