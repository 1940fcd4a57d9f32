//! A connection that speaks the server's protocol itself, for what no SQL client offers: replication, and bulk reading
//! without a copy or an allocation per message.
//!
//! Messages are taken from one large read buffer as slices. [`Wire::fill`] waits for bytes, [`Wire::frame`] never
//! does: a reader takes every message that is there before it waits again.

use bytes::{BufMut, BytesMut};
use futures::FutureExt;
use postgres_protocol::message::frontend;
use syncline_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::super::super::error::{kind_of, remedy_of, safe_message};
use super::slot;

/// A byte stream of any transport: TCP, TLS over it, Unix socket.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// One message of the server, without its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) tag: u8,
    pub(super) body: &'a [u8],
}

/// Rows of a simple query in text form.
pub(super) type TextRows = Vec<Vec<Option<String>>>;

/// A connection after its transport is up.
pub(super) struct Wire {
    stream: Box<dyn Duplex>,
    input: Input,
    output: BytesMut,
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Duplex>) -> Self {
        Self { stream, input: Input::new(), output: BytesMut::with_capacity(4096) }
    }

    /// The next whole message in the buffer, if there is one.
    ///
    /// # Errors
    /// Permanent if the bytes are no message.
    pub(super) fn frame(&mut self) -> Result<Option<Frame<'_>>> {
        self.input.frame()
    }

    /// Waits for more bytes. Cancel-safe.
    ///
    /// # Errors
    /// Retriable if the connection is lost.
    pub(super) async fn fill(&mut self) -> Result<()> {
        let read = self.stream.read(self.input.spare()).await;
        self.input.filled(read.map_err(lost)?)
    }

    /// Takes more bytes if some are there already.
    ///
    /// # Errors
    /// Retriable if the connection is lost.
    pub(super) fn fill_now(&mut self) -> Result<bool> {
        match self.stream.read(self.input.spare()).now_or_never() {
            None => Ok(false),
            Some(read) => self.input.filled(read.map_err(lost)?).map(|()| true),
        }
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// As [`Wire::fill`].
    pub(super) async fn next(&mut self) -> Result<Frame<'_>> {
        while !self.input.has_frame()? {
            self.fill().await?;
        }
        self.input.frame()?.ok_or_else(|| Error::bug("a whole message was not found again"))
    }

    /// Writes one message that `write` builds.
    ///
    /// # Errors
    /// Retriable if the connection is lost.
    pub(super) async fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<()> {
        self.output.clear();
        write(&mut self.output)
            .map_err(|error| Error::bug("a message cannot be written").with_source(error))?;
        self.stream.write_all(&self.output).await.map_err(lost)?;
        self.stream.flush().await.map_err(lost)
    }

    /// Writes `body` as copy data.
    ///
    /// # Errors
    /// Retriable if the connection is lost.
    pub(super) async fn send_copy_data(&mut self, body: &[u8]) -> Result<()> {
        self.send(|out| {
            let data = frontend::CopyData::new(body)?;
            data.write(out);
            Ok(())
        })
        .await
    }

    /// Runs one statement and returns its rows.
    ///
    /// # Errors
    /// The server's, classified.
    pub(super) async fn query(&mut self, sql: &str) -> Result<TextRows> {
        self.send(|out| frontend::query(sql, out)).await?;
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            let frame = self.next().await?;
            match frame.tag {
                b'D' => rows.push(text_row(frame.body)?),
                b'E' => failed = Some(server_error(frame.body)),
                b'Z' => return failed.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// Runs one statement that answers with a stream of copy data, and returns when the stream begins: tag `H` for
    /// COPY TO, `W` for replication.
    ///
    /// # Errors
    /// The server's, classified. The connection can be used again after it.
    pub(super) async fn start_copy(&mut self, sql: &str, begins_with: u8) -> Result<()> {
        self.send(|out| frontend::query(sql, out)).await?;
        let mut failed = None;
        loop {
            let frame = self.next().await?;
            match frame.tag {
                tag if tag == begins_with => return Ok(()),
                b'E' => failed = Some(server_error(frame.body)),
                b'Z' => return Err(failed.unwrap_or_else(|| unexpected(b'Z'))),
                b'N' => slot::check_warning(frame.body)?,
                b'S' => {}
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Reads to the end of a statement whose copy data has ended.
    ///
    /// # Errors
    /// The server's, classified.
    pub(super) async fn finish_statement(&mut self) -> Result<()> {
        let mut failed = None;
        loop {
            let frame = self.next().await?;
            match frame.tag {
                b'E' => failed = Some(server_error(frame.body)),
                b'Z' => return failed.map_or(Ok(()), Err),
                _ => {}
            }
        }
    }

    /// Says goodbye. The connection may be gone already.
    pub(super) async fn terminate(mut self) {
        let goodbye = self.send(|out| {
            frontend::terminate(out);
            Ok(())
        });
        if goodbye.await.is_ok() {
            // The server has taken the goodbye when it closes its side, and with it what the session held.
            let _ = self.stream.shutdown().await;
        }
    }
}

/// Bytes read and not yet taken.
struct Input {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

/// Room for a read. One message larger than this makes the buffer grow while it is there.
const INPUT_BYTES: usize = 256 * 1024;
/// The server builds a message in one allocation, which it bounds at 1 GiB.
const FRAME_BYTES_MAX: usize = 1 << 30;
const HEADER: usize = 5;

impl Input {
    fn new() -> Self {
        Self { data: vec![0; INPUT_BYTES], start: 0, end: 0 }
    }

    /// Length of the first message with its header, as soon as the header is there.
    fn frame_length(&self) -> Result<Option<usize>> {
        let Some(&[_, a, b, c, d]) = self.data[self.start..self.end].first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(4..=FRAME_BYTES_MAX).contains(&length) {
            return Err(malformed("a message with an impossible length"));
        }
        Ok(Some(length + 1))
    }

    fn has_frame(&self) -> Result<bool> {
        Ok(self.frame_length()?.is_some_and(|length| self.end - self.start >= length))
    }

    fn frame(&mut self) -> Result<Option<Frame<'_>>> {
        let Some(length) = self.frame_length()?.filter(|length| self.end - self.start >= *length) else {
            return Ok(None);
        };
        let message = &self.data[self.start..self.start + length];
        self.start += length;
        Ok(Some(Frame { tag: message[0], body: &message[HEADER..] }))
    }

    /// Where the next read goes: never empty.
    fn spare(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.data.len() > INPUT_BYTES {
                self.data = vec![0; INPUT_BYTES];
            }
        }
        // An impossible length is reported by whoever takes the message.
        let wanted = self.frame_length().ok().flatten().unwrap_or(HEADER);
        if self.end == self.data.len() || self.start + wanted > self.data.len() {
            self.data.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if wanted > self.data.len() {
                // By doubling, and only as bytes come: a length alone must not allocate a gigabyte.
                let grown = (self.data.len() * 2).min(wanted);
                if self.end == self.data.len() {
                    self.data.resize(grown, 0);
                }
            }
        }
        &mut self.data[self.end..]
    }

    fn filled(&mut self, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Err(Error::new(ErrorKind::Retriable, "the source closed the connection"));
        }
        self.end += bytes;
        Ok(())
    }
}

fn lost(error: std::io::Error) -> Error {
    Error::io("the connection to the source is lost", error)
}

pub(super) fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::Permanent, format!("the source sent {what}"))
        .with_remedy("check that nothing between here and the server changes the stream")
}

pub(super) fn unexpected(tag: u8) -> Error {
    malformed(&format!("an unexpected message (`{}`)", char::from(tag).escape_default()))
}

/// An `ErrorResponse`. Its detail is left out: it may hold row values.
pub(super) fn server_error(body: &[u8]) -> Error {
    let (mut code, mut message, mut hint) = (String::new(), String::new(), None);
    for field in body.split(|&byte| byte == 0) {
        let Some((&kind, text)) = field.split_first() else { continue };
        let text = String::from_utf8_lossy(text).into_owned();
        match kind {
            b'C' => code = text,
            b'M' => message = text,
            b'H' => hint = Some(text),
            _ => {}
        }
    }
    let error = Error::new(kind_of(&code), safe_message(&code, &message)).with_code(&code);
    match remedy_of(&code).map(str::to_owned).or(hint) {
        Some(remedy) => error.with_remedy(remedy),
        None => error,
    }
}

/// A `DataRow` whose values are text.
fn text_row(body: &[u8]) -> Result<Vec<Option<String>>> {
    let broken = || malformed("a broken row");
    let (count, mut rest) = body.split_first_chunk::<2>().ok_or_else(broken)?;
    let mut row = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            row.push(None);
            rest = after;
            continue;
        };
        let (value, after) = after.split_at_checked(length).ok_or_else(broken)?;
        row.push(Some(String::from_utf8_lossy(value).into_owned()));
        rest = after;
    }
    Ok(row)
}

/// A standby status update: how far everything is durable. Written, flushed and applied are the same to us, for only
/// what is durable may be forgotten.
pub(super) fn status_update(acknowledged: u64, sent_at_us: i64, reply: Reply) -> [u8; 34] {
    let mut body = [0; 34];
    let mut out = &mut body[..];
    out.put_u8(b'r');
    out.put_u64(acknowledged);
    out.put_u64(acknowledged);
    out.put_u64(acknowledged);
    out.put_i64(sent_at_us);
    out.put_u8(match reply {
        Reply::Unneeded => 0,
        Reply::Wanted => 1,
    });
    body
}

/// Whether a status update asks the server for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Unneeded,
    Wanted,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(input: &mut Input, bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let spare = input.spare();
            let taken = spare.len().min(rest.len()).min(100_000);
            spare[..taken].copy_from_slice(&rest[..taken]);
            input.filled(taken).unwrap();
            rest = &rest[taken..];
            while let Some(frame) = input.frame().unwrap() {
                frames.push((frame.tag, frame.body.to_vec()));
            }
        }
        frames
    }

    #[test]
    fn messages_larger_than_the_buffer_arrive_whole_and_the_buffer_shrinks_again() {
        let mut bytes = Vec::new();
        for (tag, size) in [(b'd', 3), (b'd', 1_000_000), (b'Z', 0), (b'd', 300_000)] {
            bytes.put_u8(tag);
            bytes.put_u32(size + 4);
            bytes.extend(std::iter::repeat_n(7, size as usize));
        }
        let mut input = Input::new();
        let sizes: Vec<_> = feed(&mut input, &bytes).iter().map(|(tag, body)| (*tag, body.len())).collect();
        assert_eq!(sizes, [(b'd', 3), (b'd', 1_000_000), (b'Z', 0), (b'd', 300_000)]);
        input.spare();
        assert_eq!(input.data.len(), INPUT_BYTES);
    }

    #[test]
    fn an_error_of_the_server_keeps_its_code_and_hides_its_detail() {
        let error = server_error(b"SFATAL\0C57P01\0Mterminating connection\0Dsecret row\0\0");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Retriable, Some("57P01")));
        assert!(!format!("{error} {error:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_not_trusted(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut input = Input::new();
            input.spare()[..bytes.len()].copy_from_slice(&bytes);
            input.end = bytes.len();
            while let Ok(Some(frame)) = input.frame() {
                let _ = (text_row(frame.body), server_error(frame.body));
            }
            prop_assert!(!input.spare().is_empty() || input.frame_length().is_err());
            prop_assert!(input.data.len() <= 2 * INPUT_BYTES);
        }
    }
}
