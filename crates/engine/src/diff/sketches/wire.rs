//! Messages as bytes.
//!
//! ```text
//! message  version u8 · kind u8 · fingerprint u64 · body
//! request  digest: nothing            cells: have u8 · want u8       (logarithms of sizes; have 0: nothing yet)
//! reply    digest: rows u64 · row sum u128 · check sum u64 · key sum u64 · long keys u64 · largest u8
//!          cells:  have u8 · want u8 · least count i32 · count bits u8 · row bits u8 · varying [33] · common [33] ·
//!                  one bit a cell: is it other than zero · those cells, bit after bit, each:
//!                  count over the least · row sum · check u32 · the key field's varying bits
//! ```
//!
//! Numbers are little-endian. Counts and row sums take as many bits as the largest of the message, key fields the bits
//! in which keys differ at all; a cell that is zero takes one bit. The layout, and how places follow from hashes, are what
//! [`VERSION`] numbers.
//!
//! Reading trusts nothing: every length follows from the request or is checked against the bytes at hand before memory is
//! taken, which is at most 64 bytes for each cell asked for. There is no loop whose end the message says.

use super::bits::{BitReader, BitWriter};
use super::cell::{Cell, KEY_FIELD_BYTES};
use super::digest::TableDigest;
use super::error::DiffError;
use super::message::{CellRun, Opening, Reply, Request, cells_between};
use super::scan::CommonBits;
use super::sketch::SketchSize;

/// Version of the protocol: bytes, hashes and places.
pub const VERSION: u8 = 2;

const REQUEST_DIGEST: u8 = 1;
const REQUEST_CELLS: u8 = 2;
const REPLY_DIGEST: u8 = 3;
const REPLY_CELLS: u8 = 4;

const HEADER_BYTES: usize = 10;
const CELLS_HEADER_BYTES: usize = HEADER_BYTES + 8 + 2 * KEY_FIELD_BYTES;
const CHECK_BITS: u32 = u32::BITS;
const CELL_BYTES_MAX: usize = 4 + 16 + 4 + KEY_FIELD_BYTES;

impl Request {
    /// Its bytes, for the end whose scan has this fingerprint.
    pub(super) fn to_bytes(self, fingerprint: u64) -> Vec<u8> {
        match self {
            Self::Digest => header(REQUEST_DIGEST, fingerprint),
            Self::Cells { have, want } => {
                let mut out = header(REQUEST_CELLS, fingerprint);
                out.extend([size_byte(have), size_byte(Some(want))]);
                out
            }
        }
    }

    /// Reads a request.
    pub(super) fn from_bytes(bytes: &[u8], fingerprint: u64) -> Result<Self, DiffError> {
        let (kind, mut rest) = open(bytes, fingerprint)?;
        let request = match kind {
            REQUEST_DIGEST => Self::Digest,
            REQUEST_CELLS => {
                let (have, want) = (rest.size()?, rest.size()?.ok_or(DiffError::Malformed("no size"))?);
                cells_between(have, want).ok_or(DiffError::Malformed("sizes that do not grow"))?;
                Self::Cells { have, want }
            }
            _ => return Err(DiffError::Malformed("no request")),
        };
        rest.end()?;
        Ok(request)
    }

    /// The most bytes that an answer can have: what a transport needs to read, and not more.
    #[must_use]
    pub fn reply_bytes_max(&self) -> usize {
        match self {
            Self::Digest => HEADER_BYTES + 49,
            Self::Cells { have, want } => {
                let cells = cells_between(*have, *want).unwrap_or(0);
                CELLS_HEADER_BYTES + cells.div_ceil(8) + cells * CELL_BYTES_MAX
            }
        }
    }
}

impl Reply {
    /// Its bytes.
    pub(super) fn to_bytes(&self, fingerprint: u64) -> Vec<u8> {
        match self {
            Self::Digest(opening) => {
                let mut out = header(REPLY_DIGEST, fingerprint);
                out.extend(opening.digest.rows.to_le_bytes());
                out.extend(opening.digest.row_sum.to_le_bytes());
                out.extend(opening.digest.check_sum.to_le_bytes());
                out.extend(opening.digest.key_sum.to_le_bytes());
                out.extend(opening.long_keys.to_le_bytes());
                out.push(size_byte(Some(opening.largest)));
                out
            }
            Self::Cells(run) => {
                let mut out = header(REPLY_CELLS, fingerprint);
                run.write(&mut out);
                out
            }
        }
    }

    /// Reads the answer to `asked`; any other is refused.
    pub(super) fn from_bytes(bytes: &[u8], asked: Request, fingerprint: u64) -> Result<Self, DiffError> {
        let (kind, mut rest) = open(bytes, fingerprint)?;
        match (asked, kind) {
            (Request::Digest, REPLY_DIGEST) => {
                let digest = TableDigest {
                    rows: rest.u64()?,
                    row_sum: u128::from_le_bytes(rest.array()?),
                    check_sum: rest.u64()?,
                    key_sum: rest.u64()?,
                };
                let long_keys = rest.u64()?;
                let largest = rest.size()?.ok_or(DiffError::Malformed("no size"))?;
                rest.end()?;
                Ok(Self::Digest(Opening { digest, long_keys, largest }))
            }
            (Request::Cells { have, want }, REPLY_CELLS) => Ok(Self::Cells(CellRun::read(rest, have, want)?)),
            (_, REPLY_DIGEST | REPLY_CELLS) => Err(DiffError::NotAsked),
            _ => Err(DiffError::Malformed("no reply")),
        }
    }
}

impl CellRun {
    fn write(&self, out: &mut Vec<u8>) {
        let [common, varying] = self.common.bits();
        let used = || self.cells.iter().filter(|cell| !cell.is_zero());
        let least = used().map(|cell| cell.count).min().unwrap_or(0);
        let over = |cell: &Cell| cell.count.wrapping_sub(least).cast_unsigned();
        let count_bits = used().map(|cell| bits_of(over(cell).into())).max().unwrap_or(0);
        let row_bits = used().map(|cell| bits_of(cell.row_sum)).max().unwrap_or(0);

        out.extend([size_byte(self.have), size_byte(Some(self.want))]);
        out.extend(least.to_le_bytes());
        out.extend([count_bits.to_le_bytes()[0], row_bits.to_le_bytes()[0]]);
        out.extend(varying);
        out.extend(common);
        let mut is_used = vec![0; self.cells.len().div_ceil(8)];
        let used_at = self.cells.iter().enumerate().filter(|(_, cell)| !cell.is_zero());
        used_at.for_each(|(at, _)| set_bit(&mut is_used, at));
        out.extend(is_used);
        let mut bits = BitWriter::default();
        for cell in used() {
            bits.push(over(cell).into(), count_bits);
            bits.push(cell.row_sum, row_bits);
            bits.push(cell.check_sum.into(), CHECK_BITS);
            for (byte, varying) in cell.key.bytes().iter().zip(varying) {
                ones(varying).for_each(|place| bits.push(u128::from(byte >> place), 1));
            }
        }
        out.extend(bits.into_bytes());
    }

    fn read(mut rest: Rest<'_>, have: Option<SketchSize>, want: SketchSize) -> Result<Self, DiffError> {
        if (rest.size()?, rest.size()?) != (have, Some(want)) {
            return Err(DiffError::NotAsked);
        }
        let count = cells_between(have, want).ok_or(DiffError::NotAsked)?;
        let least = i32::from_le_bytes(rest.array()?);
        let [count_bits, row_bits] = rest.array()?.map(u32::from);
        if count_bits > u32::BITS || row_bits > u128::BITS {
            return Err(DiffError::Malformed("numbers that are too wide"));
        }
        let (varying, common): ([u8; KEY_FIELD_BYTES], [u8; KEY_FIELD_BYTES]) =
            (rest.array()?, rest.array()?);
        if varying.iter().zip(common).any(|(varying, common)| varying & common != 0) {
            return Err(DiffError::Malformed("key bits that are common and vary"));
        }
        let is_used = rest.take(count.div_ceil(8))?;
        let used = (0..count).filter(|at| bit(is_used, *at)).count();
        let key_bits: u32 = varying.iter().map(|byte| byte.count_ones()).sum();
        let cell_bits = (count_bits + row_bits + CHECK_BITS + key_bits) as usize;
        if rest.bytes.len() != (used * cell_bits).div_ceil(8) {
            return Err(DiffError::Malformed("not as many bytes as its cells take"));
        }
        let mut bits = BitReader::new(rest.bytes);
        let mut cells = Vec::with_capacity(count);
        for at in 0..count {
            let mut cell = Cell::default();
            if bit(is_used, at) {
                cell.count = least.wrapping_add_unsigned(narrowed(bits.take(count_bits)?));
                cell.row_sum = bits.take(row_bits)?;
                cell.check_sum = narrowed(bits.take(CHECK_BITS)?);
                // As many rows as the count says were XORed, so an even number cancels.
                let is_odd = cell.count % 2 != 0;
                for ((byte, varying), common) in cell.key.bytes_mut().iter_mut().zip(varying).zip(common) {
                    *byte = if is_odd { common } else { 0 };
                    for place in ones(varying) {
                        *byte |= bits.take(1)?.to_le_bytes()[0] << place;
                    }
                }
            }
            cells.push(cell);
        }
        if !bits.is_at_end() {
            return Err(DiffError::Malformed("bits after its end"));
        }
        Ok(Self { have, want, cells, common: CommonBits::default() })
    }
}

/// Where a byte has ones.
fn ones(byte: u8) -> impl Iterator<Item = u32> {
    (0..8).filter(move |place| byte >> place & 1 == 1)
}

/// A number that was read as one of at most 32 bits.
fn narrowed(number: u128) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn header(kind: u8, fingerprint: u64) -> Vec<u8> {
    let mut out = vec![VERSION, kind];
    out.extend(fingerprint.to_le_bytes());
    out
}

fn open(bytes: &[u8], fingerprint: u64) -> Result<(u8, Rest<'_>), DiffError> {
    let mut rest = Rest { bytes };
    let [version, kind] = rest.array()?;
    if version != VERSION {
        return Err(DiffError::Version(version));
    }
    if rest.u64()? != fingerprint {
        return Err(DiffError::OtherComparison);
    }
    Ok((kind, rest))
}

fn size_byte(size: Option<SketchSize>) -> u8 {
    size.map_or(0, |size| size.bits().to_le_bytes()[0])
}

/// Bits that a number takes.
fn bits_of(number: u128) -> u32 {
    u128::BITS - number.leading_zeros()
}

fn bit(bits: &[u8], at: usize) -> bool {
    bits[at / 8] >> (at % 8) & 1 == 1
}

fn set_bit(bits: &mut [u8], at: usize) {
    bits[at / 8] |= 1 << (at % 8);
}

/// What is left of a message.
struct Rest<'a> {
    bytes: &'a [u8],
}

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DiffError> {
        let (taken, rest) =
            self.bytes.split_at_checked(count).ok_or(DiffError::Malformed("it is cut off"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DiffError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u64(&mut self) -> Result<u64, DiffError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A size, or 0 for none.
    fn size(&mut self) -> Result<Option<SketchSize>, DiffError> {
        match self.array::<1>()? {
            [0] => Ok(None),
            [bits] => {
                let size = SketchSize::from_bits(bits.into());
                size.map(Some).ok_or(DiffError::Malformed("a size out of bounds"))
            }
        }
    }

    fn end(&self) -> Result<(), DiffError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(DiffError::Malformed("bytes after its end")) }
    }
}
