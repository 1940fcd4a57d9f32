//! Data directories made once by `initdb` and copied for each server: four times cheaper.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::directory::ServerDirectory;
use super::installation::Installation;
use crate::process::privilege_free;

/// Options of every cluster. Locale C: what a test expects of text order does not depend on the machine.
const INITDB_OPTIONS: [&str; 5] =
    ["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"];

/// Fills the data directory of a server from the template, which is made if there is none. The caller hands it over to the
/// server's account, when it has added its own.
pub(super) fn copy_into(directory: &ServerDirectory, installation: &Installation, initdb_options: &[String]) {
    let template = template(installation, initdb_options);
    let copied = Command::new("cp").arg("-a").arg(&template).arg(directory.data()).status();
    assert!(copied.is_ok_and(|status| status.success()), "cannot copy {}", template.display());
}

fn template(installation: &Installation, initdb_options: &[String]) -> PathBuf {
    let templates = templates_directory();
    fs::create_dir_all(&templates)
        .unwrap_or_else(|error| panic!("cannot create {}: {error}", templates.display()));
    let template = templates.join(name(installation, initdb_options));
    // Other test processes may want the same template at this moment; the lock ends with the file.
    let lock = File::create(template.with_extension("lock")).expect("cannot create the lock of a template");
    lock.lock().expect("cannot lock a template");
    if !template.is_dir() {
        make(&template, installation, initdb_options);
    }
    template
}

fn make(template: &Path, installation: &Installation, initdb_options: &[String]) {
    let directory = ServerDirectory::create();
    directory.hand_over();
    let mut initdb = privilege_free(&installation.program("initdb"), "KILL");
    initdb.args(INITDB_OPTIONS).args(initdb_options).arg("-D").arg(directory.data());
    initdb.current_dir(directory.path()).env("HOME", directory.path());
    let output = initdb.output().expect("cannot start initdb");
    assert!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
    // A half-copied template must never be taken for a whole one.
    let unfinished = template.with_extension("unfinished");
    let _ = fs::remove_dir_all(&unfinished);
    let copied = Command::new("cp").arg("-a").arg(directory.data()).arg(&unfinished).status();
    assert!(copied.is_ok_and(|status| status.success()), "cannot copy into {}", unfinished.display());
    fs::rename(&unfinished, template).expect("cannot name a template");
}

/// Named by everything that decides its content. An update within a major version keeps the format.
fn name(installation: &Installation, initdb_options: &[String]) -> String {
    let options: String = initdb_options.concat();
    let options: String = options.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("pg{}{options}", installation.major())
}

/// In the target directory, which cargo marks by a file; without one, among the temporary files of the user.
fn templates_directory() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file());
    let parent = target.map_or_else(std::env::temp_dir, Path::to_path_buf);
    parent.join("testkit-templates")
}
