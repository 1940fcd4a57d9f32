//! SQLite as source and destination: an ordinary file, read and written through the SQLite library.
//!
//! | module | what it is for |
//! |---|---|
//! | `url`, `connect`, `error`, `quote` | paths, connections off the runtime's threads, result code → kind, quoting |
//! | `value`, `rows`, `cells` | the native form of a value, rows → Arrow, Arrow → values |
//! | `affinity`, `ddl`, `catalog`, `unique`, `definition` | what a table is, exactly, and which rows cannot stand beside each other |
//! | `source` | [`Source`](syncline_core::Source): catalogue, check, snapshot, capture by triggers, stream |
//! | `destination` | [`Destination`](syncline_core::Destination): lock, bookkeeping, definitions, loads |
//!
//! What we leave in a source file works with every SQLite of the last ten years: its own users may be older than our
//! library, so no newer syntax or function stands in a trigger or table there.

mod affinity;
mod catalog;
mod cells;
mod connect;
mod ddl;
mod definition;
mod destination;
mod error;
mod quote;
mod rows;
mod source;
mod unique;
mod url;
mod value;

use syncline_core::Family;

use crate::registry::Connector;

pub(crate) const CONNECTOR: Connector = Connector {
    schemes: &["sqlite"],
    family: Family::SQLITE,
    source: Some(source::open),
    destination: Some(destination::open),
    show: |_, value| value::shown(value),
};

/// The one schema that a pipeline reads or writes: attached databases belong to a connection, not to the file.
const MAIN: &str = "main";

/// How everything of ours in a file begins.
const OURS: &str = "_syncline_";
