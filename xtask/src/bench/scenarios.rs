//! Which measurements there are, and how they are asked for. A new one is a module beside this one and a line here.

use super::{agents, backlog, diff, latency, machine, snapshot};
use crate::Outcome;

/// How a scenario is run.
pub(super) struct Options {
    /// Pairs of measurements; medians need at least five to mean something.
    pub(super) rounds: usize,
    pub(super) size: Size,
}

/// How much data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// As published.
    Full,
    /// A fiftieth, to see that it works.
    Small,
}

struct Scenario {
    name: &'static str,
    /// Runs it, and gives a section in Markdown.
    run: fn(&Options) -> Outcome<String>,
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "snapshot", run: snapshot::run },
    Scenario { name: "backlog-1000", run: backlog::run_large },
    Scenario { name: "backlog-1", run: backlog::run_single },
    Scenario { name: "latency", run: latency::run },
    Scenario { name: "diff", run: diff::run },
    Scenario { name: "diff-agents", run: agents::run },
    Scenario { name: "diff-reladiff", run: diff::run_reladiff },
];

const ROUNDS: usize = 5;

/// Runs the named scenario, or all, and prints the figures.
pub(super) fn run(arguments: &[String]) -> Outcome {
    let mut options = Options { rounds: ROUNDS, size: Size::Full };
    let mut wanted = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--small" => options.size = Size::Small,
            "--rounds" => {
                let rounds = words.next().and_then(|rounds| rounds.parse().ok()).filter(|rounds| *rounds > 0);
                options.rounds = rounds.ok_or("xtask bench: --rounds needs a number")?;
            }
            name => wanted.push(scenario(name)?),
        }
    }
    if wanted.is_empty() {
        wanted.extend(SCENARIOS);
    }
    println!("{}", machine::describe());
    for scenario in wanted {
        eprintln!("--- {}", scenario.name);
        println!("{}", (scenario.run)(&options)?);
    }
    Ok(())
}

fn scenario(name: &str) -> Outcome<&'static Scenario> {
    let names = || SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.ok_or_else(|| format!("xtask bench: no scenario `{name}`; there are: {}", names()))
}
