//! One side of a comparison: a table that is read as encoded rows, in parallel and in no order; here, or by an agent beside it
//! ([`super::remote`]), which then answers each question that a comparison has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use syncline_core::encoding::{self, BulkRows};
use syncline_core::{
    Chunk, ChunkPart, ChunkPlan, ChunkRead, Error, ErrorKind, Moment, Parts, ReadMark, Result,
    SnapshotOptions, Snapshots, Source, TablePhase, TableSchema, TableState,
};
use tokio::task::JoinSet;

use super::encoder::Encoder;
use super::keys;
use super::pairing::{Class, ComparedColumn};
use super::remote::{Agent, AgentTable, Exchanged};
use super::scanned::Scanned;
use super::shown::{SHOWN_BYTES_MAX, require_shown};
use super::sketches::{HashKey, Identity, KeyHash, KeyRange, Lookup, Scan, Scanner, SketchSize};

/// A table of one side.
#[derive(Clone)]
pub(super) struct Side {
    pub(super) source: Arc<dyn Source>,
    pub(super) table: Arc<TableSchema>,
    pub(super) columns: Arc<[ComparedColumn]>,
    pub(super) key_columns: usize,
    /// Chunks read at the same time.
    readers: usize,
    /// Rows read so far.
    rows: Arc<AtomicU64>,
    /// Which moment its rows are of, as far as the source can.
    moment: Moment,
    /// What the reads saw; one mark for each snapshot.
    pub(super) marks: Arc<Mutex<BTreeSet<String>>>,
    /// Who reads it, if not this process.
    agent: Option<AgentTable>,
    /// Whether its database hashes its rows itself, if it can.
    inside: bool,
    /// What was exchanged with the database for that.
    pub(super) exchanged: Arc<Mutex<Exchanged>>,
}

/// Bytes of rows without a key that are held at once.
pub(super) const ROWS_BYTES_MAX: usize = 64 << 20;

/// Encoded keys, each with its encoded row.
pub(super) type KeyedRows = Vec<(Box<[u8]>, Box<[u8]>)>;

/// An encoded row with its key's part of it.
pub(super) struct EncodedRow<'a> {
    pub(super) key: &'a [u8],
    pub(super) row: &'a [u8],
}

impl Side {
    pub(super) fn new(
        source: Arc<dyn Source>,
        table: Arc<TableSchema>,
        columns: Arc<[ComparedColumn]>,
        key_columns: usize,
        readers: usize,
        rows: Arc<AtomicU64>,
    ) -> Self {
        let readers = readers.max(1);
        let (marks, exchanged) = (Arc::default(), Arc::default());
        let (moment, agent, inside) = (Moment::OfRun, None, false);
        Self { source, table, columns, key_columns, readers, rows, moment, marks, agent, inside, exchanged }
    }

    /// The same side, read by an agent.
    pub(super) fn read_by(self, agent: Arc<Agent>, hash_key: &HashKey) -> Self {
        let (table, rows) = (Arc::clone(&self.table), Arc::clone(&self.rows));
        let agent = AgentTable::new(agent, hash_key.clone(), table, &self.columns, self.key_columns, rows);
        Self { agent: Some(agent), ..self }
    }

    /// The same side, whose database hashes its rows itself, if it can.
    pub(super) fn inside(self) -> Self {
        Self { inside: true, ..self }
    }

    pub(super) fn is_inside(&self) -> bool {
        self.inside
    }

    /// How its rows are told apart.
    pub(super) fn identity(&self) -> Identity {
        if self.key_columns == 0 { Identity::WholeRow } else { Identity::Key }
    }

    /// The same side, with rows of another moment.
    pub(super) fn of(self, moment: Moment) -> Self {
        Self { moment, ..self }
    }

    fn snapshots(&self) -> Result<&dyn Snapshots> {
        snapshots(self.source.as_ref())
    }

    /// Gives up the snapshots of what was read.
    pub(super) async fn release(&self) -> Result<()> {
        match &self.agent {
            Some(agent) => agent.agent().release().await,
            None => {
                self.snapshots()?.release().await;
                Ok(())
            }
        }
    }

    /// A carried value of a column as a person reads it.
    fn shown(&self, place: usize, value: &[u8]) -> Result<String> {
        let column = &self.table.columns[place];
        Ok(match &self.agent {
            Some(agent) => agent.agent().shown(column, value),
            None => self.snapshots()?.show(column, value),
        })
    }

    /// Encoded values of these columns as text.
    pub(super) fn show_at(&self, row: &[u8], places: &[usize]) -> Result<Vec<Option<String>>> {
        let text = |(&place, value): (&usize, Option<&[u8]>)| {
            let Some(bytes) = value else { return Ok(None) };
            Ok(Some(match self.columns[place].class {
                Class::Native => self.shown(place, bytes)?,
                class => {
                    keys::text(class, bytes).unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned())
                }
            }))
        };
        let values = encoding::values(row)?;
        if values.len() > places.len() {
            return Err(Error::bug("an encoded row has more values than columns"));
        }
        places.iter().zip(values).map(text).collect()
    }

    /// The place of a column.
    ///
    /// # Errors
    /// Configuration if it is not compared.
    pub(super) fn place(&self, name: &str) -> Result<usize> {
        let place = self.columns.iter().position(|column| column.name == name);
        place.ok_or_else(|| {
            Error::configuration(format!("there is no column {name} that could be unique"))
                .with_table(&self.table.id)
        })
    }

    /// The side's agent, if it has one.
    pub(super) fn agent(&self) -> Option<&AgentTable> {
        self.agent.as_ref()
    }

    /// Scans these ranges of the table together.
    pub(super) async fn scan(
        &self,
        hash_key: &HashKey,
        ranges: &[KeyRange],
        size: SketchSize,
    ) -> Result<Vec<Scanned>> {
        Ok(match &self.agent {
            Some(agent) => {
                let scans = agent.scan(self.identity(), ranges, size).await?;
                scans.into_iter().enumerate().map(|(at, theirs)| Scanned::There { at, theirs }).collect()
            }
            None => {
                let scans = self.scan_here(hash_key, ranges, size).await?;
                scans.into_iter().map(Scanned::Here).collect()
            }
        })
    }

    /// As [`Side::scan`], by this process.
    pub(super) async fn scan_here(
        &self,
        hash_key: &HashKey,
        ranges: &[KeyRange],
        size: SketchSize,
    ) -> Result<Vec<Scan>> {
        let scan = |range: &KeyRange| Scanner::new(hash_key.clone(), self.identity(), *range, size);
        let parts = self.read(
            || ranges.iter().map(scan).collect::<Vec<_>>(),
            |scans, row| {
                scans.iter_mut().for_each(|scan| scan.add_row(row.key, row.row));
                Ok(())
            },
        );
        let finished = |part: Vec<Scanner>| part.into_iter().map(Scanner::finish).collect::<Vec<_>>();
        let mut parts = parts.await?.into_iter().map(finished);
        let mut scans = parts.next().ok_or_else(|| Error::bug("a side was read by nobody"))?;
        for part in parts {
            for (scan, part) in scans.iter_mut().zip(&part) {
                scan.merge(part)?;
            }
        }
        Ok(scans)
    }

    /// Reads every row once. Each reader folds into a value of its own; the values come back in no order.
    pub(super) async fn read<T, F>(&self, new: impl Fn() -> T, row: F) -> Result<Vec<T>>
    where
        T: Send + 'static,
        F: Fn(&mut T, EncodedRow<'_>) -> Result<()> + Clone + Send + Sync + 'static,
    {
        let options = SnapshotOptions { resumable: false, moment: self.moment, readers: self.readers };
        let chunks = match self.snapshots()?.plan(&self.table, &unread(), options).await? {
            ChunkPlan::Chunks(chunks) => chunks,
            ChunkPlan::StartOver(why) => return Err(self.lost(&why)),
        };
        let readers = self.readers.min(chunks.len()).max(1);
        let waiting = Arc::new(Mutex::new(VecDeque::from(chunks)));
        let mut tasks = JoinSet::new();
        for _ in 0..readers {
            let (side, waiting, mut folded, row) = (self.clone(), Arc::clone(&waiting), new(), row.clone());
            tasks.spawn(async move {
                while let Some(chunk) = next(&waiting) {
                    side.read_chunk(&chunk, |each| row(&mut folded, each)).await?;
                }
                Ok::<T, Error>(folded)
            });
        }
        let mut folded = Vec::with_capacity(readers);
        while let Some(done) = tasks.join_next().await {
            folded.push(done.map_err(|error| Error::bug("a reader panicked").with_source(error))??);
        }
        self.snapshots()?.finish(&self.table.id).await;
        Ok(folded)
    }

    async fn read_chunk(
        &self,
        chunk: &Chunk,
        mut row: impl FnMut(EncodedRow<'_>) -> Result<()> + Send,
    ) -> Result<()> {
        let snapshots = self.snapshots()?;
        let mut reader = match snapshots.read(&self.table, chunk).await? {
            ChunkRead::Reading(reader) => reader,
            ChunkRead::StartOver(why) => return Err(self.lost(&why)),
        };
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).insert(reader.mark().0.clone());
        let mut cutter: Option<Box<dyn BulkRows>> = snapshots.bulk_rows(&self.table);
        let encoder = Encoder::new(&self.columns);
        while let Some(part) = reader.next().await? {
            let mut count = 0;
            let mut each = |encoded: &[u8]| {
                count += 1;
                row(self.split(encoded)?)
            };
            match (part, &mut cutter) {
                (ChunkPart::Rows(batch), _) => encoder.rows(&batch, &mut each)?,
                (ChunkPart::Bulk(bulk), Some(cutter)) => cutter.cut(&bulk.bytes, &mut each)?,
                (ChunkPart::Bulk(_), None) => return Err(Error::bug("a bulk stream that nobody can cut")),
            }
            self.rows.fetch_add(count, Ordering::Relaxed);
        }
        match &mut cutter {
            Some(cutter) => cutter.end(),
            None => Ok(()),
        }
    }

    pub(super) fn split<'a>(&self, row: &'a [u8]) -> Result<EncodedRow<'a>> {
        let key = encoding::prefix(row, self.key_columns);
        let key = key.ok_or_else(|| Error::bug("an encoded row is shorter than its key"))?;
        Ok(EncodedRow { key: &row[..key], row })
    }

    /// The rows of these encoded keys, encoded; keys without a row are left out, and so are keys that this side would write
    /// in another way than the encoding says. With what the reads saw.
    ///
    /// A row comes once for each key that finds it, and 18.5 is found by 18.50, too. Where that may be so, each is asked for
    /// alone.
    pub(super) async fn rows_of(&self, keys: &[Box<[u8]>]) -> Result<(KeyedRows, Vec<ReadMark>)> {
        let RowsNow { rows, mark, .. } = self.rows_now(keys).await?;
        let mut found: KeyedRows = rows.into_iter().map(|(key, _, row)| (key, row)).collect();
        let mut marks = vec![mark];
        if keys.len() < 2 {
            return Ok((found, marks));
        }
        let several: BTreeSet<Box<[u8]>> =
            found.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[0].0.clone()).collect();
        found.retain(|(key, _)| !several.contains(key));
        for key in several {
            let RowsNow { rows, mark, .. } = self.rows_now(std::slice::from_ref(&key)).await?;
            found.extend(rows.into_iter().map(|(key, _, row)| (key, row)));
            marks.push(mark);
        }
        Ok((found, marks))
    }

    /// The rows of these encoded keys as they are now, as [`Side::rows_of`] has them, each as often as a key finds it.
    pub(super) async fn rows_now(&self, keys: &[Box<[u8]>]) -> Result<RowsNow> {
        let (batch, mark) = self.by_key(keys).await?;
        let (mut rows, mut at) = (Vec::with_capacity(batch.num_rows()), 0);
        Encoder::new(&self.columns).rows(&batch, &mut |row| {
            let EncodedRow { key, row } = self.split(row)?;
            rows.push((key.into(), at, row.into()));
            at += 1;
            Ok(())
        })?;
        rows.sort_unstable();
        Ok(RowsNow { batch, rows, mark })
    }

    /// The rows of these encoded keys as they are carried.
    pub(super) async fn by_key(&self, keys: &[Box<[u8]>]) -> Result<(RecordBatch, ReadMark)> {
        if let Some(agent) = &self.agent {
            return agent.by_key(keys).await;
        }
        let wanted = keys::batch(keys, &self.columns[..self.key_columns], &self.table)?;
        self.snapshots()?.read_keys(&self.table, &wanted).await
    }

    /// The rows that a lookup knows by their hash or by that of their key, by a scan.
    ///
    /// # Errors
    /// Configuration if they are too large to be shown together; as any read.
    pub(super) async fn found(&self, lookup: &Lookup) -> Result<KeyedRows> {
        if let Some(agent) = &self.agent {
            let rows = agent.found(lookup, SHOWN_BYTES_MAX).await?;
            return rows.into_iter().map(|row| Ok((self.split(&row)?.key.into(), row))).collect();
        }
        if let Some(digests) = self.digests() {
            return self.found_inside(digests, lookup, SHOWN_BYTES_MAX).await;
        }
        let (lookup, bytes) = (lookup.clone(), AtomicUsize::new(0));
        let bytes = Arc::new(bytes);
        let found = self.read(KeyedRows::new, move |found, row| {
            let is_looked_for = lookup.key(row.key).is_some() || lookup.row(row.row).is_some();
            if is_looked_for {
                require_shown(bytes.fetch_add(row.row.len(), Ordering::Relaxed) + row.row.len())?;
                found.push((row.key.into(), row.row.into()));
            }
            Ok(())
        });
        Ok(found.await?.into_iter().flatten().collect())
    }

    /// The keys that a lookup knows by their hash, by a scan.
    pub(super) async fn keys_of(&self, lookup: &Lookup) -> Result<BTreeMap<KeyHash, Box<[u8]>>> {
        if let Some(agent) = &self.agent {
            return agent.keys_of(lookup).await;
        }
        if let Some(digests) = self.digests() {
            let rows = self.found_inside(digests, lookup, ROWS_BYTES_MAX).await?;
            return Ok(rows.into_iter().filter_map(|(key, _)| Some((lookup.key(&key)?, key))).collect());
        }
        let lookup = lookup.clone();
        let found = self.read(BTreeMap::new, move |found, row| {
            if let Some(hash) = lookup.key(row.key) {
                found.entry(hash).or_insert_with(|| row.key.into());
            }
            Ok(())
        });
        Ok(found.await?.into_iter().flatten().collect())
    }

    /// How often the rows are there that a lookup knows by their hash, by a scan.
    ///
    /// # Errors
    /// Configuration if they have more bytes than `bytes_max`; as any read.
    pub(super) async fn counted(
        &self,
        lookup: &Lookup,
        bytes_max: usize,
    ) -> Result<BTreeMap<Box<[u8]>, i64>> {
        if let Some(agent) = &self.agent {
            return agent.counted(lookup, bytes_max).await;
        }
        if let Some(digests) = self.digests() {
            let mut counted = BTreeMap::new();
            for (_, row) in self.found_inside(digests, lookup, bytes_max).await? {
                *counted.entry(row).or_insert(0) += 1;
            }
            return Ok(counted);
        }
        let lookup = lookup.clone();
        let readers = self.readers;
        let found = self.read(
            || (BTreeMap::<Box<[u8]>, i64>::new(), 0_usize),
            move |(found, bytes), row| {
                if lookup.row(row.row).is_none() {
                    return Ok(());
                }
                if let Some(count) = found.get_mut(row.row) {
                    *count += 1;
                    return Ok(());
                }
                *bytes += row.row.len();
                found.insert(row.row.into(), 1);
                if *bytes * readers > bytes_max { Err(too_large(bytes_max)) } else { Ok(()) }
            },
        );
        let mut all = BTreeMap::new();
        for (found, _) in found.await? {
            found.into_iter().for_each(|(row, count)| *all.entry(row).or_insert(0) += count);
        }
        Ok(all)
    }

    /// A snapshot that is lost is worth another try: from the beginning, for what was read does not fit any more.
    fn lost(&self, why: &str) -> Error {
        Error::new(ErrorKind::Retriable, why).with_table(&self.table.id)
    }
}

/// Rows of one side, read by their keys.
pub(super) struct RowsNow {
    /// As they were read.
    pub(super) batch: RecordBatch,
    /// What the read saw.
    mark: ReadMark,
    /// Sorted.
    rows: Vec<RowNow>,
}

/// Key, place in the batch, and encoding.
type RowNow = (Box<[u8]>, u32, Box<[u8]>);

impl RowsNow {
    /// The row of a key, with its place in the batch.
    pub(super) fn row(&self, key: &[u8]) -> Option<(u32, &[u8])> {
        let at = self.rows.binary_search_by(|(known, ..)| known.as_ref().cmp(key)).ok()?;
        Some((self.rows[at].1, &self.rows[at].2))
    }

    /// Bytes of the encodings.
    pub(super) fn bytes(&self) -> usize {
        self.rows.iter().map(|(.., row)| row.len()).sum()
    }
}

fn too_large(bytes_max: usize) -> Error {
    Error::configuration(format!("the differing rows have more than {} MiB together", bytes_max >> 20))
        .with_remedy("give the table a key, or make a new snapshot of it")
}

/// The ability to read, which every side of a comparison needs.
fn snapshots(source: &dyn Source) -> Result<&dyn Snapshots> {
    source
        .snapshots()
        .ok_or_else(|| Error::configuration(format!("{} cannot be read as a whole", source.address())))
}

fn next(waiting: &Mutex<VecDeque<Chunk>>) -> Option<Chunk> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

/// A table of which nothing was read yet.
fn unread() -> TableState {
    TableState {
        phase: TablePhase::Snapshot,
        generation: 1,
        chunks: [].into(),
        rereads: [].into(),
        parts: Parts::default(),
    }
}
