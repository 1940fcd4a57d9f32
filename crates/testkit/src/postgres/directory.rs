//! A server's temporary directory, and what a killed test process left of one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::alive;

const PREFIX: &str = "syncline-pg-";

/// A directory that is removed when it is dropped. Its name holds our process id, so that a later process can tell
/// whether it was left behind; it is short, for a Unix socket's path has at most 107 bytes.
#[derive(Debug)]
pub(crate) struct ServerDirectory {
    path: PathBuf,
}

impl ServerDirectory {
    pub(crate) fn create() -> Self {
        static SWEPT: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(remove_left_behind);
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new("/tmp").join(name);
        // An earlier process may have had our process id.
        remove(&path);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Makes everything in it belong to the account that the server runs as.
    pub(crate) fn hand_over(&self) {
        if rustix::process::geteuid().is_root() {
            let status = Command::new("chown").args(["-R", "nobody:nogroup"]).arg(&self.path).status();
            assert!(status.is_ok_and(|status| status.success()), "cannot chown {}", self.path.display());
        }
    }
}

impl Drop for ServerDirectory {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove_left_behind() {
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.split('-').next());
        if owner.and_then(|owner| owner.parse().ok()).is_some_and(|owner: u32| !alive(owner)) {
            remove(&entry.path());
        }
    }
}

fn remove(path: &Path) {
    remove_shared_memory(&path.join("data"));
    // Another test process may be removing the same left-over.
    let _ = fs::remove_dir_all(path);
}

/// A killed server leaves its System V segment behind, and the system has a small fixed number of them. Line 7 of
/// `postmaster.pid` holds key and id.
fn remove_shared_memory(data: &Path) {
    let Ok(lock) = fs::read_to_string(data.join("postmaster.pid")) else { return };
    let Some(id) = lock.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) else { return };
    let _ = Command::new("ipcrm").args(["-m", id]).output();
}
