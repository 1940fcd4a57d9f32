//! Ctrl-C and SIGTERM: the first one drains, the second one stops at once. Neither loses anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use syncline_core::{Error, Result};
use syncline_engine::Control;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::output;

/// After the second signal the process ends within this time, whatever still blocks.
const GRACE: Duration = Duration::from_secs(3);

const INTERRUPT: u8 = 2;
const TERMINATE: u8 = 15;

/// What signals have asked for.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    control: Control,
    asked: CancellationToken,
    /// Number of the first signal; 0: none.
    first: Arc<AtomicU8>,
    /// Number of the signal that stopped everything at once; 0: none.
    second: Arc<AtomicU8>,
}

impl Stop {
    /// Stops all runs that are given this control.
    pub(crate) fn control(&self) -> Control {
        self.control.clone()
    }

    /// Ends when the first signal came.
    pub(crate) async fn asked(&self) {
        self.asked.cancelled().await;
    }

    /// How the process should end because of the first signal, where ending early is no success.
    pub(crate) fn interrupted(&self) -> Option<Exit> {
        Some(self.first.load(Ordering::Acquire)).filter(|number| *number > 0).map(Exit::signal)
    }

    /// How the process must end because it was stopped at once.
    pub(crate) fn at_once(&self) -> Option<Exit> {
        Some(self.second.load(Ordering::Acquire)).filter(|number| *number > 0).map(Exit::signal)
    }
}

/// Listens for signals from here to the end of the process. `said` is told at the first one; `forced` runs if the process must be ended while something
/// still blocks.
///
/// # Errors
/// Resource if handlers cannot be installed.
pub(crate) fn listen(said: &'static str, forced: impl FnOnce() + Send + 'static) -> Result<Stop> {
    let install = |kind| signal(kind).map_err(|error| Error::io("cannot listen for signals", error));
    let (interrupts, terminates) = (install(SignalKind::interrupt())?, install(SignalKind::terminate())?);
    let stop = Stop {
        control: Control::new(),
        asked: CancellationToken::new(),
        first: Arc::default(),
        second: Arc::default(),
    };
    // Ends with the process: it owns nothing that must be given back.
    tokio::spawn(obey(stop.clone(), interrupts, terminates, said, forced));
    Ok(stop)
}

async fn obey(
    stop: Stop,
    mut interrupts: Signal,
    mut terminates: Signal,
    said: &'static str,
    forced: impl FnOnce() + Send,
) {
    let first = next(&mut interrupts, &mut terminates).await;
    stop.first.store(first, Ordering::Release);
    stop.asked.cancel();
    stop.control.drain();
    output::to_stderr(said);
    let second = next(&mut interrupts, &mut terminates).await;
    stop.second.store(second, Ordering::Release);
    stop.control.abort();
    tokio::select! {
        () = tokio::time::sleep(GRACE) => {}
        _ = next(&mut interrupts, &mut terminates) => {}
    }
    forced();
    std::process::exit(i32::from(Exit::signal(second).0));
}

async fn next(interrupts: &mut Signal, terminates: &mut Signal) -> u8 {
    tokio::select! {
        _ = interrupts.recv() => INTERRUPT,
        _ = terminates.recv() => TERMINATE,
    }
}
