//! Draining a backlog of single-row changes: Syncline against a native subscription, each with a slot of its own at the
//! same source, each into a database of its own at the same destination server.

use super::measure::{Cost, Together};
use super::native::{self, Subscription};
use super::pair::{Pair, SOURCE};
use super::report::{Side, table};
use super::scenarios::{Options, Size};
use crate::Outcome;

const OURS: &str = "ours";
const TABLE: &str = "bench.orders";
const ROWS_AT_FIRST: u64 = 1_000_000;

const ORDERS: &str = "CREATE SCHEMA bench;
    CREATE TABLE bench.orders (id bigint PRIMARY KEY, customer int NOT NULL, status text NOT NULL, amount numeric(12, 2),
        note text, changed timestamptz NOT NULL)";

const ROWS: &str =
    "INSERT INTO bench.orders SELECT i, i % 10000, 'new', i * 1.01, repeat('note ', (i % 8)::int), now()
    FROM generate_series(1::bigint, $rows) i";

/// What is to be changed, in random order: keys that exist are changed once at most, so that each is a change.
const PLAN: &str = "CREATE SCHEMA plan;
    CREATE UNLOGGED TABLE plan.changes (place bigint PRIMARY KEY, what \"char\" NOT NULL, id bigint NOT NULL);
    CREATE PROCEDURE plan.make(changes bigint) LANGUAGE plpgsql AS $$
    BEGIN
        TRUNCATE plan.changes;
        INSERT INTO plan.changes SELECT row_number() OVER (ORDER BY random()), what, id FROM (
            SELECT 'i'::\"char\" AS what, (SELECT max(id) FROM bench.orders) + i AS id FROM generate_series(1, changes / 2) i
            UNION ALL
            SELECT CASE WHEN place <= changes * 15 / 100 THEN 'd' ELSE 'u' END::\"char\", id
            FROM (SELECT id, row_number() OVER (ORDER BY random()) AS place FROM bench.orders) existing
            WHERE place <= changes / 2) planned;
    END $$;
    CREATE PROCEDURE plan.carry_out(per_transaction bigint) LANGUAGE plpgsql AS $$
    DECLARE
        change record;
        done bigint := 0;
    BEGIN
        FOR change IN SELECT what, id FROM plan.changes ORDER BY place LOOP
            CASE change.what
                WHEN 'i' THEN INSERT INTO bench.orders VALUES (change.id, change.id % 10000, 'new', change.id * 1.01,
                    repeat('note ', (change.id % 8)::int), clock_timestamp());
                WHEN 'u' THEN UPDATE bench.orders SET status = 'paid', amount = amount + 1, changed = clock_timestamp()
                    WHERE id = change.id;
                ELSE DELETE FROM bench.orders WHERE id = change.id;
            END CASE;
            done := done + 1;
            IF done % per_transaction = 0 THEN
                COMMIT;
            END IF;
        END LOOP;
    END $$";

/// Runs the scenario with transactions of 1,000 changes.
pub(super) fn run_large(options: &Options) -> Outcome<String> {
    run(options, 1_000)
}

/// Runs the scenario with transactions of one change.
pub(super) fn run_single(options: &Options) -> Outcome<String> {
    run(options, 1)
}

fn run(options: &Options, per_transaction: u64) -> Outcome<String> {
    let changes = match options.size {
        Size::Full => 1_000_000,
        Size::Small => 20_000,
    };
    let pair = Pair::start()?;
    let subscription = prepare(&pair)?;
    let mut sides = [
        Side { name: "syncline", costs: Vec::new() },
        Side { name: "native subscription", costs: Vec::new() },
    ];
    for round in 0..options.rounds {
        write_backlog(&pair, changes, per_transaction);
        // Who goes first changes, so that neither always finds the caches of the other.
        for side in [round % 2, 1 - round % 2] {
            pair.checkpoint();
            let cost = if side == 0 {
                drain(&pair)?
            } else {
                subscription.drain(&pair, &last_change_is_there(&pair)?)?
            };
            pair.require_equal(if side == 0 { OURS } else { native::DATABASE }, &[TABLE]);
            eprintln!("round {}: {}: {cost:?}", round + 1, sides[side].name);
            sides[side].costs.push(cost);
        }
    }
    let title = format!(
        "Backlog of {changes} single-row changes (50 % inserts, 35 % updates, 15 % deletes) in transactions of {per_transaction}"
    );
    Ok(table(&title, "changes", changes, &sides, "equal after each"))
}

/// Both sides have the table, and stand still with a slot each.
fn prepare(pair: &Pair) -> Outcome<Subscription> {
    pair.source.psql(SOURCE, ORDERS);
    pair.source.psql(SOURCE, &ROWS.replace("$rows", &ROWS_AT_FIRST.to_string()));
    pair.source.psql(SOURCE, PLAN);
    pair.source.psql(SOURCE, "VACUUM (FREEZE, ANALYZE)");
    pair.destination.psql("postgres", &format!("CREATE DATABASE {OURS}"));
    let _ = drain(pair)?;
    let subscription = Subscription::create(pair, ORDERS, TABLE)?;
    subscription.disable(pair)?;
    for database in [OURS, native::DATABASE] {
        pair.destination.psql(database, "VACUUM (FREEZE, ANALYZE)");
    }
    Ok(subscription)
}

fn write_backlog(pair: &Pair, changes: u64, per_transaction: u64) {
    pair.source.psql(SOURCE, &format!("CALL plan.make({changes})"));
    let role = |change: &str| pair.source.psql(SOURCE, &format!("ALTER ROLE postgres {change}"));
    role("SET synchronous_commit = off");
    pair.source.psql(SOURCE, &format!("CALL plan.carry_out({per_transaction})"));
    role("RESET synchronous_commit");
}

/// A query at the destination: whether the backlog's last change has come.
fn last_change_is_there(pair: &Pair) -> Outcome<String> {
    let last = pair.source.psql(SOURCE, "SELECT what, id FROM plan.changes ORDER BY place DESC LIMIT 1");
    let (what, id) = last.split_once('|').ok_or("the plan of changes is empty")?;
    let found = format!("EXISTS (SELECT FROM {TABLE} WHERE id = {id}");
    Ok(match what {
        "d" => format!("SELECT NOT {found})"),
        "u" => format!("SELECT {found} AND status = 'paid')"),
        _ => format!("SELECT {found})"),
    })
}

/// One run of Syncline until the destination has everything, its start included.
fn drain(pair: &Pair) -> Outcome<Cost> {
    let mut measured = Together::begin();
    measured.add(pair.syncline(OURS, &["--table", TABLE])?);
    measured.wait()?;
    Ok(measured.cost())
}
