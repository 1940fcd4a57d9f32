//! Snapshot of a database into an empty one: Syncline against `psql COPY binary | psql COPY binary`, one pipe per table,
//! both at once, then the primary keys.

use std::process::{Command, Stdio};

use syncline_testkit::postgres::Postgres;
use syncline_testkit::workload::pgbench;

use super::measure::{Cost, Together};
use super::pair::{Pair, SOURCE};
use super::report::{Side, table};
use super::scenarios::{Options, Size};
use crate::Outcome;

/// The database at the destination.
const DATABASE: &str = "shop";

const WIDE: &str = "CREATE SCHEMA wide; CREATE TYPE wide.kind AS ENUM ('small', 'medium', 'large');
    CREATE TABLE wide.rows (id bigint PRIMARY KEY, flag boolean, small int2, ratio float8, price numeric(14, 4), name text NOT NULL,
        note varchar(200), payload bytea, day date, at timestamptz NOT NULL, code uuid, document jsonb, tags text[], kind wide.kind)";

const WIDE_ROWS: &str = "INSERT INTO wide.rows SELECT i, i % 2 = 0, i % 30000, i / 7.0, i * 1.0001, 'name ' || i,
    CASE WHEN i % 3 = 0 THEN NULL ELSE repeat('note ', (i % 20)::int) END, decode(md5(i::text), 'hex'),
    date '2000-01-01' + (i % 10000)::int, timestamptz '2000-01-01 00:00+00' + i * interval '1.5 s', md5(i::text)::uuid,
    jsonb_build_object('id', i, 'tags', ARRAY[i % 5, i % 7]), ARRAY['a', 'tag ' || i % 100],
    (ARRAY['small', 'medium', 'large'])[1 + i % 3]::wide.kind FROM generate_series(1::bigint, $rows) i";

/// What the pipes need beforehand, and the keys afterwards.
const TABLES_WITHOUT_KEYS: &str = "CREATE SCHEMA wide; CREATE TYPE wide.kind AS ENUM ('small', 'medium', 'large');
    CREATE TABLE pgbench_accounts (aid int NOT NULL, bid int, abalance int, filler char(84));
    CREATE TABLE wide.rows (id bigint NOT NULL, flag boolean, small int2, ratio float8, price numeric(14, 4), name text NOT NULL,
        note varchar(200), payload bytea, day date, at timestamptz NOT NULL, code uuid, document jsonb, tags text[], kind wide.kind)";
const KEYS: [&str; 2] =
    ["ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid)", "ALTER TABLE wide.rows ADD PRIMARY KEY (id)"];
const TABLES: [&str; 2] = ["public.pgbench_accounts", "wide.rows"];

/// Runs the scenario.
pub(super) fn run(options: &Options) -> Outcome<String> {
    let (scale, wide_rows) = match options.size {
        Size::Full => (50, 1_000_000),
        Size::Small => (1, 20_000),
    };
    let pair = Pair::start()?;
    fill(&pair, scale, wide_rows);
    let mut sides =
        [Side { name: "syncline", costs: Vec::new() }, Side { name: "psql pipes", costs: Vec::new() }];
    for round in 0..options.rounds {
        // Who goes first changes, so that neither always finds the caches of the other.
        for side in [round % 2, 1 - round % 2] {
            prepare(&pair);
            let cost = if side == 0 { syncline(&pair)? } else { pipes(&pair)? };
            require_equal(&pair);
            eprintln!("round {}: {}: {cost:?}", round + 1, sides[side].name);
            sides[side].costs.push(cost);
        }
    }
    let rows = u64::from(scale) * 100_000 + wide_rows;
    let title = format!("Snapshot PostgreSQL → PostgreSQL, {rows} rows in two tables, primary keys included");
    Ok(table(&title, "rows", rows, &sides, "equal after each"))
}

fn fill(pair: &Pair, scale: u32, wide_rows: u64) {
    pgbench::init(&pair.source, SOURCE, scale);
    pair.source.psql(SOURCE, WIDE);
    pair.source.psql(SOURCE, &WIDE_ROWS.replace("$rows", &wide_rows.to_string()));
    pair.source.psql(SOURCE, "VACUUM (FREEZE, ANALYZE)");
}

/// An empty destination.
fn prepare(pair: &Pair) {
    let _ = std::fs::remove_dir_all(pair.state_directory(DATABASE));
    pair.destination.psql("postgres", &format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"));
    pair.destination.psql("postgres", &format!("CREATE DATABASE {DATABASE}"));
    pair.checkpoint();
}

fn syncline(pair: &Pair) -> Outcome<Cost> {
    let mut arguments = vec!["--mode", "snapshot"];
    arguments.extend(TABLES.into_iter().flat_map(|table| ["--table", table]));
    let mut measured = Together::begin();
    measured.add(pair.syncline(DATABASE, &arguments)?);
    measured.wait()?;
    Ok(measured.cost())
}

fn pipes(pair: &Pair) -> Outcome<Cost> {
    let mut measured = Together::begin();
    pair.destination.psql(DATABASE, TABLES_WITHOUT_KEYS);
    let failed = |error| format!("cannot start psql: {error}");
    for table in TABLES {
        let mut reader = psql(&pair.source, SOURCE, &format!("COPY {table} TO STDOUT (FORMAT binary)"));
        let mut reader = reader.stdout(Stdio::piped()).spawn().map_err(failed)?;
        let pipe = reader.stdout.take().ok_or("psql has no output")?;
        let mut writer =
            psql(&pair.destination, DATABASE, &format!("COPY {table} FROM STDIN (FORMAT binary)"));
        let writer = writer.stdin(pipe).stdout(Stdio::null()).spawn().map_err(failed)?;
        measured.add(reader);
        measured.add(writer);
    }
    measured.wait()?;
    for key in KEYS {
        let mut command = psql(&pair.destination, DATABASE, key);
        measured.add(command.stdout(Stdio::null()).spawn().map_err(failed)?);
    }
    measured.wait()?;
    Ok(measured.cost())
}

fn require_equal(pair: &Pair) {
    pair.require_equal(DATABASE, &TABLES);
    // Both sides have the same keys to build, or the pair means nothing.
    for table in TABLES {
        let sql = format!(
            "SELECT count(*) FROM pg_index WHERE indrelid = '{table}'::regclass AND indisprimary AND indisvalid"
        );
        assert_eq!(pair.destination.psql(DATABASE, &sql), "1", "{table} has no primary key");
    }
}

/// Over TCP, as Syncline's connections are.
fn psql(server: &Postgres, database: &str, sql: &str) -> Command {
    let mut psql = server.client_command("psql");
    psql.env("PGHOST", "127.0.0.1").args(["-Xq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]);
    psql
}
