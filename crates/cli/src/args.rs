//! The command line: what can be said, and how it is explained. Values are checked in [`crate::spec`], so that YAML and
//! command line accept the same.

mod diff;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::diff::{DiffArgs, DigestWhere};

/// The exit codes, as every help text shows them. `docs/cli.md` and the README repeat this table.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done (also after Ctrl-C or SIGTERM: what was read is written, the next run goes on from there)
  1  failed
  2  wrong usage or configuration
  3  differences found
  4  stopped by a guard
  5  stopped by dead letters beyond the budget
  A second Ctrl-C or SIGTERM stops at once with 130 or 143. Nothing is lost either way.";

const URLS: &str = "\
URLs:
  postgres://user:password@host:port/db?sslmode=require   (or ?host=/socket/dir)
  sqlite:path/to/file.db";

const AGENT_URLS: &str = "  syncline://host:port/connection?ca=cert.pem&token-file=token   (an agent: see `syncline agent --help`)";

const AGENT_HELP: &str = "\
Beside a database that is far away from the one it is compared with:
  syncline agent --connection shop='postgres://app:${PASSWORD}@localhost/shop' --token-file token
and where the other one is, through a tunnel (else with TLS, see below):
  syncline diff 'syncline://localhost:7077/shop?token-file=token' postgres://user@host/db

Only digests, sketches and differing rows are sent. The agent writes nothing, unless a connection is --writable: then a source
that nobody can reach from outside sends its rows to the agent beside the destination, by a version column:
  syncline agent --connection copy=postgres://app@localhost/copy --writable copy --token-file token
  syncline sync postgres://user@host/db 'syncline://localhost:7077/copy?token-file=token' --mode incremental --version-column at
Whoever has the token may then write every table there that the URL's user may write. TLS is spoken if a certificate is given,
which may be one that you made yourself: the other end names it with ?ca=FILE. Without one it listens on this machine only.";

const SYNC_USAGE: &str = "\
syncline sync [OPTIONS] <SOURCE-URL> <DESTINATION-URL>
       syncline sync [OPTIONS] --config <FILE> [NAME]...";

const CHECK_USAGE: &str = "\
syncline check [OPTIONS] <SOURCE-URL> <DESTINATION-URL>
       syncline check [OPTIONS] --config <FILE> [NAME]...";

const VERIFY_USAGE: &str = "\
syncline verify [OPTIONS] <NAME>
       syncline verify [OPTIONS] --config <FILE> [NAME]";

const DROP_USAGE: &str = "\
syncline drop [OPTIONS] <NAME>
       syncline drop [OPTIONS] <NAME> <SOURCE-URL> <DESTINATION-URL>";

/// Keeps data stores in sync: copies what is there, then every change as it is committed.
#[derive(Debug, Parser)]
#[command(
    name = "syncline",
    bin_name = "syncline",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "Start with `syncline demo`, then `syncline sync --help`.",
    after_long_help = EXIT_CODES
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, Args)]
pub(crate) struct GlobalArgs {
    /// Say more on stderr: causes of errors and what is being done; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 100)]
    pub(crate) verbose: u8,
    /// What is written to stdout: text for people, or JSON (one object per line while something runs).
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", display_order = 101)]
    pub(crate) output: Output,
}

/// Form of what is written to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show it all at work on this machine: a shop in SQLite, copied, kept in sync under load, compared.
    Demo(DemoArgs),
    /// Keep a destination equal to a source.
    #[command(override_usage = SYNC_USAGE, after_help = URLS, after_long_help = sync_long_help())]
    Sync(SyncArgs),
    /// Look for everything that would stop or hurt a pipeline; changes nothing.
    #[command(override_usage = CHECK_USAGE, after_help = URLS, after_long_help = sync_long_help())]
    Check(SyncArgs),
    /// Compare two sides, row by row, and say where they differ; with --repair, write the rows that do.
    #[command(after_help = diff_help(), after_long_help = diff_long_help())]
    Diff(DiffArgs),
    /// Read a database for comparisons made elsewhere, so that its rows need not travel; or write what is sent from elsewhere.
    #[command(after_help = AGENT_HELP, after_long_help = AGENT_HELP)]
    Agent(AgentArgs),
    /// Verify a pipeline: whether its destination is what its source is, judged while the stream goes on.
    #[command(override_usage = VERIFY_USAGE, after_long_help = EXIT_CODES)]
    Verify(VerifyArgs),
    /// List the tables of a source as Syncline sees them.
    #[command(after_help = URLS)]
    Discover(DiscoverArgs),
    /// Rows that the destination refused: list them, show one, try them again, discard them.
    DeadLetters(DeadLettersArgs),
    /// Show what pipelines are doing, or how their last run ended.
    Status(StatusArgs),
    /// Show past runs: syncs, comparisons and repairs.
    Runs(RunsArgs),
    /// Remove a pipeline: slot, publication, capture triggers, bookkeeping and local state. Tables stay.
    #[command(override_usage = DROP_USAGE)]
    Drop(DropArgs),
}

fn sync_long_help() -> String {
    format!("{URLS}\n\n{EXIT_CODES}")
}

fn diff_help() -> String {
    format!("{URLS}\n{AGENT_URLS}")
}

fn diff_long_help() -> String {
    format!("{URLS}\n{AGENT_URLS}\n\n{EXIT_CODES}")
}

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Keep the files and say where they are; without it nothing is left.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Rows the shop has at the start, over all tables.
    #[arg(long, value_name = "N", default_value_t = 240_000, value_parser = clap::value_parser!(u64).range(100..=50_000_000))]
    pub(crate) rows: u64,
    /// How long the writer changes the shop.
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
}

/// `sync` and `check`.
#[derive(Debug, Args)]
pub(crate) struct SyncArgs {
    /// Source and destination URL; with `--config`, names of pipelines in the file (none: all of them).
    #[arg(value_name = "URL|NAME")]
    pub(crate) subjects: Vec<String>,
    /// Take pipelines from a YAML file. `${VAR}` and `${VAR:-default}` in it stand for environment variables.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) state: StateArgs,
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
}

/// Where Syncline keeps what it remembers.
#[derive(Debug, Clone, Args)]
pub(crate) struct StateArgs {
    /// Folder for what Syncline remembers: pipelines, runs, journals [default: the platform's data folder].
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "SYNCLINE_STATE_DIR",
        hide_env_values = true,
        display_order = 90
    )]
    pub(crate) state_dir: Option<PathBuf>,
}

/// One pipeline, said on the command line. Every option has a key of the same name in the YAML file.
#[derive(Debug, Args)]
#[command(next_help_heading = "Pipeline")]
pub(crate) struct PipelineArgs {
    /// Name of the pipeline: a-z, 0-9 and _ [default: derived from the two URLs].
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub(crate) name: Option<String>,
    /// Tables to take, as 'schema.table' with * for any characters; may be repeated [default: all].
    #[arg(long, value_name = "PATTERN", conflicts_with = "config")]
    pub(crate) table: Vec<String>,
    /// Tables to leave out; may be repeated, wins over --table.
    #[arg(long, value_name = "PATTERN", conflicts_with = "config")]
    pub(crate) exclude: Vec<String>,
    /// Column that must never leave the source, as schema.table.column; may be repeated.
    #[arg(long, value_name = "COLUMN", conflicts_with = "config")]
    pub(crate) exclude_column: Vec<String>,
    /// Put the tables of one schema into another, as from=to; may be repeated.
    #[arg(long, value_name = "FROM=TO", conflicts_with = "config")]
    pub(crate) schema_map: Vec<String>,
    /// Only copy what is there, only stream changes, or do without a log [default: copy, then stream].
    #[arg(long, value_name = "MODE", conflicts_with = "config")]
    pub(crate) mode: Option<ModeChoice>,
    /// With --mode incremental: the column that grows with every change of a row, over the whole table, for all tables or as
    /// schema.table.column; may be repeated.
    #[arg(long, value_name = "COLUMN", conflicts_with = "config")]
    pub(crate) version_column: Vec<String>,
    /// With --mode incremental and --follow: from the end of one look at the source to the next [default: 60s].
    #[arg(long, value_name = "TIME", conflicts_with = "config")]
    pub(crate) every: Option<String>,
    /// Go on until stopped. Without it the run ends when the destination has everything the source had at its start.
    #[arg(long, conflicts_with = "config")]
    pub(crate) follow: bool,
    /// What to do with tables that have rows at the destination before their first snapshot [default: refuse].
    #[arg(long, value_name = "HOW", conflicts_with = "config")]
    pub(crate) prepare: Option<PrepareChoice>,
    /// Chunks read and loaded at the same time [default: as many as this machine has cores, 2 to 8].
    #[arg(long, value_name = "N", conflicts_with = "config")]
    pub(crate) workers: Option<usize>,
    /// How tables are cut into chunks.
    #[arg(long, value_name = "WAY", conflicts_with = "config", default_value = "auto")]
    pub(crate) snapshot: SnapshotChoice,
    /// Consent to capture triggers at a source without a change log (SQLite).
    #[arg(long, value_name = "HOW", conflicts_with = "config")]
    pub(crate) capture: Option<CaptureChoice>,
    /// Verify the destination again and again while following, as every=TIME or every=TIME,repair.
    #[arg(long, value_name = "WHEN", conflicts_with = "config")]
    pub(crate) verify: Option<String>,
    /// If changes were lost (the slot is gone, or has lost its log): begin the stream anew, compare the tables with the source
    /// and repair them while it goes on [default: end the run and say so].
    #[arg(long, value_name = "HOW", conflicts_with = "config")]
    pub(crate) recover: Option<RecoverChoice>,
    /// How much --recover, the repair of --verify, and the deletions of --mode incremental may change in a table without being
    /// asked, as KIND=BOUND: inserts, updates, deletes or all; 5% of the table's rows at the destination, 1000, or off; may be
    /// repeated [default: all=20%]. Tables with fewer than 100 rows are exempt.
    #[arg(long, value_name = "KIND=BOUND", conflicts_with = "config")]
    pub(crate) guard: Vec<String>,
    /// Disk that changes may take while they wait for the destination; beyond it the source is held back.
    #[arg(long, value_name = "BYTES", conflicts_with = "config", default_value = "1GiB")]
    pub(crate) journal_budget: String,
    /// Rows that may be set aside as dead letters when the destination refuses them; beyond it the run ends. 0: the table of
    /// such a row stops instead.
    #[arg(long, value_name = "N", conflicts_with = "config", default_value_t = crate::spec::DEAD_LETTERS_MAX_DEFAULT)]
    pub(crate) dead_letters_max: usize,
}

/// `--mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ModeChoice {
    /// Copy what is there and end; leaves nothing at the source.
    Snapshot,
    /// Stream changes only; the tables are known to be equal now.
    Stream,
    /// Without a log: send the rows whose version column has grown, find the others by digests.
    Incremental,
}

/// `--prepare`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PrepareChoice {
    /// Drop the table and create it anew.
    Recreate,
    /// Keep its definition, empty it.
    Truncate,
    /// Keep its rows; rows with the same key are overwritten.
    Keep,
}

/// `--snapshot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SnapshotChoice {
    /// Whatever is fastest for each table.
    Auto,
    /// Key ranges wherever possible: a restart goes on with the next chunk, nothing long is held at the source.
    Resumable,
}

/// `--capture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CaptureChoice {
    /// Triggers on the captured tables that log the keys of changed rows.
    Triggers,
}

/// `--recover`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RecoverChoice {
    /// Compare with the source, row by row, and read again what differs.
    Diff,
}

/// `discover`.
#[derive(Debug, Args)]
pub(crate) struct DiscoverArgs {
    /// The source.
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// Tables to list, as 'schema.table' with * for any characters; may be repeated [default: all].
    #[arg(long, value_name = "PATTERN")]
    pub(crate) table: Vec<String>,
}

/// `agent`.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Where to listen; port 0 takes any that is free. Another address than this machine's own needs TLS.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7077")]
    pub(crate) listen: String,
    /// A database that is served, and its name in the agent's URL; may be repeated. `${VAR}` in it stands for an environment
    /// variable.
    #[arg(long, value_name = "NAME=URL", required_unless_present = "config")]
    pub(crate) connection: Vec<String>,
    /// A YAML file that says all of this instead: agent: {listen, connections: {NAME: URL}, writable: [NAME], token_file, tls_cert, tls_key}.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "connection", "writable", "token_file", "tls_cert", "tls_key"])]
    pub(crate) config: Option<PathBuf>,
    /// Name of a connection whose database may be written by whoever has the token: it is the destination of
    /// `sync --mode incremental` elsewhere; may be repeated [default: nothing is written].
    #[arg(long, value_name = "NAME")]
    pub(crate) writable: Vec<String>,
    /// File with the token that both ends know [default: the environment's SYNCLINE_AGENT_TOKEN].
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The agent's certificate, and after it what leads to its authority, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
}

/// `runs`.
#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    #[command(subcommand)]
    pub(crate) command: RunsCommand,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

/// What is asked of the runs.
#[derive(Debug, Subcommand)]
pub(crate) enum RunsCommand {
    /// The last runs, newest first.
    List {
        /// Only of this pipeline.
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// How many.
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
    /// One run: what it was asked, what it found, decided and wrote.
    Show {
        /// Its number.
        #[arg(value_name = "ID")]
        id: i64,
    },
}

/// `verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The pipeline; with `--config`, one of the file.
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Take the pipeline from a YAML file.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Read rows that drifted again at the source, in order with the stream.
    #[arg(long)]
    pub(crate) repair: bool,
    /// How much a repair may change without being asked, as KIND=BOUND: inserts, updates, deletes or all; 5% of the
    /// table's rows at the destination, 1000, or off; may be repeated [default: all=20%]. Tables with fewer than 100 rows are
    /// exempt.
    #[arg(long, value_name = "KIND=BOUND")]
    pub(crate) guard: Vec<String>,
    /// Tables to verify, as 'schema.table' with * for any characters; may be repeated [default: all of the pipeline].
    #[arg(long, value_name = "PATTERN")]
    pub(crate) table: Vec<String>,
    /// Drifted rows of a table that are shown with their values; the others are only counted.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) samples: usize,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

/// `dead-letters`.
#[derive(Debug, Args)]
pub(crate) struct DeadLettersArgs {
    #[command(subcommand)]
    pub(crate) command: DeadLettersCommand,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List the dead letters of a pipeline.
    List {
        /// The pipeline.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Show one with its values.
    Show {
        /// The pipeline.
        #[arg(value_name = "NAME")]
        name: String,
        /// The number that `list` shows.
        #[arg(value_name = "ID")]
        id: u64,
    },
    /// Try them again, as each run does at its start. Exit code 1 if some are refused again.
    Retry {
        /// The pipeline. It must not be running.
        #[arg(value_name = "NAME")]
        name: String,
        /// Only these [default: all].
        #[arg(value_name = "ID")]
        ids: Vec<u64>,
    },
    /// Forget them. The destination keeps what it has of these rows, until they change again.
    Discard {
        /// The pipeline. It must not be running.
        #[arg(value_name = "NAME")]
        name: String,
        /// Which.
        #[arg(value_name = "ID", required = true)]
        ids: Vec<u64>,
    },
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only this pipeline.
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

/// `drop`.
#[derive(Debug, Args)]
pub(crate) struct DropArgs {
    /// The pipeline.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Source and destination, where this machine does not remember them.
    #[arg(value_name = "URL", num_args = 2)]
    pub(crate) urls: Vec<String>,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}
