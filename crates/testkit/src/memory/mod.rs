//! An in-memory database pair: a source with transactions, visibility and a log of commits, and a destination that is
//! strict about what the engine does to it.
//!
//! The pair keeps the contracts of `syncline_core` to the letter and nothing beyond them, so that the engine can be
//! tested under thousands of scripted or seeded faults in seconds. What a real system does with bytes on a wire is not
//! here; the conformance suites hold both to the same cases.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use syncline_testkit::memory::{self, Database, Faults, MemoryDestination, MemorySource, TableDefinition, text};
//!
//! let database = Database::new();
//! let items = database.create_table(TableDefinition::new("public", "items", &["id", "name"]).key(&["id"]));
//! database.transaction(|tx| tx.insert(&items, vec![text("1"), text("one")]))?;
//! let source = MemorySource::new(&database).with_rows_per_chunk(10);
//! let destination = MemoryDestination::new().checked_against(&database);
//! // … run the engine over both …
//! memory::assert_equal(&database, &destination);
//! memory::assert_history(&database, &destination);
//! # Ok(()) }
//! ```

mod apply;
mod compare;
mod cut;
mod database;
mod destination;
mod faults;
mod log;
mod random;
mod range;
mod readback;
mod rows;
mod session;
mod snapshot;
mod source;
mod stream;
mod transaction;
mod verify;
mod versions;

pub use compare::{assert_equal, assert_history, differences};
pub use database::{Database, TableDefinition};
pub use destination::{Committed, MemoryDestination, UniqueCheck};
pub use faults::{Action, Faults, Hold, Step};
pub use random::Random;
pub use readback::MemoryReader;
pub use rows::{Row, TableRows, Value, text};
pub use snapshot::Snapshot;
pub use source::{Cutting, MemorySource, ReadMoment};
pub use transaction::{OpenTransaction, WriteError};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A poisoned lock is a test that already panicked: its state is still the best there is to report.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
