//! Verifying a pipeline while it streams: both sides are scanned, and what differs is looked at until it is known whether
//! it is drift or only on its way.
//!
//! ```text
//! scan of both sides ──▶ rows that may differ ──▶ looks ──▶ drift ──▶ re-read list ──▶ loader
//!                        (most of them: lag)       ▲ watch: what the loader touches
//! ```
//!
//! | module | what it is for |
//! |---|---|
//! | `asks` | asking a pipeline that runs |
//! | `watch` | which rows the loader touches, and how far it has come |
//! | `looks` | when a difference counts, and why |
//! | `aside` | what dead letters make differ where rows have no key to go by |
//! | `table` | one table from scan to repair |
//! | `recovery` | tables that have lost changes |
//! | `report` | what was found |
//!
//! A verification is a task of an attempt, beside the loader. It reads through connectors of its own, so that nothing it
//! holds is the pipeline's, and writes nothing but the re-read list.

mod aside;
mod asks;
mod looks;
mod recovery;
mod report;
mod table;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use syncline_core::error::Context as _;
use syncline_core::{
    Error, ErrorKind, Reaction, Result, Source, TableId, TablePattern, TablePhase, TableSchema,
};
use tokio_util::sync::CancellationToken;

use crate::attempt::Attempt;
use crate::chunks;
use crate::diff::sketches::HashKey;
use crate::diff::{self, Guard, Pairing};

pub use asks::Asks;
pub use report::{TableVerified, Verified};
pub(crate) use watch::Watch;

/// How often a table is begun anew whose read broke off (its snapshot was lost, a connection broke).
const TRIES_MAX: u32 = 3;
/// Between two tries, and between two looks whether the tables are there yet.
const PAUSE: Duration = Duration::from_millis(200);

/// When a pipeline verifies itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Once, before the run ends.
    Once,
    /// Again and again while it follows: so long after it began, and after the end of each; and when asked.
    Every(Duration),
    /// While it follows, when asked.
    Asked,
}

/// What is asked of a verification.
#[derive(Clone)]
pub struct Ask {
    /// Tables to verify; none: all.
    pub tables: Vec<TablePattern>,
    /// Whether drift is repaired, as far as the guard lets it; it is asked before the first row of a table.
    pub repair: Option<Guard>,
    /// Drifted rows of a table that are reported with their values.
    pub samples_max: usize,
}

/// A verification that a pipeline makes of itself while it streams.
#[derive(Clone)]
pub struct Verify {
    /// When.
    pub when: When,
    /// What is asked of those that nobody asks for.
    pub ask: Ask,
    /// Where others ask.
    pub asks: Arc<Asks>,
    /// What it reads.
    pub sides: Sides,
}

/// That tables which have lost changes are compared and repaired.
#[derive(Clone)]
pub struct Recover {
    /// How much a repair may change; it is asked before the first row of a table.
    pub guard: Guard,
    /// What it reads.
    pub sides: Sides,
}

/// Both ends of a pipeline as a verification reads them, apart from the pipeline's own reads.
#[derive(Clone)]
pub struct Sides {
    /// Reads the source.
    pub source: Arc<dyn Source>,
    /// Reads the destination.
    pub destination: Arc<dyn Source>,
    /// Chunks of a side read at the same time.
    pub readers: usize,
    /// Random, of this process.
    pub hash_key: HashKey,
}

/// What can go wrong: where nothing was written, only the verification has failed.
pub(crate) enum Trouble {
    Reading(Error),
    Writing(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Reading(error)
    }
}

/// Recovers what has lost changes, then verifies as the pipeline says, until `stop` or until it is done.
pub(crate) async fn run(attempt: Arc<Attempt>, stop: CancellationToken) -> Result<()> {
    let verifying = async {
        recovery::run(&attempt).await?;
        let Some(verify) = attempt.context.pipeline.verify.clone() else { return Ok(()) };
        match verify.when {
            When::Once => once(&attempt, &verify).await,
            When::Every(every) => while_following(&attempt, &verify, Some(every)).await,
            When::Asked => while_following(&attempt, &verify, None).await,
        }
    };
    let verified = tokio::select! {
        verified = verifying => verified,
        () = stop.cancelled() => Ok(()),
        () = attempt.context.control.draining().cancelled() => Ok(()),
    };
    attempt.changed.notify_one();
    verified.doing(|| "verifying".to_owned())
}

/// The run must not end without it, so what breaks it off breaks the attempt off.
async fn once(attempt: &Attempt, verify: &Verify) -> Result<()> {
    if attempt.context.must_verify() {
        wait_until_ready(attempt).await;
        match verify_tables(attempt, verify, &verify.ask).await {
            Ok(verified) => keep(attempt, verified),
            Err(Trouble::Reading(error) | Trouble::Writing(error)) => return Err(error),
        }
    }
    Ok(())
}

/// The stream is worth more than its verification: one that cannot be finished is told, and the next one is tried.
async fn while_following(attempt: &Attempt, verify: &Verify, every: Option<Duration>) -> Result<()> {
    let mut due = every.map(|every| tokio::time::Instant::now() + every);
    loop {
        let asked = tokio::select! {
            asked = verify.asks.next() => Some(asked),
            () = until(due) => None,
        };
        let begun = Instant::now();
        let ask = asked.as_ref().map_or(&verify.ask, |(ask, _)| ask);
        let verified = match verify_tables(attempt, verify, ask).await {
            Ok(verified) => verified,
            Err(Trouble::Writing(error)) => return Err(error),
            Err(Trouble::Reading(error)) => {
                tracing::warn!(error = %error, "a verification could not be finished");
                ended(begun, Vec::new(), Some(error.to_string()))
            }
        };
        keep(attempt, verified.clone());
        match asked {
            // Who asked may be gone.
            Some((_, answer)) => drop(answer.send(verified)),
            None => due = every.map(|every| tokio::time::Instant::now() + every),
        }
    }
}

/// Waits until then, or without end.
async fn until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn keep(attempt: &Attempt, mut verified: Verified) {
    let context = &attempt.context;
    let mut last = context.last_verified();
    verified.number = last.as_ref().map_or(1, |last| last.number + 1);
    *last = Some(verified.clone());
    drop(last);
    // Row values are for who asked, not for whoever looks.
    verified.tables.iter_mut().for_each(|table| table.samples.clear());
    context.board.edit(|progress| progress.verified = Some(verified));
}

fn ended(begun: Instant, tables: Vec<TableVerified>, error: Option<String>) -> Verified {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Verified {
        number: 0,
        ended_at: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        seconds: begun.elapsed().as_secs_f64(),
        tables,
        error,
    }
}

/// Waits until every table is consistent, or has stopped, and the destination has what the run must reach.
async fn wait_until_ready(attempt: &Attempt) {
    let is_ready = || {
        let reached = attempt.context.target.get().is_none_or(|target| {
            attempt.lane_at(&syncline_core::Lane::Main).is_some_and(|main| main >= *target)
        });
        let is_there = |id: &TableId| attempt.is_in_main_lane(id) || attempt.context.board.is_stopped(id);
        reached && attempt.tables.keys().all(is_there)
    };
    while !is_ready() {
        tokio::time::sleep(PAUSE).await;
    }
}

/// One verification of the tables asked for.
async fn verify_tables(attempt: &Attempt, verify: &Verify, ask: &Ask) -> Result<Verified, Trouble> {
    let begun = Instant::now();
    // What an earlier attempt has applied is in no window of this one; from here on all of it is visible.
    if !chunks::wait_until_settled(attempt).await? {
        return Err(Error::new(ErrorKind::Cancelled, "stopped as asked").into());
    }
    let is_asked = |id: &TableId| ask.tables.is_empty() || ask.tables.iter().any(|one| one.matches(id));
    let asked: Vec<&Arc<TableSchema>> = attempt.tables.values().filter(|table| is_asked(&table.id)).collect();
    if asked.is_empty() {
        return Err(Error::configuration("no table of the pipeline is asked for").into());
    }
    let is_wanted = |id: &TableId| is_asked(id) && skip(attempt, id).is_none();
    let pairings = pairings(attempt, &verify.sides, &is_wanted).await?;
    let mut tables = Vec::with_capacity(asked.len());
    for table in asked {
        tables.push(match (skip(attempt, &table.id), pairings.get(&table.id)) {
            (Some(why), _) => TableVerified::skipped(&table.id, why),
            (None, None) => TableVerified::skipped(&table.id, "it went away"),
            (None, Some(pairing)) => verify_table(attempt, verify, ask, pairing, table).await?,
        });
    }
    Ok(ended(begun, tables, None))
}

async fn pairings(
    attempt: &Attempt,
    sides: &Sides,
    is_wanted: &impl Fn(&TableId) -> bool,
) -> Result<BTreeMap<TableId, Pairing>> {
    let pipeline = &attempt.context.pipeline;
    let found = diff::pair_some(
        &sides.source,
        &sides.destination,
        &pipeline.selection,
        &pipeline.schema_map,
        is_wanted,
    );
    Ok(found.await?.into_iter().map(|pairing| (pairing.left.id.clone(), pairing)).collect())
}

/// Why a table is not verified, if it is not.
fn skip(attempt: &Attempt, table: &TableId) -> Option<&'static str> {
    match attempt.phase_of(table) {
        _ if attempt.context.board.is_stopped(table) => Some("it has stopped"),
        Some(TablePhase::NeedsSnapshot) => Some("it needs a new snapshot"),
        Some(TablePhase::Recovering) => Some("it is being recovered"),
        Some(TablePhase::Consistent) if attempt.is_in_main_lane(table) => None,
        _ => Some("its snapshot is not finished"),
    }
}

/// One table. A read that breaks off is begun anew a few times.
async fn verify_table(
    attempt: &Attempt,
    verify: &Verify,
    ask: &Ask,
    pairing: &Pairing,
    table: &Arc<TableSchema>,
) -> Result<TableVerified, Trouble> {
    let mut tries = 0;
    loop {
        tries += 1;
        match table::verify(attempt, verify, ask, pairing, table).await {
            Err(Trouble::Reading(error))
                if error.kind().reaction() == Reaction::Retry && tries < TRIES_MAX =>
            {
                tracing::debug!(error = %error, table = %table.id, "verifying it again");
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}
