//! An agent in a YAML file: what `agent` is told otherwise.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_saphyr::Spanned;
use syncline_core::Error;

use super::{Entry, Lookup, Reader, document};
use crate::commands::agent::named_connection;
use crate::config::Problem;
use crate::config::document::Node;

/// The keys of an agent, in the order in which the documentation has them.
const KEYS: &[&str] = &["listen", "connections", "writable", "token_file", "tls_cert", "tls_key"];

/// An agent as a file has it.
#[derive(Debug, Default)]
pub(crate) struct AgentSpec {
    /// Where it listens, if the file says it.
    pub(crate) listen: Option<String>,
    /// URLs behind the names of its connections.
    pub(crate) connections: BTreeMap<String, String>,
    /// Names of those that may be written.
    pub(crate) writable: Vec<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
}

/// Reads a whole file.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn agent(file: &str, text: &str, lookup: Lookup<'_>) -> Result<AgentSpec, Vec<Problem>> {
    let mut reader = Reader { file, text, lookup, problems: Vec::new() };
    let mut spec = AgentSpec::default();
    match document::parse(text) {
        Ok(root) => reader.agent_root(&mut spec, &root),
        Err((at, message)) => reader.problem(at, message, None),
    }
    if reader.problems.is_empty() {
        return Ok(spec);
    }
    reader.problems.sort_by_key(|problem| (problem.line, problem.column));
    Err(reader.problems)
}

impl Reader<'_> {
    fn agent_root(&mut self, spec: &mut AgentSpec, root: &Spanned<Node>) {
        let agent = match &root.value {
            Node::Map(entries) => {
                entries.iter().filter(|(key, _)| key.value != "agent").for_each(|(key, _)| {
                    self.unknown_key(key, &["agent"]);
                });
                entries.iter().find(|(key, _)| key.value == "agent")
            }
            _ => None,
        };
        let Some((_, value)) = agent else {
            let example = "begin the file with `agent:` and its keys below it".to_owned();
            return self.problem(root.referenced, "key `agent` is missing".to_owned(), Some(example));
        };
        let Node::Map(entries) = &value.value else { return self.expected("the keys of an agent", value) };
        entries.iter().for_each(|entry| self.agent_key(spec, entry));
        let has = |key: &str| entries.iter().any(|(found, _)| found.value == key);
        if !has("connections") {
            self.problem(value.referenced, "key `connections` is missing".to_owned(), None);
        }
        if has("tls_cert") != has("tls_key") {
            let message = "`tls_cert` and `tls_key` belong together".to_owned();
            self.problem(value.referenced, message, Some("name both files, or neither".to_owned()));
        }
    }

    fn agent_key(&mut self, spec: &mut AgentSpec, (key, value): &Entry) {
        match key.value.as_str() {
            "listen" => spec.listen = self.text(value),
            "connections" => spec.connections = self.agent_connections(value),
            "writable" => spec.writable = self.list(value, |name| Ok(name.to_owned())),
            "token_file" => spec.token_file = self.text(value).map(PathBuf::from),
            "tls_cert" => spec.tls_cert = self.text(value).map(PathBuf::from),
            "tls_key" => spec.tls_key = self.text(value).map(PathBuf::from),
            _ => self.unknown_key(key, KEYS),
        }
    }

    fn agent_connections(&mut self, value: &Spanned<Node>) -> BTreeMap<String, String> {
        let mut connections = BTreeMap::new();
        let Node::Map(entries) = &value.value else {
            self.expected("a mapping from names to URLs", value);
            return connections;
        };
        for (name, url) in entries {
            let read = |text: &str| named_connection(&name.value, text);
            let Some(url) = self.parsed(url, read) else { continue };
            if connections.insert(name.value.clone(), url).is_some() {
                let error =
                    Error::configuration(format!("a second connection with the name `{}`", name.value));
                self.problem(name.referenced, error.to_string(), None);
            }
        }
        if entries.is_empty() {
            self.problem(value.referenced, "no connection is listed".to_owned(), None);
        }
        connections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AgentSpec, Vec<String>> {
        let lookup = |name: &str| (name == "WORD").then(|| "s3cret".to_owned());
        agent("a.yaml", text, &lookup).map_err(|all| all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_whole_agent() {
        let text = "agent:\n  listen: 127.0.0.1:0\n  connections:\n    shop: postgres://u:${WORD}@h/d\n    file: sqlite:/tmp/a.db\n  \
                    writable: [file]\n  token_file: token\n  tls_cert: c.pem\n  tls_key: k.pem\n";
        let spec = read(text).unwrap();
        assert_eq!(spec.listen.as_deref(), Some("127.0.0.1:0"));
        assert_eq!(spec.connections["shop"], "postgres://u:s3cret@h/d");
        assert_eq!((spec.connections.len(), spec.token_file), (2, Some("token".into())));
        assert_eq!(spec.writable, ["file"]);
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_its_place_and_no_secret() {
        let text = "agent:\n  lisen: x\n  connections:\n    a b: sqlite:/tmp/a.db\n    shop: oracle://${WORD}\n    x: ${NOPE}\n  tls_key: k\n";
        let problems = read(text).unwrap_err();
        let places: Vec<_> = problems.iter().map(|p| p.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(
            places,
            ["a.yaml:2:3", "a.yaml:2:3", "a.yaml:4:10", "a.yaml:5:11", "a.yaml:6:8"],
            "{problems:#?}"
        );
        assert!(!problems.concat().contains("s3cret"), "{problems:#?}");
        for wrong in ["", "agent: 1", "pipelines: []", "agent: {connections: {}}", "agent: {listen: a}"] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
