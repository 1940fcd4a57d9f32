//! The storm: load, a writer that breaks change capture, random SIGKILLs of the binary and restarts of both servers, while
//! a slow snapshot goes on. At the end both sides are equal.

use std::time::{Duration, Instant};

use syncline_testkit::postgres::Postgres;
use syncline_testkit::process::Running;
use syncline_testkit::workload::chaos::{Chaos, Rewrites};
use syncline_testkit::workload::{Random, pgbench};

use super::pair::{NAME, Pair, SHOP, wait_until};
use crate::process::{EndsWith, RUN_MAX};

/// SIGKILLs of the binary.
const KILLS: usize = 22;
/// Restarts of each server; every other one is a kill.
const RESTARTS: usize = 5;
/// Between two blows, at least and at most.
const PAUSE_MS: (u32, u32) = (800, 2_800);
/// So many of the blows must fall while a snapshot is being read.
const BLOWS_IN_SNAPSHOT_MIN: usize = 16;

/// Small chunks, each held up: the snapshot takes about a minute, kills included.
const SLOW: &str = "chunk_bytes=size:262144,chunk_read=pause-each:350";

/// How far the tables are.
const TABLES: &str = "SELECT string_agg(concat_ws(' ', name, phase, 'generation', generation, 'chunks',
    (SELECT count(*) FROM syncline.chunks c WHERE c.name = t.name)), '; ' ORDER BY name) FROM syncline.tables t";

#[derive(Debug, Clone, Copy)]
enum Blow {
    Kill,
    RestartSource,
    RestartDestination,
}

#[tokio::test(flavor = "multi_thread")]
async fn long_storm_over_key_ranges() {
    storm(&["--snapshot", "resumable"], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_storm_over_one_snapshot() {
    storm(&[], 2).await;
}

async fn storm(more: &[&str], seed: u64) {
    let Some(pair) = Pair::start().await else { return };
    let chaos = Chaos::new(seed).rows(3_000);
    chaos.create(&pair.source, SHOP).await;
    pgbench::init(&pair.source, SHOP, 1);
    let load = pgbench::Load::start(&pair.source, SHOP, 2, Some(100));
    let writer = chaos.start(&pair.source, SHOP);
    let begun = Instant::now();
    let in_snapshot = blows(&pair, more, seed).await;
    let blown = begun.elapsed();
    load.stop();
    let tally = writer.stop();
    let _ = pair.run_well(more);
    let whole = begun.elapsed();
    pair.assert_same().await;
    println!(
        "{} blows in {blown:.1?}, {in_snapshot} of them in a snapshot; the end after {whole:.1?}; writer: {tally:?}",
        KILLS + 2 * RESTARTS
    );
    assert!(in_snapshot >= BLOWS_IN_SNAPSHOT_MIN, "{in_snapshot} blows fell in a snapshot");
}

/// All blows, in an order of their own; how many of them fell while a snapshot was being read.
async fn blows(pair: &Pair, more: &[&str], seed: u64) -> usize {
    let mut random = Random::new(seed);
    let mut running = start(pair, more);
    let mut in_snapshot = 0;
    let mut restarts = [0, 0];
    for blow in shuffled(&mut random) {
        let pause = PAUSE_MS.0 + random.below(PAUSE_MS.1 - PAUSE_MS.0);
        tokio::time::sleep(Duration::from_millis(pause.into())).await;
        assert!(running.is_running(), "it ended by itself: {:?}", running.wait(RUN_MAX));
        in_snapshot += usize::from(reads_snapshot(pair));
        match blow {
            Blow::Kill => {
                let _ = running.kill_9();
                running = start(pair, more);
            }
            Blow::RestartSource => restart(&pair.source, &mut restarts[0]),
            Blow::RestartDestination => restart(&pair.destination, &mut restarts[1]),
        }
    }
    println!("{}", pair.ask_destination(TABLES));
    running.terminate();
    let _ = running.wait(RUN_MAX).ends_with(0);
    in_snapshot
}

fn start(pair: &Pair, more: &[&str]) -> Running {
    let more: Vec<_> = more.iter().copied().chain(["--follow", "--workers", "2"]).collect();
    pair.sync(&more).env("SYNCLINE_FAILPOINT", SLOW).start()
}

fn shuffled(random: &mut Random) -> Vec<Blow> {
    let mut left: Vec<_> =
        [(Blow::Kill, KILLS), (Blow::RestartSource, RESTARTS), (Blow::RestartDestination, RESTARTS)]
            .into_iter()
            .flat_map(|(blow, times)| std::iter::repeat_n(blow, times))
            .collect();
    let mut blows = Vec::new();
    while let Ok(count @ 1..) = u32::try_from(left.len()) {
        blows.push(left.swap_remove(random.below(count) as usize));
    }
    blows
}

fn restart(server: &Postgres, so_far: &mut usize) {
    *so_far += 1;
    if (*so_far).is_multiple_of(2) {
        server.kill_9();
    }
    server.restart();
}

fn reads_snapshot(pair: &Pair) -> bool {
    let known = "SELECT to_regclass('syncline.tables') IS NOT NULL";
    let reading = "SELECT EXISTS (SELECT FROM syncline.tables WHERE phase IS NULL OR phase = 'snapshot')";
    pair.ask_destination(known) == "f" || pair.ask_destination(reading) == "t"
}

/// Without rewrites one snapshot lasts, so this is what it reads, however long it takes.
#[tokio::test(flavor = "multi_thread")]
async fn one_snapshot_read_slowly_under_a_writer() {
    let Some(pair) = Pair::start().await else { return };
    let chaos = Chaos::new(3).rows(3_000).rewrites(Rewrites::Never);
    // What is analysed may be found in its key's order.
    pair.source.execute("postgres", "ALTER SYSTEM SET autovacuum = off").await;
    pair.source.execute("postgres", "SELECT pg_reload_conf()").await;
    chaos.create(&pair.source, SHOP).await;
    let writer = chaos.start(&pair.source, SHOP);
    let slow = "chunk_bytes=size:524288,chunk_read=pause-each:1200";
    let running = pair.sync(&["--workers", "2"]).env("SYNCLINE_FAILPOINT", slow).start();
    let ledger = "SELECT count(*) || ' ' || min(t.generation) || ' ' || min(c.range) FROM syncline.chunks c
        JOIN syncline.tables t USING (pipeline, schema, name) WHERE name = 'item' HAVING count(*) >= 10";
    let known = "SELECT to_regclass('syncline.chunks') IS NOT NULL";
    let mut found = String::new();
    wait_until("ten chunks of chaos.item", Duration::from_secs(60), || {
        if pair.ask_destination(known) == "t" {
            found = pair.ask_destination(ledger);
        }
        !found.is_empty()
    });
    assert!(found.contains(" 1 ") && found.contains("block"), "not one snapshot, but: {found}");
    let _ = running.wait(RUN_MAX).ends_with(0);
    let tally = writer.stop();
    assert!(tally.done > 500, "{tally:?}");
    let _ = pair.run_well(&[]);
    pair.assert_same().await;
    let status = pair.room.status(NAME).unwrap();
    assert_eq!(status["run"]["outcome"], "done");
}
