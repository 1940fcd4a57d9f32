//! A PgBouncer of one's own before a test's PostgreSQL server.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::ports;
use crate::postgres::{Postgres, ServerDirectory, skip_or_fail};
use crate::process::{privilege_free, spawn};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Between choosing a port and binding it, another process may take it.
const START_ATTEMPTS_MAX: u32 = 5;

/// A pooler that lets everybody in as `postgres`. Dropping it ends it.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    child: Child,
    _directory: ServerDirectory,
}

impl PgBouncer {
    /// Starts one before `server`; `settings` are lines of its `[pgbouncer]` section, such as `pool_mode`.
    ///
    /// `None`, said loudly, if it is not installed; a failure under `SYNCLINE_REQUIRE_SERVERS=1`.
    ///
    /// # Panics
    /// As said, and if it does not start.
    #[must_use]
    pub fn start(server: &Postgres, settings: &[(&str, &str)]) -> Option<Self> {
        let Some(program) = program() else {
            skip_or_fail("no PgBouncer: install it (Debian: apt-get install pgbouncer)");
            return None;
        };
        for _ in 0..START_ATTEMPTS_MAX {
            if let Some(started) = Self::start_on(ports::free(), &program, server, settings) {
                return Some(started);
            }
        }
        panic!("PgBouncer does not start with {settings:?}")
    }

    fn start_on(port: u16, program: &Path, server: &Postgres, settings: &[(&str, &str)]) -> Option<Self> {
        let directory = ServerDirectory::create();
        let path = directory.path().join("pgbouncer.ini");
        let own: String = settings.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        let configuration = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\nlogfile = {}\n{own}",
            server.port(),
            directory.path().join("pgbouncer.log").display()
        );
        fs::write(&path, configuration).expect("cannot write pgbouncer.ini");
        directory.hand_over();
        let mut command = privilege_free(program, "KILL");
        command.arg(&path).current_dir(directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = spawn(command).expect("cannot start pgbouncer");
        let mut started = Self { port, child, _directory: directory };
        started.is_up().then_some(started)
    }

    /// Waits until it takes connections; `false` if it ended instead, as it does when the port is taken.
    fn is_up(&mut self) -> bool {
        let end = Instant::now() + START_TIMEOUT;
        while Instant::now() < end {
            if self.child.try_wait().expect("cannot look at a child process").is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(POLL);
        }
        false
    }

    /// The URL of a database through it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian installs it beside the system's own services, which is not in everybody's search path.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    directories.map(|directory| directory.join("pgbouncer")).find(|program| program.is_file())
}
