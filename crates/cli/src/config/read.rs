//! From the tree of a YAML file to pipelines, gathering every problem on the way.

mod agent;

use serde_saphyr::{Location, Spanned};
use syncline_connectors::registry;
use syncline_core::{Error, PipelineName, Result, TablePattern};

use super::Problem;
use super::document::{self, Node};
use super::environment::{self, Lookup};
use crate::incremental;
use crate::spec::{self, PipelineSpec, ResolvedPipeline};
use crate::verifying::{self, VerifySpec};
pub(crate) use agent::AgentSpec;
pub(super) use agent::agent;

type Entry = (Spanned<String>, Spanned<Node>);

/// The keys of a pipeline, in the order in which the documentation has them.
const PIPELINE_KEYS: &[&str] = &[
    "name",
    "source",
    "destination",
    "tables",
    "exclude",
    "exclude_columns",
    "schema_map",
    "mode",
    "follow",
    "prepare",
    "workers",
    "snapshot",
    "capture",
    "journal_budget",
    "verify",
    "version_columns",
    "every",
    "recover",
    "guard",
    "dead_letters_max",
];
/// The keys of `verify`.
const VERIFY_KEYS: &[&str] = &["every", "repair"];

/// Reads a whole file.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn pipelines(
    file: &str,
    text: &str,
    lookup: Lookup<'_>,
) -> Result<Vec<ResolvedPipeline>, Vec<Problem>> {
    let mut reader = Reader { file, text, lookup, problems: Vec::new() };
    let pipelines = match document::parse(text) {
        Ok(root) => reader.root(&root),
        Err((at, message)) => {
            reader.problem(at, message, None);
            Vec::new()
        }
    };
    if reader.problems.is_empty() {
        Ok(pipelines)
    } else {
        reader.problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(reader.problems)
    }
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    lookup: Lookup<'a>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn root(&mut self, root: &Spanned<Node>) -> Vec<ResolvedPipeline> {
        let example = "begin the file with `pipelines:` and a list below it";
        let Node::Map(entries) = &root.value else {
            self.problem(
                root.referenced,
                format!("expected `pipelines`, found {}", root.value.kind()),
                Some(example.to_owned()),
            );
            return Vec::new();
        };
        let mut pipelines: Vec<ResolvedPipeline> = Vec::new();
        let mut seen = false;
        for (key, value) in entries {
            if key.value != "pipelines" {
                self.unknown_key(key, &["pipelines"]);
                continue;
            }
            seen = true;
            let Node::List(items) = &value.value else {
                self.expected("a list of pipelines", value);
                continue;
            };
            if items.is_empty() {
                self.problem(value.referenced, "no pipeline is listed".to_owned(), None);
            }
            for item in items {
                if let Some(pipeline) = self.pipeline(item) {
                    self.refuse_same_name(&pipelines, &pipeline, item);
                    pipelines.push(pipeline);
                }
            }
        }
        if !seen {
            self.problem(root.referenced, "key `pipelines` is missing".to_owned(), Some(example.to_owned()));
        }
        pipelines
    }

    fn refuse_same_name(&mut self, known: &[ResolvedPipeline], new: &ResolvedPipeline, at: &Spanned<Node>) {
        if known.iter().any(|known| known.name == new.name) {
            self.problem(
                at.referenced,
                format!("a second pipeline with the name `{}`", new.name),
                Some("give each pipeline a `name` of its own".to_owned()),
            );
        }
    }

    fn pipeline(&mut self, item: &Spanned<Node>) -> Option<ResolvedPipeline> {
        let Node::Map(entries) = &item.value else {
            self.expected("a mapping with `source` and `destination`", item);
            return None;
        };
        let before = self.problems.len();
        for key in ["source", "destination"] {
            if !entries.iter().any(|(found, _)| found.value == key) {
                self.problem(item.referenced, format!("key `{key}` is missing"), None);
            }
        }
        let mut spec = PipelineSpec::new("", "");
        for entry in entries {
            self.key(&mut spec, entry);
        }
        if self.problems.len() > before {
            return None;
        }
        let resolved = spec.check().and_then(|()| spec.resolve());
        self.keep(item.referenced, None, resolved)
    }

    /// Takes one key of a pipeline.
    fn key(&mut self, spec: &mut PipelineSpec, (key, value): &Entry) {
        match key.value.as_str() {
            "name" => spec.name = self.parsed(value, |text| PipelineName::new(text)),
            "source" => {
                spec.source = self.url(value, |url| registry::source(url).map(drop));
            }
            "destination" => {
                spec.destination = self.url(value, |url| registry::destination(url).map(drop));
            }
            "tables" => spec.tables = self.list(value, TablePattern::new),
            "exclude" => spec.exclude = self.list(value, TablePattern::new),
            "exclude_columns" => spec.exclude_columns = self.list(value, spec::excluded_column),
            "schema_map" => spec.schema_map = self.mapping(value),
            "mode" => spec.mode = self.parsed(value, spec::choice),
            "follow" => spec.follow = self.flag(value).unwrap_or_default(),
            "prepare" => spec.prepare = self.parsed(value, spec::choice),
            "workers" => spec.workers = self.number(value).unwrap_or(spec.workers),
            "snapshot" => spec.snapshot = self.parsed(value, spec::choice).unwrap_or(spec.snapshot),
            "capture" => spec.capture = self.parsed(value, spec::choice),
            "journal_budget" => {
                spec.journal_budget_bytes =
                    self.parsed(value, spec::journal_budget).unwrap_or(spec.journal_budget_bytes);
            }
            "verify" => spec.verify = self.verification(value),
            "version_columns" => spec.incremental.columns = self.list(value, incremental::version_column),
            "every" => spec.incremental.every_seconds = self.parsed(value, verifying::interval),
            "recover" => spec.recover = self.parsed(value, spec::choice),
            "guard" => spec.guard = self.list(value, verifying::guard_bound),
            "dead_letters_max" => {
                let read =
                    |text: &str| text.parse().map_err(|_| Error::configuration("expected a whole number"));
                spec.dead_letters_max = self.parsed(value, read).unwrap_or(spec.dead_letters_max);
            }
            _ => self.unknown_key(key, PIPELINE_KEYS),
        }
    }

    /// `verify: {every: 1h, repair: true}`, or as on the command line.
    fn verification(&mut self, value: &Spanned<Node>) -> Option<VerifySpec> {
        let Node::Map(entries) = &value.value else { return self.parsed(value, VerifySpec::parse) };
        let (mut every, mut repair, before) = (None, false, self.problems.len());
        for (key, value) in entries {
            match key.value.as_str() {
                "every" => every = self.parsed(value, verifying::interval),
                "repair" => repair = self.flag(value).unwrap_or_default(),
                _ => self.unknown_key(key, VERIFY_KEYS),
            }
        }
        if every.is_none() && self.problems.len() == before {
            self.problem(value.referenced, "key `every` is missing".to_owned(), None);
        }
        Some(VerifySpec { every_seconds: every?, repair })
    }

    /// A text value with its references filled in.
    fn text(&mut self, value: &Spanned<Node>) -> Option<String> {
        match &value.value {
            Node::Text(text) if environment::has_reference(text) => self.filled(value, text),
            Node::Text(text) => Some(text.clone()),
            // `journal_budget: 67108864` is as clear as the same in quotes.
            Node::Integer(number) => Some(number.to_string()),
            Node::Null | Node::Bool(_) | Node::Float | Node::List(_) | Node::Map(_) => {
                self.expected("text (put it in quotes if it looks like something else)", value);
                None
            }
        }
    }

    fn filled(&mut self, value: &Spanned<Node>, text: &str) -> Option<String> {
        match environment::fill(text, self.lookup) {
            Ok(filled) => Some(filled),
            Err(bad) => {
                for bad in bad {
                    let at = self.place_of(value.defined, text, bad.offset);
                    self.problem_at(at, bad.message, Some(bad.remedy));
                }
                None
            }
        }
    }

    fn parsed<T>(&mut self, value: &Spanned<Node>, read: impl Fn(&str) -> Result<T>) -> Option<T> {
        let text = self.text(value)?;
        let result = read(&text);
        self.keep(value.referenced, original(value), result)
    }

    /// A URL is checked at its own place; the connector's message never repeats it.
    fn url(&mut self, value: &Spanned<Node>, check: impl Fn(&str) -> Result<()>) -> String {
        self.parsed(value, |text| check(text).map(|()| text.to_owned())).unwrap_or_default()
    }

    fn list<T>(&mut self, value: &Spanned<Node>, read: impl Fn(&str) -> Result<T>) -> Vec<T> {
        match &value.value {
            Node::List(items) => items.iter().filter_map(|item| self.parsed(item, &read)).collect(),
            Node::Text(_) => self.parsed(value, read).into_iter().collect(),
            Node::Null | Node::Bool(_) | Node::Integer(_) | Node::Float | Node::Map(_) => {
                self.expected("a list", value);
                Vec::new()
            }
        }
    }

    fn mapping(&mut self, value: &Spanned<Node>) -> Vec<(String, String)> {
        let Node::Map(entries) = &value.value else {
            self.expected("a mapping from source schema to destination schema", value);
            return Vec::new();
        };
        let pair = |entry: &Entry| Some((entry.0.value.clone(), self.text(&entry.1)?));
        entries.iter().filter_map(pair).collect()
    }

    fn flag(&mut self, value: &Spanned<Node>) -> Option<bool> {
        if let Node::Bool(flag) = value.value {
            return Some(flag);
        }
        self.parsed(value, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(Error::configuration("expected true or false")),
        })
    }

    fn number(&mut self, value: &Spanned<Node>) -> Option<usize> {
        self.parsed(value, |text| {
            let number = text.parse().map_err(|_| Error::configuration("expected a whole number"))?;
            spec::workers(number)
        })
    }

    fn unknown_key(&mut self, key: &Spanned<String>, known: &[&str]) {
        let remedy = format!("keys here: {}", known.join(", "));
        self.problem(key.referenced, format!("unknown key `{}`", key.value), Some(remedy));
    }

    fn expected(&mut self, what: &str, found: &Spanned<Node>) {
        self.problem(found.referenced, format!("expected {what}, found {}", found.value.kind()), None);
    }

    /// Takes a value or its problem. Where the value came out of the environment, the message must not repeat it:
    /// `original` is then what stands in the file.
    fn keep<T>(&mut self, at: Location, original: Option<&str>, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let message = original.map_or_else(
                    || error.to_string(),
                    |text| format!("`{text}` gives a value that cannot be used here"),
                );
                self.problem(at, message, error.remedy().map(str::to_owned));
                None
            }
        }
    }

    fn problem(&mut self, at: Location, message: String, remedy: Option<String>) {
        self.problem_at((at.line().max(1), at.column().max(1)), message, remedy);
    }

    fn problem_at(&mut self, (line, column): (u64, u64), message: String, remedy: Option<String>) {
        self.problems.push(Problem { file: self.file.to_owned(), line, column, message, remedy });
    }

    /// The place of a reference inside a value: looked up in the file's text from where the value begins, because quotes,
    /// folding and escapes move it.
    fn place_of(&self, at: Location, value: &str, offset: usize) -> (u64, u64) {
        let start = at.span().byte_offset().and_then(|bytes| usize::try_from(bytes).ok());
        let reference: String = value[offset..].chars().take_while(|c| *c != '}').collect();
        let earlier = value[..offset].matches(reference.as_str()).count();
        let found = start
            .and_then(|start| Some((start, self.text.get(start..)?)))
            .and_then(|(start, rest)| Some(start + rest.match_indices(reference.as_str()).nth(earlier)?.0));
        let Some(found) = found else { return (at.line().max(1), at.column().max(1)) };
        let before = &self.text[..found];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        (line as u64, self.text[line_start..found].chars().count() as u64 + 1)
    }
}

/// The text in the file, if its value comes out of the environment.
fn original(value: &Spanned<Node>) -> Option<&str> {
    match &value.value {
        Node::Text(text) if environment::has_reference(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{ModeChoice, SnapshotChoice};

    fn read(text: &str) -> Result<Vec<ResolvedPipeline>, Vec<String>> {
        let lookup = |name: &str| (name == "WORD").then(|| "s3cret".to_owned());
        pipelines("f.yaml", text, &lookup)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_whole_pipeline() {
        let text = "pipelines:\n- name: shop\n  source: 'sqlite:/tmp/a ${WORD}.db'\n  destination: sqlite:/tmp/b.db\n  \
                    tables: [main.*, x]\n  exclude: main.log\n  exclude_columns: [main.users.ssn]\n  schema_map: {main: main}\n  \
                    mode: stream\n  follow: true\n  prepare: keep\n  workers: ${N:-7}\n  snapshot: resumable\n  \
                     capture: triggers\n  journal_budget: 64MiB\n  verify: {every: 1h, repair: true}\n  dead_letters_max: 5\n";
        let pipelines = read(text).unwrap();
        let spec = &pipelines[0].spec;
        assert_eq!(pipelines[0].name.as_str(), "shop");
        assert_eq!(spec.source, "sqlite:/tmp/a s3cret.db");
        assert_eq!((spec.tables.len(), spec.exclude.len(), spec.exclude_columns.len()), (2, 1, 1));
        assert_eq!((spec.mode, spec.snapshot), (Some(ModeChoice::Stream), SnapshotChoice::Resumable));
        assert_eq!((spec.workers, spec.journal_budget_bytes, spec.follow), (7, 64 << 20, true));
        assert_eq!(spec.verify, Some(VerifySpec { every_seconds: 3600, repair: true }));
        assert_eq!(spec.dead_letters_max, 5);
    }

    #[test]
    fn all_problems_at_once_with_line_and_column() {
        let text = "pipelines:\n  - source: sqlite:/tmp/a.db\n    destination: \"sqlite:/${NOPE}/x/${WORD}${NEITHER}\"\n    \
                    tabels: [a]\n    workers: many\n    tables: ['.x']\n    mode: sideways\n  - name: No Name\n    source: 5\n";
        let problems = read(text).err().unwrap();
        let places: Vec<_> = problems.iter().map(|p| p.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(
            places,
            [
                "f.yaml:3:27",
                "f.yaml:3:44",
                "f.yaml:4:5",
                "f.yaml:5:14",
                "f.yaml:6:14",
                "f.yaml:7:11",
                "f.yaml:8:5",
                "f.yaml:8:11",
                "f.yaml:9:13"
            ],
            "{problems:#?}"
        );
    }

    #[test]
    fn a_value_of_the_environment_is_never_repeated() {
        let text =
            "pipelines:\n- source: sqlite:/tmp/a.db\n  destination: sqlite:/tmp/b.db\n  mode: ${WORD}\n";
        let problems = read(text).err().unwrap();
        assert_eq!(problems, ["f.yaml:4:9: `${WORD}` gives a value that cannot be used here"]);
    }

    #[test]
    fn two_pipelines_of_one_name_and_files_without_pipelines() {
        let one = "- {name: a, source: 'sqlite:/tmp/a.db', destination: 'sqlite:/tmp/b.db'}\n";
        assert!(read(&format!("pipelines:\n{one}{one}")).err().unwrap()[0].contains("second pipeline"));
        for empty in ["", "{}", "pipelines: []", "- a", "other: 1"] {
            assert!(read(empty).is_err(), "{empty:?}");
        }
    }
}
