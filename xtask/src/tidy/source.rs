//! The workspace's Rust files, as lines.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Outcome;

/// A Rust file of the workspace.
pub(super) struct SourceFile {
    /// From the workspace's root, with `/`.
    pub(super) path: String,
    pub(super) lines: Vec<String>,
}

impl SourceFile {
    /// How many lines stand before the file's unit tests.
    pub(super) fn production_lines(&self) -> usize {
        let tests =
            self.lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "));
        tests.unwrap_or(self.lines.len())
    }

    /// Whether it is compiled into a product, not only into tests.
    pub(super) fn is_production(&self) -> bool {
        let is_test_file = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        !is_test_file && !self.path.starts_with("crates/testkit/") && !self.path.starts_with("xtask/")
    }

    /// The code of its production part, line by line with numbers, without comments.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.lines.iter().take(self.production_lines()).enumerate();
        lines.filter_map(|(index, line)| {
            let code = line.split("//").next().unwrap_or_default();
            (!code.trim().is_empty()).then_some((index + 1, code))
        })
    }
}

/// Every Rust file under `crates` and `xtask`.
pub(super) fn rust_files(root: &Path) -> Outcome<Vec<SourceFile>> {
    let mut files = Vec::new();
    for path in files_with_extension(root, &["crates", "xtask", "fuzz"], "rs")? {
        let text =
            fs::read_to_string(root.join(&path)).map_err(|error| format!("cannot read {path}: {error}"))?;
        files.push(SourceFile { path, lines: text.lines().map(str::to_owned).collect() });
    }
    Ok(files)
}

/// Files with this extension under the folders, sorted, from the root.
pub(super) fn files_with_extension(root: &Path, folders: &[&str], extension: &str) -> Outcome<Vec<String>> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() {
            continue;
        }
        let failed = |error| format!("cannot list {}: {error}", folder.display());
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if path.is_dir() && !hidden && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|of_file| of_file == extension) {
                let path = path.strip_prefix(root).unwrap_or(&path);
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}
