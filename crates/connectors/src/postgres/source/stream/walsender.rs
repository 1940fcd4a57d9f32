//! Near the end of the log, a walsender: lowest latency.
//!
//! One task owns the connection. It reads while there is room, answers keepalives at once, and reports what is
//! acknowledged, and never more, every second, also while nobody takes what it reads.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postgres_protocol::message::frontend;
use syncline_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::super::super::lsn::Lsn;
use super::super::super::quote;
use super::super::super::url::Address;
use super::nudge::Nudge;
use super::pump::{Pump, Room, closed};
use super::slot::{self, Subscription};
use super::startup::{self, BusySlot, Purpose};
use super::wire::{Reply, Wire, malformed, server_error, status_update, unexpected};

/// The server hears from us this often, whatever happens.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// What was acknowledged is reported after this.
const ACKNOWLEDGE_DELAY: Duration = Duration::from_millis(100);
/// After so long without a byte the server is asked whether it is there…
const SILENCE_ASK: Duration = Duration::from_secs(10);
/// …and after so long it is not. Long, for a server decoding a large transaction of others may not answer meanwhile.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// While nobody is in a hurry, the reader lets bytes gather for so long after each read: the server writes every message
/// by itself, and to be woken for each one costs more than to decode it.
const REST: Duration = Duration::from_millis(1);
/// For the orderly end: last status, end of copy, free slot.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
/// Where the server's clock begins, in seconds since 1970.
const EPOCH_S: u64 = 946_684_800;

/// A replication connection that is streaming.
pub(super) struct Walsender {
    wire: Wire,
    reported: Lsn,
    reported_at: Instant,
    heard_at: Instant,
    reply_wanted: bool,
    /// Something was read since the reader rested.
    may_rest: bool,
}

/// Begins to stream after `from`.
///
/// # Errors
/// Retriable if the slot stays in use; a conflict if it is gone.
pub(super) async fn start(address: &Address, subscription: &Subscription, from: Lsn) -> Result<Walsender> {
    let mut wire = startup::connect(address, Purpose::Replication).await?;
    let statement = start_statement(subscription, from);
    let mut busy = BusySlot::new();
    while let Err(error) = wire.start_copy(&statement, b'W').await {
        busy.or_wait(lost_slot(error).context("starting replication")).await?;
    }
    let now = Instant::now();
    Ok(Walsender {
        wire,
        reported: Lsn(0),
        reported_at: now,
        heard_at: now,
        reply_wanted: true,
        may_rest: false,
    })
}

fn start_statement(subscription: &Subscription, from: Lsn) -> String {
    let option = |(name, value): (&str, String)| format!("{} {}", quote::ident(name), quote::literal(&value));
    let options: Vec<_> = subscription.options().into_iter().map(option).collect();
    let slot = quote::ident(&subscription.name);
    format!("START_REPLICATION SLOT {slot} LOGICAL {from} ({})", options.join(", "))
}

/// Slot or publication vanished, or the slot lost its log, while we were on the way.
fn lost_slot(error: Error) -> Error {
    match error.code() {
        Some("42704" | "55000") => slot::gone("slot or publication is gone").with_source(error),
        _ => error,
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::Retriable, "the source ended the stream")
}

/// How far the buffered messages were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    UntilEmpty,
    UntilFull,
}

impl Walsender {
    /// Streams until something fails or the consumer is gone.
    ///
    /// # Errors
    /// Always: why it ended.
    pub(super) async fn run(mut self, pump: &mut Pump, nudge: &mut Nudge<'_>) -> Result<()> {
        let ended = self.stream(pump, nudge).await;
        if pump.handover().is_closed() {
            let acknowledged = pump.handover().acknowledged();
            // The slot's next user only waits a little longer if this fails.
            let _ = tokio::time::timeout(FAREWELL_MAX, self.farewell(acknowledged)).await;
        }
        ended
    }

    async fn stream(&mut self, pump: &mut Pump, nudge: &mut Nudge<'_>) -> Result<()> {
        loop {
            let mut taken = self.take_buffered(pump)?;
            while taken == Taken::UntilEmpty && pump.would_take_more() && self.wire.fill_now()? {
                self.heard_at = Instant::now();
                taken = self.take_buffered(pump)?;
            }
            pump.deliver()?;
            self.report(pump, taken).await?;
            nudge.if_stuck(pump).await;
            self.wait(pump, taken).await?;
        }
    }

    /// Waits for bytes if there is room and none should gather first, and in any case for the consumer and the clock.
    async fn wait(&mut self, pump: &Pump, taken: Taken) -> Result<()> {
        let due = self.reported_at + self.interval(pump.handover().acknowledged());
        let rest = self.rests_until(pump);
        let reads = taken == Taken::UntilEmpty && rest.is_none();
        tokio::select! {
            filled = self.wire.fill(), if reads => {
                filled?;
                self.heard_at = Instant::now();
                self.may_rest = true;
            }
            moved = pump.consumer_moved() => moved?,
            () = pump.handover().closed() => return Err(closed()),
            () = tokio::time::sleep_until(rest.unwrap_or(due).min(due)) => {}
        }
        if taken == Taken::UntilFull {
            self.heard_at = Instant::now();
        }
        Ok(())
    }

    fn rests_until(&mut self, pump: &Pump) -> Option<Instant> {
        if let Some(end) = pump.paced_until() {
            return Some(end);
        }
        // Once per read, so that an idle connection is waited for and not looked at.
        let rests = pump.is_unhurried() && std::mem::take(&mut self.may_rest);
        rests.then(|| Instant::now() + REST)
    }

    fn interval(&self, acknowledged: Lsn) -> Duration {
        if acknowledged > self.reported { ACKNOWLEDGE_DELAY } else { STATUS_INTERVAL }
    }

    fn take_buffered(&mut self, pump: &mut Pump) -> Result<Taken> {
        while pump.room() == Room::Left {
            let mut room = Room::Left;
            while room == Room::Left {
                let Some(frame) = self.wire.frame()? else { return Ok(Taken::UntilEmpty) };
                match frame.tag {
                    b'd' => match copy_data(frame.body)? {
                        CopyData::Change(message) => room = pump.message(message)?,
                        CopyData::Keepalive { end, reply_wanted } => {
                            self.reply_wanted |= reply_wanted;
                            pump.handover().heard(end);
                            pump.seen(end);
                        }
                    },
                    b'E' => return Err(lost_slot(server_error(frame.body))),
                    // A server that shuts down completes the statement without ending the copy.
                    b'c' | b'C' => return Err(ended()),
                    b'N' => slot::check_warning(frame.body)?,
                    b'S' => {}
                    other => return Err(unexpected(other)),
                }
            }
        }
        Ok(Taken::UntilFull)
    }

    /// Sends a status if one is due.
    async fn report(&mut self, pump: &Pump, taken: Taken) -> Result<()> {
        let acknowledged = pump.handover().acknowledged();
        let due = self.reported_at.elapsed() >= self.interval(acknowledged);
        if !due && !self.reply_wanted {
            return Ok(());
        }
        let silent = self.heard_at.elapsed();
        if taken == Taken::UntilEmpty && silent >= SILENCE_MAX {
            return Err(Error::new(ErrorKind::Retriable, "the source does not answer any more"));
        }
        let reply = if silent >= SILENCE_ASK { Reply::Wanted } else { Reply::Unneeded };
        self.send_status(acknowledged, reply).await
    }

    async fn send_status(&mut self, acknowledged: Lsn, reply: Reply) -> Result<()> {
        self.wire.send_copy_data(&status_update(acknowledged.0, server_clock_us(), reply)).await?;
        (self.reported, self.reported_at) = (acknowledged, Instant::now());
        self.reply_wanted = false;
        Ok(())
    }

    async fn farewell(mut self, acknowledged: Lsn) -> Result<()> {
        self.send_status(acknowledged, Reply::Unneeded).await?;
        self.wire
            .send(|out| {
                frontend::copy_done(out);
                Ok(())
            })
            .await?;
        self.wire.finish_statement().await?;
        self.wire.terminate().await;
        Ok(())
    }
}

/// What comes inside copy data.
enum CopyData<'a> {
    Change(&'a [u8]),
    Keepalive { end: Lsn, reply_wanted: bool },
}

/// Kind, start, end, clock: the head of a change.
const CHANGE_HEAD: usize = 1 + 8 + 8 + 8;

#[inline]
fn copy_data(body: &[u8]) -> Result<CopyData<'_>> {
    match body.first() {
        Some(b'w') => {
            let message = body.get(CHANGE_HEAD..).ok_or_else(|| malformed("a broken change"))?;
            Ok(CopyData::Change(message))
        }
        Some(b'k') => {
            let [_, end @ .., reply] =
                body.first_chunk::<18>().ok_or_else(|| malformed("a broken keepalive"))?;
            let end = end.first_chunk().ok_or_else(|| malformed("a broken keepalive"))?;
            Ok(CopyData::Keepalive { end: Lsn(u64::from_be_bytes(*end)), reply_wanted: *reply != 0 })
        }
        _ => Err(malformed("copy data of an unknown kind")),
    }
}

/// Microseconds since 2000; the server only shows it.
fn server_clock_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(EPOCH_S));
    since.ok().and_then(|since| i64::try_from(since.as_micros()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use syncline_core::PipelineName;

    use super::*;

    #[test]
    fn names_are_quoted_where_they_are_lists() {
        let subscription = Subscription::new(&PipelineName::new("shop").unwrap(), true);
        assert_eq!(
            start_statement(&subscription, Lsn(0x16_B374_D848)),
            "START_REPLICATION SLOT \"syncline_shop\" LOGICAL 16/B374D848 (\"proto_version\" '2', \
             \"publication_names\" '\"syncline_shop\"', \"messages\" 'true', \"binary\" 'true')"
        );
    }

    #[test]
    fn cut_copy_data_is_refused() {
        let keepalive = [&b"k"[..], &7_u64.to_be_bytes(), &[0; 8], &[1]].concat();
        assert!(matches!(copy_data(&keepalive), Ok(CopyData::Keepalive { end: Lsn(7), reply_wanted: true })));
        for length in 0..keepalive.len() {
            assert!(copy_data(&keepalive[..length]).is_err());
        }
        assert!(copy_data(&[b'w'; 24]).is_err());
        assert!(matches!(copy_data(&[b'w'; 26]), Ok(CopyData::Change(b"w"))));
    }
}
