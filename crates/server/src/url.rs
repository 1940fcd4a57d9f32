//! `syncline://host:port/connection?tls=on&ca=FILE&token-file=FILE`: an agent's connection, and the way there.
//!
//! To this machine TLS is not spoken unless it is asked for; to any other it always is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use syncline_core::{Error, ErrorKind, Family, Result};
use syncline_engine::diff::remote::{Dial, Show, Wire};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls;
use crate::token::Token;

const SCHEME: &str = "syncline://";
/// How long one address may take to answer.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Where an agent is, which of its connections is meant, and what opens it.
pub struct AgentUrl {
    host: String,
    port: u16,
    connection: String,
    token: Token,
    tls: Option<Arc<ClientConfig>>,
    known: Known,
}

/// The family of a name and how its values are shown, if it is known here.
type Known = fn(&str) -> Option<(Family, Show)>;

/// What the URL says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parts {
    host: String,
    port: u16,
    connection: String,
    tls: Option<bool>,
    ca: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

impl AgentUrl {
    /// Whether a URL leads to an agent.
    #[must_use]
    pub fn is_one(url: &str) -> bool {
        url.starts_with("syncline:")
    }

    /// Reads a URL, and the files that it names. `known`: the families that are known here.
    ///
    /// # Errors
    /// Configuration if it is malformed, or a file cannot be used.
    pub fn open(url: &str, known: Known) -> Result<Self> {
        let Parts { host, port, connection, tls, ca, token_file } = Parts::read(url)?;
        let is_near = is_here(&host);
        if tls == Some(false) && !is_near {
            return Err(Error::configuration("an agent on another machine is not spoken to without TLS")
                .with_remedy("leave ?tls=off out; or go through a tunnel that ends on this machine"));
        }
        let speaks_tls = tls.unwrap_or(ca.is_some() || !is_near);
        let tls = if speaks_tls { Some(tls::trusting(ca.as_deref())?) } else { None };
        let token = Token::load(token_file.as_deref())?;
        Ok(Self { host, port, connection, token, tls, known })
    }

    async fn connect(&self) -> Result<TcpStream> {
        let unreachable = |what: &str| {
            Error::new(ErrorKind::Retriable, what)
                .with_remedy("see whether the agent runs, and listens at this address")
        };
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found: Vec<SocketAddr> =
            found.map_err(|error| unreachable("its host is not known").with_source(error))?.collect();
        if self.tls.is_none() && !found.iter().all(|address| address.ip().is_loopback()) {
            return Err(Error::configuration("its host is not this machine, and TLS is off")
                .with_remedy("leave ?tls=off out"));
        }
        let mut last = unreachable("its host has no address");
        for address in found {
            match tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = unreachable("it cannot be connected to").with_source(error),
                Err(_) => last = unreachable("it cannot be connected to, nothing answers"),
            }
        }
        Err(last)
    }
}

#[async_trait]
impl Dial for AgentUrl {
    async fn dial(&self) -> Result<Box<dyn Wire>> {
        let stream = self.connect().await?;
        // Questions are short, and each waits for its answer.
        stream.set_nodelay(true).map_err(|error| Error::io("a connection cannot be set up", error))?;
        let Some(config) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|error| malformed("its host is no name").with_source(error))?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
        Ok(Box::new(stream.map_err(tls::handshake_failed)?))
    }

    fn address(&self) -> String {
        if self.host.contains(':') {
            format!("{SCHEME}[{}]:{}/{}", self.host, self.port, self.connection)
        } else {
            format!("{SCHEME}{}:{}/{}", self.host, self.port, self.connection)
        }
    }

    fn connection(&self) -> &str {
        &self.connection
    }

    fn token(&self) -> &str {
        self.token.secret()
    }

    fn family(&self, name: &str) -> Option<(Family, Show)> {
        (self.known)(name)
    }
}

impl Parts {
    fn read(url: &str) -> Result<Self> {
        let rest = url.strip_prefix(SCHEME).ok_or_else(|| malformed("it does not begin with syncline://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (place, connection) = rest.split_once('/').ok_or_else(|| malformed("it names no connection"))?;
        if place.contains('@') {
            return Err(malformed("a token does not belong there"));
        }
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => rest.split_once("]:"),
            None => place.rsplit_once(':'),
        }
        .ok_or_else(|| malformed("it names no port"))?;
        let port =
            port.parse().ok().filter(|port| *port > 0).ok_or_else(|| malformed("its port is no number"))?;
        if host.is_empty() || connection.is_empty() || connection.contains('/') {
            return Err(malformed("it names no host, or no connection"));
        }
        let mut parts =
            Self { host: host.to_owned(), port, connection: connection.to_owned(), ..Self::default() };
        query.split('&').filter(|pair| !pair.is_empty()).try_for_each(|pair| parts.parameter(pair))?;
        Ok(parts)
    }

    fn parameter(&mut self, pair: &str) -> Result<()> {
        let (name, value) = pair.split_once('=').ok_or_else(|| malformed("a parameter has no value"))?;
        match (name, value) {
            ("tls", "on") => self.tls = Some(true),
            ("tls", "off") => self.tls = Some(false),
            ("ca", file) if !file.is_empty() => self.ca = Some(file.into()),
            ("token-file", file) if !file.is_empty() => self.token_file = Some(file.into()),
            // A name may be a secret that was put in the wrong place.
            _ => return Err(malformed("a parameter of it is not known")),
        }
        Ok(())
    }
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn malformed(what: &str) -> Error {
    Error::configuration(format!("the URL of the agent cannot be read: {what}")).with_remedy(
        "write syncline://host:port/connection, and after it ?tls=on|off, &ca=FILE, &token-file=FILE",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_which() {
        let parts =
            Parts::read("syncline://db.example.com:7077/shop?ca=/a/ca.pem&tls=on&token-file=t").unwrap();
        assert_eq!(
            (parts.host.as_str(), parts.port, parts.connection.as_str()),
            ("db.example.com", 7077, "shop")
        );
        assert_eq!(
            (parts.tls, parts.ca, parts.token_file),
            (Some(true), Some("/a/ca.pem".into()), Some("t".into()))
        );
        assert_eq!(Parts::read("syncline://[::1]:7077/shop").unwrap().host, "::1");
    }

    #[test]
    fn what_is_no_url_is_refused_without_repeating_it() {
        for wrong in [
            "syncline:/s3cret",
            "syncline://s3cret",
            "syncline://host/s3cret",
            "syncline://host:0/s3cret",
            "syncline://:7077/s3cret",
            "syncline://host:7077/",
            "syncline://host:7077/s3cret/x",
            "syncline://s3cret@host:7077/shop",
            "syncline://host:7077/shop?token=s3cret",
            "syncline://host:7077/shop?s3cret",
            "syncline://host:7077/shop?tls=s3cret",
        ] {
            let error = Parts::read(wrong).unwrap_err();
            assert!(!format!("{error} {:?}", error.remedy()).contains("s3cret"), "{wrong}");
        }
    }

    #[test]
    fn another_machine_is_not_spoken_to_without_tls() {
        let refused = AgentUrl::open("syncline://db.example.com:7077/shop?tls=off", |_| None);
        assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Configuration));
        assert!(is_here("127.0.0.1") && is_here("localhost") && is_here("::1") && !is_here("10.0.0.1"));
    }
}
