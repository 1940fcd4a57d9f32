//! The closing line: cargo's own result lines, summed.

use std::fmt;

/// How many tests ended how.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    /// As cargo reports it, with those that returned early.
    reported: u64,
    pub(super) failed: u64,
    /// Left out by an attribute.
    ignored: u64,
    /// Returned early because a server is missing.
    returned: u64,
}

impl Summary {
    /// Counts a line of a test program's output.
    pub(super) fn count(&mut self, line: &str) {
        if line.starts_with("SKIPPED ") {
            self.returned += 1;
        }
        let Some((_, results)) = line.split_once("test result: ") else { return };
        for result in results.split([';', '.']) {
            let mut words = result.split_whitespace();
            let (Some(Ok(count)), Some(kind)) = (words.next().map(str::parse::<u64>), words.next()) else {
                continue;
            };
            match kind {
                "passed" => self.reported += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }

    /// Adds what was counted elsewhere.
    pub(super) fn add(&mut self, other: Self) {
        self.reported += other.reported;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.returned += other.returned;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reported, failed, ignored, returned } = *self;
        let (passed, skipped) = (reported.saturating_sub(returned), ignored + returned);
        write!(formatter, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed_and_a_skipped_test_has_not_passed() {
        let mut summary = Summary::default();
        for line in [
            "test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 2.13s",
            "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 5 filtered out; finished in 3.47s",
            "SKIPPED workload::chaos: no PostgreSQL: install it",
            "running 3 tests",
        ] {
            summary.count(line);
        }
        assert_eq!(summary.to_string(), "6 passed, 1 failed, 2 skipped");
    }
}
