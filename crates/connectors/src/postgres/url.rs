//! `postgres://user:password@host:port/db?sslmode=…`, also with `host=/socket/dir`.

use std::path::PathBuf;

use syncline_core::{Error, Result};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Tcp { host: String, port: u16 },
    Socket { dir: PathBuf, port: u16 },
}

/// How much of TLS is demanded, as libpq names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// A connection, parsed. Its `Debug` shows no password.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) host: Host,
    pub(crate) user: String,
    pub(crate) password: Option<String>,
    pub(crate) database: String,
    pub(crate) ssl_mode: SslMode,
    /// PEM file of trusted roots; otherwise the system's.
    pub(crate) ssl_root_cert: Option<PathBuf>,
}

impl Address {
    /// Parses a URL.
    ///
    /// # Errors
    /// Configuration; the message never repeats the URL.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let _ = url;
        Err(Error::configuration("not written yet"))
    }

    /// For the screen: `host:port/db`.
    pub(crate) fn display(&self) -> String {
        match &self.host {
            Host::Tcp { host, port } => format!("{host}:{port}/{}", self.database),
            Host::Socket { dir, port } => format!("{}:{port}/{}", dir.display(), self.database),
        }
    }
}
