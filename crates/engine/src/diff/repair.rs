//! Repair: the differing rows of a table are read again on both sides, and written as the source has them.
//!
//! Only what the comparison found is written: a row that is not any more as it was then, on either side, is left for the
//! next comparison. All of a table goes in one load, so a repair that is killed has done nothing or all of it.
//!
//! Rows that exchange values of a unique column stand in each other's way if they are written in different parts. A load
//! that is refused is therefore tried once more with every changed row deleted before the first one is written.

use std::collections::BTreeMap;

use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::take::take_record_batch;
use serde::Serialize;
use syncline_core::{Change, Delta, Error, ErrorKind, Load, Operation, Part, Result, RowKey};

use super::comparison::Comparison;
use super::keys;
use super::shown::Rows;
use super::side::ROWS_BYTES_MAX;
use super::sketches::{Difference, Identity, KeyRef, Lookup, RowHash};
use super::table::RowDifference;
use super::writer::Writer;
use crate::restoring;

/// Keys read at first; then as many as about [`READ_BYTES`] of rows have.
const KEYS_AT_FIRST: usize = 100;
/// Most keys read at once.
const KEYS_MAX: usize = 1000;
/// Encoded bytes of rows that are held at once, about.
const READ_BYTES: usize = 4 << 20;
/// Keys too long for a sketch that one scan looks for. An index of PostgreSQL takes keys of up to 2.7 KB.
const LONG_KEYS_PER_SCAN: usize = 5_000;
/// Rows without a key that one scan looks for.
const ROWS_PER_SCAN: usize = 5_000;

/// What a repair leaves in the checkpoint beside its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ledger {
    /// Nothing: no log follows.
    Nothing,
    /// The keys go on the re-read list: a stream that goes on later reads them once more, by the rule of the re-read.
    Reread,
}

/// What a repair did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Repaired {
    /// Rows inserted.
    pub inserted: u64,
    /// Rows updated.
    pub updated: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Rows that had become equal by then.
    pub became_equal: u64,
    /// Rows that were left: they had changed since the comparison, or their key is written in another way at the
    /// destination.
    pub left: u64,
}

impl Repaired {
    /// Rows written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.inserted + self.updated + self.deleted
    }
}

/// What a key is to have on both sides for its repair to be written.
type Expected = (Option<RowHash>, Option<RowHash>);

/// What is written of the differing rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Nothing: they are only told.
    Tell,
    /// Everything.
    All,
    /// First the deletes, also of rows that are to change; nobody is told.
    Deletes,
    /// Then the rows.
    Rows,
}

/// A repair under way.
struct Repairing<'a, 'b> {
    comparison: &'a Comparison,
    pass: Pass,
    load: Option<Box<dyn Load>>,
    done: Repaired,
    written: Vec<RowKey>,
    each: &'a mut Tell<'b>,
}

/// A walk through the differing rows that has come to its end.
struct Walked {
    load: Option<Box<dyn Load>>,
    done: Repaired,
    written: Vec<RowKey>,
}

/// Who hears of the rows, each once, however often they are walked through.
struct Tell<'a> {
    each: &'a mut (dyn FnMut(RowDifference) -> Result<()> + Send),
    /// Rows told in all, and in this walk.
    told: usize,
    walked: usize,
}

impl<'a> Tell<'a> {
    fn new(each: &'a mut (dyn FnMut(RowDifference) -> Result<()> + Send)) -> Self {
        Self { each, told: 0, walked: 0 }
    }

    fn tell(&mut self, row: RowDifference) -> Result<()> {
        self.walked += 1;
        if self.walked <= self.told {
            return Ok(());
        }
        self.told = self.walked;
        (self.each)(row)
    }
}

impl Comparison {
    /// Tells every differing row with its values on both sides, as far as it is still as it was found.
    ///
    /// # Errors
    /// As any read.
    pub async fn each_row(
        &self,
        difference: &Difference,
        each: &mut (dyn FnMut(RowDifference) -> Result<()> + Send),
    ) -> Result<()> {
        self.walk(difference, Pass::Tell, None, &mut Tell::new(each)).await.map(|_| ())
    }

    /// Writes what was found, in one load; `each` hears of every row that is written, with its values on both sides.
    ///
    /// # Errors
    /// As any read and write; data if a key is there more than once; retriable if the rows do not stand still. Nothing is
    /// written then.
    pub async fn repair(
        &self,
        difference: &Difference,
        writer: &mut Writer,
        each: &mut (dyn FnMut(RowDifference) -> Result<()> + Send),
    ) -> Result<Repaired> {
        self.refuse_repeated(difference)?;
        self.release().await?;
        let mut tell = Tell::new(each);
        let (load, ledger) = writer.begin(&self.pairing.left).await?;
        match self.walk(difference, Pass::All, Some(load), &mut tell).await {
            Err(error) if error.kind() == ErrorKind::Data => {
                tracing::info!(%error, "deleting before writing");
                tell.walked = 0;
                let (load, ledger) = writer.begin(&self.pairing.left).await?;
                self.deletes_first(difference, load, &mut tell).await?.commit(self, ledger).await
            }
            walked => walked?.commit(self, ledger).await,
        }
    }

    async fn deletes_first(
        &self,
        difference: &Difference,
        load: Box<dyn Load>,
        tell: &mut Tell<'_>,
    ) -> Result<Walked> {
        let mut nobody = |_| Ok(());
        let deletes = self.walk(difference, Pass::Deletes, Some(load), &mut Tell::new(&mut nobody)).await?;
        let rows = self.walk(difference, Pass::Rows, deletes.load, tell).await?;
        if rows.written == deletes.written {
            return Ok(rows);
        }
        Err(Error::new(
            ErrorKind::Retriable,
            "rows were changed while they were repaired; nothing was written",
        )
        .with_table(&self.pairing.left.id))
    }

    async fn walk(
        &self,
        difference: &Difference,
        pass: Pass,
        load: Option<Box<dyn Load>>,
        each: &mut Tell<'_>,
    ) -> Result<Walked> {
        let mut repairing =
            Repairing { comparison: self, pass, load, done: Repaired::default(), written: Vec::new(), each };
        if self.identity == Identity::Key {
            repairing.by_key(difference).await?;
        } else {
            repairing.by_row(difference).await?;
        }
        let Repairing { load, done, written, .. } = repairing;
        Ok(Walked { load, done, written })
    }

    /// Keys that a side has more than once cannot be repaired by key.
    fn refuse_repeated(&self, difference: &Difference) -> Result<()> {
        let one_row = |row: &super::sketches::DifferingRow| row.copies == 1 && row.key != KeyRef::Unknown;
        let rows = difference.only_left.iter().chain(&difference.only_right);
        let keyless = self.identity == Identity::WholeRow;
        if keyless || difference.repeated.is_empty() && rows.into_iter().all(one_row) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Data,
            "a key is there more than once, so nothing of the table was repaired",
        )
        .with_table(&self.pairing.left.id)
        .with_remedy("see which with --samples, make the key unique on both sides, and compare again"))
    }
}

impl Walked {
    async fn commit(self, comparison: &Comparison, ledger: Ledger) -> Result<Repaired> {
        if let Some(load) = self.load.filter(|_| self.done.written() > 0) {
            let table = comparison.pairing.left.id.clone();
            let changes = match ledger {
                Ledger::Reread => vec![Change::AddReread { table, keys: self.written }],
                Ledger::Nothing => Vec::new(),
            };
            load.commit(&Delta::of(changes)).await?;
        }
        Ok(self.done)
    }
}

impl Repairing<'_, '_> {
    async fn by_key(&mut self, difference: &Difference) -> Result<()> {
        let (mut named, mut hashed) = (Vec::new(), Vec::new());
        let mut sort_in = |key: &KeyRef, expected: Expected| match key {
            KeyRef::Bytes(key) => named.push((key.clone(), expected)),
            KeyRef::Hash(hash) => hashed.push((*hash, expected)),
            KeyRef::Unknown => {}
        };
        difference.only_left.iter().for_each(|row| sort_in(&row.key, (Some(row.row), None)));
        difference.only_right.iter().for_each(|row| sort_in(&row.key, (None, Some(row.row))));
        difference.changed.iter().for_each(|row| sort_in(&row.key, (Some(row.left), Some(row.right))));
        self.by_keys(&named).await?;
        for hashed in hashed.chunks(LONG_KEYS_PER_SCAN) {
            let wanted: BTreeMap<_, _> = hashed.iter().copied().collect();
            let mut lookup = Lookup::of(&Difference::default(), &self.comparison.hash_key);
            wanted.keys().for_each(|hash| lookup.add_hash(*hash));
            let comparison = self.comparison;
            let (mut keys, right) =
                tokio::try_join!(comparison.left.keys_of(&lookup), comparison.right.keys_of(&lookup))?;
            keys.extend(right);
            let named: Vec<_> =
                keys.into_iter().filter_map(|(hash, key)| Some((key, *wanted.get(&hash)?))).collect();
            self.done.left += (wanted.len() - named.len()) as u64;
            self.by_keys(&named).await?;
        }
        Ok(())
    }

    async fn by_keys(&mut self, named: &[(Box<[u8]>, Expected)]) -> Result<()> {
        let (mut rest, mut count) = (named, KEYS_AT_FIRST);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(count.min(rest.len()));
            let bytes = self.these_keys(now).await?;
            count = (READ_BYTES * now.len() / bytes.max(1)).clamp(1, KEYS_MAX);
            rest = later;
        }
        Ok(())
    }

    /// Repairs the rows of some keys; the bytes they have on both sides come back.
    async fn these_keys(&mut self, named: &[(Box<[u8]>, Expected)]) -> Result<usize> {
        let keys: Vec<Box<[u8]>> = named.iter().map(|(key, _)| key.clone()).collect();
        let comparison = self.comparison;
        let (left, right) =
            tokio::try_join!(comparison.left.rows_now(&keys), comparison.right.rows_now(&keys))?;
        let (mut found, mut gone) = (Vec::new(), Vec::new());
        let (mut shown_left, mut shown_right) = (Rows::new(), Rows::new());
        for (key, expected) in named {
            let (at_left, at_right) = (left.row(key), right.row(key));
            let hash = |row: Option<(u32, &[u8])>| row.map(|(_, row)| comparison.hash_key.row(row));
            if at_left.map(|(_, row)| row) == at_right.map(|(_, row)| row) {
                self.done.became_equal += 1;
                continue;
            }
            if (hash(at_left), hash(at_right)) != *expected {
                self.done.left += 1;
                continue;
            }
            match (at_left, at_right) {
                (Some((row, _)), None) => {
                    self.done.inserted += 1;
                    found.push(row);
                }
                (Some((row, _)), Some(_)) => {
                    self.done.updated += 1;
                    found.push(row);
                }
                (None, _) => {
                    self.done.deleted += 1;
                    gone.push(key.clone());
                }
            }
            let show = |rows: &mut Rows, row: Option<(u32, &[u8])>| {
                rows.extend(row.map(|(_, row)| (key.clone(), vec![row.into()])));
            };
            show(&mut shown_left, at_left);
            show(&mut shown_right, at_right);
        }
        self.write(&left.batch, found, &gone).await?;
        comparison.by_key(&shown_left, &shown_right)?.into_iter().try_for_each(|row| self.each.tell(row))?;
        Ok(left.bytes() + right.bytes())
    }

    async fn write(&mut self, rows: &RecordBatch, found: Vec<u32>, gone: &[Box<[u8]>]) -> Result<()> {
        let Some(load) = self.load.as_mut().filter(|_| !found.is_empty() || !gone.is_empty()) else {
            return Ok(());
        };
        let pairing = &self.comparison.pairing;
        let found = take_record_batch(rows, &UInt32Array::from(found))
            .map_err(|error| Error::bug("rows of a repair cannot be taken").with_source(error))?;
        let mut gone = keys::batch(gone, &pairing.columns[..pairing.key_columns], &pairing.left)?;
        let mut found = found;
        self.written.extend(restoring::keys_of(&pairing.left, &found)?);
        for row in 0..gone.num_rows() {
            self.written.push(RowKey::of(gone.columns(), row)?);
        }
        match self.pass {
            Pass::Tell | Pass::All => {}
            Pass::Deletes => {
                gone = restoring::and_keys_of(&pairing.left, &gone, &found)?;
                found = found.slice(0, 0);
            }
            Pass::Rows => gone = gone.slice(0, 0),
        }
        let changes = restoring::changes(&pairing.left, &found, &gone)?;
        if changes.is_empty() { Ok(()) } else { load.write(Part::Changes(changes)).await }
    }

    /// Without keys equal rows are counted on both sides, and the difference of the counts is written.
    async fn by_row(&mut self, difference: &Difference) -> Result<()> {
        let missing = difference.only_left.iter().map(|row| (row.row, i64::from(row.copies)));
        let surplus = difference.only_right.iter().map(|row| (row.row, -i64::from(row.copies)));
        let wanted: Vec<(RowHash, i64)> = missing.chain(surplus).collect();
        for wanted in wanted.chunks(ROWS_PER_SCAN) {
            let mut lookup = Lookup::of(&Difference::default(), &self.comparison.hash_key);
            wanted.iter().for_each(|(row, _)| lookup.add_row(*row));
            let comparison = self.comparison;
            let (left, right) = tokio::try_join!(
                comparison.left.counted(&lookup, ROWS_BYTES_MAX),
                comparison.right.counted(&lookup, ROWS_BYTES_MAX)
            )?;
            let wanted = wanted.iter().copied().collect();
            self.these_rows(&wanted, &left, &right).await?;
        }
        Ok(())
    }

    async fn these_rows(
        &mut self,
        wanted: &BTreeMap<RowHash, i64>,
        left: &BTreeMap<Box<[u8]>, i64>,
        right: &BTreeMap<Box<[u8]>, i64>,
    ) -> Result<()> {
        let all: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
        let (mut rows, mut operations, mut bytes) = (Vec::new(), Vec::new(), 0);
        for row in all {
            let count = |side: &BTreeMap<Box<[u8]>, i64>| side.get(row).copied().unwrap_or_default();
            let differs = count(left) - count(right);
            let expected = wanted.get(&self.comparison.hash_key.row(row)).copied().unwrap_or_default();
            let copies = differs.unsigned_abs();
            match differs {
                0 => self.done.became_equal += expected.unsigned_abs(),
                _ if differs != expected => self.done.left += copies,
                1.. => self.done.inserted += copies,
                _ => self.done.deleted += copies,
            }
            if differs != expected {
                continue;
            }
            let operation = if differs > 0 { Operation::Insert } else { Operation::Delete };
            self.show_row(row, differs)?;
            for _ in 0..copies {
                rows.push(row.clone());
                operations.push(operation);
                bytes += row.len();
                if bytes >= READ_BYTES {
                    self.write_rows(&std::mem::take(&mut rows), std::mem::take(&mut operations)).await?;
                    bytes = 0;
                }
            }
        }
        self.write_rows(&rows, operations).await
    }

    fn show_row(&mut self, row: &[u8], differs: i64) -> Result<()> {
        let none = Rows::new();
        let one = Rows::from([(Box::default(), vec![row.into()])]);
        let (left, right) = if differs > 0 { (&one, &none) } else { (&none, &one) };
        self.comparison.by_row(left, right)?.into_iter().try_for_each(|row| self.each.tell(row))
    }

    async fn write_rows(&mut self, rows: &[Box<[u8]>], operations: Vec<Operation>) -> Result<()> {
        let Some(load) = self.load.as_mut().filter(|_| !rows.is_empty()) else { return Ok(()) };
        if self.pass == Pass::Deletes {
            // A row without a key is never changed, so its deletes and inserts do not stand in each other's way.
            return Ok(());
        }
        let pairing = &self.comparison.pairing;
        let rows = keys::rows(rows, &pairing.columns, &pairing.left)?;
        let changes = restoring::of(&pairing.left, rows, operations)?;
        load.write(Part::Changes(changes)).await
    }
}
