//! Verifications that somebody asks a running pipeline for.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use syncline_core::{Error, Result};
use tokio::sync::{Notify, oneshot};

use super::{Ask, Verified};

/// Verifications that may wait for their turn.
const WAITING_MAX: usize = 8;

type Asked = (Ask, oneshot::Sender<Verified>);

/// The way to ask a pipeline that follows.
#[derive(Default)]
pub struct Asks {
    waiting: Mutex<VecDeque<Asked>>,
    arrived: Notify,
}

impl Asks {
    /// Asks for a verification. The answer comes when it is made; if the attempt breaks off meanwhile, none comes: ask again.
    ///
    /// # Errors
    /// Configuration if too many wait already.
    pub fn ask(&self, ask: Ask) -> Result<oneshot::Receiver<Verified>> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING_MAX {
            return Err(Error::configuration(format!("{WAITING_MAX} verifications wait already"))
                .with_remedy("wait for them, then ask again"));
        }
        waiting.push_back((ask, sender));
        self.arrived.notify_one();
        Ok(receiver)
    }

    /// The next one. Cancel-safe.
    pub(super) async fn next(&self) -> Asked {
        loop {
            let next = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match next {
                Some(asked) => return asked,
                None => self.arrived.notified().await,
            }
        }
    }
}
