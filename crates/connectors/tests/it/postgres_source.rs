//! The PostgreSQL source against a real server: what no suite over all sources can ask.

mod catalogue;
mod checks;
mod connecting;
mod cutting;
mod setup;
mod snapshots;
mod values;
mod world;
