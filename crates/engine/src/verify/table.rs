//! The verification of one table: scan both sides, look at what differs, and repair what is drift if that was asked for.
//!
//! A repair puts the row's key on the re-read list: the loader reads it at the source, in order with the stream, and writes
//! or deletes it. What was repaired is looked at once more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use syncline_core::{Change, Error, ErrorKind, Lane, Moment, Result, RowKey, TableSchema};

use crate::attempt::Attempt;
use crate::diff::live::{is_exact, row_keys};
use crate::diff::{Comparison, Found, Pairing, counts};

use super::aside::{self, Aside};
use super::looks::{Candidate, Judged, Looks};
use super::{Ask, TableVerified, Trouble, Verify};

/// Rows repaired before the next ones are listed.
pub(super) const REPAIRED_TOGETHER: usize = 1000;
/// How often it is looked whether listed rows have been read again.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

const WENT_APART: &str = "it left the main lane while it was looked at";

/// Verifies a table.
pub(super) async fn verify(
    attempt: &Attempt,
    verify: &Verify,
    ask: &Ask,
    pairing: &Pairing,
    table: &Arc<TableSchema>,
) -> Result<TableVerified, Trouble> {
    let sides = &verify.sides;
    // In slices: a table that takes an hour to read must not keep its server from cleaning up for so long. A row that is
    // written between two slices may be missed on both sides, and be drift; then the next verification has it.
    let (hash_key, moment) = (&sides.hash_key, Moment::OfChunk);
    let comparison =
        Comparison::live(pairing, &sides.source, &sides.destination, hash_key, sides.readers, moment);
    let looks = Looks { attempt, comparison: &comparison, table, samples_max: ask.samples_max };
    let mut report = TableVerified {
        key: pairing.columns[..pairing.key_columns].iter().map(|column| column.name.clone()).collect(),
        ..TableVerified::new(&table.id)
    };
    if !is_exact(pairing, table) {
        return by_scan(&looks, report, ask).await;
    }
    let found = scan(&looks).await?;
    scanned(&mut report, &found);
    if found.too_many.is_some() {
        return Ok(report);
    }
    let keys = comparison.keys_of(&found.difference).await?;
    let row_keys = row_keys(&keys, pairing)?;
    // A value that is not of its class cannot be asked for; such a row is known from the scan alone.
    let beyond = (keys.len() - row_keys.len()) as u64;
    let candidate = |(key, row_key)| Candidate { key, row_key };
    let Some(judged) = looks.judge(row_keys.into_iter().map(candidate).collect()).await? else {
        return Ok(TableVerified::skipped(&table.id, WENT_APART));
    };
    report.drift = judged.counts();
    report.undecided = judged.undecided.len() as u64 + beyond;
    report.set_aside = judged.set_aside;
    report.samples = comparison.differences(&judged.source, &judged.destination)?;
    if judged.drift.is_empty() {
        return Ok(report);
    }
    if parts_have_changed(attempt, table).await? {
        return Ok(TableVerified::skipped(&table.id, "parts of it came or went; verify again"));
    }
    if let Some(guard) = &ask.repair {
        let exceeded = guard.judge(&report.drift, report.rows_destination);
        if exceeded.is_empty() {
            report.repaired = repair(&looks, judged).await?;
        } else {
            let exceeded: Vec<_> = exceeded.iter().map(ToString::to_string).collect();
            report.refused = Some(format!("stopped by the guard: {}", exceeded.join("; ")));
        }
    }
    Ok(report)
}

pub(super) fn scanned(report: &mut TableVerified, found: &Found) {
    (report.rows_source, report.rows_destination) = (found.left.rows, found.right.rows);
    report.candidates = found.difference.rows();
    report.too_many = found.too_many;
}

/// Scans both sides. A difference too large to name may be lag: it is looked for once more.
pub(super) async fn scan(looks: &Looks<'_>) -> Result<Found> {
    looks.pass_end().await?;
    let found = looks.comparison.find().await?;
    if found.too_many.is_none() {
        return Ok(found);
    }
    looks.pass_end().await?;
    looks.comparison.find().await
}

/// A table whose rows cannot be watched one by one: it has no key, or one that can be written in several ways.
async fn by_scan(looks: &Looks<'_>, mut report: TableVerified, ask: &Ask) -> Result<TableVerified, Trouble> {
    let Some((found, at_rest)) = looks.scan_at_rest().await? else {
        return Ok(TableVerified::skipped(&looks.table.id, WENT_APART));
    };
    scanned(&mut report, &found);
    if !at_rest {
        report.undecided = found.difference.rows() + found.too_many.unwrap_or(0);
        report.too_many = None;
        return Ok(report);
    }
    report.drift = counts(&found.difference);
    aside::leave_out(&mut report, &Aside::of(looks.attempt, looks.table)?);
    if report.left_over() > 0 && parts_have_changed(looks.attempt, looks.table).await? {
        return Ok(TableVerified::skipped(&looks.table.id, "parts of it came or went; verify again"));
    }
    if report.left_over() > 0 {
        report.samples = looks.comparison.samples(&found.difference, ask.samples_max).await?;
    }
    if ask.repair.is_some() && report.left_over() > 0 {
        report.refused = Some("its rows cannot be read again one by one: it has no row key, or one of a type that is written in several ways".to_owned());
    }
    Ok(report)
}

/// Whether rows may have come or gone with a part of the table, without a word in the log, and nobody has noticed yet.
pub(super) async fn parts_have_changed(attempt: &Attempt, table: &TableSchema) -> Result<bool> {
    let Some(state) = attempt.table_state(&table.id).filter(|state| !state.parts.known.is_empty()) else {
        return Ok(false);
    };
    let source = Arc::clone(&attempt.context.pipeline.source);
    let Some(streams) = source.streams() else { return Ok(false) };
    let now = streams.parts(std::slice::from_ref(&table.id)).await?;
    let now: BTreeMap<_, _> = now.into_values().next().unwrap_or_default();
    Ok(!now.keys().eq(state.parts.known.keys()))
}

/// Reads drifted rows again, in order with the stream, and says how many of them are equal now, or on their way.
async fn repair(looks: &Looks<'_>, judged: Judged) -> Result<u64, Trouble> {
    let count = judged.drift.len() as u64;
    let mut candidates: Vec<Candidate> = judged.drift.into_iter().map(|row| row.candidate).collect();
    for some in candidates.chunks(REPAIRED_TOGETHER) {
        let keys: Vec<RowKey> = some.iter().map(|candidate| candidate.row_key.clone()).collect();
        reread(looks, keys).await?;
    }
    let Some(judged) = looks.judge(std::mem::take(&mut candidates)).await? else { return Ok(0) };
    Ok(count - judged.drift.len() as u64)
}

/// Lists rows to be read again, and waits until the loader has done so.
pub(super) async fn reread(looks: &Looks<'_>, keys: Vec<RowKey>) -> Result<(), Trouble> {
    let (attempt, table) = (looks.attempt, &looks.table.id);
    let listed = Change::AddReread { table: table.clone(), keys: keys.clone() };
    attempt.commit_changes(Lane::Main, vec![listed]).await.map_err(Trouble::Writing)?;
    attempt.changed.notify_one();
    loop {
        let listed = attempt.table_state(table).map(|state| state.rereads).unwrap_or_default();
        if !keys.iter().any(|key| listed.contains(key)) {
            return Ok(());
        }
        if !attempt.is_in_main_lane(table) {
            let error = Error::new(ErrorKind::Retriable, "it left the main lane while it was repaired");
            return Err(Trouble::Reading(error.with_table(table)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
