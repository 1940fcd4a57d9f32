//! Finding the rows in which two sides differ, without moving the others. Pure: no I/O, clock or randomness.
//!
//! ```text
//! left rows ──▶ Scan ─┐ digest, then cells     ┌─ Scan ◀── right rows        (one scan a side, in parallel, any order)
//!                     └─ Asker ── Request ───▶ answer
//!                           ◀───── Reply ──────┘
//!                           └─▶ Equal | Different(rows, with keys) | Ranges | TooLarge
//! ```
//!
//! A row is two byte slices: the canonical encodings of its key columns and of all its columns. Each side hashes its rows
//! with the comparison's [`HashKey`] and sums them up in a [`Scan`]: a [`TableDigest`], which decides equality, and a
//! foldable [`Sketch`]. The two sketches' difference decodes to the differing rows. Nothing depends on an order, a
//! collation, an index or a type of key, so any two systems compare.
//!
//! - *Keys* up to [`KEY_BYTES_MAX`] bytes come out of the sketch. Of longer ones only the hash does: [`Lookup`] finds them
//!   in a second scan of the key columns. [`Scan::long_keys`] says beforehand whether there are any.
//! - *Without a key* ([`Identity::WholeRow`]) tables are counted multisets: the difference says how many more of a row a
//!   side has, up to 2³¹ − 1; beyond that it does not decode. The rows themselves are found by a second scan.
//! - *Repeated keys*: a key that more than one differing row of a side has is [`Difference::repeated`], never an update.
//! - *Large differences*: a sketch of m cells takes 64·m bytes in memory and shows up to [`SketchSize::capacity`] rows, an
//!   update counting twice. Beyond that the comparison is cut by prefixes of the key hash ([`KeyRange`]), each range with a
//!   scan of its own, up to a bound of the caller's; beyond that it is a case for the guard, with an estimate.
//! - *A wrong difference* needs two rows of the same 96-bit hash (2⁻⁹⁶ for each pair of rows of one key), or a cell that
//!   looks pure and is not (2⁻³² and one over the places of a sub-table, for each cell looked at), of which the traces in three
//!   other cells cancel out as well.
//! - *A hostile side* can lie about its own rows; that is for the guard and for who reads the rows. It cannot make this
//!   module panic, loop, or take more memory than was asked of it (`wire.rs`, `decode.rs`).
//!
//! Where this departs from the first design: cells have no sum of key hashes. The key XOR carries the hash of a key that
//! is too long, and what would be the key hashes' sum is the sum of checks, which also recognises rows that are there
//! several times (`cell.rs`). Row hashes have 96 bits, the sums of them 128 (`hash.rs`).
//!
//! Not here: the encoding of rows, reading them, transport, the guard, and repair.

mod bits;
mod cell;
mod decode;
mod difference;
mod digest;
mod error;
mod hash;
mod judge;
mod lookup_wire;
mod message;
mod negotiate;
mod pick;
mod range;
mod scan;
mod sketch;
mod terms;
#[cfg(test)]
mod tests;
mod theirs;
mod wire;

pub use cell::{KEY_BYTES_MAX, KeyRef};
pub use decode::Decoded;
pub use difference::{ChangedRow, Difference, DifferingRow, Lookup, RepeatedKey};
pub use digest::TableDigest;
pub use error::DiffError;
pub use hash::{HashKey, KeyHash, RowHash};
pub use judge::{Judge, Next, Outcome};
pub use message::{CellRun, Opening, Reply, Request};
pub use negotiate::{Asker, Step, Traffic, answer, answer_bytes, compare, opening_bytes};
pub use range::{KeyRange, RangePlan};
pub use scan::{Identity, Scan, Scanner};
pub use sketch::{Sketch, SketchSize};
pub use terms::Terms;
pub use theirs::Theirs;
pub use wire::VERSION;
