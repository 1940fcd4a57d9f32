//! Bytes that were exchanged with an agent, by what they were for.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// What a message was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Digests and sketches.
    Sketches,
    /// Keys that sketches do not carry.
    Keys,
    /// Rows with their values, and the keys they were asked for by.
    Rows,
    /// Whatever else: which tables there are, whether the other end is there.
    Rest,
}

/// Bytes in both directions, without what TLS and TCP add.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Exchanged {
    /// To the agent.
    pub sent_bytes: u64,
    /// From it.
    pub received_bytes: u64,
}

impl Exchanged {
    /// Both together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sent_bytes + self.received_bytes
    }
}

/// What was exchanged with one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Traffic {
    /// Digests and sketches.
    pub sketches: Exchanged,
    /// Keys that sketches do not carry.
    pub keys: Exchanged,
    /// Differing rows with their values.
    pub rows: Exchanged,
    /// Which tables there are, and the like.
    pub rest: Exchanged,
}

/// Counts it.
#[derive(Debug, Default)]
pub(super) struct Counter(Mutex<Traffic>);

impl Counter {
    pub(super) fn add(&self, purpose: Purpose, exchanged: Exchanged) {
        let mut traffic = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = match purpose {
            Purpose::Sketches => &mut traffic.sketches,
            Purpose::Keys => &mut traffic.keys,
            Purpose::Rows => &mut traffic.rows,
            Purpose::Rest => &mut traffic.rest,
        };
        of.sent_bytes += exchanged.sent_bytes;
        of.received_bytes += exchanged.received_bytes;
    }

    pub(super) fn so_far(&self) -> Traffic {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
