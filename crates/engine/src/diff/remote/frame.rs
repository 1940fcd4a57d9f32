//! Messages over a stream of bytes.
//!
//! ```text
//! preface  "SYNCLINE" · version u16           (each end, once, before anything else)
//! message  head · piece … · end               (a head in JSON, a body in pieces)
//! frame    kind u8 · length u32 · bytes       (at most 1 MiB)
//! progress                                    (rows read so far u64, before an answer)
//! ```
//!
//! Numbers are little-endian. Nothing is taken into memory before its length was checked against what is awaited, and a
//! length that lies takes no more memory than the bytes that really come.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use syncline_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

/// Version of the whole protocol: frames, messages, and the encoding and hashes of rows.
pub const VERSION: u16 = 2;
/// Bytes of the preface.
pub const PREFACE_BYTES: usize = MAGIC.len() + 2;

const MAGIC: &[u8; 8] = b"SYNCLINE";
/// Longest frame.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Longest head.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long an end may take to accept what is written to it.
const WRITE_MAX: Duration = Duration::from_secs(60);

const HEAD: u8 = 1;
const PIECE: u8 = 2;
const END: u8 = 3;
const PROGRESS: u8 = 4;

/// A stream of bytes to the other end.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A message as it came.
pub(super) struct Message {
    head: Vec<u8>,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// Its head.
    ///
    /// # Errors
    /// Permanent if it is another one than is awaited.
    pub(super) fn head<T: DeserializeOwned>(&self) -> Result<T> {
        // The parser's own error may repeat what it read, which may be a token.
        serde_json::from_slice(&self.head).map_err(|_| malformed("its head is not what was awaited"))
    }
}

/// What is awaited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Awaited {
    /// Longest body.
    pub(super) body_bytes_max: usize,
    /// Longest time without a frame.
    pub(super) silence_max: Duration,
}

/// One end of a stream, with what went through it.
pub(super) struct Link {
    stream: BufReader<Box<dyn Wire>>,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
}

impl Link {
    pub(super) fn new(stream: Box<dyn Wire>) -> Self {
        Self { stream: BufReader::new(stream), sent_bytes: 0, received_bytes: 0 }
    }

    /// Says which version is spoken here.
    pub(super) async fn send_preface(&mut self) -> Result<()> {
        let mut preface = MAGIC.to_vec();
        preface.extend(VERSION.to_le_bytes());
        self.write(&preface).await
    }

    /// The version that the other end speaks.
    ///
    /// # Errors
    /// Permanent if it speaks another protocol altogether; as any read.
    pub(super) async fn receive_preface(&mut self, within: Duration) -> Result<u16> {
        let mut preface = [0; PREFACE_BYTES];
        self.fill(&mut preface, within).await?;
        match preface.split_first_chunk::<8>() {
            Some((MAGIC, &[low, high])) => Ok(u16::from_le_bytes([low, high])),
            _ => Err(malformed("it does not begin as one")),
        }
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, head: &impl Serialize, body: &[u8]) -> Result<()> {
        let head = serde_json::to_vec(head)
            .map_err(|error| Error::bug("a message cannot be written").with_source(error))?;
        if head.len() > HEAD_BYTES_MAX {
            return Err(Error::configuration("what is asked for is too long to be sent"));
        }
        let mut out = Vec::with_capacity(head.len() + 64);
        put(&mut out, HEAD, &head);
        for piece in body.chunks(FRAME_BYTES_MAX) {
            put(&mut out, PIECE, piece);
            if out.len() >= FRAME_BYTES_MAX {
                self.write(&out).await?;
                out.clear();
            }
        }
        put(&mut out, END, &[]);
        self.write(&out).await
    }

    /// Tells how far an answer is.
    pub(super) async fn send_progress(&mut self, rows: u64) -> Result<()> {
        let mut out = Vec::new();
        put(&mut out, PROGRESS, &rows.to_le_bytes());
        self.write(&out).await
    }

    /// The next message; `None` if the other end has closed the stream instead. `progress` hears how far it is.
    ///
    /// # Errors
    /// Retriable if the stream breaks or is silent; permanent if it breaks the protocol or a bound.
    pub(super) async fn receive(
        &mut self,
        awaited: Awaited,
        mut progress: Option<&mut (dyn FnMut(u64) + Send)>,
    ) -> Result<Option<Message>> {
        let mut message: Option<Message> = None;
        loop {
            let Some((kind, length)) = self.frame(awaited.silence_max, message.is_none()).await? else {
                return Ok(None);
            };
            match (kind, &mut message) {
                (PROGRESS, None) if length == 8 && progress.is_some() => {
                    let mut rows = [0; 8];
                    self.fill(&mut rows, awaited.silence_max).await?;
                    if let Some(progress) = &mut progress {
                        progress(u64::from_le_bytes(rows));
                    }
                }
                (HEAD, None) if length <= HEAD_BYTES_MAX => {
                    let mut head = Vec::new();
                    self.take(length, &mut head, awaited.silence_max).await?;
                    message = Some(Message { head, body: Vec::new() });
                }
                (PIECE, Some(message)) if length > 0 => {
                    if message.body.len() + length > awaited.body_bytes_max {
                        return Err(malformed("it is longer than its bound"));
                    }
                    self.take(length, &mut message.body, awaited.silence_max).await?;
                }
                (END, Some(_)) if length == 0 => return Ok(message),
                _ => return Err(malformed("a frame does not belong there")),
            }
        }
    }

    /// Kind and length of the next frame; `None` at the end of the stream, where that may be.
    async fn frame(&mut self, silence_max: Duration, may_end: bool) -> Result<Option<(u8, usize)>> {
        let mut header = [0; 5];
        if may_end {
            let first = self.stream.read(&mut header[..1]);
            match timeout(silence_max, first).await.map_err(|_| silent())? {
                Ok(0) => return Ok(None),
                // TLS that was not taken leave of.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
                read => read.map_err(broken)?,
            };
            self.received_bytes += 1;
            self.fill(&mut header[1..], silence_max).await?;
        } else {
            self.fill(&mut header, silence_max).await?;
        }
        let [kind, length @ ..] = header;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(malformed("a frame is longer than its bound"));
        }
        Ok(Some((kind, length)))
    }

    async fn fill(&mut self, bytes: &mut [u8], silence_max: Duration) -> Result<()> {
        let read = timeout(silence_max, self.stream.read_exact(bytes)).await.map_err(|_| silent())?;
        self.received_bytes += bytes.len() as u64;
        read.map(drop).map_err(broken)
    }

    /// Appends so many bytes; memory grows with what comes.
    async fn take(&mut self, length: usize, into: &mut Vec<u8>, silence_max: Duration) -> Result<()> {
        let before = into.len();
        let mut rest = (&mut self.stream).take(length as u64);
        timeout(silence_max, rest.read_to_end(into)).await.map_err(|_| silent())?.map_err(broken)?;
        let count = into.len() - before;
        self.received_bytes += count as u64;
        if count == length { Ok(()) } else { Err(broken(std::io::ErrorKind::UnexpectedEof.into())) }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let stream = self.stream.get_mut();
        let write = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        timeout(WRITE_MAX, write).await.map_err(|_| silent())?.map_err(broken)?;
        self.sent_bytes += bytes.len() as u64;
        Ok(())
    }
}

fn put(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    // No frame is longer than its bound.
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::Permanent, format!("what the other end sends is no message of Syncline: {what}"))
}

fn silent() -> Error {
    Error::new(ErrorKind::Retriable, "the other end does not answer any more")
}

/// Whatever becomes of a connection may be better at the next try, but for what TLS says.
fn broken(error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::InvalidData => ErrorKind::Permanent,
        _ => ErrorKind::Retriable,
    };
    Error::new(kind, "the connection broke off").with_source(error)
}
