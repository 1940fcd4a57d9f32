//! Filling a load: from a lane's entries, cut and collapsed, into the parts of one commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use syncline_core::{
    Change, ChangeBatch, Cut, CutPlan, Delta, Entry, Error, Lane, Load, LoadKind, Operation, Part, Position,
    Result, RowKey, TableId, TablePhase, Verdict,
};
use syncline_journal::Journal;

use crate::attempt::{Applied, Attempt};
use crate::collapse::{Collapse, Lines};
use crate::cut::{Decision, decide};
use crate::lane::LaneReader;
use crate::letters::care::Care;
use crate::letters::clerk::{self, Clerk};
use crate::letters::lines::pick;
use crate::letters::withheld::{self, Withheld};
use crate::loader::mending::Course;
use crate::summary::Sum;

/// Memory a part may take before it is written.
const PART_BYTES_MAX: usize = 16 << 20;

/// Judges the changes of a table that is apart, and remembers what its lane applies.
pub(crate) struct Window<'a> {
    pub(crate) judge: Option<&'a dyn CutPlan>,
    /// Whether the judge knows re-reads only: the lane has passed the window of every chunk, and what no re-read speaks of
    /// applies.
    pub(crate) settled: bool,
    pub(crate) applied: &'a mut Applied,
}

/// A load that is ready to commit, or the knowledge that a range has nothing for this lane.
pub(crate) struct Filled {
    load: Option<Box<dyn Load>>,
    from: Position,
    to: Position,
    sum: Sum,
    rows: u64,
    /// Of these, rows beyond the changes they come from; not counted.
    surplus: u64,
    rereads: BTreeMap<TableId, Vec<RowKey>>,
    newest_commit_us: i64,
    transactions: Vec<(TableId, Vec<u64>)>,
    /// Letters that come and go with it.
    letters: Vec<Change>,
    /// Holds their place until they are in the checkpoint.
    clerk: Clerk,
}

/// Takes what waits for a lane, up to the byte target. `None`: nothing waits.
pub(crate) async fn fill(
    attempt: &Arc<Attempt>,
    journal: &Journal,
    lane: &mut LaneReader,
    apart: &BTreeSet<TableId>,
    mut window: Option<Window<'_>>,
    limit: Option<&Position>,
    care: &Care,
) -> Result<Option<Filled>> {
    let Some(end) = lane.range(journal, limit).await? else { return Ok(None) };
    let mut filler = Filler::new(attempt, lane.lane.clone(), lane.committed.clone(), end, care);
    while let Some(entry) = lane.next(&filler.to).await? {
        for batch in entry.batches.iter().filter(|batch| lane.takes(batch, apart)) {
            filler.take(&entry, batch, window.as_mut()).await?;
        }
    }
    filler.finish().await.map(Some)
}

/// Counts the changes that wait for a lane up to a position, as let go.
pub(crate) async fn count_waiting(
    attempt: &Attempt,
    journal: &Journal,
    lane: &mut LaneReader,
    limit: &Position,
) -> Result<Sum> {
    let mut sum = Sum::default();
    lane.rewind(journal);
    while let Some(end) = lane.range(journal, Some(limit)).await? {
        while let Some(entry) = lane.next(&end).await? {
            for batch in entry.batches.iter().filter(|batch| lane.takes(batch, &BTreeSet::new())) {
                sum.let_go += batch.len() as u64;
                sum.read += carried(attempt, &entry, batch);
            }
        }
    }
    Ok(sum)
}

/// Changes that an earlier run read: this run counts them when a lane takes them.
fn carried(attempt: &Attempt, entry: &Entry, batch: &ChangeBatch) -> u64 {
    match attempt.context.carried.get() {
        Some(end) if entry.to <= *end && !(entry.is_piece() && entry.to == *end) => batch.len() as u64,
        _ => 0,
    }
}

struct Filler<'a> {
    attempt: &'a Arc<Attempt>,
    lane: Lane,
    from: Position,
    to: Position,
    load: Option<Box<dyn Load>>,
    parts: BTreeMap<TableId, Collapse>,
    /// Shape of each table's open part.
    versions: BTreeMap<TableId, u32>,
    sum: Sum,
    rows: u64,
    surplus: u64,
    rereads: BTreeMap<TableId, Vec<RowKey>>,
    newest_commit_us: i64,
    transactions: Vec<(TableId, Vec<u64>)>,
    care: &'a Care,
    clerk: Clerk,
    /// Rows that come last.
    withheld: Withheld,
    /// How changes are taken of the tables in this load.
    courses: BTreeMap<TableId, Course>,
}

impl<'a> Filler<'a> {
    fn new(attempt: &'a Arc<Attempt>, lane: Lane, from: Position, to: Position, care: &'a Care) -> Self {
        Self {
            attempt,
            lane,
            from,
            clerk: Clerk::new(attempt, to.clone()),
            to,
            load: None,
            parts: BTreeMap::new(),
            versions: BTreeMap::new(),
            sum: Sum::default(),
            rows: 0,
            surplus: 0,
            rereads: BTreeMap::new(),
            newest_commit_us: 0,
            transactions: Vec::new(),
            care,
            withheld: Withheld::default(),
            courses: BTreeMap::new(),
        }
    }

    async fn take(
        &mut self,
        entry: &Entry,
        batch: &ChangeBatch,
        window: Option<&mut Window<'_>>,
    ) -> Result<()> {
        let id = &batch.table.id;
        if self.attempt.watch.is_active() {
            self.attempt.watch.touch(batch)?;
        }
        self.sum.read += carried(self.attempt, entry, batch);
        if self.attempt.phase_of(id).is_none_or(|phase| phase == TablePhase::NeedsSnapshot) {
            self.sum.let_go += batch.len() as u64;
            return Ok(());
        }
        if let (Some(oldest), Some(newest)) = (entry.transactions.first(), entry.transactions.last()) {
            if self.newest_commit_us == 0 && oldest.committed_at_us != 0 {
                self.attempt.context.board.loading_since(oldest.committed_at_us);
            }
            self.newest_commit_us = self.newest_commit_us.max(newest.committed_at_us);
        }
        let decisions = match &window {
            Some(Window { judge: Some(judge), settled, .. }) => {
                Some(decisions(*judge, *settled, entry, batch)?)
            }
            _ => self.decisions_of_recovery(entry, batch)?,
        };
        let applied = transactions_of(entry, batch);
        match window {
            Some(window) => window.applied.add(applied),
            None => self.transactions.push((id.clone(), applied)),
        }
        if self.versions.get(id).is_some_and(|version| *version != batch.table.version) {
            if self.care.withholds(id) {
                return Err(withheld::two_shapes(id));
            }
            self.flush().await?;
        }
        self.versions.insert(id.clone(), batch.table.version);
        let taken_up = self.clerk.take_up(batch, decisions.as_deref())?;
        let part = self.parts.entry(id.clone()).or_insert_with(|| Collapse::new(Arc::clone(&batch.table)));
        part.seed(taken_up.letters)?;
        let pushed = match taken_up.kept {
            None => part.push(batch.clone(), decisions.as_deref()),
            Some(kept) => {
                let decisions = decisions.map(|all| kept.iter().map(|&row| all[row]).collect::<Vec<_>>());
                part.push(pick(batch, &kept)?, decisions.as_deref())
            }
        };
        pushed.map_err(|error| error.with_table(id))?;
        self.flush_if_full(id).await
    }

    /// Writes the open parts once they are enough. `table`: the one that was added to.
    async fn flush_if_full(&mut self, table: &TableId) -> Result<()> {
        let (mut held, mut open) = (0, 0);
        for (id, part) in &self.parts {
            *(if self.care.withholds(id) { &mut held } else { &mut open }) += part.bytes();
        }
        if self.care.withholds(table) {
            withheld::require_room(table, held)?;
        }
        if open >= PART_BYTES_MAX { self.flush().await } else { Ok(()) }
    }

    /// What becomes of the changes of a table in recovery; `None` for any other.
    fn decisions_of_recovery(&mut self, entry: &Entry, batch: &ChangeBatch) -> Result<Option<Vec<Decision>>> {
        let id = &batch.table.id;
        if !self.courses.contains_key(id) {
            self.courses.insert(id.clone(), Course::of(self.attempt, &batch.table)?);
        }
        Ok(match self.courses.get(id) {
            Some(Course::Again) => Some(Course::again(batch.len())),
            Some(Course::Judged(judge)) => Some(decisions(judge.as_ref(), true, entry, batch)?),
            Some(Course::AsTheyAre) | None => None,
        })
    }

    /// Writes the open parts to the load, but for those that come last.
    async fn flush(&mut self) -> Result<()> {
        let (held, parts) =
            std::mem::take(&mut self.parts).into_iter().partition(|(id, _)| self.care.withholds(id));
        self.parts = held;
        self.versions.retain(|id, _| self.care.withholds(id));
        self.close(parts).await
    }

    async fn close(&mut self, parts: BTreeMap<TableId, Collapse>) -> Result<()> {
        for (id, part) in parts {
            let collapsed = part.finish().map_err(|error| error.with_table(&id))?;
            self.sum.superseded += collapsed.superseded;
            self.sum.skipped += collapsed.skipped;
            self.surplus += collapsed.surplus;
            if !collapsed.rereads.is_empty() {
                self.rereads.entry(id.clone()).or_default().extend(collapsed.rereads);
            }
            if let Some(waiting) = collapsed.waiting {
                self.clerk.put_behind(&id, &waiting)?;
            }
            if let Some(lines) = collapsed.batch {
                self.write(&id, lines).await?;
            }
        }
        Ok(())
    }

    async fn write(&mut self, table: &TableId, lines: Lines) -> Result<()> {
        let allowed = self.attempt.context.pipeline.dead_letters_max > 0;
        let sifts = allowed && (*self.care != Care::Usual || lines.letters.iter().any(Option::is_some));
        if self.load.is_none() {
            let kind = LoadKind::Changes { from: self.from.clone(), to: self.to.clone() };
            self.load = Some(self.attempt.begin(self.lane.clone(), kind).await?);
        }
        let lines = if self.care.withholds(table) { self.withheld.hold(table, lines)? } else { Some(lines) };
        let (Some(load), Some(lines)) = (&mut self.load, lines) else { return Ok(()) };
        if !sifts {
            self.rows += lines.batch.len() as u64;
            return load.write(Part::Changes(lines.batch)).await;
        }
        self.rows += self.clerk.sift(load.as_mut(), table, &lines).await?;
        Ok(())
    }

    /// Tries once more what was refused, and makes the rest part of the load.
    async fn settle(&mut self) -> Result<Vec<Change>> {
        if let Some(load) = &mut self.load {
            self.rows += self.withheld.write(load.as_mut(), &mut self.clerk).await?;
        }
        let settled = self.clerk.settle(self.load.as_deref_mut().map(|load| load as &mut dyn Load)).await?;
        self.rows += settled.written;
        self.sum.read += settled.taken_up;
        self.sum.letters += settled.set_aside;
        self.sum.superseded += settled.superseded;
        Ok(settled.changes)
    }

    async fn finish(mut self) -> Result<Filled> {
        let parts = std::mem::take(&mut self.parts);
        self.close(parts).await?;
        let letters = self.settle().await?;
        Ok(Filled {
            letters,
            clerk: self.clerk,
            load: self.load,
            from: self.from,
            to: self.to,
            sum: self.sum,
            rows: self.rows,
            surplus: self.surplus,
            rereads: self.rereads,
            newest_commit_us: self.newest_commit_us,
            transactions: self.transactions,
        })
    }
}

fn decisions(
    judge: &dyn CutPlan,
    settled: bool,
    entry: &Entry,
    batch: &ChangeBatch,
) -> Result<Vec<Decision>> {
    let cuts = judge.judge(batch, &entry.transactions)?;
    if cuts.len() != batch.len() {
        return Err(Error::bug("a cut does not fit its batch").with_table(&batch.table.id));
    }
    let decision = |(row, cut)| {
        let operation = batch.operations[row];
        let cut = if settled { after_the_chunks(operation, cut) } else { cut };
        decide(operation, batch.old_row(row).is_some(), cut)
    };
    let decisions: Vec<_> = cuts.into_iter().enumerate().map(decision).collect();
    if decisions.contains(&Decision::StartOver) {
        return Err(crate::loader::closing::truncated(&batch.table.id));
    }
    Ok(decisions)
}

/// A cut by re-reads alone: a key that none of them read applies. A truncate that a re-read saw is still to come for the
/// rest of the table.
fn after_the_chunks(operation: Operation, cut: Cut) -> Cut {
    let applies = |verdict| match verdict {
        Verdict::Unread => Verdict::Apply,
        Verdict::Seen if operation == Operation::Truncate => Verdict::Mixed,
        verdict => verdict,
    };
    Cut { new: applies(cut.new), old: applies(cut.old) }
}

/// The source's numbers of the transactions a batch has changes of.
fn transactions_of(entry: &Entry, batch: &ChangeBatch) -> Vec<u64> {
    let mut numbers = batch.transactions.clone();
    numbers.dedup();
    numbers
        .iter()
        .filter_map(|&n| entry.transactions.get(n as usize))
        .map(|transaction| transaction.id)
        .collect()
}

impl Filled {
    /// Whether the range has nothing to write, so that its commit can wait.
    pub(crate) fn is_progress(&self) -> bool {
        self.load.is_none() && self.rereads.is_empty() && self.sum == Sum::default()
    }

    /// Commits the load, moves the lane, and adds to the run's sum.
    pub(crate) async fn commit(
        self,
        attempt: &Arc<Attempt>,
        lane: &mut LaneReader,
        extra: Vec<Change>,
    ) -> Result<()> {
        let load = match self.load {
            Some(load) => load,
            None => {
                let kind = LoadKind::Changes { from: self.from.clone(), to: self.to.clone() };
                attempt.begin(lane.lane.clone(), kind).await?
            }
        };
        let advance = Change::Advance { lane: lane.lane.clone(), from: self.from, to: self.to.clone() };
        let rereads = self
            .rereads
            .iter()
            .map(|(table, keys)| Change::AddReread { table: table.clone(), keys: keys.clone() });
        clerk::warn_of(&self.letters);
        let changes = std::iter::once(advance).chain(rereads).chain(self.letters).chain(extra).collect();
        let delta = Delta { changes, reread_missing: true };
        let mut sum = self.sum;
        sum.applied += self.rows - self.surplus;
        let doubt = &attempt.context.in_doubt;
        *doubt.lock().unwrap_or_else(PoisonError::into_inner) = Some((delta.clone(), sum));
        let durable = attempt.commit_with_letters(load, &delta, &self.clerk).await?;
        doubt.lock().unwrap_or_else(PoisonError::into_inner).take();
        let counts = durable.counts;
        if counts.applied + counts.unchanged + counts.rereads != self.rows {
            return Err(Error::bug(format!(
                "a load of {} rows came back as {} applied, {} unchanged, {} to read again",
                self.rows, counts.applied, counts.unchanged, counts.rereads
            )));
        }
        let unchanged = counts.unchanged.saturating_sub(self.surplus);
        let applied = counts.applied - (self.surplus - (counts.unchanged - unchanged)).min(counts.applied);
        lane.committed = self.to;
        attempt.context.board.tally(|total| {
            total.read += sum.read;
            total.superseded += sum.superseded + counts.rereads;
            total.skipped += sum.skipped;
            total.let_go += sum.let_go;
            total.letters += sum.letters;
            total.applied += applied;
            total.unchanged += unchanged;
        });
        for (table, transactions) in self.transactions {
            if let Some(window) = attempt.windows.get(&table) {
                window.write().await.add(transactions);
            }
        }
        if self.newest_commit_us != 0 {
            attempt.context.board.loaded(self.newest_commit_us);
        }
        Ok(())
    }
}
