//! The messages of `pgoutput`, protocol version 2 without streamed transactions, as slices of the received bytes.
//!
//! Nothing is copied and nothing is trusted: a message that ends too early, goes on too long or holds an unknown byte is
//! [`Malformed`].

use syncline_core::Error;

use super::wire::malformed;

/// Bytes that are no message of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

impl From<Malformed> for Error {
    fn from(Malformed(what): Malformed) -> Self {
        malformed(&format!("a malformed change: {what}"))
    }
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Begin(Begin),
    /// Position after the commit record.
    Commit {
        end: u64,
    },
    Relation(RelationMessage<'a>),
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Option<OldTuple<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: OldTuple<'a>,
    },
    Truncate(Relations<'a>),
    /// A logical message outside any transaction, ours or anybody's: it only says how far the log was read.
    Marker {
        at: u64,
    },
    /// Types, origins, messages inside transactions: nothing we need.
    Other,
}

/// Beginning of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Begin {
    /// Start of its commit record: what the server compares with the confirmed position.
    pub(super) commit_start: u64,
    /// Microseconds since 2000.
    pub(super) committed_at: i64,
    pub(super) xid: u32,
}

/// Description of a table, sent before its first change on a connection and after it changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RelationMessage<'a> {
    pub(super) id: u32,
    pub(super) schema: &'a str,
    pub(super) name: &'a str,
    /// `pg_class.relreplident`.
    pub(super) identity: u8,
    columns: u16,
    body: &'a [u8],
}

/// A column in a [`RelationMessage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RelationColumn<'a> {
    /// Whether it is part of the replica identity; under FULL every column is.
    pub(super) is_identity: bool,
    pub(super) name: &'a str,
    pub(super) type_oid: u32,
}

/// A row image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tuple<'a> {
    columns: u16,
    body: &'a [u8],
}

/// An old row image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OldTuple<'a> {
    /// Only the columns of the replica identity; the others read as null, which means "not sent".
    Key(Tuple<'a>),
    /// REPLICA IDENTITY FULL: the whole row.
    Full(Tuple<'a>),
}

/// A value in a [`Tuple`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    /// A TOAST value that the update did not touch: not sent.
    Unchanged,
    Text(&'a [u8]),
    Binary(&'a [u8]),
}

/// The relations of a truncate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Relations<'a>(&'a [[u8; 4]]);

impl Relations<'_> {
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|id| u32::from_be_bytes(*id))
    }
}

impl<'a> Message<'a> {
    /// Reads one message.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Reader(bytes);
        let message = match body.u8()? {
            b'B' => Self::Begin(begin(&mut body)?),
            b'C' => {
                body.skip(1 + 8)?;
                let end = body.u64()?;
                body.skip(8)?;
                Self::Commit { end }
            }
            b'R' => return relation(body).map(Self::Relation),
            b'I' => {
                let relation = body.u32()?;
                body.tag(b'N')?;
                return Ok(Self::Insert { relation, new: body.last_tuple()? });
            }
            b'U' => return update(body),
            b'D' => {
                let relation = body.u32()?;
                let old = match body.u8()? {
                    b'K' => OldTuple::Key(body.last_tuple()?),
                    b'O' => OldTuple::Full(body.last_tuple()?),
                    _ => return Err(Malformed("a delete without an old row")),
                };
                return Ok(Self::Delete { relation, old });
            }
            b'T' => return truncate(body),
            b'M' => return marker(body),
            b'Y' | b'O' => return Ok(Self::Other),
            _ => return Err(Malformed("an unknown kind of message")),
        };
        body.end().map(|()| message)
    }
}

fn begin(body: &mut Reader<'_>) -> Result<Begin, Malformed> {
    Ok(Begin { commit_start: body.u64()?, committed_at: body.u64()?.cast_signed(), xid: body.u32()? })
}

fn relation(mut body: Reader<'_>) -> Result<RelationMessage<'_>, Malformed> {
    let id = body.u32()?;
    // An empty schema means `pg_catalog`.
    let schema = Some(body.text()?).filter(|schema| !schema.is_empty()).unwrap_or("pg_catalog");
    let (name, identity, columns) = (body.text()?, body.u8()?, body.u16()?);
    let message = RelationMessage { id, schema, name, identity, columns, body: body.0 };
    let mut rest = message.columns();
    while let Some(column) = rest.next_column() {
        column?;
    }
    rest.body.end().map(|()| message)
}

fn update(mut body: Reader<'_>) -> Result<Message<'_>, Malformed> {
    let relation = body.u32()?;
    let mut kind = body.u8()?;
    let mut old = None;
    if kind == b'K' || kind == b'O' {
        let tuple = body.tuple()?;
        old = Some(if kind == b'K' { OldTuple::Key(tuple) } else { OldTuple::Full(tuple) });
        kind = body.u8()?;
    }
    if kind != b'N' {
        return Err(Malformed("an update without a new row"));
    }
    Ok(Message::Update { relation, old, new: body.last_tuple()? })
}

fn truncate(mut body: Reader<'_>) -> Result<Message<'_>, Malformed> {
    let count = body.u32()? as usize;
    body.skip(1)?;
    match body.0.as_chunks::<4>() {
        (relations, []) if relations.len() == count => Ok(Message::Truncate(Relations(relations))),
        _ => Err(Malformed("a truncate with another number of tables")),
    }
}

fn marker(mut body: Reader<'_>) -> Result<Message<'_>, Malformed> {
    let flags = body.u8()?;
    let at = body.u64()?;
    body.text()?;
    let length = body.u32()? as usize;
    body.skip(length)?;
    body.end()?;
    Ok(if flags & 1 == 0 { Message::Marker { at } } else { Message::Other })
}

impl<'a> RelationMessage<'a> {
    /// Its columns; well formed, as the whole message was read once.
    pub(super) fn columns(&self) -> Columns<'a> {
        Columns { left: self.columns, body: Reader(self.body) }
    }
}

/// Iterates over [`RelationColumn`]s.
#[derive(Debug, Clone)]
pub(super) struct Columns<'a> {
    left: u16,
    body: Reader<'a>,
}

impl<'a> Columns<'a> {
    fn next_column(&mut self) -> Option<Result<RelationColumn<'a>, Malformed>> {
        self.left = self.left.checked_sub(1)?;
        let mut column = || {
            let flags = self.body.u8()?;
            let name = self.body.text()?;
            let type_oid = self.body.u32()?;
            self.body.skip(4)?;
            Ok(RelationColumn { is_identity: flags & 1 != 0, name, type_oid })
        };
        Some(column())
    }
}

impl<'a> Iterator for Columns<'a> {
    type Item = RelationColumn<'a>;
    fn next(&mut self) -> Option<Self::Item> {
        self.next_column()?.ok()
    }
}

impl<'a> Tuple<'a> {
    /// Number of its values.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        usize::from(self.columns)
    }

    /// Its values, read as they are asked for.
    #[inline]
    pub(super) fn values(&self) -> Values<'a> {
        Values { left: self.columns, body: Reader(self.body) }
    }
}

/// Iterates over a tuple's values. The last one must end where the tuple does.
#[derive(Debug, Clone)]
pub(super) struct Values<'a> {
    left: u16,
    body: Reader<'a>,
}

impl<'a> Values<'a> {
    /// The next value; asking for more than there are is malformed.
    #[inline]
    pub(super) fn value(&mut self) -> Result<Value<'a>, Malformed> {
        self.left = self.left.checked_sub(1).ok_or(Malformed("a row with too few values"))?;
        self.body.value()
    }

    /// Checks that nothing is left.
    #[inline]
    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.left > 0 {
            return Err(Malformed("a row with too many values"));
        }
        self.body.end()
    }
}

/// Bytes not yet read.
#[derive(Debug, Clone, Copy)]
struct Reader<'a>(&'a [u8]);

const SHORT: Malformed = Malformed("it ends too early");

impl<'a> Reader<'a> {
    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (chunk, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*chunk)
    }

    #[inline]
    fn u8(&mut self) -> Result<u8, Malformed> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.chunk().map(u16::from_be_bytes)
    }

    #[inline]
    fn u32(&mut self) -> Result<u32, Malformed> {
        self.chunk().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.chunk().map(u64::from_be_bytes)
    }

    #[inline]
    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn skip(&mut self, length: usize) -> Result<(), Malformed> {
        self.bytes(length).map(|_| ())
    }

    fn tag(&mut self, tag: u8) -> Result<(), Malformed> {
        if self.u8()? == tag { Ok(()) } else { Err(Malformed("an unexpected part")) }
    }

    /// A text that ends with a zero byte.
    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.0.iter().position(|&byte| byte == 0).ok_or(SHORT)?;
        let text = std::str::from_utf8(self.bytes(length)?).map_err(|_| Malformed("a name is not UTF-8"))?;
        self.skip(1)?;
        Ok(text)
    }

    #[inline]
    fn value(&mut self) -> Result<Value<'a>, Malformed> {
        let kind = self.u8()?;
        match kind {
            b'b' | b't' => {
                let length = self.u32()? as usize;
                let bytes = self.bytes(length)?;
                Ok(if kind == b'b' { Value::Binary(bytes) } else { Value::Text(bytes) })
            }
            b'n' => Ok(Value::Null),
            b'u' => Ok(Value::Unchanged),
            _ => Err(Malformed("an unknown kind of value")),
        }
    }

    /// A tuple that goes to the end of the message; its values are checked as they are read.
    #[inline]
    fn last_tuple(&mut self) -> Result<Tuple<'a>, Malformed> {
        let columns = self.u16()?;
        Ok(Tuple { columns, body: std::mem::take(&mut self.0) })
    }

    /// A tuple with something after it.
    fn tuple(&mut self) -> Result<Tuple<'a>, Malformed> {
        let columns = self.u16()?;
        let all = self.0;
        for _ in 0..columns {
            self.value()?;
        }
        Ok(Tuple { columns, body: &all[..all.len() - self.0.len()] })
    }

    #[inline]
    fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("it goes on too long")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples;
    use super::*;

    fn walk(message: Message<'_>) -> Result<usize, Malformed> {
        let tuple = |tuple: Tuple<'_>| {
            let mut values = tuple.values();
            (0..tuple.len()).try_for_each(|_| values.value().map(|_| ()))?;
            values.end().map(|()| tuple.len())
        };
        Ok(match message {
            Message::Insert { new, .. } => tuple(new)?,
            Message::Update { old, new, .. } => {
                let old = match old {
                    None => 0,
                    Some(OldTuple::Key(old) | OldTuple::Full(old)) => tuple(old)?,
                };
                old + tuple(new)?
            }
            Message::Delete { old: OldTuple::Key(old) | OldTuple::Full(old), .. } => tuple(old)?,
            Message::Relation(relation) => relation.columns().count(),
            Message::Truncate(relations) => relations.iter().count(),
            Message::Begin(_) | Message::Commit { .. } | Message::Marker { .. } | Message::Other => 0,
        })
    }

    #[test]
    fn every_message_is_read_and_every_cut_of_it_refused() {
        for (message, parts) in samples::all() {
            assert_eq!(Message::parse(&message).and_then(walk), Ok(parts), "{message:?}");
            for length in 0..message.len() {
                let cut = Message::parse(&message[..length]).and_then(walk);
                let opaque = matches!(message[0], b'Y' | b'O') && length > 0;
                assert_eq!(cut.is_err(), !opaque, "{length} bytes of {message:?}");
            }
            let longer = [message.as_slice(), &[0]].concat();
            let opaque = matches!(message[0], b'Y' | b'O');
            assert_eq!(
                Message::parse(&longer).and_then(walk).is_err(),
                !opaque,
                "one byte after {message:?}"
            );
        }
    }

    #[test]
    fn values_are_slices_of_the_message() {
        let message =
            samples::insert(7, &[Value::Binary(b"abc"), Value::Null, Value::Unchanged, Value::Text(b"x")]);
        let Ok(Message::Insert { relation: 7, new }) = Message::parse(&message) else { panic!() };
        let mut values = new.values();
        assert_eq!(values.value(), Ok(Value::Binary(b"abc")));
        assert_eq!(values.value(), Ok(Value::Null));
        assert_eq!(values.value(), Ok(Value::Unchanged));
        assert_eq!(values.value(), Ok(Value::Text(b"x")));
        assert_eq!(values.clone().value(), Err(Malformed("a row with too few values")));
        assert_eq!(values.end(), Ok(()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Message::parse(&bytes).and_then(walk);
        }

        #[test]
        fn a_changed_byte_never_panics(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let all = samples::all();
            let mut message = all[which.index(all.len())].0.clone();
            let at = at.index(message.len());
            message[at] = byte;
            let _ = Message::parse(&message).and_then(walk);
        }
    }
}
