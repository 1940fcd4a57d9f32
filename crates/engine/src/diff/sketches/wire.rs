//! Messages as bytes.
//!
//! ```text
//! message  version u8 · kind u8 · fingerprint u64 · body
//! request  digest: nothing            cells: have u8 · want u8       (logarithms of sizes; have 0: nothing yet)
//! reply    digest: rows u64 · row sum u128 · check sum u64 · key sum u64 · long keys u64 · largest u8
//!          cells:  have u8 · want u8 · least count i32 · count bytes u8 · row bytes u8 · varying [5] · common [33] ·
//!                  one bit a cell: is it other than zero · those cells, each:
//!                  count over the least · row sum · check u64 · the key field's varying bytes
//! ```
//!
//! Numbers are little-endian. Counts and row sums take as many bytes as the largest of the message, key fields the bytes
//! in which keys differ at all; a cell that is zero takes a bit. The layout, and how places follow from hashes, are what
//! [`VERSION`] numbers.
//!
//! Reading trusts nothing: every length follows from the request or is checked against the bytes at hand before memory is
//! taken, which is at most 64 bytes for each cell asked for. There is no loop whose end the message says.

use super::cell::{Cell, KEY_FIELD_BYTES};
use super::digest::TableDigest;
use super::error::DiffError;
use super::message::{CellRun, Opening, Reply, Request, cells_between};
use super::scan::CommonBytes;
use super::sketch::SketchSize;

/// Version of the protocol: bytes, hashes and places.
pub const VERSION: u8 = 1;

const REQUEST_DIGEST: u8 = 1;
const REQUEST_CELLS: u8 = 2;
const REPLY_DIGEST: u8 = 3;
const REPLY_CELLS: u8 = 4;

const HEADER_BYTES: usize = 10;
const VARYING_BYTES: usize = KEY_FIELD_BYTES.div_ceil(8);
const CELLS_HEADER_BYTES: usize = HEADER_BYTES + 8 + VARYING_BYTES + KEY_FIELD_BYTES;
const CHECK_BYTES: usize = 8;
const CELL_BYTES_MAX: usize = 4 + 16 + CHECK_BYTES + KEY_FIELD_BYTES;

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
        let common = self.common.bytes();
        let used = || self.cells.iter().filter(|cell| !cell.is_zero());
        let least = used().map(|cell| cell.count).min().unwrap_or(0);
        let over = |cell: &Cell| cell.count.wrapping_sub(least).cast_unsigned();
        let count_bytes = used().map(|cell| bytes_of(over(cell).into())).max().unwrap_or(0);
        let row_bytes = used().map(|cell| bytes_of(cell.row_sum)).max().unwrap_or(0);

        out.extend([size_byte(self.have), size_byte(Some(self.want))]);
        out.extend(least.to_le_bytes());
        out.extend([count_bytes.to_le_bytes()[0], row_bytes.to_le_bytes()[0]]);
        let mut varying = [0; VARYING_BYTES];
        common
            .iter()
            .enumerate()
            .filter(|(_, byte)| byte.is_none())
            .for_each(|(at, _)| set_bit(&mut varying, at));
        out.extend(varying);
        out.extend(common.map(Option::unwrap_or_default));
        let mut is_used = vec![0; self.cells.len().div_ceil(8)];
        let used_at = self.cells.iter().enumerate().filter(|(_, cell)| !cell.is_zero());
        used_at.for_each(|(at, _)| set_bit(&mut is_used, at));
        out.extend(is_used);
        for cell in used() {
            out.extend(&over(cell).to_le_bytes()[..count_bytes]);
            out.extend(&cell.row_sum.to_le_bytes()[..row_bytes]);
            out.extend(cell.check_sum.to_le_bytes());
            let key = cell.key.bytes().iter().zip(common);
            out.extend(key.filter(|(_, common)| common.is_none()).map(|(byte, _)| *byte));
        }
    }

    fn read(mut rest: Rest<'_>, have: Option<SketchSize>, want: SketchSize) -> Result<Self, DiffError> {
        if (rest.size()?, rest.size()?) != (have, Some(want)) {
            return Err(DiffError::NotAsked);
        }
        let count = cells_between(have, want).ok_or(DiffError::NotAsked)?;
        let least = i32::from_le_bytes(rest.array()?);
        let [count_bytes, row_bytes] = rest.array()?.map(usize::from);
        if count_bytes > 4 || row_bytes > 16 {
            return Err(DiffError::Malformed("numbers that are too wide"));
        }
        let varying: [u8; VARYING_BYTES] = rest.array()?;
        let common = common_bytes(&varying, &rest.array()?)?;
        let is_used = rest.take(count.div_ceil(8))?;
        let used = (0..count).filter(|at| bit(is_used, *at)).count();
        let cell_bytes =
            count_bytes + row_bytes + CHECK_BYTES + common.iter().filter(|byte| byte.is_none()).count();
        if rest.bytes.len() != used * cell_bytes {
            return Err(DiffError::Malformed("not as many bytes as its cells take"));
        }
        let mut cells = Vec::with_capacity(count);
        for at in 0..count {
            let mut cell = Cell::default();
            if bit(is_used, at) {
                let over = u32::from_le_bytes(rest.widened(count_bytes)?);
                cell.count = least.wrapping_add_unsigned(over);
                cell.row_sum = u128::from_le_bytes(rest.widened(row_bytes)?);
                cell.check_sum = rest.u64()?;
                for (byte, common) in cell.key.bytes_mut().iter_mut().zip(common) {
                    *byte = match common {
                        // As many rows as the count says were XORed, so an even number cancels.
                        Some(common) if cell.count % 2 != 0 => common,
                        Some(_) => 0,
                        None => rest.array::<1>()?[0],
                    };
                }
            }
            cells.push(cell);
        }
        rest.end()?;
        Ok(Self { have, want, cells, common: CommonBytes::default() })
    }
}

/// Byte by byte of the key field, its value if it does not vary.
fn common_bytes(
    varying: &[u8; VARYING_BYTES],
    values: &[u8; KEY_FIELD_BYTES],
) -> Result<[Option<u8>; KEY_FIELD_BYTES], DiffError> {
    let beyond = KEY_FIELD_BYTES..VARYING_BYTES * 8;
    let is_clean = |at: usize| !bit(varying, at) || values[at] == 0;
    if beyond.into_iter().any(|at| bit(varying, at)) || !(0..KEY_FIELD_BYTES).all(is_clean) {
        return Err(DiffError::Malformed("key bytes that are common and vary"));
    }
    Ok(std::array::from_fn(|at| (!bit(varying, at)).then_some(values[at])))
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

/// Bytes that a number takes.
fn bytes_of(number: u128) -> usize {
    (u128::BITS - number.leading_zeros()).div_ceil(8) as usize
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
        self.widened(N)
    }

    /// `count` bytes of a number, at most `N`, with zeros up to `N`.
    fn widened<const N: usize>(&mut self, count: usize) -> Result<[u8; N], DiffError> {
        let mut array = [0; N];
        array[..count].copy_from_slice(self.take(count)?);
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
