//! Dead letters: rows that the destination refuses are found and set aside, the rest goes on.
//!
//! | module | what it is for |
//! |---|---|
//! | `sift` | which rows of a refused part are at fault, by halving |
//! | `gathered` | rows of a chunk, decoded as far as it takes to offer them one by one |
//! | `care`, `withheld` | a load tried again with more care; rows that refer to others come last |
//! | `lines` | rows that can only be written together, because one takes the other's key |
//! | `desk` | the letters of one table during a load: found, taken up by later changes, set aside; `desk/keyless` without a row key |
//! | `clerk` | the letters of all tables in one load, and how many there may be |
//! | `retry` | letters tried again: at the start of each run, and by command |
//! | `form`, `view` | a letter's change as bytes, and as a person reads it |
//!
//! # What a letter is
//! A line of a collapse ([`crate::collapse`]): one row, with where it still is at the destination. The destination's rows and
//! all letters together are the source's state at the table's position. A later change of one of its keys takes the letter
//! up again: it becomes part of that load's collapse, before the change. If the change carries the whole row, what comes of
//! both is written like any other row; else it waits on as the same letter. A delete or a truncate leaves nothing of it.
//!
//! # What fails only together
//! Rows that hand keys on to each other are one group, written or set aside together. Rows that exchange unique values, of
//! which only the destination knows, may be taken apart by halving; what was refused is therefore tried again when everything
//! else is written, alone and in pairs. Larger rings that are taken apart stay letters until the next run.
//!
//! # Rows that refer to others
//! Where the destination checks foreign keys, that is done by the commit: the row that another refers to may come later in the
//! same load. If the commit is refused, the rows of the table that is named come last in the next try, and are offered with the
//! check. What is still in the way is not theirs: then the table stops. Letters are tried again with the check, over all tables
//! until nothing more can be written, so that rows come after those they refer to.
//!
//! # Rows that are read
//! A row of a chunk that is refused is a letter of the chunk's commit, beside its ledger entry: for whatever comes later it stands
//! for the row. The ledger says which changes the chunk saw, and those do not concern its letters. A row that is read again
//! takes the place of its letters, as a change that carries the whole row does.

pub(crate) mod care;
pub(crate) mod clerk;
pub(crate) mod desk;
mod form;
pub(crate) mod gathered;
pub(crate) mod lines;
pub(crate) mod retry;
pub(crate) mod sift;
mod view;
pub(crate) mod withheld;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use syncline_core::{Error, ErrorKind, LetterId, Load, Part, Result, TableId};

pub use retry::{RetryOutcome, discard_letters, retry_letters};
pub(crate) use view::values;
pub use view::{LetterValue, LetterView, view};

use crate::collapse::Collapse;
use desk::Desk;
use sift::Refusal;

/// Bytes that all letters of a pipeline may have.
pub(crate) const LETTERS_BYTES_MAX: usize = 64 << 20;
/// Refused groups of which pairs are tried.
const PAIRED_MAX: usize = 16;

/// Now, in milliseconds since 1970 UTC.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Tries what this load refused again, after everything else is written: what stood in its way may be gone. Returns the rows
/// that are written.
///
/// # Errors
/// As [`syncline_core::Load::offer`].
async fn reconsider(load: &mut dyn Load, desk: &mut Desk) -> Result<u64> {
    let mut written = 0;
    // Each round but the last writes a group.
    loop {
        let groups = desk.refused_groups();
        let mut loaded = 0;
        for ids in &groups {
            if offer(load, desk, ids).await?.is_none() {
                loaded += ids.len() as u64;
            }
        }
        if loaded == 0 && groups.len() <= PAIRED_MAX {
            loaded = offer_a_pair(load, desk, &groups).await?;
        }
        if loaded == 0 {
            return Ok(written);
        }
        written += loaded;
    }
}

/// As [`reconsider`], for several tables: rows of one may refer to those of another.
///
/// # Errors
/// As [`reconsider`].
pub(crate) async fn reconsider_all(load: &mut dyn Load, desks: &mut BTreeMap<TableId, Desk>) -> Result<u64> {
    let mut written = 0;
    loop {
        let mut more = 0;
        for desk in desks.values_mut() {
            more += reconsider(load, desk).await?;
        }
        written += more;
        if more == 0 || desks.len() == 1 {
            return Ok(written);
        }
    }
}

async fn offer_a_pair(load: &mut dyn Load, desk: &mut Desk, groups: &[BTreeSet<LetterId>]) -> Result<u64> {
    for (n, one) in groups.iter().enumerate() {
        for other in &groups[n + 1..] {
            let both = one | other;
            if offer(load, desk, &both).await?.is_none() {
                return Ok(both.len() as u64);
            }
        }
    }
    Ok(0)
}

/// Offers letters together. Taken, they leave the desk.
async fn offer(load: &mut dyn Load, desk: &mut Desk, ids: &BTreeSet<LetterId>) -> Result<Option<Refusal>> {
    let rows = desk.rows(ids);
    let Some((_, first)) = rows.first() else { return Ok(None) };
    let mut collapse = Collapse::new(first.table.clone());
    collapse.seed(rows)?;
    collapse.release();
    if let Some(lines) = collapse.finish()?.batch
        && let Some(error) = load.offer(Part::Changes(lines.batch)).await?
    {
        return Ok(Some(Refusal::of(&error)));
    }
    desk.take(ids.clone());
    Ok(None)
}

/// More rows would be set aside than may be.
pub(crate) fn too_many(table: &TableId, max: usize, reason: Option<&str>) -> Error {
    let why = reason.map(|reason| format!("; the last one: {reason}")).unwrap_or_default();
    Error::new(ErrorKind::DeadLetters, format!("the destination refuses more than {max} rows{why}"))
        .with_table(table)
        .with_remedy(
            "make the destination take the rows, or raise --dead-letters-max (0: the table stops instead), then run \
             again: nothing of this load was written",
        )
}

/// The rows of the letters are larger than may be.
pub(crate) fn too_large(table: &TableId) -> Error {
    let max = LETTERS_BYTES_MAX >> 20;
    Error::new(
        ErrorKind::DeadLetters,
        format!("the rows that the destination refuses are larger than {max} MiB"),
    )
    .with_table(table)
    .with_remedy("make the destination take the rows, then run again: nothing of this load was written")
}
