//! The binary as a person and a script meet it: help, usage, exit codes, signals, and whole runs between SQLite files.

mod config;
mod demo;
mod help;
mod postgres;
mod process;
mod proof;
mod sync;
mod usage;
