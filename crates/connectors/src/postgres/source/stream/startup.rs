//! From an address to a [`Wire`] that the server has let in: transport, TLS, authentication, session settings.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use syncline_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::super::super::connect::{CONNECT_TIMEOUT, pooler, server, startup_options, tls_config};
use super::super::super::url::{Address, Host, SslMode};
use super::wire::{Duplex, Wire, malformed, server_error, unexpected};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Statements.
    Sql,
    /// Replication commands.
    Replication,
}

/// Connects and authenticates.
///
/// # Errors
/// Configuration for wrong credentials or TLS, for another server than before and for a pooler; retriable for an
/// unreachable server.
pub(super) async fn connect(address: &Address, purpose: Purpose) -> Result<Wire> {
    let connecting = async {
        let mut wire = Wire::new(transport(address).await?);
        let logged_in = log_in(&mut wire, address, purpose).await;
        logged_in.map_err(|error| match pooler::is_refusal(&error) {
            true => pooler::no_stream(&address.display()).with_source(error),
            false => error,
        })?;
        Ok(wire)
    };
    let late = |_| {
        let seconds = CONNECT_TIMEOUT.as_secs();
        Err(Error::new(ErrorKind::Retriable, format!("no answer within {seconds} s")))
    };
    let connected: Result<Wire> =
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(late);
    connected.map_err(|error| error.context(format!("connecting to {}", address.display())))
}

async fn transport(address: &Address) -> Result<Box<dyn Duplex>> {
    let unreachable = |error| Error::io("the server cannot be reached", error);
    match &address.host {
        Host::Socket { dir, port } => {
            let path = dir.join(format!(".s.PGSQL.{port}"));
            Ok(Box::new(UnixStream::connect(path).await.map_err(unreachable)?))
        }
        Host::Tcp { host, port } => {
            let tcp = async || {
                let tcp = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
                tcp.set_nodelay(true).map_err(unreachable)?;
                Ok::<_, Error>(tcp)
            };
            let Some(config) = tls_config(address)? else { return Ok(Box::new(tcp().await?)) };
            match secured(tcp().await?, host, address.ssl_mode, config).await? {
                Secured::Spoken(stream) => Ok(stream),
                // As libpq does: who only prefers TLS goes on without it, on a connection of its own.
                Secured::Failed(error) if address.ssl_mode == SslMode::Prefer => {
                    tracing::debug!(error = %error, "the TLS handshake failed; going on without TLS");
                    Ok(Box::new(tcp().await?))
                }
                Secured::Failed(error) => Err(refused(error)),
            }
        }
    }
}

/// What came of asking for TLS.
enum Secured {
    /// A connection to go on with; without TLS where the server has none and it is not demanded.
    Spoken(Box<dyn Duplex>),
    /// The handshake failed, and the connection with it.
    Failed(std::io::Error),
}

/// Asks for TLS and speaks it if the server does.
async fn secured(
    mut tcp: TcpStream,
    host: &str,
    mode: SslMode,
    config: Arc<rustls::ClientConfig>,
) -> Result<Secured> {
    let broken = |error| Error::io("the connection broke before TLS began", error);
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await.map_err(broken)?;
    match tcp.read_u8().await.map_err(broken)? {
        b'S' => {}
        b'N' if mode == SslMode::Prefer => return Ok(Secured::Spoken(Box::new(tcp))),
        b'N' => {
            return Err(Error::configuration("the server does not speak TLS")
                .with_remedy("turn on `ssl` at the server, or choose another sslmode in the URL"));
        }
        other => return Err(unexpected(other)),
    }
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| Error::configuration("the host is no name TLS can check").with_source(error))?;
    match tokio_rustls::TlsConnector::from(config).connect(name, tcp).await {
        Ok(stream) => Ok(Secured::Spoken(Box::new(stream))),
        Err(error) => Ok(Secured::Failed(error)),
    }
}

/// A failed handshake: a refused certificate is configuration, a broken connection is not.
fn refused(error: std::io::Error) -> Error {
    if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) {
        return Error::configuration("the server's TLS certificate or handshake is refused")
            .with_remedy("name the certificate's issuer with sslrootcert=FILE, or choose another sslmode")
            .with_source(error);
    }
    Error::io("the TLS handshake failed", error)
}

async fn log_in(wire: &mut Wire, address: &Address, purpose: Purpose) -> Result<()> {
    let marker = server::marker();
    let options = startup_options(&marker);
    let mut parameters = vec![
        ("user", address.user.as_str()),
        ("database", address.database.as_str()),
        ("application_name", "syncline/stream"),
        ("client_encoding", "UTF8"),
        ("options", options.as_str()),
    ];
    if purpose == Purpose::Replication {
        parameters.push(("replication", "database"));
    }
    wire.send(|out| frontend::startup_message(parameters, out)).await?;
    authenticate(wire, address).await?;
    let mut version = None;
    loop {
        let frame = wire.next().await?;
        match frame.tag {
            b'Z' => break,
            b'E' => return Err(server_error(frame.body)),
            b'S' => version = version.or_else(|| version_in(frame.body).map(str::to_owned)),
            b'K' | b'N' => {}
            other => return Err(unexpected(other)),
        }
    }
    let rows = wire.query(&server::arrival_query(&marker, version.as_deref())).await?;
    let row = rows.first();
    let arrival = server::arrival(|column| row?.get(column)?.as_deref())?;
    if arrival.marker.as_ref() != Some(&marker) {
        return Err(pooler::no_stream(&address.display()));
    }
    address.pin.hold(arrival.server, &address.display())
}

/// The server's version, if a `ParameterStatus` is about it.
fn version_in(body: &[u8]) -> Option<&str> {
    let value = body.strip_prefix(b"server_version\0")?.strip_suffix(b"\0")?;
    std::str::from_utf8(value).ok()
}

/// What the server asks for, in an `Authentication` message.
enum Demand {
    Nothing,
    Cleartext,
    Md5([u8; 4]),
    Sasl { scram: bool },
    SaslContinue(Vec<u8>),
    SaslFinal(Vec<u8>),
    Other(u32),
}

async fn demand(wire: &mut Wire) -> Result<Demand> {
    loop {
        let frame = wire.next().await?;
        match frame.tag {
            b'R' => return demand_of(frame.body),
            b'E' => return Err(server_error(frame.body)),
            b'N' => {}
            other => return Err(unexpected(other)),
        }
    }
}

fn demand_of(body: &[u8]) -> Result<Demand> {
    let broken = || malformed("a broken authentication request");
    let (code, rest) = body.split_first_chunk::<4>().ok_or_else(broken)?;
    Ok(match u32::from_be_bytes(*code) {
        0 => Demand::Nothing,
        3 => Demand::Cleartext,
        5 => Demand::Md5(*rest.first_chunk().ok_or_else(broken)?),
        10 => {
            Demand::Sasl { scram: rest.split(|&byte| byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) }
        }
        11 => Demand::SaslContinue(rest.to_vec()),
        12 => Demand::SaslFinal(rest.to_vec()),
        other => Demand::Other(other),
    })
}

async fn authenticate(wire: &mut Wire, address: &Address) -> Result<()> {
    match demand(wire).await? {
        Demand::Nothing => return Ok(()),
        Demand::Cleartext => {
            let password = password(address)?;
            wire.send(|out| frontend::password_message(password, out)).await?;
        }
        Demand::Md5(salt) => {
            let hash = md5_hash(address.user.as_bytes(), password(address)?, salt);
            wire.send(|out| frontend::password_message(hash.as_bytes(), out)).await?;
        }
        Demand::Sasl { scram: true } => scram(wire, password(address)?).await?,
        Demand::Sasl { scram: false } | Demand::SaslContinue(_) | Demand::SaslFinal(_) => {
            return Err(unsupported("no mechanism but SCRAM-SHA-256 is spoken"));
        }
        Demand::Other(code) => return Err(unsupported(&format!("method {code} is not spoken"))),
    }
    match demand(wire).await? {
        Demand::Nothing => Ok(()),
        _ => Err(malformed("a second authentication request")),
    }
}

async fn scram(wire: &mut Wire, password: &[u8]) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::configuration("SCRAM authentication failed")
            .with_remedy("check user and password in the URL")
            .with_source(error)
    };
    let mut exchange = ScramSha256::new(password, ChannelBinding::unsupported());
    wire.send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, exchange.message(), out)).await?;
    let Demand::SaslContinue(challenge) = demand(wire).await? else {
        return Err(malformed("no SCRAM challenge"));
    };
    exchange.update(&challenge).map_err(failed)?;
    wire.send(|out| frontend::sasl_response(exchange.message(), out)).await?;
    let Demand::SaslFinal(proof) = demand(wire).await? else {
        return Err(malformed("no SCRAM proof"));
    };
    exchange.finish(&proof).map_err(failed)
}

fn password(address: &Address) -> Result<&[u8]> {
    let missing = || {
        Error::configuration("the server demands a password and the URL has none")
            .with_remedy("write it as postgres://user:password@host/db")
    };
    address.password.as_deref().map(str::as_bytes).ok_or_else(missing)
}

fn unsupported(why: &str) -> Error {
    Error::configuration(format!("the server demands another authentication: {why}"))
        .with_remedy("let the user in by scram-sha-256, md5, password or trust in pg_hba.conf")
}

/// How long a slot may stay busy with the connection before this one.
const SLOT_BUSY_MAX: Duration = Duration::from_secs(10);
const SLOT_BUSY_FIRST_WAIT: Duration = Duration::from_millis(20);

/// Waits between tries at a slot that the server still counts as used (SQLSTATE 55006): the walsender of a dropped
/// connection keeps it for a moment.
pub(super) struct BusySlot {
    wait: Duration,
    waited: Duration,
}

impl BusySlot {
    pub(super) fn new() -> Self {
        Self { wait: SLOT_BUSY_FIRST_WAIT, waited: Duration::ZERO }
    }

    /// Waits if `error` is worth another try.
    ///
    /// # Errors
    /// The error itself if it is not, or no longer.
    pub(super) async fn or_wait(&mut self, error: Error) -> Result<()> {
        if error.code() != Some("55006") || self.waited >= SLOT_BUSY_MAX {
            return Err(error);
        }
        tokio::time::sleep(self.wait).await;
        self.waited += self.wait;
        self.wait = (self.wait * 2).min(Duration::from_secs(1));
        Ok(())
    }
}
