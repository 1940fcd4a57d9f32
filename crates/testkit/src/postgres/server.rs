//! A running server: how tests reach it, stop it and start it again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::{Client, NoTls};

use super::builder::{Builder, Tls};
use super::directory::ServerDirectory;
use super::installation::Installation;
use super::template;
use crate::ports;
use crate::process::{alive, privilege_free, spawn};

const POLL: Duration = Duration::from_millis(10);
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Between choosing a port and binding it, another process may take it.
const START_ATTEMPTS_MAX: u32 = 5;

/// A PostgreSQL server in a temporary directory. Dropping it ends it and removes the directory.
#[derive(Debug)]
pub struct Postgres {
    installation: Installation,
    password: Option<String>,
    port: u16,
    /// The postmaster while it runs. A lock, so that one test task may restart the server that another one uses.
    postmaster: Mutex<Option<Child>>,
    directory: ServerDirectory,
}

impl Postgres {
    /// Starts a server with the usual settings; `None` if PostgreSQL is not installed, see
    /// [`Installation::find_or_skip`].
    ///
    /// # Panics
    /// If it does not start; its log is in the message.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::builder().start()
    }

    /// Asks for a server of another version, with other settings or with a password.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(super) fn create(installation: Installation, asked: &Builder) -> Self {
        let directory = ServerDirectory::create();
        template::copy_into(&directory, &installation, asked.initdb_options());
        configure(&directory, asked);
        if asked.asked_tls() == Tls::Offered {
            certify(directory.path());
        }
        directory.hand_over();
        let password = asked.asked_password().map(str::to_owned);
        let postmaster = Mutex::new(None);
        let mut server = Self { installation, password, port: 0, postmaster, directory };
        server.start_on_free_port();
        if let Some(password) = &server.password {
            server.psql(
                "postgres",
                &format!("ALTER ROLE postgres PASSWORD '{}'", password.replace('\'', "''")),
            );
        }
        server
    }

    fn start_on_free_port(&mut self) {
        for attempt in 1.. {
            self.port = ports::free();
            match self.start_postmaster() {
                Ok(()) => return,
                Err(log) if attempt == START_ATTEMPTS_MAX || !log.contains("could not bind") => {
                    panic!("PostgreSQL does not start:\n{log}")
                }
                Err(_) => {}
            }
        }
    }

    /// The installation it was started from.
    #[must_use]
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// The TCP port, on 127.0.0.1. It stays the same over restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database over TCP, as the superuser `postgres`, with the password if there is one.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let password = self.password.as_ref().map(|password| format!(":{password}")).unwrap_or_default();
        format!("postgres://postgres{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// The URL of a database over TCP, as another role.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        format!("postgres://{user}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// The URL of a database over the Unix socket, as the superuser `postgres`.
    #[must_use]
    pub fn socket_url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@/{database}?host={}&port={}",
            self.socket_directory().display(),
            self.port
        )
    }

    /// The directory of the Unix socket.
    #[must_use]
    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// The data directory.
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        self.directory.data()
    }

    /// The certificate to trust, in PEM, of a server that was built with [`Builder::tls`].
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("server.crt")
    }

    /// What the server has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The postmaster's process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.postmaster().as_ref().map(Child::id)
    }

    /// Connects as the superuser. The connection's own task ends when the client is dropped.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn client(&self, database: &str) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url(database), NoTls)
            .await
            .unwrap_or_else(|error| panic!("cannot connect to {database}: {error:?}\n{}", self.log()));
        tokio::spawn(async move {
            // A server that a test kills ends its connections; the test sees that at its next statement.
            let _ = connection.await;
        });
        client
    }

    /// Runs statements, each of several in one implicit transaction, as the superuser.
    ///
    /// # Panics
    /// If one fails.
    pub async fn execute(&self, database: &str, sql: &str) {
        let outcome = self.client(database).await.batch_execute(sql).await;
        outcome.unwrap_or_else(|error| panic!("{error:?}\nin {sql}"));
    }

    /// Creates a database.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn create_database(&self, name: &str) {
        self.execute("postgres", &format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""))).await;
    }

    /// Runs statements by `psql`, and returns what it prints, unaligned and without headers. Blocks the thread.
    ///
    /// # Panics
    /// If one fails.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let mut psql = self.client_command("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]);
        let output = psql.output().expect("cannot start psql");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}\nin {sql}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// A client program such as `psql` or `pgbench`, with host, port and user set for this server; the caller adds the
    /// database.
    #[must_use]
    pub fn client_command(&self, program: &str) -> Command {
        let mut command = Command::new(self.installation.client_program(program));
        command.env("PGHOST", self.socket_directory()).env("PGPORT", self.port.to_string());
        command.env("PGUSER", "postgres").stdin(Stdio::null());
        command
    }

    /// Stops it as an administrator would: sessions are cut off, everything is written.
    ///
    /// # Panics
    /// If it does not stop in time.
    pub fn stop_fast(&self) {
        let stopped = self.end(Signal::INT);
        assert!(stopped, "PostgreSQL does not stop:\n{}", self.log());
    }

    /// Kills all of its processes at once, as the death of the machine's kernel would.
    pub fn kill_9(&self) {
        if let Some(pid) = self.pid() {
            // The postmaster first: it would restart the rest.
            let children = children(pid);
            self.end(Signal::KILL);
            for child in &children {
                signal(*child, Signal::KILL);
            }
            let end = Instant::now() + STOP_TIMEOUT;
            while children.iter().any(|child| alive(*child)) && Instant::now() < end {
                std::thread::sleep(POLL);
            }
        }
    }

    /// Stops it if it runs, starts it on the same port, and waits until it takes connections, after a kill too.
    ///
    /// # Panics
    /// If it does not start; its log is in the message.
    pub fn restart(&self) {
        self.stop_fast();
        let end = Instant::now() + START_TIMEOUT;
        while let Err(log) = self.start_postmaster() {
            // A port or a shared memory segment may need a moment to become free.
            assert!(Instant::now() < end, "PostgreSQL does not start again:\n{log}");
            std::thread::sleep(10 * POLL);
        }
    }

    /// Starts the postmaster and waits until it takes connections; the error is the log's part of this start.
    fn start_postmaster(&self) -> Result<(), String> {
        let log_path = self.log_path();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .expect("cannot open the server's log");
        let logged_before = log.metadata().map_or(0, |metadata| metadata.len());
        let mut command = privilege_free(&self.installation.program("postgres"), "QUIT");
        command.arg("-D").arg(self.directory.data()).args(["-p", &self.port.to_string()]);
        command.current_dir(self.directory.path()).env("HOME", self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = spawn(command).expect("cannot start postgres");
        let end = Instant::now() + START_TIMEOUT;
        loop {
            let ended = child.try_wait().expect("cannot look at a child process").is_some();
            if ended || Instant::now() >= end {
                let _ = child.kill();
                let _ = child.wait();
                let log = fs::read(&log_path).unwrap_or_default();
                let start = usize::try_from(logged_before).unwrap_or(0).min(log.len());
                return Err(String::from_utf8_lossy(&log[start..]).into_owned());
            }
            if self.is_ready(child.id()) {
                *self.postmaster() = Some(child);
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Line 1 of `postmaster.pid` is the process, line 8 its state; a killed server leaves the file of the one before.
    fn is_ready(&self, pid: u32) -> bool {
        let lock = fs::read_to_string(self.directory.data().join("postmaster.pid")).unwrap_or_default();
        let mut lines = lock.lines();
        lines.next().and_then(|line| line.trim().parse().ok()) == Some(pid)
            && lines.nth(6).is_some_and(|state| state.trim() == "ready")
    }

    /// Whether the server is gone in time after this signal.
    fn end(&self, how: Signal) -> bool {
        let Some(mut child) = self.postmaster().take() else { return true };
        signal(child.id(), how);
        let end = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < end {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(POLL),
                Ok(Some(_)) | Err(_) => return true,
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    }

    fn postmaster(&self) -> MutexGuard<'_, Option<Child>> {
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Immediate shutdown: unlike a kill it takes the server's processes and its shared memory along.
        self.end(Signal::QUIT);
    }
}

fn configure(directory: &ServerDirectory, asked: &Builder) {
    let data = directory.data();
    let path = data.join("postgresql.conf");
    let mut configuration = fs::read_to_string(&path).expect("initdb makes postgresql.conf");
    configuration.push_str(&asked.configuration(&directory.path().display().to_string()));
    fs::write(&path, configuration).expect("cannot write postgresql.conf");
    if asked.asked_password().is_some() {
        let rules = "local all all trust\nlocal replication all trust\n\
                     host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n";
        fs::write(data.join("pg_hba.conf"), rules).expect("cannot write pg_hba.conf");
    }
}

/// A certificate that vouches for itself.
fn certify(directory: &Path) {
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-noenc",
        "-days",
        "2",
    ]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
    openssl.args(["-keyout", "server.key", "-out", "server.crt"]).current_dir(directory);
    let output = openssl.output().expect("cannot start openssl, which makes the certificate");
    assert!(output.status.success(), "openssl failed: {}", String::from_utf8_lossy(&output.stderr));
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(directory.join("server.key"), private).expect("cannot protect a key");
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself a moment ago.
        let _ = kill_process(pid, signal);
    }
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}
