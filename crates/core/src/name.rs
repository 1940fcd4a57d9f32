//! Names: of a pipeline, of a table, of a family of systems.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Longest pipeline name in bytes: it becomes part of a slot name, which PostgreSQL cuts at 63 bytes.
pub const PIPELINE_NAME_BYTES_MAX: usize = 40;

/// The name of a pipeline: lowercase letters, digits and `_`, at most [`PIPELINE_NAME_BYTES_MAX`] bytes, so that it can
/// be part of a slot, publication, trigger or file name anywhere without quoting rules of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PipelineName(String);

impl PipelineName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// A configuration error that says which characters are allowed.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || name.len() > PIPELINE_NAME_BYTES_MAX || !name.chars().all(allowed) {
            return Err(Error::configuration(format!("`{name}` is not a pipeline name"))
                .with_remedy(format!("use 1 to {PIPELINE_NAME_BYTES_MAX} characters of a-z, 0-9 and _")));
        }
        Ok(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PipelineName {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        Self::new(name)
    }
}

impl From<PipelineName> for String {
    fn from(name: PipelineName) -> Self {
        name.0
    }
}

impl fmt::Display for PipelineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A table's name at the source: its schema and its own name, neither quoted nor folded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableId {
    /// Schema (`public`; `main` for SQLite).
    pub schema: String,
    /// Name inside the schema.
    pub name: String,
}

impl TableId {
    /// A table's name from its two halves.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A family of systems that understand each other's native values and definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Family(pub &'static str);

impl Family {
    /// PostgreSQL and what speaks its protocol.
    pub const POSTGRES: Self = Self("postgres");
    /// SQLite.
    pub const SQLITE: Self = Self("sqlite");
    /// The testkit's in-memory pair.
    pub const MEMORY: Self = Self("memory");
}

impl<'de> Deserialize<'de> for Family {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        [Self::POSTGRES, Self::SQLITE, Self::MEMORY]
            .into_iter()
            .find(|family| family.0 == name)
            .ok_or_else(|| serde::de::Error::custom("unknown family of systems"))
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
