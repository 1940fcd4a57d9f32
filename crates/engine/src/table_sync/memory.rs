//! What is remembered of a table between runs. Losing it costs requests only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use syncline_core::{ManifestKey, ReplicaState, Result, RowKey, Version, VersionPlace};

use super::cost::Costs;

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What it is the memory of: both sides and the table as they were. Of anything else it says nothing.
    pub of: String,
    /// The far side's state as it was last known.
    pub far: Option<ReplicaState>,
    /// The last row that was sent in the order of versions.
    pub sent: Option<(Version, RowKey)>,
    /// A comparison that has not come to its end goes on below this version.
    pub compared_down_to: Option<Version>,
    /// Passes in which there was no comparison because rows waited for older transactions.
    pub put_off: u32,
    /// What batches have cost.
    pub costs: Costs,
    /// Rows that were refused.
    pub letters: Vec<RefusedRow>,
    /// Refused rows that were given up, as they were then; the newest last.
    pub given_up: Vec<(ManifestKey, Version)>,
    /// The near side as it was when only these were left.
    pub settled: Option<ReplicaState>,
}

/// Rows that are given up at the same time; of more, the oldest are tried again.
const GIVEN_UP_MAX: usize = 1000;

fn no_version() -> Version {
    Version::NONE
}

/// A row that the far side refused: a dead letter. The row itself is read again when it is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRow {
    /// Its key.
    pub key: ManifestKey,
    /// Its version then.
    #[serde(default = "no_version")]
    pub version: Version,
    /// Why it was refused, without row values.
    pub reason: String,
    /// The far side's own code.
    pub code: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was refused first and last, in milliseconds since 1970 UTC.
    pub first_at_ms: i64,
    /// As above.
    pub last_at_ms: i64,
}

impl Memory {
    /// This memory, if it is of the same; else none.
    #[must_use]
    pub fn if_of(self, of: &str) -> Self {
        if self.of == of { self } else { Self { of: of.to_owned(), ..Self::default() } }
    }

    /// The place after which rows are sent, if it is still of use: the far side has come just so far.
    pub(super) fn place(&self, far_max: Option<Version>) -> Option<VersionPlace> {
        let (version, key) = self.sent.as_ref().filter(|(version, _)| Some(*version) == far_max)?;
        Some(VersionPlace { version: *version, key: key.clone() })
    }

    /// Notes that a row was refused.
    pub(super) fn refused(
        &mut self,
        (key, version): &(ManifestKey, Version),
        error: &syncline_core::Error,
        now_ms: i64,
    ) {
        let (reason, code) = (error.to_string(), error.code().map(str::to_owned));
        match self.letters.iter_mut().find(|letter| letter.key == *key) {
            Some(letter) => {
                (letter.reason, letter.code, letter.last_at_ms) = (reason, code, now_ms);
                letter.version = *version;
                letter.attempts += 1;
            }
            None => self.letters.push(RefusedRow {
                key: key.clone(),
                version: *version,
                reason,
                code,
                attempts: 1,
                first_at_ms: now_ms,
                last_at_ms: now_ms,
            }),
        }
    }

    /// Gives refused rows up.
    pub(super) fn give_up(&mut self, is_given_up: impl Fn(&RefusedRow) -> bool) {
        let (given_up, kept) = std::mem::take(&mut self.letters).into_iter().partition(is_given_up);
        self.letters = kept;
        let given_up: Vec<RefusedRow> = given_up;
        self.given_up.extend(given_up.into_iter().map(|row| (row.key, row.version)));
        self.given_up.drain(..self.given_up.len().saturating_sub(GIVEN_UP_MAX));
    }

    /// Whether a row was given up, and has not changed since.
    pub(super) fn is_given_up(&self, key: &ManifestKey, version: Version) -> bool {
        self.given_up.iter().any(|(given_up, then)| given_up == key && *then == version)
    }

    /// Notes that these rows are there.
    pub(super) fn arrived(&mut self, rows: &[(ManifestKey, Version)]) {
        if self.letters.is_empty() && self.given_up.is_empty() {
            return;
        }
        let arrived: std::collections::BTreeSet<_> = rows.iter().map(|(key, _)| key).collect();
        self.letters.retain(|letter| !arrived.contains(&letter.key));
        self.given_up.retain(|(key, _)| !arrived.contains(key));
    }

    /// The refused rows by key.
    pub(super) fn refused_keys(&self) -> BTreeMap<&ManifestKey, &RefusedRow> {
        self.letters.iter().map(|letter| (&letter.key, letter)).collect()
    }
}

/// Where memory is kept.
pub trait Keep: Send + Sync {
    /// Keeps it in place of what was kept before.
    ///
    /// # Errors
    /// As any write.
    fn keep(&self, memory: &Memory) -> Result<()>;
}
