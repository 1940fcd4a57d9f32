//! Rows that are refused in chunks, windows, recoveries and tables without a key: whatever is written and whatever fails
//! meanwhile, after each run the destination's rows and its letters together are what the source has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use syncline_core::{
    Change, Delta, Destination as _, ErrorKind, Lane, LoadIdentity, LoadKind, Prepare, Reaction, SchemaMap,
    Source as _, TableId,
};
use syncline_engine::diff::Guard;
use syncline_engine::{Pipeline, Recover, Summary, letters};
use syncline_testkit::memory::{
    Cutting, Faults, MemoryDestination, MemorySource, Random, ReadMoment, Row, Step, Value, assert_equal,
    text,
};

use crate::recovery::seeds;
use crate::support::{Shop, key, pipeline, run};
use crate::verify::sides;

struct World {
    shop: Arc<Shop>,
    dir: tempfile::TempDir,
    faults: Faults,
    destination: MemoryDestination,
}

impl World {
    fn new() -> Self {
        let faults = Faults::none();
        Self {
            shop: Arc::new(Shop::new()),
            dir: tempfile::tempdir().unwrap(),
            destination: MemoryDestination::new().with_faults(&faults),
            faults,
        }
    }

    fn pipeline(&self, source: MemorySource) -> Pipeline {
        pipeline(source, &self.destination, self.dir.path())
    }

    fn plain(&self) -> Pipeline {
        self.pipeline(MemorySource::new(&self.shop.database))
    }

    /// No row that is called so may come, in any table.
    fn refuse(&self, values: impl Iterator<Item = u64>) {
        for value in values.map(|n| text(&format!("v{n}"))) {
            self.faults.refuse_rows(&self.shop.items, 1, value.clone());
            self.faults.refuse_rows(&self.shop.pairs, 2, value.clone());
            self.faults.refuse_rows(&self.shop.notes, 0, value);
        }
    }

    fn letters(&self) -> usize {
        self.checkpoint().letters.len()
    }

    fn checkpoint(&self) -> syncline_core::Checkpoint {
        self.destination.checkpoint_of(&self.plain().name).unwrap()
    }

    /// Runs until one comes to its end: a run may run out of patience with its faults.
    async fn run_until_done(&self, what: &str, pipeline: impl Fn() -> Pipeline) -> Summary {
        for _ in 0..20 {
            match run(pipeline()).await {
                Ok(summary) => {
                    assert!(summary.sum.is_complete() && summary.stopped.is_empty(), "{what}: {summary:?}");
                    return summary;
                }
                Err(error) => assert_eq!(error.kind().reaction(), Reaction::Retry, "{what}: {error:?}"),
            }
        }
        panic!("{what}: no run came to its end");
    }

    /// The destination's rows with its letters applied, by code that shares nothing with the loader but how a letter is read.
    fn assert_complete(&self, what: &str) {
        let tables =
            [(&self.shop.items, vec![0]), (&self.shop.pairs, vec![0, 1]), (&self.shop.notes, vec![])];
        for (table, key) in tables {
            let mut expected = self.shop.database.rows(table);
            let mut there = self.with_letters(table, &key);
            expected.sort();
            there.sort();
            let left: Vec<_> = expected.iter().filter(|row| !there.contains(row)).map(show).collect();
            let more: Vec<_> = there.iter().filter(|row| !expected.contains(row)).map(show).collect();
            assert!(
                left.is_empty() && more.is_empty() && expected.len() == there.len(),
                "{what}, {table}: missing {left:?}, surplus {more:?}"
            );
        }
    }

    fn with_letters(&self, table: &TableId, key: &[usize]) -> Vec<Row> {
        let rows = self.destination.rows(table).unwrap();
        let source = MemorySource::new(&self.shop.database);
        let columns = self.shop.database.columns(table).unwrap();
        let place = |name: &str| columns.iter().position(|column| column == name).unwrap();
        let mut gone: Vec<Row> = Vec::new();
        let mut come = Vec::new();
        let at = |row: &Row, key: &[Value]| row_key(row, self_key(table, &self.shop)) == key;
        for letter in self.checkpoint().letters.values().filter(|letter| letter.table == *table) {
            let view = letters::view(letter, source.snapshots()).unwrap();
            let value = |value: &letters::LetterValue| value.value.as_deref().and_then(text);
            let carried: BTreeMap<usize, Value> =
                view.row.iter().map(|one| (place(&one.column), value(one))).collect();
            let moved_from: Vec<Value> = view.moved_from.iter().map(value).collect();
            if key.is_empty() {
                match view.operation {
                    "update" => gone.push(moved_from.clone()),
                    "delete" => gone.push(carried.values().cloned().collect()),
                    _ => {}
                }
                if view.operation != "delete" {
                    let rest = |n: usize| moved_from.get(n).cloned().flatten();
                    come.push(
                        (0..columns.len())
                            .map(|n| carried.get(&n).cloned().unwrap_or_else(|| rest(n)))
                            .collect(),
                    );
                }
                continue;
            }
            let own: Vec<Value> = key.iter().map(|n| carried[n].clone()).collect();
            let from = if moved_from.is_empty() { own.clone() } else { moved_from };
            let before = rows.iter().find(|row| at(row, &from)).cloned();
            gone.extend(before.clone());
            gone.extend(rows.iter().find(|row| at(row, &own)).cloned());
            if view.operation != "delete" {
                let rest = |n: usize| before.as_ref().map(|row| row[n].clone()).unwrap_or_default();
                come.push(
                    (0..columns.len()).map(|n| carried.get(&n).cloned().unwrap_or_else(|| rest(n))).collect(),
                );
            }
        }
        let mut left = Vec::new();
        for row in rows {
            match gone.iter().position(|gone| *gone == row) {
                Some(found) if key.is_empty() => drop(gone.swap_remove(found)),
                Some(_) => {}
                None => left.push(row),
            }
        }
        left.extend(come);
        left
    }

    /// The refusal is over: the next run brings everything.
    async fn assert_mends(&self, what: &str) {
        self.faults.clear();
        self.run_until_done(what, || self.plain()).await;
        assert_equal(&self.shop.database, &self.destination);
        assert_eq!(self.letters(), 0, "{what}");
    }
}

fn self_key(table: &TableId, shop: &Shop) -> &'static [usize] {
    if *table == shop.pairs { &[0, 1] } else { &[0] }
}

fn row_key(row: &Row, key: &[usize]) -> Vec<Value> {
    key.iter().map(|&n| row[n].clone()).collect()
}

fn show(row: &Row) -> String {
    let value = |value: &Value| value.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    format!("{:?}", row.iter().map(value).collect::<Vec<_>>())
}

/// A source that is written to in the middle of its chunks.
fn busy(shop: &Arc<Shop>, cutting: Cutting, seed: u64) -> MemorySource {
    let (shop_again, random) = (Arc::clone(shop), Mutex::new(Random::new(seed)));
    MemorySource::new(&shop.database).with_cutting(cutting).with_rows_per_chunk(20).with_hook(
        move |moment: ReadMoment, _, _| {
            let mut random = random.lock().unwrap();
            let writes = random.below(5);
            if moment == ReadMoment::AfterSnapshot {
                (0..writes).for_each(|_| shop_again.scribble(&mut random, 120));
            }
        },
    )
}

async fn window(cutting: Cutting, seed: u64) -> usize {
    let what = format!("seed {seed}, {cutting:?}");
    let world = World::new();
    let mut random = Random::new(seed + 1);
    world.shop.fill(100);
    (0..150).for_each(|_| world.shop.scribble(&mut random, 120));
    world.refuse((0..1000).filter(|n| n % 9 == 0));
    if seed % 2 == 1 {
        world.faults.seeded(seed, 5, &Step::ALL);
    }
    world.run_until_done(&what, || world.pipeline(busy(&world.shop, cutting, seed))).await;
    world.run_until_done(&what, || world.plain()).await;
    world.assert_complete(&what);
    let letters = world.letters();
    for round in 0..3 {
        world.refuse((0..1000).filter(|n| n % 9 == round));
        (0..30).for_each(|_| world.shop.scribble(&mut random, 120));
        world.run_until_done(&what, || world.plain()).await;
        world.assert_complete(&what);
    }
    world.assert_mends(&what).await;
    letters
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_chunks_are_set_aside_and_what_is_written_meanwhile_waits_behind_them() {
    for cutting in [Cutting::KeyRanges, Cutting::OneSnapshot] {
        let mut letters = 0;
        for seed in seeds(0..8) {
            letters += window(cutting, seed).await;
        }
        assert!(letters > 10, "only {letters} letters: nothing was tested");
    }
}

/// Chunks alone, without a stream.
#[tokio::test]
async fn a_copy_without_a_stream_sets_rows_aside() {
    let world = World::new();
    let mut random = Random::new(3);
    world.shop.fill(100);
    (0..150).for_each(|_| world.shop.scribble(&mut random, 120));
    world.refuse((0..1000).filter(|n| n % 9 == 0));
    let copy = || Pipeline { mode: syncline_engine::Mode::Snapshot, ..world.plain() };
    world.run_until_done("copy", copy).await;
    world.assert_complete("copy");
    assert!(world.letters() > 0);
    world.faults.clear();
    let name = world.plain().name;
    let retried =
        letters::retry_letters(&world.destination, &name, &SchemaMap::default(), None).await.unwrap();
    assert_eq!(retried.left, 0);
    assert_equal(&world.shop.database, &world.destination);
    assert_eq!(world.letters(), 0);
}

/// A chunk of which everything is refused costs no more than the budget asks for.
#[tokio::test]
async fn beyond_the_budget_a_chunk_is_not_taken_apart_row_by_row() {
    let world = World::new();
    world.shop.fill(4000);
    world.faults.refuse_rows(&world.shop.items, 1, text("name"));
    let small = || Pipeline { dead_letters_max: 10, ..world.plain() };
    let error = run(small()).await.unwrap_err();
    assert_eq!((error.kind(), error.kind().exit_code()), (ErrorKind::DeadLetters, 5), "{error}");
    let offers = world.faults.passes(Step::Offer);
    assert!(offers < 4 * (10 + 12), "{offers} offers");
    assert_eq!(world.letters(), 0);
    let none = || Pipeline { dead_letters_max: 0, ..world.plain() };
    assert_eq!(run(none()).await.unwrap().stopped.len(), 1);
    world.assert_mends("budget").await;
}

/// Chunks that are loaded at the same time share one budget.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_beside_each_other_share_the_budget() {
    let world = World::new();
    world.shop.fill(600);
    for id in (0..600).step_by(20) {
        world.faults.refuse_rows(&world.shop.items, 0, key(id));
    }
    let source = || MemorySource::new(&world.shop.database).with_rows_per_chunk(20);
    let with = |dead_letters_max| Pipeline { dead_letters_max, ..world.pipeline(source()) };
    assert_eq!(run(with(29)).await.unwrap_err().kind(), ErrorKind::DeadLetters);
    assert!(world.letters() <= 29, "{}", world.letters());
    world.run_until_done("budget", || with(30)).await;
    assert_eq!(world.letters(), 30);
    world.assert_complete("budget");
    world.assert_mends("budget").await;
}

async fn recovered(seed: u64) {
    let what = format!("seed {seed}");
    let world = World::new();
    let mut random = Random::new(seed + 7);
    world.shop.fill(100);
    let name = world.plain().name;
    world.run_until_done(&what, || world.plain()).await;
    world.refuse((0..1000).filter(|n| n % 9 == seed % 9));
    (0..50).for_each(|_| world.shop.scribble(&mut random, 120));
    world.run_until_done(&what, || world.plain()).await;
    (0..20).for_each(|_| world.shop.scribble(&mut random, 120));
    world.shop.database.lose_slot(&name);
    (0..80).for_each(|_| world.shop.scribble(&mut random, 120));
    if seed % 2 == 1 {
        world.faults.seeded(seed, 4, &Step::ALL);
    }
    let recovering = || {
        let mut guard = Guard::default();
        guard.set("all=off").unwrap();
        let recover = Recover { guard, sides: sides(&world.shop, &world.destination) };
        // For the table without a key.
        let source = busy(&world.shop, Cutting::KeyRanges, seed);
        Pipeline { recover: Some(recover), prepare: Some(Prepare::Truncate), ..world.pipeline(source) }
    };
    world.run_until_done(&what, recovering).await;
    world.faults.clear();
    world.refuse((0..1000).filter(|n| n % 9 == seed % 9));
    world.run_until_done(&what, || world.plain()).await;
    world.assert_complete(&what);
    world.assert_mends(&what).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_refused_in_a_recovery_are_set_aside() {
    for seed in seeds(0..8) {
        recovered(seed).await;
    }
}

/// Without a key a row is what its values are: deletes and updates find the one that waits.
#[tokio::test]
async fn without_a_key_changes_find_the_row_that_waits() {
    let world = World::new();
    let notes = &world.shop.notes;
    let change = |change: &dyn Fn(&mut syncline_testkit::memory::OpenTransaction)| {
        world
            .shop
            .database
            .transaction(|tx| {
                change(tx);
                Ok(())
            })
            .unwrap();
    };
    let line = |line: &str| vec![text(line)];
    change(&|tx| ["a", "b", "b", "c"].iter().for_each(|one| tx.insert(notes, line(one)).unwrap()));
    world.run_until_done("start", || world.plain()).await;
    world.refuse([1, 2].into_iter());
    // An insert and an update that are refused; in one transaction with the delete of such a row.
    change(&|tx| {
        tx.insert(notes, line("v1")).unwrap();
        tx.insert(notes, line("v1")).unwrap();
        tx.update(notes, &[text("a")], &[(0, text("v2"))]).unwrap();
        tx.delete(notes, &[text("v1")]).unwrap();
        tx.insert(notes, line("d")).unwrap();
    });
    world.run_until_done("refused", || world.plain()).await;
    assert_eq!(world.letters(), 2);
    world.assert_complete("refused");
    // The updated row goes on and comes to be, the inserted one is deleted.
    change(&|tx| {
        tx.update(notes, &[text("v2")], &[(0, text("fine"))]).unwrap();
        tx.delete(notes, &[text("v1")]).unwrap();
    });
    world.run_until_done("gone", || world.plain()).await;
    world.run_until_done("gone", || world.plain()).await;
    assert_eq!(world.letters(), 0);
    assert_equal(&world.shop.database, &world.destination);
    // The row that the destination still has is deleted by the letter that the delete leaves.
    change(&|tx| tx.update(notes, &[text("c")], &[(0, text("v1"))]).unwrap());
    world.run_until_done("updated", || world.plain()).await;
    change(&|tx| tx.delete(notes, &[text("v1")]).unwrap());
    world.run_until_done("deleted", || world.plain()).await;
    world.run_until_done("deleted", || world.plain()).await;
    assert_eq!(world.letters(), 0);
    assert_equal(&world.shop.database, &world.destination);
    change(&|tx| tx.insert(notes, line("v1")).unwrap());
    world.run_until_done("truncated", || world.plain()).await;
    change(&|tx| {
        tx.truncate(notes).unwrap();
        tx.insert(notes, line("e")).unwrap();
    });
    world.run_until_done("truncated", || world.plain()).await;
    assert_eq!(world.letters(), 0);
    world.assert_mends("truncated").await;
}

/// What is read again takes the place of what was set aside of it, with where that still is at the destination.
#[tokio::test]
async fn a_row_that_is_read_again_takes_the_place_of_its_letter() {
    let world = World::new();
    let items = &world.shop.items;
    world.shop.fill(20);
    world.run_until_done("start", || world.plain()).await;
    world.refuse([1].into_iter());
    let bad = [(0, key(500)), (1, text("v1"))];
    world.shop.database.transaction(|tx| tx.update(items, &[key(5)], &bad)).unwrap();
    world.run_until_done("refused", || world.plain()).await;
    let before = world.checkpoint().letters;
    assert_eq!(before.len(), 1);
    let list = async || {
        let name = world.plain().name;
        let process = syncline_store::this_process().unwrap();
        let session = world.destination.open(&name, &process, &SchemaMap::default()).await.unwrap();
        let identity = LoadIdentity { pipeline: name, lane: Lane::Main, kind: LoadKind::Bookkeeping };
        let keys = before.values().flat_map(|letter| letter.keys.clone()).collect();
        let listed = Change::AddReread { table: items.clone(), keys };
        let load = session.begin(&identity).await.unwrap();
        let _ = load.commit(&Delta::of(vec![listed])).await.unwrap();
        session.close().await;
    };
    list().await;
    world.run_until_done("read again", || world.plain()).await;
    assert_eq!(world.letters(), 1);
    world.assert_complete("read again");
    world.faults.clear();
    // Tried at the start of the run, and read again after that.
    list().await;
    world.assert_mends("read again").await;
}
