//! A pipeline as a person says it, on the command line or in YAML, checked value by value.
//!
//! This is also the form in which the store remembers a pipeline, so that `drop NAME` needs nothing else.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use syncline_connectors::registry;
use syncline_core::schema::Carry;
use syncline_core::{
    Destination, Error, PipelineName, Prepare, Result, SchemaMap, Selection, Source, TablePattern,
};
use syncline_engine::diff::remote::AgentDestination;
use syncline_engine::{Mode, Pipeline};
use syncline_server::AgentUrl;

use crate::args::{CaptureChoice, ModeChoice, PipelineArgs, PrepareChoice, RecoverChoice, SnapshotChoice};
use crate::incremental::IncrementalSpec;
use crate::verifying::{self, VerifySpec};

/// Bounds of the workers, unless said otherwise: enough to keep a server busy, few enough not to be felt.
const WORKERS_USUAL: RangeInclusive<usize> = 2..=8;
/// Most workers that make sense: each holds a connection on both sides.
pub(crate) const WORKERS_MAX: usize = 64;
/// Disk for waiting changes, unless said otherwise.
pub(crate) const JOURNAL_BUDGET_BYTES_DEFAULT: u64 = 1 << 30;
/// Rows that may be set aside, unless said otherwise.
pub(crate) const DEAD_LETTERS_MAX_DEFAULT: usize = 100;
/// A smaller journal would hold the source back all the time.
const JOURNAL_BUDGET_BYTES_MIN: u64 = 1 << 20;

/// A pipeline, as said.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PipelineSpec {
    /// Its name, if one was given.
    pub(crate) name: Option<PipelineName>,
    /// URL of the source; may hold a password, so the store keeps it apart.
    #[serde(skip)]
    pub(crate) source: String,
    /// URL of the destination; as above.
    #[serde(skip)]
    pub(crate) destination: String,
    /// Tables taken; empty means all.
    pub(crate) tables: Vec<TablePattern>,
    /// Tables left out.
    pub(crate) exclude: Vec<TablePattern>,
    /// Columns that never leave the source.
    pub(crate) exclude_columns: Vec<(TablePattern, String)>,
    /// Source schema → destination schema.
    pub(crate) schema_map: Vec<(String, String)>,
    /// Only one half of the way.
    pub(crate) mode: Option<ModeChoice>,
    /// Until stopped.
    pub(crate) follow: bool,
    /// What to do with tables that have rows.
    pub(crate) prepare: Option<PrepareChoice>,
    /// Chunks at the same time.
    pub(crate) workers: usize,
    /// How tables are cut.
    pub(crate) snapshot: SnapshotChoice,
    /// Consent to capture triggers.
    pub(crate) capture: Option<CaptureChoice>,
    /// Disk for waiting changes.
    pub(crate) journal_budget_bytes: u64,
    /// Whether it verifies itself while it follows.
    #[serde(default)]
    pub(crate) verify: Option<VerifySpec>,
    /// What only a table sync has.
    #[serde(default)]
    pub(crate) incremental: IncrementalSpec,
    /// What to do with tables that have lost changes.
    #[serde(default)]
    pub(crate) recover: Option<RecoverChoice>,
    /// Bounds of what a recovery, the repair of a verification, or a table sync may change.
    #[serde(default)]
    pub(crate) guard: Vec<String>,
    /// Rows that may be set aside.
    #[serde(default = "dead_letters_max_usual")]
    pub(crate) dead_letters_max: usize,
}

fn dead_letters_max_usual() -> usize {
    DEAD_LETTERS_MAX_DEFAULT
}

impl PipelineSpec {
    /// A pipeline between two URLs with every option at its default.
    pub(crate) fn new(source: impl Into<String>, destination: impl Into<String>) -> Self {
        Self {
            name: None,
            source: source.into(),
            destination: destination.into(),
            tables: Vec::new(),
            exclude: Vec::new(),
            exclude_columns: Vec::new(),
            schema_map: Vec::new(),
            mode: None,
            follow: false,
            prepare: None,
            workers: workers_usual(),
            snapshot: SnapshotChoice::Auto,
            capture: None,
            journal_budget_bytes: JOURNAL_BUDGET_BYTES_DEFAULT,
            verify: None,
            incremental: IncrementalSpec::default(),
            recover: None,
            guard: Vec::new(),
            dead_letters_max: DEAD_LETTERS_MAX_DEFAULT,
        }
    }

    /// From the command line.
    ///
    /// # Errors
    /// Configuration, naming the value that cannot be used.
    pub(crate) fn from_args(source: &str, destination: &str, args: &PipelineArgs) -> Result<Self> {
        let spec = Self {
            name: args.name.clone().map(PipelineName::new).transpose()?,
            tables: each(&args.table, TablePattern::new)?,
            exclude: each(&args.exclude, TablePattern::new)?,
            exclude_columns: each(&args.exclude_column, excluded_column)?,
            schema_map: each(&args.schema_map, schema_mapping)?,
            mode: args.mode,
            follow: args.follow,
            prepare: args.prepare,
            workers: args.workers.map_or_else(|| Ok(workers_usual()), |number| workers(number as u64))?,
            snapshot: args.snapshot,
            capture: args.capture,
            journal_budget_bytes: journal_budget(&args.journal_budget)?,
            verify: args.verify.as_deref().map(VerifySpec::parse).transpose()?,
            incremental: IncrementalSpec::from_args(args)?,
            recover: args.recover,
            guard: each(&args.guard, verifying::guard_bound)?,
            dead_letters_max: args.dead_letters_max,
            ..Self::new(source, destination)
        };
        spec.check()?;
        Ok(spec)
    }

    /// What no single value shows: options that contradict each other.
    ///
    /// # Errors
    /// Configuration, naming both.
    pub(crate) fn check(&self) -> Result<()> {
        if self.follow && self.mode == Some(ModeChoice::Snapshot) {
            return Err(Error::configuration("`follow` and mode `snapshot` contradict each other")
                .with_remedy("a snapshot ends by itself; leave one of the two out"));
        }
        if self.verify.is_some() && !self.follow {
            return Err(Error::configuration("`verify` is for a pipeline that follows")
                .with_remedy("add --follow, or verify once with `syncline verify NAME`"));
        }
        self.incremental.check(self.mode, self.verify.is_some())?;
        if self.recover.is_some() && matches!(self.mode, Some(ModeChoice::Snapshot | ModeChoice::Incremental))
        {
            return Err(Error::configuration("`recover` is for a pipeline that streams").with_remedy(
                "without a stream there are no changes to lose; leave out `recover` or the mode",
            ));
        }
        let repairs = self.recover.is_some()
            || self.mode == Some(ModeChoice::Incremental)
            || self.verify.is_some_and(|verify| verify.repair);
        if !self.guard.is_empty() && !repairs {
            return Err(Error::configuration("`guard` is for what repairs")
                .with_remedy("add --recover diff, or --verify every=TIME,repair, or --mode incremental"));
        }
        require_mapped_once(&self.schema_map)
    }

    /// Opens both URLs (connects to nothing) and settles the name.
    ///
    /// # Errors
    /// Configuration if a URL has no connector or is malformed.
    pub(crate) fn resolve(mut self) -> Result<ResolvedPipeline> {
        no_agent(&self.source)?;
        self.source = from_anywhere(&self.source);
        self.destination = from_anywhere(&self.destination);
        let source = registry::source(&self.source).map_err(|error| error.context("source"))?;
        let destination = self.open_destination().map_err(|error| error.context("destination"))?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => derived_name(&source.address(), &destination.address())?,
        };
        Ok(ResolvedPipeline { name, source, destination, spec: self })
    }

    fn open_destination(&self) -> Result<Arc<dyn Destination>> {
        if self.mode != Some(ModeChoice::Incremental) {
            no_agent(&self.destination)?;
        }
        match self.agent()? {
            Some(agent) => Ok(Arc::new(AgentDestination::new(agent))),
            None => registry::destination(&self.destination),
        }
    }

    /// The way to the agent behind which the destination is, if it is behind one.
    ///
    /// # Errors
    /// As [`AgentUrl::open`].
    pub(crate) fn agent(&self) -> Result<Option<Arc<AgentUrl>>> {
        let url = &self.destination;
        let open = || AgentUrl::open(url, registry::family).map(Arc::new);
        AgentUrl::is_one(url).then(open).transpose()
    }
}

/// Refuses the URL of an agent where one cannot be used.
///
/// # Errors
/// Configuration with the remedy.
pub(crate) fn no_agent(url: &str) -> Result<()> {
    if !AgentUrl::is_one(url) {
        return Ok(());
    }
    Err(Error::configuration(
        "an agent (syncline://) is for `syncline diff`, and the destination of mode `incremental`, only",
    )
    .with_remedy("name the database itself here, or add --mode incremental and a version column"))
}

/// The URL with a file's path made absolute, so that the name derived from it, and what the store remembers of it, mean
/// the same file from any directory.
pub(crate) fn from_anywhere(url: &str) -> String {
    let Some(path) = url.strip_prefix("sqlite:") else { return url.to_owned() };
    let path = path.strip_prefix("//").unwrap_or(path);
    match std::path::absolute(path) {
        Ok(absolute) if path != ":memory:" => format!("sqlite:{}", absolute.display()),
        // The connector says what is wrong with it.
        _ => url.to_owned(),
    }
}

/// A pipeline whose two ends are known. Not connected yet.
#[derive(Clone)]
pub(crate) struct ResolvedPipeline {
    /// Given or derived.
    pub(crate) name: PipelineName,
    /// What is read.
    pub(crate) source: Arc<dyn Source>,
    /// What is written.
    pub(crate) destination: Arc<dyn Destination>,
    /// Everything else.
    pub(crate) spec: PipelineSpec,
}

impl ResolvedPipeline {
    /// What the engine runs.
    pub(crate) fn wire(&self, journal_dir: PathBuf) -> Pipeline {
        let spec = &self.spec;
        let same_family = self.source.family() == self.destination.family();
        Pipeline {
            name: self.name.clone(),
            source: self.source.clone(),
            destination: self.destination.clone(),
            selection: Selection {
                include: spec.tables.clone(),
                exclude: spec.exclude.clone(),
                exclude_columns: spec.exclude_columns.clone(),
                carry: if same_family { Carry::Native } else { Carry::Typed },
            },
            schema_map: SchemaMap(spec.schema_map.clone()),
            mode: match spec.mode {
                None => Mode::SnapshotThenStream,
                // Of a table sync the engine's run does nothing; what it leaves is what a snapshot leaves.
                Some(ModeChoice::Snapshot | ModeChoice::Incremental) => Mode::Snapshot,
                Some(ModeChoice::Stream) => Mode::Stream,
            },
            prepare: spec.prepare.map(|choice| match choice {
                PrepareChoice::Recreate => Prepare::Recreate,
                PrepareChoice::Truncate => Prepare::Truncate,
                PrepareChoice::Keep => Prepare::Keep,
            }),
            workers: spec.workers,
            resumable: spec.snapshot == SnapshotChoice::Resumable,
            capture_triggers: spec.capture == Some(CaptureChoice::Triggers),
            follow: spec.follow,
            journal_dir,
            journal_budget_bytes: spec.journal_budget_bytes,
            dead_letters_max: spec.dead_letters_max,
            retry: syncline_engine::RetryPolicy::default(),
            // These need connections of their own; who runs the pipeline adds them.
            verify: None,
            recover: None,
        }
    }
}

fn each<T>(texts: &[String], read: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    texts.iter().map(|text| read(text)).collect()
}

/// Tables and columns of a comparison.
///
/// # Errors
/// Configuration, naming the value that cannot be used.
pub(crate) fn selection(
    tables: &[String],
    exclude: &[String],
    exclude_columns: &[String],
) -> Result<Selection> {
    Ok(Selection {
        include: each(tables, TablePattern::new)?,
        exclude: each(exclude, TablePattern::new)?,
        exclude_columns: each(exclude_columns, excluded_column)?,
        ..Selection::all(Carry::Typed)
    })
}

/// `from=to`, several.
///
/// # Errors
/// Configuration if one has no two sides or a schema is mapped twice.
pub(crate) fn schema_map(texts: &[String]) -> Result<SchemaMap> {
    let map = each(texts, schema_mapping)?;
    require_mapped_once(&map)?;
    Ok(SchemaMap(map))
}

fn require_mapped_once(map: &[(String, String)]) -> Result<()> {
    let is_twice = |n: usize, from: &String| map[..n].iter().any(|(earlier, _)| earlier == from);
    match map.iter().enumerate().find(|(n, (from, _))| is_twice(*n, from)) {
        Some((_, (from, _))) => Err(Error::configuration(format!("schema `{from}` is mapped twice"))),
        None => Ok(()),
    }
}

/// `schema.table.column`, the first two with `*`.
///
/// # Errors
/// Configuration if it has not three parts.
pub(crate) fn excluded_column(text: &str) -> Result<(TablePattern, String)> {
    let parts = text.rsplit_once('.').filter(|(table, column)| table.contains('.') && !column.is_empty());
    let Some((table, column)) = parts else {
        return Err(Error::configuration(format!("`{text}` is not a column"))
            .with_remedy("write schema.table.column, as in public.users.ssn"));
    };
    Ok((TablePattern::new(table)?, column.to_owned()))
}

/// `from=to`.
///
/// # Errors
/// Configuration if a side is missing.
pub(crate) fn schema_mapping(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.to_owned(), to.to_owned())),
        _ => Err(Error::configuration(format!("`{text}` is not a schema mapping"))
            .with_remedy("write from=to, as in public=shop")),
    }
}

/// As many workers as this machine has cores: more would wait for each other where a server runs beside us, and elsewhere
/// one chunk keeps a core busy.
fn workers_usual() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.clamp(*WORKERS_USUAL.start(), *WORKERS_USUAL.end())
}

/// Number of workers.
///
/// # Errors
/// Configuration if it is out of bounds.
pub(crate) fn workers(number: u64) -> Result<usize> {
    usize::try_from(number).ok().filter(|number| (1..=WORKERS_MAX).contains(number)).ok_or_else(|| {
        Error::configuration(format!("{number} workers are not possible"))
            .with_remedy(format!("use 1 to {WORKERS_MAX}"))
    })
}

/// Bytes of the journal's budget.
///
/// # Errors
/// Configuration if it is not a size, or too small.
pub(crate) fn journal_budget(text: &str) -> Result<u64> {
    let remedy = "write a number with a unit, at least 1MiB: 256MiB, 1GiB, 2GB";
    let bytes = bytes(text)
        .ok_or_else(|| Error::configuration(format!("`{text}` is not a size")).with_remedy(remedy))?;
    if bytes < JOURNAL_BUDGET_BYTES_MIN {
        return Err(Error::configuration(format!("a journal of {text} is too small")).with_remedy(remedy));
    }
    Ok(bytes)
}

/// A number of bytes with an optional unit, decimal (`MB`) or binary (`MiB`). A fraction is fine: `1.5GiB`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    // Six digits of a fraction are exact for every unit; more say nothing.
    let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let part = u128::from(digits.parse::<u64>().ok()?) * u128::from(factor) / 1_000_000;
    whole.checked_add(u64::try_from(part).ok()?)
}

/// One of the choices of an option, by its name on the command line.
///
/// # Errors
/// Configuration, with the choices.
pub(crate) fn choice<T: ValueEnum>(text: &str) -> Result<T> {
    T::from_str(text, false).map_err(|_| {
        let known: Vec<_> = T::value_variants()
            .iter()
            .filter_map(ValueEnum::to_possible_value)
            .map(|value| value.get_name().to_owned())
            .collect();
        Error::configuration(format!("`{text}` is not a choice here"))
            .with_remedy(format!("use one of: {}", known.join(", ")))
    })
}

/// Longest part of a derived name that comes from one address.
const SLUG_BYTES_MAX: usize = 14;

/// A name for a pipeline that has none: readable from what the addresses end with, and told apart from others by a hash
/// of the whole addresses. The same two addresses always give the same name.
fn derived_name(source: &str, destination: &str) -> Result<PipelineName> {
    let hash = fnv1a(&[source, "\n", destination].concat()) & 0xff_ffff;
    PipelineName::new(format!("{}_to_{}_{hash:06x}", slug(source), slug(destination)))
}

/// The name under which comparisons of two addresses are remembered, and under which they write tables that nobody owns.
pub(crate) fn name_of_diff(source: &str, destination: &str) -> Result<PipelineName> {
    let hash = fnv1a(&[source, "\n", destination].concat()) & 0xff_ffff;
    PipelineName::new(format!("diff_of_{}_{hash:06x}", slug(destination)))
}

/// The last part of an address in the letters a name may have.
fn slug(address: &str) -> String {
    let last = address.rsplit(['/', '\\', ':']).find(|part| !part.is_empty()).unwrap_or_default();
    let stem = last.split_once('.').map_or(last, |(stem, _)| stem);
    let mut slug = String::new();
    for c in stem.chars().map(|c| c.to_ascii_lowercase()) {
        let c = if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' };
        if slug.len() < SLUG_BYTES_MAX && !(c == '_' && (slug.is_empty() || slug.ends_with('_'))) {
            slug.push(c);
        }
    }
    let slug = slug.trim_end_matches('_');
    if slug.is_empty() { "db".to_owned() } else { slug.to_owned() }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): written down, so that a name stays the same whatever the standard library does.
fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(journal_budget("1GiB").unwrap(), 1 << 30);
        assert_eq!(journal_budget("1.5 MiB").unwrap(), 3 << 19);
        assert_eq!(journal_budget("64MB").unwrap(), 64_000_000);
        assert_eq!(journal_budget("2097152").unwrap(), 2 << 20);
        for wrong in ["", "x", "1 elephant", "1KiB", "-5GB", "99999999999TB", "1.2.3GB"] {
            assert!(journal_budget(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn columns_and_mappings() {
        let (table, column) = excluded_column("public.users.ssn").unwrap();
        assert!(table.matches(&syncline_core::TableId::new("public", "users")));
        assert_eq!(column, "ssn");
        assert!(excluded_column("users.ssn").is_err());
        assert_eq!(schema_mapping("a=b").unwrap(), ("a".to_owned(), "b".to_owned()));
        assert!(schema_mapping("a=").is_err());
    }

    #[test]
    fn a_derived_name_is_stable_readable_and_short() {
        let name = derived_name("db.example.com:5432/shop", "10.0.0.7:5432/warehouse").unwrap();
        assert_eq!(name.as_str(), "shop_to_warehouse_a1c739");
        let other = derived_name("db.example.com:5432/shop", "10.0.0.8:5432/warehouse").unwrap();
        assert_ne!(name, other);
        let odd = derived_name("/a/Ünï çode name that goes on and on.db", "///").unwrap();
        assert!(odd.as_str().starts_with("n_ode_name_tha_to_db_"), "{odd}");
    }

    #[test]
    fn a_file_means_the_same_from_anywhere() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(from_anywhere("sqlite:a b.db"), format!("sqlite:{}", here.join("a b.db").display()));
        assert_eq!(from_anywhere("sqlite:///x/a.db"), "sqlite:/x/a.db");
        for unchanged in ["sqlite:", "sqlite::memory:", "sqlite:/x/", "postgres://u@h/d"] {
            assert_eq!(from_anywhere(unchanged), unchanged);
        }
    }

    #[test]
    fn follow_and_snapshot_contradict_each_other() {
        let spec = PipelineSpec {
            follow: true,
            mode: Some(ModeChoice::Snapshot),
            ..PipelineSpec::new("sqlite:a", "sqlite:b")
        };
        assert!(spec.check().is_err());
    }
}
