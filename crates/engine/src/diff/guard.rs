//! The guard: whether a repair may change as much as it would, decided before a row is written.

use std::fmt;

use serde::Serialize;
use syncline_core::number::grouped;
use syncline_core::{Error, Result};

use super::table::Counts;

/// Share of a table's rows that a repair may change without being asked about it.
const RATIO_USUAL: f64 = 0.2;
/// A table with fewer rows at the destination is not guarded: every ratio of few rows is large.
const ROWS_EXEMPT: u64 = 100;

/// A kind of operation that is guarded apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operations {
    /// Rows that the destination lacks.
    Inserts,
    /// Rows with other values.
    Updates,
    /// Rows that only the destination has.
    Deletes,
}

impl Operations {
    const ALL: [Self; 3] = [Self::Inserts, Self::Updates, Self::Deletes];

    fn count(self, counts: &Counts) -> u64 {
        match self {
            Self::Inserts => counts.missing,
            Self::Updates => counts.changed,
            Self::Deletes => counts.surplus,
        }
    }
}

impl fmt::Display for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inserts => "inserts",
            Self::Updates => "updates",
            Self::Deletes => "deletes",
        })
    }
}

/// How many operations of one kind pass. Both bounds hold where both are set.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Limit {
    /// Operations for each row that the destination's table had before.
    ratio: Option<f64>,
    /// Operations.
    rows: Option<u64>,
}

/// Bounds of what a repair may do to a table without approval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guard {
    limits: [Limit; 3],
    /// Which of them a person has set.
    set: [bool; 3],
}

impl Default for Guard {
    fn default() -> Self {
        Self { limits: [Limit { ratio: Some(RATIO_USUAL), rows: None }; 3], set: [false; 3] }
    }
}

/// What stops a repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exceeded {
    /// Of what there would be too many.
    pub operations: Operations,
    /// How many there would be.
    pub count: u64,
    /// How many may be.
    pub limit: u64,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, of at most {}", grouped(self.count), self.operations, grouped(self.limit))
    }
}

impl Guard {
    /// Sets bounds as said: `deletes=5%`, `inserts=1000`, `updates=off`; `all=…` for the three kinds. The first word on a
    /// kind takes the usual bound's place, a further one is added to it.
    ///
    /// # Errors
    /// Configuration if the text is not such a bound.
    pub fn set(&mut self, text: &str) -> Result<()> {
        let wrong = || {
            Error::configuration(format!("`{text}` is not a bound of the guard"))
                .with_remedy("write KIND=BOUND: inserts, updates, deletes or all; 5%, 1000 or off")
        };
        let (kind, bound) = text.split_once('=').ok_or_else(wrong)?;
        let limit = limit(bound).ok_or_else(wrong)?;
        let named: Vec<Operations> =
            Operations::ALL.into_iter().filter(|of| kind == "all" || kind == of.to_string()).collect();
        if named.is_empty() {
            return Err(wrong());
        }
        for of in named {
            let (known, is_set) = (&mut self.limits[of as usize], &mut self.set[of as usize]);
            let before = if *is_set { *known } else { Limit::default() };
            *is_set = true;
            *known = Limit { ratio: limit.ratio.or(before.ratio), rows: limit.rows.or(before.rows) };
        }
        Ok(())
    }

    /// What of a repair is too much. `rows_before`: rows of the destination's table.
    #[must_use]
    pub fn judge(&self, counts: &Counts, rows_before: u64) -> Vec<Exceeded> {
        if rows_before < ROWS_EXEMPT {
            return Vec::new();
        }
        let exceeded = |of: Operations| {
            let (count, limit) = (of.count(counts), self.limits[of as usize].most(rows_before)?);
            (count > limit).then_some(Exceeded { operations: of, count, limit })
        };
        Operations::ALL.into_iter().filter_map(exceeded).collect()
    }
}

impl Limit {
    /// Operations that pass for a table of so many rows; `None`: any number.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count of rows, rounded down"
    )]
    fn most(self, rows: u64) -> Option<u64> {
        let share = self.ratio.map(|ratio| (rows as f64 * ratio) as u64);
        share.into_iter().chain(self.rows).min()
    }
}

fn limit(text: &str) -> Option<Limit> {
    if text == "off" {
        return Some(Limit::default());
    }
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent: f64 = percent.trim().parse().ok()?;
            (percent.is_finite() && percent >= 0.0)
                .then_some(Limit { ratio: Some(percent / 100.0), rows: None })
        }
        None => Some(Limit { ratio: None, rows: Some(text.parse().ok()?) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(missing: u64, changed: u64, surplus: u64) -> Counts {
        Counts { missing, surplus, changed, repeated: 0 }
    }

    fn guard(bounds: &[&str]) -> Guard {
        let mut guard = Guard::default();
        bounds.iter().for_each(|bound| guard.set(bound).unwrap());
        guard
    }

    #[test]
    fn each_kind_has_a_bound_of_its_own() {
        let usual = Guard::default();
        assert_eq!(usual.judge(&counts(200, 200, 200), 1000), []);
        let exceeded = usual.judge(&counts(0, 201, 0), 1000);
        assert_eq!(exceeded, [Exceeded { operations: Operations::Updates, count: 201, limit: 200 }]);
        let strict = guard(&["deletes=1%"]);
        assert_eq!(strict.judge(&counts(200, 200, 10), 1000), []);
        assert_eq!(strict.judge(&counts(200, 200, 11), 1000).len(), 1);
    }

    #[test]
    fn bounds_of_one_kind_hold_together_and_off_lifts_the_usual_one() {
        let both = guard(&["inserts=50%", "inserts=10"]);
        assert_eq!(both.judge(&counts(11, 0, 0), 1000).len(), 1);
        assert_eq!(both.judge(&counts(10, 0, 0), 1000).len(), 0);
        assert_eq!(guard(&["all=off"]).judge(&counts(9000, 9000, 1000), 1000), []);
        assert_eq!(guard(&["updates=0"]).judge(&counts(0, 1, 0), 1000).len(), 1);
    }

    #[test]
    fn small_tables_are_exempt() {
        assert_eq!(Guard::default().judge(&counts(5000, 0, 99), 99), []);
        assert_eq!(Guard::default().judge(&counts(0, 0, 100), 100).len(), 1);
    }

    #[test]
    fn what_is_no_bound_is_refused_with_the_remedy() {
        for text in ["deletes", "deletes=", "rows=5", "deletes=-1", "deletes=x%", "deletes=NaN%"] {
            let error = Guard::default().set(text).unwrap_err();
            assert!(error.remedy().unwrap().contains("KIND=BOUND"), "{text}");
        }
    }
}
