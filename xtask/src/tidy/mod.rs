//! Rules of the house that no lint knows: which room may use which, where a system's name may stand, how long functions
//! and files may be, that every file says what it is for, that links lead somewhere.
//!
//! Each rule looks at text. Rustfmt has brought the text into one shape, which is what makes that enough.

mod allowed;
mod allows;
mod footprint;
mod length;
mod links;
mod names;
mod rooms;
mod source;

use crate::Outcome;
use crate::command::workspace;

/// A broken rule: where, and what to do about it.
struct Finding {
    place: String,
    message: String,
}

impl Finding {
    fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into() }
    }
}

/// `cargo xtask tidy`.
pub(crate) fn run() -> Outcome {
    let root = workspace();
    let files = source::rust_files(&root)?;
    let mut findings = rooms::check(&root)?;
    findings.extend(names::check(&files));
    findings.extend(allows::check(&files));
    findings.extend(footprint::check(&files));
    findings.extend(length::check(&root, &files)?);
    findings.extend(links::check(&root)?);
    for Finding { place, message } in &findings {
        println!("{place}: {message}");
    }
    match findings.len() {
        0 => {
            println!("tidy: {} files, nothing to say", files.len());
            Ok(())
        }
        count => Err(format!("tidy: {count} findings")),
    }
}
