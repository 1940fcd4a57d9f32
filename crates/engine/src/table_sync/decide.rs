//! What is to be done about a table: the decision of each pass, from what is known of both sides. Pure.
//!
//! | near side, far side | what is done |
//! |---|---|
//! | as the far side was last known | nothing, and nobody is asked |
//! | as the far side says that it is | nothing |
//! | newer versions here | they are sent |
//! | newer versions there | what is above ours is looked at: it is surplus, or older here again |
//! | the same highest version, but another count or sum | the ranges that differ are found and compared row by row |

use syncline_core::{ReplicaState, Version};

/// What a look at the near side saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Of all rows that can be seen.
    pub all: ReplicaState,
    /// Of those up to the bound.
    pub ready: ReplicaState,
    /// Up to which version rows are taken.
    pub upto: Version,
}

impl Look {
    /// Rows that can be seen, but wait for older transactions.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.all.rows - self.ready.rows
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// The far side's state is to be asked for.
    Ask,
    /// Rows above this version are to be sent.
    Send {
        /// `None`: all of them.
        above: Option<Version>,
    },
    /// What the far side has above this version is to be looked at.
    Above {
        /// `None`: everything.
        version: Option<Version>,
    },
    /// Ranges are to be compared.
    Compare,
}

/// Before anybody is asked. `last_known`: the far side's state; `letters`: rows that wait to be tried again.
#[must_use]
pub fn before_asking(near: &Look, last_known: Option<&ReplicaState>, letters: usize) -> Step {
    if last_known == Some(&near.all) && letters == 0 { Step::Nothing } else { Step::Ask }
}

/// With the far side's state.
#[must_use]
pub fn after_asking(near: &Look, far: &ReplicaState) -> Step {
    if near.all == *far {
        Step::Nothing
    } else if near.ready.max_version > far.max_version {
        Step::Send { above: far.max_version }
    } else if near.all.max_version < far.max_version {
        Step::Above { version: near.all.max_version }
    } else {
        Step::Compare
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(versions: &[i64]) -> ReplicaState {
        let mut state = ReplicaState::default();
        versions.iter().for_each(|&version| state.add(Version(version)));
        state
    }

    fn look(versions: &[i64], upto: i64) -> Look {
        let ready: Vec<i64> = versions.iter().copied().filter(|&version| version <= upto).collect();
        Look { all: state(versions), ready: state(&ready), upto: Version(upto) }
    }

    #[test]
    fn nobody_is_asked_while_nothing_has_changed() {
        let near = look(&[1, 2, 3], 9);
        assert_eq!(before_asking(&near, Some(&state(&[1, 2, 3])), 0), Step::Nothing);
        assert_eq!(before_asking(&near, Some(&state(&[1, 2, 3])), 1), Step::Ask);
        assert_eq!(before_asking(&near, None, 0), Step::Ask);
        // Neither count nor maximum tells of a row that was committed late.
        assert_eq!(before_asking(&look(&[1, 5, 9], 9), Some(&state(&[1, 4, 9])), 0), Step::Ask);
        // What waits for older transactions is not at the far side.
        assert_eq!(before_asking(&look(&[1, 2], 1), Some(&state(&[1])), 0), Step::Ask);
    }

    #[test]
    fn the_two_states_decide() {
        let near = look(&[1, 2, 3], 9);
        assert_eq!(after_asking(&near, &state(&[3, 2, 1])), Step::Nothing);
        assert_eq!(after_asking(&near, &state(&[1, 2])), Step::Send { above: Some(Version(2)) });
        assert_eq!(after_asking(&near, &state(&[])), Step::Send { above: None });
        assert_eq!(after_asking(&near, &state(&[1, 4])), Step::Above { version: Some(Version(3)) });
        assert_eq!(after_asking(&look(&[], 9), &state(&[1])), Step::Above { version: None });
        assert_eq!(after_asking(&near, &state(&[1, 3])), Step::Compare);
        assert_eq!(after_asking(&near, &state(&[1, 1, 3])), Step::Compare);
        // Only what is safe is sent.
        assert_eq!(after_asking(&look(&[1, 2, 7], 2), &state(&[1, 2])), Step::Compare);
    }
}
