//! Named places where a test stops the process, injects an error or slows things down, and sizes that it makes smaller.
//!
//! Without the `failpoints` feature nothing here does anything. With it, `SYNCLINE_FAILPOINT` holds
//! `name=action[@n][,…]`. At the `n`-th time (default 1) the place is passed, `kill` ends the process by SIGKILL, `error`
//! returns a retriable error, and `pause:MS` sleeps. `pause-each:MS` sleeps every time, and `size:N` is what [`size`]
//! gives.

#[cfg(not(feature = "failpoints"))]
use crate::error::Result;

/// Passes a named place.
///
/// # Errors
/// The injected error, in tests only.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn hit(_name: &'static str) -> Result<()> {
    Ok(())
}

/// Passes a named place; a pause holds up this task only, not its thread.
///
/// # Errors
/// The injected error, in tests only.
#[cfg(not(feature = "failpoints"))]
#[inline]
#[expect(clippy::unused_async, reason = "it waits where failpoints are compiled in")]
pub async fn pass(_name: &'static str) -> Result<()> {
    Ok(())
}

/// A size that tests make smaller, so that little data goes the ways of much.
#[cfg(not(feature = "failpoints"))]
#[inline]
#[must_use]
pub fn size(_name: &'static str, usual: u64) -> u64 {
    usual
}

#[cfg(feature = "failpoints")]
pub use enabled::{hit, pass, size};

#[cfg(feature = "failpoints")]
mod enabled {
    use std::collections::HashMap;
    use std::sync::{LazyLock, Mutex, PoisonError};
    use std::time::Duration;

    use crate::error::{Error, ErrorKind, Result};

    struct Action {
        what: String,
        at: u64,
        seen: u64,
    }

    /// What a place must do now.
    enum Order {
        Nothing,
        Pause(Duration),
        Kill,
        Fail,
    }

    static ACTIONS: LazyLock<Mutex<HashMap<String, Action>>> = LazyLock::new(|| {
        let text = std::env::var("SYNCLINE_FAILPOINT").unwrap_or_default();
        let parse = |item: &str| {
            let (name, action) = item.split_once('=')?;
            let (what, at) = action.split_once('@').unwrap_or((action, "1"));
            Some((name.to_owned(), Action { what: what.to_owned(), at: at.parse().ok()?, seen: 0 }))
        };
        Mutex::new(text.split(',').filter_map(parse).collect())
    });

    /// Passes a named place.
    ///
    /// # Errors
    /// The injected error.
    pub fn hit(name: &'static str) -> Result<()> {
        match order(name) {
            Order::Pause(time) => {
                std::thread::sleep(time);
                Ok(())
            }
            order => obey(name, &order),
        }
    }

    /// Passes a named place; a pause holds up this task only, not its thread.
    ///
    /// # Errors
    /// The injected error.
    pub async fn pass(name: &'static str) -> Result<()> {
        match order(name) {
            Order::Pause(time) => {
                pause(time).await;
                Ok(())
            }
            order => obey(name, &order),
        }
    }

    /// A size that tests make smaller, so that little data goes the ways of much.
    #[must_use]
    pub fn size(name: &'static str, usual: u64) -> u64 {
        let actions = ACTIONS.lock().unwrap_or_else(PoisonError::into_inner);
        let set = actions.get(name).and_then(|action| action.what.strip_prefix("size:")?.parse().ok());
        set.unwrap_or(usual)
    }

    /// This crate knows no runtime, so a thread keeps the time.
    async fn pause(time: Duration) {
        let (done, over) = futures::channel::oneshot::channel();
        std::thread::spawn(move || {
            std::thread::sleep(time);
            // Nobody waits any more if the task was dropped.
            let _ = done.send(());
        });
        let _ = over.await;
    }

    fn order(name: &str) -> Order {
        let mut actions = ACTIONS.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(action) = actions.get_mut(name) else { return Order::Nothing };
        let time =
            |text: &str| text.parse().map_or(Order::Fail, |ms| Order::Pause(Duration::from_millis(ms)));
        if let Some(ms) = action.what.strip_prefix("pause-each:") {
            return time(ms);
        }
        action.seen += 1;
        if action.seen != action.at {
            return Order::Nothing;
        }
        match action.what.as_str() {
            "kill" => Order::Kill,
            what => what.strip_prefix("pause:").map_or(Order::Fail, time),
        }
    }

    fn obey(name: &str, order: &Order) -> Result<()> {
        match order {
            Order::Nothing | Order::Pause(_) => Ok(()),
            Order::Kill => {
                let pid = std::process::id().to_string();
                // The shell's kill keeps this crate free of unsafe code and of a dependency for one test-only call.
                let _ = std::process::Command::new("kill").args(["-9", &pid]).status();
                std::thread::sleep(Duration::from_secs(60));
                Ok(())
            }
            Order::Fail => Err(Error::new(ErrorKind::Retriable, format!("failpoint {name}"))),
        }
    }
}
