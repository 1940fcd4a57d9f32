//! Guard, plan and approval: which tables are written, and which wait for a person.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use syncline_core::unique::UniqueColumns;
use syncline_core::{Error, ErrorKind, Result, TableId, TablePattern};
use syncline_engine::diff::sketches::Difference;
use syncline_engine::diff::{Comparison, Enforced, Guard, KeyBytes, NotUnique, Plan, TableDiff, Writer};

use super::outcome::Decision;
use super::report::Report;
use crate::args::DiffArgs;
use crate::exit::Failure;
use crate::verifying;

/// How long a plan that nobody approved is kept.
const PLAN_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is to be done about differences.
enum Intent {
    Compare,
    Plan,
    Repair,
    Approved(Plan),
}

/// What is done about the differences of one run.
pub(super) struct Repairs {
    intent: Intent,
    guard: Guard,
    /// Columns that must be unique at the source.
    unique: Vec<(TablePattern, UniqueColumns)>,
    /// What the table's destination enforces and was not looked at.
    not_checked: Vec<String>,
    /// Whether queries stand for the source's tables.
    of_queries: bool,
    /// What was stopped or only shown: what an approval would run.
    waiting: Plan,
    /// Where plans are kept.
    directory: PathBuf,
    pub(super) writer: Option<Writer>,
}

impl Repairs {
    /// What the arguments ask for. `of` names the two sides: a plan of others is refused.
    ///
    /// # Errors
    /// Configuration if a bound of the guard or a token is wrong.
    pub(super) fn new(args: &DiffArgs, of: &str, state: &Path) -> Result<Self> {
        let guard = verifying::guard(&args.guard)?;
        let unique = args.unique.iter().map(|text| unique_columns(text)).collect::<Result<_>>()?;
        let directory = state.join("plans");
        let intent = match &args.approve {
            Some(token) => Intent::Approved(approved(&directory, token, of)?),
            None if args.repair => Intent::Repair,
            None if args.plan => Intent::Plan,
            None => Intent::Compare,
        };
        let waiting = match &intent {
            // Its rows are recognised by their hashes, which need its key.
            Intent::Approved(plan) => plan.emptied(),
            _ => Plan::new(random_key()?, of),
        };
        Ok(Self {
            intent,
            guard,
            unique,
            not_checked: Vec::new(),
            of_queries: !args.query.is_empty(),
            waiting,
            directory,
            writer: None,
        })
    }

    /// Whether a table is compared at all: an approval is about the tables of its plan.
    pub(super) fn takes(&self, table: &TableId) -> bool {
        match &self.intent {
            Intent::Approved(plan) => plan.has(table),
            _ => true,
        }
    }

    /// Whether rows are written.
    pub(super) fn writes(&self) -> bool {
        matches!(self.intent, Intent::Repair | Intent::Approved(_))
    }

    /// The key under which the two sides are compared.
    pub(super) fn hash_key(&self) -> syncline_engine::diff::sketches::HashKey {
        self.waiting.hash_key()
    }

    /// Decides about a table, and repairs it if that is the decision.
    ///
    /// # Errors
    /// As writing the report. An error of the repair is a decision.
    pub(super) async fn decide(
        &mut self,
        comparison: &Comparison,
        diff: &TableDiff,
        difference: &Difference,
        report: &mut Option<Report>,
    ) -> Result<Decision> {
        let mut violations = self.violations(comparison, diff).await?;
        if violations.is_empty() && self.would_write(diff, difference) {
            violations = self.violations_there(comparison, diff).await?;
        }
        if !violations.is_empty() {
            return Ok(Decision::NotUnique(violations));
        }
        if diff.is_equal() {
            return Ok(Decision::Equal);
        }
        let decision = self.judge(diff, difference);
        if !matches!(decision, Decision::Repaired(_)) {
            if let Some(report) = report {
                comparison.each_row(difference, &mut |row| report.row(diff, &row)).await?;
            }
            return Ok(decision);
        }
        Ok(match self.repair(comparison, diff, difference, report).await {
            Ok(decision) => decision,
            Err(error) if self.of_queries && error.kind() == ErrorKind::Configuration => {
                failed(error.with_remedy("cast the columns of the query to what the destination's table has"))
            }
            Err(error) => failed(error),
        })
    }

    /// Columns of the table that are not unique although they must be.
    async fn violations(&self, comparison: &Comparison, diff: &TableDiff) -> Result<Vec<NotUnique>> {
        let mut violations = Vec::new();
        for (_, columns) in self.unique.iter().filter(|(table, _)| table.matches(&diff.table)) {
            violations.extend(comparison.not_unique(columns).await?);
        }
        Ok(violations)
    }

    /// Whether rows of the table are to be written, or shown as such.
    fn would_write(&self, diff: &TableDiff, difference: &Difference) -> bool {
        let is_one = !diff.is_equal() && diff.too_many.is_none();
        is_one
            && match &self.intent {
                Intent::Compare => false,
                Intent::Approved(plan) => plan.covers(&diff.table, difference),
                Intent::Plan | Intent::Repair => {
                    self.guard.judge(&diff.counts, diff.rows_destination).is_empty()
                }
            }
    }

    /// Columns that the destination keeps unique and the source does not, and whose values are repeated there.
    async fn violations_there(
        &mut self,
        comparison: &Comparison,
        diff: &TableDiff,
    ) -> Result<Vec<NotUnique>> {
        let Enforced { to_check, not_checked } = comparison.enforced().await?;
        self.not_checked = not_checked;
        let mut violations = Vec::new();
        for of in to_check {
            let was_named =
                |(table, named): &(TablePattern, UniqueColumns)| table.matches(&diff.table) && *named == of;
            if !self.unique.iter().any(was_named) {
                violations.extend(comparison.not_unique(&of).await?);
            }
        }
        Ok(violations)
    }

    /// What the destination of the table that was decided about enforces and was not looked at.
    pub(super) fn take_not_checked(&mut self) -> Vec<String> {
        std::mem::take(&mut self.not_checked)
    }

    /// The decision before a row moves; [`Decision::Repaired`] for what is to be repaired now.
    fn judge(&mut self, diff: &TableDiff, difference: &Difference) -> Decision {
        let now = Decision::Repaired(syncline_engine::diff::Repaired::default());
        let exceeded = self.guard.judge(&diff.counts, diff.rows_destination);
        let decision = match &self.intent {
            Intent::Compare => return Decision::Compared,
            _ if diff.too_many.is_some() => return Decision::TooMany,
            Intent::Approved(plan) if plan.covers(&diff.table, difference) => return now,
            Intent::Approved(_) => Decision::Stopped { exceeded: Vec::new() },
            Intent::Plan | Intent::Repair if !exceeded.is_empty() => Decision::Stopped { exceeded },
            Intent::Repair => return now,
            Intent::Plan => Decision::Planned,
        };
        self.waiting.add(&diff.table, difference);
        decision
    }

    async fn repair(
        &mut self,
        comparison: &Comparison,
        diff: &TableDiff,
        difference: &Difference,
        report: &mut Option<Report>,
    ) -> Result<Decision> {
        let writer = self.writer.as_mut().ok_or_else(|| Error::bug("a repair without a writer"))?;
        let mut tell = |row| match report {
            Some(report) => report.row(diff, &row),
            None => Ok(()),
        };
        comparison.repair(difference, writer, &mut tell).await.map(Decision::Repaired)
    }

    /// Gives back what is held, and keeps the plan of what waits: its token comes back.
    ///
    /// # Errors
    /// As any write.
    pub(super) async fn end(self) -> Result<Option<String>> {
        if let Some(writer) = self.writer {
            writer.close().await?;
        }
        if let Intent::Approved(plan) = &self.intent {
            // It was used, or has become another one.
            let _ = std::fs::remove_file(path_of(&self.directory, &plan.token()));
        }
        if self.waiting.is_empty() {
            return Ok(None);
        }
        forget_old(&self.directory);
        keep(&self.directory, &self.waiting).map(Some)
    }
}

/// `schema.table(column, column)`.
fn unique_columns(text: &str) -> Result<(TablePattern, UniqueColumns)> {
    let wrong = || {
        Error::configuration(format!("`{text}` does not name columns of a table"))
            .with_remedy("write --unique 'schema.table(column, column)'")
    };
    let (table, columns) = text.strip_suffix(')').and_then(|text| text.split_once('(')).ok_or_else(wrong)?;
    let columns: Vec<String> = columns.split(',').map(|column| column.trim().to_owned()).collect();
    if columns.iter().any(String::is_empty) {
        return Err(wrong());
    }
    Ok((TablePattern::new(table)?, UniqueColumns::named(columns)))
}

fn failed(error: Error) -> Decision {
    let remedy = error.remedy().map(|remedy| format!("; remedy: {remedy}")).unwrap_or_default();
    let text = format!("{error}{remedy}");
    Decision::Failed { error: text, exit: Failure::Error(error).exit() }
}

/// A key's bytes, which nobody can guess.
pub(super) fn random_key() -> Result<KeyBytes> {
    let mut bytes = KeyBytes::default();
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::bug("the system gives no random numbers").with_source(error))?;
    Ok(bytes)
}

fn path_of(directory: &Path, token: &str) -> PathBuf {
    directory.join(format!("{token}.plan"))
}

/// The plan that a token names.
fn approved(directory: &Path, token: &str, of: &str) -> Result<Plan> {
    let unknown = || {
        Error::configuration(format!("no plan `{token}` is known on this machine"))
            .with_remedy("compare again with --plan or --repair, which shows the plan and its token")
    };
    if token.is_empty() || !token.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(unknown());
    }
    let text = std::fs::read_to_string(path_of(directory, token)).map_err(|_| unknown())?;
    let plan = Plan::from_text(&text)?;
    if plan.token() != token {
        return Err(Error::configuration(format!("the plan kept as `{token}` is not the one of that name"))
            .with_remedy("compare again, which makes a new plan"));
    }
    if plan.of() != of {
        return Err(Error::configuration(format!("plan `{token}` is of {}, not of {of}", plan.of()))
            .with_remedy("give the source and the destination that were compared"));
    }
    Ok(plan)
}

/// For its owner's eyes only: it holds the key of the comparison's hashes.
fn keep(directory: &Path, plan: &Plan) -> Result<String> {
    let token = plan.token();
    let path = path_of(directory, &token);
    let write = || {
        std::fs::create_dir_all(directory)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(plan.to_text().as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| Error::io(format!("cannot keep the plan {}", path.display()), error))?;
    Ok(token)
}

/// Losing an old plan loses nothing, so trouble with one is no reason to stop.
fn forget_old(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let age = entry.metadata().and_then(|metadata| metadata.modified());
        let age = age.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        if age.is_some_and(|age| age > PLAN_AGE_MAX) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
