//! Time, processor time and peak memory of child processes, from `/proc`.

use std::fs;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;

/// `/proc` counts processor time in hundredths of a second on every Linux there is.
const TICKS_PER_SECOND: f64 = 100.0;
const POLL: Duration = Duration::from_millis(10);

/// What a run cost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    /// The sum of the processes' own peaks; pages they share are counted in each.
    pub(super) peak_bytes: u64,
}

/// Processes that run together, from their start to the end of the last.
pub(super) struct Together {
    started: Instant,
    processes: Vec<Watched>,
}

struct Watched {
    child: Child,
    peak_bytes: u64,
    cpu_seconds: f64,
}

impl Together {
    /// Begins to measure, now.
    pub(super) fn begin() -> Self {
        Self { started: Instant::now(), processes: Vec::new() }
    }

    /// Adds a process that was just started.
    pub(super) fn add(&mut self, child: Child) {
        self.processes.push(Watched { child, peak_bytes: 0, cpu_seconds: 0.0 });
    }

    /// Asks all of them to end, as Ctrl-C does, and waits.
    pub(super) fn stop(&mut self) -> Outcome {
        for watched in &self.processes {
            let id = watched.child.id().to_string();
            let sent = Command::new("kill").args(["-INT", &id]).status();
            let _ = sent.map_err(|error| format!("cannot stop process {id}: {error}"))?;
        }
        self.wait()
    }

    /// Waits for all of them, and requires their success.
    pub(super) fn wait(&mut self) -> Outcome {
        self.wait_for(0)
    }

    /// Waits for all of them, and requires that they end with this code.
    pub(super) fn wait_for(&mut self, code: i32) -> Outcome {
        loop {
            // Each is looked at each time: a peak is only seen while its process lives.
            let running = self.processes.iter_mut().map(Watched::look).filter(|ended| !ended).count();
            if running == 0 {
                break;
            }
            thread::sleep(POLL);
        }
        for watched in &mut self.processes {
            let status =
                watched.child.wait().map_err(|error| format!("cannot wait for a process: {error}"))?;
            if status.code() != Some(code) {
                return Err(format!("a measured process failed: {status}"));
            }
        }
        Ok(())
    }

    /// The cost since the beginning. More processes may be added afterwards, for a later look.
    pub(super) fn cost(&self) -> Cost {
        Cost {
            seconds: self.started.elapsed().as_secs_f64(),
            cpu_seconds: self.processes.iter().map(|watched| watched.cpu_seconds).sum(),
            peak_bytes: self.processes.iter().map(|watched| watched.peak_bytes).sum(),
        }
    }
}

impl Watched {
    /// Whether it has ended. It stays a zombie until it is waited for, and a zombie still knows its processor time.
    fn look(&mut self) -> bool {
        let directory = format!("/proc/{}", self.child.id());
        let Ok(stat) = fs::read_to_string(format!("{directory}/stat")) else { return true };
        let Some((_, fields)) = stat.rsplit_once(") ") else { return true };
        let fields: Vec<&str> = fields.split(' ').collect();
        // Fields 14 and 15 of proc(5), counted from the state, which is field 3.
        let ticks =
            |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
        self.cpu_seconds = (ticks(11) + ticks(12)) / TICKS_PER_SECOND;
        if fields.first().is_some_and(|state| matches!(*state, "Z" | "X")) {
            return true;
        }
        self.peak_bytes = peak_bytes(&directory).unwrap_or(self.peak_bytes);
        false
    }
}

/// The peak of a process that still runs; its threads' and its own memory, not its children's.
pub(super) fn peak_bytes_of(process: &Child) -> u64 {
    peak_bytes(&format!("/proc/{}", process.id())).unwrap_or_default()
}

fn peak_bytes(directory: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("{directory}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(kib.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
