//! Free TCP ports on the loopback address, and one that leads to others.

use std::net::{Ipv4Addr, TcpListener};

use tokio::net::TcpStream;

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

/// A port whose connections are passed on to the ports that `to` names, each asked for when a connection comes: a load
/// balancer, or an address that changes hands. Ends with the runtime.
///
/// # Panics
/// If the machine has no free port left.
pub async fn passed_on(mut to: impl FnMut() -> u16 + Send + 'static) -> u16 {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("no free port on the loopback address");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let there = to();
            tokio::spawn(async move {
                // A server that is not there ends the connection, as it would without us.
                if let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, there)).await {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    port
}
