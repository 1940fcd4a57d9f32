//! From where on lanes find everything they need, kept in a file beside the segments: what lies before was freed, because
//! they had it behind themselves.
//!
//! A destination can be set back: by a restored backup, or by a failover that lost its last commits. Its lanes then stand
//! before changes that the journal let go, and reading on would skip them in silence. Whoever opens the journal compares.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use syncline_core::{Error, ErrorKind, Position, Result};

use crate::failure::disk;
use crate::need::Need;
use crate::segment_file::sync_dir;

fn path_in(dir: &Path) -> PathBuf {
    dir.join("freed.json")
}

/// Remembers, durably, that everything up to `to` is about to be freed as far as `needs` do not want it.
pub(crate) fn remember(dir: &Path, needs: &[Need], to: &Position) -> Result<()> {
    let path = path_in(dir);
    let before = recall(dir)?.unwrap_or_default();
    let needs: Vec<Need> = needs.iter().map(|need| freed(need, to, &before)).collect();
    let text = serde_json::to_vec(&needs)
        .map_err(|error| Error::bug("the needs of lanes cannot be written").with_source(error))?;
    let unfinished = path.with_extension("tmp");
    let written = File::create(&unfinished)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&unfinished, &path))
        .and_then(|()| sync_dir(&path));
    written.map_err(|error| disk("cannot write", &path, error))
}

/// A lane stands beyond what is freed of it now, and beyond what was freed before.
fn freed(need: &Need, to: &Position, before: &[Need]) -> Need {
    let lane = need.tables.lane();
    let now = to.min(&need.after);
    let earlier = before.iter().find(|old| old.tables.lane() == lane).map(|old| &old.after);
    Need { after: earlier.map_or(now, |earlier| earlier.max(now)).clone(), tables: need.tables.clone() }
}

/// What was remembered; `None` if nothing was freed yet.
pub(crate) fn recall(dir: &Path) -> Result<Option<Vec<Need>>> {
    let path = path_in(dir);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(disk("cannot read", &path, error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        Error::new(ErrorKind::Conflict, format!("{} is damaged", path.display()))
            .with_remedy("remove the directory of the journal; tables in their snapshot start over")
            .with_source(error)
    })
}

/// Forgets it: a journal that begins anew has freed nothing.
pub(crate) fn forget(dir: &Path) -> Result<()> {
    let path = path_in(dir);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk("cannot remove", &path, error)),
        _ => Ok(()),
    }
}
