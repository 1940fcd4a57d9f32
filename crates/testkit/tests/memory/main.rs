//! The in-memory pair against the suites that real connectors pass, and the suites against flawed connectors.

mod flaws;
mod harness;
mod pair;

use syncline_testkit::conformance::{destination, source};
use syncline_testkit::memory::Cutting;

use harness::{MemoryHarness, TargetHarness};

#[tokio::test]
async fn the_source_conforms_with_key_ranges() {
    source::run_all(&MemoryHarness(Cutting::KeyRanges)).await.assert_passed(&[]);
}

#[tokio::test]
async fn the_source_conforms_with_one_snapshot() {
    source::run_all(&MemoryHarness(Cutting::OneSnapshot)).await.assert_passed(&[]);
}

#[tokio::test]
async fn the_destination_conforms() {
    destination::run_all(&TargetHarness).await.assert_passed(&["chunk::pieces_of_bulk_are_one_stream"]);
}
