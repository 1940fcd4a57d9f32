//! From messages to entries.
//!
//! An entry holds whole transactions and ends at the end of the last one's commit record. A transaction too large for
//! one entry goes out in *pieces* that do not move the position. Positions compare as the server compares them: a
//! transaction lies at or before a position if its commit record *starts* before it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use syncline_core::{
    ChangeBatch, Entry, Error, ErrorKind, Result, StreamEvent, TableId, TableSchema, Transaction,
};

use super::super::super::lsn::Lsn;
use super::pgoutput::{Begin, Malformed, Message};
use super::relation::{CataloguedTable, Known, Relations};
use super::rows::{Place, Reject, TableRows, split};

/// An entry is closed when it holds this much, at the next commit.
pub(super) const ENTRY_BYTES: usize = 1 << 20;
/// A transaction that holds this much goes out in pieces.
const PIECE_BYTES: usize = 8 << 20;
/// What a change costs beside its values.
const CHANGE_BYTES: usize = 24;
/// Microseconds from 1970 to 2000, where the server's clock begins.
const EPOCH_US: i64 = 946_684_800_000_000;

/// Gathers changes into entries.
pub(super) struct Assembler {
    relations: Relations,
    tables: Vec<Gathered>,
    /// Numbers of the tables that have rows.
    touched: Vec<usize>,
    transactions: Vec<Transaction>,
    open: Option<Open>,
    /// End of the last entry.
    from: u64,
    /// Up to here everything is gathered; `from` plus what is pending.
    to: u64,
    bytes: usize,
    next_ordinal: u64,
    /// Counts transactions, so that a table knows whether its mark is of the open one.
    serial: u64,
    events: VecDeque<StreamEvent>,
}

/// The transaction between its begin and its commit.
struct Open {
    begin: Begin,
    /// It was received before.
    skipped: bool,
    /// Its number in `transactions`, from its first change on.
    number: Option<u32>,
    bytes: usize,
    /// Pieces of it went out, and wait for the entry that closes it.
    in_pieces: bool,
}

struct Gathered {
    rows: TableRows,
    /// The transaction that `committed_rows` is about.
    serial: u64,
    /// Rows of the transactions before it.
    committed_rows: usize,
}

impl Gathered {
    /// Rows of whole transactions, while the transaction `serial` is open.
    fn committed(&self, serial: u64) -> usize {
        if self.serial == serial { self.committed_rows } else { self.rows.len() }
    }
}

impl Assembler {
    /// Gathers what committed after `from`.
    ///
    /// # Errors
    /// A bug if a column has a type that this source never gives.
    pub(super) fn new(
        tables: &[Arc<TableSchema>],
        catalogue: HashMap<TableId, CataloguedTable>,
        from: Lsn,
    ) -> Result<Self> {
        let gathered = |table: &Arc<TableSchema>| {
            let rows = TableRows::new(table.clone())?;
            Ok(Gathered { rows, serial: 0, committed_rows: 0 })
        };
        Ok(Self {
            relations: Relations::new(tables, catalogue),
            tables: tables.iter().map(gathered).collect::<Result<_>>()?,
            touched: Vec::new(),
            transactions: Vec::new(),
            open: None,
            from: from.0,
            to: from.0,
            bytes: 0,
            next_ordinal: 0,
            serial: 0,
            events: VecDeque::new(),
        })
    }

    /// Up to here everything is gathered.
    pub(super) fn end(&self) -> Lsn {
        Lsn(self.to)
    }

    /// Bytes gathered and not yet in an event.
    pub(super) fn pending_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether whole transactions with changes are pending, and nothing else.
    pub(super) fn has_whole_changes(&self) -> bool {
        self.open.is_none() && !self.touched.is_empty()
    }

    /// Whether the position has moved without changes.
    pub(super) fn has_progress(&self) -> bool {
        self.open.is_none() && self.touched.is_empty() && self.to > self.from
    }

    /// The next event.
    pub(super) fn pop(&mut self) -> Option<StreamEvent> {
        self.events.pop_front()
    }

    /// Everything that committed before `at` has been received.
    pub(super) fn seen(&mut self, at: Lsn) {
        if self.open.is_none() {
            self.to = self.to.max(at.0);
        }
    }

    /// Begins with a new connection, on which everything is described anew.
    ///
    /// # Errors
    /// A bug in the middle of a transaction.
    pub(super) fn change_connection(&mut self) -> Result<()> {
        if self.open.is_some() {
            return Err(Error::bug("a connection ended inside a transaction and its changes were kept"));
        }
        self.relations.forget_connection();
        Ok(())
    }

    /// Takes one message.
    ///
    /// # Errors
    /// Permanent if it is malformed or comes at an impossible place.
    pub(super) fn message(&mut self, body: &[u8]) -> Result<()> {
        let size = body.len() + CHANGE_BYTES;
        match Message::parse(body)? {
            Message::Insert { relation, new } => {
                self.change(relation, size, |rows, place| rows.insert(new, place))
            }
            Message::Update { relation, old, new } => {
                self.change(relation, size, |rows, place| rows.update(old, new, place))
            }
            Message::Delete { relation, old } => {
                self.change(relation, size, |rows, place| rows.delete(old, place))
            }
            Message::Begin(begin) => self.begin(begin),
            Message::Commit { end } => self.commit(end),
            Message::Relation(relation) => match self.relations.describe(&relation) {
                Ok(()) => Ok(()),
                Err(unfit) => self.stop(unfit.table, unfit.error),
            },
            Message::Truncate(relations) => {
                relations.iter().try_for_each(|id| self.change(id, size, TableRows::clear))
            }
            Message::Marker { at } => {
                self.seen(Lsn(at));
                Ok(())
            }
            Message::Other => Ok(()),
        }
    }

    fn begin(&mut self, begin: Begin) -> Result<()> {
        if self.open.is_some() {
            return Err(Malformed("a transaction inside another one").into());
        }
        self.serial += 1;
        self.next_ordinal = self.next_ordinal.max(begin.commit_start);
        let skipped = begin.commit_start < self.to;
        self.open = Some(Open { begin, skipped, number: None, bytes: 0, in_pieces: false });
        Ok(())
    }

    fn commit(&mut self, end: u64) -> Result<()> {
        let open = self.open.take().ok_or(Malformed("a commit without a transaction"))?;
        if end <= open.begin.commit_start {
            return Err(Malformed("a commit that ends before it starts").into());
        }
        if open.skipped {
            return Ok(());
        }
        self.to = end;
        if self.bytes >= ENTRY_BYTES || open.in_pieces {
            self.close()?;
        }
        Ok(())
    }

    #[inline]
    fn change(
        &mut self,
        relation: u32,
        size: usize,
        append: impl FnOnce(&mut TableRows, Place) -> Result<(), Reject>,
    ) -> Result<()> {
        let open = self.open.as_mut().ok_or(Malformed("a change outside a transaction"))?;
        if open.skipped {
            return Ok(());
        }
        let known =
            self.relations.get(relation).ok_or(Malformed("a change of a table without a description"))?;
        let Known::Table(index) = known else { return Ok(()) };
        let table = &mut self.tables[index];
        let transaction = match open.number {
            Some(number) => number,
            None => Self::list(&mut self.transactions, open)?,
        };
        if table.serial != self.serial {
            (table.serial, table.committed_rows) = (self.serial, table.rows.len());
        }
        if table.rows.len() == 0 {
            self.touched.push(index);
        }
        self.next_ordinal += 1;
        match append(&mut table.rows, Place { ordinal: self.next_ordinal, transaction }) {
            Ok(()) => {}
            Err(Reject::Malformed(malformed)) => return Err(malformed.into()),
            Err(Reject::Broken(error)) => return Err(error),
            Err(Reject::Value(error)) => {
                let error = error.with_table(&table.rows.table().id);
                return self.stop(index, error);
            }
            Err(Reject::Unfit(why)) => return self.reject(index, why),
        }
        self.bytes += size;
        open.bytes += size;
        if open.bytes >= PIECE_BYTES {
            self.cut()?;
        }
        Ok(())
    }

    fn list(transactions: &mut Vec<Transaction>, open: &mut Open) -> Result<u32> {
        let number = u32::try_from(transactions.len())
            .map_err(|_| Error::bug("an entry has more transactions than can be counted"))?;
        transactions.push(Transaction {
            id: u64::from(open.begin.xid),
            committed_at_us: open.begin.committed_at.saturating_add(EPOCH_US),
        });
        open.number = Some(number);
        Ok(number)
    }

    fn reject(&mut self, table: usize, why: &str) -> Result<()> {
        let id = &self.tables[table].rows.table().id;
        let error = Error::new(ErrorKind::Data, why).with_table(id).with_remedy(
            "give the table a primary key or REPLICA IDENTITY FULL, then run the same command again with --prepare recreate: \
             only tables that have stopped are read again",
        );
        self.stop(table, error)
    }

    /// Lets a table go, for good: the entry before the open transaction ends first, so that the event stands exactly where the
    /// table's changes end.
    fn stop(&mut self, table: usize, error: Error) -> Result<()> {
        self.relations.ignore(table);
        let gathered = &mut self.tables[table];
        let committed = gathered.committed(self.serial);
        gathered.rows.truncate(if self.open.is_some() { committed } else { gathered.rows.len() })?;
        let id = gathered.rows.table().id.clone();
        if gathered.rows.len() == 0 {
            self.touched.retain(|&touched| touched != table);
        }
        if self.open.is_some() {
            self.cut()?;
        } else {
            self.close()?;
        }
        self.events.push_back(StreamEvent::TableStopped { table: id, error });
        Ok(())
    }

    /// Closes the entry of whole transactions that are pending, if there is anything to say.
    ///
    /// # Errors
    /// A bug inside a transaction.
    pub(super) fn close(&mut self) -> Result<()> {
        if self.open.is_some() {
            return Err(Error::bug("an entry is closed inside a transaction"));
        }
        if self.touched.is_empty() && self.to == self.from {
            return Ok(());
        }
        let mut batches = Vec::with_capacity(self.touched.len());
        for index in self.touched.drain(..) {
            batches.push(self.tables[index].rows.finish()?);
        }
        self.push(batches, self.to);
        self.bytes = 0;
        Ok(())
    }

    /// Sends out everything gathered while a transaction is open: whole transactions as an entry, then what has come of
    /// the open one as a piece.
    fn cut(&mut self) -> Result<()> {
        let (mut whole, mut piece) = (Vec::new(), Vec::new());
        for index in self.touched.drain(..) {
            let table = &mut self.tables[index];
            let committed = table.committed(self.serial);
            let (head, tail) = split(table.rows.finish()?, committed);
            whole.extend(Some(head).filter(|batch| !batch.is_empty()));
            piece.extend(Some(tail).filter(|batch| !batch.is_empty()));
            table.committed_rows = 0;
        }
        let open = self.open.as_mut().ok_or_else(|| Error::bug("a piece of no transaction"))?;
        let own = open.number.take().and_then(|_| self.transactions.pop());
        open.bytes = 0;
        open.in_pieces |= !piece.is_empty();
        self.bytes = 0;
        if !whole.is_empty() || self.to > self.from {
            self.push(whole, self.to);
        }
        if !piece.is_empty() {
            self.transactions = own.into_iter().collect();
            self.push(piece, self.from);
        }
        Ok(())
    }

    fn push(&mut self, batches: Vec<ChangeBatch>, to: u64) {
        self.events.push_back(StreamEvent::Entry(Entry {
            from: Lsn(self.from).position(),
            to: Lsn(to).position(),
            transactions: std::mem::take(&mut self.transactions),
            batches,
        }));
        self.from = to;
    }
}

#[cfg(test)]
mod tests;
