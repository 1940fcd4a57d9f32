//! One holder per pipeline: a lock of the operating system on a file beside the database.
//!
//! The lock ends with its process, however that ends. The file names the holder, for the message to the one who is
//! refused, and is removed when the pipeline is released. A lock that outlives its holder (a descriptor inherited by a child that
//! still runs) is put aside: the fence makes it harmless.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use syncline_core::{Error, Holder, PipelineName, Result};

/// A process that was just killed needs a moment to end.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// A held lock; dropped, it is released.
pub(super) struct Lock(LockFile);

/// The file, whoever holds it.
struct LockFile {
    file: File,
    path: PathBuf,
}

/// Takes the lock of a pipeline of a database that exists.
pub(super) fn take(database: &Path, pipeline: &PipelineName, holder: Option<&Holder>) -> Result<Lock> {
    let failed = |error| Error::io("the lock file beside the database cannot be used", error);
    // Two ways to one file are one lock.
    let mut path = database.canonicalize().map_err(failed)?.into_os_string();
    path.push(format!(".{pipeline}.syncline-lock"));
    let path = PathBuf::from(path);
    let until = Instant::now() + WAIT_MAX;
    loop {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = LockFile { file: open.map_err(failed)?, path: path.clone() };
        match file.file.try_lock() {
            Ok(()) if file.is_current() => {
                let mut lock = Lock(file);
                lock.0.name(holder).map_err(failed)?;
                return Ok(lock);
            }
            // Its holder released and removed it between our two calls.
            Ok(()) => continue,
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {}
        }
        let held_by = file.holder();
        if held_by.as_ref().is_some_and(is_gone) && file.is_current() {
            std::fs::remove_file(&path).map_err(failed)?;
        } else if Instant::now() >= until {
            return Err(refused(pipeline, held_by.as_ref()));
        } else {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl LockFile {
    /// Whether this file is the one that stands at the path.
    fn is_current(&self) -> bool {
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(own), Ok(there)) => own.ino() == there.ino() && own.dev() == there.dev(),
            _ => false,
        }
    }

    fn name(&mut self, holder: Option<&Holder>) -> std::io::Result<()> {
        self.file.set_len(0)?;
        if let Some(holder) = holder {
            let text = serde_json::to_string(holder).map_err(std::io::Error::other)?;
            self.file.write_all(text.as_bytes())?;
        }
        self.file.flush()
    }

    fn holder(&mut self) -> Option<Holder> {
        let mut text = String::new();
        self.file.read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.0.is_current() {
            // Left behind, it is only a file that the next holder takes.
            let _ = std::fs::remove_file(&self.0.path);
        }
    }
}

/// Whether a holder of this host has ended. Of other hosts (a shared folder) nothing is known, so they live.
fn is_gone(holder: &Holder) -> bool {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let (Some(host), Some(boot_id)) =
        (read("/proc/sys/kernel/hostname"), read("/proc/sys/kernel/random/boot_id"))
    else {
        return false;
    };
    if holder.host != host {
        return false;
    }
    let stat = read(&format!("/proc/{}/stat", holder.pid));
    // The name in parentheses may hold spaces; the start is the 20th field after it.
    let start = stat.as_deref().and_then(|stat| stat.rsplit(')').next()?.split_whitespace().nth(19));
    holder.boot_id != boot_id || start.and_then(|start| start.parse().ok()) != Some(holder.process_start)
}

fn refused(pipeline: &PipelineName, holder: Option<&Holder>) -> Error {
    let who = match holder {
        Some(holder) => format!("process {} on host {}", holder.pid, holder.host),
        None => "another process".to_owned(),
    };
    Error::configuration(format!("pipeline {pipeline} is held by {who}"))
        .with_remedy("wait until it ends or stop it, then run again; or give this run another --name")
}

#[cfg(test)]
mod tests {
    use syncline_core::ErrorKind;

    use super::*;

    #[test]
    fn one_holder_at_a_time_and_nothing_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("x.db");
        std::fs::write(&database, "").unwrap();
        let name = PipelineName::new("p").unwrap();
        let held = take(&database, &name, None).unwrap();
        assert_eq!(take(&database, &name, None).err().unwrap().kind(), ErrorKind::Configuration);
        take(&database, &PipelineName::new("other").unwrap(), None).unwrap();
        drop(held);
        take(&database, &name, None).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
