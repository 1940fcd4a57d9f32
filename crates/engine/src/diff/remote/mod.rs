//! A side that another Syncline reads, or writes, beside it: an agent.
//!
//! ```text
//! diff ── Side ── Agent ══ frames over TCP or TLS ══ Session ── Side ── the agent's own database
//! table sync ── Push ── Agent ══ the same ══ Session ── Writing ── a pipeline, held there
//! ```
//!
//! | module | what it is for |
//! |---|---|
//! | `frame` | messages over a stream of bytes, each bounded before it is read |
//! | `message` | what is asked and answered |
//! | `failure` | an error of the other end |
//! | `list` | rows, keys and batches as bodies of messages |
//! | `agent`, `table` | the end that asks: a connection, and a table over it |
//! | `session` | the end that answers |
//! | `push`, `writing` | both ends of a table sync: who sends, and who writes; `holds`: who may, `types`: what is taken |
//! | `traffic` | bytes, by what they were for |
//!
//! The asking end trusts the other no further than its own rows: what it says of them is taken as it comes, but no message
//! makes it panic, take more memory than its bound, or scan without end. The answering end trusts nobody before the token was
//! judged ([`Door`]); after that it reads tables. What may be written is written by a table sync's requests, where the agent was
//! started with consent to that; no text of a statement is taken even then.
//!
//! Not here: sockets, TLS, tokens. Whoever has a stream of bytes can be either end.

mod agent;
mod failure;
mod frame;
mod holds;
mod list;
mod message;
mod push;
mod session;
mod table;
#[cfg(test)]
mod tests;
mod traffic;
mod types;
mod writing;

pub use agent::{Agent, Dial, Show};
pub use frame::{PREFACE_BYTES, VERSION, Wire};
pub use holds::{Holds, Writable};
pub use push::AgentDestination;
pub(crate) use push::Push;
pub use session::{Door, serve, turn_away};
pub(super) use table::AgentTable;
pub use traffic::{Exchanged, Traffic};
