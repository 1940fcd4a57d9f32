//! COPY into a table: pieces are gathered, because one message per row costs a third of the speed.

use std::pin::Pin;

use bytes::{BufMut, Bytes, BytesMut};
use futures::SinkExt;
use syncline_core::Result;
use tokio_postgres::CopyInSink;

use super::super::encode::Reader;
use super::super::sessions::Worker;

/// Bytes gathered before they are sent.
const GATHERED_BYTES: usize = 64 << 10;

/// A COPY under way.
pub(super) struct Copy {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    gathered: BytesMut,
}

impl Copy {
    /// Begins `COPY … FROM STDIN`.
    pub(super) async fn begin(worker: &mut Worker, sql: &str) -> Result<Self, tokio_postgres::Error> {
        let statement = worker.statement(sql).await?;
        let sink = worker.client().copy_in(&statement).await?;
        Ok(Self { sink: Box::pin(sink), gathered: BytesMut::with_capacity(GATHERED_BYTES * 2) })
    }

    /// Sends bytes of the bulk form.
    pub(super) async fn send(&mut self, bytes: Bytes) -> Result<(), tokio_postgres::Error> {
        if bytes.len() >= GATHERED_BYTES && self.gathered.is_empty() {
            return self.sink.feed(bytes).await;
        }
        self.gathered.extend_from_slice(&bytes);
        self.send_if_full().await
    }

    /// Sends what is gathered once it is enough.
    pub(super) async fn send_if_full(&mut self) -> Result<(), tokio_postgres::Error> {
        if self.gathered.len() < GATHERED_BYTES {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.gathered, BytesMut::with_capacity(GATHERED_BYTES * 2));
        self.sink.feed(full.freeze()).await
    }

    /// Where rows are gathered. [`Copy::send_if_full`] is called after each.
    pub(super) fn gathered(&mut self) -> &mut BytesMut {
        &mut self.gathered
    }

    /// Ends the COPY: the number of rows it wrote.
    pub(super) async fn finish(mut self) -> Result<u64, tokio_postgres::Error> {
        if !self.gathered.is_empty() {
            let rest = std::mem::take(&mut self.gathered).freeze();
            self.sink.feed(rest).await?;
        }
        self.sink.as_mut().finish().await
    }

    /// Appends the header of the binary form.
    pub(super) fn put_header(&mut self) {
        self.gathered.put_slice(b"PGCOPY\n\xff\r\n\0");
        self.gathered.put_u64(0);
    }

    /// Appends the trailer of the binary form.
    pub(super) fn put_trailer(&mut self) {
        self.gathered.put_i16(-1);
    }
}

/// Appends a row of the binary form.
///
/// # Errors
/// As [`Reader::append`].
pub(super) fn put_row(out: &mut BytesMut, readers: &[Reader<'_>], row: usize) -> Result<()> {
    out.put_i16(field_count(readers.len()));
    readers.iter().try_for_each(|reader| reader.append(row, out))
}

/// A number of fields; a table has at most 1,600 columns.
pub(super) fn field_count(fields: usize) -> i16 {
    i16::try_from(fields).unwrap_or(i16::MAX)
}
