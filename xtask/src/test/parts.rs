//! Parts of the test suite that can be asked for alone.

use crate::Outcome;

/// Systems: the tests with this word in their path, in every room.
const SYSTEMS: [(&str, Needs); 2] = [("postgres", Needs::Postgres), ("sqlite", Needs::Nothing)];

/// Rooms: all tests of one crate.
const ROOMS: [(&str, Needs); 9] = [
    ("core", Needs::Nothing),
    ("connectors", Needs::Postgres),
    ("journal", Needs::Nothing),
    ("store", Needs::Nothing),
    ("engine", Needs::Postgres),
    ("server", Needs::Nothing),
    ("cli", Needs::Postgres),
    ("testkit", Needs::Postgres),
    ("xtask", Needs::Nothing),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Postgres,
}

/// A part by name.
pub(super) struct Part {
    package: Option<String>,
    filter: Option<String>,
    needs: Needs,
}

impl Part {
    /// The part of this name; the error lists all names.
    pub(super) fn named(name: &str) -> Outcome<Self> {
        if let Some((_, needs)) = SYSTEMS.iter().find(|(system, _)| *system == name) {
            return Ok(Self { package: None, filter: Some(name.to_owned()), needs: *needs });
        }
        if let Some((_, needs)) = ROOMS.iter().find(|(room, _)| *room == name) {
            let package = if name == "xtask" { name.to_owned() } else { format!("syncline-{name}") };
            return Ok(Self { package: Some(package), filter: None, needs: *needs });
        }
        let names: Vec<_> = SYSTEMS.iter().chain(&ROOMS).map(|(name, _)| *name).collect();
        Err(format!("parts of the tests: {}", names.join(", ")))
    }

    pub(super) fn package(&self) -> Option<&str> {
        self.package.as_deref()
    }

    pub(super) fn filter(&self) -> Option<&str> {
        self.filter.as_deref()
    }

    pub(super) fn needs_postgres(&self) -> bool {
        self.needs == Needs::Postgres
    }
}

/// Crates that have failpoints are tested with them.
pub(super) fn features_of(package: &str) -> &'static [&'static str] {
    match package {
        "syncline-core" | "syncline-connectors" | "syncline-journal" | "syncline-engine" | "syncline-cli" => {
            &["--features", "failpoints"]
        }
        _ => &[],
    }
}
