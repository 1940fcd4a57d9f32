//! Frames: how bytes lie in a segment, and how damage is seen.
//!
//! A frame is `[length u32][crc32c u32][kind u8][payload]`, little-endian. The checksum covers length, kind and payload.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use syncline_core::{Error, ErrorKind, Result};

/// Bytes before the payload.
pub(crate) const HEAD_BYTES: usize = 9;

/// Read at once where frames are small.
const CHUNK_BYTES: usize = 256 * 1024;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// First in a segment: what the segment is.
    Header = b'H',
    /// Begins what was written between two syncs.
    Group = b'G',
    /// A table in a shape.
    Schema = b'S',
    /// An entry; its batches follow.
    Entry = b'E',
    /// A change batch.
    Batch = b'B',
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Header, Self::Group, Self::Schema, Self::Entry, Self::Batch]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Appends a frame whose payload `write` appends. `write` is told where the payload begins.
pub(crate) fn append<T>(
    out: &mut Vec<u8>,
    kind: Kind,
    write: impl FnOnce(&mut Vec<u8>, usize) -> Result<T>,
) -> Result<T> {
    let start = out.len();
    out.extend([0; HEAD_BYTES]);
    out[start + 8] = kind as u8;
    let outcome = write(out, start + HEAD_BYTES)?;
    let length = u32::try_from(out.len() - start - HEAD_BYTES).map_err(|_| {
        Error::new(ErrorKind::Data, "a change batch is larger than 4 GiB")
            .with_remedy("exclude the column that is so large")
    })?;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(&out[start..start + 4], &out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    Ok(outcome)
}

fn checksum(length: &[u8], kind_and_payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(length), kind_and_payload)
}

/// Where and how long a frame is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    /// Offset of the frame in its file.
    pub(crate) at: u64,
    /// What it holds.
    pub(crate) kind: Kind,
    length: u32,
    crc: u32,
}

impl Head {
    /// Offset of what follows the frame.
    pub(crate) fn end(&self) -> u64 {
        self.at + HEAD_BYTES as u64 + u64::from(self.length)
    }
}

/// Why a frame cannot be read.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The system refused.
    Io(io::Error),
    /// No whole frame stands at this offset.
    Damaged(u64),
}

/// The frames of a file, in order, up to a limit.
#[derive(Debug)]
pub(crate) struct Frames {
    file: Arc<File>,
    next: u64,
    limit: u64,
    chunk: Vec<u8>,
    chunk_at: u64,
}

impl Frames {
    /// Frames from offset `from`, which is the beginning of one.
    pub(crate) fn new(file: Arc<File>, from: u64, limit: u64) -> Self {
        Self { file, next: from, limit, chunk: Vec::new(), chunk_at: from }
    }

    /// Offset of the next frame.
    pub(crate) fn offset(&self) -> u64 {
        self.next
    }

    /// The next frame's head, without going past it; `None` at the limit.
    pub(crate) fn head(&mut self) -> Result<Option<Head>, Fault> {
        let at = self.next;
        if at == self.limit {
            return Ok(None);
        }
        if self.limit - at < HEAD_BYTES as u64 {
            return Err(Fault::Damaged(at));
        }
        let mut bytes = [0; HEAD_BYTES];
        self.copy(at, &mut bytes)?;
        let [l0, l1, l2, l3, c0, c1, c2, c3, kind] = bytes;
        let kind = Kind::from_byte(kind).ok_or(Fault::Damaged(at))?;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let head = Head { at, kind, length, crc: u32::from_le_bytes([c0, c1, c2, c3]) };
        if head.end() > self.limit { Err(Fault::Damaged(at)) } else { Ok(Some(head)) }
    }

    /// Goes past a frame without looking inside.
    pub(crate) fn skip(&mut self, head: &Head) {
        self.next = head.end();
    }

    /// Reads and checks a frame's payload into `payload`, and goes past it.
    pub(crate) fn payload(&mut self, head: &Head, payload: &mut Vec<u8>) -> Result<(), Fault> {
        payload.clear();
        payload.resize(head.length as usize, 0);
        self.copy(head.at + HEAD_BYTES as u64, payload)?;
        let kind = crc32c::crc32c_append(crc32c::crc32c(&head.length.to_le_bytes()), &[head.kind as u8]);
        if crc32c::crc32c_append(kind, payload) != head.crc {
            return Err(Fault::Damaged(head.at));
        }
        self.next = head.end();
        Ok(())
    }

    /// Copies bytes that lie below the limit.
    fn copy(&mut self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let known = self.known(at);
        let (first, rest) = into.split_at_mut(known.len().min(into.len()));
        first.copy_from_slice(&known[..first.len()]);
        if rest.is_empty() {
            return Ok(());
        }
        let at = at + first.len() as u64;
        if rest.len() >= CHUNK_BYTES {
            return self.file.read_exact_at(rest, at).map_err(|error| fault(error, at));
        }
        let ahead = usize::try_from(self.limit - at).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        self.chunk.resize(ahead, 0);
        self.chunk_at = at;
        if let Err(error) = self.file.read_exact_at(&mut self.chunk, at) {
            self.chunk.clear();
            return Err(fault(error, at));
        }
        rest.copy_from_slice(&self.chunk[..rest.len()]);
        Ok(())
    }

    /// What of the chunk stands at and after an offset.
    fn known(&self, at: u64) -> &[u8] {
        let skipped = at.checked_sub(self.chunk_at).and_then(|n| usize::try_from(n).ok());
        skipped.and_then(|n| self.chunk.get(n..)).unwrap_or_default()
    }
}

/// A file shorter than its limit was cut by somebody else.
fn fault(error: io::Error, at: u64) -> Fault {
    if error.kind() == io::ErrorKind::UnexpectedEof { Fault::Damaged(at) } else { Fault::Io(error) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn written(payloads: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for payload in payloads {
            append(&mut out, Kind::Batch, |out, _| {
                out.extend_from_slice(payload);
                Ok(())
            })
            .unwrap();
        }
        out
    }

    fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let mut frames = Frames::new(Arc::new(file), 0, bytes.len() as u64);
        let mut payloads = Vec::new();
        while let Some(head) = frames.head()? {
            let mut payload = Vec::new();
            frames.payload(&head, &mut payload)?;
            payloads.push(payload);
        }
        Ok(payloads)
    }

    #[test]
    fn frames_of_all_sizes_come_back() {
        let large: Vec<u8> = (0..600_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let payloads: [&[u8]; 5] = [b"", b"a", &large, &large[..CHUNK_BYTES - 9], b"z"];
        assert_eq!(read(&written(&payloads)).unwrap(), payloads);
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let bytes = written(&[b"first", b"second"]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(read(&flipped), Err(Fault::Damaged(_))), "bit {bit}");
        }
    }
}
