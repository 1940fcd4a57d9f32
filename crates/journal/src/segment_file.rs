//! Segments as files: their names, their first frame, and how one comes into being.
//!
//! A file appears under its name only whole, by a rename, so a damaged header is never an unfinished one. Files number
//! without a hole; one that was rewritten from several covers their numbers.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use syncline_core::{Error, Position, Result};

use crate::bytes::{Malformed, Parsed, Payload, put_bytes, put_varint};
use crate::failure::disk;
use crate::frame::{self, Kind};

/// First bytes of every segment.
pub(crate) const MAGIC: &[u8; 8] = b"SYNCJRNL";

/// The format that this version writes, and the only one that it reads.
const FORMAT: u64 = 1;

/// Ends the name of a file that is not finished yet.
const UNFINISHED: &str = "tmp";

/// What a segment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// Its number.
    pub(crate) id: u64,
    /// The last number it covers.
    pub(crate) last_id: u64,
    /// Whether everything before it was discarded.
    pub(crate) begins: bool,
    /// No entry in it or after it has a lower one.
    pub(crate) first_seq: u64,
    /// Where its first entry begins, or would.
    pub(crate) from: Position,
}

/// Why a header cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Damaged,
    /// Of a format that this version does not know.
    Format(u64),
}

impl From<Malformed> for Unreadable {
    fn from(_: Malformed) -> Self {
        Self::Damaged
    }
}

impl Header {
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = MAGIC.to_vec();
        frame::append(&mut out, Kind::Header, |out, _| {
            put_varint(out, FORMAT);
            put_varint(out, self.id);
            put_varint(out, self.last_id);
            put_varint(out, u64::from(self.begins));
            put_varint(out, self.first_seq);
            put_bytes(out, self.from.as_bytes());
            Ok(())
        })?;
        Ok(out)
    }

    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Unreadable> {
        let mut payload = Payload::new(payload);
        let format = payload.varint()?;
        if format != FORMAT {
            return Err(Unreadable::Format(format));
        }
        Ok(Self::parse_fields(&mut payload)?)
    }

    fn parse_fields(payload: &mut Payload<'_>) -> Parsed<Self> {
        let header = Self {
            id: payload.varint()?,
            last_id: payload.varint()?,
            begins: payload.varint()? != 0,
            first_seq: payload.varint()?,
            from: Position::from_bytes(payload.bytes()?),
        };
        if payload.is_at_end() && header.last_id >= header.id { Ok(header) } else { Err(Malformed) }
    }
}

pub(crate) fn path_of(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:08}.seg"))
}

/// A new file, not yet under its name, open for reading too.
pub(crate) fn create_unfinished(dir: &Path, id: u64) -> Result<(File, PathBuf)> {
    let path = path_of(dir, id).with_extension(UNFINISHED);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
    Ok((file.map_err(|error| disk("cannot make", &path, error))?, path))
}

/// Makes a finished file durable and gives it its name.
pub(crate) fn finish(file: &File, unfinished: &Path) -> Result<PathBuf> {
    let path = unfinished.with_extension("seg");
    file.sync_all()
        .and_then(|()| fs::rename(unfinished, &path))
        .and_then(|()| sync_dir(unfinished))
        .map_err(|error| disk("cannot finish", &path, error))?;
    Ok(path)
}

/// A new segment without entries, durable. Returns its length too.
pub(crate) fn create(dir: &Path, header: &Header) -> Result<(File, PathBuf, u64)> {
    let (mut file, unfinished) = create_unfinished(dir, header.id)?;
    let bytes = header.to_bytes()?;
    file.write_all(&bytes).map_err(|error| disk("cannot write", &unfinished, error))?;
    let path = finish(&file, &unfinished)?;
    Ok((file, path, bytes.len() as u64))
}

/// Removes a segment; one that is gone already is no error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk("cannot remove", path, error)),
        _ => Ok(()),
    }
}

/// Makes the names in a file's directory durable.
pub(crate) fn sync_dir(file: &Path) -> io::Result<()> {
    File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// The segments in a directory in the order of their numbers. Unfinished files are removed.
pub(crate) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let unlisted = |error| disk("cannot list", dir, error);
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir).map_err(unlisted)? {
        let path = entry.map_err(unlisted)?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        match (number, path.extension().and_then(|extension| extension.to_str())) {
            (Some(id), Some("seg")) => segments.push((id, path)),
            (Some(_), Some(UNFINISHED)) => remove(&path)?,
            _ => {}
        }
    }
    segments.sort();
    Ok(segments)
}

/// A segment that does not hold what was written to it.
pub(crate) fn damaged(path: &Path, what: &str) -> Error {
    let dir = path.parent().unwrap_or(Path::new("."));
    Error::conflict(format!("the journal's segment {} is damaged: {what}", path.display())).with_remedy(format!(
        "restore that file, or move the directory {} away and run again: the run goes on if the source still has \
         its log since the checkpoint, and says so if it has not",
        dir.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload_of(header: &Header) -> Vec<u8> {
        header.to_bytes().unwrap()[MAGIC.len() + frame::HEAD_BYTES..].to_vec()
    }

    #[test]
    fn a_header_survives_and_another_format_is_named() {
        let from = Position::from_u64(9);
        let header = Header { id: 300, last_id: 302, begins: true, first_seq: 77, from };
        let mut payload = payload_of(&header);
        assert_eq!(Header::parse(&payload), Ok(header));
        assert_eq!(Header::parse(&payload[..5]), Err(Unreadable::Damaged));
        payload[0] = 2;
        assert_eq!(Header::parse(&payload), Err(Unreadable::Format(2)));
    }
}
