//! Recovery of tables that have lost changes: each is compared with the source and repaired, while its changes go on.
//!
//! What makes every row right, whoever writes meanwhile:
//!
//! 1. From the place where the stream began anew, each change that carries its whole row makes it right, whatever stood there.
//!    What leaves columns out is not completed from the destination's row, which may be wrong: the row is read again
//!    ([`crate::loader::mending`]). Unique indexes are set aside, so that a row that is still to be deleted is in nobody's way.
//! 2. A row that no change has touched since is at the source as it was then. If the destination's differs, the scan finds it,
//!    looks tell it from what is on its way, and it is read again.
//! 3. Rows read again may be ahead of the lane, so it passes the log's end as it was after them. Then every row is right,
//!    indexes are built, and the mark goes.
//!
//! What is found counts for the guard before the first row is read again. A table that it stops keeps its mark.

use std::sync::Arc;
use std::time::Instant;

use syncline_core::{
    Change, Error, ErrorKind, FinishStep, Lane, Moment, Parts, Reaction, Result, RowKey, TableId, TablePhase,
    TableSchema, failpoint,
};

use super::looks::{Candidate, Looks};
use super::table::{LOOK_EVERY, REPAIRED_TOGETHER, parts_have_changed, reread, scan, scanned};
use super::{PAUSE, Recover, TRIES_MAX, TableVerified, Trouble, ended, keep, pairings};
use crate::attempt::Attempt;
use crate::chunks;
use crate::diff::live::{is_exact, row_keys};
use crate::diff::{Comparison, Pairing};
use crate::loader::closing::next_number;
use crate::loader::mending::Step;

const READ_AGAIN: &str = "run without --recover and with --prepare truncate: it is read again";
const WIDER: &str = "if that much is to be changed, run again with --recover diff and a wider --guard (all=50%, all=off); or \
                     without --recover and with --prepare truncate: it is read again";

/// Recovers the tables that are marked so, one after another. Those that cannot be recovered stop.
pub(super) async fn run(attempt: &Attempt) -> Result<()> {
    let Some(recover) = attempt.context.pipeline.recover.clone() else { return Ok(()) };
    let tables = attempt.tables_in(TablePhase::Recovering);
    // What an earlier attempt has applied is in no window of this one; from here on all of it is visible.
    if tables.is_empty() || !chunks::wait_until_settled(attempt).await? {
        return Ok(());
    }
    let begun = Instant::now();
    let mut reports = Vec::with_capacity(tables.len());
    for table in &tables {
        reports.push(recover_table(attempt, &recover, table).await?);
        attempt.changed.notify_one();
    }
    keep(attempt, ended(begun, reports, None));
    Ok(())
}

/// One table. What breaks off is begun anew a few times.
async fn recover_table(
    attempt: &Attempt,
    recover: &Recover,
    table: &Arc<TableSchema>,
) -> Result<TableVerified> {
    let mut tries = 0;
    loop {
        tries += 1;
        wait_until_back(attempt, &table.id).await;
        let error = match try_to_recover(attempt, recover, table).await {
            Ok(report) => return Ok(report),
            Err(Trouble::Writing(error)) => return Err(error),
            Err(Trouble::Reading(error)) => error,
        };
        if attempt.context.board.is_stopped(&table.id) {
            return Ok(TableVerified::skipped(&table.id, "it has stopped"));
        }
        match error.kind() {
            kind if kind.reaction() == Reaction::Retry && tries < TRIES_MAX => {
                tracing::debug!(%error, table = %table.id, "recovering it again");
                tokio::time::sleep(PAUSE).await;
            }
            ErrorKind::Data | ErrorKind::Configuration | ErrorKind::Permanent | ErrorKind::Guard => {
                attempt.context.board.stop_table(&table.id, &error.with_table(&table.id));
                return Ok(TableVerified::skipped(&table.id, "it has stopped"));
            }
            _ => return Err(error),
        }
    }
}

/// A table that went apart comes back to the main lane first.
async fn wait_until_back(attempt: &Attempt, table: &TableId) {
    let is_over =
        || attempt.context.board.is_stopped(table) || attempt.phase_of(table) != Some(TablePhase::Recovering);
    while !attempt.is_in_main_lane(table) && !is_over() {
        tokio::time::sleep(PAUSE).await;
    }
}

async fn try_to_recover(
    attempt: &Attempt,
    recover: &Recover,
    table: &Arc<TableSchema>,
) -> Result<TableVerified, Trouble> {
    let id = &table.id;
    let pairings = pairings(attempt, &recover.sides, &|other: &TableId| other == id).await?;
    let pairing = pairings.get(id).ok_or_else(|| refused(id, "it went away"))?;
    if !is_exact(pairing, table) {
        let why =
            "its rows cannot be read again one by one: its key is of a type that is written in several ways";
        return Err(refused(id, why).into());
    }
    know_parts(attempt, table).await?;
    let comparison = Comparison::live(
        pairing,
        &recover.sides.source,
        &recover.sides.destination,
        &recover.sides.hash_key,
        recover.sides.readers,
        // A row that moves must not be missed on both sides: no later look would find it.
        Moment::OfTable,
    );
    let looks = Looks { attempt, comparison: &comparison, table, samples_max: 0 };
    let mut report = TableVerified { recovered: true, ..TableVerified::new(id) };
    let wrong = find(&looks, pairing, recover, &mut report).await?;
    report.repaired = report.drift.rows();
    tracing::info!(table = %id, rows = wrong.len(), "rows that the gap has left are read again");
    for some in wrong.chunks(REPAIRED_TOGETHER) {
        reread(&looks, some.to_vec()).await?;
        failpoint::hit("recovery_repaired")?;
    }
    mend(&looks).await?;
    if parts_have_changed(attempt, table).await? {
        return Err(Error::new(ErrorKind::Retriable, "parts of it came or went").into());
    }
    index(&looks).await?;
    failpoint::hit("recovery_indexed")?;
    unmark(&looks).await?;
    Ok(report)
}

/// The rows to be read again: those that differ, and those that changed at every look. Refused by the guard if they are too
/// many.
async fn find(
    looks: &Looks<'_>,
    pairing: &Pairing,
    recover: &Recover,
    report: &mut TableVerified,
) -> Result<Vec<RowKey>, Trouble> {
    let id = &looks.table.id;
    let found = scan(looks).await?;
    scanned(report, &found);
    if let Some(about) = found.too_many {
        let why = format!("about {about} rows differ from the source, too many to be named");
        return Err(guarded(id, &why, READ_AGAIN).into());
    }
    let keys = looks.comparison.keys_of(&found.difference).await?;
    let row_keys = row_keys(&keys, pairing)?;
    if row_keys.len() < keys.len() {
        return Err(refused(id, "it has rows with keys that the source's types cannot hold").into());
    }
    let candidates = row_keys.into_iter().map(|(key, row_key)| Candidate { key, row_key });
    let judged = looks.judge(candidates.collect()).await?;
    let judged = judged.ok_or_else(went_apart)?;
    report.drift = judged.counts();
    report.undecided = judged.undecided.len() as u64;
    let exceeded = recover.guard.judge(&report.drift, report.rows_destination);
    if !exceeded.is_empty() {
        let exceeded: Vec<_> = exceeded.iter().map(ToString::to_string).collect();
        let why = format!("its recovery was stopped by the guard: {}", exceeded.join("; "));
        return Err(guarded(id, &why, WIDER).into());
    }
    let drifted = judged.drift.into_iter().map(|row| row.candidate.row_key);
    Ok(drifted.chain(judged.undecided.into_iter().map(|candidate| candidate.row_key)).collect())
}

/// What the table is made of is known before it is read, and the destination's table has it.
async fn know_parts(attempt: &Attempt, table: &Arc<TableSchema>) -> Result<(), Trouble> {
    let id = &table.id;
    let changes = attempt.parts_now(std::slice::from_ref(id)).await?;
    let known = attempt.table_state(id).map(|state| state.parts).unwrap_or_default();
    let is_new = |change: &Change| !matches!(change, Change::Parts { parts, .. } if *parts == known);
    if known == Parts::default() && changes.is_empty() || !changes.iter().any(is_new) {
        return Ok(());
    }
    attempt.extend(id).await?;
    attempt.commit_changes(Lane::Main, changes).await.map_err(Trouble::Writing)
}

/// The lane passes what was read so far. Whatever is read later is remembered in the ledger, so from then on changes may be
/// completed from the destination's rows.
async fn mend(looks: &Looks<'_>) -> Result<(), Trouble> {
    let number = next_read(looks)?;
    looks.pass_end().await?;
    if looks.attempt.mending.ask(looks.attempt, &looks.table.id, Step::Mend(number)).await? {
        return Ok(());
    }
    Err(went_apart().into())
}

/// Builds indexes. Rows that are ahead of the lane may have unique values that others still have, which the lane frees: it
/// passes the last of them before.
async fn index(looks: &Looks<'_>) -> Result<(), Trouble> {
    loop {
        let number = next_read(looks)?;
        looks.pass_end().await?;
        match looks.attempt.session.finish(looks.table, FinishStep::Indexes).await {
            Err(error) if error.rows_at_fault() && next_read(looks)? != number => {
                tracing::debug!(%error, table = %looks.table.id, "rows were read again meanwhile");
            }
            finished => return Ok(finished?),
        }
    }
}

/// The table is as the source has it, once the lane has passed the last re-read.
async fn unmark(looks: &Looks<'_>) -> Result<(), Trouble> {
    let (attempt, id) = (looks.attempt, &looks.table.id);
    loop {
        let number = next_read(looks)?;
        looks.pass_end().await?;
        if attempt.mending.ask(attempt, id, Step::Unmark(number)).await? {
            attempt.context.board.table_state(id, "streaming");
            return Ok(());
        }
        if !attempt.is_in_main_lane(id) || attempt.phase_of(id) != Some(TablePhase::Recovering) {
            return Err(went_apart().into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn next_read(looks: &Looks<'_>) -> Result<u32, Error> {
    looks.attempt.table_state(&looks.table.id).map(|state| next_number(&state)).ok_or_else(went_apart)
}

fn went_apart() -> Error {
    Error::new(ErrorKind::Retriable, "it left the main lane while it was recovered")
}

fn refused(table: &TableId, why: &str) -> Error {
    Error::new(ErrorKind::Data, format!("it cannot be recovered: {why}"))
        .with_table(table)
        .with_remedy(READ_AGAIN)
}

fn guarded(table: &TableId, why: &str, remedy: &str) -> Error {
    Error::new(ErrorKind::Guard, why).with_table(table).with_remedy(remedy)
}
