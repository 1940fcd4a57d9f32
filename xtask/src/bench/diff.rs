//! Comparing two databases: Syncline against reading both sides into nothing, and against reladiff.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use syncline_testkit::postgres::Postgres;
use syncline_testkit::workload::pgbench;

use super::measure::{Cost, Together};
use super::pair::{Pair, SOURCE, binary};
use super::report::{Side, table};
use super::scenarios::{Options, Size};
use crate::Outcome;

/// The database at the destination.
pub(super) const DATABASE: &str = "copy";
/// A comparison that finds less, or more, ends with another code.
const CHECKED: &str = "by its exit code each time";
pub(super) const TABLES: [&str; 2] = ["public.pgbench_accounts", "public.wide"];

const WIDE: &str =
    "CREATE TABLE wide (id bigint PRIMARY KEY, flag boolean, small int2, ratio float8, price numeric(14, 4),
    name text NOT NULL, note varchar(200), day date, at timestamptz NOT NULL, code uuid)";
const WIDE_ROWS: &str = "INSERT INTO wide SELECT i, i % 2 = 0, i % 30000, i / 7.0, i * 1.0001, 'name ' || i,
    CASE WHEN i % 3 = 0 THEN NULL ELSE repeat('note ', (i % 10)::int) END, date '2000-01-01' + (i % 10000)::int,
    timestamptz '2000-01-01 00:00+00' + i * interval '1.5 s', md5(i::text)::uuid FROM generate_series(1::bigint, $rows) i";

/// What makes 1,000 rows of each table differ: an eighth inserted, an eighth deleted, the rest changed.
const PLANT: &str = "
    DELETE FROM pgbench_accounts WHERE aid % ($rows / 125) = 3;
    INSERT INTO pgbench_accounts SELECT $rows + i, 1, 0, 'new' FROM generate_series(1, 125) i;
    UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % ($rows / 750) = 7 AND aid <= $rows;
    DELETE FROM wide WHERE id % ($rows / 125) = 3;
    INSERT INTO wide (id, name, at) SELECT $rows + i, 'new', now() FROM generate_series(1, 125) i;
    UPDATE wide SET price = price + 1 WHERE id % ($rows / 750) = 7 AND id <= $rows";

/// Runs the scenario.
pub(super) fn run(options: &Options) -> Outcome<String> {
    let scale: u32 = if options.size == Size::Full { 50 } else { 1 };
    let rows = u64::from(scale) * 100_000;
    let pair = Pair::start()?;
    fill(&pair, scale, rows);
    let file = sqlite_copy(&pair)?;
    let mut equal = [side("syncline"), side("psql, both sides into nothing")];
    let mut sqlite = [side("syncline"), side("psql and sqlite3 into nothing")];
    let mut different = [side("syncline, 1,000 differences a table"), side("syncline, equal")];
    for round in 0..options.rounds {
        for at in [round % 2, 1 - round % 2] {
            equal[at].costs.push(if at == 0 { ours(&pair, &TABLES, 0)? } else { psql_both(&pair)? });
            let cost = if at == 0 { ours_sqlite(&pair, &file)? } else { psql_and_sqlite(&pair, &file)? };
            sqlite[at].costs.push(cost);
        }
        eprintln!("round {}: {:?} {:?}", round + 1, equal.each_ref().map(last), sqlite.each_ref().map(last));
    }
    plant(&pair, rows);
    for _ in 0..options.rounds {
        different[0].costs.push(ours(&pair, &TABLES, 3)?);
    }
    different[1].costs.clone_from(&equal[0].costs);
    let of = |what: &str| format!("{what}, two tables of {rows} rows on each side");
    let one = format!("Diff PostgreSQL and SQLite, equal, {rows} rows on each side");
    Ok([
        table(&of("Diff PostgreSQL and PostgreSQL, equal"), "rows", 2 * rows, &equal, CHECKED),
        table(&of("The same with 1,000 differences in each table"), "rows", 2 * rows, &different, CHECKED),
        table(&one, "rows", rows, &sqlite, CHECKED),
    ]
    .join("\n"))
}

/// Against reladiff, on pgbench's accounts.
pub(super) fn run_reladiff(options: &Options) -> Outcome<String> {
    let scale: u32 = if options.size == Size::Full { 50 } else { 1 };
    let rows = u64::from(scale) * 100_000;
    let pair = Pair::start()?;
    fill(&pair, scale, rows);
    let reladiff = install_reladiff(&pair)?;
    let mut equal = [side("syncline"), side("reladiff 0.6")];
    let mut different = [side("syncline"), side("reladiff 0.6")];
    for (sides, code) in [(&mut equal, 0), (&mut different, 3)] {
        if code == 3 {
            plant(&pair, rows);
        }
        for round in 0..options.rounds {
            for at in [round % 2, 1 - round % 2] {
                let cost = if at == 0 { ours(&pair, &TABLES[..1], code)? } else { theirs(&pair, &reladiff)? };
                sides[at].costs.push(cost);
            }
            eprintln!("round {}: {:?}", round + 1, sides.each_ref().map(last));
        }
    }
    let of = |what: &str| format!("{what}, {rows} rows on each side");
    Ok([
        table(&of("Diff of pgbench's accounts, equal"), "rows", rows, &equal, CHECKED),
        table(&of("The same with 1,000 differences"), "rows", rows, &different, CHECKED),
    ]
    .join("\n"))
}

fn side(name: &'static str) -> Side {
    Side { name, costs: Vec::new() }
}

fn last(side: &Side) -> Option<Cost> {
    side.costs.last().copied()
}

pub(super) fn fill(pair: &Pair, scale: u32, rows: u64) {
    pair.destination.psql("postgres", &format!("CREATE DATABASE {DATABASE}"));
    for (server, database) in [(&pair.source, SOURCE), (&pair.destination, DATABASE)] {
        pgbench::init(server, database, scale);
        server.psql(database, WIDE);
        server.psql(database, &WIDE_ROWS.replace("$rows", &rows.to_string()));
        server.psql(database, "VACUUM (FREEZE, ANALYZE)");
    }
    pair.checkpoint();
}

/// Makes 1,000 rows of each table differ.
pub(super) fn plant(pair: &Pair, rows: u64) {
    pair.destination.psql(DATABASE, &PLANT.replace("$rows", &rows.to_string()));
    pair.destination.psql(DATABASE, "VACUUM ANALYZE");
}

fn sqlite_copy(pair: &Pair) -> Outcome<PathBuf> {
    let file = pair.state_directory(DATABASE).with_extension("db");
    let mut command = Command::new(binary()?);
    command.args(["sync", &pair.source.url(SOURCE), &format!("sqlite:{}", file.display())]);
    command.args(["--mode", "snapshot", "--table", TABLES[0]]);
    let ended = command.arg("--state-dir").arg(pair.state_directory("sqlite")).output();
    let ended = ended.map_err(|error| format!("cannot start syncline: {error}"))?;
    if ended.status.success() { Ok(file) } else { Err("the copy in SQLite could not be made".to_owned()) }
}

/// `syncline diff`, which must end with this code.
fn ours(pair: &Pair, tables: &[&str], code: i32) -> Outcome<Cost> {
    measured_diff(pair, &pair.destination.url(DATABASE), tables, code)
}

fn ours_sqlite(pair: &Pair, file: &std::path::Path) -> Outcome<Cost> {
    measured_diff(pair, &format!("sqlite:{}", file.display()), &TABLES[..1], 0)
}

fn measured_diff(pair: &Pair, destination: &str, tables: &[&str], code: i32) -> Outcome<Cost> {
    let mut command = Command::new(binary()?);
    command.args(["diff", &pair.source.url(SOURCE), destination, "--samples", "1000"]);
    command.args(tables.iter().flat_map(|table| ["--table", *table]));
    command.arg("--state-dir").arg(pair.state_directory("diff"));
    let mut measured = Together::begin();
    measured.add(quietly(&mut command)?);
    measured.wait_for(code)?;
    Ok(measured.cost())
}

/// One table after the other, both sides at the same time.
fn psql_both(pair: &Pair) -> Outcome<Cost> {
    let mut measured = Together::begin();
    for table in TABLES {
        measured.add(copy(&pair.source, SOURCE, table)?);
        measured.add(copy(&pair.destination, DATABASE, table)?);
        measured.wait()?;
    }
    Ok(measured.cost())
}

fn psql_and_sqlite(pair: &Pair, file: &std::path::Path) -> Outcome<Cost> {
    let mut measured = Together::begin();
    measured.add(copy(&pair.source, SOURCE, TABLES[0])?);
    let mut sqlite = Command::new("sqlite3");
    measured.add(quietly(sqlite.arg(file).arg("SELECT * FROM pgbench_accounts"))?);
    measured.wait()?;
    Ok(measured.cost())
}

fn copy(server: &Postgres, database: &str, table: &str) -> Outcome<Child> {
    let mut psql = server.client_command("psql");
    let sql = format!("COPY {table} TO STDOUT (FORMAT binary)");
    psql.env("PGHOST", "127.0.0.1").args(["-Xq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", &sql]);
    quietly(&mut psql)
}

fn quietly(command: &mut Command) -> Outcome<Child> {
    let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    started.map_err(|error| format!("cannot start {}: {error}", command.get_program().display()))
}

/// reladiff in an environment of its own; its program comes back.
fn install_reladiff(pair: &Pair) -> Outcome<PathBuf> {
    let home = pair.state_directory("reladiff");
    let run = |command: &mut Command| match command.stdout(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err("reladiff cannot be installed: python3 with venv and PyPI are needed".to_owned()),
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
    let packages = ["reladiff==0.6.0", "psycopg2-binary==2.9.10"];
    run(Command::new(home.join("bin/pip")).args(["install", "--quiet"]).args(packages))?;
    Ok(home.join("bin/reladiff"))
}

/// The same columns; the best of its numbers of threads was found by hand ([benches/README.md]).
fn theirs(pair: &Pair, reladiff: &std::path::Path) -> Outcome<Cost> {
    let url =
        |server: &Postgres, database: &str| server.url(database).replacen("postgres://", "postgresql://", 1);
    let mut command = Command::new(reladiff);
    command.args([&url(&pair.source, SOURCE), "pgbench_accounts"]);
    command.args([&url(&pair.destination, DATABASE), "pgbench_accounts"]);
    command.args(["-k", "aid", "-c", "bid", "-c", "abalance", "-c", "filler", "--json", "-j"]);
    command.arg(std::env::var("RELADIFF_THREADS").unwrap_or_else(|_| "2".to_owned()));
    let mut measured = Together::begin();
    measured.add(quietly(&mut command)?);
    measured.wait()?;
    Ok(measured.cost())
}
