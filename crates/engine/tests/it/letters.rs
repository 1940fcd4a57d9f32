//! Dead letters: a row that the destination refuses is set aside, the rest goes on, and in the end both sides are equal.

use syncline_core::{
    ErrorKind, Family, LetterId, PipelineName, Prepare, Result, SchemaMap, Source as _, TableId,
};
use syncline_engine::{Summary, letters};
use syncline_testkit::memory::{
    Database, Faults, MemoryDestination, MemorySource, OpenTransaction, Random, Step, TableDefinition, Value,
    WriteError, assert_equal, differences, text,
};

use crate::support::{Shop, key, pipeline, run};

/// The column of `items` whose values are refused.
const NAME: usize = 1;
const BIG: usize = 3;

struct World {
    shop: Shop,
    dir: tempfile::TempDir,
    faults: Faults,
    destination: MemoryDestination,
    letters_max: usize,
}

impl World {
    /// Both sides equal; from now on no row of `items` may be called `bad`.
    async fn refusing() -> Self {
        let (shop, faults) = (Shop::new(), Faults::none());
        shop.fill(60);
        let destination = MemoryDestination::new().checked_against(&shop.database).with_faults(&faults);
        let world = Self { shop, dir: tempfile::tempdir().unwrap(), faults, destination, letters_max: 100 };
        assert!(world.run().await.unwrap().stopped.is_empty());
        world.refuse("bad");
        world
    }

    fn refuse(&self, name: &str) {
        self.faults.refuse_rows(&self.shop.items, NAME, text(name));
    }

    async fn run(&self) -> Result<Summary> {
        let source = MemorySource::new(&self.shop.database);
        let mut pipeline = pipeline(source, &self.destination, self.dir.path());
        pipeline.dead_letters_max = self.letters_max;
        run(pipeline).await
    }

    /// Runs, and requires that nothing stops.
    async fn run_well(&self) -> Summary {
        let summary = self.run().await.unwrap();
        assert!(summary.stopped.is_empty() && summary.sum.is_complete(), "{summary:?}");
        summary
    }

    fn change(&self, change: impl FnOnce(&mut OpenTransaction, &TableId) -> Result<(), WriteError>) {
        self.shop.database.transaction(|tx| change(tx, &self.shop.items)).unwrap();
    }

    fn letters(&self) -> usize {
        self.checkpoint().letters.len()
    }

    fn checkpoint(&self) -> syncline_core::Checkpoint {
        self.destination.checkpoint_of(&name()).unwrap()
    }

    fn at_destination(&self, id: u64) -> Option<Vec<Value>> {
        let rows = self.destination.rows(&self.shop.items).unwrap();
        rows.into_iter().find(|row| row[0] == key(id))
    }

    /// Rows of `items` at the source that are not at the destination as they are.
    fn missing(&self) -> usize {
        let there = self.destination.rows(&self.shop.items).unwrap();
        self.shop.database.rows(&self.shop.items).iter().filter(|row| !there.contains(row)).count()
    }

    /// The refusal is over: the next run brings everything.
    async fn assert_mends(&self) {
        self.faults.clear();
        self.run_well().await;
        assert_equal(&self.shop.database, &self.destination);
        assert_eq!(self.letters(), 0);
    }
}

fn name() -> PipelineName {
    PipelineName::new("shop").unwrap()
}

fn row(id: u64, name: &str) -> Vec<Value> {
    vec![key(id), text(name), text(&format!("c{id}")), text(&format!("big {id}"))]
}

#[tokio::test]
async fn trap_25_rows_at_fault_are_set_aside_and_the_rest_goes_on() {
    let world = World::refusing().await;
    world.change(|tx, items| {
        for id in 100..400 {
            tx.insert(items, row(id, if [107, 250, 399].contains(&id) { "bad" } else { "good" }))?;
        }
        tx.update(items, &[key(3)], &[(NAME, text("bad"))])?;
        tx.insert(&world.shop.notes, vec![text("a note")])
    });
    let summary = world.run_well().await;
    assert_eq!((summary.sum.letters, summary.sum.applied), (4, 298), "{:?}", summary.sum);
    assert_eq!(summary.dead_letters.len(), 1);
    assert_eq!((&summary.dead_letters[0].table, summary.dead_letters[0].letters), (&world.shop.items, 4));
    let checkpoint = world.checkpoint();
    assert!(
        checkpoint
            .letters
            .values()
            .all(|letter| letter.code.as_deref() == Some("check") && letter.attempts >= 1)
    );
    assert!(checkpoint.letters.values().all(|letter| !letter.reason.contains("bad")), "a value in a reason");
    assert_eq!(world.missing(), 4);
    for id in [107, 250, 399] {
        assert!(world.at_destination(id).is_none());
    }
    assert_eq!(world.at_destination(3).unwrap()[NAME], text("name"));

    // Refused once more: they stay, and are counted by nobody as done.
    let summary = world.run_well().await;
    assert_eq!((summary.sum.read, world.letters()), (0, 4), "{:?}", summary.sum);
    world.faults.clear();
    let summary = world.run_well().await;
    assert_eq!((summary.sum.read, summary.sum.applied), (4, 4), "{:?}", summary.sum);
    assert!(summary.dead_letters.is_empty());
    assert_equal(&world.shop.database, &world.destination);
}

#[tokio::test]
async fn a_change_of_the_whole_row_supersedes_its_letter() {
    let world = World::refusing().await;
    world.change(|tx, items| tx.insert(items, row(100, "bad")));
    world.run_well().await;
    assert_eq!(world.letters(), 1);
    // Still bad: the same letter, tried again.
    world.change(|tx, items| tx.update(items, &[key(100)], &[(BIG, text("other"))]));
    world.run_well().await;
    assert_eq!(world.letters(), 1);
    world.change(|tx, items| tx.update(items, &[key(100)], &[(NAME, text("good")), (BIG, text("large"))]));
    let summary = world.run_well().await;
    assert_eq!(world.letters(), 0, "{:?}", summary.sum);
    assert_equal(&world.shop.database, &world.destination);
}

/// What a partial change leaves out stands in the letter, not at the destination.
#[tokio::test]
async fn a_change_of_part_of_the_row_waits_behind_its_letter() {
    let world = World::refusing().await;
    world.change(|tx, items| {
        tx.insert(items, row(100, "bad"))?;
        tx.update(items, &[key(3)], &[(NAME, text("bad")), (BIG, text("new big"))])
    });
    world.run_well().await;
    assert_eq!(world.letters(), 2);
    for id in [100, 3] {
        world.change(|tx, items| tx.update(items, &[key(id)], &[(2, text("later"))]));
    }
    world.run_well().await;
    assert_eq!(world.letters(), 2);
    assert!(world.at_destination(100).is_none());
    // Nothing would refuse them now but what waits is not tried before the next run.
    world.change(|tx, items| tx.update(items, &[key(100)], &[(NAME, text("good"))]));
    world.assert_mends().await;
}

#[tokio::test]
async fn deletes_and_truncates_leave_nothing_of_letters() {
    let world = World::refusing().await;
    world.change(|tx, items| {
        tx.insert(items, row(100, "bad"))?;
        tx.insert(items, row(101, "bad"))?;
        tx.update(items, &[key(3)], &[(NAME, text("bad"))])
    });
    world.run_well().await;
    world.change(|tx, items| {
        tx.delete(items, &[key(100)])?;
        tx.delete(items, &[key(3)])
    });
    world.run_well().await;
    assert_eq!(world.letters(), 1);
    assert!(world.at_destination(3).is_none());
    world.change(|tx, items| {
        tx.truncate(items)?;
        tx.insert(items, row(101, "good"))
    });
    world.run_well().await;
    assert_eq!(world.letters(), 0);
    assert_equal(&world.shop.database, &world.destination);
}

/// A row that moved has both its keys behind it: another row that takes the old one must not stand in its way.
#[tokio::test]
async fn a_key_move_puts_both_keys_behind_the_letter() {
    let world = World::refusing().await;
    // Each is completed from what stands at its old key: columns left out.
    world.change(|tx, items| tx.update(items, &[key(5)], &[(0, key(500)), (NAME, text("bad"))]));
    world.run_well().await;
    assert_eq!(world.letters(), 1);
    world.change(|tx, items| tx.insert(items, row(5, "good")));
    world.change(|tx, items| tx.insert(items, row(600, "good")));
    world.run_well().await;
    assert_eq!((world.letters(), world.at_destination(5).unwrap()[BIG].clone()), (2, text("big 5")));
    assert!(world.at_destination(600).is_some());
    // On it goes, and another follows it.
    world.change(|tx, items| tx.update(items, &[key(500)], &[(0, key(501))]));
    world.change(|tx, items| tx.update(items, &[key(7)], &[(0, key(500))]));
    world.run_well().await;
    world.assert_mends().await;
}

#[tokio::test]
async fn rows_that_exchange_their_keys_are_set_aside_together() {
    let world = World::refusing().await;
    world.change(|tx, items| {
        tx.update(items, &[key(5)], &[(0, key(900)), (NAME, text("bad"))])?;
        tx.update(items, &[key(6)], &[(0, key(5))])?;
        tx.update(items, &[key(900)], &[(0, key(6))])?;
        tx.update(items, &[key(7)], &[(NAME, text("good"))])
    });
    world.run_well().await;
    assert_eq!(world.letters(), 2);
    assert_eq!(world.at_destination(7).unwrap()[NAME], text("good"));
    world.change(|tx, items| tx.delete(items, &[key(6)]));
    world.run_well().await;
    world.assert_mends().await;
}

/// The destination has a unique index that the source has not: two rows are at fault only together.
#[tokio::test]
async fn of_rows_that_fail_only_together_one_is_set_aside() {
    let database = Database::new();
    let table = |definition: TableDefinition| definition.key(&["id"]);
    let codes = database.create_table(table(TableDefinition::new("public", "codes", &["id", "code"])));
    let unique = table(TableDefinition::new("public", "codes", &["id", "code"])).unique(&["code"]);
    let (dir, destination) =
        (tempfile::tempdir().unwrap(), MemoryDestination::new().with_table(&unique, &[]));
    let go = || run(pipeline(MemorySource::new(&database), &destination, dir.path()));
    let code = |id: u64, code: &str| vec![key(id), text(code)];
    database
        .transaction(|tx| (0..20).try_for_each(|n| tx.insert(&codes, code(n, &format!("c{n}")))))
        .unwrap();
    assert!(go().await.unwrap().stopped.is_empty());
    // Among rows that exchange values, which the destination allows.
    let change = |tx: &mut OpenTransaction| {
        tx.update(&codes, &[key(2)], &[(1, text("c17"))])?;
        tx.update(&codes, &[key(17)], &[(1, text("c2"))])?;
        tx.insert(&codes, code(30, "twice"))?;
        tx.insert(&codes, code(31, "twice"))?;
        tx.insert(&codes, code(32, "once"))
    };
    database.transaction(change).unwrap();
    let summary = go().await.unwrap();
    assert!(summary.stopped.is_empty() && summary.sum.letters == 1, "{summary:?}");
    assert_eq!(differences(&database, &destination).len(), 1);
    // The other one goes: what is left may stand.
    database.transaction(|tx| tx.update(&codes, &[key(30)], &[(1, text("free"))])).unwrap();
    go().await.unwrap();
    let summary = go().await.unwrap();
    assert!(summary.dead_letters.is_empty(), "{summary:?}");
    assert_equal(&database, &destination);
}

#[tokio::test]
async fn beyond_the_budget_the_run_ends_and_nothing_is_lost() {
    let mut world = World::refusing().await;
    world.letters_max = 2;
    let before = (world.checkpoint(), world.destination.rows(&world.shop.items));
    world.change(|tx, items| {
        (100..200).try_for_each(|id| tx.insert(items, row(id, if id % 30 == 0 { "bad" } else { "good" })))
    });
    let error = world.run().await.unwrap_err();
    assert_eq!((error.kind(), error.kind().exit_code()), (ErrorKind::DeadLetters, 5), "{error}");
    assert!(error.remedy().is_some() && error.table() == Some(&world.shop.items), "{error}");
    assert_eq!((world.checkpoint(), world.destination.rows(&world.shop.items)), before);
    world.letters_max = 3;
    world.run_well().await;
    assert_eq!(world.letters(), 3);
    // They are there whatever the bound becomes; what is more is not.
    world.letters_max = 1;
    world.run_well().await;
    world.change(|tx, items| tx.insert(items, row(300, "bad")));
    assert_eq!(world.run().await.unwrap_err().kind(), ErrorKind::DeadLetters);
    world.assert_mends().await;
}

#[tokio::test]
async fn without_a_budget_the_table_stops() {
    let mut world = World::refusing().await;
    world.letters_max = 0;
    world.change(|tx, items| tx.insert(items, row(100, "bad")));
    let summary = world.run().await.unwrap();
    assert_eq!(summary.stopped.len(), 1);
    assert_eq!((summary.sum.letters, world.letters()), (0, 0));
    // With one, what waited is sifted on its way back to the main lane.
    world.letters_max = 5;
    world.run_well().await;
    assert_eq!(world.letters(), 1);
    world.assert_mends().await;
}

#[tokio::test]
async fn a_table_that_is_prepared_anew_has_no_letters() {
    let world = World::refusing().await;
    world.change(|tx, items| tx.insert(items, row(100, "bad")));
    world.run_well().await;
    world.faults.clear();
    let source = MemorySource::new(&world.shop.database);
    let faults = Faults::none();
    faults.stop_table(&world.shop.items, world.shop.database.end());
    world.change(|tx, items| tx.insert(items, row(101, "good")));
    world.refuse("bad");
    let stopped =
        run(pipeline(source.with_faults(&faults), &world.destination, world.dir.path())).await.unwrap();
    assert_eq!(stopped.stopped.len(), 1);
    world.faults.clear();
    let mut anew = pipeline(MemorySource::new(&world.shop.database), &world.destination, world.dir.path());
    anew.prepare = Some(Prepare::Truncate);
    run(anew).await.unwrap();
    assert_eq!(world.letters(), 0);
    assert_equal(&world.shop.database, &world.destination);
}

#[tokio::test]
async fn letters_are_tried_again_and_discarded_by_command() {
    let world = World::refusing().await;
    world.refuse("worse");
    world.change(|tx, items| {
        tx.insert(items, row(100, "bad"))?;
        tx.insert(items, row(101, "worse"))?;
        tx.update(items, &[key(5)], &[(0, key(500)), (NAME, text("worse"))])
    });
    world.run_well().await;
    let map = SchemaMap::default();
    let retry = || async { letters::retry_letters(&world.destination, &name(), &map, None).await.unwrap() };
    assert_eq!((retry().await.loaded, retry().await.left), (0, 3));
    assert!(world.checkpoint().letters.values().all(|letter| letter.attempts >= 3));

    let source = MemorySource::new(&world.shop.database);
    let checkpoint = world.checkpoint();
    let moved = checkpoint.letters.iter().find(|(_, letter)| letter.keys.len() == 2).unwrap();
    let view = letters::view(moved.1, source.snapshots()).unwrap();
    assert_eq!((view.operation, view.left_out.as_slice()), ("update", ["big".to_owned()].as_slice()));
    assert_eq!((view.row.len(), view.moved_from[0].column.as_str()), (3, "id"));
    assert_eq!(source.family(), Family::MEMORY);

    world.faults.clear();
    world.refuse("worse");
    assert_eq!(retry().await, letters::RetryOutcome { loaded: 1, left: 2 });
    assert!(world.at_destination(100).is_some());
    let unknown = std::collections::BTreeSet::from([LetterId(99)]);
    let refused = letters::discard_letters(&world.destination, &name(), &map, &unknown).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Configuration);
    let ids = world.checkpoint().letters.keys().copied().collect();
    letters::discard_letters(&world.destination, &name(), &map, &ids).await.unwrap();
    assert_eq!(world.letters(), 0);
    world.faults.clear();
    world.run_well().await;
    assert_eq!(world.missing(), 2);
}

/// Whatever is refused, and whatever fails meanwhile: at the end both sides are equal.
#[tokio::test]
async fn long_every_seed_of_refusals_ends_equal() {
    for seed in 0..24_u64 {
        let world = World::refusing().await;
        let mut random = Random::new(seed + 1);
        for round in 0..5 {
            for value in (0..1000).filter(|n| n % 9 == round) {
                world.refuse(&format!("v{value}"));
            }
            if seed % 2 == 1 {
                world.faults.seeded(seed * 7 + round, 6, &Step::ALL);
            }
            for _ in 0..40 {
                world.shop.scribble(&mut random, 90);
            }
            if random.chance(60) {
                world.change(OpenTransaction::truncate);
            }
            // A run may run out of patience with its faults; the next one goes on.
            let _ = world.run().await;
        }
        world.faults.clear();
        world.run_well().await;
        let left = differences(&world.shop.database, &world.destination);
        assert!(
            left.is_empty() && world.letters() == 0,
            "seed {seed}: {left:#?}, {} letters",
            world.letters()
        );
    }
}
