//! An agent's listener: sessions are taken in, bounded in number and in time, until somebody says to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use syncline_core::{Destination, Error, ErrorKind, Result, Source};
use syncline_engine::diff::remote::{self, Door, Holds, Wire, Writable};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::tls::Identity;
use crate::token::Token;

/// Sessions at the same time, with those that have not said yet who they are.
const SESSIONS_MAX: usize = 16;
/// Those for whom there is no room and who are told so at the same time; more are cut off without a word.
const TURNED_AWAY_MAX: usize = 16;
/// How long TLS may take to be agreed on.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// What sessions get to end by themselves when the agent stops.
const GRACE: Duration = Duration::from_secs(10);
/// Between two tries to accept, where the system has no room.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Opens a database; connects to nothing yet.
type OpenSource = Box<dyn Fn(&str) -> Result<Arc<dyn Source>> + Send + Sync>;

/// As above, to be written.
type OpenDestination = Box<dyn Fn(&str) -> Result<Arc<dyn Destination>> + Send + Sync>;

/// What an agent serves, and to whom.
pub struct Served {
    /// What opens it.
    pub token: Token,
    /// The URLs behind the names of its connections.
    pub connections: BTreeMap<String, String>,
    /// How one of them is opened, for each session anew.
    pub open: OpenSource,
    /// Names of connections that may be written.
    pub writable: BTreeSet<String>,
    /// How one of these is opened.
    pub open_writable: OpenDestination,
    /// Who writes what, of all sessions.
    pub holds: Arc<Holds>,
    /// Chunks of a table that are read at the same time.
    pub readers: usize,
}

impl Door for Served {
    fn open(&self, token: &str, connection: &str) -> Result<Arc<dyn Source>> {
        if !self.token.is(token) {
            return Err(Error::configuration("the token is not the agent's")
                .with_remedy("give both ends the same: the agent's --token-file, ?token-file= in its URL"));
        }
        let url = self.connections.get(connection).ok_or_else(|| {
            let known: Vec<_> = self.connections.keys().map(String::as_str).collect();
            Error::configuration("the agent has no connection of this name")
                .with_remedy(format!("use one of: {}", known.join(", ")))
        })?;
        (self.open)(url)
    }

    fn writable(&self, connection: &str) -> Result<Option<Writable>> {
        let url = self.connections.get(connection).filter(|_| self.writable.contains(connection));
        let open = |url: &String| {
            Ok(Writable { destination: (self.open_writable)(url)?, holds: Arc::clone(&self.holds) })
        };
        url.map(open).transpose()
    }
}

/// A socket that is listened to.
pub struct Listener {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    /// Listens. Another address than this machine's own only with TLS.
    ///
    /// # Errors
    /// Configuration if the address cannot be listened to as it is asked; as the system.
    pub async fn bind(address: &str, identity: Option<&Identity>) -> Result<Self> {
        let wrong = || {
            Error::configuration(format!("`{address}` is no address to listen at"))
                .with_remedy("write host:port, as in 127.0.0.1:7077")
        };
        let found = tokio::net::lookup_host(address).await.map_err(|error| wrong().with_source(error))?;
        let found: Vec<SocketAddr> = found.collect();
        if found.is_empty() {
            return Err(wrong());
        }
        if identity.is_none() && !found.iter().all(|address| address.ip().is_loopback()) {
            return Err(Error::configuration(
                "an address that others can reach is listened to with TLS only",
            )
            .with_remedy("add --tls-cert FILE --tls-key FILE, or listen at 127.0.0.1 and use a tunnel"));
        }
        let socket = TcpListener::bind(found.as_slice()).await.map_err(|error| {
            Error::configuration(format!("cannot listen at {address}")).with_source(error)
        })?;
        let tls = identity.map(|identity| TlsAcceptor::from(identity.config()));
        Ok(Self { socket, tls })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As the system.
    pub fn address(&self) -> Result<SocketAddr> {
        self.socket.local_addr().map_err(|error| Error::io("the socket has no address", error))
    }

    /// Answers sessions until `stop` ends; then those that are open get a moment to end by themselves.
    pub async fn serve(self, served: Served, stop: impl Future<Output = ()>) {
        let (served, room) = (Arc::new(served), Arc::new(Semaphore::new(SESSIONS_MAX)));
        let door = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
        let mut sessions = JoinSet::new();
        tokio::pin!(stop);
        loop {
            // Those that ended are let go.
            while sessions.try_join_next().is_some() {}
            tokio::select! {
                () = &mut stop => break,
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, from)) => match Arc::clone(&room).try_acquire_owned() {
                        Ok(place) => {
                            let (tls, served) = (self.tls.clone(), Arc::clone(&served));
                            sessions.spawn(async move {
                                session(stream, from, tls, &served).await;
                                drop(place);
                            });
                        }
                        Err(_) => {
                            tracing::warn!(%from, "too many sessions; one was turned away");
                            if let Ok(place) = Arc::clone(&door).try_acquire_owned() {
                                let tls = self.tls.clone();
                                sessions.spawn(async move {
                                    turn_away(stream, from, tls).await;
                                    drop(place);
                                });
                            }
                        }
                    },
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                },
            }
        }
        drop(self.socket);
        let ended = async { while sessions.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, ended).await;
        // What is left reads, or has an open load, which rolls back: it may be cut off anywhere.
        sessions.shutdown().await;
    }
}

/// One session, from its first byte to its last. Its end is of interest to its other end, which was told.
async fn session(stream: TcpStream, from: SocketAddr, tls: Option<TlsAcceptor>, served: &Served) {
    tracing::info!(%from, "a session begins");
    let ended = match wire(stream, tls).await {
        Ok(wire) => remote::serve(wire, served, served.readers).await,
        Err(error) => Err(error),
    };
    match ended {
        Ok(()) => tracing::info!(%from, "a session has ended"),
        Err(error) => tracing::warn!(%from, %error, "a session has ended"),
    }
}

/// Tells somebody that there is no room.
async fn turn_away(stream: TcpStream, from: SocketAddr, tls: Option<TlsAcceptor>) {
    let why = Error::new(
        ErrorKind::Retriable,
        format!("it has {SESSIONS_MAX} sessions already, and serves no more at the same time"),
    )
    .with_remedy("wait until another comparison has ended, then compare again; or start a second agent");
    let told = match wire(stream, tls).await {
        Ok(wire) => remote::turn_away(wire, &why).await,
        Err(error) => Err(error),
    };
    if let Err(error) = told {
        tracing::debug!(%from, %error, "somebody who was turned away could not be told");
    }
}

async fn wire(stream: TcpStream, tls: Option<TlsAcceptor>) -> Result<Box<dyn Wire>> {
    stream.set_nodelay(true).map_err(|error| Error::io("a connection cannot be set up", error))?;
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    let failed = |error| Error::io("TLS could not be agreed on", error);
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    let agreed = tokio::time::timeout(HANDSHAKE_MAX, tls.accept(stream)).await;
    Ok(Box::new(agreed.map_err(|_| failed(late()))?.map_err(failed)?))
}
