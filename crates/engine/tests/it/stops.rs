//! Stopped tables: one that cannot go on, by the source's fault or by the destination's, holds up no other.

use std::sync::Arc;
use std::time::Duration;

use syncline_core::{ErrorKind, Lane, PipelineName, Prepare, Result, TableId, TablePhase};
use syncline_engine::{Control, Summary};
use syncline_testkit::memory::{
    Action, Faults, MemoryDestination, MemorySource, Random, Step, assert_equal, assert_history, differences,
    text,
};
use tokio::task::JoinHandle;

use crate::support::{Shop, key, pipeline, run, run_with};

/// Long enough for anything here; what does not come fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A shop, its copy, and faults on both sides.
struct World {
    shop: Shop,
    dir: tempfile::TempDir,
    at_source: Faults,
    at_destination: Faults,
    destination: MemoryDestination,
    name: PipelineName,
    journal_budget_bytes: u64,
}

impl World {
    /// Both sides equal, with a stream.
    async fn in_sync() -> Self {
        let (shop, at_destination) = (Shop::new(), Faults::none());
        shop.fill(100);
        let destination =
            MemoryDestination::new().checked_against(&shop.database).with_faults(&at_destination);
        let world = Self {
            shop,
            dir: tempfile::tempdir().unwrap(),
            at_source: Faults::none(),
            at_destination,
            destination,
            name: PipelineName::new("shop").unwrap(),
            journal_budget_bytes: 64 << 20,
        };
        assert!(world.run(None).await.unwrap().stopped.is_empty());
        assert_equal(&world.shop.database, &world.destination);
        world
    }

    fn pipeline(&self, prepare: Option<Prepare>) -> syncline_engine::Pipeline {
        let source = MemorySource::new(&self.shop.database).with_faults(&self.at_source);
        let mut pipeline = pipeline(source, &self.destination, self.dir.path());
        pipeline.journal_budget_bytes = self.journal_budget_bytes;
        pipeline.prepare = prepare;
        pipeline
    }

    async fn run(&self, prepare: Option<Prepare>) -> Result<Summary> {
        run(self.pipeline(prepare)).await
    }

    fn follow(&self) -> (JoinHandle<Result<Summary>>, Control) {
        let mut following = self.pipeline(None);
        following.follow = true;
        let control = Control::new();
        (tokio::spawn(run_with(following, control.clone())), control)
    }

    fn scribble(&self, seed: u64) {
        let mut random = Random::new(seed);
        (0..60).for_each(|_| self.shop.scribble(&mut random, 200));
    }

    /// A change of each table.
    fn change_all(&self, n: u64) {
        let change = |tx: &mut syncline_testkit::memory::OpenTransaction| {
            let row = vec![key(n), text("later"), text(&format!("c{n}")), text("big")];
            tx.insert(&self.shop.items, row)?;
            tx.insert(&self.shop.pairs, vec![key(n), text("later"), text("v")])?;
            tx.insert(&self.shop.notes, vec![text(&format!("later {n}"))])
        };
        self.shop.database.transaction(change).unwrap();
    }

    fn phase(&self, table: &TableId) -> TablePhase {
        self.destination.checkpoint_of(&self.name).unwrap().tables[table].phase
    }

    fn has_lane(&self, table: &TableId) -> bool {
        let lane = Lane::Table(table.clone());
        self.destination.checkpoint_of(&self.name).unwrap().lanes.contains_key(&lane)
    }

    /// Which tables differ now.
    fn differing(&self) -> Vec<String> {
        let table = |line: String| line.split([':', ' ']).next().unwrap_or_default().to_owned();
        differences(&self.shop.database, &self.destination).into_iter().map(table).collect()
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let waiting = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "not in time: {what}");
    }

    fn assert_equal(&self) {
        assert_equal(&self.shop.database, &self.destination);
        assert_history(&self.shop.database, &self.destination);
    }
}

/// The run failed for exactly this table, says what to do, and its numbers add up.
#[track_caller]
fn assert_stopped(summary: &Summary, table: &TableId) {
    let stopped: Vec<_> = summary.stopped.iter().map(|stopped| &stopped.table).collect();
    assert_eq!(stopped, [table], "{summary:?}");
    assert!(summary.stopped[0].remedy.is_some(), "{summary:?}");
    assert!(summary.sum.is_complete(), "{:?}", summary.sum);
    let line = summary.tables.iter().find(|line| line.table == *table).unwrap();
    assert_eq!(line.state, "stopped");
}

#[tokio::test]
async fn trap_7_a_table_that_cannot_be_decoded_stops_alone_until_it_is_prepared_anew() {
    let world = World::in_sync().await;
    let items = &world.shop.items;
    world.scribble(1);
    world.at_source.stop_table(items, world.shop.database.end());
    world.scribble(2);
    world.change_all(500);
    let summary = world.run(None).await.unwrap();
    assert_stopped(&summary, items);
    assert_eq!(world.phase(items), TablePhase::NeedsSnapshot);
    assert_eq!(world.differing(), ["public.items"]);
    // A connection that is opened anew hears of it again, whatever of its log is read once more.
    assert_stopped(&world.run(None).await.unwrap(), items);

    // The source can be read again, but changes are missing: the table stays as it is, and says so.
    world.at_source.clear();
    world.scribble(3);
    world.change_all(501);
    let before = world.destination.rows(items);
    let summary = world.run(None).await.unwrap();
    assert_stopped(&summary, items);
    assert!(summary.sum.let_go > 0, "{:?}", summary.sum);
    assert_eq!((world.phase(items), world.destination.rows(items)), (TablePhase::NeedsSnapshot, before));
    assert_eq!(world.differing(), ["public.items"]);

    let summary = world.run(Some(Prepare::Truncate)).await.unwrap();
    assert!(summary.stopped.is_empty() && summary.sum.is_complete(), "{summary:?}");
    world.assert_equal();
    assert_eq!(world.phase(items), TablePhase::Consistent);
    world.scribble(4);
    world.run(None).await.unwrap();
    world.assert_equal();
}

/// Changes of the stopped table that no run has read yet when its new snapshot begins: they are in the stream, and each is
/// counted as what becomes of it.
#[tokio::test]
async fn trap_7_changes_that_wait_at_the_source_when_a_stopped_table_is_prepared_anew_are_counted() {
    let world = World::in_sync().await;
    let items = &world.shop.items;
    world.at_source.stop_table(items, world.shop.database.end());
    world.change_all(500);
    assert_stopped(&world.run(None).await.unwrap(), items);
    world.at_source.clear();
    world.scribble(4);
    world.change_all(501);
    let summary = world.run(Some(Prepare::Truncate)).await.unwrap();
    assert!(summary.stopped.is_empty() && summary.sum.is_complete(), "{summary:?}");
    assert!(summary.sum.skipped > 0, "{:?}", summary.sum);
    world.assert_equal();
}

/// The mark is durable before anything later is, whatever becomes of the commits.
#[tokio::test]
async fn trap_7_a_crash_does_not_forget_that_a_table_stopped() {
    for nth in 1..=6 {
        for action in [
            Action::Refuse(ErrorKind::Unknown),
            Action::DoThenFail(ErrorKind::Unknown),
            Action::Refuse(ErrorKind::Bug),
            Action::DoThenFail(ErrorKind::Bug),
        ] {
            let world = World::in_sync().await;
            let items = &world.shop.items;
            world.at_source.stop_table(items, world.shop.database.end() + 20);
            world.scribble(nth);
            world.change_all(500);
            world.at_destination.at(Step::Commit, nth, action);
            // The run may be over before it commits so often.
            let ended = world.run(None).await;
            if world.phase(items) == TablePhase::Consistent {
                assert!(ended.is_err(), "{ended:?}");
                // Nothing of the table has been passed by: decoded again, every change still comes.
                world.at_source.clear();
                world.run(None).await.unwrap();
                world.assert_equal();
                continue;
            }
            world.at_source.clear();
            world.at_destination.clear();
            world.change_all(501);
            assert_stopped(&world.run(None).await.unwrap(), items);
            world.run(Some(Prepare::Truncate)).await.unwrap();
            world.assert_equal();
        }
    }
}

#[tokio::test]
async fn trap_25_a_table_that_is_refused_waits_and_the_others_do_not() {
    let world = World::in_sync().await;
    let items = &world.shop.items;
    world.at_destination.refuse_table(items, ErrorKind::Data);
    let (running, control) = world.follow();
    for n in 500..505 {
        world.scribble(n);
        world.change_all(n);
        // Each time the others are there at once, while the run goes on.
        world.until("the other tables", || world.differing() == ["public.items"]).await;
        assert!(!running.is_finished());
    }
    control.drain();
    let summary = running.await.unwrap().unwrap();
    assert_stopped(&summary, items);
    assert!(summary.sum.waiting > 0 && summary.sum.let_go == 0, "{:?}", summary.sum);
    assert!(world.has_lane(items));

    // Still refused: it waits on, and is counted by nobody as done.
    world.scribble(6);
    world.change_all(506);
    let summary = world.run(None).await.unwrap();
    assert_stopped(&summary, items);
    assert!(summary.sum.waiting > 0, "{:?}", summary.sum);
    assert_eq!(
        (world.differing(), world.phase(items)),
        (vec!["public.items".to_owned()], TablePhase::Consistent)
    );

    // Taken again: what waited is applied, without a snapshot.
    world.at_destination.clear();
    world.scribble(7);
    let summary = world.run(None).await.unwrap();
    assert!(summary.stopped.is_empty() && summary.sum.is_complete(), "{summary:?}");
    assert_eq!((summary.sum.waiting, summary.sum.let_go), (0, 0));
    assert!(!world.has_lane(items));
    let snapshots =
        |table: &TableId| world.destination.checkpoint_of(&world.name).unwrap().tables[table].generation;
    assert_eq!(snapshots(items), 1);
    world.assert_equal();
}

/// Refused in its window, before the table was ever consistent.
#[tokio::test]
async fn trap_25_a_table_whose_first_rows_are_refused_holds_up_no_other() {
    let (shop, dir, faults) = (Arc::new(Shop::new()), tempfile::tempdir().unwrap(), Faults::none());
    shop.fill(100);
    faults.refuse_table(&shop.items, ErrorKind::Data);
    let destination = MemoryDestination::new().checked_against(&shop.database).with_faults(&faults);
    let go = || run(pipeline(MemorySource::new(&shop.database), &destination, dir.path()));
    let summary = go().await.unwrap();
    assert_stopped(&summary, &shop.items);
    assert_eq!(destination.rows(&shop.pairs).unwrap().len(), 34);
    let mut random = Random::new(1);
    (0..60).for_each(|_| shop.scribble(&mut random, 200));
    assert_stopped(&go().await.unwrap(), &shop.items);
    faults.clear();
    assert!(go().await.unwrap().stopped.is_empty());
    assert_equal(&shop.database, &destination);
    assert_history(&shop.database, &destination);
}

#[tokio::test]
async fn trap_4_a_stopped_table_that_pins_the_journal_is_let_go_and_counted() {
    let mut world = World::in_sync().await;
    world.journal_budget_bytes = 4 << 20;
    let items = world.shop.items.clone();
    world.at_destination.refuse_table(&items, ErrorKind::Data);
    let (running, control) = world.follow();
    let fat = "y".repeat(1000);
    let mut written = 0;
    // Several times the budget: who waited for the stopped table would never get there.
    for n in 0..16_000_u64 {
        let row = vec![key(1_000 + n), text("fat"), text(&format!("f{n}")), text(&fat)];
        world.shop.database.transaction(|tx| tx.insert(&items, row)).unwrap();
        written += 1;
        if n % 1000 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    world.until("the table to be let go", || world.phase(&items) == TablePhase::NeedsSnapshot).await;
    assert!(!world.has_lane(&items));
    world.change_all(500);
    world.until("the other tables", || world.differing() == ["public.items"]).await;
    control.drain();
    let summary = running.await.unwrap().unwrap();
    assert_stopped(&summary, &items);
    assert_eq!((summary.sum.let_go, summary.sum.waiting), (written + 1, 0), "{:?}", summary.sum);

    world.at_destination.clear();
    assert_stopped(&world.run(None).await.unwrap(), &items);
    let summary = world.run(Some(Prepare::Truncate)).await.unwrap();
    assert!(summary.stopped.is_empty() && summary.sum.is_complete(), "{summary:?}");
    world.assert_equal();
}
