//! Dependencies between the rooms run one way.

use std::fs;
use std::path::Path;

use super::Finding;
use crate::Outcome;

/// What each room may depend on. Tests of every room may use the testkit, which no product depends on.
const MAY_USE: [(&str, &[&str]); 8] = [
    ("core", &[]),
    ("connectors", &["core"]),
    ("journal", &["core"]),
    ("store", &["core"]),
    ("engine", &["core", "journal", "store"]),
    ("server", &["core", "engine"]),
    ("testkit", &["core"]),
    // The only place that wires the rooms together.
    ("cli", &["core", "connectors", "journal", "store", "engine", "server"]),
];

/// Checks the manifests of all rooms.
pub(super) fn check(root: &Path) -> Outcome<Vec<Finding>> {
    let mut findings = Vec::new();
    let rooms = fs::read_dir(root.join("crates")).map_err(|error| format!("cannot list crates: {error}"))?;
    for room in rooms.flatten() {
        let name = room.file_name().to_string_lossy().into_owned();
        let Ok(manifest) = fs::read_to_string(room.path().join("Cargo.toml")) else { continue };
        let place = format!("crates/{name}/Cargo.toml");
        let Some((_, allowed)) = MAY_USE.iter().find(|(room, _)| *room == name) else {
            findings.push(Finding::new(
                place,
                "a room that xtask/src/tidy/rooms.rs does not know; say there what it may use",
            ));
            continue;
        };
        findings.extend(check_manifest(&place, &manifest, allowed));
    }
    Ok(findings)
}

fn check_manifest(place: &str, manifest: &str, allowed: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut section = "";
    for (index, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            section = line;
        }
        let Some(used) = line.strip_prefix("syncline-") else { continue };
        let used = used.split(['.', ' ', '=']).next().unwrap_or_default();
        let in_tests = section == "[dev-dependencies]" && used == "testkit";
        if section.ends_with("dependencies]") && !allowed.contains(&used) && !in_tests {
            let may = if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
            findings.push(Finding::new(
                format!("{place}:{}", index + 1),
                format!("this room may not use `{used}`; it may use: {may}"),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_against_the_direction_is_found() {
        let manifest = "[package]\nname = \"syncline-engine\"\n[dependencies]\nsyncline-core.workspace = true\n\
                        syncline-connectors = { workspace = true }\n[dev-dependencies]\nsyncline-testkit.workspace = true\n";
        let findings = check_manifest("m", manifest, &["core"]);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].place, "m:5");
    }
}
