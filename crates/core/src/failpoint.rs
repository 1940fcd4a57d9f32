//! Named places where a test stops the process or injects an error.
//!
//! Without the `failpoints` feature [`hit`] is empty. With it, `SYNCLINE_FAILPOINT` holds
//! `name=action[@n][,…]`: at the `n`-th time (default 1) the place is passed, `kill` ends the process by SIGKILL, `error`
//! returns a retriable error, and `pause:MS` sleeps.

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

/// Passes a named place.
///
/// # Errors
/// The injected error.
#[cfg(feature = "failpoints")]
pub fn hit(name: &'static str) -> Result<()> {
    enabled::hit(name)
}

#[cfg(feature = "failpoints")]
mod enabled {
    use std::collections::HashMap;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use crate::error::{Error, ErrorKind, Result};

    struct Action {
        what: String,
        at: u64,
        seen: u64,
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

    pub(super) fn hit(name: &'static str) -> Result<()> {
        let what = {
            let mut actions = ACTIONS.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(action) = actions.get_mut(name) else { return Ok(()) };
            action.seen += 1;
            if action.seen != action.at {
                return Ok(());
            }
            action.what.clone()
        };
        perform(name, &what)
    }

    fn perform(name: &str, what: &str) -> Result<()> {
        if let Some(ms) = what.strip_prefix("pause:").and_then(|ms| ms.parse().ok()) {
            std::thread::sleep(std::time::Duration::from_millis(ms));
            return Ok(());
        }
        match what {
            "kill" => {
                let pid = std::process::id().to_string();
                // The shell's kill keeps this crate free of unsafe code and of a dependency for one test-only call.
                let _ = std::process::Command::new("kill").args(["-9", &pid]).status();
                std::thread::sleep(std::time::Duration::from_secs(60));
                Ok(())
            }
            _ => Err(Error::new(ErrorKind::Retriable, format!("failpoint {name}"))),
        }
    }
}
