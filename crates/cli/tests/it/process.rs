//! A folder with a state directory, in which the binary is run, never without a limit of time.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use syncline_testkit::process::{Outcome, Running, Syncline};
use tempfile::TempDir;

/// Longest time any run in these tests may take.
pub(crate) const RUN_MAX: Duration = Duration::from_secs(180);

/// Where a test runs the binary.
pub(crate) struct Room {
    dir: TempDir,
}

impl Room {
    pub(crate) fn new() -> Self {
        let room = Self { dir: TempDir::new().unwrap() };
        std::fs::create_dir(room.path("tmp")).unwrap();
        room
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
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

    /// The binary, with this room as its world.
    pub(crate) fn syncline<A: AsRef<str>>(&self, args: &[A]) -> Syncline {
        Syncline::new()
            .args(args.iter().map(AsRef::as_ref))
            .current_dir(self.dir.path())
            .env("SYNCLINE_LOG", "error")
            .env("SYNCLINE_STATE_DIR", self.path("state"))
            .env("TMPDIR", self.path("tmp"))
    }

    /// Runs to the end.
    pub(crate) fn run<A: AsRef<str>>(&self, args: &[A]) -> Outcome {
        self.syncline(args).run(RUN_MAX)
    }

    /// `status NAME --output json`, if the pipeline is known.
    pub(crate) fn status(&self, name: &str) -> Option<serde_json::Value> {
        let ended = self.run(&["status", name, "--output", "json"]);
        (ended.code() == Some(0)).then(|| serde_json::from_str(ended.stdout.trim()).unwrap())
    }

    /// Waits until a pipeline runs and says that it is in this phase.
    pub(crate) fn wait_for_phase(&self, name: &str, phase: &str, running: &mut Running) {
        let start = Instant::now();
        loop {
            let status = self.status(name);
            if status.as_ref().is_some_and(|s| s["running"] == true && s["status"]["phase"] == phase) {
                return;
            }
            assert!(running.is_running(), "ended before {phase}: {}", running.stderr_so_far());
            assert!(start.elapsed() < RUN_MAX, "not {phase} in time: {status:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// What a run must end with, where the rest of its outcome may be of no interest.
pub(crate) trait EndsWith {
    /// Panics with everything that was said unless the run ended with this code.
    fn ends_with(self, code: i32) -> Self;
}

impl EndsWith for Outcome {
    #[track_caller]
    fn ends_with(self, code: i32) -> Self {
        self.expect_code(code)
    }
}
