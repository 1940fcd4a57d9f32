//! PostgreSQL as source (14 and later) and destination (15 and later).
//!
//! | module | what it is for |
//! |---|---|
//! | `url`, `connect`, `error`, `quote`, `lsn` | addresses, SQL sessions, SQLSTATE → kind, quoting, log positions |
//! | `definition` | what a table is, exactly, so that a destination of this family can recreate it |
//! | `source` | [`Source`](syncline_core::Source): catalogue, check, snapshot, stream |
//! | `destination` | [`Destination`](syncline_core::Destination): bookkeeping, definitions, loads |

mod connect;
mod definition;
mod destination;
mod error;
mod lsn;
mod quote;
mod source;
mod url;

use syncline_core::Family;

use crate::registry::Connector;

pub(crate) const CONNECTOR: Connector = Connector {
    schemes: &["postgres", "postgresql"],
    family: Family::POSTGRES,
    source: Some(source::open),
    destination: Some(destination::open),
    show: source::show,
};
