//! Rows of one version, rows of a page, what is remembered of another table, rows that were given up.

use super::*;

#[tokio::test]
async fn more_rows_of_one_version_than_a_manifest_holds_are_compared() {
    let mut world = World::new(0);
    world.guard.set("all=off").unwrap();
    world.change(|rows| rows.extend((1..=100_000).map(|id| (id, (1, id)))));
    assert!(world.pass().await.equal);
    // As many here as there, and all of one version: only the keys tell.
    world.change(|rows| {
        rows.retain(|id, _| *id > 50_000 || id % 1000 != 0);
        rows.extend((200_001..=200_040).map(|id| (id, (1, id))));
    });
    let passed = world.pass().await;
    assert_eq!((passed.equal, passed.sent, passed.deleted), (true, 40, 50), "{passed:?}");
    assert!(passed.requests < 20, "{passed:?}");
    world.assert_equal();
}

#[tokio::test]
async fn what_is_remembered_of_another_table_is_forgotten_with_its_letters() {
    let world = World::new(100);
    world.far.refused.lock().unwrap().insert(7);
    assert_eq!(world.pass().await.letters, 1);
    let memory = world.kept.0.lock().unwrap().clone();
    assert_eq!(memory.letters.len(), 1);
    assert!(memory.clone().if_of(&memory.of).letters.len() == 1);
    // The key is part of what a memory is of.
    let of_another = memory.if_of("another key");
    assert!(of_another.letters.is_empty() && of_another.far.is_none() && of_another.sent.is_none());
}

#[tokio::test]
async fn a_page_has_no_more_rows_than_may_be() {
    let world = World::new(60_000);
    assert!(world.pass().await.equal);
    let upserts = world.far.upserts.lock().unwrap().clone();
    assert!(upserts.iter().all(|&rows| rows <= crate::table_sync::table::PAGE_ROWS_MAX), "{upserts:?}");
    assert!(upserts[0] <= crate::table_sync::table::PAGE_ROWS_AT_FIRST, "{upserts:?}");
    assert!(
        world.near.asked.lock().unwrap().iter().all(|&rows| rows <= crate::table_sync::table::PAGE_ROWS_MAX)
    );
}

#[tokio::test]
async fn a_row_that_was_given_up_comes_again_when_it_changes_and_not_before() {
    let world = World::new(100);
    world.far.refused.lock().unwrap().extend([7, 100]);
    assert_eq!(world.pass().await.letters, 2);
    world.kept.0.lock().unwrap().give_up(|_| true);
    let passed = world.pass().await;
    assert_eq!((passed.letters, passed.equal), (0, false));
    let before = *world.far.requests.lock().unwrap();
    assert_eq!(world.pass().await.requests, 0);
    assert_eq!(*world.far.requests.lock().unwrap(), before);
    // Others are not held up.
    world.change(|rows| rows.extend([(5, (101, 1))]));
    assert_eq!(world.pass().await.letters, 0);
    world.far.refused.lock().unwrap().clear();
    world.change(|rows| rows.extend([(7, (102, 1)), (100, (103, 1))]));
    assert!(world.pass().await.equal);
    world.assert_equal();
}

/// Two rows of one version, of which one goes here and somebody deletes the other one there: the case that the histories found.
#[tokio::test]
async fn changes_that_cancel_each_other_are_found_with_the_next_one_that_does_not() {
    let world = World::new(10);
    world.change(|rows| rows.extend([(13, (12, 1)), (30, (12, 1))]));
    assert!(world.pass().await.equal);
    world.change(|rows| rows.retain(|id, _| *id != 13));
    world.far.rows.lock().unwrap().remove(&30);
    // What only the numbers of versions tell is not more than this.
    world.change(|rows| rows.extend([(1000, (41, 0))]));
    assert!(world.pass().await.equal && world.has_same_states());
    let (near, far) = world.versions();
    assert!(near != far && !far.contains_key(&30) && far.contains_key(&13));
    world.change(|rows| rows.extend([(1001, (5, 0))]));
    let passed = world.pass().await;
    assert_eq!((passed.sent, passed.deleted, passed.equal), (2, 1, true));
    world.assert_equal();
}
