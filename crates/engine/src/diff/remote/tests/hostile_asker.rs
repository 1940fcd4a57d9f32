//! Whoever connects to an agent may send anything: it is refused, or read in bounded memory, and never a panic.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

/// A session that was let in, and the task that answers it.
struct Asking {
    link: Link,
    task: tokio::task::JoinHandle<Result<()>>,
}

fn begin() -> (DuplexStream, tokio::task::JoinHandle<Result<()>>) {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let doors = Doors(database(100, Some));
    (ours, tokio::spawn(async move { serve(Box::new(theirs), &doors, 1).await }))
}

impl Asking {
    async fn start() -> Self {
        let (ours, task) = begin();
        let mut link = Link::new(Box::new(ours));
        link.send_preface().await.unwrap();
        link.receive_preface(Duration::from_secs(5)).await.unwrap();
        link.send(&json!({ "connection": "db", "token": TOKEN }), &[]).await.unwrap();
        let mut asking = Self { link, task };
        assert!(asking.answer().await.unwrap()["done"]["family"].is_string());
        asking
    }

    async fn answer(&mut self) -> Option<Value> {
        let awaited = frame::Awaited { body_bytes_max: 1 << 20, silence_max: Duration::from_secs(5) };
        let message = self.link.receive(awaited, Some(&mut |_| ())).await.ok()??;
        Some(message.head().unwrap())
    }

    async fn ask(&mut self, head: &Value, body: &[u8]) -> Option<Value> {
        self.link.send(head, body).await.ok()?;
        self.answer().await
    }

    /// Opens the table as it is.
    async fn open(&mut self) -> u64 {
        let columns: Vec<_> = table().await.columns;
        let table = json!({ "table": { "schema": "s", "name": "t" }, "columns": columns,
            "classes": ["text", "text"], "key_columns": 1 });
        self.ask(&json!("open"), &opening(32, &table)).await.unwrap()["done"].as_u64().unwrap()
    }
}

/// What opens a table: a hash key of so many bytes, and what it is taken for.
fn opening(key_bytes: usize, table: &Value) -> Vec<u8> {
    list::List::of([vec![1; key_bytes].as_slice(), table.to_string().as_bytes()]).unwrap()
}

async fn table() -> syncline_core::TableSchema {
    let source = MemorySource::new(&database(1, Some));
    let tables = source.discover(&everything()).await.unwrap();
    tables.into_iter().find(|table| table.id.name == "t").unwrap()
}

#[tokio::test]
async fn nobody_is_let_in_without_the_token_or_with_another_version() {
    for (hello, words) in [
        (json!({ "connection": "db", "token": "other" }), "not let in"),
        (json!({ "connection": "other", "token": TOKEN }), "not let in"),
        (json!({ "connection": "db" }), "no message of Syncline"),
        (json!({ "ping": null }), "no message of Syncline"),
    ] {
        let (ours, task) = begin();
        let mut link = Link::new(Box::new(ours));
        link.send_preface().await.unwrap();
        link.receive_preface(Duration::from_secs(5)).await.unwrap();
        link.send(&hello, &[]).await.unwrap();
        let mut asking = Asking { link, task };
        let told = asking.answer().await.unwrap()["failed"].to_string();
        assert!(told.contains(words) && !told.contains(TOKEN), "{told}");
        let error = asking.task.await.unwrap().unwrap_err();
        assert!(!error.to_string().contains(TOKEN));
    }
    let (mut ours, task) = begin();
    ours.write_all(b"SYNCLINE\x09\x00").await.unwrap();
    let mut said = Vec::new();
    ours.read_to_end(&mut said).await.unwrap();
    assert!(said.starts_with(b"SYNCLINE\x02\x00") && String::from_utf8_lossy(&said).contains("version 9"));
    assert!(task.await.unwrap().is_err());
}

#[tokio::test]
async fn what_is_out_of_bounds_is_refused_and_the_session_goes_on() {
    let mut asking = Asking::start().await;
    let columns = table().await.columns;
    let open = |columns: &Value, classes: &Value, key_columns: u64, name: &str| {
        json!({ "table": { "schema": "s", "name": name }, "columns": columns, "classes": classes,
            "key_columns": key_columns })
    };
    let (all, two) = (json!(columns), json!(["text", "text"]));
    let mut other = columns.clone();
    other[1].native_type.push('x');
    for (ask, body) in [
        (open(&all, &two, 3, "t"), 32),
        (open(&all, &json!(["text"]), 1, "t"), 32),
        (open(&json!([]), &json!([]), 0, "t"), 32),
        (open(&all, &two, 1, "t"), 31),
        (open(&all, &two, 1, "not there"), 32),
        (open(&all, &two, 1, "*"), 32),
        (open(&json!(other), &two, 1, "t"), 32),
        (json!({ "table": 7 }), 32),
    ] {
        let answer = asking.ask(&json!("open"), &opening(body, &ask)).await.unwrap();
        assert!(answer["failed"].is_object(), "{ask}: {answer}");
    }
    for body in [&[][..], &[0; 4], &[0; 8], &[0; 12], &[0xff; 40]] {
        assert!(asking.ask(&json!("open"), body).await.unwrap()["failed"].is_object());
    }
    let unopened = json!({ "scan": { "table": 1, "ranges": [[0, 0]], "size": 8 } });
    assert!(asking.ask(&unopened, &[]).await.unwrap()["failed"].is_object());
    let table = asking.open().await;
    let scan =
        |ranges: Value, size: u64| json!({ "scan": { "table": table, "ranges": ranges, "size": size } });
    let wide: Vec<_> = (0..200).map(|n| json!([n, 32])).collect();
    for ask in [
        scan(json!([]), 8),
        scan(json!([[1, 0]]), 8),
        scan(json!([[0, 33]]), 8),
        scan(json!([[0, 0]]), 5),
        scan(json!([[0, 0]]), 20),
        scan(json!(wide), 14),
        json!({ "sketch": { "table": table, "range": 0 } }),
        json!({ "by_key": { "table": table + 1 } }),
        json!({ "unique": { "table": table, "of": { "columns": ["other"], "nulls_are_equal": false } } }),
    ] {
        let answer = asking.ask(&ask, &[]).await.unwrap();
        assert!(answer["failed"].is_object(), "{ask}: {answer}");
    }
    // Counts that lie, and keys that are none.
    for (what, body) in [
        ("keys", vec![0xff; 4]),
        ("found", vec![0xff, 0xff, 0xff, 0x7f, 1]),
        ("counted", vec![0, 0, 0, 0, 7]),
        ("by_key", vec![0xff; 9]),
        ("by_key", vec![2, 0, 0, 0, 1, 1]),
        ("by_key", vec![8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("by_key", vec![4, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]),
    ] {
        let answer = asking.ask(&json!({ (what): { "table": table } }), &body).await.unwrap();
        assert!(answer["failed"].is_object(), "{what}: {answer}");
    }
    assert!(asking.ask(&scan(json!([[0, 0]]), 8), &[]).await.unwrap()["done"].is_null());
    let sketch = json!({ "sketch": { "table": table, "range": 0 } });
    for body in [&[][..], &[1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], &[9; 40]] {
        assert!(asking.ask(&sketch, body).await.unwrap()["failed"].is_object());
    }
    assert!(asking.ask(&json!("ping"), &[]).await.unwrap()["failed"].is_null());
    drop(asking.link);
    asking.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_session() {
    let frame = |kind: u8, length: u32, bytes: &[u8]| [&[kind][..], &length.to_le_bytes(), bytes].concat();
    let head = |text: &str| frame(1, u32::try_from(text.len()).unwrap(), text.as_bytes());
    let long = "x".repeat(70_000);
    for bytes in [
        frame(9, 0, b""),
        frame(1, u32::MAX, b"x"),
        frame(2, 1, b"x"),
        frame(3, 0, b""),
        frame(4, 8, &[0; 8]),
        head(&long),
        [head("\"ping\""), head("\"ping\"")].concat(),
        [head("\"ping\""), frame(2, 0, b"")].concat(),
        [head("\"ping\""), frame(3, 1, b"x")].concat(),
        [head("\"nothing\""), frame(3, 0, b"")].concat(),
        [head("{{{{"), frame(3, 0, b"")].concat(),
        [head("\"ping\""), frame(2, 1 << 20, &vec![0; 1 << 20]).repeat(17)].concat(),
        head("cut off")[..8].to_vec(),
    ] {
        let (mut ours, task) = begin();
        let mut all = b"SYNCLINE\x02\x00".to_vec();
        let hello = json!({ "connection": "db", "token": TOKEN }).to_string();
        all.extend([head(&hello), frame(3, 0, b"")].concat());
        all.extend(&bytes);
        let write = async {
            // The other end may close before it has read everything.
            let _ = ours.write_all(&all).await;
            let _ = ours.shutdown().await;
            let mut said = Vec::new();
            let _ = ours.read_to_end(&mut said).await;
        };
        tokio::time::timeout(Duration::from_secs(20), write).await.expect("the session ends");
        let ended = task.await.expect("no panic");
        assert!(ended.is_err(), "{} bytes, first {:?}", bytes.len(), &bytes[..bytes.len().min(20)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_end_a_session_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400), is_let_in in any::<bool>(), head in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut all = Vec::new();
            if is_let_in {
                let hello = json!({ "connection": "db", "token": TOKEN }).to_string();
                all.extend(b"SYNCLINE\x02\x00\x01");
                all.extend(u32::try_from(hello.len()).unwrap().to_le_bytes());
                all.extend(hello.as_bytes());
                all.extend([3, 0, 0, 0, 0]);
            }
            if head {
                all.extend([1, 6, 0, 0, 0]);
                all.extend(b"\"ping\"");
            }
            all.extend(&bytes);
            let (mut ours, task) = begin();
            let _ = ours.write_all(&all).await;
            let _ = ours.shutdown().await;
            let mut said = Vec::new();
            let _ = ours.read_to_end(&mut said).await;
            drop(ours);
            let _ = task.await.expect("no panic");
        });
    }
}
