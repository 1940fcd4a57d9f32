//! Running the binary, with an environment of its own and never without a limit of time.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest time any run in these tests may take.
const RUN_MAX: Duration = Duration::from_secs(180);

/// A folder with a state directory, in which the binary is run.
pub(crate) struct Room {
    dir: TempDir,
}

impl Room {
    pub(crate) fn new() -> Self {
        let room = Self { dir: TempDir::new().unwrap() };
        std::fs::create_dir(room.path("tmp")).unwrap();
        room
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("sqlite:{}", self.path(name).display())
    }

    /// What is in the folder that the binary takes for the system's temporary one.
    pub(crate) fn left_in_tmp(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.path("tmp")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_remove("SYNCLINE_LOG")
            .env("SYNCLINE_STATE_DIR", self.path("state"))
            .env("TMPDIR", self.path("tmp"))
            .stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, &[])
    }

    /// Runs to the end with variables set.
    pub(crate) fn run_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Ended {
        let mut command = self.command(args);
        command.envs(variables.iter().copied());
        Running::start(command, self.dir.path()).end()
    }

    /// Starts a run.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        Running::start(self.command(args), self.dir.path())
    }

    /// `status NAME --output json`, if the pipeline is known.
    pub(crate) fn status(&self, name: &str) -> Option<serde_json::Value> {
        let ended = self.run(&["status", name, "--output", "json"]);
        (ended.code == 0).then(|| serde_json::from_str(ended.out.lines().next().unwrap()).unwrap())
    }

    /// Waits until a pipeline runs and says that it is in this phase.
    pub(crate) fn wait_for_phase(&self, name: &str, phase: &str, running: &mut Running) {
        let start = Instant::now();
        loop {
            let status = self.status(name);
            if status.as_ref().is_some_and(|s| s["running"] == true && s["status"]["phase"] == phase) {
                return;
            }
            assert!(running.lives(), "ended before {phase}: {status:?}");
            assert!(start.elapsed() < RUN_MAX, "not {phase} in time: {status:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A run that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// Panics with everything that was said unless the run ended with this code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }
}

/// A run that goes on. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    fn start(mut command: Command, dir: &Path) -> Self {
        // Files, not pipes: a run can say as much as it likes without anybody reading along.
        let file = |suffix| tempfile::Builder::new().suffix(suffix).tempfile_in(dir).unwrap().keep().unwrap();
        let ((out, out_path), (err, err_path)) = (file(".out"), file(".err"));
        let child = command.stdout(out).stderr(err).spawn().unwrap();
        Self { child, out: out_path, err: err_path }
    }

    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What was said on stderr so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap()
    }

    /// Waits until stderr has this text.
    pub(crate) fn wait_until_said(&mut self, text: &str) {
        let start = Instant::now();
        while !self.said().contains(text) {
            assert!(self.lives(), "ended without saying {text:?}: {}", self.said());
            assert!(start.elapsed() < RUN_MAX, "not said in time: {text:?}: {}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits for the end.
    pub(crate) fn end(mut self) -> Ended {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < RUN_MAX, "no end in time: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        };
        let Output { stdout, stderr, .. } = Output {
            status,
            stdout: std::fs::read(&self.out).unwrap(),
            stderr: std::fs::read(&self.err).unwrap(),
        };
        Ended {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
