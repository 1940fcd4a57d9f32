//! How a pipeline verifies itself, as said on the command line and in YAML, and what is said of the outcome.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use syncline_connectors::registry;
use syncline_core::{Error, Result, TablePattern};
use syncline_engine::diff::Guard;
use syncline_engine::{Ask, Recover, Sides, TableVerified, Verified, Verify, When};

use crate::args::RecoverChoice;
use crate::commands::diff::{random_key, readers};
use crate::progress::format::{count, counted, duration};
use crate::spec::ResolvedPipeline;

/// A shorter interval would leave little but verifications.
const EVERY_MIN: Duration = Duration::from_secs(1);

/// `every=1h,repair`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VerifySpec {
    /// From the end of one verification to the beginning of the next.
    pub(crate) every_seconds: u64,
    /// Whether drift is repaired.
    pub(crate) repair: bool,
}

impl VerifySpec {
    /// Reads `every=TIME` or `every=TIME,repair`.
    ///
    /// # Errors
    /// Configuration if it is neither.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::configuration(format!("`{text}` is not a verification"))
                .with_remedy("write every=TIME or every=TIME,repair, as in every=1h or every=30m,repair")
        };
        let (mut every, mut repair) = (None, false);
        for part in text.split(',').map(str::trim) {
            match part.split_once('=') {
                Some(("every", time)) => every = Some(interval(time)?),
                None if part == "repair" => repair = true,
                _ => return Err(wrong()),
            }
        }
        Ok(Self { every_seconds: every.ok_or_else(wrong)?, repair })
    }
}

/// `90s`, `15m`, `1h`, `7d`, in seconds.
///
/// # Errors
/// Configuration if it is none, or too short.
pub(crate) fn interval(text: &str) -> Result<u64> {
    let wrong = || {
        Error::configuration(format!("`{text}` is not an interval"))
            .with_remedy("write a number with a unit, at least 1s: 90s, 15m, 1h, 7d")
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    seconds.filter(|seconds| *seconds >= EVERY_MIN.as_secs()).ok_or_else(wrong)
}

/// The verifications of a pipeline that follows: at its interval, if it has one, and when asked.
///
/// # Errors
/// Configuration if a side cannot be read, and it verifies itself.
pub(crate) fn of(pipeline: &ResolvedPipeline) -> Result<Option<Verify>> {
    let spec = &pipeline.spec;
    match spec.verify {
        Some(VerifySpec { every_seconds, repair }) => wired(
            pipeline,
            When::Every(Duration::from_secs(every_seconds)),
            ask(Vec::new(), if repair { Some(guard(&spec.guard)?) } else { None }, 0),
        )
        .map(Some),
        None if spec.follow => Ok(wired(pipeline, When::Asked, ask(Vec::new(), None, 0)).ok()),
        None => Ok(None),
    }
}

/// What is asked of a verification.
pub(crate) fn ask(tables: Vec<TablePattern>, repair: Option<Guard>, samples_max: usize) -> Ask {
    Ask { tables, repair, samples_max }
}

/// The guard with these bounds.
///
/// # Errors
/// Configuration if one is none.
pub(crate) fn guard(bounds: &[String]) -> Result<Guard> {
    let mut guard = Guard::default();
    bounds.iter().try_for_each(|bound| guard.set(bound))?;
    Ok(guard)
}

/// One bound of a guard, as it was said.
///
/// # Errors
/// Configuration if it is none.
pub(crate) fn guard_bound(bound: &str) -> Result<String> {
    guard(&[bound.to_owned()]).map(|_| bound.to_owned())
}

/// The recovery of a pipeline, if it was asked for.
///
/// # Errors
/// Configuration if a side cannot be read.
pub(crate) fn recovery(pipeline: &ResolvedPipeline) -> Result<Option<Recover>> {
    match pipeline.spec.recover {
        Some(RecoverChoice::Diff) => {
            Ok(Some(Recover { guard: guard(&pipeline.spec.guard)?, sides: sides(pipeline)? }))
        }
        None => Ok(None),
    }
}

/// A verification with connections of its own.
///
/// # Errors
/// Configuration if a side cannot be read.
pub(crate) fn wired(pipeline: &ResolvedPipeline, when: When, ask: Ask) -> Result<Verify> {
    Ok(Verify { when, ask, asks: Arc::default(), sides: sides(pipeline)? })
}

fn sides(pipeline: &ResolvedPipeline) -> Result<Sides> {
    let source = registry::source(&pipeline.spec.source).map_err(|error| error.context("source"))?;
    let destination =
        registry::source(&pipeline.spec.destination).map_err(|error| error.context("destination"))?;
    Ok(Sides { source, destination, readers: readers(), hash_key: random_key()? })
}

/// A verification in one line.
pub(crate) fn line(verified: &Verified) -> String {
    if let Some(error) = &verified.error {
        return format!("verification not finished: {error}");
    }
    let tables = counted(verified.tables.len() as u64, "table");
    let time = duration(Duration::try_from_secs_f64(verified.seconds).unwrap_or_default());
    let drifted: Vec<_> = verified
        .tables
        .iter()
        .filter(|table| {
            let is_told = table.recovered || table.skipped.is_some();
            is_told || !is_equal(table) || table.undecided + table.set_aside > 0
        })
        .map(|table| format!("{}: {}", table.table, result(table)))
        .collect();
    match drifted.as_slice() {
        [] => format!("verified {tables} in {time}: equal"),
        some => format!("verified {tables} in {time}: {}", some.join("; ")),
    }
}

/// Whether no drift was found, repaired or not.
pub(crate) fn is_equal(table: &TableVerified) -> bool {
    table.drift.is_zero() && table.too_many.is_none()
}

/// What was found in a table, in words.
pub(crate) fn result(table: &TableVerified) -> String {
    if let Some(why) = &table.skipped {
        return format!("not verified: {why}");
    }
    if let Some(estimate) = table.too_many {
        return format!("DRIFT, about {} rows: too many to name; a new snapshot is cheaper", count(estimate));
    }
    let drift = table.drift;
    let kinds = [
        (drift.missing, "missing"),
        (drift.surplus, "surplus"),
        (drift.changed, "changed"),
        (drift.repeated, "with a repeated key"),
    ];
    let mut parts: Vec<_> =
        kinds.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", count(*n))).collect();
    let mut text = match (table.recovered, parts.is_empty()) {
        (true, true) => "recovered, nothing was lost".to_owned(),
        (true, false) => "recovered, ".to_owned(),
        (false, true) => "equal".to_owned(),
        (false, false) => "DRIFT, ".to_owned(),
    };
    if table.repaired > 0 {
        parts.push(format!("{} repaired", count(table.repaired)));
    }
    if let Some(why) = &table.refused {
        parts.push(format!("not repaired: {why}"));
    }
    text.push_str(&parts.join(", "));
    if table.set_aside > 0 {
        text.push_str(&format!(", {} set aside as dead letters", count(table.set_aside)));
    }
    if table.undecided > 0 && !table.recovered {
        text.push_str(&format!(", {} undecided (changed at every look)", count(table.undecided)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_taken_and_nothing_else() {
        let parse = |text: &str| VerifySpec::parse(text).ok().map(|v| (v.every_seconds, v.repair));
        assert_eq!(parse("every=1h"), Some((3600, false)));
        assert_eq!(parse("every=30m, repair"), Some((1800, true)));
        assert_eq!(parse("repair,every=7d"), Some((604_800, true)));
        for wrong in
            ["", "every", "1h", "every=", "every=0s", "every=1w", "every=1h,mend", "repair", "every=-1h"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
