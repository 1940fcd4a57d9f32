//! The answering end: one session, from the first byte to the last. It reads; nothing that it can be asked writes, unless the
//! database it is about may be written ([`Door::writable`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use syncline_core::{
    Carriage, Carry, Column, Error, ErrorKind, Result, Selection, Source, TablePattern, TableSchema,
};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::agent::other_version;
use super::failure::Failure;
use super::frame::{Awaited, Link, Message, VERSION, Wire, malformed};
use super::holds::Writable;
use super::list::{self, List};
use super::message::{Ask, Hello, Open, Said, Wanted, Welcome};
use super::writing::Writing;
use crate::diff::pairing::ComparedColumn;
use crate::diff::side::{ROWS_BYTES_MAX, Side};
use crate::diff::sketches::{HashKey, KeyRange, Lookup, Scan, SketchSize, answer_bytes, opening_bytes};

/// How long somebody may take to say who he is.
const BEGINNING_MAX: Duration = Duration::from_secs(10);
/// A session that asks nothing for so long is over; the other end asks at least whether we are there.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// Longest question: the hashes or keys of some thousand rows.
pub(super) const QUESTION_BYTES_MAX: usize = 16 << 20;
/// Cells of all ranges of one scan together, at most: 64 bytes each for each reader.
const CELLS_MAX: usize = 1 << 17;
/// Columns of a table, at most.
const COLUMNS_MAX: usize = 10_000;
/// How often it is said how far a scan is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Bytes of a batch that is sent at once, at most.
const BATCH_BYTES_MAX: usize = 256 << 20;

/// Who judges a token, and knows which databases there are.
pub trait Door: Send + Sync {
    /// The database behind a connection's name, in a source of this session's own.
    ///
    /// # Errors
    /// Configuration if the token is wrong, in whatever time says nothing about it, or if there is no such connection.
    fn open(&self, token: &str, connection: &str) -> Result<Arc<dyn Source>>;

    /// The same database as it is written, if its owner consented to that.
    ///
    /// # Errors
    /// As opening it.
    fn writable(&self, _connection: &str) -> Result<Option<Writable>> {
        Ok(None)
    }
}

/// Answers one session until its other end goes away. `readers`: chunks of a table that are read at the same time.
///
/// # Errors
/// As the stream; permanent if the other end breaks the protocol. The other end was told, if it could be.
pub async fn serve(stream: Box<dyn Wire>, door: &dyn Door, readers: usize) -> Result<()> {
    let mut link = Link::new(stream);
    let (source, writable) = match tokio::time::timeout(BEGINNING_MAX, let_in(&mut link, door)).await {
        Ok(Ok(let_in)) => let_in,
        Ok(Err(error)) => {
            tell(&mut link, &error).await;
            return Err(error);
        }
        Err(_) => {
            return Err(Error::new(ErrorKind::Retriable, "somebody connected and did not say who he is"));
        }
    };
    let writing = writable.map(|writable| Writing::new(writable, Arc::clone(&source)));
    let mut session = Session { source, writing, readers, rows: Arc::default(), opened: 0, open: None };
    let ended = session.run(&mut link).await;
    session.release().await;
    ended
}

/// Tells somebody for whom there is no room why he is not served.
///
/// # Errors
/// As the stream.
pub async fn turn_away(stream: Box<dyn Wire>, why: &Error) -> Result<()> {
    let telling = async {
        let mut link = Link::new(stream);
        link.receive_preface(BEGINNING_MAX).await?;
        link.send_preface().await?;
        let awaited = Awaited { body_bytes_max: 0, silence_max: BEGINNING_MAX };
        // What nobody has read when a connection is closed takes the answer with it.
        link.receive(awaited, None).await?;
        link.send(&Said::<()>::Failed(Failure::of(why)), &[]).await
    };
    let late = || Error::new(ErrorKind::Retriable, "somebody who was turned away did not listen");
    tokio::time::timeout(BEGINNING_MAX, telling).await.unwrap_or_else(|_| Err(late()))
}

async fn let_in(link: &mut Link, door: &dyn Door) -> Result<(Arc<dyn Source>, Option<Writable>)> {
    let version = link.receive_preface(BEGINNING_MAX).await?;
    link.send_preface().await?;
    if version != VERSION {
        return Err(other_version(version));
    }
    let awaited = Awaited { body_bytes_max: 0, silence_max: BEGINNING_MAX };
    let message =
        link.receive(awaited, None).await?.ok_or_else(|| malformed("nothing follows its preface"))?;
    let hello: Hello = message.head()?;
    let source = door.open(&hello.token, &hello.connection)?;
    let writable = door.writable(&hello.connection)?;
    if source.snapshots().is_none() {
        return Err(Error::configuration("the agent's connection cannot be read as a whole"));
    }
    let family = source.family().0.to_owned();
    link.send(&Said::Done(Welcome { family }), &[]).await?;
    Ok((source, writable))
}

/// Says why it is over, if anybody still listens.
async fn tell(link: &mut Link, error: &Error) {
    if let Err(error) = link.send(&Said::<()>::Failed(Failure::of(error)), &[]).await {
        tracing::debug!(%error, "nobody could be told");
    }
}

/// An answer: head and body.
pub(super) type Answer = (Value, Vec<u8>);

struct Session {
    source: Arc<dyn Source>,
    /// Where it may write.
    writing: Option<Writing>,
    readers: usize,
    /// Rows read of the open table.
    rows: Arc<AtomicU64>,
    /// Tables opened so far.
    opened: u32,
    open: Option<OpenTable>,
}

/// The table that is compared.
struct OpenTable {
    number: u32,
    side: Side,
    hash_key: HashKey,
    /// Those of the last scan.
    scans: Vec<Scan>,
}

impl Session {
    async fn run(&mut self, link: &mut Link) -> Result<()> {
        loop {
            let body_bytes_max =
                self.writing.as_ref().map_or(QUESTION_BYTES_MAX, Writing::question_bytes_max);
            let awaited = Awaited { body_bytes_max, silence_max: IDLE_MAX };
            let end = self.end();
            let received = tokio::select! {
                received = link.receive(awaited, None) => received,
                () = end.cancelled() => return Err(taken_over()),
            };
            let message = match received {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tell(link, &error).await;
                    return Err(error);
                }
            };
            let ask = match message.head() {
                Ok(ask) => ask,
                Err(error) => {
                    tell(link, &error).await;
                    return Err(error);
                }
            };
            match self.answer_telling(link, ask, &message).await? {
                Ok((head, body)) => link.send(&Said::Done(head), &body).await?,
                Err(error) => link.send(&Said::<()>::Failed(Failure::of(&error)), &[]).await?,
            }
        }
    }

    /// Answers, and says now and then how far it is: so that the other end knows that we are there, and we, whether it is.
    async fn answer_telling(
        &mut self,
        link: &mut Link,
        ask: Ask,
        message: &Message,
    ) -> Result<Result<Answer>> {
        let rows = Arc::clone(&self.rows);
        let before = rows.load(Ordering::Relaxed);
        let mut tick = interval_at(Instant::now() + PROGRESS_EVERY, PROGRESS_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = self.end();
        let answering = self.answer(ask, &message.body);
        tokio::pin!(answering);
        let answer = loop {
            tokio::select! {
                answer = &mut answering => break answer,
                _ = tick.tick() => link.send_progress(rows.load(Ordering::Relaxed)).await?,
                () = end.cancelled() => return Err(taken_over()),
            }
        };
        let now = rows.load(Ordering::Relaxed);
        if now != before {
            link.send_progress(now).await?;
        }
        Ok(answer)
    }

    async fn answer(&mut self, ask: Ask, body: &[u8]) -> Result<Answer> {
        match ask {
            Ask::Ping => Ok((Value::Null, Vec::new())),
            Ask::Release => {
                self.release().await;
                Ok((Value::Null, Vec::new()))
            }
            Ask::Discover(wanted) => self.discover(wanted).await,
            Ask::Open => self.open(body).await,
            Ask::Scan { table, ranges, size } => self.scan(table, &ranges, size).await,
            Ask::Sketch { table, range } => {
                let scan = self.table(table)?.scans.get(range);
                let scan = scan.ok_or_else(|| malformed("a range that was not scanned"))?;
                Ok((Value::Null, answer_bytes(scan, body)?))
            }
            Ask::Keys { table } => {
                let open = self.table(table)?;
                let keys = open.side.keys_of(&Lookup::from_bytes(&open.hash_key, body)?).await?;
                Ok((Value::Null, List::of(keys.values().map(AsRef::as_ref))?))
            }
            Ask::Found { table } => {
                let open = self.table(table)?;
                let lookup = Lookup::from_bytes(&open.hash_key, body)?;
                let rows = open.side.found(&lookup).await?;
                Ok((Value::Null, List::of(rows.iter().map(|(_, row)| row.as_ref()))?))
            }
            Ask::Counted { table } => {
                let open = self.table(table)?;
                let lookup = Lookup::from_bytes(&open.hash_key, body)?;
                let mut list = List::default();
                for (row, count) in open.side.counted(&lookup, ROWS_BYTES_MAX).await? {
                    list.push(&count.to_le_bytes())?;
                    list.push(&row)?;
                }
                Ok((Value::Null, list.into_bytes()))
            }
            Ask::ByKey { table } => self.by_key(table, body).await,
            Ask::Push(ask) => match &mut self.writing {
                Some(writing) => writing.answer(ask, body).await,
                None => Err(Error::configuration("the agent's connection is for reading only").with_remedy(
                    "if this database may be written, start the agent with --writable and the connection's name",
                )),
            },
            Ask::Unique { table, of } => {
                let open = self.table(table)?;
                as_body(&open.side.not_unique(&of, &open.hash_key).await?)
            }
        }
    }

    async fn discover(&self, wanted: Wanted) -> Result<Answer> {
        let mut tables = self.source.discover(&wanted.selection()).await?;
        // What only a destination could use does not leave.
        tables.iter_mut().for_each(|table| table.native = None);
        as_body(&tables)
    }

    /// Opens a table, if it still is what the other end takes it for.
    async fn open(&mut self, body: &[u8]) -> Result<Answer> {
        let items = list::items(body)?;
        let [key, open] = items[..] else { return Err(malformed("a table is opened by its key and itself")) };
        let key = <[u8; 32]>::try_from(key).map_err(|_| malformed("the hash key has 32 bytes"))?;
        let open: Open = serde_json::from_slice(open).map_err(|_| malformed("a table cannot be read"))?;
        let compared = compared(&open)?;
        self.release().await;
        self.open = None;
        self.rows.store(0, Ordering::Relaxed);
        let table = Arc::new(table_as_asked(self.source.as_ref(), &open).await?);
        let (source, rows) = (Arc::clone(&self.source), Arc::clone(&self.rows));
        let side = Side::new(source, table, compared.into(), open.key_columns, self.readers, rows);
        self.opened = self.opened.wrapping_add(1);
        let number = self.opened;
        self.open = Some(OpenTable { number, side, hash_key: HashKey::new(key), scans: Vec::new() });
        Ok((json!(number), Vec::new()))
    }

    async fn scan(&mut self, number: u32, ranges: &[(u64, u8)], size: u32) -> Result<Answer> {
        let wrong = || malformed("a scan that is out of bounds");
        let size = SketchSize::from_bits(size).ok_or_else(wrong)?;
        let ranges: Option<Vec<_>> =
            ranges.iter().map(|(prefix, bits)| KeyRange::new(*prefix, *bits)).collect();
        let ranges = ranges.filter(|ranges| !ranges.is_empty()).ok_or_else(wrong)?;
        if ranges.len().checked_mul(size.cells()).is_none_or(|cells| cells > CELLS_MAX) {
            return Err(wrong());
        }
        let open = self.table(number)?;
        open.scans.clear();
        open.scans = open.side.scan_here(&open.hash_key, &ranges, size).await?;
        let mut list = List::default();
        for scan in &open.scans {
            list.push(&opening_bytes(scan))?;
        }
        Ok((Value::Null, list.into_bytes()))
    }

    async fn by_key(&mut self, number: u32, body: &[u8]) -> Result<Answer> {
        let open = self.table(number)?;
        let keys: Vec<Box<[u8]>> = list::items(body)?.into_iter().map(Into::into).collect();
        let (batch, mark) = open.side.by_key(&keys).await?;
        let bytes = list::batch_bytes(&batch)?;
        if bytes.len() > BATCH_BYTES_MAX {
            return Err(Error::configuration(
                "some rows are too large to be sent, more than 256 MiB together",
            )
            .with_table(&open.side.table.id));
        }
        Ok((json!(mark), bytes))
    }

    fn table(&mut self, number: u32) -> Result<&mut OpenTable> {
        let open = self.open.as_mut().filter(|open| open.number == number);
        open.ok_or_else(|| malformed("a table that is not open"))
    }

    /// Ends when the session is over; never, if nothing is held.
    fn end(&self) -> CancellationToken {
        self.writing.as_ref().and_then(Writing::end).unwrap_or_default()
    }

    async fn release(&mut self) {
        if let Some(writing) = &mut self.writing {
            writing.release().await;
        }
        if let Some(snapshots) = self.source.snapshots() {
            if let Some(open) = &self.open {
                snapshots.finish(&open.side.table.id).await;
            }
            snapshots.release().await;
        }
    }
}

/// What the columns of a table are compared as.
///
/// # Errors
/// Permanent if it is no table.
pub(super) fn compared(open: &Open) -> Result<Vec<ComparedColumn>> {
    let columns = open.columns.len();
    let fits =
        (1..=COLUMNS_MAX).contains(&columns) && open.classes.len() == columns && open.key_columns <= columns;
    if !fits {
        return Err(malformed("a table without its columns"));
    }
    let compared = open.columns.iter().zip(&open.classes);
    Ok(compared.map(|(column, class)| ComparedColumn { name: column.name.clone(), class: *class }).collect())
}

/// A table of the side, if it still is what the other end takes it for.
pub(super) async fn table_as_asked(source: &dyn Source, open: &Open) -> Result<TableSchema> {
    let is_native = open.columns.iter().any(|column| column.carriage != Carriage::Typed);
    let carry = if is_native { Carry::Native } else { Carry::Typed };
    let include = vec![TablePattern::new(&format!("*.{}", open.table.name))?];
    let found = source.discover(&Selection { include, ..Selection::all(carry) }).await?;
    let changed = || {
        Error::new(ErrorKind::Retriable, "the table was changed while it was looked at")
            .with_table(&open.table)
    };
    let table = found.into_iter().find(|table| table.id == open.table).ok_or_else(changed)?;
    // Alone it may have a binary form where, among the tables of the comparison, it has text.
    let is_text = open.columns.iter().all(|column| column.carriage == Carriage::NativeText);
    let as_compared = |known: &Column| match known.carriage {
        Carriage::Native if is_text => Column { carriage: Carriage::NativeText, ..known.clone() },
        _ => known.clone(),
    };
    let known: Vec<Column> = table.columns.iter().map(as_compared).collect();
    if !open.columns.iter().all(|column| known.contains(column)) {
        return Err(changed());
    }
    Ok(TableSchema { columns: open.columns.clone(), row_key: (0..open.key_columns).collect(), ..table })
}

/// Somebody else holds what the session held.
fn taken_over() -> Error {
    Error::new(ErrorKind::Cancelled, "the other end has made another connection")
}

pub(super) fn as_body(value: &impl Serialize) -> Result<Answer> {
    let body = serde_json::to_vec(value);
    let body = body.map_err(|error| Error::bug("an answer cannot be written").with_source(error))?;
    Ok((Value::Null, body))
}
