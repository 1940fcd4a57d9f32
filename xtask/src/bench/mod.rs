//! Measurements: pairs in one run, alternating, medians, equality checked after each, by code that shares nothing with
//! the product. What they say is in `benches/README.md`.

#[cfg(feature = "bench")]
mod agents;
#[cfg(feature = "bench")]
mod backlog;
#[cfg(feature = "bench")]
mod diff;
#[cfg(feature = "bench")]
mod latency;
#[cfg(feature = "bench")]
mod machine;
#[cfg(feature = "bench")]
mod measure;
#[cfg(feature = "bench")]
mod native;
#[cfg(feature = "bench")]
mod pair;
#[cfg(feature = "bench")]
mod report;
#[cfg(feature = "bench")]
mod scenarios;
#[cfg(feature = "bench")]
mod snapshot;

use crate::Outcome;

/// `cargo xtask bench`, when it was built without the testkit: builds and runs itself with it.
#[cfg(not(feature = "bench"))]
pub(crate) fn run(arguments: &[String]) -> Outcome {
    use crate::command::{cargo, require};
    require(cargo().args(["build", "--release", "--package", "syncline-cli"]))?;
    let mut bench = cargo();
    bench.args(["run", "--quiet", "--package", "xtask", "--features", "bench", "--", "bench"]);
    require(bench.args(arguments))
}

/// `cargo xtask bench`.
#[cfg(feature = "bench")]
pub(crate) fn run(arguments: &[String]) -> Outcome {
    scenarios::run(arguments)
}
