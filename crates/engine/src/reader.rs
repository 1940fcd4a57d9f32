//! From the source's stream into the journal, and the acknowledgement back.
//!
//! The source is told it may forget what is durable in the journal, never more. While the journal is full the stream is
//! not read; its connection is kept alive by the connector.

use std::sync::{Arc, PoisonError};

use syncline_core::error::Context as _;
use syncline_core::{ChangeStream, Entry, Error, Result, StreamEvent, TableId, TablePhase};
use syncline_journal::Journal;
use tokio_util::sync::CancellationToken;

use crate::attempt::Attempt;
use crate::opening::stream_request;

/// Reads until `stop`.
pub(crate) async fn read(attempt: Arc<Attempt>, stop: CancellationToken) -> Result<()> {
    let context = &attempt.context;
    let source = Arc::clone(&context.pipeline.source);
    let streams = source.streams().ok_or_else(|| Error::bug("reading a source without a stream"))?;
    let journal = context.open_journal().ok_or_else(|| Error::bug("reading without a journal"))?;
    let from = journal.end().ok_or_else(|| Error::bug("a journal without an end"))?;
    let request = stream_request(context, &attempt.tables);
    let stream = streams.stream(&request, &from, context.target.get()).await;
    let mut stream = stream.doing(|| format!("streaming from {}", source.address()))?;
    // Changes of an open transaction count as read when it closes: broken off, it comes again from its beginning.
    let mut open_changes = 0;
    while let Some(event) = next_event(&attempt, stream.as_mut(), &journal, &stop).await? {
        match event {
            StreamEvent::Entry(entry) => {
                open_changes += entry.changes() as u64;
                let closes = !entry.is_piece();
                if append(stream.as_mut(), &journal, entry, &stop).await? && closes {
                    let changes = std::mem::take(&mut open_changes);
                    attempt.context.board.tally(|sum| sum.read += changes);
                }
            }
            StreamEvent::TableStopped { table, error } => {
                tokio::select! {
                    biased;
                    () = stop_table(&attempt, &table, &error) => {}
                    // Nothing later is appended: the next run meets the same change again.
                    () = stop.cancelled() => break,
                }
            }
        }
    }
    journal.sync().await?;
    stream.acknowledge(&journal.durable().borrow().clone());
    stream.close().await;
    Ok(())
}

async fn next_event(
    attempt: &Attempt,
    stream: &mut dyn ChangeStream,
    journal: &Journal,
    stop: &CancellationToken,
) -> Result<Option<StreamEvent>> {
    let mut durable = journal.durable();
    loop {
        let position = durable.borrow_and_update().clone();
        stream.acknowledge(&position);
        *attempt.context.source_end.lock().unwrap_or_else(PoisonError::into_inner) = stream.source_end();
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(None),
            event = stream.next() => return event.map(Some),
            changed = durable.changed() => changed.map_err(|_| Error::bug("the journal is gone"))?,
        }
    }
}

/// Appends an entry, acknowledging meanwhile: a full journal must not starve the source of its answers. `false` if
/// stopped before.
async fn append(
    stream: &mut dyn ChangeStream,
    journal: &Journal,
    entry: Entry,
    stop: &CancellationToken,
) -> Result<bool> {
    let mut durable = journal.durable();
    let mut appending = std::pin::pin!(journal.append(entry));
    loop {
        tokio::select! {
            biased;
            appended = &mut appending => {
                appended.doing(|| "writing the journal".to_owned())?;
                return Ok(true);
            }
            () = stop.cancelled() => return Ok(false),
            changed = durable.changed() => {
                changed.map_err(|_| Error::bug("the journal is gone"))?;
                let position = durable.borrow_and_update().clone();
                stream.acknowledge(&position);
            }
        }
    }
}

/// No change of this table will come any more. Nothing later is appended until that is durable at the destination:
/// otherwise a crash would forget it, and the table would miss changes silently.
async fn stop_table(attempt: &Attempt, table: &TableId, error: &Error) {
    attempt.context.board.stop_table(table, error);
    attempt.undecodable.lock().unwrap_or_else(PoisonError::into_inner).push(table.clone());
    loop {
        let marked = attempt.marked.notified();
        attempt.changed.notify_one();
        if attempt.table_state(table).is_none_or(|state| state.phase == TablePhase::NeedsSnapshot) {
            return;
        }
        marked.await;
    }
}
