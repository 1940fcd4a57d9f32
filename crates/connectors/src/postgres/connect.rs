//! SQL sessions: connected, secured, and set so that text forms never depend on the server's configuration.
//!
//! | module | what it is for |
//! |---|---|
//! | `server` | which server was reached: all sessions of an address must be at the same one |
//! | `pooler` | what to do about a pooler in between |
//! | `tls` | certificates and trust |
//!
//! TLS has one provider, `ring`, named explicitly: with a process-wide default the choice would belong to whoever
//! came first.

pub(crate) mod pooler;
pub(crate) mod server;
mod tls;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use syncline_core::{Error, ErrorKind, Result};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use super::error;
use super::url::{Address, Host, SslMode};
use server::Arrival;

pub(crate) use tls::tls_config;

/// Settings of every session, SQL and replication alike: one text form of every value, and no row hidden in silence
/// (`row_security = off` makes a policy that would hide rows an error).
pub(crate) const SESSION_SETTINGS: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    // A stream must hear the server's warnings.
    ("client_min_messages", "warning"),
    ("datestyle", "ISO, MDY"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    ("quote_all_identifiers", "off"),
    ("standard_conforming_strings", "on"),
    ("search_path", ""),
    ("row_security", "off"),
    ("default_transaction_isolation", "read committed"),
    ("jit", "off"),
    ("lock_timeout", "0"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
];

/// How long a connection may take, from the first packet to the end of authentication.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
/// How long sent bytes may stay unacknowledged before the connection counts as lost.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);

/// A SQL session. Its connection task ends with it.
pub(crate) struct Session {
    client: Client,
    connection: JoinHandle<()>,
    pooled: bool,
}

/// What a startup packet of a SQL session carries.
enum Startup<'a> {
    /// The settings, and a marker by which the backend that got them is known.
    Settings(&'a str),
    /// Nothing that a pooler would not pass on.
    Bare,
}

impl Session {
    /// Connects as `syncline/<purpose>`.
    ///
    /// # Errors
    /// Configuration for wrong credentials or database, for another server than before, and for a pooler that does not
    /// keep sessions; retriable for an unreachable server.
    pub(crate) async fn connect(address: &Address, purpose: &str) -> Result<Self> {
        let connecting = Self::arrived(address, purpose);
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Retriable,
                format!("{} did not answer within {} s", address.display(), CONNECT_TIMEOUT.as_secs()),
            ))
        })
    }

    /// Whether a pooler stands between us and the server.
    pub(crate) fn is_pooled(&self) -> bool {
        self.pooled
    }

    /// Connects, and makes sure of where the session has arrived.
    async fn arrived(address: &Address, purpose: &str) -> Result<Self> {
        if !address.pin.is_pooled() {
            let marker = server::marker();
            match Self::started(address, purpose, &Startup::Settings(&marker)).await {
                Ok((session, version)) => {
                    let arrival = session.arrival(&marker, version.as_deref()).await?;
                    if arrival.marker.as_ref() == Some(&marker) {
                        address.pin.hold(arrival.server, &address.display())?;
                        return Ok(session);
                    }
                }
                Err(error) if pooler::is_refusal(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let (mut session, version) = pooler::connect(address, purpose).await?;
        session.pooled = true;
        let arrival = session.arrival("", version.as_deref()).await?;
        address.pin.hold(arrival.server, &address.display())?;
        Ok(session)
    }

    async fn arrival(&self, marker: &str, version: Option<&str>) -> Result<Arrival> {
        let answer = self.simple_query(&server::arrival_query(marker, version)).await;
        let answer = answer.map_err(|error| error::from_client(error, "setting up a session"))?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        server::arrival(|column| row?.get(column))
    }

    /// Connects; also the server's version.
    async fn started(
        address: &Address,
        purpose: &str,
        startup: &Startup<'_>,
    ) -> Result<(Self, Option<String>)> {
        let config = config_of(address, purpose, startup);
        let connected = match Self::transported(&config, tls_config(address)?).await {
            // As libpq does: who only prefers TLS goes on without it, on a connection of its own.
            Err(error) if address.ssl_mode == SslMode::Prefer && tls::is_handshake(&error) => {
                tracing::debug!(error = %error, "the TLS handshake failed; going on without TLS");
                Self::transported(&config, None).await
            }
            connected => connected,
        };
        connected.map_err(|error| refused(error, address))
    }

    /// Connects with or without TLS; also the server's version.
    async fn transported(
        config: &Config,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<(Self, Option<String>), tokio_postgres::Error> {
        match tls {
            None => {
                let mut plain = config.clone();
                plain.ssl_mode(tokio_postgres::config::SslMode::Disable);
                let (client, connection) = plain.connect(tokio_postgres::NoTls).await?;
                Ok(Self::driven(client, connection))
            }
            Some(tls) => {
                let tls = tokio_postgres_rustls::MakeRustlsConnect::new(tls.as_ref().clone());
                let (client, connection) = config.connect(tls).await?;
                Ok(Self::driven(client, connection))
            }
        }
    }

    fn driven<S, T>(client: Client, connection: tokio_postgres::Connection<S, T>) -> (Self, Option<String>)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let version = connection.parameter("server_version").map(str::to_owned);
        (Self { client, connection: tokio::spawn(drive(connection)), pooled: false }, version)
    }
}

impl Deref for Session {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// What a connection's task reports is what its client's next call reports too, so nothing is lost by ending quietly.
async fn drive<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    if let Err(error) = connection.await {
        tracing::debug!(error = %error, "a PostgreSQL connection ended");
    }
}

/// The `options` of a startup packet that set [`SESSION_SETTINGS`] and the marker; blanks and backslashes inside a value
/// are escaped as the server's own splitting of this text demands.
pub(crate) fn startup_options(marker: &str) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace(' ', "\\ ");
    let all = SESSION_SETTINGS.iter().copied().chain([(server::MARKER, marker)]);
    let settings = all.map(|(name, value)| format!("-c {name}={}", escaped(value)));
    settings.collect::<Vec<_>>().join(" ")
}

fn config_of(address: &Address, purpose: &str, startup: &Startup<'_>) -> Config {
    let mut config = Config::new();
    match &address.host {
        Host::Tcp { host, port } => config.host(host).port(*port),
        Host::Socket { dir, port } => config.host_path(dir).port(*port),
    };
    if let Some(password) = &address.password {
        config.password(password);
    }
    if let Startup::Settings(marker) = startup {
        config.options(startup_options(marker));
    }
    config
        .user(&address.user)
        .dbname(&address.database)
        .application_name(format!("syncline/{purpose}"))
        .ssl_mode(match address.ssl_mode {
            SslMode::Disable => tokio_postgres::config::SslMode::Disable,
            SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
                tokio_postgres::config::SslMode::Require
            }
        })
        .connect_timeout(CONNECT_TIMEOUT)
        .keepalives(true)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES)
        .tcp_user_timeout(TCP_USER_TIMEOUT);
    config
}

/// An error while connecting: the server's own by its code; a broken connection is retriable; what is left is the
/// client refusing (no TLS there, no password given), which only another URL mends.
fn refused(error: tokio_postgres::Error, address: &Address) -> Error {
    let doing = format!("connecting to {}", address.display());
    if error.as_db_error().is_some() {
        return error::from_client(error, &doing);
    }
    let mut cause = std::error::Error::source(&error);
    while let Some(lower) = cause {
        if let Some(tls) = tls::error_in(lower) {
            let message = format!("the server's TLS certificate or handshake is refused: {tls}");
            return Error::configuration(message)
                .with_remedy("name the certificate's issuer with sslrootcert=FILE, or choose another sslmode")
                .with_source(error)
                .context(doing);
        }
        if lower.is::<std::io::Error>() {
            return error::from_client(error, &doing);
        }
        cause = lower.source();
    }
    if error.is_closed() {
        return error::from_client(error, &doing);
    }
    let message =
        std::error::Error::source(&error).map_or_else(|| error.to_string(), |why| format!("{error}: {why}"));
    Error::configuration(message)
        .with_remedy("check user, password and sslmode in the URL")
        .with_source(error)
        .context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn startup_options_survive_the_servers_splitting() {
        let options = startup_options("7-0");
        assert!(options.contains("-c datestyle=ISO,\\ MDY "), "{options}");
        assert!(options.contains("-c search_path= "), "{options}");
        assert!(options.ends_with("-c syncline.session=7-0"), "{options}");
    }
}
