//! Connections through a pooler (PgBouncer and its kind).
//!
//! A pooler shows itself by our startup packet: it refuses the settings in it, or the backend does not have them. What it
//! does then with a session decides. In session mode a session keeps its server connection, so that locks, temporary
//! tables and settings stay: SQL goes through, with the settings made by a statement. In transaction or statement mode
//! it does not, and whatever a session relies on would end up in the sessions of others: refused, before anything is set.
//!
//! Streaming needs the startup packet of a replication connection, so it is refused in any mode.

use syncline_core::{Error, Result};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::server::later_setting;
use super::{SESSION_SETTINGS, Session, Startup};
use crate::postgres::error;
use crate::postgres::quote;
use crate::postgres::url::Address;

/// SQLSTATE by which a pooler refuses what it cannot pass on: a parameter of the startup packet, a transaction block.
const NOT_PASSED_ON: &str = "08P01";

/// Whether a startup packet was refused for what is in it.
pub(crate) fn is_refusal(error: &Error) -> bool {
    error.code() == Some(NOT_PASSED_ON)
}

/// Connects through the pooler.
///
/// # Errors
/// Configuration if it does not keep a session on one server connection; else as any connection.
pub(super) async fn connect(address: &Address, purpose: &str) -> Result<(Session, Option<String>)> {
    let (session, version) = Session::started(address, purpose, &Startup::Bare).await?;
    if !address.pin.is_pooled() {
        let (other, _) = Session::started(address, purpose, &Startup::Bare).await?;
        if shares_backends(&session, &other).await.map_err(failed)? {
            return Err(Error::configuration(format!(
                "{} is a connection pooler that does not keep a session on one server connection",
                address.display()
            ))
            .with_remedy("connect to the server itself, or use the pooler's session mode"));
        }
        address.pin.set_pooled();
    }
    session.batch_execute(&settings(version.as_deref())).await.map_err(failed)?;
    Ok((session, version))
}

/// What a stream is refused with.
pub(crate) fn no_stream(address: &str) -> Error {
    Error::configuration(format!("{address} is a connection pooler: {NO_STREAM}")).with_remedy(STREAM_REMEDY)
}

/// What is wrong with a pooler before a source whose changes are wanted.
pub(crate) const NO_STREAM: &str = "changes cannot be streamed through it";

/// What to do about a pooler before a source whose changes are wanted.
pub(crate) const STREAM_REMEDY: &str =
    "connect to the server itself, or read once through the pooler with --mode snapshot";

fn failed(error: tokio_postgres::Error) -> Error {
    error::from_client(error, "setting up a session through a pooler")
}

/// What the startup packet would have set.
fn settings(version: Option<&str>) -> String {
    let later = version.and_then(later_setting).map(|name| (name, "0"));
    let set = |(name, value): (&str, &str)| {
        format!("pg_catalog.set_config({}, {}, false)", quote::literal(name), quote::literal(value))
    };
    let all: Vec<_> = SESSION_SETTINGS.iter().copied().chain(later).map(set).collect();
    format!("SELECT {}", all.join(", "))
}

/// Whether two open sessions come to stand on each other's server connections, which never happens in session mode.
///
/// One after the other: what the first gave back is what an idle pooler gives the second. Both at once, given back in
/// either order: whichever end of its list a pooler takes from, and however long that is, somebody gets another one than
/// before.
async fn shares_backends(one: &Client, other: &Client) -> Result<bool, tokio_postgres::Error> {
    let before = (backend(one).await?, backend(other).await?);
    if before.0 == before.1 {
        return Ok(true);
    }
    for (first, second) in [(one, other), (other, one)] {
        for client in [one, other] {
            match client.simple_query("BEGIN").await {
                // Statement mode has no transactions.
                Err(error) if error.code().is_some_and(|code| code.code() == NOT_PASSED_ON) => {
                    return Ok(true);
                }
                begun => begun?,
            };
        }
        let inside = (backend(one).await?, backend(other).await?);
        for client in [first, second] {
            let _ = client.simple_query("COMMIT").await?;
        }
        if inside != before || (backend(one).await?, backend(other).await?) != before {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn backend(client: &Client) -> Result<Option<String>, tokio_postgres::Error> {
    let answer = client.simple_query("SELECT pg_catalog.pg_backend_pid()").await?;
    Ok(answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}
