//! Trap 5c: chunks of a table that is written to all over while it is read, cut from the stream by transaction.
//!
//! The table has several chunks, so that keys move between them; a load in memory follows the rules of the design, and
//! the end is compared with the table itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use syncline_core::{
    ChangeBatch, ChunkEntry, Cut, Entry, Operation, Origin, Position, RowKey, SnapshotOptions, StreamEvent,
    StreamRequest, TableSchema, TableState, Verdict,
};

use super::world::{RESUMABLE, Row, STREAMED, World, begin, enter, int, ledger, only, plan, rows};

/// 100 MB in three chunks or more; every tenth row has 5 kB of TOAST that no update mentions. `u` is unique.
const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, u int, big text, pad text);
    ALTER TABLE t ALTER big SET STORAGE EXTERNAL, ALTER pad SET STORAGE PLAIN;
    INSERT INTO t SELECT i, i, CASE WHEN i % 10 = 0 THEN repeat(md5(i::text), 160) END, repeat('x', 1500)
        FROM generate_series(1, 50000) i ORDER BY hashint4(i);
    CREATE UNIQUE INDEX ON t (u); ANALYZE t";

/// The destination: what a load of the pipeline would make of it.
#[derive(Default)]
struct Replica {
    rows: BTreeMap<i32, Row>,
    rereads: BTreeSet<i32>,
    /// What happened, so that a test that exercises nothing fails.
    seen: usize,
    applied: usize,
    moved: usize,
}

impl Replica {
    fn load(&mut self, rows: Vec<Row>) {
        for row in rows {
            let key = int(row[0].as_ref());
            assert!(self.rows.insert(key, shorten(row)).is_none(), "key {key} is in two chunks");
        }
    }

    fn apply(&mut self, batch: &ChangeBatch, cuts: &[Cut]) {
        for (row, cut) in cuts.iter().enumerate() {
            assert!(cut.new != Verdict::Unread && cut.old != Verdict::Unread, "everything is loaded");
            self.seen += usize::from(cut.new == Verdict::Seen);
            self.applied += usize::from(cut.new == Verdict::Apply);
            self.apply_one(batch, row, *cut);
        }
    }

    fn apply_one(&mut self, batch: &ChangeBatch, row: usize, cut: Cut) {
        let image = image(&batch.rows, row);
        let key = int(image[0].as_ref());
        let old_key = batch
            .old_row(row)
            .map_or(key, |old| int(self::image(&batch.old.as_ref().unwrap().keys, old)[0].as_ref()));
        let moved = old_key != key;
        self.moved += usize::from(moved && cut.new != cut.old);
        if batch.operations[row] == Operation::Delete {
            if cut.new == Verdict::Apply {
                self.rows.remove(&key);
                self.rereads.remove(&key);
            }
            return;
        }
        let before = if moved && cut.old == Verdict::Apply { self.rows.remove(&old_key) } else { None };
        let waiting = moved && cut.old == Verdict::Apply && self.rereads.remove(&old_key);
        if cut.new != Verdict::Apply {
            return;
        }
        // A row whose old key was judged by a chunk that saw the move is not at its old key any more.
        let base = if moved { before } else { self.rows.get(&key).cloned() };
        let mut image = shorten(image);
        if let Some(mask) = batch.mask(row) {
            let Some(base) = base.filter(|_| !waiting && (moved || !self.rereads.contains(&key))) else {
                self.rows.remove(&key);
                self.rereads.insert(key);
                return;
            };
            for column in mask.iter() {
                image[column] = base[column].clone();
            }
        }
        self.rereads.remove(&key);
        self.rows.insert(key, image);
    }
}

fn image(batch: &RecordBatch, row: usize) -> Row {
    let value = |column: &arrow_array::ArrayRef| {
        let column = column.as_binary::<i32>();
        column.is_valid(row).then(|| column.value(row).to_vec())
    };
    batch.columns().iter().map(value).collect()
}

/// Long values by their beginning, which tells them apart here.
fn shorten(mut row: Row) -> Row {
    row.truncate(3);
    if let Some(big) = row.get_mut(2).and_then(Option::as_mut) {
        big.truncate(32);
    }
    row
}

/// One transaction of the application, made by number: moves across the whole table, reused keys, exchanged unique
/// values, rows deleted and inserted again, rolled back subtransactions.
fn transaction(n: i32) -> String {
    let at = |step: i32| (n * 7919 + step * 104_729).rem_euclid(5000) * 10 + 10;
    let (a, b, c, d) = (at(1), at(2), at(3), at(4));
    format!(
        "BEGIN;
         UPDATE t SET id = 100000 + {n} WHERE id = {a}; UPDATE t SET id = {a} WHERE id = {b};
         SAVEPOINT s; DELETE FROM t WHERE id < 500; ROLLBACK TO s;
         DO $$ DECLARE one int; other int; BEGIN
             SELECT u INTO one FROM t WHERE id = {c}; SELECT u INTO other FROM t WHERE id = {d};
             IF one IS NOT NULL AND other IS NOT NULL THEN
                 UPDATE t SET u = NULL WHERE id = {c}; UPDATE t SET u = one WHERE id = {d};
                 UPDATE t SET u = other WHERE id = {c};
             END IF;
         END $$;
         DELETE FROM t WHERE id = {c}; INSERT INTO t VALUES ({c}, {n} - 10000000, repeat(md5('n{n}'), 160), '')
            ON CONFLICT DO NOTHING;
         UPDATE t SET u = u + 0, pad = 'short' WHERE id = {d};
         UPDATE t SET id = {b} WHERE id = 100000 + {n} - 3;
         COMMIT"
    )
}

struct Run<'a> {
    world: &'a World,
    request: StreamRequest,
    table: Arc<TableSchema>,
    state: TableState,
    replica: Replica,
    written: i32,
    at: Position,
}

impl<'a> Run<'a> {
    async fn new(world: &'a World) -> Self {
        let request = world.request("cut", &only("t")).await;
        let origin: Origin = world.streams().open(&request).await.unwrap();
        assert_eq!(world.streams().settled(&origin).await.unwrap(), None);
        let table = request.tables[0].clone();
        Self {
            world,
            request,
            table,
            state: ledger(1),
            replica: Replica::default(),
            written: 0,
            at: origin.confirmed,
        }
    }

    async fn write(&mut self, count: i32) {
        for _ in 0..count {
            self.written += 1;
            self.world.sql(&transaction(self.written)).await;
        }
    }

    async fn load(&mut self, options: SnapshotOptions) {
        let chunks = plan(self.world.snapshots(), &self.table, &self.state, options).await;
        assert!(chunks.len() >= 3);
        for chunk in &chunks {
            self.write(30).await;
            let reader = begin(self.world.snapshots(), &self.table, chunk).await;
            let mark = reader.mark().clone();
            self.write(30).await;
            self.replica.load(rows(reader).await);
            enter(&mut self.state, chunk, &mark);
        }
        self.write(30).await;
    }

    async fn stream_to_end(&mut self) {
        let target = self.world.streams().end().await.unwrap();
        let mut stream = self.world.streams().stream(&self.request, &self.at, Some(&target)).await.unwrap();
        let cutter = self.world.snapshots().cut(&self.table, &self.state).unwrap();
        while self.at < target {
            let event = tokio::time::timeout(std::time::Duration::from_secs(60), stream.next())
                .await
                .unwrap()
                .unwrap();
            let StreamEvent::Entry(entry) = event else { panic!("{event:?}") };
            self.apply(&entry, cutter.as_ref());
            self.at = entry.to.clone();
        }
    }

    fn apply(&mut self, entry: &Entry, cutter: &dyn syncline_core::CutPlan) {
        for batch in &entry.batches {
            let cuts = cutter.judge(batch, &entry.transactions).unwrap();
            self.replica.apply(batch, &cuts);
        }
    }

    /// Reads the waiting keys again, as the design's chunks of one key.
    async fn reread(&mut self) {
        let waiting: Vec<i32> = std::mem::take(&mut self.replica.rereads).into_iter().collect();
        let bytes: Vec<[u8; 4]> = waiting.iter().map(|key| key.to_be_bytes()).collect();
        let array: arrow_array::ArrayRef = Arc::new(arrow_array::BinaryArray::from_iter_values(bytes));
        let keys = RecordBatch::try_new(self.table.arrow_old(), vec![array]).unwrap();
        let (found, mark) = self.world.snapshots().read_keys(&self.table, &keys).await.unwrap();
        for row in 0..found.num_rows() {
            let row = shorten(image(&found, row));
            self.replica.rows.insert(int(row[0].as_ref()), row);
        }
        let range = self.world.snapshots().range_of_keys(&self.table, &keys).unwrap();
        let n = self.state.chunks.last_key_value().map_or(0, |(n, _)| n + 1);
        self.state.chunks.insert(n, ChunkEntry { range, mark: mark.0, rows: 0 });
        assert_eq!(RowKey::of(keys.columns(), 0).unwrap().values().unwrap().len(), 1);
    }

    async fn compare(&self) {
        let truth = self.world.client.query("SELECT id, u, left(big, 32) FROM t", &[]).await.unwrap();
        assert_eq!(truth.len(), self.replica.rows.len());
        for row in truth {
            let key: i32 = row.get(0);
            let expected: Row = vec![
                Some(key.to_be_bytes().to_vec()),
                Some(row.get::<_, i32>(1).to_be_bytes().to_vec()),
                row.get::<_, Option<String>>(2).map(String::into_bytes),
            ];
            assert_eq!(self.replica.rows.get(&key), Some(&expected), "key {key}");
        }
    }
}

async fn cut(options: SnapshotOptions) -> Option<Replica> {
    let world = World::new(TABLE).await?;
    let mut run = Run::new(&world).await;
    run.load(options).await;
    run.stream_to_end().await;
    let mut rereads = 0;
    while !run.replica.rereads.is_empty() {
        rereads += run.replica.rereads.len();
        run.write(5).await;
        run.reread().await;
        run.write(5).await;
        run.stream_to_end().await;
    }
    run.compare().await;
    assert!(run.replica.seen > 0 && run.replica.applied > 0, "both verdicts came");
    println!(
        "{} seen, {} applied, {} moved apart, {rereads} read again",
        run.replica.seen, run.replica.applied, run.replica.moved
    );
    Some(run.replica)
}

#[tokio::test]
async fn trap_5c_key_ranges_are_cut_exactly_under_a_writer_that_moves_keys() {
    if let Some(replica) = cut(RESUMABLE).await {
        assert!(replica.moved > 0, "keys moved between chunks with different verdicts");
    }
}

#[tokio::test]
async fn trap_5c_one_snapshot_is_cut_exactly_under_a_writer_that_moves_keys() {
    if let Some(replica) = cut(STREAMED).await {
        assert_eq!(replica.moved, 0, "one snapshot has one verdict");
    }
}
