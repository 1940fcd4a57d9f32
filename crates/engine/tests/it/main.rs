//! The engine against the in-memory pair: plain runs, windows, faults, stops, and thousands of seeds.

mod faults;
mod letters;
mod letters_everywhere;
mod plain;
mod recovery;
mod seeds;
mod stops;
mod support;
mod verify;
mod windows;
