//! The engine against the in-memory pair: plain runs, windows, faults, stops, and thousands of seeds.

mod faults;
mod plain;
mod seeds;
mod support;
mod windows;
