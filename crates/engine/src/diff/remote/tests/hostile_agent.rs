//! An agent may answer anything: it is refused, or believed about its own rows only, in bounded memory and bounded work.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use syncline_core::{ErrorKind, SchemaMap, TableSchema};

use super::*;
use crate::diff::sketches::{
    HashKey, Identity, KeyRange, Scan, Scanner, SketchSize, answer_bytes, opening_bytes,
};
use crate::diff::{Comparison, RowsRead, pair_tables};

/// What an agent answers to a question: head and body.
type Answers = Arc<dyn Fn(&Value, &[u8]) -> (Value, Vec<u8>) + Send + Sync>;

/// An agent that answers so, after it was greeted as it should be.
async fn agent(answers: Answers) -> Arc<Agent> {
    let serve = move |theirs| {
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            let mut link = Link::new(Box::new(theirs));
            link.receive_preface(Duration::from_secs(5)).await?;
            link.send_preface().await?;
            let awaited = frame::Awaited { body_bytes_max: 1 << 24, silence_max: Duration::from_secs(30) };
            link.receive(awaited, None).await?;
            let family = MemorySource::new(&Database::new()).family().0;
            link.send(&json!({ "done": { "family": family } }), &[]).await?;
            while let Some(message) = link.receive(awaited, None).await? {
                let (head, body) = answers(&message.head()?, &message.body);
                link.send(&head, &body).await?;
            }
            Ok::<_, Error>(())
        });
    };
    Agent::connect(Arc::new(Pipe(serve))).await.expect("it greets as it should")
}

fn done(body: Vec<u8>) -> (Value, Vec<u8>) {
    (json!({ "done": null }), body)
}

fn list(items: &[&[u8]]) -> Vec<u8> {
    list::List::of(items.iter().copied()).unwrap()
}

async fn tables(database: &Database) -> Vec<TableSchema> {
    let tables = MemorySource::new(database).discover(&everything()).await.unwrap();
    tables.into_iter().filter(|table| table.id.name == "t").collect()
}

/// Answers as an honest agent would to what comes before a scan.
fn honest(
    tables: Vec<TableSchema>,
    rest: impl Fn(&Value, &[u8]) -> (Value, Vec<u8>) + Send + Sync + 'static,
) -> Answers {
    Arc::new(move |ask, body| {
        if ask["discover"].is_object() {
            done(serde_json::to_vec(&tables).unwrap())
        } else if ask == "open" {
            (json!({ "done": 1 }), Vec::new())
        } else if ask == "release" || ask == "ping" {
            done(Vec::new())
        } else {
            rest(ask, body)
        }
    })
}

/// Compares a local table with what the agent says of it.
async fn compared(
    answers: impl Fn(&Value, &[u8]) -> (Value, Vec<u8>) + Send + Sync + 'static,
) -> Result<crate::diff::TableDiff> {
    let database = database(200, Some);
    let agent = agent(honest(tables(&database).await, answers)).await;
    let (left, right) =
        (Arc::new(MemorySource::new(&database)) as Arc<dyn Source>, Arc::clone(&agent) as Arc<dyn Source>);
    let only = Selection { include: vec![syncline_core::TablePattern::new("s.t").unwrap()], ..everything() };
    let pairings = pair_tables(&left, &right, &only, &SchemaMap::default()).await?;
    let comparison =
        Comparison::new(&pairings[0], &left, &right, &HashKey::new([7; 32]), 1, &RowsRead::default())
            .read_by(None, Some(agent));
    let run = tokio::time::timeout(Duration::from_secs(60), comparison.run(10));
    run.await.expect("it ends").map(|(diff, _)| diff)
}

fn scan(size: SketchSize, range: KeyRange, rows: u64) -> Scan {
    let mut scan = Scanner::new(HashKey::new([7; 32]), Identity::Key, range, size);
    (0..rows).for_each(|n| {
        let (mut key, mut row) = (Vec::new(), Vec::new());
        syncline_core::encoding::append_value(Some(format!("k{n}").as_bytes()), &mut key).unwrap();
        row.extend(&key);
        syncline_core::encoding::append_value(Some(b"v"), &mut row).unwrap();
        scan.add_row(&key, &row);
    });
    scan.finish()
}

/// The range, and the size, that a question for one scan asks for.
fn asked(ask: &Value) -> Option<(SketchSize, Vec<KeyRange>)> {
    let scan = ask.get("scan")?;
    let range = |range: &Value| KeyRange::new(range[0].as_u64()?, u8::try_from(range[1].as_u64()?).ok()?);
    let size = SketchSize::from_bits(u32::try_from(scan["size"].as_u64()?).ok()?)?;
    Some((size, scan["ranges"].as_array()?.iter().filter_map(range).collect()))
}

#[tokio::test]
async fn what_is_malformed_or_contradicts_itself_is_refused() {
    let bodies: [Vec<u8>; 6] =
        [Vec::new(), vec![0xff; 40], list(&[b"x"]), list(&[b"", b""]), list(&[&[0; 59]]), vec![7; 5_000]];
    for body in bodies {
        let error = compared(move |_, _| done(body.clone())).await.expect_err("no digest");
        assert!(matches!(error.kind(), ErrorKind::Permanent | ErrorKind::Configuration), "{error:?}");
    }
    for head in [json!({}), json!(7), json!({ "done": 7 }), json!({ "failed": 7 })] {
        let error = compared(move |_, _| (head.clone(), Vec::new())).await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Permanent, "{error:?}");
    }
    // A digest of some rows, a sketch of others.
    let error = compared(|ask, body| match asked(ask) {
        Some((size, ranges)) => done(list(&[&opening_bytes(&scan(size, ranges[0], 30))])),
        None => {
            done(answer_bytes(&scan(SketchSize::from_bits(14).unwrap(), KeyRange::ALL, 31), body).unwrap())
        }
    });
    let error = error.await.expect_err("it contradicts itself");
    assert!(error.to_string().contains("contradicts itself"), "{error}");
}

#[tokio::test]
async fn rows_that_are_none_are_refused() {
    let honest_scan = |ask: &Value, body: &[u8]| match asked(ask) {
        Some((size, ranges)) => done(list(&[&opening_bytes(&scan(size, ranges[0], 3))])),
        None => {
            done(answer_bytes(&scan(SketchSize::from_bits(14).unwrap(), KeyRange::ALL, 3), body).unwrap())
        }
    };
    let rows: [Vec<u8>; 4] = [Vec::new(), vec![0xff; 100], b"ARROW1\0\0".to_vec(), vec![0; 3]];
    for rows in rows {
        let error = compared(move |ask, body| {
            if ask["by_key"].is_object() {
                (json!({ "done": "mark" }), rows.clone())
            } else {
                honest_scan(ask, body)
            }
        });
        let error = error.await.expect_err("no rows");
        assert_eq!(error.kind(), ErrorKind::Permanent, "{error:?}");
    }
    // Found by a scan: other columns, or cut off.
    let row = |values: usize| {
        let mut row = Vec::new();
        (0..values).for_each(|_| syncline_core::encoding::append_value(Some(b"x"), &mut row).unwrap());
        row
    };
    let none = crate::ipc::to_bytes(&arrow_array::RecordBatch::new_empty(
        tables(&database(1, Some)).await[0].arrow(),
    ));
    let none = none.unwrap();
    for found in [list(&[&row(1)]), list(&[&row(3)]), list(&[b"xx"]), vec![9, 0, 0, 0]] {
        let none = none.clone();
        let error = compared(move |ask, body| {
            if ask["by_key"].is_object() {
                (json!({ "done": "mark" }), none.clone())
            } else if ask["found"].is_object() {
                done(found.clone())
            } else {
                honest_scan(ask, body)
            }
        });
        let error = error.await.expect_err("no rows");
        assert_eq!(error.kind(), ErrorKind::Permanent, "{error:?}");
    }
}

#[tokio::test]
async fn ranges_that_are_never_small_enough_come_to_an_end() {
    let scans = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&scans);
    // Each range, however small, is said to hold more rows than the only sketch there is can show.
    let last = std::sync::Mutex::new(Vec::new());
    let diff = compared(move |ask, body| match asked(ask) {
        Some((_, ranges)) => {
            counted.fetch_add(1, Ordering::Relaxed);
            let full = |range: KeyRange| {
                let key = HashKey::new([7; 32]);
                let mut full = Scanner::new(key.clone(), Identity::Key, range, SketchSize::MIN);
                let rows = (0_u64..1 << 22).map(u64::to_be_bytes).filter(|row| range.contains(key.key(row)));
                rows.take(100).for_each(|row| full.add_row(&row, &row));
                full.finish()
            };
            let full: Vec<Scan> = ranges.into_iter().map(full).collect();
            let openings: Vec<Vec<u8>> = full.iter().map(opening_bytes).collect();
            *last.lock().unwrap() = full;
            done(list(&openings.iter().map(AsRef::as_ref).collect::<Vec<_>>()))
        }
        None => {
            let range = usize::try_from(ask["sketch"]["range"].as_u64().unwrap()).unwrap();
            done(answer_bytes(&last.lock().unwrap()[range], body).unwrap())
        }
    });
    let diff = diff.await.expect("it ends");
    assert!(diff.too_many.is_some());
    let scans = scans.load(Ordering::Relaxed);
    assert!((2..200).contains(&scans), "{scans} scans");
}

#[tokio::test]
async fn tables_that_are_none_and_errors_that_steer_a_terminal() {
    let source = agent(Arc::new(|_, _| done(b"[{}]".to_vec()))).await;
    assert_eq!(source.discover(&everything()).await.unwrap_err().kind(), ErrorKind::Permanent);
    let mut table = tables(&database(1, Some)).await;
    table[0].row_key = vec![9];
    let source = agent(Arc::new(move |_, _| done(serde_json::to_vec(&table).unwrap()))).await;
    assert_eq!(source.discover(&everything()).await.unwrap_err().kind(), ErrorKind::Permanent);
    let failed = json!({ "failed": { "kind": "Nothing", "message": "\u{1b}[2Jgone", "table": null, "remedy": "a\nb" } });
    let source = agent(Arc::new(move |_, _| (failed.clone(), Vec::new()))).await;
    let error = source.discover(&everything()).await.unwrap_err();
    assert_eq!((error.kind(), error.remedy()), (ErrorKind::Permanent, Some("a b")));
    assert!(!error.to_string().contains('\u{1b}') && error.to_string().contains("syncline://test/db"));
}
