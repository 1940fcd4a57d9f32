//! Which process this is, and whether another one still lives.
//!
//! A process id alone says little: it is used again after the process ends, after a reboot, and on other hosts. So a
//! holder is named by host, boot, process id and start time, and whatever cannot be told is not guessed.

use std::io;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use syncline_core::{Error, Holder, Result};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// This process. Where the system does not tell boot and start time, they are empty and 0.
///
/// # Errors
/// As reading `/proc`.
pub fn this_process() -> Result<Holder> {
    let pid = std::process::id();
    Ok(Holder {
        host: host(),
        boot_id: boot_id()?,
        pid,
        process_start: stat_of(pid)?.map_or(0, |stat| stat.start),
    })
}

/// Whether a holder's process is alive. `None` if that cannot be told from here: it is on another host, in another boot
/// (a host name may be shared, so this is not taken for a reboot), or hidden from this user.
#[must_use]
pub fn is_alive(holder: &Holder) -> Option<bool> {
    if holder.host != host() || holder.boot_id != boot_id().ok()? {
        return None;
    }
    match stat_of(holder.pid).ok()? {
        Some(stat) => Some(stat.start == holder.process_start && !stat.ended),
        None => signalled(holder),
    }
}

/// What a signal would find, where `/proc` shows nothing.
fn signalled(holder: &Holder) -> Option<bool> {
    let pid = i32::try_from(holder.pid).ok().and_then(Pid::from_raw)?;
    match test_kill_process(pid) {
        Err(Errno::SRCH) => Some(false),
        // It may be another process under the same number: without its start time that cannot be told.
        Ok(()) if holder.process_start == 0 => Some(true),
        _ => None,
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn boot_id() -> Result<String> {
    match std::fs::read_to_string(BOOT_ID) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Error::io(format!("cannot read {BOOT_ID}"), error)),
    }
}

struct Stat {
    start: u64,
    /// A zombie: it holds nothing any more.
    ended: bool,
}

fn stat_of(pid: u32) -> Result<Option<Stat>> {
    let path = format!("/proc/{pid}/stat");
    match std::fs::read(&path) {
        Ok(text) => Ok(parse_stat(&String::from_utf8_lossy(&text))),
        // ESRCH: it ended between open and read.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(error) => Err(Error::io(format!("cannot read {path}"), error)),
    }
}

/// State and start time (fields 3 and 22 of proc_pid_stat(5)). The command may hold blanks and parentheses: the fields
/// begin after the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X" | "x");
    let start = fields.nth(18)?.parse().ok()?;
    Some(Stat { start, ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_its_number_in_another_life_is_not() {
        let me = this_process().unwrap();
        assert_eq!(is_alive(&me), Some(true));
        assert_eq!(is_alive(&Holder { process_start: me.process_start + 1, ..me.clone() }), Some(false));
        assert_eq!(is_alive(&Holder { host: "elsewhere".into(), ..me.clone() }), None);
        assert_eq!(is_alive(&Holder { boot_id: "another".into(), ..me }), None);
    }

    #[test]
    fn a_child_that_ended_is_dead_before_and_after_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let start = stat_of(child.id()).unwrap().unwrap().start;
        let holder = Holder { pid: child.id(), process_start: start, ..this_process().unwrap() };
        assert_eq!(is_alive(&holder), Some(true));
        child.kill().unwrap();
        let ended = || stat_of(holder.pid).unwrap().is_none_or(|stat| stat.ended);
        while !ended() {
            std::thread::yield_now();
        }
        assert_eq!(is_alive(&holder), Some(false));
        child.wait().unwrap();
        assert_eq!(is_alive(&holder), Some(false));
    }

    #[test]
    fn a_command_with_parentheses_does_not_shift_the_fields() {
        let fields = (4..=22).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let stat = parse_stat(&format!("7 (a) Z (b)) S {fields}")).unwrap();
        assert_eq!((stat.start, stat.ended), (22, false));
    }
}
