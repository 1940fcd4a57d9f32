//! A shop in memory, a writer with a seed, and runs over both.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use syncline_core::{Carry, Destination, PipelineName, Result, SchemaMap, Selection, Source, TableId};
use syncline_engine::{Control, Mode, Pipeline, Progress, RetryPolicy, Summary};
use syncline_testkit::memory::{Database, MemoryDestination, Random, TableDefinition, text};
use tokio::sync::watch;

/// Long enough for any run here; a run that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(60);

/// A source database with a keyed table with TOAST and a unique column, a table with a composite key, and one without.
pub(crate) struct Shop {
    pub(crate) database: Database,
    pub(crate) items: TableId,
    pub(crate) pairs: TableId,
    pub(crate) notes: TableId,
}

impl Shop {
    pub(crate) fn new() -> Self {
        let database = Database::new();
        let items = TableDefinition::new("public", "items", &["id", "name", "code", "big"])
            .key(&["id"])
            .toast(&["big"]);
        let pairs = TableDefinition::new("public", "pairs", &["a", "b", "v"]).key(&["a", "b"]);
        let notes = TableDefinition::new("public", "notes", &["line"]);
        Self {
            items: database.create_table(items),
            pairs: database.create_table(pairs),
            notes: database.create_table(notes),
            database,
        }
    }

    /// Rows in all tables.
    pub(crate) fn fill(&self, rows: u64) {
        self.database
            .transaction(|tx| {
                for n in 0..rows {
                    tx.insert(
                        &self.items,
                        vec![key(n), text("name"), text(&format!("c{n}")), text(&format!("big {n}"))],
                    )?;
                    if n % 3 == 0 {
                        tx.insert(&self.pairs, vec![key(n), text("x"), text("v")])?;
                        tx.insert(&self.notes, vec![text(&format!("line {}", n % 7))])?;
                    }
                }
                Ok(())
            })
            .unwrap();
    }

    /// One transaction of random changes: inserts, updates that leave out the TOAST column, moves, deletes, re-inserts.
    pub(crate) fn scribble(&self, random: &mut Random, space: u64) {
        let mut transaction = self.database.begin();
        for _ in 0..=random.below(6) {
            let (one, other) = (key(random.below(space)), key(random.below(space)));
            let value = text(&format!("v{}", random.below(1000)));
            // Writes that do not fit (no such row, a duplicate, a row locked by an open transaction) simply do not happen.
            let _ = match random.below(12) {
                0 | 1 => transaction.insert(&self.items, vec![one, value.clone(), value, text("big new")]),
                2..=4 => transaction.update(&self.items, &[one], &[(1, value)]),
                5 => transaction.update(&self.items, &[one], &[(3, value)]),
                6 | 7 => transaction.update(&self.items, &[one], &[(0, other)]),
                8 => transaction.delete(&self.items, &[one]),
                9 => transaction.insert(&self.pairs, vec![one, text("x"), value]),
                10 => transaction.update(&self.pairs, &[one, text("x")], &[(0, other), (2, value)]),
                _ => transaction.insert(&self.notes, vec![value]),
            };
        }
        if random.chance(100) {
            transaction.rollback();
        } else {
            transaction.commit().map(|_| ()).unwrap_or_default();
        }
    }
}

/// Keys sort by their bytes as by their number.
pub(crate) fn key(n: u64) -> syncline_testkit::memory::Value {
    text(&format!("{n:06}"))
}

pub(crate) fn pipeline(
    source: impl Source + 'static,
    destination: &MemoryDestination,
    dir: &Path,
) -> Pipeline {
    Pipeline {
        name: PipelineName::new("shop").unwrap(),
        source: Arc::new(source),
        destination: Arc::new(destination.clone()) as Arc<dyn Destination>,
        selection: Selection::all(Carry::Native),
        schema_map: SchemaMap::default(),
        mode: Mode::SnapshotThenStream,
        prepare: None,
        workers: 3,
        resumable: false,
        capture_triggers: false,
        follow: false,
        journal_dir: dir.join("journal"),
        journal_budget_bytes: 64 << 20,
        dead_letters_max: 100,
        retry: RetryPolicy {
            delay_min: Duration::from_millis(1),
            delay_max: Duration::from_millis(5),
            ..RetryPolicy::default()
        },
        verify: None,
        recover: None,
    }
}

/// Runs to the end, or fails when it hangs.
pub(crate) async fn run(pipeline: Pipeline) -> Result<Summary> {
    run_with(pipeline, Control::new()).await
}

pub(crate) async fn run_with(pipeline: Pipeline, control: Control) -> Result<Summary> {
    let (progress, mut shown) = watch::channel(Progress::default());
    let running = syncline_engine::run(pipeline, control, progress);
    match tokio::time::timeout(PATIENCE, running).await {
        Ok(ended) => ended,
        Err(_) => panic!("the run hangs: {:?}", shown.borrow_and_update().clone()),
    }
}
