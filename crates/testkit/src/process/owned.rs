//! Starting a child that dies with the test process.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{LazyLock, Mutex, PoisonError};

struct Request {
    command: Command,
    answer: SyncSender<io::Result<Child>>,
}

/// The thread that is the parent of every child. It ends with the process, never before.
static PARENT: LazyLock<Mutex<SyncSender<Request>>> = LazyLock::new(|| {
    let (requests, inbox) = sync_channel::<Request>(1);
    std::thread::Builder::new()
        .name("testkit-children".into())
        .spawn(move || {
            for Request { mut command, answer } in inbox {
                // Nobody waits for the answer any more only if the asking thread panicked; the child then dies with us.
                let _ = answer.send(command.spawn());
            }
        })
        .expect("cannot start a thread");
    Mutex::new(requests)
});

/// Starts a command whose life ends with this process, however this process ends, if the command came from
/// [`privilege_free`] or is itself wrapped in `setpriv --pdeathsig`.
///
/// # Errors
/// Those of [`Command::spawn`].
pub fn spawn(command: Command) -> io::Result<Child> {
    let (answer, outcome) = sync_channel(1);
    let request = Request { command, answer };
    PARENT
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send(request)
        .map_err(|_| io::ErrorKind::BrokenPipe)?;
    outcome.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?
}

/// A command for `program` that gets `death_signal` when this process ends, and that runs as `nobody` if this process
/// is root: PostgreSQL and the MySQL family refuse root.
#[must_use]
pub fn privilege_free(program: &Path, death_signal: &str) -> Command {
    let mut command = dying_with_us(death_signal);
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
    }
    command.arg("--").arg(program);
    command
}

/// A command for `program` that is killed when this process ends.
#[must_use]
pub fn wrapped_to_die_with_us(program: &OsStr, arguments: &[OsString]) -> Command {
    let mut command = dying_with_us("KILL");
    command.arg("--").arg(program).args(arguments);
    command
}

/// The head of a command line that gets `death_signal` when this process ends; the program follows after `--`.
pub(super) fn dying_with_us(death_signal: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", death_signal]);
    command
}

/// Whether a process still runs. One that has ended but whose parent has not looked yet counts as ended.
#[must_use]
pub fn alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the command name, which is in parentheses and may hold anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, Some('Z' | 'X') | None)
}
