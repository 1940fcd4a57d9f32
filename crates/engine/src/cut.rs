//! What is left of a change after the cut: the verdicts over its two keys, made into one decision.

use syncline_core::{Cut, Operation, Verdict};

/// What a lane does with one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// All of it.
    Apply,
    /// Nothing: a snapshot saw it, or will.
    Skip,
    /// A move of which only the departure counts: delete the old key.
    DeleteOld,
    /// A move of which only the arrival counts: write the row at its new key, from the change alone. What the change
    /// leaves out is not at the old key any more, so such a row is read again.
    Arrive,
    /// All of it once more, upon rows that may have seen it and what came after it. What it leaves out is not known there
    /// any more, so such a row is read again.
    Again,
    /// A truncate that only part of the snapshot saw: the snapshot starts over.
    StartOver,
}

/// The decision over a change.
///
/// | old key | new key | decision |
/// |---|---|---|
/// | apply | apply | apply |
/// | apply | seen, unread | delete the old key |
/// | seen, unread | apply | arrive |
/// | seen, unread | seen, unread | skip |
/// | again, apply | again | apply again |
/// | again | apply | apply again |
pub(crate) fn decide(operation: Operation, moved: bool, cut: Cut) -> Decision {
    if cut.new == Verdict::Mixed {
        return Decision::StartOver;
    }
    let applies = |verdict| matches!(verdict, Verdict::Apply | Verdict::Again);
    if operation != Operation::Update || !moved {
        return match cut.new {
            Verdict::Again => Decision::Again,
            new if applies(new) => Decision::Apply,
            _ => Decision::Skip,
        };
    }
    match (applies(cut.old), applies(cut.new)) {
        (true, true) if cut.old == Verdict::Again || cut.new == Verdict::Again => Decision::Again,
        (true, true) => Decision::Apply,
        (true, false) => Decision::DeleteOld,
        (false, true) => Decision::Arrive,
        (false, false) => Decision::Skip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_move_counts_for_both_keys() {
        let cut = |old, new| decide(Operation::Update, true, Cut { new, old });
        assert_eq!(cut(Verdict::Apply, Verdict::Seen), Decision::DeleteOld);
        assert_eq!(cut(Verdict::Seen, Verdict::Apply), Decision::Arrive);
        assert_eq!(cut(Verdict::Unread, Verdict::Unread), Decision::Skip);
        assert_eq!(cut(Verdict::Apply, Verdict::Unread), Decision::DeleteOld);
        assert_eq!(cut(Verdict::Again, Verdict::Apply), Decision::Again);
        assert_eq!(cut(Verdict::Again, Verdict::Seen), Decision::DeleteOld);
        let unmoved = Cut { new: Verdict::Apply, old: Verdict::Seen };
        assert_eq!(decide(Operation::Update, false, unmoved), Decision::Apply);
    }
}
