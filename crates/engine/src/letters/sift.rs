//! Finding the rows at fault: a part that is refused is halved until what is refused cannot be halved any more.
//!
//! Everything happens inside the load that will commit: what is taken stays, what is refused leaves no trace
//! ([`syncline_core::Load::offer`]). With `f` rows at fault among `n` that takes about `2 f log n` offers.

use std::sync::Arc;

use arrow_array::RecordBatch;
use syncline_core::{Error, Load, Operation, Part, Result, TableSchema};

use super::lines::{groups, keys_of, pick};
use crate::collapse::Lines;

/// What became of a part.
#[derive(Default)]
pub(crate) struct Sifted {
    /// Rows that were written.
    pub(crate) written: u64,
    /// Rows of the part that were refused, and why.
    pub(crate) refused: Vec<(usize, Refusal)>,
}

/// Why a row was refused.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// The error as it is shown; it holds no row value.
    pub(crate) reason: String,
    /// The destination's own code.
    pub(crate) code: Option<String>,
}

impl Refusal {
    pub(crate) fn of(error: &Error) -> Self {
        Self { reason: error.to_string(), code: error.code().map(str::to_owned) }
    }
}

/// Writes what can be written of a part. `room`: how many rows may be refused; with one more it ends.
///
/// # Errors
/// As [`syncline_core::Load::offer`]; also if the part's truncate is refused.
pub(crate) async fn sift(load: &mut dyn Load, lines: &Lines, room: usize) -> Result<Sifted> {
    let batch = &lines.batch;
    let mut sifted = Sifted::default();
    let first = usize::from(batch.operations.first() == Some(&Operation::Truncate));
    if first == 1 {
        if let Some(error) = load.offer(Part::Changes(pick(batch, &[0])?)).await? {
            return Err(error);
        }
        sifted.written += 1;
    }
    let keys = (first..batch.len()).map(|row| keys_of(batch, row)).collect::<Result<Vec<_>>>()?;
    let groups = groups(&keys).into_iter().map(|group| group.iter().map(|row| row + first).collect());
    // What was refused before is likely to be refused again: it must not hold up the others.
    let (again, new): (Vec<Vec<usize>>, Vec<Vec<usize>>) =
        groups.partition(|group: &Vec<usize>| group.iter().any(|&row| lines.letters[row].is_some()));
    for groups in [new, again] {
        halve(load, lines, &groups, room, &mut sifted).await?;
    }
    Ok(sifted)
}

async fn halve(
    load: &mut dyn Load,
    lines: &Lines,
    groups: &[Vec<usize>],
    room: usize,
    sifted: &mut Sifted,
) -> Result<()> {
    // What is left to offer, the next one last; never more than two for each halving.
    let mut open = vec![groups];
    while let Some(groups) = open.pop().filter(|_| sifted.refused.len() <= room) {
        let mut rows: Vec<usize> = groups.iter().flatten().copied().collect();
        if rows.is_empty() {
            continue;
        }
        rows.sort_unstable();
        let Some(error) = load.offer(Part::Changes(pick(&lines.batch, &rows)?)).await? else {
            sifted.written += rows.len() as u64;
            continue;
        };
        if groups.len() == 1 {
            let refusal = Refusal::of(&error);
            sifted.refused.extend(rows.into_iter().map(|row| (row, refusal.clone())));
        } else {
            let (left, right) = groups.split_at(groups.len() / 2);
            open.extend([right, left]);
        }
    }
    Ok(())
}

/// Some lines of a part.
pub(crate) fn picked(lines: &Lines, rows: &[usize]) -> Result<Lines> {
    let letters = rows.iter().map(|&row| lines.letters[row]).collect();
    Ok(Lines { batch: pick(&lines.batch, rows)?, letters })
}

/// Writes what can be written of a chunk's rows; the others come back, with why. `room`: how many rows may be refused; with
/// one more it ends. That takes about `2 f log n` offers, as above, however many rows would be refused after these.
///
/// # Errors
/// As [`syncline_core::Load::offer`].
pub(crate) async fn sift_rows(
    load: &mut dyn Load,
    table: &Arc<TableSchema>,
    rows: &RecordBatch,
    room: usize,
) -> Result<Vec<(usize, Refusal)>> {
    let mut refused = Vec::new();
    let all = 0..rows.num_rows();
    let mut open = vec![all];
    while let Some(range) = open.pop().filter(|range| refused.len() <= room && !range.is_empty()) {
        let rows = rows.slice(range.start, range.len());
        let part = Part::Rows { table: Arc::clone(table), rows };
        let Some(error) = load.offer(part).await? else { continue };
        if range.len() == 1 {
            refused.push((range.start, Refusal::of(&error)));
        } else {
            let middle = range.start + range.len() / 2;
            open.extend([middle..range.end, range.start..middle]);
        }
    }
    Ok(refused)
}
