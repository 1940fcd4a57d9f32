//! The `syncline` binary: commands, progress, exit codes. The only place that wires the rooms together.
//!
//! | module | what it is for |
//! |---|---|
//! | `args`, `config`, `spec` | what a person says, on the command line and in YAML, checked |
//! | `commands` | one module per command |
//! | `demo` | a shop in SQLite, copied, kept in sync under load, and compared by code that shares nothing with ours |
//! | `progress` | live display, plain lines, JSON events, summary |
//! | `verifying`, `asking` | how a pipeline verifies itself, and what is said of the outcome; asking one that runs |
//! | `incremental` | what only a table sync is told, and one run of it |
//! | `runner`, `signals`, `state` | one run with its display and its memory; Ctrl-C; the state directory |
//! | `exit`, `output`, `logging` | exit codes and errors; stdout and stderr; log lines |
//! | `memory` | what the process gives back to the system |

mod args;
mod asking;
mod commands;
mod config;
mod demo;
mod exit;
mod incremental;
mod logging;
mod memory;
mod output;
mod progress;
mod runner;
mod signals;
mod spec;
mod state;
mod verifying;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use syncline_core::Error;

use args::{Cli, Command};
use exit::{Exit, Failure};

/// What blocking work gets to end by itself once the command is done; it has nothing left to lose then.
const SHUTDOWN_MAX: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    memory::give_back();
    let cli = Cli::parse();
    logging::start(cli.global.verbose);
    let exit = match run(&cli) {
        Ok(exit) => exit,
        Err(failure) => {
            failure.tell(&cli.global);
            failure.exit()
        }
    };
    exit.into()
}

/// Half of the cores: a change goes from task to task, and every hop to another thread costs more than what is done there.
/// Most of the work is the servers'.
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

fn run(cli: &Cli) -> Result<Exit, Failure> {
    // Only the first call can install it, and this is the first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .enable_all()
        .thread_name("syncline")
        .build()
        .map_err(|error| Error::io("cannot start the worker threads", error))?;
    let result = runtime.block_on(dispatch(cli));
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    result
}

async fn dispatch(cli: &Cli) -> Result<Exit, Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Demo(args) => demo::run(args, global).await,
        Command::Sync(args) => commands::sync::run(args, global).await,
        Command::Check(args) => commands::check::run(args, global).await,
        Command::Diff(args) => commands::diff::run(args, global).await,
        Command::Agent(args) => commands::agent::run(args, global).await,
        Command::Discover(args) => commands::discover::run(args, global).await,
        Command::Runs(args) => commands::runs::run(args, global),
        Command::DeadLetters(args) => commands::dead_letters::run(args, global).await,
        Command::Status(args) => commands::status::run(args, global),
        Command::Verify(args) => commands::verify::run(args, global).await,
        Command::Drop(args) => commands::drop::run(args, global).await,
    }
}
