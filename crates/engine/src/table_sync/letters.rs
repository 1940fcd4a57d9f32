//! Rows of table syncs that were refused, by command: which there are, one of them with its values, tried again, given up.
//!
//! They are remembered on this machine, by key; the row is read again whenever it is needed. Each run tries them by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use syncline_core::{Error, LetterId, PipelineName, Result, TableId, TableSchema};
use syncline_store::Store;
use xxhash_rust::xxh3::xxh3_64;

use super::far::Far;
use super::memory::{Keep, Memory, RefusedRow};
use super::near::Near;
use super::round::{Kept, TableSync, subject};
use super::send::{Done, Sending};
use super::table::look;
use crate::letters::{LetterView, RetryOutcome, values};

/// A letter's number is one of so many, made of its table and key: the same from run to run.
const NUMBERS: u64 = 1_000_000_000;

fn number(table: &TableId, row: &RefusedRow) -> LetterId {
    let bytes = [table.to_string().as_bytes(), &[0], &row.key].concat();
    LetterId(xxh3_64(&bytes) % NUMBERS)
}

/// The refused rows of a pipeline.
///
/// # Errors
/// As the store.
pub fn letters(store: &Store, pipeline: &PipelineName) -> Result<BTreeMap<LetterId, (TableId, RefusedRow)>> {
    let mut letters = BTreeMap::new();
    for (table, memory) in store.table_syncs(pipeline)? {
        // What cannot be read any more is no memory.
        let memory: Memory = serde_json::from_value(memory).unwrap_or_default();
        for row in memory.letters {
            letters.insert(number(&table, &row), (table.clone(), row));
        }
    }
    Ok(letters)
}

/// A refused row as the source has it now; of one that is gone, its key.
///
/// # Errors
/// Configuration if there is no such letter; as any read.
pub async fn view_letter(sync: &TableSync, id: LetterId) -> Result<LetterView> {
    let (table, row) = one(sync, id)?;
    let mut opened = Opened::open(sync).await?;
    let viewed = opened.view(sync, &table, &row).await;
    opened.far.close().await;
    viewed
}

/// Tries refused rows again; `only`: these, else all.
///
/// # Errors
/// Configuration if there is no such letter; as any read and request.
pub async fn retry_letters(sync: &TableSync, only: Option<&BTreeSet<LetterId>>) -> Result<RetryOutcome> {
    let all = letters(&sync.store, &sync.pipeline.name)?;
    for id in only.into_iter().flatten() {
        let _ = one(sync, *id)?;
    }
    let is_wanted = |id: &LetterId| only.is_none_or(|only| only.contains(id));
    let tables: BTreeSet<TableId> =
        all.iter().filter(|(id, _)| is_wanted(id)).map(|(_, (table, _))| table.clone()).collect();
    let mut outcome = RetryOutcome { loaded: 0, left: 0 };
    if tables.is_empty() {
        return Ok(outcome);
    }
    let mut opened = Opened::open(sync).await?;
    let mut retried = Ok(());
    for table in &tables {
        retried = opened.retry(sync, table, &is_wanted, &mut outcome).await;
        if retried.is_err() {
            break;
        }
    }
    opened.far.close().await;
    retried.map(|()| outcome)
}

/// Gives refused rows up: they are not sent again until they change.
///
/// # Errors
/// Configuration if there is no such letter; as the store.
pub fn discard_letters(sync: &TableSync, ids: &BTreeSet<LetterId>) -> Result<()> {
    let mut tables = BTreeSet::new();
    for id in ids {
        tables.insert(one(sync, *id)?.0);
    }
    for table in &tables {
        let kept = Kept { sync, table };
        let mut memory = kept.read()?;
        memory.give_up(|row| ids.contains(&number(table, row)));
        kept.keep(&memory)?;
    }
    Ok(())
}

fn one(sync: &TableSync, id: LetterId) -> Result<(TableId, RefusedRow)> {
    letters(&sync.store, &sync.pipeline.name)?.remove(&id).ok_or_else(|| {
        Error::configuration(format!("there is no dead letter {id}"))
            .with_remedy(format!("see which there are: syncline dead-letters list {}", sync.pipeline.name))
    })
}

/// The far side and the tables of the source.
struct Opened {
    far: Far,
    tables: Vec<Arc<TableSchema>>,
}

impl Opened {
    async fn open(sync: &TableSync) -> Result<Self> {
        let tables = sync.pipeline.source.discover(&sync.pipeline.selection).await?;
        let tables: Vec<_> = tables.into_iter().map(Arc::new).collect();
        Ok(Self { far: Far::open(sync, &tables).await?, tables })
    }

    fn table(&self, id: &TableId) -> Result<Arc<TableSchema>> {
        let table = self.tables.iter().find(|table| table.id == *id).cloned();
        table.ok_or_else(|| Error::configuration("the source has no such table any more").with_table(id))
    }

    async fn view(&mut self, sync: &TableSync, id: &TableId, letter: &RefusedRow) -> Result<LetterView> {
        let table = self.table(id)?;
        let (near, _) = self.far.pair(sync, &table, sync.columns.of(&table)?).await?;
        let found = near.rows(std::slice::from_ref(&letter.key)).await?;
        let snapshots = sync.pipeline.source.snapshots();
        let (operation, row) = if found.keys.is_empty() {
            (
                "delete",
                values(near.key_columns(), &near.decoded(std::slice::from_ref(&letter.key))?, snapshots),
            )
        } else {
            ("upsert", values(near.columns(), &found.rows, snapshots))
        };
        Ok(LetterView { operation, row, left_out: Vec::new(), moved_from: Vec::new() })
    }

    async fn retry(
        &mut self,
        sync: &TableSync,
        id: &TableId,
        is_wanted: &(dyn Fn(&LetterId) -> bool + Sync),
        outcome: &mut RetryOutcome,
    ) -> Result<()> {
        let table = self.table(id)?;
        let column = sync.columns.of(&table)?;
        let kept = Kept { sync, table: id };
        let mut memory = kept.read()?.if_of(&subject(sync, &table, column));
        let wanted: BTreeSet<_> = memory
            .letters
            .iter()
            .filter(|row| is_wanted(&number(id, row)))
            .map(|row| row.key.clone())
            .collect();
        let (near, far) = self.far.pair(sync, &table, column).await?;
        let (seen, _) = look(near.as_ref()).await?;
        memory.far = None;
        kept.keep(&memory)?;
        // What stands refused may stay so.
        let letters_max = sync.limits.letters_max.max(memory.letters.len());
        let mut sending = Sending {
            near: near.as_ref(),
            far: far.as_ref(),
            keep: &kept,
            memory: &mut memory,
            letters_max,
            done: Done::default(),
            failures: 0,
        };
        sending.retry(seen.upto, |row| wanted.contains(&row.key)).await?;
        let left = memory.letters.iter().filter(|row| wanted.contains(&row.key)).count() as u64;
        outcome.left += left;
        outcome.loaded += wanted.len() as u64 - left;
        Ok(())
    }
}
