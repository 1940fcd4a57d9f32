//! Keeping tables equal over requests, for sources that offer no log of changes, only a column that grows with every change.
//!
//! ```text
//! near side ── state ──┐                     as last known: nothing is asked
//!                      ├─▶ decision ─▶ send in the order of versions ─▶ compare what differs ─▶ delete what is surplus
//! far side ─── state ──┘
//! ```
//!
//! | module | what it is for |
//! |---|---|
//! | `decide` | what is to be done, from the two states; pure |
//! | `table` | one pass over a table |
//! | `send` | batches, halved where they fail, down to the rows that are refused |
//! | `compare`, `many` | ranges whose digests differ, down to the rows; more of them than can be halved |
//! | `cost` | how large a batch should be; pure |
//! | `memory`, `letters` | what is remembered of a table between runs; the rows of it that were refused, by command |
//! | `near`, `local` | a source, and a destination as the far side |
//! | `held`, `far` | the destination while it is held, and where it is: here, or beside an agent |
//! | `round` | all tables of a pipeline, once or again and again |
//!
//! The algorithm is Solavirum's ("Reducing the noise in data synchronization"), with a sum of versions beside count and maximum,
//! so that a row that was committed late shows, and with halving by digests instead of walking through the table.

mod compare;
mod cost;
mod decide;
mod far;
mod held;
mod letters;
mod local;
mod many;
mod memory;
mod near;
mod round;
mod send;
mod table;
#[cfg(test)]
mod tests;

pub use cost::Costs;
pub use decide::{Look, Step, after_asking, before_asking};
pub use far::FarEnd;
pub(crate) use held::{Held, Holding};
pub use letters::{discard_letters, letters, retry_letters, view_letter};
pub(crate) use local::LocalReplica;
pub use memory::{Keep, Memory, RefusedRow};
pub(crate) use near::VersionSide;
pub use near::{Batch, Near};
pub use round::{TableSync, TableSynced, VersionColumns, run};
pub use table::{Limits, Passed, pass};
