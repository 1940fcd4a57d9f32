//! One row of COPY in text form.

use std::borrow::Cow;

/// The fields of a row without its line end; `None` for NULL. Only the escapes that the server writes are read.
pub(super) fn fields(line: &[u8]) -> Vec<Option<Cow<'_, [u8]>>> {
    line.split(|&byte| byte == b'\t').map(field).collect()
}

fn field(raw: &[u8]) -> Option<Cow<'_, [u8]>> {
    if raw == b"\\N" {
        return None;
    }
    if !raw.contains(&b'\\') {
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
        let row = fields(b"a\\tb\t\\N\t\t\\\\N\tx\\ny");
        let row: Vec<Option<&[u8]>> = row.iter().map(Option::as_deref).collect();
        assert_eq!(row, [Some(&b"a\tb"[..]), None, Some(b""), Some(b"\\N"), Some(b"x\ny")]);
    }
}
