//! The testkit's servers, comparison and writers, against real servers.

mod compare;
mod postgres;
mod workload;
