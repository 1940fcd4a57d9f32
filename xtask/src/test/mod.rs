//! The whole test suite, with the servers it needs.

mod parts;
mod servers;
mod summary;

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::process::Stdio;
use std::thread;

use crate::Outcome;
use crate::command::{cargo, shown};
use parts::Part;
use summary::Summary;

/// What is asked for on the command line.
#[derive(Default)]
struct Options {
    part: Option<Part>,
    quick: Quick,
    filters: Vec<String>,
}

/// Whether tests whose names begin with `long_` are left out.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Quick {
    #[default]
    No,
    Yes,
}

/// `cargo xtask test`.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    let options = parse(arguments)?;
    if options.part.as_ref().is_none_or(Part::needs_postgres) {
        servers::require_postgres()?;
    }
    let (summary, succeeded) = run_cargo(&options)?;
    println!("{summary}");
    match (succeeded, summary.failed) {
        (true, 0) => Ok(()),
        (_, 0) => Err("cargo test failed before or beside the tests; see above".to_owned()),
        (_, _) => Err("some tests failed; see above".to_owned()),
    }
}

fn parse(arguments: &[String]) -> Outcome<Options> {
    let mut options = Options::default();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--only" => options.part = Some(Part::named(words.next().map_or("help", String::as_str))?),
            "--quick" => options.quick = Quick::Yes,
            "--" => options.filters = words.by_ref().cloned().collect(),
            _ => return Err(format!("xtask test: no option `{word}`; filters follow after `--`")),
        }
    }
    Ok(options)
}

/// Builds everything, the binary with its failpoints too, and runs the tests; every result line is counted.
fn run_cargo(options: &Options) -> Outcome<(Summary, bool)> {
    let mut cargo = cargo();
    cargo.args(["test", "--no-fail-fast"]);
    match options.part.as_ref().and_then(Part::package) {
        Some(package) => cargo.args(["--package", package]).args(parts::features_of(package)),
        None => cargo.args(["--workspace", "--features", "syncline-cli/failpoints"]),
    };
    cargo.arg("--").args(options.part.as_ref().and_then(Part::filter)).args(&options.filters);
    if options.quick == Quick::Yes {
        cargo.args(["--skip", "long_"]);
    }
    cargo.env("SYNCLINE_REQUIRE_SERVERS", "1");
    if std::io::stderr().is_terminal() {
        cargo.env("CARGO_TERM_COLOR", "always");
    }
    eprintln!("$ {}", shown(&cargo));
    let child = cargo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| format!("cannot start cargo: {error}"))?;
    let errors = child.stderr.take().map(|pipe| thread::spawn(|| pass_on(pipe, std::io::stderr())));
    let mut summary = child.stdout.take().map(|pipe| pass_on(pipe, std::io::stdout())).unwrap_or_default();
    if let Some(of_errors) = errors.and_then(|thread| thread.join().ok()) {
        summary.add(of_errors);
    }
    let status = child.wait().map_err(|error| format!("cannot wait for cargo: {error}"))?;
    Ok((summary, status.success()))
}

/// Shows each line as it comes, and counts it.
fn pass_on(from: impl Read, mut to: impl Write) -> Summary {
    let mut summary = Summary::default();
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        // A closed screen must not end the tests.
        let _ = to.write_all(&line);
        summary.count(&String::from_utf8_lossy(&line));
        line.clear();
    }
    summary
}
