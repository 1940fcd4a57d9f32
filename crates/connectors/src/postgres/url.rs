//! `postgres://user:password@host:port/db?sslmode=…`, also with `host=/socket/dir`.
//!
//! The grammar is libpq's, without lists of hosts and without what Syncline sets by itself. Nothing here repeats the URL
//! in a message, because it may hold a password.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use syncline_core::{Error, Result};

use super::connect::server::Pin;

/// Where PostgreSQL's packages put the socket, Debian's place first.
const SOCKET_DIRS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

const PORT_DEFAULT: u16 = 5432;

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
    /// The server it leads to, once that is known.
    pub(crate) pin: Arc<Pin>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("host", &self.host)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("database", &self.database)
            .field("ssl_mode", &self.ssl_mode)
            .field("ssl_root_cert", &self.ssl_root_cert)
            .finish_non_exhaustive()
    }
}

impl Address {
    /// Parses a URL.
    ///
    /// # Errors
    /// Configuration; the message never repeats the URL.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        Self::parse_with(url, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn parse_with(url: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let parts = Parts::read(url)?;
        let user = match parts.user {
            Some(user) => user,
            None => env("PGUSER").or_else(|| operating_system_user(&env)).ok_or_else(|| {
                Error::configuration("the URL names no user and the operating system's user has no name")
                    .with_remedy("write postgres://user@host/database")
            })?,
        };
        Ok(Self {
            host: host_of(parts.host, parts.port.unwrap_or(PORT_DEFAULT)),
            database: parts.database.unwrap_or_else(|| user.clone()),
            password: parts.password.or_else(|| env("PGPASSWORD")),
            ssl_mode: parts.ssl_mode.unwrap_or(SslMode::Prefer),
            ssl_root_cert: parts.ssl_root_cert,
            pin: Arc::default(),
            user,
        })
    }

    /// For the screen: `host:port/db`.
    pub(crate) fn display(&self) -> String {
        match &self.host {
            Host::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}/{}", self.database),
            Host::Tcp { host, port } => format!("{host}:{port}/{}", self.database),
            Host::Socket { dir, port } => format!("{}:{port}/{}", dir.display(), self.database),
        }
    }
}

/// What the URL itself says, before defaults.
#[derive(Default)]
struct Parts {
    host: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    password: Option<String>,
    database: Option<String>,
    ssl_mode: Option<SslMode>,
    ssl_root_cert: Option<PathBuf>,
}

impl Parts {
    fn read(url: &str) -> Result<Self> {
        let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let rest = rest.ok_or_else(|| malformed("it does not begin with postgres://"))?;
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (authority, database) =
            rest.split_once('/').map_or((rest, None), |(authority, database)| (authority, Some(database)));
        let mut parts = Self::default();
        let place = match authority.rsplit_once('@') {
            Some((who, place)) => {
                let (user, password) =
                    who.split_once(':').map_or((who, None), |(user, password)| (user, Some(password)));
                parts.user = filled(decode(user)?);
                parts.password = password.map(decode).transpose()?.and_then(filled);
                place
            }
            None => authority,
        };
        parts.read_place(place)?;
        parts.database = database.map(decode).transpose()?.and_then(filled);
        for pair in query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
            parts.read_parameter(pair)?;
        }
        Ok(parts)
    }

    /// `host`, `host:port`, `[::1]:port`.
    fn read_place(&mut self, place: &str) -> Result<()> {
        if place.contains(',') {
            return Err(several_hosts());
        }
        let (host, port) = if let Some(bracketed) = place.strip_prefix('[') {
            let (host, after) = bracketed
                .split_once(']')
                .ok_or_else(|| malformed("the bracket of its host is not closed"))?;
            let port = match after.strip_prefix(':') {
                Some(port) => Some(port),
                None if after.is_empty() => None,
                None => return Err(malformed("something other than a port follows its host")),
            };
            (host, port)
        } else {
            place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port)))
        };
        self.host = filled(decode(host)?);
        self.port = port.filter(|port| !port.is_empty()).map(port_number).transpose()?;
        Ok(())
    }

    fn read_parameter(&mut self, pair: &str) -> Result<()> {
        let (name, value) =
            pair.split_once('=').ok_or_else(|| malformed("a parameter of it has no value"))?;
        let value = decode(value)?;
        match name {
            "host" | "port" if value.contains(',') => return Err(several_hosts()),
            "host" => self.host = filled(value),
            "port" => self.port = Some(port_number(&value)?),
            "user" => self.user = filled(value),
            "password" => self.password = filled(value),
            "dbname" => self.database = filled(value),
            "sslmode" => self.ssl_mode = Some(ssl_mode(&value)?),
            "sslrootcert" => self.ssl_root_cert = filled(value).map(PathBuf::from),
            other => {
                return Err(Error::configuration(format!("the URL has an unknown parameter `{other}`"))
                    .with_remedy("use host, port, user, password, dbname, sslmode, sslrootcert"));
            }
        }
        Ok(())
    }
}

/// Which of them is meant may change between two sessions, and locks and positions mean something at one server only.
fn several_hosts() -> Error {
    malformed("it names several hosts").with_remedy("name the one server to be used, the primary")
}

fn malformed(what: &str) -> Error {
    Error::configuration(format!("the URL cannot be read: {what}"))
        .with_remedy("write postgres://user:password@host:port/database?sslmode=…, special characters as %XX")
}

fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn port_number(text: &str) -> Result<u16> {
    text.parse()
        .ok()
        .filter(|&port| port != 0)
        .ok_or_else(|| malformed("its port is not a number from 1 to 65535"))
}

fn ssl_mode(text: &str) -> Result<SslMode> {
    Ok(match text {
        "disable" => SslMode::Disable,
        // `allow` asks for less than `prefer` and gets no less.
        "allow" | "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => {
            return Err(Error::configuration("the URL's sslmode is not known")
                .with_remedy("use disable, prefer, require, verify-ca or verify-full"));
        }
    })
}

fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let value = digits.filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let value = value.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(value.ok_or_else(|| malformed("a % is not followed by two hexadecimal digits"))?);
        rest = &after[2..];
    }
    let text = String::from_utf8(bytes).map_err(|_| malformed("a %XX sequence is not UTF-8"))?;
    if text.contains('\0') {
        return Err(malformed("it holds a zero byte"));
    }
    Ok(text)
}

/// A host that begins with a slash is a socket's directory; none at all is the local socket, else localhost.
fn host_of(host: Option<String>, port: u16) -> Host {
    match host {
        Some(dir) if dir.starts_with('/') => Host::Socket { dir: PathBuf::from(dir), port },
        Some(host) => Host::Tcp { host, port },
        None => SOCKET_DIRS
            .iter()
            .map(Path::new)
            .find(|dir| dir.join(format!(".s.PGSQL.{port}")).exists())
            .map_or_else(
                || Host::Tcp { host: "localhost".to_owned(), port },
                |dir| Host::Socket { dir: dir.to_owned(), port },
            ),
    }
}

fn operating_system_user(env: &impl Fn(&str) -> Option<String>) -> Option<String> {
    env("USER").or_else(|| env("LOGNAME")).or_else(|| {
        let id = rustix::process::geteuid().as_raw().to_string();
        let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
        let mut fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
        fields.find(|fields| fields.get(2) == Some(&id.as_str())).map(|fields| fields[0].to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address> {
        Address::parse_with(url, |name| (name == "USER").then(|| "me".to_owned()))
    }

    fn tcp(host: &str, port: u16) -> Host {
        Host::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn a_full_url() {
        let address =
            parse("postgres://bob:p%40ss%2F:w@db.example:6432/shop?sslmode=verify-full&sslrootcert=/ca.pem")
                .unwrap();
        assert_eq!(address.host, tcp("db.example", 6432));
        assert_eq!((address.user.as_str(), address.password.as_deref()), ("bob", Some("p@ss/:w")));
        assert_eq!((address.database.as_str(), address.ssl_mode), ("shop", SslMode::VerifyFull));
        assert_eq!(address.ssl_root_cert, Some(PathBuf::from("/ca.pem")));
        assert_eq!(address.display(), "db.example:6432/shop");
    }

    #[test]
    fn defaults_are_those_of_libpq() {
        let address = parse("postgresql://h").unwrap();
        assert_eq!((address.user.as_str(), address.database.as_str()), ("me", "me"));
        assert_eq!((address.host, address.ssl_mode), (tcp("h", 5432), SslMode::Prefer));
        assert_eq!(parse("postgres://u@h").unwrap().database, "u");
    }

    #[test]
    fn hosts_of_every_kind() {
        let address = parse("postgres://[::1]:5433/d").unwrap();
        assert_eq!((address.host.clone(), address.display().as_str()), (tcp("::1", 5433), "[::1]:5433/d"));
        let socket = Host::Socket { dir: PathBuf::from("/run/pg"), port: 5434 };
        assert_eq!(parse("postgres:///d?host=/run/pg&port=5434").unwrap().host, socket);
        assert_eq!(parse("postgres://%2Frun%2Fpg:5434/d").unwrap().host, socket);
        for several in [
            "postgres://a,b/d",
            "postgres://a:1,b:2/d",
            "postgres://[::1]:1,[::2]:2/d",
            "postgres:///d?host=a,b",
            "postgres://a/d?port=1,2",
            "postgres://%2Frun,%2Frun2/d",
        ] {
            let error = parse(several).unwrap_err();
            assert!(error.remedy().is_some_and(|remedy| remedy.contains("one server")), "{several}: {error}");
        }
        assert!(parse("postgres://[::1/d").is_err());
    }

    #[test]
    fn the_password_comes_from_the_environment_only_if_the_url_has_none() {
        let env = |name: &str| (name == "PGPASSWORD").then(|| "env".to_owned());
        let password = |url| Address::parse_with(url, env).unwrap().password;
        assert_eq!(password("postgres://u@h/d").as_deref(), Some("env"));
        assert_eq!(password("postgres://u:url@h/d").as_deref(), Some("url"));
    }

    #[test]
    fn an_unknown_parameter_is_named() {
        let error = parse("postgres://u:secret@h/d?sslmod=require").unwrap_err();
        assert!(error.to_string().contains("`sslmod`"), "{error}");
    }

    #[test]
    fn nothing_shows_the_password() {
        let address = parse("postgres://u:secret@h/d").unwrap();
        assert!(!format!("{address:?} {}", address.display()).contains("secret"));
        for url in [
            "postgres://u:secret%zz@h/d",
            "postgres://u:secret@h:x/d",
            "postgres://u:secret@h/d?sslmode=secret",
            "x://u:secret@h",
        ] {
            let error = parse(url).unwrap_err();
            assert!(!format!("{error:?} {:?}", error.remedy()).contains("secret"), "{error}");
        }
    }
}
