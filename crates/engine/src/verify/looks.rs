//! Looks at rows that may differ, until it is known of each whether it does.
//!
//! A look at some rows, and why what it calls drift is drift:
//!
//! 1. The rows are watched, and the loader begins a turn. What it took before is applied (`A`, by the table's window);
//!    what it takes from now on marks the rows it changes.
//! 2. The source's rows are read. The read must have seen all of `A`: a commit can be in the log, and applied here, before
//!    it is visible there. Then the log's end is asked for: everything that the read saw lies before it.
//! 3. The main lane passes that end, and the destination's rows are read. For a row that is not marked, the destination
//!    has applied of its changes exactly those that the source's read saw: none is missing, because the lane has passed
//!    them all; none is beyond, because it would be in `A`, which the read saw, or have marked the row.
//! 4. The source's rows are read a second time, the lane passes the log's end again, and now marks are looked at. A row
//!    that is not marked, not about to be read again, and the same at both reads, but not the same at the destination, is
//!    drift. One that is equal is dropped. Any other is looked at again.

use std::sync::Arc;
use std::time::Duration;

use syncline_core::{Error, ReadMark, Result, RowKey, TableSchema};

use crate::attempt::Attempt;
use crate::diff::live::{EncodedKey, Of};
use crate::diff::{Comparison, Counts, Found, Kind, Rows};
use crate::loader::source_end;

/// Looks at a row before it is called undecided.
const LOOKS_MAX: u32 = 10;
/// Scans of a table whose rows cannot be watched one by one.
const SCANS_MAX: u32 = 3;
/// Rows looked at together.
const ROWS_PER_LOOK: usize = 500;
/// Bytes of the source's rows after which a look takes no further ones; each side's are held once or twice.
const BYTES_PER_LOOK: usize = 16 << 20;
/// Pause before the second look; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A row that may differ.
pub(super) struct Candidate {
    pub(super) key: EncodedKey,
    pub(super) row_key: RowKey,
}

/// What the looks at all candidates of a table gave.
#[derive(Default)]
pub(super) struct Judged {
    pub(super) drift: Vec<Drifted>,
    /// Rows that changed at every look.
    pub(super) undecided: Vec<Candidate>,
    /// Rows that wait as dead letters.
    pub(super) set_aside: u64,
    /// What the two sides have of the first drifted rows, to be shown.
    pub(super) source: Rows,
    pub(super) destination: Rows,
}

/// A row that differs.
pub(super) struct Drifted {
    pub(super) candidate: Candidate,
    pub(super) kind: Kind,
}

/// What one look says of one row.
enum Verdict {
    Equal,
    /// With what the source and the destination have.
    Drift(Copies, Copies),
    /// The destination refused it, which is told elsewhere.
    SetAside,
    Again,
}

/// The encoded rows of one key; more than one where it is not unique.
type Copies = Vec<Box<[u8]>>;

/// Looks at the rows of one table.
pub(super) struct Looks<'a> {
    pub(super) attempt: &'a Attempt,
    pub(super) comparison: &'a Comparison,
    /// As the stream carries it.
    pub(super) table: &'a Arc<TableSchema>,
    /// Drifted rows of which the values are kept.
    pub(super) samples_max: usize,
}

impl Judged {
    fn add(&mut self, candidate: Candidate, source: Copies, destination: Copies, samples_max: usize) {
        let kind = match (source.len(), destination.len()) {
            (1, 0) => Kind::Missing,
            (0, 1) => Kind::Surplus,
            (1, 1) => Kind::Changed,
            _ => Kind::Repeated,
        };
        if self.drift.len() < samples_max {
            let key = &candidate.key;
            // A key without rows is left out, as a read leaves it out.
            self.source.extend((!source.is_empty()).then(|| (key.clone(), source)));
            self.destination.extend((!destination.is_empty()).then(|| (key.clone(), destination)));
        }
        self.drift.push(Drifted { candidate, kind });
    }

    /// The drift by its kinds.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for row in &self.drift {
            *match row.kind {
                Kind::Missing => &mut counts.missing,
                Kind::Surplus => &mut counts.surplus,
                Kind::Changed => &mut counts.changed,
                Kind::Repeated => &mut counts.repeated,
            } += 1;
        }
        counts
    }
}

impl Looks<'_> {
    /// Looks at rows until each is equal, or drift, or undecided.
    ///
    /// `None`: the table left the main lane meanwhile.
    pub(super) async fn judge(&self, mut open: Vec<Candidate>) -> Result<Option<Judged>> {
        let mut judged = Judged::default();
        let mut pause = PAUSE_MIN;
        for look in 1..=LOOKS_MAX {
            let mut again = Vec::new();
            while !open.is_empty() {
                let verdicts = self.look(&open[..open.len().min(ROWS_PER_LOOK)]).await?;
                if !self.attempt.is_in_main_lane(&self.table.id) {
                    return Ok(None);
                }
                for (candidate, verdict) in open.drain(..verdicts.len()).zip(verdicts) {
                    match verdict {
                        Verdict::Equal => {}
                        Verdict::Again => again.push(candidate),
                        Verdict::SetAside => judged.set_aside += 1,
                        Verdict::Drift(source, destination) => {
                            judged.add(candidate, source, destination, self.samples_max);
                        }
                    }
                }
            }
            open = again;
            if open.is_empty() || look == LOOKS_MAX {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        judged.undecided = open;
        Ok(Some(judged))
    }

    /// One look; see the module's own account. Gives verdicts on the first of the candidates, as many as fit in a look.
    async fn look(&self, candidates: &[Candidate]) -> Result<Vec<Verdict>> {
        let watch = &self.attempt.watch;
        let watching = watch.rows(&self.table.id, candidates.iter().map(|candidate| &candidate.row_key));
        self.turn().await?;
        let applied = self.applied().await?;
        let keys: Vec<EncodedKey> = candidates.iter().map(|candidate| candidate.key.clone()).collect();
        let first = self.comparison.read(Of::Source, &keys, BYTES_PER_LOOK).await?;
        let (keys, candidates) = (&keys[..first.keys], &candidates[..first.keys]);
        self.pass_end().await?;
        let there = self.comparison.read(Of::Destination, keys, usize::MAX).await?;
        let differs = |key: &&EncodedKey| first.rows.get(*key) != there.rows.get(*key);
        let differing: Vec<EncodedKey> = keys.iter().filter(differs).cloned().collect();
        if differing.is_empty() {
            return Ok(candidates.iter().map(|_| Verdict::Equal).collect());
        }
        let applied_since = self.applied().await?;
        let second = self.comparison.read(Of::Source, &differing, usize::MAX).await?;
        self.pass_end().await?;
        let saw_all = self.saw(&first.marks, &applied)? && self.saw(&second.marks, &applied_since)?;
        let listed = self.attempt.table_state(&self.table.id).map(|state| state.rereads).unwrap_or_default();
        let set_aside = self.attempt.keys_set_aside(&self.table.id);
        let mut second = second.rows;
        let (mut first, mut there) = (first.rows, there.rows);
        let verdicts = candidates.iter().map(|candidate| {
            let (source, again) = (taken(&mut first, candidate), taken(&mut second, candidate));
            let destination = taken(&mut there, candidate);
            let is_moving = watch.is_touched(&candidate.row_key) || listed.contains(&candidate.row_key);
            if source == destination || (!again.is_empty() && again == destination) {
                Verdict::Equal
            } else if set_aside.contains(&candidate.row_key) {
                Verdict::SetAside
            } else if saw_all && !is_moving && source == again {
                Verdict::Drift(source, destination)
            } else {
                Verdict::Again
            }
        });
        let verdicts = verdicts.collect();
        drop(watching);
        Ok(verdicts)
    }

    /// Scans a table whose rows cannot be watched one by one, until nothing goes through it meanwhile: then whatever
    /// differs is drift. The flag says whether that came to be.
    pub(super) async fn scan_at_rest(&self) -> Result<Option<(Found, bool)>> {
        let watch = &self.attempt.watch;
        for scan in 1.. {
            let watching = watch.table(&self.table.id);
            self.turn().await?;
            let applied = self.applied().await?;
            self.pass_end().await?;
            let found = self.comparison.find().await?;
            self.pass_end().await?;
            if !self.attempt.is_in_main_lane(&self.table.id) {
                return Ok(None);
            }
            let is_equal = found.difference.is_empty() && found.too_many.is_none();
            let marks = self.comparison.take_marks(Of::Source);
            let at_rest = !watch.is_table_touched() && self.saw(&marks, &applied)?;
            drop(watching);
            if is_equal || at_rest || scan == SCANS_MAX {
                return Ok(Some((found, at_rest)));
            }
            tokio::time::sleep(PAUSE_MAX).await;
        }
        Err(Error::bug("a loop without end ended"))
    }

    /// Waits until the loader looks for work.
    async fn turn(&self) -> Result<()> {
        self.attempt.changed.notify_one();
        self.attempt.watch.next_turn().await
    }

    /// Waits until the destination has everything that is committed now.
    pub(super) async fn pass_end(&self) -> Result<()> {
        let end = source_end(self.attempt).await?;
        self.attempt.changed.notify_one();
        self.attempt.watch.reached(&end).await
    }

    /// What the table's lane has applied lately.
    async fn applied(&self) -> Result<Vec<u64>> {
        let window = self.attempt.windows.get(&self.table.id);
        let window = window.ok_or_else(|| Error::bug("a verification of an unknown table"))?;
        Ok(window.read().await.transactions())
    }

    fn saw(&self, marks: &[ReadMark], transactions: &[u64]) -> Result<bool> {
        let source = &self.attempt.context.pipeline.source;
        let snapshots =
            source.snapshots().ok_or_else(|| Error::bug("a verification of what cannot be read"))?;
        for mark in marks {
            if !snapshots.saw(mark, transactions)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Takes a candidate's rows.
fn taken(rows: &mut Rows, candidate: &Candidate) -> Copies {
    let mut rows = rows.remove(&candidate.key).unwrap_or_default();
    rows.sort_unstable();
    rows
}
