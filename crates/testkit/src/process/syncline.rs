//! The real `syncline` binary, started as a user would start it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::owned::{dying_with_us, spawn};

/// How often a waiting test looks again.
const POLL: Duration = Duration::from_millis(20);

/// A command line of the `syncline` binary, before it is started.
#[derive(Debug)]
pub struct Syncline {
    command: Command,
}

impl Syncline {
    /// The binary named by `SYNCLINE_BIN`, else the one in the target directory that this test was built into.
    ///
    /// # Panics
    /// If there is none: `cargo build --package syncline-cli --features failpoints` makes it.
    #[must_use]
    pub fn new() -> Self {
        let mut command = dying_with_us("KILL");
        command.arg("--").arg(binary()).stdin(Stdio::null());
        Self { command }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the directory that relative paths start from.
    #[must_use]
    pub fn current_dir(mut self, directory: impl AsRef<std::path::Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Starts it. Standard output and standard error are collected while it runs.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(mut self) -> Running {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(self.command).expect("cannot start the syncline binary");
        let stdout = Collected::from(child.stdout.take().expect("standard output is piped"));
        let stderr = Collected::from(child.stderr.take().expect("standard error is piped"));
        Running { child, stdout, stderr }
    }

    /// Starts it and waits for its end.
    ///
    /// # Panics
    /// If it still runs after `timeout`; it is killed and what it said is shown.
    #[must_use]
    pub fn run(self, timeout: Duration) -> Outcome {
        self.start().wait(timeout)
    }
}

impl Default for Syncline {
    fn default() -> Self {
        Self::new()
    }
}

/// A started binary. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Collected,
    stderr: Collected,
}

impl Running {
    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// If the system cannot say.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("cannot look at a child process").is_none()
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it by SIGKILL and waits until it is gone.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn kill_9(mut self) -> Outcome {
        self.child.kill().expect("cannot kill a child process");
        let status = self.child.wait().expect("cannot wait for a child process");
        self.outcome(status)
    }

    /// What it has written to standard output so far.
    #[must_use]
    pub fn stdout_so_far(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to standard error so far.
    #[must_use]
    pub fn stderr_so_far(&self) -> String {
        self.stderr.text()
    }

    /// Waits until `text` stands in either output.
    ///
    /// # Panics
    /// If it ends first, or `timeout` passes.
    pub fn wait_for_output(&mut self, text: &str, timeout: Duration) {
        let end = Instant::now() + timeout;
        loop {
            let running = self.is_running();
            if self.stdout.text().contains(text) || self.stderr.text().contains(text) {
                return;
            }
            let why = if running { "was not written in time" } else { "was never written" };
            assert!(running && Instant::now() < end, "`{text}` {why}\n{}", self.transcript());
            std::thread::sleep(POLL);
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it still runs after `timeout`; it is killed and what it said is shown.
    #[must_use]
    pub fn wait(mut self, timeout: Duration) -> Outcome {
        let end = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait().expect("cannot look at a child process") {
                return self.outcome(status);
            }
            assert!(Instant::now() < end, "syncline still runs after {timeout:?}\n{}", self.transcript());
            std::thread::sleep(POLL);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself a moment ago.
            let _ = kill_process(pid, signal);
        }
    }

    fn transcript(&self) -> String {
        format!("--- stdout\n{}\n--- stderr\n{}", self.stdout.text(), self.stderr.text())
    }

    fn outcome(&mut self, status: ExitStatus) -> Outcome {
        Outcome { status, stdout: self.stdout.finish(), stderr: self.stderr.finish() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a run of the binary ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    status: ExitStatus,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

impl Outcome {
    /// The exit code; `None` if a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Requires an exit code, and shows what the binary said if it is another.
    ///
    /// # Panics
    /// If it is another.
    #[must_use]
    pub fn expect_code(self, code: i32) -> Self {
        let Self { status, stdout, stderr } = &self;
        assert_eq!(status.code(), Some(code), "{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        self
    }
}

/// An output that a thread collects line by line, so that a pipe never fills and a test can look at any time.
#[derive(Debug)]
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Collected {
    fn from(pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).append(&mut line);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Everything, once the writer has closed its end.
    fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.text()
    }
}

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SYNCLINE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a process knows its own program");
    let built = test.ancestors().map(|directory| directory.join("syncline")).find(|path| path.is_file());
    built.unwrap_or_else(|| {
        panic!(
            "no syncline binary beside the tests: cargo build --package syncline-cli --features failpoints"
        )
    })
}
