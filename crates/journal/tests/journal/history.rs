//! Made-up histories of a source: every kind of column, mask, old key and transaction, from a seed.

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{Int32Builder, ListBuilder};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int64Array,
    RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::SchemaRef;
use syncline_core::{
    Carriage, ChangeBatch, Column, ColumnMask, DataType, Entry, Masks, OldKeys, Operation, Position, Result,
    TableId, TableSchema, Transaction,
};
use syncline_journal::{Journal, Options, Reader};

/// Splitmix64: enough for variety, and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = if self.one_in(20) { 300 } else { self.below(12) };
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

fn table(
    name: &str,
    types: &[DataType],
    carriage: Carriage,
    row_key: Vec<usize>,
    version: u32,
) -> TableSchema {
    let column = |(n, data_type): (usize, &DataType)| Column {
        name: format!("c{n}"),
        data_type: data_type.clone(),
        nullable: true,
        native_type: "x".into(),
        carriage,
    };
    TableSchema {
        id: TableId::new("public", name),
        columns: types.iter().enumerate().map(column).collect(),
        row_key,
        version,
        rows_estimated: None,
        native: None,
    }
}

/// Typed with a key, native and wide, without a key, without a column, and the first one in a second shape.
pub(crate) fn tables() -> Vec<Arc<TableSchema>> {
    let decimal = DataType::Decimal { precision: 20, scale: 3 };
    let typed = [
        DataType::Int(64),
        DataType::Text,
        DataType::Bool,
        DataType::Float64,
        decimal,
        DataType::Uuid,
        DataType::TimestampTz,
        DataType::Array(Box::new(DataType::Int(32))),
    ];
    let wide = vec![DataType::Text; 70];
    [
        table("typed", &typed, Carriage::Typed, vec![0], 1),
        table("wide", &wide, Carriage::Native, vec![2, 0], 1),
        table("keyless", &[DataType::Bytes, DataType::Text], Carriage::Typed, vec![], 1),
        table("empty", &[], Carriage::Native, vec![], 1),
        table("typed", &typed[..3], Carriage::Typed, vec![0], 2),
    ]
    .map(Arc::new)
    .to_vec()
}

macro_rules! array {
    ($type:ty, $random:ident, $rows:ident, $value:expr) => {
        Arc::new(
            (0..$rows)
                .map(|_| if $random.one_in(4) { None } else { Some($value) })
                .collect::<Vec<_>>()
                .into_iter()
                .collect::<$type>(),
        ) as ArrayRef
    };
}

fn array(random: &mut Random, column: &Column, rows: usize) -> ArrayRef {
    match &column.data_type {
        _ if column.carriage == Carriage::Native => array!(BinaryArray, random, rows, random.bytes()),
        DataType::Bytes => array!(BinaryArray, random, rows, random.bytes()),
        DataType::Text => array!(StringArray, random, rows, format!("ä{}", random.below(1 << 30))),
        DataType::Bool => array!(BooleanArray, random, rows, random.one_in(2)),
        DataType::Float64 => array!(Float64Array, random, rows, f64::from_bits(random.next() >> 2)),
        DataType::Int(_) => array!(Int64Array, random, rows, random.next().cast_signed()),
        DataType::Decimal { .. } => {
            let values: Decimal128Array = (0..rows).map(|_| Some(i128::from(random.next()))).collect();
            Arc::new(values.with_precision_and_scale(20, 3).unwrap())
        }
        DataType::Uuid => {
            let values = (0..rows).map(|_| (!random.one_in(4)).then(|| [random.next().to_le_bytes()[0]; 16]));
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, 16).unwrap())
        }
        DataType::TimestampTz => {
            let values: TimestampMicrosecondArray =
                (0..rows).map(|_| Some(random.next().cast_signed())).collect();
            Arc::new(values.with_timezone("UTC"))
        }
        DataType::Array(_) => {
            let mut list = ListBuilder::new(Int32Builder::new());
            for _ in 0..rows {
                let length = random.below(4);
                (0..length).for_each(|n| list.values().append_option(i32::try_from(n).ok()));
                list.append(!random.one_in(4));
            }
            Arc::new(list.finish())
        }
        other => unreachable!("no column of {other:?} in these tables"),
    }
}

fn rows(random: &mut Random, schema: SchemaRef, columns: &[Column], rows: usize) -> RecordBatch {
    let arrays = columns.iter().map(|column| array(random, column, rows)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, arrays, &options).unwrap()
}

fn masks(random: &mut Random, table: &TableSchema, count: usize) -> Masks {
    let mut masks = Masks::new();
    for _ in 0..count {
        let mut mask = ColumnMask::none();
        for column in 0..table.columns.len() {
            if random.one_in(3) {
                mask.insert(column);
            }
        }
        masks.push(&mask);
    }
    masks
}

fn old(random: &mut Random, table: &TableSchema, count: usize) -> OldKeys {
    let columns: Vec<Column> = table.old_columns().iter().map(|&n| table.columns[n].clone()).collect();
    let mut next = 0_u32;
    let mut place = || {
        next += 1;
        next - 1
    };
    let row: Vec<_> = (0..count).map(|_| (!random.one_in(3)).then(&mut place)).collect();
    let keys = rows(random, table.arrow_old(), &columns, next as usize);
    OldKeys { row, keys }
}

/// Changes of a table in transactions numbered below `transactions`.
pub(crate) fn batch(
    random: &mut Random,
    table: &Arc<TableSchema>,
    count: usize,
    transactions: u32,
) -> ChangeBatch {
    let first = random.next() >> 8;
    let step = [1, 30, 1 << 40][usize::try_from(random.below(3)).unwrap()];
    let operation = |random: &mut Random| Operation::try_from(random.next().to_le_bytes()[0] % 5).unwrap();
    let all = random.one_in(2).then_some(Operation::Insert);
    ChangeBatch {
        table: table.clone(),
        // A slice: what is written is not what stands at the beginning of the buffers.
        rows: rows(random, table.arrow(), &table.columns, count + 3).slice(2, count),
        operations: (0..count).map(|_| all.unwrap_or_else(|| operation(random))).collect(),
        ordinals: (0..count as u64).map(|n| first + n * step).collect(),
        transactions: (0..count)
            .map(|_| u32::try_from(random.below(u64::from(transactions))).unwrap())
            .collect(),
        masks: random.one_in(2).then(|| masks(random, table, count)),
        old: random.one_in(2).then(|| old(random, table, count)),
    }
    .check()
    .unwrap()
}

fn changes(random: &mut Random, tables: &[Arc<TableSchema>], from: u64, to: u64) -> Entry {
    let transactions = 1 + random.below(5);
    let transaction = |n: u64| Transaction {
        id: (from + n) << 20,
        committed_at_us: 1_700_000_000_000_000 - n.cast_signed(),
    };
    let mut batches = Vec::new();
    for table in tables {
        if random.one_in(2) {
            let count = 1 + usize::try_from(random.below(6)).unwrap();
            batches.push(batch(random, table, count, u32::try_from(transactions).unwrap()));
        }
    }
    Entry {
        from: Position::from_u64(from),
        to: Position::from_u64(to),
        transactions: if batches.is_empty() {
            Vec::new()
        } else {
            (0..transactions).map(transaction).collect()
        },
        batches,
    }
}

/// Whole transactions, the last one closed: progress, entries, and pieces with the entry that closes them.
pub(crate) fn history(seed: u64, count: usize) -> Vec<Entry> {
    let mut random = Random(seed);
    let tables = tables();
    let mut entries = Vec::new();
    let mut at = 100;
    while entries.len() < count {
        let to = at + 1 + random.below(50);
        let pieces = if random.one_in(4) { random.below(4) } else { 0 };
        for _ in 0..pieces {
            let piece = changes(&mut random, &tables, at, at);
            if !piece.batches.is_empty() {
                entries.push(piece);
            }
        }
        entries.push(changes(&mut random, &tables, at, to));
        at = to;
    }
    entries
}

/// A directory in memory, where there is one: these tests sync thousands of times, and only the last of it could be lost
/// to a power failure that they do not make.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) fn at(position: u64) -> Position {
    Position::from_u64(position)
}

/// Whether a lane at `after` needs an entry.
pub(crate) fn is_needed(entry: &Entry, after: &Position) -> bool {
    if entry.is_piece() { entry.to >= *after } else { entry.to > *after }
}

/// Small segments, almost nothing in memory.
pub(crate) fn small(dir: &Path) -> Options {
    Options { dir: dir.to_owned(), budget_bytes: 1 << 30, segment_bytes: 8 * 1024, memory_bytes: 4 * 1024 }
}

pub(crate) async fn opened(options: Options) -> Journal {
    let journal = Journal::open(options).await.unwrap();
    // Tests append one small entry after the other and wait for each.
    journal.set_urgent(true);
    if journal.end().is_none() {
        journal.reset(at(100)).await.unwrap();
    }
    journal
}

pub(crate) async fn append_all(journal: &Journal, entries: &[Entry]) {
    for entry in entries {
        journal.append(entry.clone()).await.unwrap();
    }
}

/// Appends, and lets every few entries become durable on their own.
pub(crate) async fn append_in_groups(journal: &Journal, entries: &[Entry], group: usize) {
    for entries in entries.chunks(group) {
        append_all(journal, entries).await;
        settled(journal).await;
    }
}

/// Waits until every whole entry is durable.
pub(crate) async fn settled(journal: &Journal) {
    let end = journal.end().unwrap();
    journal.durable().wait_for(|durable| *durable >= end).await.unwrap();
}

/// Everything a reader gives now.
pub(crate) async fn drain(reader: &mut Reader) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    while let Some(entry) = reader.try_next().await? {
        entries.push((*entry).clone());
    }
    Ok(entries)
}

pub(crate) async fn all_after(journal: &Journal, after: &Position) -> Vec<Entry> {
    drain(&mut journal.reader(after)).await.unwrap()
}

pub(crate) fn segment_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    files.sort();
    files
}
