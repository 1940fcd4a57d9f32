//! Which pipelines are held through an agent. One session holds a pipeline; whoever comes after it waits a moment, and takes it
//! over at once if it is the same process whose connection broke.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use syncline_core::{Destination, Error, PipelineName, Result};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// How long somebody waits for another one to give a pipeline back.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Pipelines that are held at the same time: each may take a question of the longest kind into memory.
const HELD_MAX: usize = 8;

/// A database that an agent may write.
#[derive(Clone)]
pub struct Writable {
    /// It.
    pub destination: Arc<dyn Destination>,
    /// Who holds what; one for all sessions of an agent.
    pub holds: Arc<Holds>,
}

/// Who holds what.
#[derive(Default)]
pub struct Holds {
    held: Mutex<BTreeMap<Name, HeldBy>>,
    changed: Notify,
}

/// A pipeline, at a destination of this address.
type Name = (String, PipelineName);

struct HeldBy {
    who: String,
    end: CancellationToken,
}

/// A pipeline that is held. Dropped: given back.
pub(super) struct Place {
    holds: Arc<Holds>,
    name: Name,
    /// Tells its session that it is over.
    pub(super) end: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.holds.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&self.name);
        self.holds.changed.notify_waiters();
    }
}

impl Holds {
    /// Takes a pipeline. `who`: the process at the other end.
    ///
    /// # Errors
    /// Configuration, if somebody else holds it for long; resource, if too many are held.
    pub(super) async fn take(self: &Arc<Self>, name: Name, who: &str) -> Result<Place> {
        let until = Instant::now() + WAIT_MAX;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            match self.try_take(&name, who) {
                Ok(Some(place)) => return Ok(place),
                Err(error) => return Err(error),
                Ok(None) => {}
            }
            if timeout_at(until, changed).await.is_err() {
                return Err(Error::configuration(format!(
                    "pipeline `{}` is held by another process through this agent",
                    name.1
                ))
                .with_remedy("stop the other process, or give this pipeline another --name"));
            }
        }
    }

    fn try_take(self: &Arc<Self>, name: &Name, who: &str) -> Result<Option<Place>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(by) = held.get(name) {
            if by.who == who {
                by.end.cancel();
            }
            return Ok(None);
        }
        if held.len() >= HELD_MAX {
            return Err(Error::new(
                syncline_core::ErrorKind::Retriable,
                format!("the agent writes for {HELD_MAX} pipelines already"),
            ));
        }
        let end = CancellationToken::new();
        held.insert(name.clone(), HeldBy { who: who.to_owned(), end: end.clone() });
        Ok(Some(Place { holds: Arc::clone(self), name: name.clone(), end }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        ("db".to_owned(), PipelineName::new("p").unwrap())
    }

    #[tokio::test]
    async fn another_process_waits_and_the_same_one_takes_over() {
        let holds = Arc::new(Holds::default());
        let first = holds.take(name(), "a").await.unwrap();
        let soon = Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, holds.take(name(), "b")).await.is_err());
        assert!(!first.end.is_cancelled());
        let (end, again) = (first.end.clone(), holds.take(name(), "a"));
        let ended = async {
            end.cancelled().await;
            drop(first);
        };
        let (second, ()) = tokio::join!(again, ended);
        let end = second.unwrap().end.clone();
        assert!(!end.is_cancelled());
        holds.take(name(), "b").await.unwrap();
    }

    #[tokio::test]
    async fn not_all_may_be_held_at_once() {
        let holds = Arc::new(Holds::default());
        let mut places = Vec::new();
        for n in 0..HELD_MAX {
            places.push(holds.take((n.to_string(), name().1), "a").await.unwrap());
        }
        assert!(holds.take(name(), "a").await.is_err());
        places.pop();
        holds.take(name(), "a").await.unwrap();
    }
}
