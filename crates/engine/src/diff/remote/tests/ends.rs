//! What is found through agents is what is found without.

use syncline_core::SchemaMap;
use syncline_core::unique::UniqueColumns;

use super::*;
use crate::diff::sketches::{Difference, HashKey};
use crate::diff::{Comparison, RowsRead, TableDiff, pair_tables};

/// Compares all tables; `source` and `destination` say who reads them.
async fn compare(
    (left, source): (&Database, Option<Arc<Agent>>),
    (right, destination): (&Database, Option<Arc<Agent>>),
) -> Vec<(TableDiff, Difference)> {
    let side = |database: &Database, agent: &Option<Arc<Agent>>| -> Arc<dyn Source> {
        match agent {
            Some(agent) => Arc::clone(agent) as Arc<dyn Source>,
            None => Arc::new(MemorySource::new(database)),
        }
    };
    let (left, right) = (side(left, &source), side(right, &destination));
    let pairings = pair_tables(&left, &right, &everything(), &SchemaMap::default()).await.expect("pairs");
    let mut found = Vec::new();
    for pairing in &pairings {
        let key = HashKey::new([3; 32]);
        let comparison = Comparison::new(pairing, &left, &right, &key, 2, &RowsRead::default())
            .read_by(source.clone(), destination.clone());
        let (mut diff, difference) = comparison.run(50).await.expect("a comparison");
        diff.samples.sort_by(|a, b| a.key.cmp(&b.key));
        found.push((diff, difference));
    }
    found
}

fn said(found: &[(TableDiff, Difference)]) -> Vec<String> {
    found.iter().map(|(diff, difference)| format!("{diff:?} {difference:?}")).collect()
}

#[tokio::test]
async fn the_same_is_found_by_whomever_the_sides_are_read() {
    let left = database(3_000, Some);
    let right = database(3_010, |n| match n % 100 {
        3 => None,
        // Whose keys a sketch carries, and whose it does not.
        5 | 7 | 77 => Some(n + 1),
        _ => Some(n),
    });
    let here = compare((&left, None), (&right, None)).await;
    assert!(here.iter().any(|(diff, _)| diff.counts.changed > 80 && !diff.samples.is_empty()));
    let (source, destination) = (agent_of(&left).await, agent_of(&right).await);
    let both = compare((&left, Some(Arc::clone(&source))), (&right, Some(Arc::clone(&destination)))).await;
    assert_eq!(said(&both), said(&here));
    assert_eq!(said(&compare((&left, Some(source)), (&right, None)).await), said(&here));
    assert_eq!(said(&compare((&left, None), (&right, Some(destination))).await), said(&here));
}

#[tokio::test]
async fn equal_sides_exchange_digests_only() {
    let left = database(500, Some);
    let (source, destination) = (agent_of(&left).await, agent_of(&left).await);
    let found = compare((&left, Some(Arc::clone(&source))), (&left, Some(destination))).await;
    assert!(found.iter().all(|(diff, _)| diff.is_equal() && diff.rows_source == 500));
    let traffic = source.traffic();
    assert_eq!((traffic.keys.bytes(), traffic.rows.bytes()), (0, 0));
    assert!(traffic.sketches.bytes() < 1_000, "{traffic:?}");
    assert!(traffic.rest.bytes() > 0);
}

fn columns(names: &[&str]) -> UniqueColumns {
    UniqueColumns::named(names.iter().map(|name| (*name).to_owned()).collect())
}

#[tokio::test]
async fn columns_that_are_not_unique_are_found_there() {
    let left = database(40, |n| Some(n % 30));
    let agent = agent_of(&left).await;
    let source = Arc::clone(&agent) as Arc<dyn Source>;
    let pairings = pair_tables(&source, &source, &everything(), &SchemaMap::default()).await.expect("pairs");
    let pairing = pairings.iter().find(|pairing| pairing.key_columns > 0).expect("a table with a key");
    let comparison =
        Comparison::new(pairing, &source, &source, &HashKey::new([1; 32]), 1, &RowsRead::default())
            .read_by(Some(Arc::clone(&agent)), Some(agent));
    let found = comparison.not_unique(&columns(&["v"])).await.expect("an answer").expect("values");
    assert_eq!((found.values, found.some[0].rows), (10, 2));
    assert!(comparison.not_unique(&columns(&["id"])).await.expect("an answer").is_none());
    assert!(comparison.not_unique(&columns(&["other"])).await.is_err());
}

#[tokio::test]
async fn a_connection_that_broke_is_made_anew_and_what_was_open_is_lost() {
    let left = database(10, Some);
    let (kept, database) = (Arc::new(std::sync::Mutex::new(Vec::new())), left.clone());
    let tasks = Arc::clone(&kept);
    let serve = move |theirs| {
        let doors = Doors(database.clone());
        let task = tokio::spawn(async move { serve(Box::new(theirs), &doors, 1).await });
        tasks.lock().expect("tasks").push(task);
    };
    let agent = Agent::connect(Arc::new(Pipe(serve))).await.expect("an agent");
    let source = Arc::clone(&agent) as Arc<dyn Source>;
    let pairings = pair_tables(&source, &source, &everything(), &SchemaMap::default()).await.expect("pairs");
    let new = || {
        Comparison::new(&pairings[0], &source, &source, &HashKey::new([1; 32]), 1, &RowsRead::default())
            .read_by(Some(Arc::clone(&agent)), None)
    };
    let comparison = new();
    comparison.not_unique(&columns(&[])).await.expect("it is open");
    kept.lock().expect("tasks").drain(..).for_each(|task| task.abort());
    tokio::task::yield_now().await;
    for _ in 0..2 {
        let error = comparison.not_unique(&columns(&[])).await.expect_err("it was lost");
        assert_eq!(error.kind(), syncline_core::ErrorKind::Retriable, "{error}");
    }
    new().not_unique(&columns(&[])).await.expect("it is open again");
}
