//! The pieces of a COPY cut into rows, for who compares them.

use syncline_core::encoding::{self, BulkRows};
use syncline_core::{Error, ErrorKind, Result, TableSchema};

use super::read::copy_form;
use crate::postgres::source::copy_text;

/// The signature of the binary form; flags and the extension's length follow.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Bytes before the first row, without an extension (no server writes one).
const HEADER_BYTES: usize = SIGNATURE.len() + 8;

/// A cutter for the form in which the chunks of a table are read.
pub(super) fn rows_of(table: &TableSchema) -> Box<dyn BulkRows> {
    let rest = Vec::new();
    let columns = table.columns.len();
    if copy_form(table) == "binary" {
        Box::new(Binary { columns, place: Place::Header, rest })
    } else {
        Box::new(Text { columns, rest, row: Vec::new() })
    }
}

fn not_a_copy() -> Error {
    Error::bug("a piece of COPY is not of its form")
}

fn cut_off() -> Error {
    Error::new(ErrorKind::Retriable, "a COPY ended within a row")
}

/// Calls `take` with what is left of the last piece and this one, and keeps what it has not used.
pub(in crate::postgres::source) fn with_rest(
    rest: &mut Vec<u8>,
    piece: &[u8],
    mut take: impl FnMut(&[u8]) -> Result<usize>,
) -> Result<()> {
    if rest.is_empty() {
        let used = take(piece)?;
        rest.extend_from_slice(&piece[used..]);
    } else {
        rest.extend_from_slice(piece);
        let used = take(rest)?;
        rest.drain(..used);
    }
    Ok(())
}

/// Where the cutter stands in the stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Header,
    Rows,
    Trailer,
}

struct Binary {
    columns: usize,
    place: Place,
    rest: Vec<u8>,
}

impl BulkRows for Binary {
    fn cut(&mut self, piece: &[u8], row: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (columns, place) = (self.columns, &mut self.place);
        with_rest(&mut self.rest, piece, |bytes| {
            let mut at = 0;
            while let Some(used) = step(&bytes[at..], columns, place, row)? {
                at += used;
            }
            Ok(at)
        })
    }

    fn end(&mut self) -> Result<()> {
        if self.place == Place::Trailer && self.rest.is_empty() { Ok(()) } else { Err(cut_off()) }
    }
}

/// Takes the header, a row or the trailer; `None` if it is not all there yet.
fn step(
    bytes: &[u8],
    columns: usize,
    place: &mut Place,
    row: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Option<usize>> {
    match *place {
        Place::Header => {
            if bytes.len() < HEADER_BYTES {
                return Ok(None);
            }
            if !bytes.starts_with(SIGNATURE) {
                return Err(not_a_copy());
            }
            *place = Place::Rows;
            Ok(Some(HEADER_BYTES))
        }
        Place::Rows => {
            let Some((count, fields)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
            let count = i16::from_be_bytes(*count);
            if count == -1 {
                *place = Place::Trailer;
                return Ok(Some(2));
            }
            if usize::try_from(count) != Ok(columns) {
                return Err(not_a_copy());
            }
            let Some(length) = encoding::prefix(fields, columns) else { return Ok(None) };
            row(&fields[..length])?;
            Ok(Some(2 + length))
        }
        Place::Trailer if bytes.is_empty() => Ok(None),
        Place::Trailer => Err(not_a_copy()),
    }
}

struct Text {
    columns: usize,
    rest: Vec<u8>,
    row: Vec<u8>,
}

impl BulkRows for Text {
    fn cut(&mut self, piece: &[u8], row: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (columns, encoded) = (self.columns, &mut self.row);
        with_rest(&mut self.rest, piece, |bytes| {
            let (lines, rest) = copy_text::rows(bytes);
            for line in lines {
                encoded.clear();
                let mut count = 0;
                for field in copy_text::fields(line) {
                    encoding::append_value(field.as_deref(), encoded)?;
                    count += 1;
                }
                if count != columns {
                    return Err(not_a_copy());
                }
                row(encoded)?;
            }
            Ok(bytes.len() - rest.len())
        })
    }

    fn end(&mut self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(cut_off()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Row = Vec<Option<Vec<u8>>>;

    fn encoded(row: &Row) -> Vec<u8> {
        let mut bytes = Vec::new();
        for value in row {
            encoding::append_value(value.as_deref(), &mut bytes).unwrap();
        }
        bytes
    }

    fn binary(rows: &[Row]) -> Vec<u8> {
        let mut stream = [SIGNATURE, &[0; 8]].concat();
        for row in rows {
            stream.extend(i16::try_from(row.len()).unwrap().to_be_bytes());
            stream.extend(encoded(row));
        }
        stream.extend((-1_i16).to_be_bytes());
        stream
    }

    fn text(rows: &[Row]) -> Vec<u8> {
        let field = |value: &Option<Vec<u8>>| match value {
            None => "\\N".to_owned(),
            Some(value) => value.iter().map(|byte| format!("{}", char::from(b'a' + byte % 26))).collect(),
        };
        let line = |row: &Row| row.iter().map(field).collect::<Vec<_>>().join("\t") + "\n";
        rows.iter().map(line).collect::<String>().into_bytes()
    }

    fn cut(cutter: &mut dyn BulkRows, stream: &[u8], size: usize) -> Result<Vec<Vec<u8>>> {
        let mut rows = Vec::new();
        for piece in stream.chunks(size) {
            cutter.cut(piece, &mut |row| {
                rows.push(row.to_vec());
                Ok(())
            })?;
        }
        cutter.end().map(|()| rows)
    }

    fn rows_of_two() -> impl Strategy<Value = Vec<Row>> {
        let value = proptest::option::of(proptest::collection::vec(0_u8..26, 0..5));
        proptest::collection::vec(proptest::collection::vec(value, 2), 0..5)
    }

    proptest! {
        #[test]
        fn pieces_cut_anywhere_give_the_same_rows(rows in rows_of_two(), size in 1_usize..40) {
            let expected: Vec<Vec<u8>> = rows.iter().map(encoded).collect();
            let mut cutter = Binary { columns: 2, place: Place::Header, rest: Vec::new() };
            prop_assert_eq!(cut(&mut cutter, &binary(&rows), size).unwrap(), expected);
            let lettered = |row: &Row| -> Row {
                row.iter().map(|v| v.as_ref().map(|v| v.iter().map(|b| b'a' + b % 26).collect())).collect()
            };
            let expected: Vec<Vec<u8>> = rows.iter().map(|row| encoded(&lettered(row))).collect();
            let mut cutter = Text { columns: 2, rest: Vec::new(), row: Vec::new() };
            prop_assert_eq!(cut(&mut cutter, &text(&rows), size).unwrap(), expected);
        }

        #[test]
        fn a_stream_that_is_cut_off_is_never_taken_for_whole(rows in rows_of_two(), keep in 0_usize..60) {
            let whole = binary(&rows);
            let mut cutter = Binary { columns: 2, place: Place::Header, rest: Vec::new() };
            prop_assert_eq!(cut(&mut cutter, &whole[..keep.min(whole.len())], 7).is_ok(), keep >= whole.len());
        }
    }

    #[test]
    fn what_is_not_a_copy_is_refused() {
        for stream in [&b"PGCOPY\n\xff\r\n\x01aaaaaaaaaaa"[..], &[&binary(&[]), &b"x"[..]].concat()] {
            let mut cutter = Binary { columns: 2, place: Place::Header, rest: Vec::new() };
            assert!(cut(&mut cutter, stream, 64).is_err());
        }
    }
}
