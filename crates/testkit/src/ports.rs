//! Free TCP ports on the loopback address.

use std::net::{Ipv4Addr, TcpListener};

/// A port that nobody listened on a moment ago.
///
/// Another process may take it before the caller binds it, so whoever starts a server on it tries again with another
/// one when the bind fails.
///
/// # Panics
/// If the machine has no free port left.
#[must_use]
pub fn free() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no free port on the loopback address");
    listener.local_addr().expect("a bound socket has an address").port()
}
