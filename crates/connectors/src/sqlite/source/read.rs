//! One reader of a log: entries and the rows that their keys name, in one read transaction.
//!
//! # Progress
//! A read takes everything up to the newest number `end` that its transaction sees. Only the last look at each key
//! matters, and the row that is there now is what the key is worth at `end`; so an entry is always a state the source
//! had. A read that is larger than about a megabyte comes as pieces, all in the same transaction, and closes at `end`.
//!
//! # Resumption
//! At any `from` that was not pruned: keys are looked at again, and rows come as they are then.
//!
//! # Errors
//! A table with a hole in its log, a NULL in a key, or a value that does not fit its type stops alone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params_from_iter};
use syncline_core::{
    ChangeBatch, Entry, Error, ErrorKind, Operation, PipelineName, Position, Result, StreamEvent, TableId,
    TableSchema, Transaction,
};

use super::super::error::During;
use super::super::quote::ident;
use super::super::rows::{BATCH_BYTES, RowsBuilder};
use super::super::value::{self, Owned, sql_number};
use super::capture;
use super::page::{select_by_key, verified};

/// Bytes of keys that one look into the log takes.
const KEYS_BYTES_MAX: usize = 1 << 20;

/// A table of the stream.
struct Watched {
    schema: Arc<TableSchema>,
    /// Its row by key; `None` until the first look.
    select: Option<String>,
    stopped: bool,
}

/// A key to be looked at, with the number of its last entry.
struct Touched {
    table: i64,
    /// The native form of each part, one after the other with its length.
    key: Vec<Owned>,
    ordinal: u64,
}

/// A read that is under way: its transaction is open.
struct Running {
    end: u64,
    committed_at_us: i64,
    /// Up to where the log was looked at.
    looked: u64,
    pending: VecDeque<Touched>,
}

/// A reader of one pipeline's log.
pub(super) struct LogReader {
    conn: Connection,
    pipeline: PipelineName,
    tables: HashMap<i64, Watched>,
    key_parts: usize,
    from: u64,
    running: Option<Running>,
    /// What the file said of its content and of its schema when it was last looked at.
    data_version: Option<i64>,
    schema_version: Option<i64>,
    ready: VecDeque<StreamEvent>,
    /// The newest number seen; read by others while a step is under way.
    newest: Arc<AtomicU64>,
}

impl LogReader {
    /// A reader that goes on after `from`.
    pub(super) fn new(
        conn: Connection,
        pipeline: &PipelineName,
        tables: &[Arc<TableSchema>],
        from: u64,
    ) -> Result<Self> {
        let numbers: HashMap<String, i64> = capture::captured(&conn, pipeline)?
            .into_iter()
            .map(|captured| (captured.name, captured.number))
            .collect();
        let mut watched = HashMap::new();
        for table in tables {
            let number = numbers.get(&table.id.name).ok_or_else(|| {
                Error::conflict("the table has no capture triggers; open the stream first")
                    .with_table(&table.id)
            })?;
            watched.insert(*number, Watched { schema: Arc::clone(table), select: None, stopped: false });
        }
        let key_parts = tables.iter().map(|table| table.row_key.len()).max().unwrap_or(0);
        Ok(Self {
            conn,
            pipeline: pipeline.clone(),
            tables: watched,
            key_parts,
            from,
            running: None,
            data_version: None,
            schema_version: None,
            ready: VecDeque::new(),
            newest: Arc::new(AtomicU64::new(from)),
        })
    }

    /// The next event that is ready.
    pub(super) fn pop(&mut self) -> Option<StreamEvent> {
        self.ready.pop_front()
    }

    /// Where the newest number seen stands.
    pub(super) fn newest(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.newest)
    }

    /// Reads on, if there is anything to read.
    pub(super) fn step(&mut self) -> Result<()> {
        if !self.ready.is_empty() {
            return Ok(());
        }
        let outcome = self.try_step();
        if outcome.is_err() && !self.conn.is_autocommit() {
            self.running = None;
            self.data_version = None;
            self.conn.execute_batch("ROLLBACK").during("ending a read")?;
        }
        outcome
    }

    fn try_step(&mut self) -> Result<()> {
        if self.running.is_none() && !self.begin()? {
            return Ok(());
        }
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let entry = self.entry(&mut running)?;
        if entry.is_piece() {
            self.running = Some(running);
        } else {
            self.conn.execute_batch("COMMIT").during("ending a read")?;
            self.from = running.end;
        }
        self.ready.push_back(StreamEvent::Entry(entry));
        Ok(())
    }

    /// Begins a read if somebody wrote; false if there is nothing new.
    fn begin(&mut self) -> Result<bool> {
        let doing = "reading the log";
        // Asked before the transaction: what is committed in between is read now and only costs one look more.
        let data_version: i64 =
            self.conn.pragma_query_value(None, "data_version", |row| row.get(0)).during(doing)?;
        if self.data_version == Some(data_version) {
            return Ok(false);
        }
        self.conn.execute_batch("BEGIN").during(doing)?;
        self.verify()?;
        let end = capture::end(&self.conn, &self.pipeline)?;
        self.newest.store(end, Ordering::Relaxed);
        if end <= self.from {
            self.conn.execute_batch("COMMIT").during(doing)?;
            self.data_version = Some(data_version);
            return Ok(false);
        }
        let log = ident(&capture::log_table(&self.pipeline));
        let sql = format!("SELECT at FROM {log} WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1");
        let at_ms: Option<Option<i64>> = self
            .conn
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.query_row([sql_number(end)], |row| row.get(0)).optional())
            .during(doing)?;
        self.data_version = Some(data_version);
        self.running = Some(Running {
            end,
            committed_at_us: at_ms.flatten().map_or(0, |ms| ms.saturating_mul(1000)),
            looked: self.from,
            pending: VecDeque::new(),
        });
        Ok(true)
    }

    /// Looks, whenever the file's schema changed, whether every table still is what its triggers were made for.
    fn verify(&mut self) -> Result<()> {
        let doing = "reading the schema's version";
        let version: i64 =
            self.conn.pragma_query_value(None, "schema_version", |row| row.get(0)).during(doing)?;
        if self.schema_version == Some(version) {
            return Ok(());
        }
        if capture::find_log(&self.conn, &self.pipeline)?.is_none() {
            return Err(
                Error::conflict("the pipeline's log was dropped while it was read").with_changes_missing()
            );
        }
        for captured in capture::captured(&self.conn, &self.pipeline)? {
            let Some(watched) = self.tables.get_mut(&captured.number) else { continue };
            if watched.stopped {
                continue;
            }
            watched.select = None;
            let why = capture::hole(&self.conn, &self.pipeline, &captured)?;
            let schema = Arc::clone(&watched.schema);
            if let Some(why) = why {
                self.stop(captured.number, capture::lost(&schema, &why));
            } else if let Err(error) = self.prepare(captured.number) {
                self.stop(captured.number, error);
            }
        }
        self.schema_version = Some(version);
        Ok(())
    }

    fn prepare(&mut self, table: i64) -> Result<()> {
        let Some(watched) = self.tables.get_mut(&table) else { return Ok(()) };
        let found = verified(&self.conn, &watched.schema)?;
        watched.select = Some(select_by_key(&found, &watched.schema));
        Ok(())
    }

    fn stop(&mut self, table: i64, error: Error) {
        if let Some(watched) = self.tables.get_mut(&table)
            && !std::mem::replace(&mut watched.stopped, true)
        {
            self.ready.push_back(StreamEvent::TableStopped { table: watched.schema.id.clone(), error });
        }
    }

    /// The next piece, or the entry that closes the read.
    fn entry(&mut self, running: &mut Running) -> Result<Entry> {
        let mut gathered: BTreeMap<i64, Gathered> = BTreeMap::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES && self.fill(running)? {
            let Some(touched) = running.pending.pop_front() else { break };
            let Some(watched) = self.tables.get(&touched.table).filter(|watched| !watched.stopped) else {
                continue;
            };
            let table = gathered.entry(touched.table).or_insert_with(|| Gathered::new(&watched.schema));
            match look(&self.conn, watched, &touched, table) {
                Ok(grown) => bytes += grown,
                Err(error) if error.kind() == ErrorKind::Data && error.table().is_some() => {
                    gathered.remove(&touched.table);
                    self.stop(touched.table, error);
                }
                Err(error) => return Err(error),
            }
        }
        let closes = !self.fill(running)?;
        let from = Position::from_u64(self.from);
        let to = if closes { Position::from_u64(running.end) } else { from.clone() };
        let batches = gathered.into_values().map(Gathered::finish).collect::<Result<Vec<_>>>()?;
        let transactions = vec![Transaction { id: running.end, committed_at_us: running.committed_at_us }];
        Ok(Entry { from, to, transactions, batches })
    }

    /// Sees to it that a key is pending; false if the whole read is done.
    fn fill(&mut self, running: &mut Running) -> Result<bool> {
        while running.pending.is_empty() {
            if running.looked >= running.end {
                return Ok(false);
            }
            self.look_into_log(running)?;
        }
        Ok(true)
    }

    /// Takes about a megabyte of keys from the log, each with its last number among them.
    fn look_into_log(&self, running: &mut Running) -> Result<()> {
        let doing = "reading the log";
        let keys: String = (1..=self.key_parts).map(|part| format!(", k{part}")).collect();
        let log = ident(&capture::log_table(&self.pipeline));
        let sql = format!("SELECT seq, number{keys} FROM {log} WHERE seq > ?1 AND seq <= ?2 ORDER BY seq");
        let mut statement = self.conn.prepare_cached(&sql).during(doing)?;
        let mut rows =
            statement.query([sql_number(running.looked), sql_number(running.end)]).during(doing)?;
        let mut last: HashMap<(i64, Vec<Owned>), u64> = HashMap::new();
        let mut bytes = 0;
        let mut looked = running.end;
        while let Some(row) = rows.next().during(doing)? {
            let seq = row.get::<_, i64>(0).during(doing)?.unsigned_abs();
            if bytes >= KEYS_BYTES_MAX {
                break;
            }
            looked = seq;
            let table: i64 = row.get(1).during(doing)?;
            let Some(watched) = self.tables.get(&table).filter(|watched| !watched.stopped) else { continue };
            let mut key = Vec::with_capacity(watched.schema.row_key.len());
            for part in 0..watched.schema.row_key.len() {
                key.push(value::keep(row.get_ref(part + 2).during(doing)?));
            }
            bytes += 64 + key.iter().flatten().map(Vec::len).sum::<usize>();
            last.insert((table, key), seq);
        }
        if bytes < KEYS_BYTES_MAX {
            looked = running.end;
        }
        running.looked = looked;
        let touched = |((table, key), ordinal)| Touched { table, key, ordinal };
        let mut pending: Vec<Touched> = last.into_iter().map(touched).collect();
        pending.sort_unstable_by_key(|touched| touched.ordinal);
        running.pending = pending.into();
        Ok(())
    }
}

/// Changes of one table.
struct Gathered {
    table: Arc<TableSchema>,
    rows: RowsBuilder,
    operations: Vec<Operation>,
    ordinals: Vec<u64>,
}

impl Gathered {
    fn new(table: &Arc<TableSchema>) -> Self {
        Self {
            table: Arc::clone(table),
            rows: RowsBuilder::new(table),
            operations: Vec::new(),
            ordinals: Vec::new(),
        }
    }

    fn finish(self) -> Result<ChangeBatch> {
        let transactions = vec![0; self.operations.len()];
        ChangeBatch {
            table: self.table,
            rows: self.rows.finish()?,
            operations: self.operations,
            ordinals: self.ordinals,
            transactions,
            masks: None,
            old: None,
        }
        .check()
    }
}

/// Looks at the row that has the key now. A row with a key that only compares equal has another key, which has an entry
/// of its own. Returns the bytes that the batch has grown by.
fn look(conn: &Connection, watched: &Watched, touched: &Touched, gathered: &mut Gathered) -> Result<usize> {
    let doing = "reading a changed row";
    let key = decoded(&touched.key, &watched.schema.id)?;
    let before = gathered.rows.bytes();
    let select =
        watched.select.as_deref().ok_or_else(|| Error::bug("a table is read before it is verified"))?;
    let mut statement = conn.prepare_cached(select).during(doing)?;
    let params = key.iter().map(|value| rusqlite::types::ToSqlOutput::Borrowed(*value));
    let mut rows = statement.query(params_from_iter(params)).during(doing)?;
    let mut operation = Operation::Delete;
    while let Some(row) = rows.next().during(doing)? {
        let mut same = true;
        for (part, column) in watched.schema.row_key.iter().enumerate() {
            same &= value::identical(row.get_ref(*column).during(doing)?, key[part]);
        }
        if same {
            gathered.rows.push(row)?;
            operation = Operation::Upsert;
            break;
        }
    }
    if operation == Operation::Delete {
        gathered.rows.push_key(&key)?;
    }
    gathered.operations.push(operation);
    gathered.ordinals.push(touched.ordinal);
    Ok(gathered.rows.bytes() - before + 16)
}

fn decoded<'a>(key: &'a [Owned], table: &TableId) -> Result<Vec<ValueRef<'a>>> {
    let part = |part: &'a Owned| match part {
        Some(native) => value::decode(native),
        None => {
            Err(Error::new(ErrorKind::Data, "a row has NULL in its primary key, so nothing identifies it")
                .with_table(table)
                .with_remedy(
                    "declare the columns of the key NOT NULL, then drop the pipeline and sync it anew",
                ))
        }
    };
    key.iter().map(part).collect()
}
