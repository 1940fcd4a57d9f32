//! Comparing two databases that are far apart: an agent beside each, and the bytes that both of its links carry.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::diff::{DATABASE, TABLES, fill, plant};
use super::measure::{Cost, Together, peak_bytes_of};
use super::pair::{Pair, SOURCE, binary};
use super::report::Side;
use super::scenarios::{Options, Size};
use crate::Outcome;

const TOKEN: &str = "a-token-of-this-measurement-0123456789";

/// An agent, ended when it is dropped.
struct Agent {
    process: Child,
    url: String,
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It is gone already, or ends now; nothing is measured after it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs the scenario.
pub(super) fn run(options: &Options) -> Outcome<String> {
    let scale: u32 = if options.size == Size::Full { 50 } else { 1 };
    let rows = u64::from(scale) * 100_000;
    let pair = Pair::start()?;
    fill(&pair, scale, rows);
    let source = agent(&pair, &pair.source.url(SOURCE))?;
    let destination = agent(&pair, &pair.destination.url(DATABASE))?;
    let mut text = format!(
        "### Diff by two agents, two tables of {rows} rows on each side\n\n\
         | | s, median (min–max) | bytes of both links, median: {} |\n|---|---|---|\n",
        PURPOSES.join(", ")
    );
    for (name, code) in [("equal", 0), ("1,000 differences a table", 3)] {
        if code == 3 {
            plant(&pair, rows);
        }
        let mut side = Side { name, costs: Vec::new() };
        let mut bytes: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for round in 0..options.rounds {
            let (cost, carried) = compare(&pair, &source.url, &destination.url, code)?;
            eprintln!("round {}: {cost:?} {carried:?}", round + 1);
            side.costs.push(cost);
            carried.into_iter().for_each(|(purpose, count)| bytes.entry(purpose).or_default().push(count));
        }
        text.push_str(&line(&side, &bytes));
    }
    let peaks = [&source, &destination].map(|agent| peak_bytes_of(&agent.process) / 1_000_000);
    text.push_str(&format!("\nPeak memory of the agents: {} and {} MB.\n", peaks[0], peaks[1]));
    Ok(text)
}

/// What bytes are for, as the command counts them.
const PURPOSES: [&str; 4] = ["rest", "sketches", "keys", "rows"];

fn line(side: &Side, bytes: &BTreeMap<&str, Vec<u64>>) -> String {
    let mut seconds: Vec<f64> = side.costs.iter().map(|cost| cost.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let of = |purpose: &&str| {
        let mut counts = bytes.get(*purpose).cloned().unwrap_or_default();
        counts.sort_unstable();
        counts.get(counts.len() / 2).map_or_else(|| "–".to_owned(), u64::to_string)
    };
    let bytes: Vec<String> = PURPOSES.iter().map(of).collect();
    let (least, most) = (seconds[0], seconds[seconds.len() - 1]);
    let median = seconds[seconds.len() / 2];
    format!("| {} | {median:.2} ({least:.2}–{most:.2}) | {} |\n", side.name, bytes.join(", "))
}

/// Starts an agent beside a database.
fn agent(pair: &Pair, database: &str) -> Outcome<Agent> {
    let token = pair.state_directory("token");
    std::fs::write(&token, TOKEN).map_err(|error| format!("cannot write a token: {error}"))?;
    let mut command = Command::new(binary()?);
    command.args(["agent", "--listen", "127.0.0.1:0", "--output", "json", "--connection"]);
    command.arg(format!("db={database}")).arg("--token-file").arg(&token);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = command.spawn().map_err(|error| format!("cannot start an agent: {error}"))?;
    let mut said = String::new();
    let output = process.stdout.take().ok_or("an agent without output")?;
    let read = BufReader::new(output).read_line(&mut said);
    let address = read.ok().and_then(|_| serde_json::from_str::<Value>(&said).ok());
    let address = address.and_then(|said| Some(said["address"].as_str()?.to_owned()));
    // Kept from here on, so that it is ended whatever comes.
    let mut agent = Agent { process, url: String::new() };
    let address = address.ok_or("an agent did not say where it listens")?;
    agent.url = format!("syncline://{address}/db?token-file={}", token.display());
    Ok(agent)
}

/// `syncline diff`, which must end with this code; what it cost, and the bytes of both links by their purpose.
fn compare(
    pair: &Pair,
    source: &str,
    destination: &str,
    code: i32,
) -> Outcome<(Cost, BTreeMap<&'static str, u64>)> {
    let mut command = Command::new(binary()?);
    command.args(["diff", source, destination, "--samples", "1000", "--output", "json"]);
    command.args(TABLES.iter().flat_map(|table| ["--table", *table]));
    command.arg("--state-dir").arg(pair.state_directory("diff"));
    let path = pair.state_directory("said");
    let said = File::create(&path).map_err(|error| format!("cannot write what it says: {error}"))?;
    command.stdin(Stdio::null()).stdout(said).stderr(Stdio::null());
    let mut measured = Together::begin();
    measured.add(command.spawn().map_err(|error| format!("cannot start syncline: {error}"))?);
    measured.wait_for(code)?;
    let said =
        std::fs::read_to_string(&path).map_err(|error| format!("cannot read what it said: {error}"))?;
    let end: Value = said.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let of = |purpose: &str| {
        let both = ["source", "destination"].map(|side| &end["traffic"][side][purpose]);
        let ways = both.map(|of| Some(of["sent_bytes"].as_u64()? + of["received_bytes"].as_u64()?));
        ways.into_iter().sum::<Option<u64>>()
    };
    let carried = PURPOSES.into_iter().filter_map(|purpose| Some((purpose, of(purpose)?))).collect();
    Ok((measured.cost(), carried))
}
