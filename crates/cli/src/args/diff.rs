//! What `diff` is told.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::StateArgs;

/// `diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The source: what should be there.
    #[arg(value_name = "SOURCE-URL")]
    pub(crate) source: String,
    /// The destination: what is compared with it.
    #[arg(value_name = "DESTINATION-URL")]
    pub(crate) destination: String,
    /// Tables to compare, as 'schema.table' with * for any characters; may be repeated [default: all of the source].
    #[arg(long, value_name = "PATTERN")]
    pub(crate) table: Vec<String>,
    /// Tables to leave out; may be repeated, wins over --table.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// A query of the source whose rows stand for a table of the destination, as 'table=SELECT …'; may be repeated. Only the
    /// queries are then compared.
    #[arg(long, value_name = "TABLE=SELECT", conflicts_with_all = ["table", "exclude"])]
    pub(crate) query: Vec<String>,
    /// The columns of a query that identify a row, as 'id' or 'id,line', or of one of several as 'table=id'; may be
    /// repeated [default: none, equal rows are counted].
    #[arg(long, value_name = "COLUMNS", requires = "query")]
    pub(crate) key: Vec<String>,
    /// Column that is neither read nor compared, as schema.table.column; may be repeated.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) exclude_column: Vec<String>,
    /// The tables of one schema are in another at the destination, as from=to; may be repeated.
    #[arg(long, value_name = "FROM=TO")]
    pub(crate) schema_map: Vec<String>,
    /// Differing rows of a table that are shown with their values; the others are only counted.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) samples: usize,
    /// Write every differing row to a file, one JSON object per line: table, kind, key, values on both sides. A name that
    /// ends in .parquet gives a Parquet file.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Write the differing rows at the destination as the source has them. A table is repaired in one commit.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Say what --repair would do, and change nothing. What is shown can be run with --approve.
    #[arg(long, conflicts_with = "repair")]
    pub(crate) plan: bool,
    /// Repair just what a plan says that was shown before, whatever the guard says of it.
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["plan", "repair", "guard", "table", "exclude"])]
    pub(crate) approve: Option<String>,
    /// How much a repair may change without being asked, as KIND=BOUND: inserts, updates, deletes or all; 5% of the
    /// table's rows at the destination, 1000, or off; may be repeated [default: all=20%]. Tables with fewer than 100 rows are
    /// exempt.
    #[arg(long, value_name = "KIND=BOUND")]
    pub(crate) guard: Vec<String>,
    /// Columns that must be unique over all rows of the source before anything of the table is repaired, as
    /// 'schema.table(column, column)'; may be repeated. What unique indexes of the destination ask for is looked at before every
    /// repair, unless the source has such an index itself.
    #[arg(long, value_name = "TABLE(COLUMNS)")]
    pub(crate) unique: Vec<String>,
    /// Where rows are hashed. 'default': where this process, or an agent, reads them. 'in-database': by the databases themselves,
    /// for two that are both far away and have no agent beside them; each is read in several passes, and equal rows do not
    /// move.
    #[arg(long, value_enum, value_name = "WHERE", default_value_t = DigestWhere::Default)]
    pub(crate) digest: DigestWhere,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

/// Where rows are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DigestWhere {
    /// Where they are read: here, or by agents.
    Default,
    /// Where they are, by SQL.
    InDatabase,
}
