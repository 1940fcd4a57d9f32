//! Table syncs between sides in memory: what is asked, what is sent, and that both sides are equal in the end.

mod bounds;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use async_trait::async_trait;
use proptest::prelude::*;
use syncline_core::{
    Bound, Error, ErrorKind, Manifest, ManifestBounds, ManifestKey, ManifestPlace, Replica, ReplicaState,
    Result, RowKey, Version, VersionPage, VersionPlace, VersionRange, VersionState,
};

use super::memory::{Keep, Memory};
use super::near::{Batch, Near};
use super::table::{Limits, Passed, pass};
use crate::diff::Guard;

/// Version and value by key.
type Rows = BTreeMap<i64, (i64, i64)>;

fn key_of(id: i64) -> ManifestKey {
    Box::new(id.to_be_bytes())
}

fn id_of(key: &[u8]) -> i64 {
    i64::from_be_bytes(key.try_into().unwrap())
}

fn batch(rows: &[(i64, i64, i64)], is_end: bool) -> Batch {
    let column = |of: fn(&(i64, i64, i64)) -> i64| Arc::new(rows.iter().map(of).collect::<Int64Array>());
    let fields = ["id", "version", "value"].map(|name| Field::new(name, DataType::Int64, true));
    let columns: Vec<arrow_array::ArrayRef> = vec![column(|r| r.0), column(|r| r.1), column(|r| r.2)];
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), columns).unwrap();
    let last = rows.last().map(|row| VersionPlace { version: Version(row.1), key: RowKey(key_of(row.0)) });
    let keys = rows.iter().map(|row| (key_of(row.0), Version(row.1))).collect();
    Batch { rows: batch, keys, last, is_end }
}

fn state(rows: &Rows, range: &VersionRange) -> ReplicaState {
    let mut state = ReplicaState::default();
    let versions = rows.values().map(|row| Version(row.0)).filter(|version| range.contains(*version));
    versions.for_each(|version| state.add(version));
    state
}

fn manifest(
    rows: &Rows,
    range: &VersionRange,
    after: Option<&ManifestPlace>,
    bounds: ManifestBounds,
    by: impl Fn(i64) -> i64,
) -> Manifest {
    // Each side has an order of its own of the rows of one version.
    let mut found: Vec<_> = rows.iter().map(|(id, row)| (row.0, by(*id), *id)).collect();
    let number = |bytes: &[u8]| i64::from_be_bytes(bytes.try_into().unwrap());
    let after = after.map(|place| (number(&place.0[..8]), number(&place.0[8..])));
    found.retain(|&(version, by, _)| {
        range.contains(Version(version)) && after.is_none_or(|after| (version, by) > after)
    });
    found.sort_unstable();
    let is_all = found.len() <= bounds.rows_max;
    found.truncate(bounds.rows_max);
    let place = |&(version, by, _): &(i64, i64, i64)| {
        ManifestPlace([version.to_be_bytes(), by.to_be_bytes()].concat().into())
    };
    let next = if is_all { None } else { found.last().map(place) };
    let rows = found.into_iter().map(|(version, _, id)| (key_of(id), Version(version))).collect();
    Manifest { rows, next }
}

/// A near side; `bound` is what it says of its versions.
#[derive(Default)]
struct Source {
    rows: Mutex<Rows>,
    bound: Option<i64>,
    /// Rows that pages were asked for.
    asked: Mutex<Vec<usize>>,
}

#[async_trait]
impl Near for Source {
    async fn bound(&self) -> Result<Bound> {
        Ok(self.bound.map_or(Bound::None("in memory".to_owned()), |at| Bound::Safe(Version(at))))
    }

    async fn state(&self, range: &VersionRange) -> Result<VersionState> {
        Ok(VersionState { state: state(&self.rows.lock().unwrap(), range), unversioned: 0 })
    }

    async fn nth_last(&self, range: &VersionRange, rows: u64) -> Result<Option<Version>> {
        let mut versions: Vec<_> = self.rows.lock().unwrap().values().map(|row| Version(row.0)).collect();
        versions.retain(|version| range.contains(*version));
        versions.sort_unstable();
        Ok(versions.iter().rev().nth(usize::try_from(rows).unwrap()).copied())
    }

    async fn page(&self, page: &VersionPage<'_>) -> Result<Batch> {
        self.asked.lock().unwrap().push(page.rows_max);
        let rows = self.rows.lock().unwrap();
        let mut found: Vec<_> = rows.iter().map(|(id, row)| (row.0, *id, row.1)).collect();
        let after = page.after.map(|place| (place.version.0, id_of(&place.key.0)));
        found.retain(|row| page.range.contains(Version(row.0)) && after.is_none_or(|at| (row.0, row.1) > at));
        found.sort_unstable();
        let rows_max = page.rows_max.min((page.bytes_max / 1024).max(1));
        let is_end = found.len() <= rows_max;
        found.truncate(rows_max);
        let rows: Vec<_> = found.into_iter().map(|(version, id, value)| (id, version, value)).collect();
        Ok(batch(&rows, is_end))
    }

    async fn manifest(
        &self,
        range: &VersionRange,
        after: Option<&ManifestPlace>,
        bounds: ManifestBounds,
    ) -> Result<Manifest> {
        Ok(manifest(&self.rows.lock().unwrap(), range, after, bounds, |id| id))
    }

    async fn rows(&self, keys: &[ManifestKey]) -> Result<Batch> {
        let rows = self.rows.lock().unwrap();
        let found = keys.iter().filter_map(|key| rows.get(&id_of(key)).map(|row| (id_of(key), row.0, row.1)));
        Ok(batch(&found.collect::<Vec<_>>(), true))
    }
}

/// A far side that counts and can refuse.
#[derive(Default)]
struct Server {
    rows: Mutex<Rows>,
    /// Sizes of the upserts that went well.
    upserts: Mutex<Vec<usize>>,
    requests: Mutex<u64>,
    refused: Mutex<BTreeSet<i64>>,
    /// Upserts of more rows fail as a whole.
    rows_max: Option<usize>,
    /// After so many requests everything fails.
    dies_after: Mutex<Option<u64>>,
}

impl Server {
    fn request(&self) -> Result<()> {
        *self.requests.lock().unwrap() += 1;
        let mut left = self.dies_after.lock().unwrap();
        match left.as_mut() {
            Some(0) => Err(Error::new(ErrorKind::Permanent, "gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Replica for Server {
    async fn state(&self, range: &VersionRange) -> Result<ReplicaState> {
        self.request()?;
        Ok(state(&self.rows.lock().unwrap(), range))
    }

    async fn manifest(
        &self,
        range: &VersionRange,
        after: Option<&ManifestPlace>,
        bounds: ManifestBounds,
    ) -> Result<Manifest> {
        self.request()?;
        Ok(manifest(&self.rows.lock().unwrap(), range, after, bounds, |id| -id))
    }

    async fn upsert(&self, rows: &RecordBatch) -> Result<()> {
        self.request()?;
        let column = |n: usize| rows.column(n).as_primitive::<arrow_array::types::Int64Type>().clone();
        let (ids, versions, values) = (column(0), column(1), column(2));
        if self.rows_max.is_some_and(|max| rows.num_rows() > max) {
            return Err(Error::new(ErrorKind::Retriable, "too much at once"));
        }
        if ids.values().iter().any(|id| self.refused.lock().unwrap().contains(id)) {
            return Err(Error::new(ErrorKind::Data, "refused").with_rows_at_fault());
        }
        let mut all = self.rows.lock().unwrap();
        for row in 0..rows.num_rows() {
            all.insert(ids.value(row), (versions.value(row), values.value(row)));
        }
        self.upserts.lock().unwrap().push(rows.num_rows());
        Ok(())
    }

    async fn delete(&self, keys: &[ManifestKey]) -> Result<()> {
        self.request()?;
        let mut rows = self.rows.lock().unwrap();
        rows.retain(|id, _| !keys.iter().any(|key| id_of(key) == *id));
        Ok(())
    }
}

/// What survives a crash.
#[derive(Default)]
struct Kept(Mutex<Memory>);

impl Keep for Kept {
    fn keep(&self, memory: &Memory) -> Result<()> {
        *self.0.lock().unwrap() = memory.clone();
        Ok(())
    }
}

#[derive(Default)]
struct World {
    near: Source,
    far: Server,
    kept: Kept,
    guard: Guard,
    letters_max: usize,
}

impl World {
    fn new(rows: i64) -> Self {
        let world = Self { letters_max: 10, ..Self::default() };
        world.change(|all| all.extend((1..=rows).map(|id| (id, (id, 0)))));
        world
    }

    fn change(&self, change: impl FnOnce(&mut Rows)) {
        change(&mut self.near.rows.lock().unwrap());
    }

    async fn try_pass(&self) -> Result<Passed> {
        let mut memory = self.kept.0.lock().unwrap().clone();
        let limits = Limits { guard: self.guard, letters_max: self.letters_max };
        pass(&self.near, &self.far, &mut memory, &self.kept, &limits).await
    }

    async fn pass(&self) -> Passed {
        self.try_pass().await.unwrap()
    }

    /// Versions by key, here and there.
    fn versions(&self) -> (BTreeMap<i64, i64>, BTreeMap<i64, i64>) {
        let of = |rows: &Mutex<Rows>| rows.lock().unwrap().iter().map(|(id, row)| (*id, row.0)).collect();
        (of(&self.near.rows), of(&self.far.rows))
    }

    /// Whether nothing that either side is asked for tells them apart.
    fn has_same_states(&self) -> bool {
        let of = |rows: &Mutex<Rows>| state(&rows.lock().unwrap(), &VersionRange::ALL);
        of(&self.near.rows) == of(&self.far.rows)
    }

    fn assert_equal(&self) {
        assert!(*self.near.rows.lock().unwrap() == *self.far.rows.lock().unwrap());
    }
}

#[tokio::test]
async fn nothing_changed_and_not_one_request_is_made() {
    let world = World::new(5000);
    assert!(world.pass().await.equal);
    world.assert_equal();
    let before = *world.far.requests.lock().unwrap();
    for _ in 0..100 {
        let passed = world.pass().await;
        assert!(passed.equal && passed.requests == 0);
    }
    assert_eq!(*world.far.requests.lock().unwrap(), before);
    // One row: its state is asked for, it is sent, and asked for again.
    world.change(|rows| rows.extend([(7, (5001, 1))]));
    assert_eq!(world.pass().await.requests, 3);
    world.assert_equal();
}

#[tokio::test]
async fn what_neither_count_nor_maximum_shows_is_found_in_few_requests() {
    let world = World::new(100_000);
    world.pass().await;
    // Committed late: a version below the highest, twice; and one row goes while another comes.
    world.change(|rows| {
        rows.insert(50, (60_000, 9));
        rows.remove(&90_000);
        rows.insert(-5, (99_999, 9));
    });
    let passed = world.pass().await;
    assert!(passed.equal, "{passed:?}");
    assert!(passed.requests < 60, "{passed:?}");
    world.assert_equal();
}

#[tokio::test]
async fn what_the_far_side_has_beyond_ours_goes_or_becomes_as_ours() {
    let world = World::new(1000);
    world.pass().await;
    {
        let mut far = world.far.rows.lock().unwrap();
        far.insert(5000, (7000, 1));
        far.insert(3, (8000, 1));
    }
    // What is known of the far side is not that, so nothing is done until something changes here.
    assert_eq!(world.pass().await.requests, 0);
    world.change(|rows| rows.extend([(4, (1001, 0))]));
    assert!(world.pass().await.equal);
    world.assert_equal();
}

#[tokio::test]
async fn the_guard_stops_before_a_row_is_deleted() {
    let world = World::new(1000);
    world.pass().await;
    world.change(|rows| rows.retain(|id, _| *id > 300));
    let passed = world.pass().await;
    assert_eq!((passed.exceeded[0].count, passed.deleted, passed.equal), (300, 0, false));
    assert_eq!(world.far.rows.lock().unwrap().len(), 1000);
    let world = World {
        guard: {
            let mut g = Guard::default();
            g.set("deletes=off").unwrap();
            g
        },
        ..world
    };
    assert!(world.pass().await.equal);
    world.assert_equal();
}

#[tokio::test]
async fn refused_rows_are_skipped_ahead_and_tried_again() {
    let world = World::new(3000);
    world.far.refused.lock().unwrap().extend([17, 1700]);
    let passed = world.pass().await;
    assert_eq!((passed.letters, passed.equal), (2, false));
    assert_eq!(world.far.rows.lock().unwrap().len(), 2998);
    assert!(
        world
            .kept
            .0
            .lock()
            .unwrap()
            .letters
            .iter()
            .all(|letter| letter.attempts == 2 && letter.reason == "refused")
    );
    // One may come, the other one goes.
    world.far.refused.lock().unwrap().remove(&17);
    world.change(|rows| rows.retain(|id, _| *id != 1700));
    let passed = world.pass().await;
    assert_eq!((passed.letters, passed.equal), (0, true));
    world.assert_equal();
    // More than may be.
    let world = World { letters_max: 3, ..World::new(100) };
    world.far.refused.lock().unwrap().extend(1..=4);
    assert_eq!(world.try_pass().await.unwrap_err().kind(), ErrorKind::DeadLetters);
    assert_eq!(world.kept.0.lock().unwrap().letters.len(), 3);
}

#[tokio::test]
async fn a_batch_that_fails_as_a_whole_shrinks() {
    let mut world = World::new(2000);
    world.far.rows_max = Some(60);
    assert!(world.pass().await.equal);
    world.assert_equal();
    assert!(world.kept.0.lock().unwrap().costs.bytes() <= 128 << 10);
}

#[tokio::test]
async fn while_older_transactions_are_open_newer_rows_wait() {
    let mut world = World::new(100);
    world.near.bound = Some(90);
    let passed = world.pass().await;
    assert_eq!((passed.waiting, passed.equal, passed.sent), (10, false, 90));
    // The old one commits late, with a version below those that waited.
    world.change(|rows| rows.extend([(500, (91, 0))]));
    world.near.bound = Some(1000);
    let passed = world.pass().await;
    assert_eq!((passed.sent, passed.equal), (11, true));
    world.assert_equal();
}

#[tokio::test]
async fn rows_of_one_version_are_all_sent_wherever_a_run_ends() {
    for requests in 1..12 {
        let world = World::new(0);
        world.change(|rows| rows.extend((1..=2000).map(|id| (id, (1, id)))));
        *world.far.dies_after.lock().unwrap() = Some(requests);
        let _ = world.try_pass().await;
        *world.far.dies_after.lock().unwrap() = None;
        assert!(world.pass().await.equal, "{requests}");
        world.assert_equal();
    }
}

#[derive(Debug, Clone)]
enum Mutation {
    Put(i64, i64),
    Delete(i64),
    /// Begun now, committed at the next sync.
    Late(i64, i64),
    Sync,
    Crash(u64),
    /// Somebody writes at the far side.
    Meddle(i64, i64),
    MeddleDelete(i64),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let (id, value) = (0_i64..60, 0_i64..9);
    prop_oneof![
        6 => (id.clone(), value.clone()).prop_map(|(id, value)| Mutation::Put(id, value)),
        2 => id.clone().prop_map(Mutation::Delete),
        2 => (id.clone(), value.clone()).prop_map(|(id, value)| Mutation::Late(id, value)),
        2 => Just(Mutation::Sync),
        1 => (0_u64..9).prop_map(Mutation::Crash),
        1 => (id.clone(), value).prop_map(|(id, value)| Mutation::Meddle(id, value)),
        1 => id.prop_map(Mutation::MeddleDelete),
    ]
}

/// Applies mutations with versions that grow, and syncs now and then.
async fn history(mutations: Vec<Mutation>) {
    let mut world = World::new(0);
    world.guard.set("all=off").unwrap();
    let (mut clock, mut late) = (0, Vec::new());
    for mutation in mutations {
        // Numbers of versions are handed out in steps, so that some are the same.
        clock += 1;
        let version = clock / 3;
        match mutation {
            Mutation::Put(id, value) => world.change(|rows| rows.extend([(id, (version, value))])),
            Mutation::Delete(gone) => world.change(|rows| rows.retain(|id, _| *id != gone)),
            Mutation::Late(id, value) => late.push((id, version, value)),
            Mutation::Meddle(id, value) => {
                world.far.rows.lock().unwrap().extend([(id, (version + 1000, value))]);
            }
            Mutation::MeddleDelete(gone) => world.far.rows.lock().unwrap().retain(|id, _| *id != gone),
            Mutation::Sync => drop(world.try_pass().await),
            Mutation::Crash(requests) => {
                *world.far.dies_after.lock().unwrap() = Some(requests);
                let _ = world.try_pass().await;
                *world.far.dies_after.lock().unwrap() = None;
                for (id, version, value) in late.drain(..) {
                    // A row's lock makes a later version of it wait, so its versions only grow.
                    world.change(|rows| {
                        if rows.get(&id).is_none_or(|row| row.0 < version) {
                            rows.insert(id, (version, value));
                        }
                    });
                }
            }
        }
    }
    // Something that is new makes the far side be asked, whoever meddled with it.
    world.change(|rows| rows.extend([(1000, (clock + 1, 0))]));
    for _ in 0..3 {
        world.try_pass().await.unwrap();
    }
    // Neither side can tell of rows that cancel each other. They are found with whatever does not: here, a row that came late.
    if world.has_same_states() && world.versions().0 != world.versions().1 {
        world.change(|rows| rows.extend([(1001, (0, 0))]));
        world.try_pass().await.unwrap();
    }
    let (near, far) = world.versions();
    assert_eq!(near, far);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_both_sides_are_equal_in_the_end(mutations in proptest::collection::vec(mutation(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(history(mutations));
    }
}
