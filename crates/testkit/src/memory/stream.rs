//! The source's log as a stream of entries, and the slot that keeps it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use syncline_core::{
    ChangeBatch, ChangeStream, ColumnMask, Entry, Error, ErrorKind, Masks, OldKeys, Operation, Origin,
    PipelineName, Position, Result, Retained, StreamEvent, StreamRequest, Streams, TableId, TableSchema,
    Transaction,
};
use tokio::sync::watch;

use super::database::Database;
use super::faults::{Faults, Step};
use super::log::{Logged, LoggedChange, Slot};
use super::rows::{Row, to_batch, to_old_batch};
use super::snapshot::Snapshot;
use super::source::MemorySource;
use super::transaction::projection;

#[async_trait]
impl Streams for MemorySource {
    async fn open(&self, request: &StreamRequest) -> Result<Origin> {
        self.faults.around(Step::OpenStream, || Ok(open(&self.database, request))).await
    }

    async fn settled(&self, origin: &Origin) -> Result<Option<String>> {
        let settled = || {
            let then = Snapshot::parse(&origin.barrier)?;
            let now = self.database.snapshot();
            let waiting = then.running().find(|xid| now.running().any(|running| running == *xid));
            Ok(waiting.map(|xid| format!("transaction {xid}")))
        };
        self.faults.around(Step::Settled, settled).await
    }

    async fn stream(
        &self,
        request: &StreamRequest,
        from: &Position,
        _target: Option<&Position>,
    ) -> Result<Box<dyn ChangeStream>> {
        let stream = || Ok(Box::new(LogStream::new(self, request, from)?) as Box<dyn ChangeStream>);
        self.faults.around(Step::Stream, stream).await
    }

    async fn end(&self) -> Result<Position> {
        self.faults.around(Step::End, || Ok(Position::from_u64(self.database.end()))).await
    }

    fn distance(&self, from: &Position, to: &Position) -> u64 {
        let number = |position: &Position| position.as_u64().unwrap_or_default();
        number(to).saturating_sub(number(from))
    }

    fn show(&self, position: &Position) -> String {
        position.as_u64().map_or_else(|| position.to_string(), |number| number.to_string())
    }

    async fn retained(&self, pipeline: &PipelineName) -> Result<Option<Retained>> {
        let state = self.database.state();
        Ok(state.slots.get(pipeline).map(|slot| Retained {
            what: format!("slot {pipeline}"),
            bytes: Some(state.end - slot.confirmed),
            drop_statement: format!("drop slot {pipeline}"),
        }))
    }

    async fn drop_pipeline(&self, pipeline: &PipelineName) -> Result<()> {
        self.database.state().slots.remove(pipeline);
        Ok(())
    }
}

fn open(database: &Database, request: &StreamRequest) -> Origin {
    let mut state = database.state();
    let end = state.end;
    let barrier = state.snapshot().to_string();
    let made = state.slots_made + 1;
    let created = !state.slots.contains_key(&request.pipeline);
    let slot = state.slots.entry(request.pipeline.clone()).or_insert_with(|| Slot {
        confirmed: end,
        since: BTreeMap::new(),
        active: false,
        identity: format!("memory:{made}"),
    });
    for table in &request.tables {
        slot.since.entry(table.id.clone()).or_insert(end);
    }
    let origin = Origin {
        confirmed: Position::from_u64(slot.confirmed),
        created,
        identity: slot.identity.clone(),
        barrier,
    };
    state.slots_made += u64::from(created);
    origin
}

/// A table of the stream.
struct Followed {
    schema: Arc<TableSchema>,
    /// Places of the schema's columns in the stored rows.
    columns: Vec<usize>,
    /// Its changes at or before this are not in the slot.
    since: u64,
}

struct LogStream {
    database: Database,
    pipeline: PipelineName,
    /// The slot this stream took; another one of the same name is not ours.
    identity: String,
    tables: BTreeMap<TableId, Followed>,
    /// The end of what is in `ready` or was returned.
    at: u64,
    ready: VecDeque<StreamEvent>,
    /// Tables whose changes no longer come.
    stopped: BTreeSet<TableId>,
    end: watch::Receiver<u64>,
    faults: Faults,
    broken: bool,
    transactions_per_entry: usize,
    changes_per_piece: usize,
}

impl LogStream {
    fn new(source: &MemorySource, request: &StreamRequest, from: &Position) -> Result<Self> {
        let at = from.as_u64().ok_or_else(|| Error::conflict("not a position of the memory source"))?;
        let mut guard = source.database.state();
        let state = &mut *guard;
        let end = state.end;
        let slot = state.slots.get_mut(&request.pipeline);
        let slot = slot.ok_or_else(|| Error::conflict(format!("slot {} is gone", request.pipeline)))?;
        if at < slot.confirmed || at > end {
            return Err(Error::conflict(format!(
                "position {at} is not in the log ({}, {end}] of slot {}",
                slot.confirmed, request.pipeline
            )));
        }
        if slot.active {
            let message = format!("slot {} is in use", request.pipeline);
            return Err(Error::new(ErrorKind::Retriable, message));
        }
        let mut tables = BTreeMap::new();
        for schema in &request.tables {
            let since = slot.since.get(&schema.id).copied();
            let stored = state.tables.get(&schema.id);
            let (Some(since), Some(stored)) = (since, stored) else {
                return Err(Error::bug("a stream of a table that was not opened").with_table(&schema.id));
            };
            let names: Vec<String> = schema.columns.iter().map(|column| column.name.clone()).collect();
            let columns = projection(&stored.definition, &names);
            tables.insert(schema.id.clone(), Followed { schema: Arc::clone(schema), columns, since });
        }
        slot.active = true;
        let identity = slot.identity.clone();
        drop(guard);
        Ok(Self {
            database: source.database.clone(),
            pipeline: request.pipeline.clone(),
            identity,
            tables,
            at,
            ready: VecDeque::new(),
            stopped: BTreeSet::new(),
            end: source.database.watch_end(),
            faults: source.faults.clone(),
            broken: false,
            transactions_per_entry: source.transactions_per_entry,
            changes_per_piece: source.changes_per_piece,
        })
    }

    /// Waits until an entry is ready. Takes nothing: safe to drop.
    async fn fill(&mut self) -> Result<()> {
        loop {
            self.end.mark_unchanged();
            self.gather()?;
            if !self.ready.is_empty() {
                return Ok(());
            }
            if self.end.changed().await.is_err() {
                return Err(Error::bug("the database of a stream is gone"));
            }
        }
    }

    /// Everything there is, up to one entry or the pieces of one transaction.
    fn gather(&mut self) -> Result<()> {
        if !self.ready.is_empty() {
            return Ok(());
        }
        let (log, end) = {
            let state = self.database.state();
            if state.slots.get(&self.pipeline).is_none_or(|slot| slot.identity != self.identity) {
                return Err(Error::conflict(format!("slot {} is gone", self.pipeline)));
            }
            let log: Vec<Arc<Logged>> =
                state.log_after(self.at).iter().take(self.transactions_per_entry).cloned().collect();
            (log, state.end)
        };
        if log.is_empty() {
            if end > self.at {
                self.push(end, Vec::new(), Vec::new());
            }
            return Ok(());
        }
        if let Some(table) = self.undecodable(&log[0]) {
            self.stop(table);
            return Ok(());
        }
        let whole = |logged: &&Arc<Logged>| {
            self.of_interest(logged) <= self.changes_per_piece && self.undecodable(logged).is_none()
        };
        let whole = log.iter().take_while(whole).count();
        if whole == 0 { self.gather_pieces(&log[0]) } else { self.gather_whole(&log[..whole]) }
    }

    /// A table of this transaction whose changes cannot be decoded, and that has not stopped yet.
    fn undecodable(&self, logged: &Logged) -> Option<TableId> {
        let cannot = |change: &&LoggedChange| {
            self.follows(change, logged) && self.faults.is_undecodable(&change.table, logged.position)
        };
        logged.changes.iter().find(cannot).map(|change| change.table.clone())
    }

    fn stop(&mut self, table: TableId) {
        let error = Error::new(ErrorKind::Data, "scripted fault: changes of the table cannot be decoded")
            .with_table(&table)
            .with_remedy("run again with --prepare recreate");
        self.stopped.insert(table.clone());
        self.ready.push_back(StreamEvent::TableStopped { table, error });
    }

    fn of_interest(&self, logged: &Logged) -> usize {
        logged.changes.iter().filter(|change| self.follows(change, logged)).count()
    }

    fn follows(&self, change: &LoggedChange, logged: &Logged) -> bool {
        !self.stopped.contains(&change.table)
            && self.tables.get(&change.table).is_some_and(|table| table.since < logged.position)
    }

    fn gather_whole(&mut self, log: &[Arc<Logged>]) -> Result<()> {
        let mut transactions = Vec::new();
        let mut changes = Vec::new();
        for logged in log {
            let number = transactions.len();
            let before = changes.len();
            changes.extend(self.placed(logged, number)?);
            if changes.len() > before {
                transactions.push(transaction(logged));
            }
        }
        let batches = self.batches(&changes)?;
        let to = log.last().map_or(self.at, |logged| logged.position);
        self.push(to, transactions, batches);
        Ok(())
    }

    fn gather_pieces(&mut self, logged: &Arc<Logged>) -> Result<()> {
        let changes = self.placed(logged, 0)?;
        let pieces = changes.chunks(self.changes_per_piece);
        let last = pieces.len() - 1;
        for (index, piece) in pieces.enumerate() {
            let to = if index == last { logged.position } else { self.at };
            let batches = self.batches(piece)?;
            self.push(to, vec![transaction(logged)], batches);
        }
        Ok(())
    }

    fn push(&mut self, to: u64, transactions: Vec<Transaction>, batches: Vec<ChangeBatch>) {
        let (from, to_position) = (Position::from_u64(self.at), Position::from_u64(to));
        let entry = Entry { from, to: to_position, transactions, batches };
        self.ready.push_back(StreamEvent::Entry(entry));
        self.at = to;
    }

    /// The changes of a transaction that this stream follows, with their ordinals.
    fn placed(&self, logged: &Arc<Logged>, number: usize) -> Result<Vec<Placed>> {
        let transaction = u32::try_from(number).map_err(|_| Error::bug("too many transactions"))?;
        let numbered = logged.changes.iter().zip(logged.start + 1..);
        Ok(numbered
            .filter(|(change, _)| self.follows(change, logged))
            .map(|(change, ordinal)| Placed { change: change.clone(), ordinal, transaction })
            .collect())
    }

    fn batches(&self, changes: &[Placed]) -> Result<Vec<ChangeBatch>> {
        let mut by_table: BTreeMap<&TableId, Vec<&Placed>> = BTreeMap::new();
        for placed in changes {
            by_table.entry(&placed.change.table).or_default().push(placed);
        }
        by_table.into_iter().map(|(table, changes)| batch(&self.tables[table], &changes)).collect()
    }
}

impl Drop for LogStream {
    fn drop(&mut self) {
        let mut state = self.database.state();
        if let Some(slot) = state.slots.get_mut(&self.pipeline).filter(|slot| slot.identity == self.identity)
        {
            slot.active = false;
        }
    }
}

struct Placed {
    change: LoggedChange,
    ordinal: u64,
    transaction: u32,
}

fn transaction(logged: &Logged) -> Transaction {
    Transaction { id: logged.xid, committed_at_us: logged.committed_at_us }
}

fn batch(table: &Followed, changes: &[&Placed]) -> Result<ChangeBatch> {
    let schema = &table.schema;
    let mut rows = Vec::new();
    let mut masks = Masks::new();
    let mut old_rows = Vec::new();
    let mut old_images: Vec<Row> = Vec::new();
    for placed in changes {
        let change = &placed.change;
        let (row, mask) = image(table, change);
        masks.push(&mask);
        rows.push(row);
        let Some(old) = &change.old else {
            old_rows.push(None);
            continue;
        };
        let number = u32::try_from(old_images.len()).map_err(|_| Error::bug("too many old images"))?;
        old_rows.push(Some(number));
        old_images.push(schema.old_columns().iter().map(|&c| old[table.columns[c]].clone()).collect());
    }
    let old = if old_images.is_empty() {
        None
    } else {
        Some(OldKeys { row: old_rows, keys: to_old_batch(schema, &old_images)? })
    };
    ChangeBatch {
        table: Arc::clone(schema),
        rows: to_batch(schema, &rows)?,
        operations: changes.iter().map(|placed| placed.change.operation).collect(),
        ordinals: changes.iter().map(|placed| placed.ordinal).collect(),
        transactions: changes.iter().map(|placed| placed.transaction).collect(),
        masks: (!masks.is_trivial()).then_some(masks),
        old,
    }
    .check()
}

/// The row of a change as the batch has it, and the columns it leaves out.
fn image(table: &Followed, change: &LoggedChange) -> (Row, ColumnMask) {
    let width = table.columns.len();
    let mut mask = ColumnMask::none();
    let Some(stored) = &change.row else { return (vec![None; width], mask) };
    let old_columns = table.schema.old_columns();
    let mut row: Row = vec![None; width];
    for (place, &column) in table.columns.iter().enumerate() {
        if change.left_out.contains(&column) {
            mask.insert(place);
        } else if change.operation != Operation::Delete || old_columns.contains(&place) {
            row[place].clone_from(&stored[column]);
        }
    }
    (row, mask)
}

#[async_trait]
impl ChangeStream for LogStream {
    async fn next(&mut self) -> Result<StreamEvent> {
        if self.broken {
            return Err(Error::new(ErrorKind::Retriable, "the stream is broken"));
        }
        let faults = self.faults.clone();
        let pass = faults.enter(Step::StreamNext).await.inspect_err(|_| self.broken = true)?;
        self.fill().await?;
        pass.delay().await;
        // From here on nothing waits: what is taken is returned.
        let event = self.ready.pop_front().ok_or_else(|| Error::bug("a filled stream is empty"))?;
        pass.leave(event).inspect_err(|_| self.broken = true)
    }

    fn acknowledge(&mut self, position: &Position) {
        let mut state = self.database.state();
        let end = state.end;
        let number = position.as_u64().unwrap_or(u64::MAX);
        assert!(number <= end, "acknowledged {number}, beyond the end {end} of the log");
        if let Some(slot) = state.slots.get_mut(&self.pipeline).filter(|slot| slot.identity == self.identity)
        {
            slot.confirmed = slot.confirmed.max(number);
        }
    }

    fn source_end(&self) -> Option<Position> {
        Some(Position::from_u64(self.database.end()))
    }
}
