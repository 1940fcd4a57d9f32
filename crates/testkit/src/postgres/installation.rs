//! Where PostgreSQL's programs are.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// The oldest major version Syncline reads.
const OLDEST_MAJOR: u32 = 14;

/// A directory with the programs of one PostgreSQL version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    programs: PathBuf,
    major: u32,
}

impl Installation {
    /// The installation that `SYNCLINE_PG_BIN` names, else the newest one of the system; of the asked major version, if
    /// one is asked.
    ///
    /// Without one: panics if `SYNCLINE_REQUIRE_SERVERS=1`, as the project's own test command sets it; else says
    /// loudly what to install, and gives `None`, for the test to return.
    ///
    /// # Panics
    /// As said.
    #[must_use]
    pub fn find_or_skip(major: Option<u32>) -> Option<Self> {
        let found = Self::find(major);
        if found.is_none() {
            let wanted = major.unwrap_or(15);
            let remedy = format!(
                "install it (Debian: apt-get install postgresql-{wanted}) or set SYNCLINE_PG_BIN to its bin directory"
            );
            skip_or_fail(&format!("no PostgreSQL: {remedy}"));
        }
        found
    }

    fn find(major: Option<u32>) -> Option<Self> {
        let mut found: Vec<_> = match std::env::var_os("SYNCLINE_PG_BIN") {
            Some(directory) => Self::at(directory.into()).into_iter().collect(),
            None => directories_of_the_system().into_iter().filter_map(Self::at).collect(),
        };
        found.retain(|installation| {
            major.map_or(installation.major >= OLDEST_MAJOR, |major| installation.major == major)
        });
        found.into_iter().max_by_key(|installation| installation.major)
    }

    fn at(programs: PathBuf) -> Option<Self> {
        let output = Command::new(programs.join("postgres")).arg("--version").output().ok()?;
        let version = String::from_utf8(output.stdout).ok()?;
        // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
        let number = version.split_whitespace().nth(2)?;
        let major = number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        Some(Self { programs, major })
    }

    /// The major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// A server program such as `initdb`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// A client program such as `psql` or `pgbench`: from here, else from the search path, because some packages hold
    /// the server alone.
    #[must_use]
    pub fn client_program(&self, name: &str) -> PathBuf {
        let here = self.program(name);
        if here.is_file() { here } else { PathBuf::from(name) }
    }
}

/// A server is missing: that fails the test if `SYNCLINE_REQUIRE_SERVERS=1`, else it is said loudly.
pub(crate) fn skip_or_fail(why: &str) {
    let required = std::env::var_os("SYNCLINE_REQUIRE_SERVERS").is_some_and(|value| value == "1");
    assert!(!required, "{why}");
    say_skipped(why);
}

/// Says that this test is skipped. Past libtest's capture of `eprintln!`, so that it is seen when the test passes.
pub(super) fn say_skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

fn directories_of_the_system() -> Vec<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.map(|version| version.path().join("bin")).collect()
}
