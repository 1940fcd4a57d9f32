//! One side of a comparison: a table that is read as encoded rows, in parallel and in no order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use syncline_core::encoding::{self, BulkRows};
use syncline_core::{
    Chunk, ChunkPart, ChunkPlan, ChunkRead, Error, ErrorKind, Parts, ReadMark, Result, SnapshotOptions,
    Snapshots, Source, TablePhase, TableSchema, TableState,
};
use tokio::task::JoinSet;

use super::encoder::Encoder;
use super::keys;
use super::pairing::ComparedColumn;
use super::sketches::{KeyHash, Lookup};

/// A table of one side.
#[derive(Clone)]
pub(super) struct Side {
    source: Arc<dyn Source>,
    pub(super) table: Arc<TableSchema>,
    columns: Arc<[ComparedColumn]>,
    key_columns: usize,
    /// Chunks read at the same time.
    readers: usize,
    /// Rows read so far.
    rows: Arc<AtomicU64>,
    /// Whether it is written to meanwhile: then whatever holds least is best, and what differs because the moments differ is looked
    /// at again. Else all rows of one moment, as far as the source can.
    live: bool,
    /// What the reads saw; one mark for each snapshot.
    pub(super) marks: Arc<Mutex<BTreeSet<String>>>,
}

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
        Self { source, table, columns, key_columns, readers, rows, live: false, marks: Arc::default() }
    }

    /// The same side, while it is written to.
    pub(super) fn live(self) -> Self {
        Self { live: true, ..self }
    }

    pub(super) fn snapshots(&self) -> Result<&dyn Snapshots> {
        snapshots(self.source.as_ref())
    }

    /// Reads every row once. Each reader folds into a value of its own; the values come back in no order.
    pub(super) async fn read<T, F>(&self, new: impl Fn() -> T, row: F) -> Result<Vec<T>>
    where
        T: Send + 'static,
        F: Fn(&mut T, EncodedRow<'_>) -> Result<()> + Clone + Send + Sync + 'static,
    {
        let options = SnapshotOptions { resumable: false, streamed: self.live, readers: self.readers };
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

    fn split<'a>(&self, row: &'a [u8]) -> Result<EncodedRow<'a>> {
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
        let wanted = keys::batch(keys, &self.columns[..self.key_columns], &self.table)?;
        let (batch, mark) = self.snapshots()?.read_keys(&self.table, &wanted).await?;
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

    /// The keys that a lookup knows by their hash, by a scan.
    pub(super) async fn keys_of(&self, lookup: &Lookup) -> Result<BTreeMap<KeyHash, Box<[u8]>>> {
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
