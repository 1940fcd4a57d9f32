//! Memory is bounded by bytes, whatever the size of a transaction.

use std::time::Duration;

use syncline_testkit::process::Running;

use super::pair::{Pair, SHOP};
use crate::process::{EndsWith, RUN_MAX};

/// What the process may take at its highest, in kB: the journal's tail, a part of a load in its several forms, and a
/// debug build's text. Less than the transaction, whatever the machine.
const KB_MAX: u64 = 200 << 10;
/// One transaction of so many rows of 8 kB: 300 MB of changes.
const ROWS: u32 = 37_500;

/// The most memory that a process has had so far, in kB; `None` once it has ended.
fn high_water_kb(running: &Running) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_6_7_a_transaction_larger_than_memory_goes_through() {
    let Some(pair) = Pair::start().await else { return };
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE wide (id int PRIMARY KEY, body text); INSERT INTO wide VALUES (0, 'first')",
        )
        .await;
    pair.run_well(&[]);
    // The server compresses such a body on its disk; in the stream it has its full length.
    let fill =
        format!("INSERT INTO wide SELECT i, repeat(md5(i::text), 250) FROM generate_series(1, {ROWS}) i");
    pair.source.execute(SHOP, &fill).await;
    let begun = std::time::Instant::now();
    let mut running = pair.sync(&[]).start();
    let mut high = 0;
    while running.is_running() {
        high = high_water_kb(&running).unwrap_or(0).max(high);
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = running.wait(RUN_MAX).ends_with(0);
    println!("at most {} MB, {:?}", high >> 10, begun.elapsed());
    assert!(high > 10 << 10, "not measured: {high} kB");
    assert!(high < KB_MAX, "the process took {} MB", high >> 10);
    let sum = "SELECT count(*), sum(length(body)), sum(hashtext(body)::int8) FROM wide";
    assert_eq!(pair.ask_destination(sum), pair.ask_source(sum));
}
