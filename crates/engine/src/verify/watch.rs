//! Which of the watched rows the loader has touched, and how far it has come.
//!
//! A verification registers rows and waits for a *turn*: the loader begins one each time it looks for work, and by then
//! everything it took before is at the destination. So what was taken before the turn is applied and remembered in the
//! table's window, and what is taken after it marks the registered rows that it changes. While nobody watches, a load pays
//! for one look at a flag.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrow_array::ArrayRef;
use syncline_core::key::append_key;
use syncline_core::{ChangeBatch, Error, Operation, Position, Result, RowKey, TableId};
use tokio::sync::watch;

/// What is watched of one table, and whether it was touched.
enum Watched {
    /// These rows, by the bytes of their row keys.
    Rows(HashMap<Box<[u8]>, bool>),
    /// Every row.
    Table(bool),
}

impl Watched {
    fn touch_all(&mut self) {
        match self {
            Self::Rows(rows) => rows.values_mut().for_each(|touched| *touched = true),
            Self::Table(touched) => *touched = true,
        }
    }
}

/// The loader's look for work.
#[derive(Debug, Clone, Default)]
struct Turn {
    number: u64,
    /// Everything of the main lane up to here is at the destination.
    passed: Position,
}

/// Shared by the loader and the verification of an attempt, which looks at one table at a time.
pub(crate) struct Watch {
    active: AtomicBool,
    watched: Mutex<Option<(TableId, Watched)>>,
    turns: watch::Sender<Turn>,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            active: AtomicBool::new(false),
            watched: Mutex::default(),
            turns: watch::Sender::new(Turn::default()),
        }
    }
}

/// Rows are watched until this is dropped.
pub(crate) struct Watching<'a>(&'a Watch);

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.active.store(false, Ordering::SeqCst);
        self.0.lock().take();
    }
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Option<(TableId, Watched)>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches these rows.
    pub(crate) fn rows<'a>(&self, table: &TableId, keys: impl Iterator<Item = &'a RowKey>) -> Watching<'_> {
        self.begin(table, Watched::Rows(keys.map(|key| (key.0.clone(), false)).collect()))
    }

    /// Watches every row.
    pub(crate) fn table(&self, table: &TableId) -> Watching<'_> {
        self.begin(table, Watched::Table(false))
    }

    fn begin(&self, table: &TableId, watched: Watched) -> Watching<'_> {
        *self.lock() = Some((table.clone(), watched));
        self.active.store(true, Ordering::SeqCst);
        Watching(self)
    }

    /// Whether anybody watches. The loader asks this before it takes the trouble of [`Watch::touch`].
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::SeqCst)
    }

    /// Changes are about to be loaded.
    pub(crate) fn touch(&self, batch: &ChangeBatch) -> Result<()> {
        let mut watched = self.lock();
        let Some((_, watched)) = watched.as_mut().filter(|(id, _)| *id == batch.table.id) else {
            return Ok(());
        };
        match watched {
            Watched::Rows(rows) if !batch.operations.contains(&Operation::Truncate) => {
                touch_rows(rows, batch)
            }
            watched => {
                watched.touch_all();
                Ok(())
            }
        }
    }

    /// A chunk is about to be loaded into a table: whatever rows it has.
    pub(crate) fn touch_table(&self, table: &TableId) {
        if let Some((_, watched)) = self.lock().as_mut().filter(|(id, _)| id == table) {
            watched.touch_all();
        }
    }

    /// Rows are about to be loaded that were read again.
    pub(crate) fn touch_keys(&self, table: &TableId, keys: &[RowKey]) {
        match self.lock().as_mut().filter(|(id, _)| id == table) {
            Some((_, Watched::Table(touched))) => *touched = true,
            Some((_, Watched::Rows(rows))) => {
                for key in keys {
                    if let Some(touched) = rows.get_mut(&key.0) {
                        *touched = true;
                    }
                }
            }
            None => {}
        }
    }

    /// Whether a watched row was touched. What is not watched counts as touched: nobody knows.
    pub(crate) fn is_touched(&self, key: &RowKey) -> bool {
        match &*self.lock() {
            Some((_, Watched::Rows(rows))) => rows.get(&key.0).copied().unwrap_or(true),
            Some((_, Watched::Table(touched))) => *touched,
            None => true,
        }
    }

    /// Whether any row of the watched table was touched.
    pub(crate) fn is_table_touched(&self) -> bool {
        !matches!(&*self.lock(), Some((_, Watched::Table(false))))
    }

    /// The loader looks for work; everything of the main lane up to `passed` is at the destination.
    pub(crate) fn turn(&self, passed: &Position) {
        if self.turns.receiver_count() > 0 {
            self.turns.send_modify(|turn| {
                turn.number += 1;
                turn.passed.clone_from(passed);
            });
        }
    }

    /// Waits until the loader looks for work the next time.
    pub(crate) async fn next_turn(&self) -> Result<()> {
        let mut turns = self.turns.subscribe();
        let now = turns.borrow_and_update().number;
        turns.wait_for(|turn| turn.number > now).await.map_err(|_| gone()).map(|_| ())
    }

    /// Waits until everything of the main lane up to a position is at the destination.
    pub(crate) async fn reached(&self, position: &Position) -> Result<()> {
        let mut turns = self.turns.subscribe();
        turns.wait_for(|turn| turn.number > 0 && turn.passed >= *position).await.map_err(|_| gone())?;
        Ok(())
    }
}

fn gone() -> Error {
    Error::bug("a watch outlived its attempt")
}

/// Marks the rows that a batch changes, a moved one under both of its keys.
fn touch_rows(rows: &mut HashMap<Box<[u8]>, bool>, batch: &ChangeBatch) -> Result<()> {
    let new: Vec<ArrayRef> =
        batch.table.row_key.iter().map(|&column| batch.rows.column(column).clone()).collect();
    let old = batch.old.as_ref().map(|old| old.keys.columns()).unwrap_or_default();
    let mut key = Vec::new();
    let mut mark = |columns: &[ArrayRef], row: usize| -> Result<()> {
        key.clear();
        append_key(columns, row, &mut key)?;
        if let Some(touched) = rows.get_mut(key.as_slice()) {
            *touched = true;
        }
        Ok(())
    };
    for row in 0..batch.len() {
        mark(&new, row)?;
        if let Some(at) = batch.old_row(row) {
            mark(old, at)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{BinaryArray, RecordBatch};
    use syncline_core::batch::OldKeys;
    use syncline_core::{Carriage, Column, DataType, TableSchema};

    use super::*;

    fn table() -> Arc<TableSchema> {
        let column = |name: &str| Column {
            name: name.to_owned(),
            data_type: DataType::Bytes,
            nullable: true,
            native_type: "bytes".to_owned(),
            carriage: Carriage::Native,
        };
        Arc::new(TableSchema {
            id: TableId::new("s", "t"),
            columns: vec![column("id"), column("v")],
            row_key: vec![0],
            version: 1,
            rows_estimated: None,
            native: None,
        })
    }

    fn column(values: &[&str]) -> ArrayRef {
        Arc::new(BinaryArray::from(values.iter().map(|value| value.as_bytes()).collect::<Vec<_>>()))
    }

    fn row_key(value: &str) -> RowKey {
        RowKey::of(&[column(&[value])], 0).unwrap()
    }

    /// One change of the row `new`, that was `old` before.
    fn change(operation: Operation, new: &str, old: Option<&str>) -> ChangeBatch {
        let table = table();
        let rows = RecordBatch::try_new(table.arrow(), vec![column(&[new]), column(&["v"])]).unwrap();
        let old = old.map(|old| OldKeys {
            keys: RecordBatch::try_new(table.arrow_old(), vec![column(&[old])]).unwrap(),
            row: vec![Some(0)],
        });
        let (operations, masks) = (vec![operation], None);
        ChangeBatch { table, rows, operations, ordinals: vec![0], transactions: vec![0], masks, old }
    }

    fn touched(touch: impl Fn(&Watch)) -> Vec<&'static str> {
        let watch = Watch::default();
        let keys = ["a", "b", "c"];
        let row_keys = keys.map(row_key);
        let _watching = watch.rows(&TableId::new("s", "t"), row_keys.iter());
        touch(&watch);
        keys.into_iter().filter(|key| watch.is_touched(&row_key(key))).collect()
    }

    #[test]
    fn a_row_is_touched_under_both_of_its_keys() {
        let by = |operation, new, old| touched(|watch| watch.touch(&change(operation, new, old)).unwrap());
        assert!(by(Operation::Insert, "x", None).is_empty());
        assert_eq!(by(Operation::Update, "b", None), ["b"]);
        assert_eq!(by(Operation::Delete, "c", None), ["c"]);
        assert_eq!(by(Operation::Update, "c", Some("a")), ["a", "c"]);
        assert_eq!(by(Operation::Update, "x", Some("a")), ["a"]);
        assert_eq!(by(Operation::Truncate, "x", None), ["a", "b", "c"]);
    }

    #[test]
    fn chunks_touch_all_and_rows_read_again_themselves() {
        let (table, other) = (TableId::new("s", "t"), TableId::new("s", "u"));
        assert_eq!(touched(|watch| watch.touch_table(&table)), ["a", "b", "c"]);
        assert!(touched(|watch| watch.touch_table(&other)).is_empty());
        assert_eq!(touched(|watch| watch.touch_keys(&table, &[row_key("b")])), ["b"]);
    }

    #[test]
    fn what_nobody_watches_counts_as_touched() {
        let watch = Watch::default();
        drop(watch.table(&TableId::new("s", "t")));
        assert!(!watch.is_active() && watch.is_table_touched() && watch.is_touched(&row_key("a")));
    }
}
