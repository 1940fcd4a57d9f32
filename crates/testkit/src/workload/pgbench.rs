//! PostgreSQL's own load, by PostgreSQL's own program.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::postgres::Postgres;
use crate::process::{spawn, wrapped_to_die_with_us};

/// Creates and fills the tables of pgbench: `scale` × 100,000 accounts. `pgbench_history` has no key, so it gets REPLICA
/// IDENTITY FULL: without it Syncline would refuse to stream it.
///
/// # Panics
/// If pgbench fails.
pub fn init(server: &Postgres, database: &str, scale: u32) {
    let mut pgbench = server.client_command("pgbench");
    pgbench.args(["--initialize", "--quiet", "--init-steps=dtgvp", &format!("--scale={scale}"), database]);
    let output = pgbench.output().expect("cannot start pgbench");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    server.psql(database, "ALTER TABLE pgbench_history REPLICA IDENTITY FULL");
}

/// Runs a number of transactions to their end. Blocks the thread.
///
/// # Panics
/// If pgbench fails.
pub fn run(server: &Postgres, database: &str, clients: u32, transactions_per_client: u32) {
    let mut pgbench = command(server, database, clients);
    pgbench.arg(format!("--transactions={transactions_per_client}"));
    let output = pgbench.output().expect("cannot start pgbench");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// pgbench at work until it is stopped or dropped. It is started again when its server was restarted under it.
#[derive(Debug)]
pub struct Load {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts pgbench's standard transactions, at most `rate_max` a second if that is given.
    #[must_use]
    pub fn start(server: &Postgres, database: &str, clients: u32, rate_max: Option<u32>) -> Self {
        let mut pgbench = command(server, database, clients);
        pgbench.arg("--time=3600");
        if let Some(rate) = rate_max {
            pgbench.arg(format!("--rate={rate}"));
        }
        let pgbench = OwnedCommand::of(&pgbench);
        let stopping = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stopping);
        let thread = std::thread::spawn(move || keep_running(&pgbench, &seen));
        Self { stopping, thread: Some(thread) }
    }

    /// Ends it. Transactions under way are rolled back or committed, as the server finds them.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A command line that can be started more than once.
struct OwnedCommand {
    program: std::ffi::OsString,
    arguments: Vec<std::ffi::OsString>,
    environment: Vec<(std::ffi::OsString, Option<std::ffi::OsString>)>,
}

impl OwnedCommand {
    fn of(command: &Command) -> Self {
        Self {
            program: command.get_program().to_owned(),
            arguments: command.get_args().map(Into::into).collect(),
            environment: command
                .get_envs()
                .map(|(name, value)| (name.to_owned(), value.map(Into::into)))
                .collect(),
        }
    }

    fn start(&self) -> Child {
        let mut command = wrapped_to_die_with_us(&self.program, &self.arguments);
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        spawn(command).expect("cannot start pgbench")
    }
}

fn keep_running(pgbench: &OwnedCommand, stopping: &AtomicBool) {
    const POLL: Duration = Duration::from_millis(20);
    while !stopping.load(Ordering::Relaxed) {
        let mut child = pgbench.start();
        while !stopping.load(Ordering::Relaxed) && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(POLL);
        }
        let _ = child.kill();
        let _ = child.wait();
        std::thread::sleep(POLL);
    }
}

fn command(server: &Postgres, database: &str, clients: u32) -> Command {
    let mut pgbench = server.client_command("pgbench");
    pgbench.args(["--no-vacuum", "--protocol=prepared", &format!("--client={clients}"), "--jobs=1"]);
    // Options may follow the database's name.
    pgbench.arg(database);
    pgbench
}
