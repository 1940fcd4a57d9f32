//! The PostgreSQL destination against a real server, through the contracts and natively carried values.

mod changes;
mod chunks;
mod definitions;
mod durable;
mod fence;
mod foreign_keys;
mod measure;
mod migration;
mod values;
mod world;
