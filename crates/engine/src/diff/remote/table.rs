//! A table at an agent: what a comparison asks of a side, asked there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::RecordBatch;
use serde::de::DeserializeOwned;
use syncline_core::unique::UniqueColumns;
use syncline_core::{Error, ReadMark, Result, TableSchema};
use tokio::sync::OnceCell;

use super::agent::{Agent, Question};
use super::frame::malformed;
use super::list;
use super::message::{Ask, Open};
use super::traffic::Purpose;
use crate::diff::pairing::ComparedColumn;
use crate::diff::sketches::{
    DiffError, HashKey, Identity, KeyHash, KeyRange, Lookup, Request, Sketch, SketchSize, Terms, Theirs,
};
use crate::diff::unique::NotUnique;

/// Rows that are fetched by their keys at once, at most.
const ROWS_BYTES_MAX: usize = 256 << 20;
/// Keys that are fetched by their hashes at once, at most.
const KEYS_BYTES_MAX: usize = 64 << 20;
/// The answer about unique columns.
const UNIQUE_BYTES_MAX: usize = 8 << 20;
/// What a list takes beside its rows.
const LIST_BYTES: usize = 16 << 20;

/// A table that an agent reads for one comparison.
#[derive(Clone)]
pub(in crate::diff) struct AgentTable {
    agent: Arc<Agent>,
    hash_key: HashKey,
    table: Arc<TableSchema>,
    open: Arc<Open>,
    /// Number of the connection and of the table on it.
    opened: Arc<OnceCell<(u64, u32)>>,
    /// Rows read so far.
    rows: Arc<AtomicU64>,
}

impl AgentTable {
    pub(in crate::diff) fn new(
        agent: Arc<Agent>,
        hash_key: HashKey,
        table: Arc<TableSchema>,
        columns: &[ComparedColumn],
        key_columns: usize,
        rows: Arc<AtomicU64>,
    ) -> Self {
        let open = Open {
            table: table.id.clone(),
            columns: table.columns.clone(),
            classes: columns.iter().map(|column| column.class).collect(),
            key_columns,
        };
        Self { agent, hash_key, table, open: Arc::new(open), opened: Arc::default(), rows }
    }

    pub(in crate::diff) fn agent(&self) -> &Agent {
        &self.agent
    }

    async fn opened(&self) -> Result<(u64, u32)> {
        let open = || async {
            let table = serde_json::to_vec(self.open.as_ref());
            let table =
                table.map_err(|error| Error::bug("a table cannot be described").with_source(error))?;
            let body = list::List::of([self.hash_key.bytes().as_slice(), &table])?;
            let question = Question::new(Ask::Open, &body, Purpose::Rest, 0);
            let (number, _, epoch) = self.agent.ask::<u32>(question, None).await?;
            Ok::<_, Error>((epoch, number))
        };
        self.opened.get_or_try_init(open).await.copied()
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        ask: impl FnOnce(u32) -> Ask,
        body: &[u8],
        purpose: Purpose,
        body_bytes_max: usize,
    ) -> Result<(T, Vec<u8>)> {
        let (epoch, number) = self.opened().await?;
        let question =
            Question { epoch: Some(epoch), ..Question::new(ask(number), body, purpose, body_bytes_max) };
        let mut progress = |rows| self.rows.store(rows, Ordering::Relaxed);
        let (head, body, _) = self.agent.ask(question, Some(&mut progress)).await?;
        Ok((head, body))
    }

    /// Scans these ranges; the sketches stay at the agent until they are asked for.
    pub(in crate::diff) async fn scan(
        &self,
        identity: Identity,
        ranges: &[KeyRange],
        size: SketchSize,
    ) -> Result<Vec<Theirs>> {
        let parts = ranges.iter().map(|range| range.parts()).collect();
        let ask = |table| Ask::Scan { table, ranges: parts, size: size.bits() };
        let bytes_max = ranges.len() * (Request::Digest.reply_bytes_max() + 4);
        let ((), body) = self.ask(ask, &[], Purpose::Sketches, bytes_max).await?;
        let openings = list::items(&body)?;
        if openings.len() != ranges.len() {
            return Err(malformed("as many digests as ranges are awaited"));
        }
        let opened = |(range, opening): (&KeyRange, &[u8])| {
            let hash_key = self.hash_key.clone();
            let mut theirs = Theirs::new(Terms { hash_key, identity, range: *range });
            theirs.ask(Request::Digest);
            theirs.receive_bytes(opening)?;
            Ok(theirs)
        };
        ranges.iter().zip(openings).map(opened).collect()
    }

    /// The sketch of one range in a size, of which only the missing cells come.
    pub(in crate::diff) async fn sketch<'a>(
        &self,
        theirs: &'a mut Theirs,
        range: usize,
        size: SketchSize,
    ) -> Result<&'a Sketch> {
        if let Some(request) = theirs.lacks(size) {
            let bytes = theirs.ask(request);
            let ask = |table| Ask::Sketch { table, range };
            let ((), body) = self.ask(ask, &bytes, Purpose::Sketches, request.reply_bytes_max()).await?;
            theirs.receive_bytes(&body)?;
        }
        Ok(theirs.sketch().ok_or(DiffError::NotAsked)?)
    }

    /// The keys that a lookup knows by their hash.
    pub(in crate::diff) async fn keys_of(&self, lookup: &Lookup) -> Result<BTreeMap<KeyHash, Box<[u8]>>> {
        let ask = |table| Ask::Keys { table };
        let ((), body) = self.ask(ask, &lookup.to_bytes(), Purpose::Keys, KEYS_BYTES_MAX).await?;
        let mut keys = BTreeMap::new();
        for key in list::items(&body)? {
            let key = list::row(key, self.open.key_columns)?;
            let hash = lookup.key(key).ok_or_else(|| malformed("a key that nobody asked for"))?;
            keys.insert(hash, key.into());
        }
        Ok(keys)
    }

    /// The encoded rows that a lookup knows, or whose key it knows.
    pub(in crate::diff) async fn found(&self, lookup: &Lookup, bytes_max: usize) -> Result<Vec<Box<[u8]>>> {
        let ask = |table| Ask::Found { table };
        let ((), body) = self.ask(ask, &lookup.to_bytes(), Purpose::Rows, bytes_max + LIST_BYTES).await?;
        let row = |row| list::row(row, self.open.columns.len()).map(Into::into);
        list::items(&body)?.into_iter().map(row).collect()
    }

    /// How often the rows are there that a lookup knows.
    pub(in crate::diff) async fn counted(
        &self,
        lookup: &Lookup,
        bytes_max: usize,
    ) -> Result<BTreeMap<Box<[u8]>, i64>> {
        let ask = |table| Ask::Counted { table };
        let ((), body) = self.ask(ask, &lookup.to_bytes(), Purpose::Rows, bytes_max + LIST_BYTES).await?;
        let mut counted = BTreeMap::new();
        for pair in list::items(&body)?.chunks(2) {
            let [count, row] = pair else { return Err(malformed("a row without its count")) };
            let count = <[u8; 8]>::try_from(*count).map_err(|_| malformed("a count is a number"))?;
            let row = list::row(row, self.open.columns.len())?;
            lookup.row(row).ok_or_else(|| malformed("a row that nobody asked for"))?;
            let count = i64::from_le_bytes(count);
            // A table has not as many equal rows as would overflow a difference of two counts.
            if !(1..=i64::from(u32::MAX)).contains(&count) {
                return Err(malformed("a count out of bounds"));
            }
            counted.insert(row.into(), count);
        }
        Ok(counted)
    }

    /// The rows of these encoded keys, now.
    pub(in crate::diff) async fn by_key(&self, keys: &[Box<[u8]>]) -> Result<(RecordBatch, ReadMark)> {
        let body = list::List::of(keys.iter().map(AsRef::as_ref))?;
        let ask = |table| Ask::ByKey { table };
        let (mark, body) = self.ask(ask, &body, Purpose::Rows, ROWS_BYTES_MAX).await?;
        Ok((list::batch(&body, &self.table)?, mark))
    }

    /// Whether these columns are unique.
    pub(in crate::diff) async fn not_unique(&self, of: &UniqueColumns) -> Result<Option<NotUnique>> {
        let ask = |table| Ask::Unique { table, of: of.clone() };
        let ((), body) = self.ask(ask, &[], Purpose::Rows, UNIQUE_BYTES_MAX).await?;
        serde_json::from_slice(&body).map_err(|_| malformed("values cannot be read"))
    }
}
