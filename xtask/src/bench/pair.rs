//! The two servers of a pair of measurements, and the command under measurement.

use std::env;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use syncline_testkit::compare::postgres::Comparison;
use syncline_testkit::postgres::Postgres;

use crate::Outcome;

/// The database at the source; destinations have a database each.
pub(super) const SOURCE: &str = "shop";

/// Durability as a user has it, on both servers and for both sides of the pair.
const SETTINGS: [(&str, &str); 4] = [
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("shared_buffers", "512MB"),
    ("maintenance_work_mem", "256MB"),
];

pub(super) struct Pair {
    pub(super) source: Postgres,
    pub(super) destination: Postgres,
    pub(super) runtime: tokio::runtime::Runtime,
}

impl Pair {
    /// Two servers, with an empty database at the source.
    pub(super) fn start() -> Outcome<Self> {
        let start = || {
            let builder = SETTINGS
                .iter()
                .fold(Postgres::builder(), |builder, (name, value)| builder.setting(name, value));
            builder.start().ok_or("the benchmarks need PostgreSQL; `cargo xtask test` installs it")
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
        let pair = Self { source: start()?, destination: start()?, runtime };
        pair.source.psql("postgres", &format!("CREATE DATABASE {SOURCE}"));
        Ok(pair)
    }

    /// Nothing is left to write from what came before.
    pub(super) fn checkpoint(&self) {
        for server in [&self.source, &self.destination] {
            server.psql("postgres", "CHECKPOINT");
        }
    }

    /// `syncline sync` into a database of the destination, over TCP, with a state of its own per database.
    pub(super) fn syncline(&self, database: &str, arguments: &[&str]) -> Outcome<Child> {
        let mut command = Command::new(binary()?);
        command.args(["sync", &self.source.url(SOURCE), &self.destination.url(database)]);
        command.args(arguments).arg("--state-dir").arg(self.state_directory(database));
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        started.map_err(|error| format!("cannot start syncline: {error}"))
    }

    /// Where Syncline keeps its state, for a database of the destination.
    pub(super) fn state_directory(&self, database: &str) -> PathBuf {
        self.destination.socket_directory().join(format!("bench-state-{database}"))
    }

    /// Compares by code that shares nothing with the product.
    pub(super) fn require_equal(&self, database: &str, tables: &[&str]) {
        let comparison = Comparison::new().only(tables.iter().copied());
        let (source, destination) = ((&self.source, SOURCE), (&self.destination, database));
        self.runtime.block_on(comparison.assert_equal(source, destination));
    }
}

/// The release build, or what `SYNCLINE_BIN` names.
pub(super) fn binary() -> Outcome<PathBuf> {
    if let Some(path) = env::var_os("SYNCLINE_BIN") {
        return Ok(path.into());
    }
    let own = env::current_exe().map_err(|error| format!("a program that does not know itself: {error}"))?;
    let built =
        own.ancestors().map(|directory| directory.join("release/syncline")).find(|path| path.is_file());
    built.ok_or_else(|| "no release build; run `cargo xtask bench` without `--features`".to_owned())
}
