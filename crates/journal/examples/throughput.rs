//! What the journal costs: 1 M small changes in large entries, and 100,000 entries of one row, appended and read by a
//! loader that keeps up, then read again from disk.
//!
//! `cargo run --release -p syncline-journal --example throughput [DIR]`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, BinaryArray, RecordBatch};
use syncline_core::{
    Carriage, ChangeBatch, Column, DataType, Entry, Operation, Position, Result, TableId, TableSchema,
    Transaction,
};
use syncline_journal::{Journal, Options};

/// pgbench's accounts: three integers and a text of 84 bytes, in their binary form.
fn table() -> Arc<TableSchema> {
    let column = |(name, data_type, native_type): (&str, DataType, &str)| Column {
        name: name.into(),
        data_type,
        nullable: true,
        native_type: native_type.into(),
        carriage: Carriage::Native,
    };
    let columns = [
        ("aid", DataType::Int(32), "integer"),
        ("bid", DataType::Int(32), "integer"),
        ("abalance", DataType::Int(32), "integer"),
        ("filler", DataType::Text, "character(84)"),
    ];
    Arc::new(TableSchema {
        id: TableId::new("public", "pgbench_accounts"),
        columns: columns.map(column).to_vec(),
        row_key: vec![0],
        version: 1,
        rows_estimated: None,
        native: None,
    })
}

fn entry(table: &Arc<TableSchema>, from: u64, rows: usize) -> Entry {
    let number = |n: usize| (from + n as u64).to_be_bytes()[4..].to_vec();
    let numbers = || Arc::new((0..rows).map(|n| Some(number(n))).collect::<BinaryArray>()) as ArrayRef;
    let filler = Arc::new((0..rows).map(|_| Some([b' '; 84])).collect::<BinaryArray>());
    let rows_of = vec![numbers(), numbers(), numbers(), filler];
    let batch = ChangeBatch {
        table: table.clone(),
        rows: RecordBatch::try_new(table.arrow(), rows_of).expect("the columns are the table's"),
        operations: vec![Operation::Update; rows],
        ordinals: (0..rows as u64).map(|n| from + n * 150).collect(),
        transactions: vec![0; rows],
        masks: None,
        old: None,
    };
    Entry {
        from: Position::from_u64(from),
        to: Position::from_u64(from + rows as u64),
        transactions: vec![Transaction { id: from, committed_at_us: 1_700_000_000_000_000 }],
        batches: vec![batch],
    }
}

/// Processor time of this process, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Times a piece of work.
async fn measured(what: &str, changes: usize, work: impl Future<Output = Result<()>>) -> Result<()> {
    let (began, spent) = (Instant::now(), cpu());
    work.await?;
    let (seconds, spent) = (began.elapsed().as_secs_f64(), cpu() - spent);
    println!("{what:<44} {changes:>9} changes  {seconds:7.3} s  {spent:7.3} CPU-s");
    Ok(())
}

async fn append(journal: &Journal, entries: &[Entry]) -> Result<()> {
    let mut reader = journal.reader(&Position::start());
    for entry in entries {
        journal.append(entry.clone()).await?;
        while reader.try_next().await?.is_some() {}
    }
    let end = journal.end().unwrap_or_default();
    // The sender goes only if the writer failed, which the next append reports.
    let _ = journal.durable().wait_for(|durable| *durable >= end).await;
    Ok(())
}

async fn read(journal: &Journal) -> Result<()> {
    let mut reader = journal.reader(&Position::start());
    while reader.try_next().await?.is_some() {}
    Ok(())
}

async fn run(dir: PathBuf, what: &str, count: usize, rows: usize) -> Result<()> {
    let table = table();
    let entries: Vec<Entry> = (0..count).map(|n| entry(&table, (n * rows) as u64, rows)).collect();
    let changes = count * rows;
    let options = Options { memory_bytes: 16 << 20, ..Options::new(&dir, 8 << 30) };
    let journal = Journal::open(options.clone()).await?;
    journal.reset(Position::from_u64(0)).await?;
    measured(&format!("{what}: append, read from memory"), changes, append(&journal, &entries)).await?;
    println!("{:<44} {:>9} MB on disk", "", journal.usage().bytes / 1_000_000);
    journal.close().await?;
    drop(journal);
    let mut opened = None;
    measured(&format!("{what}: open again"), changes, async {
        opened = Some(Journal::open(options).await?);
        Ok(())
    })
    .await?;
    match opened {
        Some(journal) => measured(&format!("{what}: read from disk"), changes, read(&journal)).await,
        None => Ok(()),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let dir = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("syncline-journal-throughput-{}", std::process::id()));
    let outcome = async {
        run(dir.join("large"), "entries of 7,000 rows", 143, 7000).await?;
        run(dir.join("small"), "entries of one row", 100_000, 1).await
    }
    .await;
    // Best effort: the figures are out.
    let _ = std::fs::remove_dir_all(&dir);
    outcome
}
