//! Running the cases of a suite and saying what became of each.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::FutureExt;

/// Longest time a case may take.
const CASE_TIME_MAX: Duration = Duration::from_secs(180);

/// What became of a case that did not fail; failing is a panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// The system does not have what the case is about.
    NotOffered(&'static str),
}

/// A case of a suite over a harness.
pub struct Case<H: ?Sized> {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub run: for<'a> fn(&'a H) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>,
}

/// What became of all cases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Names of those that hold.
    pub passed: Vec<&'static str>,
    /// Names of those the system does not offer, with why.
    pub not_offered: Vec<(&'static str, &'static str)>,
    /// Names of those that failed, with what they said.
    pub failed: Vec<(&'static str, String)>,
}

impl Report {
    /// Asserts that no case failed and exactly these are not offered.
    ///
    /// # Panics
    /// With everything that failed, or if other cases are not offered.
    pub fn assert_passed(&self, not_offered: &[&str]) {
        let failed: Vec<String> = self.failed.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
        let names: Vec<&str> = self.not_offered.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, not_offered, "cases that are not offered");
        assert!(!self.passed.is_empty(), "no case ran");
    }
}

/// Runs all cases, each to its end, whatever became of those before. `SYNCLINE_CASE` restricts to names that contain
/// it; such a run is for a person, and never passes [`Report::assert_passed`] by having run nothing.
pub(crate) async fn run_all<H: ?Sized>(harness: &H, cases: &[Case<H>]) -> Report {
    let only = std::env::var("SYNCLINE_CASE").unwrap_or_default();
    let mut report = Report::default();
    for case in cases.iter().filter(|case| case.name.contains(&only)) {
        let began = Instant::now();
        let run = AssertUnwindSafe(tokio::time::timeout(CASE_TIME_MAX, (case.run)(harness))).catch_unwind();
        let outcome = match run.await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_)) => Err(format!("took longer than {} s", CASE_TIME_MAX.as_secs())),
            Err(panic) => Err(message(panic.as_ref())),
        };
        println!("case {} … {} ({:.1?})", case.name, word(&outcome), began.elapsed());
        match outcome {
            Ok(Outcome::Passed) => report.passed.push(case.name),
            Ok(Outcome::NotOffered(why)) => report.not_offered.push((case.name, why)),
            Err(why) => report.failed.push((case.name, why)),
        }
    }
    report
}

fn word(outcome: &Result<Outcome, String>) -> &'static str {
    match outcome {
        Ok(Outcome::Passed) => "ok",
        Ok(Outcome::NotOffered(_)) => "not offered",
        Err(_) => "FAILED",
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message").to_owned()
}
