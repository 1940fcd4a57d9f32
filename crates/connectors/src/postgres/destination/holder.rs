//! Whether the process that holds a pipeline is still alive, as far as this host can say.

use syncline_core::Holder;

/// What is known of a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It ran on this host and does not any more.
    Dead,
    /// It runs on this host.
    Alive,
    /// It is on another host: only its heartbeat tells.
    Elsewhere,
}

/// Where this process runs; its own number and start do not matter here.
pub(super) struct Here {
    host: String,
    boot_id: String,
}

impl Here {
    /// What this host calls itself.
    pub(super) fn read() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { host, boot_id: boot_id.trim().to_owned() }
    }

    /// Where a holder says it runs.
    pub(super) fn of(holder: &Holder) -> Self {
        Self { host: holder.host.clone(), boot_id: holder.boot_id.clone() }
    }

    /// What this host can say of a holder.
    pub(super) fn judge(&self, holder: &Holder) -> Life {
        if holder.host != self.host {
            return Life::Elsewhere;
        }
        if holder.boot_id != self.boot_id {
            return Life::Dead;
        }
        match process_start(holder.pid) {
            Some(start) if start == holder.process_start => Life::Alive,
            _ => Life::Dead,
        }
    }
}

/// Start of a process in clock ticks since boot: field 22 of its `stat`, counted after the name, which may hold blanks
/// and parentheses.
fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(pid: u32, process_start: u64) -> (Here, Holder) {
        let here = Here { host: "a".into(), boot_id: "b".into() };
        (here, Holder { host: "a".into(), boot_id: "b".into(), pid, process_start })
    }

    #[test]
    fn a_reused_process_number_is_another_process() {
        let pid = std::process::id();
        let start = process_start(pid).unwrap();
        let (here, alive) = holder(pid, start);
        assert_eq!(here.judge(&alive), Life::Alive);
        assert_eq!(here.judge(&Holder { process_start: start + 1, ..alive.clone() }), Life::Dead);
        assert_eq!(here.judge(&Holder { boot_id: "before".into(), ..alive.clone() }), Life::Dead);
        assert_eq!(here.judge(&Holder { host: "other".into(), ..alive }), Life::Elsewhere);
    }
}
