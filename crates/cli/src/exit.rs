//! How the process ends: the fixed exit codes, and the one place that prints an error.

use std::process::ExitCode;

use serde_json::json;
use syncline_core::Error;

use crate::args::{GlobalArgs, Output};
use crate::config::Problem;
use crate::output;

/// A process exit code. Fixed and documented: scripts depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit(pub(crate) u8);

impl Exit {
    /// Everything asked for is done.
    pub(crate) const DONE: Self = Self(0);
    /// Something failed; running again goes on.
    pub(crate) const FAILED: Self = Self(1);
    /// Wrong usage or configuration; running again changes nothing.
    pub(crate) const USAGE: Self = Self(2);
    /// Two sides that should be equal are not.
    pub(crate) const DIFFERENT: Self = Self(3);
    /// A guard kept a repair from being made.
    pub(crate) const GUARD: Self = Self(4);

    /// Stopped at once by a signal, as shells report it.
    pub(crate) fn signal(number: u8) -> Self {
        Self(128 + number)
    }

    /// Of several runs the worst: any code beats 0, then the first one counts.
    pub(crate) fn worse(self, other: Self) -> Self {
        if self == Self::DONE { other } else { self }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// One error.
    Error(Error),
    /// Everything that is wrong with a configuration file.
    Config(Vec<Problem>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failure {
    /// The code the process ends with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Error(error) => Exit(error.kind().exit_code()),
            Self::Config(_) => Exit::USAGE,
        }
    }

    /// Tells the person (stderr) and, with `--output json`, the program (stdout).
    pub(crate) fn tell(&self, global: &GlobalArgs) {
        match self {
            Self::Error(error) => tell_error(None, error, global),
            Self::Config(problems) => problems.iter().for_each(|problem| tell_problem(problem, global)),
        }
    }
}

/// Tells of one error, if `pipeline` is given with its name before it.
pub(crate) fn tell_error(pipeline: Option<&str>, error: &Error, global: &GlobalArgs) {
    output::to_stderr(&render_error(pipeline, error, global.verbose > 0));
    if global.output == Output::Json {
        output::to_stdout_line(&json!({
            "event": "error",
            "pipeline": pipeline,
            "kind": format!("{:?}", error.kind()).to_lowercase(),
            "table": error.table(),
            "code": error.code(),
            "message": error.to_string(),
            "remedy": error.remedy(),
            "exit_code": error.kind().exit_code(),
        }));
    }
}

/// `error: …`, causes if asked for, `  remedy: …`.
pub(crate) fn render_error(pipeline: Option<&str>, error: &Error, causes: bool) -> String {
    let prefix = pipeline.map(|name| format!("{name}: ")).unwrap_or_default();
    let mut text = format!("error: {prefix}{error}\n");
    if causes {
        let mut cause = std::error::Error::source(error);
        while let Some(lower) = cause {
            text.push_str(&format!("  cause: {lower}\n"));
            cause = lower.source();
        }
    }
    if let Some(remedy) = error.remedy() {
        text.push_str(&format!("  remedy: {remedy}\n"));
    }
    text
}

fn tell_problem(problem: &Problem, global: &GlobalArgs) {
    let remedy = problem.remedy.as_ref().map(|remedy| format!("  remedy: {remedy}\n")).unwrap_or_default();
    output::to_stderr(&format!("error: {problem}\n{remedy}"));
    if global.output == Output::Json {
        output::to_stdout_line(&json!({
            "event": "error",
            "kind": "configuration",
            "file": problem.file,
            "line": problem.line,
            "column": problem.column,
            "message": problem.message,
            "remedy": problem.remedy,
            "exit_code": Exit::USAGE.0,
        }));
    }
}

#[cfg(test)]
mod tests {
    use syncline_core::ErrorKind;

    use super::*;

    #[test]
    fn an_error_is_one_line_and_a_remedy_and_causes_only_when_asked_for() {
        let error = Error::configuration("no database `x`")
            .with_code("3D000")
            .with_source(std::io::Error::other("lower"))
            .with_remedy("create it");
        assert_eq!(
            render_error(None, &error, false),
            "error: no database `x` [3D000]\n  remedy: create it\n"
        );
        let with_cause = render_error(Some("shop"), &error, true);
        assert_eq!(with_cause, "error: shop: no database `x` [3D000]\n  cause: lower\n  remedy: create it\n");
    }

    /// As the help and docs/cli.md say. 3 and 4 are of what is found, not of errors.
    #[test]
    fn each_kind_of_failure_ends_the_process_as_documented() {
        let ends = |kind| Failure::Error(Error::new(kind, "x")).exit().0;
        assert_eq!((ends(ErrorKind::Configuration), ends(ErrorKind::Guard)), (2, 4));
        assert_eq!(ends(ErrorKind::DeadLetters), 5);
        for kind in [
            ErrorKind::Retriable,
            ErrorKind::Unknown,
            ErrorKind::Permanent,
            ErrorKind::Data,
            ErrorKind::Conflict,
            ErrorKind::Fenced,
            ErrorKind::Resource,
            ErrorKind::Cancelled,
            ErrorKind::Bug,
        ] {
            assert_eq!(ends(kind), 1, "{kind:?}");
        }
        assert_eq!(Failure::Config(Vec::new()).exit(), Exit::USAGE);
        assert_eq!((Exit::DONE.0, Exit::FAILED.0, Exit::USAGE.0, Exit::DIFFERENT.0), (0, 1, 2, 3));
        assert_eq!((Exit::signal(2).0, Exit::signal(15).0), (130, 143));
    }

    #[test]
    fn the_worst_of_several_runs_counts() {
        assert_eq!(Exit::DONE.worse(Exit::USAGE), Exit::USAGE);
        assert_eq!(Exit::FAILED.worse(Exit::DONE), Exit::FAILED);
    }
}
