//! A few SQL sessions kept for reuse: connecting costs more than most of what is asked.

use std::sync::{Arc, Mutex, PoisonError};

use syncline_core::Result;

use crate::postgres::connect::Session;
use crate::postgres::url::Address;

/// Idle sessions kept; more are closed when given back.
const IDLE_MAX: usize = 8;

/// Sessions to one server. Clones share them.
#[derive(Clone)]
pub(super) struct Pool {
    address: Arc<Address>,
    idle: Arc<Mutex<Vec<Session>>>,
}

impl Pool {
    pub(super) fn new(address: Address) -> Self {
        Self { address: Arc::new(address), idle: Arc::default() }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// An idle session, else a new one. Dropping it closes it, whatever it was doing.
    pub(super) async fn take(&self) -> Result<Session> {
        while let Some(session) = self.pop() {
            if !session.is_closed() {
                return Ok(session);
            }
        }
        Session::connect(&self.address, "source").await
    }

    /// Gives back a session that is in no transaction.
    pub(super) fn give(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && !session.is_closed() {
            idle.push(session);
        }
    }

    fn pop(&self) -> Option<Session> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}
