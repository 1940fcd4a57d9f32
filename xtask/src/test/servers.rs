//! Servers that the tests need: found, installed if we may, else named.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Outcome;
use crate::command::require;

/// The oldest major version that the tests run against.
const OLDEST_MAJOR: u32 = 14;
/// Debian's metapackage: server, psql and pgbench of the release's own version.
const POSTGRES: &str = "postgresql";
/// A pooler to stand before it.
const POOLER: &str = "pgbouncer";
/// Where Debian's init scripts ask whether a freshly installed service may start.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Makes sure that PostgreSQL's programs and a pooler's are there. Nothing is started: each test starts its own server.
pub(super) fn require_postgres() -> Outcome {
    let missing: Vec<&str> = missing();
    if missing.is_empty() {
        return Ok(());
    }
    if missing.contains(&POSTGRES) && std::env::var_os("SYNCLINE_PG_BIN").is_some() {
        return Err("SYNCLINE_PG_BIN names a directory without `postgres`, `initdb` and `psql`".to_owned());
    }
    if !(is_root() && Path::new("/usr/bin/apt-get").exists()) {
        return Err(format!(
            "the tests need PostgreSQL {OLDEST_MAJOR} or newer (initdb, postgres, psql, pgbench) and PgBouncer.\n\
             Debian, Ubuntu: sudo apt-get install --no-install-recommends {}\n\
             elsewhere: set SYNCLINE_PG_BIN to the bin directory of an installation, have pgbouncer in PATH\n\
             without them: cargo xtask test --only sqlite",
            missing.join(" ")
        ));
    }
    install(&missing)?;
    match self::missing().as_slice() {
        [] => Ok(()),
        [POSTGRES, ..] => Err(format!("{POSTGRES} is installed, but holds no PostgreSQL {OLDEST_MAJOR}+")),
        [package, ..] => Err(format!("{package} is installed, but its program is not found")),
    }
}

/// The packages whose programs are not here.
fn missing() -> Vec<&'static str> {
    let postgres = (!postgres_is_installed()).then_some(POSTGRES);
    let pooler = (!["/usr/sbin", "/usr/local/sbin"].iter().any(|dir| Path::new(dir).join(POOLER).is_file())
        && !is_in_path(POOLER))
    .then_some(POOLER);
    postgres.into_iter().chain(pooler).collect()
}

fn postgres_is_installed() -> bool {
    let directories: Vec<PathBuf> = match std::env::var_os("SYNCLINE_PG_BIN") {
        Some(directory) => vec![directory.into()],
        None => directories_of_the_system(),
    };
    let found = |program: &str| directories.iter().any(|directory| directory.join(program).is_file());
    found("postgres")
        && found("initdb")
        && ["psql", "pgbench"].iter().all(|client| found(client) || is_in_path(client))
}

fn directories_of_the_system() -> Vec<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let new_enough = versions.filter(|version| {
        let major = version.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        major.is_some_and(|major| major >= OLDEST_MAJOR)
    });
    new_enough.map(|version| version.path().join("bin")).collect()
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn install(packages: &[&str]) -> Outcome {
    let _policy = NoAutostart::begin()?;
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    };
    require(apt_get().args(["update", "--quiet"]))?;
    require(apt_get().args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(packages))
}

/// While it lives, an installed service is not started; the machine's own policy, if it has one, stays.
struct NoAutostart {
    created: bool,
}

impl NoAutostart {
    fn begin() -> Outcome<Self> {
        let created = !Path::new(POLICY).exists();
        if created {
            let failed = |error| format!("cannot write {POLICY}: {error}");
            fs::write(POLICY, "#!/bin/sh\nexit 101\n").map_err(failed)?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        }
        Ok(Self { created })
    }
}

impl Drop for NoAutostart {
    fn drop(&mut self) {
        if self.created {
            // Left behind it would only keep services from starting by themselves.
            let _ = fs::remove_file(POLICY);
        }
    }
}
