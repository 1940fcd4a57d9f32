//! The project's own commands: `cargo xtask test`, `lint`, `tidy`, `bench`.
//!
//! Without dependencies, so that the first command on a fresh machine starts at once. Only the benchmarks, which need
//! the testkit's servers, are built on demand.

mod bench;
mod command;
mod lint;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [--only PART] [--quick] [-- FILTER…]   run the tests; installs the servers they need if it may
  lint                                        formatting, and clippy with warnings denied
  tidy                                        the rules that no lint knows
  bench [SCENARIO] [--rounds N] [--small]     measure against psql, in pairs

`cargo xtask test --only help` lists the parts.";

/// What a command ends with: nothing, or a message for the screen.
type Outcome<T = ()> = Result<T, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((command, rest)) => run(command, rest),
        None => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &str, arguments: &[String]) -> Outcome {
    match command {
        "test" => test::run(arguments),
        "lint" => lint::run(),
        "tidy" => tidy::run(),
        "bench" => bench::run(arguments),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(format!("xtask: no command `{command}`\n\n{USAGE}")),
    }
}
