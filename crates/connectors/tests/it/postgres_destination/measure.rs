//! Figures, not tests: run with `--ignored --nocapture` in a release build on an idle machine.

use std::time::{Duration, Instant};

use super::world::{Say, World, delete, insert, table, update};

/// Processor time of a process in milliseconds: it says more than the clock where others work on the same machine.
fn processor_ms(pid: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
}

/// Both sides' processor time so far: ours, and that of the session that loads.
async fn processors(world: &World) -> (u64, u64) {
    let sql = "SELECT pid FROM pg_stat_activity \
        WHERE datname = current_database() AND application_name = 'syncline/load/p'";
    let loading: u64 =
        world.rows(sql).await.iter().map(|pid| processor_ms(pid.trim_matches(['(', ')']))).sum();
    (processor_ms("self"), loading)
}

/// FEASIBILITY 2.1c: 50,000 inserts, 35,000 updates, 15,000 deletes at random keys of a table of a million rows.
#[tokio::test]
#[ignore = "measures; run by hand"]
async fn a_load_of_100_000_changes() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let columns = [
        ("id", "bigint"),
        ("a", "integer"),
        ("b", "text"),
        ("c", "numeric"),
        ("d", "timestamp with time zone"),
        ("e", "integer"),
    ];
    let t = table(("public", "t"), &columns, 1);
    held.ready(&t).await;
    world
        .sql("INSERT INTO t SELECT g * 2, g, 'value number ' || g, g * 1.5, now(), g % 100 FROM generate_series(1, 1000000) g")
        .await;
    world.sql("VACUUM ANALYZE t").await;
    for round in 0..5_i64 {
        // Every twentieth key, moved by the round, so that rounds do not meet the rows of others.
        let part: Vec<Say> = (0..100_000_i64)
            .map(|n| {
                let key = n * 20 + round * 2;
                let row = |key: i64| {
                    [
                        key.to_string(),
                        n.to_string(),
                        format!("changed {n}"),
                        "1.5".into(),
                        "2024-01-01".into(),
                        "7".into(),
                    ]
                };
                let say = |row: [String; 6], how: fn(&[&str]) -> Say| {
                    how(&row.iter().map(String::as_str).collect::<Vec<_>>())
                };
                match n % 20 {
                    0..10 => say(row(key + 1), insert),
                    10..17 => say(row(key + 20), update),
                    _ => delete(&[&(key + 20).to_string()]),
                }
            })
            .collect();
        let part = held.part(&t, &part).await;
        world.sql("CHECKPOINT").await;
        let before = processors(&world).await;
        let began = Instant::now();
        let kind = syncline_core::LoadKind::Bookkeeping;
        let mut load = held.session.begin(&held.identity(kind)).await.unwrap();
        load.write(part).await.unwrap();
        let durable = load.commit(&held.advance()).await.unwrap();
        let took = began.elapsed();
        let after = processors(&world).await;
        println!(
            "100,000 changes: {took:?}, processor ms here {} and at the server {}, {:?}",
            after.0 - before.0,
            after.1 - before.1,
            durable.counts
        );
    }
}

#[tokio::test]
#[ignore = "measures; run by hand"]
async fn the_latency_of_one_row() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "bigint"), ("a", "integer"), ("b", "text")], 1);
    held.ready(&t).await;
    world
        .sql("INSERT INTO t SELECT g, g, 'value number ' || g FROM generate_series(1, 100000) g; ANALYZE t")
        .await;
    let mut times: Vec<Duration> = Vec::new();
    for n in 0..2_000_u32 {
        let part = held.part(&t, &[update(&[&(n * 7 + 1).to_string(), "1", "changed"])]).await;
        let began = Instant::now();
        let kind = syncline_core::LoadKind::Bookkeeping;
        let mut load = held.session.begin(&held.identity(kind)).await.unwrap();
        load.write(part).await.unwrap();
        load.commit(&held.advance()).await.unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    println!("one row: p50 {:?}, p99 {:?}, max {:?}", times[1_000], times[1_980], times[1_999]);
}
