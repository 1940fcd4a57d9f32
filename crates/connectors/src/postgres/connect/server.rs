//! Which server a session has reached, and whether it is reached without a pooler in between.
//!
//! Locks, exported snapshots, temporary tables and positions of a log mean something at one server only, and an address
//! may lead to several: a name with several addresses, a load balancer. So every session asks, in its first round trip,
//! where it is. What a server's restart or a failover means is not judged here: the fence, the log's identity and the
//! journal do that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use syncline_core::{Error, Result};

/// A server, as a session found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Its cluster's identifier, which its standbys and copies share.
    system: String,
    /// When it started, and what its clock said when we asked; microseconds since 1970.
    started_us: i64,
    seen_us: i64,
    /// Of the log it writes; a standby writes none.
    timeline: Option<String>,
}

impl Server {
    /// Whether `found` is this server: the same process, or what became of it since it was last seen (restarted, or
    /// replaced by a standby that was promoted).
    fn became(&self, found: &Self) -> bool {
        let restarted =
            self.timeline.is_some() == found.timeline.is_some() && found.started_us > self.seen_us;
        let promoted = matches!((&self.timeline, &found.timeline), (Some(old), Some(new)) if new > old);
        self.system == found.system && (self.started_us == found.started_us || restarted || promoted)
    }
}

/// What is known of where an address leads. Shared by the clones of the address.
#[derive(Debug, Default)]
pub(crate) struct Pin(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    server: Option<Server>,
    pooled: bool,
}

impl Pin {
    /// Takes note of the server that a session has reached.
    ///
    /// # Errors
    /// Configuration if an earlier session reached another one.
    pub(crate) fn hold(&self, found: Server, address: &str) -> Result<()> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = &known.server
            && !before.became(&found)
        {
            return Err(Error::configuration(format!("{address} leads to more than one server"))
                .with_remedy(
                    "name the one server to be used, the primary, and not what spreads connections over several",
                ));
        }
        known.server = Some(found);
        Ok(())
    }

    /// Whether a pooler was found on the way that keeps a session on its server connection.
    pub(crate) fn is_pooled(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pooled
    }

    pub(super) fn set_pooled(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pooled = true;
    }
}

/// A setting of ours that a startup packet carries, with a value of its own. A backend that does not have it was not
/// started by this packet: there is a pooler in between.
pub(crate) const MARKER: &str = "syncline.session";

/// A value that no other session has.
pub(crate) fn marker() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{}-{}-{now}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What a session finds when it asks where it is.
pub(crate) struct Arrival {
    pub(crate) server: Server,
    /// What stands in [`MARKER`].
    pub(crate) marker: Option<String>,
}

/// The first statement of every session. It changes nothing in a backend that is not its own: one of a pooler is used by
/// others afterwards. `version` as the server reports it (`17.5`).
pub(crate) fn arrival_query(marker: &str, version: Option<&str>) -> String {
    let later = match version.and_then(later_setting) {
        Some(name) => format!(
            "CASE WHEN pg_catalog.current_setting('{MARKER}', true) = '{marker}' \
             THEN pg_catalog.set_config('{name}', '0', false) END"
        ),
        None => "NULL".to_owned(),
    };
    format!(
        "SELECT pg_catalog.current_setting('{MARKER}', true), s.system_identifier, \
         (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::pg_catalog.int8, \
         (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::pg_catalog.int8, \
         CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
         THEN pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END, {later} \
         FROM pg_catalog.pg_control_system() s"
    )
}

/// A setting that must be lifted and that an older server would refuse in a startup packet.
pub(super) fn later_setting(version: &str) -> Option<&'static str> {
    let major = version.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()?;
    (major >= 17).then_some("transaction_timeout")
}

/// Reads the row of [`arrival_query`].
///
/// # Errors
/// A conflict if it is no such row.
pub(crate) fn arrival<'a>(column: impl Fn(usize) -> Option<&'a str>) -> Result<Arrival> {
    let odd = || Error::conflict("the server does not say which one it is");
    let number = |index| column(index).and_then(|text| text.parse().ok()).ok_or_else(odd);
    let server = Server {
        system: column(1).ok_or_else(odd)?.to_owned(),
        started_us: number(2)?,
        seen_us: number(3)?,
        timeline: column(4).map(str::to_owned),
    };
    Ok(Arrival { server, marker: column(0).map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(started_us: i64, seen_us: i64, timeline: Option<&str>) -> Server {
        Server { system: "7".to_owned(), started_us, seen_us, timeline: timeline.map(str::to_owned) }
    }

    #[test]
    fn a_server_may_restart_and_be_replaced_and_nothing_else() {
        let before = server(100, 500, Some("00000001"));
        let became = |started, timeline| before.became(&server(started, 900, timeline));
        assert!(became(100, Some("00000001")), "the same");
        assert!(became(600, Some("00000001")), "restarted");
        assert!(became(50, Some("00000002")), "a standby that was promoted");
        assert!(!became(50, Some("00000001")), "a copy of it beside it");
        assert!(!became(50, None), "its standby");
        assert!(!became(600, None), "its standby, restarted");
        let other = Server { system: "8".to_owned(), ..server(600, 900, Some("00000001")) };
        assert!(!before.became(&other), "another cluster");
        let standby = server(100, 500, None);
        assert!(standby.became(&server(100, 900, Some("00000002"))), "promoted itself");
        assert!(!standby.became(&server(50, 900, Some("00000001"))), "its primary");
        assert!(!standby.became(&server(50, 900, None)), "another standby");
    }

    #[test]
    fn of_two_servers_the_first_one_stays() {
        let pin = Pin::default();
        pin.hold(server(100, 500, Some("00000001")), "h:1/d").unwrap();
        let error = pin.hold(server(50, 600, Some("00000001")), "h:1/d").unwrap_err();
        assert!(error.to_string().contains("more than one server") && error.remedy().is_some(), "{error:?}");
        pin.hold(server(100, 700, Some("00000001")), "h:1/d").unwrap();
    }

    #[test]
    fn only_servers_that_know_a_setting_are_asked_for_it() {
        for (version, known) in
            [("17.5", true), ("18beta1", true), ("15.18 (Debian 15.18-0+deb12u1)", false), ("", false)]
        {
            assert_eq!(later_setting(version).is_some(), known, "{version}");
            assert_eq!(arrival_query("m", Some(version)).contains("transaction_timeout"), known);
        }
    }
}
