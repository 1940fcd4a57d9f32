//! Snapshot of a database into an empty one: Syncline against `psql COPY binary | psql COPY binary`, one pipe per table,
//! both at once, then the primary keys.

use std::env;
use std::process::{Command, Stdio};

use syncline_testkit::compare::postgres::Comparison;
use syncline_testkit::postgres::Postgres;
use syncline_testkit::workload::pgbench;

use super::measure::{Cost, Together};
use super::report::{Side, table};
use super::scenarios::{Options, Size};
use crate::Outcome;

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

/// Durability as a user has it, on both servers and for both sides of the pair.
const SETTINGS: [(&str, &str); 4] = [
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("shared_buffers", "512MB"),
    ("maintenance_work_mem", "256MB"),
];

struct Servers {
    source: Postgres,
    destination: Postgres,
    runtime: tokio::runtime::Runtime,
}

/// Runs the scenario.
pub(super) fn run(options: &Options) -> Outcome<String> {
    let (scale, wide_rows) = match options.size {
        Size::Full => (50, 1_000_000),
        Size::Small => (1, 20_000),
    };
    let servers = Servers::start()?;
    servers.fill(scale, wide_rows);
    let mut sides =
        [Side { name: "syncline", costs: Vec::new() }, Side { name: "psql pipes", costs: Vec::new() }];
    for round in 0..options.rounds {
        // Who goes first changes, so that neither always finds the caches of the other.
        for side in [round % 2, 1 - round % 2] {
            servers.prepare();
            let cost = if side == 0 { servers.syncline()? } else { servers.pipes()? };
            servers.require_equal();
            eprintln!("round {}: {}: {cost:?}", round + 1, sides[side].name);
            sides[side].costs.push(cost);
        }
    }
    let rows = u64::from(scale) * 100_000 + wide_rows;
    let title = format!("Snapshot PostgreSQL → PostgreSQL, {rows} rows in two tables, primary keys included");
    Ok(table(&title, "rows", rows, &sides))
}

impl Servers {
    fn start() -> Outcome<Self> {
        let start = || {
            let builder = SETTINGS
                .iter()
                .fold(Postgres::builder(), |builder, (name, value)| builder.setting(name, value));
            builder.start().ok_or("the benchmarks need PostgreSQL; `cargo xtask test` installs it")
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
        Ok(Self { source: start()?, destination: start()?, runtime })
    }

    fn fill(&self, scale: u32, wide_rows: u64) {
        self.source.psql("postgres", &format!("CREATE DATABASE {DATABASE}"));
        pgbench::init(&self.source, DATABASE, scale);
        self.source.psql(DATABASE, WIDE);
        self.source.psql(DATABASE, &WIDE_ROWS.replace("$rows", &wide_rows.to_string()));
        self.source.psql(DATABASE, "VACUUM (FREEZE, ANALYZE)");
    }

    /// An empty destination, and nothing left to write from what came before.
    fn prepare(&self) {
        self.destination.psql("postgres", &format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"));
        self.destination.psql("postgres", &format!("CREATE DATABASE {DATABASE}"));
        for server in [&self.source, &self.destination] {
            server.psql("postgres", "CHECKPOINT");
        }
    }

    fn syncline(&self) -> Outcome<Cost> {
        let state = self.destination.socket_directory().join("bench-state");
        let _ = std::fs::remove_dir_all(&state);
        let mut command = Command::new(binary()?);
        command.args([
            "sync",
            &self.source.url(DATABASE),
            &self.destination.url(DATABASE),
            "--mode",
            "snapshot",
        ]);
        for table in TABLES {
            command.args(["--table", table]);
        }
        command.arg("--state-dir").arg(&state).stdin(Stdio::null()).stdout(Stdio::null());
        let mut measured = Together::begin();
        measured.add(command.spawn().map_err(|error| format!("cannot start syncline: {error}"))?);
        measured.wait()?;
        Ok(measured.cost())
    }

    fn pipes(&self) -> Outcome<Cost> {
        let mut measured = Together::begin();
        self.destination.psql(DATABASE, TABLES_WITHOUT_KEYS);
        for table in TABLES {
            let failed = |error| format!("cannot start psql: {error}");
            let mut reader = psql(&self.source, &format!("COPY {table} TO STDOUT (FORMAT binary)"));
            let mut reader = reader.stdout(Stdio::piped()).spawn().map_err(failed)?;
            let pipe = reader.stdout.take().ok_or("psql has no output")?;
            let mut writer = psql(&self.destination, &format!("COPY {table} FROM STDIN (FORMAT binary)"));
            let writer = writer.stdin(pipe).stdout(Stdio::null()).spawn().map_err(failed)?;
            measured.add(reader);
            measured.add(writer);
        }
        measured.wait()?;
        for key in KEYS {
            let mut command = psql(&self.destination, key);
            measured.add(
                command
                    .stdout(Stdio::null())
                    .spawn()
                    .map_err(|error| format!("cannot start psql: {error}"))?,
            );
        }
        measured.wait()?;
        Ok(measured.cost())
    }

    fn require_equal(&self) {
        let comparison = Comparison::new().only(TABLES);
        let (source, destination) = ((&self.source, DATABASE), (&self.destination, DATABASE));
        self.runtime.block_on(comparison.assert_equal(source, destination));
        // Both sides have the same keys to build, or the pair means nothing.
        for table in TABLES {
            let sql = format!(
                "SELECT count(*) FROM pg_index WHERE indrelid = '{table}'::regclass AND indisprimary AND indisvalid"
            );
            assert_eq!(self.destination.psql(DATABASE, &sql), "1", "{table} has no primary key");
        }
    }
}

/// Over TCP, as Syncline's connections are.
fn psql(server: &Postgres, sql: &str) -> Command {
    let mut psql = server.client_command("psql");
    psql.env("PGHOST", "127.0.0.1").args(["-Xq", "-v", "ON_ERROR_STOP=1", "-d", DATABASE, "-c", sql]);
    psql
}

/// The release build, or what `SYNCLINE_BIN` names.
fn binary() -> Outcome<std::path::PathBuf> {
    if let Some(path) = env::var_os("SYNCLINE_BIN") {
        return Ok(path.into());
    }
    let own = env::current_exe().map_err(|error| format!("a program that does not know itself: {error}"))?;
    let built =
        own.ancestors().map(|directory| directory.join("release/syncline")).find(|path| path.is_file());
    built.ok_or_else(|| "no release build; run `cargo xtask bench` without `--features`".to_owned())
}
