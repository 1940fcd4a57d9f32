//! A connector is one folder: nothing of its system stands anywhere else, but one line in the registry and one in `lib.rs`.

use super::Finding;
use super::source::SourceFile;

/// Libraries of one system, and the places that may use them.
const LIBRARIES: [(&str, &[&str]); 4] = [
    ("tokio_postgres", &["crates/connectors/src/postgres/"]),
    ("postgres_protocol", &["crates/connectors/src/postgres/"]),
    // The store keeps its own file in SQLite; the demo makes its shop with it.
    ("rusqlite", &["crates/connectors/src/sqlite/", "crates/store/src/", "crates/cli/src/"]),
    ("pg_catalog", &["crates/connectors/src/postgres/"]),
];

const CONNECTORS: &str = "crates/connectors/src/";
/// The two files of the connectors' room that may name a connector.
const INDEX: [&str; 2] = ["crates/connectors/src/lib.rs", "crates/connectors/src/registry.rs"];

/// Checks all production code.
pub(super) fn check(files: &[SourceFile]) -> Vec<Finding> {
    let connectors = connector_folders(files);
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.is_production()) {
        for (number, code) in file.code() {
            let place = || format!("{}:{number}", file.path);
            for (library, places) in LIBRARIES {
                if has_word(code, library) && !places.iter().any(|place| file.path.starts_with(place)) {
                    findings
                        .push(Finding::new(place(), format!("`{library}` belongs to {}", places.join(", "))));
                }
            }
            for connector in &connectors {
                if names_connector(&file.path, code, connector) {
                    findings.push(Finding::new(
                        place(),
                        format!("names the connector `{connector}`; ask through the contracts"),
                    ));
                }
            }
        }
    }
    findings
}

fn connector_folders(files: &[SourceFile]) -> Vec<String> {
    let folders = files.iter().filter_map(|file| file.path.strip_prefix(CONNECTORS)?.split_once('/'));
    let mut folders: Vec<_> =
        folders.map(|(folder, _)| folder.to_owned()).filter(|folder| folder != "sql").collect();
    folders.dedup();
    folders
}

/// A path that leads into a connector's folder, from outside of it.
fn names_connector(path: &str, code: &str, connector: &str) -> bool {
    let inside = path.starts_with(&format!("{CONNECTORS}{connector}/"));
    let paths = [format!("crate::{connector}::"), format!("syncline_connectors::{connector}")];
    path.starts_with(CONNECTORS)
        && !inside
        && !INDEX.contains(&path)
        && paths.iter().any(|path| code.contains(path))
}

/// Whether a word stands in the code, not as part of a longer one.
fn has_word(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(start, _)| {
        !code[..start].ends_with(is_part) && !code[start + word.len()..].starts_with(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), lines: text.lines().map(str::to_owned).collect() }
    }

    #[test]
    fn a_system_outside_its_folder_is_found_but_not_in_comments_or_tests() {
        let inside = file("crates/connectors/src/postgres/mod.rs", "use tokio_postgres::Client;");
        let engine = file(
            "crates/engine/src/run.rs",
            "//! tokio_postgres is not used here.\nuse tokio_postgres::Client;\n#[cfg(test)]\nmod tests { use tokio_postgres; }",
        );
        let neighbour = file("crates/connectors/src/sqlite/mod.rs", "use crate::postgres::quote;");
        let findings = check(&[inside, engine, neighbour]);
        let places: Vec<_> = findings.iter().map(|finding| finding.place.as_str()).collect();
        assert_eq!(places, ["crates/engine/src/run.rs:2", "crates/connectors/src/sqlite/mod.rs:1"]);
    }
}
