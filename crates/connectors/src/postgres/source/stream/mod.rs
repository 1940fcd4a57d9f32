//! The change stream of a PostgreSQL source.
//!
//! # Progress
//! Positions are ends of commit records. An entry covers whole transactions; keepalives, and logical messages of anybody,
//! move the position where nothing was changed.
//!
//! # Resumption
//! The stream begins after any position at or after the slot's confirmed one. Transactions that lie before it and come
//! again, by either way of reading, are dropped by their position. Only what is acknowledged is ever confirmed.
//!
//! # Ways of reading
//! Far behind, chunks of the log are peeked by SQL ([`catchup`]); near the end a walsender sends ([`walsender`]). Both feed
//! the same decoder ([`pgoutput`], [`relation`], [`rows`], [`assemble`]) through one [`pump`]; the change from one to the
//! other happens inside, once.
//!
//! # Errors
//! A lost connection is retriable, a slot that is gone a conflict, a table that is not as it was known a
//! [`TableStopped`](syncline_core::StreamEvent::TableStopped) while the others go on.

mod assemble;
mod catchup;
mod column;
mod handover;
mod nudge;
mod pgoutput;
mod pump;
mod relation;
mod rows;
#[cfg(test)]
mod samples;
mod slot;
mod startup;
#[cfg(test)]
mod tests;
mod walsender;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use syncline_core::{ChangeStream, Error, Position, Result, StreamEvent, StreamRequest};
use tokio::task::JoinHandle;

use super::super::lsn::Lsn;
use super::super::url::Address;
use assemble::Assembler;
use handover::Handover;
use nudge::Nudge;
use pump::{Pump, Target};
use slot::{PageSizes, SlotState, Subscription};
use startup::Purpose;
use walsender::Walsender;
use wire::Wire;

/// After the consumer is gone, time for an orderly end.
const END_MAX: Duration = Duration::from_secs(3);

/// Streams what committed after `from`; see [`syncline_core::Streams::stream`].
///
/// # Errors
/// Configuration, retriable or conflict, as on the trait.
pub(super) async fn open(
    address: &Address,
    request: &StreamRequest,
    from: &Position,
    target: Option<&Position>,
) -> Result<Box<dyn ChangeStream>> {
    let from = Lsn::of(from)?;
    let target = target.map(Lsn::of).transpose()?;
    let subscription = Subscription::new(&request.pipeline, super::stream_is_binary(&request.tables));
    let mut sql = startup::connect(address, Purpose::Sql).await?;
    let state = slot::state(&mut sql, &subscription).await?;
    let sizes = PageSizes::read(&mut sql).await?;
    check_position(from, &state, sizes)?;
    let catalogue = slot::catalogue(&mut sql, &request.tables).await?;
    let assembler = Assembler::new(&request.tables, catalogue, from)?;
    let handover = Arc::new(Handover::new(state.confirmed));
    handover.heard(state.flushed);
    let pump = Pump::new(assembler, handover.clone(), target.map(|target| Target::new(target, sizes)));
    let way = match catchup::next_chunk(&state, from) {
        Some(_) => Way::Peeks(sql),
        None => {
            sql.terminate().await;
            Way::Walsender(walsender::start(address, &subscription, from).await?)
        }
    };
    let reader = Reader { address: address.clone(), subscription, pump };
    let task = tokio::spawn(reader.run(way));
    Ok(Box::new(PgStream { handover, task: Some(task) }))
}

/// A stream that begins before what the slot still has would skip changes in silence; one that begins after the end of
/// the log stands on another log.
fn check_position(from: Lsn, state: &SlotState, sizes: PageSizes) -> Result<()> {
    if from < state.confirmed {
        let message = format!(
            "the stream is to begin at {from}, but the source was told that it may forget everything up to {}",
            state.confirmed
        );
        return Err(Error::conflict(message).with_changes_missing());
    }
    if sizes.before_header(from) > state.flushed {
        let message = format!(
            "the stream is to begin at {from}, but the source's log ends at {}: it was restored or failed over",
            state.flushed
        );
        return Err(Error::conflict(message).with_changes_missing());
    }
    Ok(())
}

/// How reading begins.
enum Way {
    Peeks(Wire),
    Walsender(Walsender),
}

/// The task that owns the connection. It ends by itself soon after the stream is dropped.
struct Reader {
    address: Address,
    subscription: Subscription,
    pump: Pump,
}

impl Reader {
    async fn run(mut self, way: Way) {
        let handover = self.pump.share_handover();
        let _end = EndGuard(handover.clone());
        let abandoned = async {
            handover.closed().await;
            tokio::time::sleep(END_MAX).await;
        };
        let outcome = tokio::select! {
            outcome = Box::pin(self.read(way)) => outcome,
            () = abandoned => return,
        };
        handover.end(outcome.err());
    }

    async fn read(&mut self, way: Way) -> Result<()> {
        let walsender = match way {
            Way::Walsender(walsender) => walsender,
            Way::Peeks(sql) => {
                catchup::run(sql, &self.subscription, &mut self.pump).await?;
                walsender::start(&self.address, &self.subscription, self.pump.end()).await?
            }
        };
        let mut nudge = Nudge::new(&self.address);
        walsender.run(&mut self.pump, &mut nudge).await
    }
}

/// Ends the stream also when the task panics or its runtime goes away: nobody waits for ever.
struct EndGuard(Arc<Handover>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.end(Some(Error::bug("the task that reads the stream ended unexpectedly")));
    }
}

/// The consumer's side. Dropping it ends the reader.
struct PgStream {
    handover: Arc<Handover>,
    /// The reader's task, until it is joined.
    task: Option<JoinHandle<()>>,
}

#[async_trait]
impl ChangeStream for PgStream {
    async fn next(&mut self) -> Result<StreamEvent> {
        self.handover.take().await
    }

    fn acknowledge(&mut self, position: &Position) {
        // A position of another source cannot come here: it would have been refused when the stream was opened.
        if let Some(position) = position.as_u64() {
            self.handover.acknowledge(Lsn(position));
        }
    }

    fn source_end(&self) -> Option<Position> {
        Some(self.handover.source_end()).filter(|end| end.0 > 0).map(Lsn::position)
    }

    async fn close(&mut self) {
        self.handover.close();
        if let Some(task) = self.task.take() {
            // It ends by itself within its bound; how it ended was said by `next`.
            let _ = task.await;
        }
    }
}

impl Drop for PgStream {
    fn drop(&mut self) {
        self.handover.close();
    }
}
