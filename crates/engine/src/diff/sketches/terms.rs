//! What both sides of a comparison must have in common: the hash key, how rows are told apart, and the range.

use super::hash::HashKey;
use super::range::KeyRange;
use super::scan::Identity;

/// The terms under which a range is scanned on both sides.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The comparison's own key.
    pub hash_key: HashKey,
    /// How rows are told apart.
    pub identity: Identity,
    /// Which rows.
    pub range: KeyRange,
}

impl Terms {
    /// A number that two sides share only if they have the same terms, without the hash key being told.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut terms = vec![match self.identity {
            Identity::Key => 1,
            Identity::WholeRow => 2,
        }];
        terms.extend_from_slice(&self.range.terms());
        self.hash_key.fingerprint(&terms)
    }
}
