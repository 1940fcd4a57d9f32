//! The two streams a person and a program read. Only this module writes to them: data to stdout, the rest to stderr, and
//! a live display steps aside for both.
//!
//! A reader that went away (`| head`) is no reason to stop keeping data in sync: what cannot be written is let go.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use indicatif::MultiProgress;
use serde::Serialize;

static LIVE: OnceLock<MultiProgress> = OnceLock::new();

/// The display that other output must not tear; made at the first call.
pub(crate) fn live() -> &'static MultiProgress {
    LIVE.get_or_init(MultiProgress::new)
}

/// Whether a person watches stderr.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes text as it is to stderr.
pub(crate) fn to_stderr(text: &str) {
    aside(|| {
        let _ = io::stderr().lock().write_all(text.as_bytes());
    });
}

/// Writes text as it is to stdout.
pub(crate) fn to_stdout(text: &str) {
    aside(|| {
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    });
}

/// Writes one JSON object on a line of its own to stdout.
pub(crate) fn to_stdout_line(value: &impl Serialize) {
    if let Ok(mut line) = serde_json::to_string(value) {
        line.push('\n');
        to_stdout(&line);
    }
}

fn aside(write: impl FnOnce()) {
    match LIVE.get() {
        Some(live) => live.suspend(write),
        None => write(),
    }
}

/// A writer to stderr that the live display steps aside for, for log lines.
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        aside(|| {
            let _ = io::stderr().lock().write_all(bytes);
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
