//! Scripted faults: refuse, do it and then fail, hold, answer late; at the n-th pass of a named step, or by a seed.
//!
//! Every call of the pair passes its [`Step`] before it does its work ([`Faults::enter`]) and before it answers
//! ([`Pass::leave`]). Nothing is held across these but what the step itself needs, so a test may drop a held call.
//!
//! Two faults concern a table and no step: its changes can no longer be decoded ([`Faults::stop_table`]), or are refused
//! ([`Faults::refuse_table`]). One concerns rows: those of which a column has a value are refused, as by a check constraint
//! ([`Faults::refuse_rows`]).

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use syncline_core::{Error, ErrorKind, Result, RowKey, TableId};
use tokio::sync::watch;

use super::destination::StoredTable;
use super::lock;
use super::random::Random;
use super::rows::{Row, TableRows, Value};

/// A place where a call of the pair may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// `Source::discover`.
    Discover,
    /// `Snapshots::plan`.
    Plan,
    /// `Snapshots::read`, before the snapshot is taken.
    Read,
    /// `ChunkReader::next`.
    ChunkNext,
    /// `Snapshots::read_keys`.
    ReadKeys,
    /// `Streams::open`.
    OpenStream,
    /// `Streams::settled`.
    Settled,
    /// `Streams::stream`.
    Stream,
    /// `ChangeStream::next`; an error breaks the stream.
    StreamNext,
    /// `Streams::end`.
    End,
    /// `Destination::open`.
    OpenSession,
    /// `DestinationSession::checkpoint`.
    Checkpoint,
    /// `DestinationSession::prepare`.
    Prepare,
    /// `DestinationSession::begin`.
    Begin,
    /// `Load::write`.
    Write,
    /// `Load::offer`.
    Offer,
    /// `Load::commit`.
    Commit,
    /// `DestinationSession::finish`.
    Finish,
}

impl Step {
    /// Every step.
    pub const ALL: [Self; 18] = [
        Self::Discover,
        Self::Plan,
        Self::Read,
        Self::ChunkNext,
        Self::ReadKeys,
        Self::OpenStream,
        Self::Settled,
        Self::Stream,
        Self::StreamNext,
        Self::End,
        Self::OpenSession,
        Self::Checkpoint,
        Self::Prepare,
        Self::Begin,
        Self::Write,
        Self::Offer,
        Self::Commit,
        Self::Finish,
    ];

    /// What a caller sees when the answer to this step is lost.
    fn lost_answer(self) -> ErrorKind {
        if self == Self::Commit { ErrorKind::Unknown } else { ErrorKind::Retriable }
    }
}

/// What happens at a step.
#[derive(Debug, Clone)]
pub enum Action {
    /// Nothing is done; this error is returned.
    Refuse(ErrorKind),
    /// It is done; this error is returned.
    DoThenFail(ErrorKind),
    /// Nothing is done until the hold is released.
    Hold(Hold),
    /// It is done; the answer comes this much later.
    Late(Duration),
}

/// A held step: a test waits until somebody stands there, does what it wants, and lets them go on. Clones are the same.
#[derive(Debug, Clone)]
pub struct Hold {
    arrived: Arc<watch::Sender<u64>>,
    released: Arc<watch::Sender<bool>>,
}

impl Default for Hold {
    fn default() -> Self {
        Self::new()
    }
}

impl Hold {
    /// A closed hold.
    #[must_use]
    pub fn new() -> Self {
        Self { arrived: Arc::new(watch::Sender::new(0)), released: Arc::new(watch::Sender::new(false)) }
    }

    /// Waits until `count` calls have come here.
    pub async fn arrived(&self, count: u64) {
        // The sender is ours: it cannot be gone.
        let _ = self.arrived.subscribe().wait_for(|&arrived| arrived >= count).await;
    }

    /// Lets everybody go on, also those who come later.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    async fn pass(&self) {
        self.arrived.send_modify(|count| *count += 1);
        let _ = self.released.subscribe().wait_for(|&released| released).await;
    }
}

/// The faults of one side. Clones are the same; without a script nothing ever fails.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Script>>);

#[derive(Debug, Default)]
struct Script {
    passes: HashMap<Step, u64>,
    at: HashMap<(Step, u64), Action>,
    always: HashMap<Step, Action>,
    seeded: Option<Seeded>,
    undecodable: HashMap<TableId, u64>,
    refused: HashMap<TableId, ErrorKind>,
    checks: HashMap<TableId, HashMap<usize, HashSet<Value>>>,
    injected: u64,
}

#[derive(Debug)]
struct Seeded {
    random: Random,
    per_mille: u32,
    steps: Vec<Step>,
}

impl Faults {
    /// No faults yet.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Does `action` at the `nth` pass of `step` from now on, counted from 1.
    pub fn at(&self, step: Step, nth: u64, action: Action) {
        let mut script = lock(&self.0);
        let passed = script.passes.get(&step).copied().unwrap_or(0);
        script.at.insert((step, passed + nth), action);
    }

    /// Does `action` at every pass of `step`, until [`Faults::clear`].
    pub fn always(&self, step: Step, action: Action) {
        lock(&self.0).always.insert(step, action);
    }

    /// Holds the `nth` pass of `step` from now on and returns the hold.
    #[must_use]
    pub fn hold(&self, step: Step, nth: u64) -> Hold {
        let hold = Hold::new();
        self.at(step, nth, Action::Hold(hold.clone()));
        hold
    }

    /// Fails `per_mille` of a thousand passes of these steps, as the seed says: a third each refused, done and then
    /// failed, answered late.
    pub fn seeded(&self, seed: u64, per_mille: u32, steps: &[Step]) {
        let seeded = Seeded { random: Random::new(seed), per_mille, steps: steps.to_vec() };
        lock(&self.0).seeded = Some(seeded);
    }

    /// At the source: changes of this table beyond this place of the log cannot be decoded, as after a change of its
    /// definition. A stream says so where it meets the first of them.
    pub fn stop_table(&self, table: &TableId, after: u64) {
        lock(&self.0).undecodable.insert(table.clone(), after);
    }

    /// At the destination: no load takes a part of this table, until [`Faults::clear`]. The error names the table.
    pub fn refuse_table(&self, table: &TableId, kind: ErrorKind) {
        lock(&self.0).refused.insert(table.clone(), kind);
    }

    /// At the destination: no row of this table that is written may have this value in this column, until [`Faults::clear`]. The error says that rows are at fault.
    pub fn refuse_rows(&self, table: &TableId, column: usize, value: Value) {
        let mut script = lock(&self.0);
        script.checks.entry(table.clone()).or_default().entry(column).or_default().insert(value);
    }

    /// Ends all faults; calls that are held stay so until their hold is released.
    pub fn clear(&self) {
        let mut script = lock(&self.0);
        script.at.clear();
        script.always.clear();
        script.seeded = None;
        script.undecodable.clear();
        script.refused.clear();
        script.checks.clear();
    }

    /// Whether a change of this table that ends at this place of the log cannot be decoded.
    pub(crate) fn is_undecodable(&self, table: &TableId, position: u64) -> bool {
        lock(&self.0).undecodable.get(table).is_some_and(|after| position > *after)
    }

    /// Refuses a part of a table.
    pub(crate) fn take_part(&self, table: &TableId) -> Result<()> {
        let mut script = lock(&self.0);
        let Some(kind) = script.refused.get(table).copied() else { return Ok(()) };
        script.injected += 1;
        let error = Error::new(kind, "scripted fault: the table is refused").with_table(table);
        Err(error.with_remedy("take the fault away, then run again"))
    }

    /// Refuses a table with a row that was not there before and must not be.
    pub(crate) fn check_rows(&self, table: &StoredTable, before: Option<&TableRows>) -> Result<()> {
        let mut script = lock(&self.0);
        let id = &table.schema.id;
        let Some(checks) = script.checks.get(id) else { return Ok(()) };
        let is_bad = |row: &Row| checks.iter().any(|(column, values)| values.contains(&row[*column]));
        let stood = |key: &RowKey, row: &Arc<Row>| match before {
            Some(TableRows::Keyed(before)) => before.get(key).is_some_and(|before| Arc::ptr_eq(before, row)),
            _ => false,
        };
        let stood_in_bag = |row: &Arc<Row>| match before {
            Some(TableRows::Bag(before)) => before.iter().any(|before| Arc::ptr_eq(before, row)),
            _ => false,
        };
        let bad = match table.rows.as_ref() {
            TableRows::Keyed(rows) => rows.iter().any(|(key, row)| is_bad(row) && !stood(key, row)),
            TableRows::Bag(rows) => rows.iter().any(|row| is_bad(row) && !stood_in_bag(row)),
        };
        if !bad {
            return Ok(());
        }
        script.injected += 1;
        let error = Error::new(ErrorKind::Data, "scripted fault: a row is refused").with_code("check");
        Err(error.with_table(id).with_rows_at_fault())
    }

    /// Faults that have happened.
    #[must_use]
    pub fn injected(&self) -> u64 {
        lock(&self.0).injected
    }

    /// How often `step` was passed.
    #[must_use]
    pub fn passes(&self, step: Step) -> u64 {
        lock(&self.0).passes.get(&step).copied().unwrap_or(0)
    }

    /// Passes a step: refuses, or waits if it is held.
    pub(crate) async fn enter(&self, step: Step) -> Result<Pass> {
        let action = lock(&self.0).next(step);
        match action {
            None => Ok(Pass { step, after: After::Answer }),
            Some(Action::Refuse(kind)) => Err(fault(step, kind, "refused")),
            Some(Action::DoThenFail(kind)) => Ok(Pass { step, after: After::Fail(kind) }),
            Some(Action::Late(delay)) => Ok(Pass { step, after: After::Late(delay) }),
            Some(Action::Hold(hold)) => {
                hold.pass().await;
                Ok(Pass { step, after: After::Answer })
            }
        }
    }

    /// Passes a step around work that is done at once.
    pub(crate) async fn around<T>(&self, step: Step, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.around_async(step, async { work() }).await
    }

    /// Passes a step around work that waits.
    pub(crate) async fn around_async<T>(
        &self,
        step: Step,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let pass = self.enter(step).await?;
        let result = work.await?;
        pass.delay().await;
        pass.leave(result)
    }
}

impl Script {
    fn next(&mut self, step: Step) -> Option<Action> {
        let count = self.passes.entry(step).or_insert(0);
        *count += 1;
        let action = self
            .at
            .remove(&(step, *count))
            .or_else(|| self.always.get(&step).cloned())
            .or_else(|| self.seeded.as_mut().and_then(|seeded| seeded.next(step)));
        self.injected += u64::from(action.is_some());
        action
    }
}

impl Seeded {
    fn next(&mut self, step: Step) -> Option<Action> {
        if !self.steps.contains(&step) || !self.random.chance(self.per_mille) {
            return None;
        }
        Some(match self.random.below(3) {
            0 => Action::Refuse(ErrorKind::Retriable),
            1 => Action::DoThenFail(step.lost_answer()),
            _ => Action::Late(Duration::from_millis(1 + self.random.below(5))),
        })
    }
}

/// A step that was entered.
#[must_use]
pub(crate) struct Pass {
    step: Step,
    after: After,
}

enum After {
    Answer,
    Fail(ErrorKind),
    Late(Duration),
}

impl Pass {
    /// Waits if the answer is to come late. Apart from [`Pass::leave`], so that a call that must be cancel-safe takes
    /// nothing before this.
    pub(crate) async fn delay(&self) {
        if let After::Late(delay) = self.after {
            tokio::time::sleep(delay).await;
        }
    }

    /// Answers, or fails although it is done.
    pub(crate) fn leave<T>(self, result: T) -> Result<T> {
        match self.after {
            After::Answer | After::Late(_) => Ok(result),
            After::Fail(kind) => Err(fault(self.step, kind, "done, and its answer lost")),
        }
    }
}

fn fault(step: Step, kind: ErrorKind, what: &str) -> Error {
    Error::new(kind, format!("scripted fault: {step:?} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_script_counts_from_when_it_was_written() {
        let faults = Faults::none();
        faults.around(Step::Begin, || Ok(())).await.unwrap();
        faults.at(Step::Begin, 2, Action::Refuse(ErrorKind::Retriable));
        faults.around(Step::Begin, || Ok(())).await.unwrap();
        assert!(faults.around(Step::Begin, || Ok(())).await.is_err());
        faults.around(Step::Begin, || Ok(())).await.unwrap();
        assert_eq!(faults.injected(), 1);
    }

    #[tokio::test]
    async fn done_and_then_failed_is_done() {
        let faults = Faults::none();
        faults.at(Step::Commit, 1, Action::DoThenFail(ErrorKind::Unknown));
        let mut done = false;
        let result = faults
            .around(Step::Commit, || {
                done = true;
                Ok(())
            })
            .await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Unknown);
        assert!(done);
    }

    #[tokio::test]
    async fn a_hold_is_passed_when_it_is_released() {
        let faults = Faults::none();
        let hold = faults.hold(Step::Read, 1);
        let held = tokio::spawn({
            let faults = faults.clone();
            async move { faults.around(Step::Read, || Ok(())).await }
        });
        hold.arrived(1).await;
        assert!(!held.is_finished());
        hold.release();
        held.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn one_seed_gives_one_script() {
        let run = |seed| async move {
            let faults = Faults::none();
            faults.seeded(seed, 500, &Step::ALL);
            let mut outcomes = Vec::new();
            for _ in 0..40 {
                outcomes.push(faults.around(Step::Write, || Ok(())).await.is_ok());
            }
            outcomes
        };
        assert_eq!(run(7).await, run(7).await);
        assert_ne!(run(7).await, run(8).await);
    }
}
