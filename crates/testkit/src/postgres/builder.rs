//! What is asked of a server before it starts.

use super::installation::{self, Installation};
use super::server::Postgres;

/// Settings of every server; a test's own come after them and win.
const SETTINGS: [(&str, &str); 15] = [
    ("listen_addresses", "127.0.0.1"),
    ("wal_level", "logical"),
    ("max_replication_slots", "20"),
    ("max_wal_senders", "20"),
    ("max_connections", "100"),
    ("max_wal_size", "4GB"),
    ("shared_buffers", "128MB"),
    // A machine that loses power is not simulated; a killed server loses nothing by these.
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "on"),
    // Files in the data directory go away with it, even after SIGKILL; those in /dev/shm would stay.
    ("dynamic_shared_memory_type", "mmap"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] %a "),
    ("log_min_messages", "warning"),
];

/// Asks for a server; see [`Postgres::builder`].
#[derive(Debug, Clone, Default)]
pub struct Builder {
    major: Option<u32>,
    major_min: u32,
    password: Option<String>,
    settings: Vec<(String, String)>,
    initdb_options: Vec<String>,
    tls: Tls,
}

/// Whether the server offers TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Tls {
    #[default]
    Refused,
    Offered,
}

impl Builder {
    /// Asks for a major version. Without it: the newest of the system.
    #[must_use]
    pub fn version(mut self, major: u32) -> Self {
        self.major = Some(major);
        self
    }

    /// Asks for this major version or a later one: a test of what older servers do not have is skipped on them, loudly.
    #[must_use]
    pub fn at_least(mut self, major: u32) -> Self {
        self.major_min = major;
        self
    }

    /// Sets a line of `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Demands this password (SCRAM) over TCP. The Unix socket stays open to all.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Offers TLS, with a certificate for `localhost` and 127.0.0.1 that only [`Postgres::certificate`] vouches for.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = Tls::Offered;
        self
    }

    /// Adds an option of `initdb`, such as `--locale=C.UTF-8`.
    #[must_use]
    pub fn initdb_option(mut self, option: &str) -> Self {
        self.initdb_options.push(option.to_owned());
        self
    }

    /// Starts the server; `None` if PostgreSQL is not installed, see [`Installation::find_or_skip`].
    ///
    /// # Panics
    /// If it does not start; its log is in the message.
    #[must_use]
    pub fn start(self) -> Option<Postgres> {
        let installation = Installation::find_or_skip(self.major)?;
        if installation.major() < self.major_min {
            installation::say_skipped(&format!(
                "it needs PostgreSQL {} and this is {}",
                self.major_min,
                installation.major()
            ));
            return None;
        }
        Some(Postgres::create(installation, &self))
    }

    pub(super) fn asked_password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    pub(super) fn asked_tls(&self) -> Tls {
        self.tls
    }

    pub(super) fn initdb_options(&self) -> &[String] {
        &self.initdb_options
    }

    /// The lines to append to `postgresql.conf`. The port is not among them: it changes when another process took it.
    pub(super) fn configuration(&self, directory: &str) -> String {
        let (certificate, key) = (format!("{directory}/server.crt"), format!("{directory}/server.key"));
        let tls = match self.tls {
            Tls::Refused => vec![],
            Tls::Offered => vec![("ssl", "on"), ("ssl_cert_file", &*certificate), ("ssl_key_file", &*key)],
        };
        let own = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let socket = ("unix_socket_directories", directory);
        let lines = SETTINGS.into_iter().chain([socket]).chain(tls).chain(own);
        lines.map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect()
    }
}
