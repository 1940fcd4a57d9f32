//! Formatting and clippy. Which lints: the workspace's `Cargo.toml` and `clippy.toml`.

use crate::Outcome;
use crate::command::{cargo, require};

/// `cargo xtask lint`.
pub(crate) fn run() -> Outcome {
    require(cargo().args(["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    require(cargo().args(clippy))
}
