//! The whole thing, proven from outside: the real binary between real servers, with writers at work, judged by a
//! comparison that shares nothing with it.
//!
//! | module | what is proven |
//! |---|---|
//! | `addresses` | an address that leads to several servers, or to a pooler |
//! | `agents` | sides that are far apart are compared by sketches alone |
//! | `plain` | snapshot, changes, definitions, options, what `drop` leaves |
//! | `refusals` | what cannot work ends with one clear error and creates nothing; the application never notices us |
//! | `crashes`, `crashes_sqlite` | SIGKILL at every durable step |
//! | `chaos` | random SIGKILLs and server restarts under load during a slow snapshot |
//! | `hot` | a table that is written hard does not hold up another |
//! | `digests` | rows that the databases hash themselves are found as well, and equal ones do not move |
//! | `diff` | what differs is found, and nothing else |
//! | `recovery` | changes that were lost are found by a comparison and repaired, under writers and SIGKILL |
//! | `repair` | what differs is written, as far as the guard lets pass |
//! | `incremental` | tables kept equal by a version column alone |
//! | `circle` | two pipelines over the same table come to rest |
//! | `letters` | rows that the destination refuses are set aside, and come when they may |
//! | `letters_everywhere` | so they are in a snapshot, without a key, in a recovery, and where they refer to others |
//! | `memory` | a transaction larger than memory goes through |
//! | `partitions` | partitions that come and go while the pipeline lives |
//! | `pushing` | tables kept equal by a version column, through an agent beside the destination |
//! | `signals` | Ctrl-C and SIGTERM |
//! | `verify` | under a live stream there is no false drift, and drift is found and repaired |
//! | `waiting` | who is waited for is said |

mod addresses;
mod agents;
mod circle;
mod diff;
mod digests;
mod generated;
mod incremental;
mod letters;
mod letters_everywhere;
mod memory;
mod pair;
mod plain;
mod plain_sqlite;
mod plain_tables;
mod pushing;
mod queries;
mod recovery;
mod refusals;
mod repair;
mod verify;
mod waiting;

// These steer the binary through its failpoints; `cargo xtask test` builds it with them.
#[cfg(feature = "failpoints")]
mod chaos;
#[cfg(feature = "failpoints")]
mod crashes;
#[cfg(feature = "failpoints")]
mod crashes_sqlite;
#[cfg(feature = "failpoints")]
mod hot;
#[cfg(feature = "failpoints")]
mod partitions;
#[cfg(feature = "failpoints")]
mod signals;
