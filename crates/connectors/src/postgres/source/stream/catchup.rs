//! Far behind, the slot is read by SQL: the same messages, three times faster, for the walsender pays one socket write
//! per message.
//!
//! A chunk of the log is *peeked*, which confirms nothing; when all of it is acknowledged, the slot is advanced to exactly
//! the position up to which was peeked. That position is read before the peek and lies within the flushed log: a peek ends
//! where the log ends, and an advance beyond that would skip what was never read. A crash in between costs nothing: what
//! comes again is known by its position.

use std::time::Duration;

use syncline_core::{ErrorKind, Result, failpoint};

use super::super::super::lsn::Lsn;
use super::super::super::quote;
use super::pump::{Pump, Room, closed};
use super::slot::{self, SlotState, Subscription};
use super::startup::BusySlot;
use super::wire::{Wire, malformed, server_error, unexpected};

/// Further behind than this is far.
const FAR_BYTES: u64 = 16 << 20;
/// The server decodes from the slot's restart position for every chunk, so smaller chunks cost more than they bring.
const CHUNK_BYTES: u64 = 256 << 20;
/// A long open transaction pins the restart position. Beyond this, decoding again costs more than the walsender.
const DECODED_BYTES_MAX: u64 = 2 * CHUNK_BYTES;
/// The server sends nothing before it has decoded a chunk, but not for this long.
const SILENCE_MAX: Duration = Duration::from_secs(15 * 60);

/// Where the next chunk ends, if one is worth it for a stream that stands at `at`.
pub(super) fn next_chunk(state: &SlotState, at: Lsn) -> Option<Lsn> {
    let begin = state.confirmed.0.max(at.0);
    let behind = state.flushed.0.saturating_sub(begin);
    let chunk = failpoint::size("peek_bytes", CHUNK_BYTES);
    let upto = state.flushed.0.min(begin.saturating_add(chunk));
    let decoded = upto.saturating_sub(state.restart.0);
    (behind > failpoint::size("far_bytes", FAR_BYTES) && decoded <= DECODED_BYTES_MAX).then_some(Lsn(upto))
}

/// Reads chunks until the end of the log is near. The slot is free afterwards.
///
/// # Errors
/// As any read; cancelled if the consumer is gone.
pub(super) async fn run(mut sql: Wire, subscription: &Subscription, pump: &mut Pump) -> Result<()> {
    // A server that is sending to nobody lets go of the slot.
    let watch = "SET client_connection_check_interval = '1s'";
    if let Err(error) = sql.query(watch).await {
        tracing::debug!(error = %error, "the server cannot watch for a lost connection while it decodes");
    }
    loop {
        let state = slot::state(&mut sql, subscription).await?;
        pump.handover().heard(state.flushed);
        let Some(upto) = next_chunk(&state, pump.end()) else { break };
        peek(&mut sql, subscription, upto, pump).await?;
        pump.seen(upto);
        pump.deliver_all()?;
        pump.acknowledged().await?;
        slot::advance(&mut sql, subscription, upto)
            .await
            .map_err(|error| error.context("advancing the slot"))?;
        failpoint::hit("slot_advanced")?;
        if pump.handover().is_closed() {
            return Err(closed());
        }
    }
    sql.terminate().await;
    pump.change_connection()?;
    failpoint::hit("change_over")
}

async fn peek(sql: &mut Wire, subscription: &Subscription, upto: Lsn, pump: &mut Pump) -> Result<()> {
    pump.change_connection()?;
    let statement = peek_statement(subscription, upto);
    let mut busy = BusySlot::new();
    while let Err(error) = sql.start_copy(&statement, b'H').await {
        busy.or_wait(error.context("peeking at the slot")).await?;
    }
    let mut copy = CopyRows::new();
    loop {
        match take_rows(sql, &mut copy, pump)? {
            Taken::Everything => break,
            Taken::UntilFull => pump.consumer_moved().await?,
            Taken::UntilEmpty => {
                pump.deliver()?;
                wait_for_bytes(sql, pump).await?;
            }
        }
    }
    copy.check_ended()?;
    sql.finish_statement().await
}

async fn wait_for_bytes(sql: &mut Wire, pump: &Pump) -> Result<()> {
    tokio::select! {
        filled = sql.fill() => filled,
        // Somebody waits who did not when the last entry might have been closed.
        moved = pump.consumer_moved() => moved,
        () = pump.handover().closed() => Err(closed()),
        () = tokio::time::sleep(SILENCE_MAX) => {
            Err(syncline_core::Error::new(ErrorKind::Retriable, "the source does not answer any more"))
        }
    }
}

fn peek_statement(subscription: &Subscription, upto: Lsn) -> String {
    let options = subscription.options();
    let options: Vec<_> =
        options.iter().flat_map(|(name, value)| [*name, value.as_str()]).map(quote::literal).collect();
    format!(
        "COPY (SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes({}, '{upto}', NULL, {})) TO STDOUT (FORMAT binary)",
        quote::literal(&subscription.name),
        options.join(", ")
    )
}

/// How far the buffered messages were taken.
enum Taken {
    UntilEmpty,
    UntilFull,
    Everything,
}

fn take_rows(sql: &mut Wire, copy: &mut CopyRows, pump: &mut Pump) -> Result<Taken> {
    while let Some(frame) = sql.frame()? {
        match frame.tag {
            b'd' => {
                let mut room = Room::Left;
                copy.rows(frame.body, |message| {
                    room = pump.message(message)?;
                    Ok(())
                })?;
                if room == Room::None {
                    return Ok(Taken::UntilFull);
                }
            }
            b'c' => return Ok(Taken::Everything),
            b'E' => return Err(server_error(frame.body)),
            b'N' => slot::check_warning(frame.body)?,
            b'S' => {}
            other => return Err(unexpected(other)),
        }
    }
    Ok(Taken::UntilEmpty)
}

/// `COPY … (FORMAT binary)` of one column. The server sends every row in a message of its own, the header before the
/// first one and the trailer after the last.
struct CopyRows {
    begun: bool,
    ended: bool,
}

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const BROKEN: &str = "a broken COPY row";

impl CopyRows {
    fn new() -> Self {
        Self { begun: false, ended: false }
    }

    fn rows(&mut self, body: &[u8], mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut rest = body;
        if !self.begun {
            rest = after_header(rest).ok_or_else(|| malformed("a broken COPY header"))?;
            self.begun = true;
        }
        while !rest.is_empty() {
            let (count, after) = rest.split_first_chunk().ok_or_else(|| malformed(BROKEN))?;
            if i16::from_be_bytes(*count) == -1 && after.is_empty() && !self.ended {
                self.ended = true;
                return Ok(());
            }
            let (length, after) = after.split_first_chunk().ok_or_else(|| malformed(BROKEN))?;
            let value = after.split_at_checked(u32::from_be_bytes(*length) as usize);
            let (value, after) = value.ok_or_else(|| malformed(BROKEN))?;
            if i16::from_be_bytes(*count) != 1 || self.ended {
                return Err(malformed(BROKEN));
            }
            take(value)?;
            rest = after;
        }
        Ok(())
    }

    fn check_ended(&self) -> Result<()> {
        if self.ended { Ok(()) } else { Err(malformed("a COPY without an end")) }
    }
}

fn after_header(body: &[u8]) -> Option<&[u8]> {
    let (_flags, rest) = body.strip_prefix(SIGNATURE)?.split_first_chunk::<4>()?;
    let (extension, rest) = rest.split_first_chunk()?;
    rest.get(u32::from_be_bytes(*extension) as usize..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1 << 20;

    fn state(flushed: u64, confirmed: u64, restart: u64) -> SlotState {
        SlotState { flushed: Lsn(flushed * MB), confirmed: Lsn(confirmed * MB), restart: Lsn(restart * MB) }
    }

    #[test]
    fn chunks_are_bounded_and_only_taken_far_from_the_end() {
        assert_eq!(next_chunk(&state(116, 100, 100), Lsn(0)), None);
        assert_eq!(next_chunk(&state(117, 100, 100), Lsn(0)), Some(Lsn(117 * MB)));
        assert_eq!(next_chunk(&state(117, 100, 100), Lsn(110 * MB)), None);
        assert_eq!(next_chunk(&state(1000, 100, 100), Lsn(0)), Some(Lsn(356 * MB)));
        // A long open transaction pins the restart position.
        assert_eq!(next_chunk(&state(1000, 400, 100), Lsn(0)), None);
        assert_eq!(next_chunk(&state(612, 400, 100), Lsn(0)), Some(Lsn(612 * MB)));
    }

    fn rows(bodies: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        let (mut copy, mut taken) = (CopyRows::new(), Vec::new());
        for body in bodies {
            copy.rows(body, |row| {
                taken.push(row.to_vec());
                Ok(())
            })?;
        }
        copy.check_ended().map(|()| taken)
    }

    #[test]
    fn rows_of_a_binary_copy() {
        let header = [SIGNATURE, &[0; 8]].concat();
        let first = [&header[..], b"\0\x01\0\0\0\x02ab"].concat();
        assert_eq!(rows(&[&first, b"\0\x01\0\0\0\0", b"\xff\xff"]).unwrap(), [b"ab".to_vec(), vec![]]);
        assert_eq!(rows(&[&header, b"\xff\xff"]).unwrap(), Vec::<Vec<u8>>::new());
        assert!(rows(&[&first]).is_err());
        assert!(rows(&[&first, b"\0\x01\xff\xff\xff\xff", b"\xff\xff"]).is_err());
        assert!(rows(&[&first, b"\xff\xff", b"\0\x01\0\0\0\0"]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = rows(&[&bytes]);
            let header = [SIGNATURE, &[0; 8]].concat();
            let _ = rows(&[&header, &bytes]);
        }
    }
}
