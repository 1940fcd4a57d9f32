//! A PostgreSQL server of one's own, in a temporary directory on a free port.
//!
//! ```no_run
//! # async fn example() {
//! use syncline_testkit::postgres::Postgres;
//! let Some(server) = Postgres::start() else { return };
//! server.create_database("shop").await;
//! server.execute("shop", "CREATE TABLE t (id int PRIMARY KEY)").await;
//! let client = server.client("shop").await;
//! # let _ = client;
//! # }
//! ```
//!
//! A server ends when its value is dropped, also in a panic, and when the test process ends, also by SIGKILL. What a
//! killed test left on disk is removed when the next server starts.

mod builder;
mod directory;
mod installation;
mod server;
mod template;

pub use builder::Builder;
pub(crate) use directory::ServerDirectory;
pub use installation::Installation;
pub(crate) use installation::skip_or_fail;
pub use server::Postgres;
