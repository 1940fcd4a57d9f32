//! One row of COPY in text form.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter};

/// The fields of a row without its line end; `None` for NULL. Only the escapes that the server writes are read.
pub(super) fn fields(line: &[u8]) -> impl Iterator<Item = Option<Cow<'_, [u8]>>> {
    let mut begin = 0;
    let ends = memchr_iter(b'\t', line).chain([line.len()]);
    ends.map(move |end| {
        let raw = &line[begin..end];
        begin = end + 1;
        field(raw)
    })
}

/// The rows that end in a piece, without their line ends, and what is left of it.
pub(super) fn rows(piece: &[u8]) -> (impl Iterator<Item = &[u8]>, &[u8]) {
    let whole = memchr::memrchr(b'\n', piece).map_or(0, |end| end + 1);
    let mut begin = 0;
    let rows = memchr_iter(b'\n', &piece[..whole]).map(move |end| {
        let row = &piece[begin..end];
        begin = end + 1;
        row
    });
    (rows, &piece[whole..])
}

fn field(raw: &[u8]) -> Option<Cow<'_, [u8]>> {
    if raw == b"\\N" {
        return None;
    }
    if memchr(b'\\', raw).is_none() {
        return Some(Cow::Borrowed(raw));
    }
    let mut value = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter();
    while let Some(&byte) = bytes.next() {
        value.push(match (byte, byte == b'\\') {
            (_, true) => match bytes.next() {
                Some(b'b') => 0x08,
                Some(b'f') => 0x0c,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 0x0b,
                Some(&other) => other,
                None => b'\\',
            },
            (plain, false) => plain,
        });
    }
    Some(Cow::Owned(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_unescaped() {
        let row: Vec<_> = fields(b"a\\tb\t\\N\t\t\\\\N\tx\\ny").collect();
        let row: Vec<Option<&[u8]>> = row.iter().map(Option::as_deref).collect();
        assert_eq!(row, [Some(&b"a\tb"[..]), None, Some(b""), Some(b"\\N"), Some(b"x\ny")]);
    }

    #[test]
    fn rows_end_where_their_line_ends() {
        let of = |piece: &'static [u8]| {
            let (rows, rest) = rows(piece);
            (rows.collect::<Vec<_>>(), rest)
        };
        assert_eq!(of(b"a\tb\n\nc"), (vec![&b"a\tb"[..], b""], &b"c"[..]));
        assert_eq!(of(b"no end"), (vec![], &b"no end"[..]));
        assert_eq!(of(b""), (vec![], &b""[..]));
    }
}
