//! SQL sessions: connected, secured, and set so that text forms never depend on the server's configuration.

use std::ops::Deref;

use syncline_core::Result;
use tokio_postgres::Client;

use super::url::Address;

/// Settings of every session, SQL and replication alike: one text form of every value.
pub(crate) const SESSION_SETTINGS: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO, MDY"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("search_path", ""),
    ("lock_timeout", "0"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
];

/// A SQL session. Its connection task ends with it.
pub(crate) struct Session {
    client: Client,
    connection: tokio::task::JoinHandle<()>,
}

impl Session {
    /// Connects as `syncline/<purpose>`.
    ///
    /// # Errors
    /// Configuration for wrong credentials or database, retriable for an unreachable server.
    pub(crate) async fn connect(address: &Address, purpose: &str) -> Result<Self> {
        let _ = (address, purpose);
        Err(syncline_core::Error::configuration("not written yet"))
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
