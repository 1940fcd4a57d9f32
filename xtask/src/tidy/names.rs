//! Every file says what it is for; files, types and modules bear names from the project's glossary.

use super::Finding;
use super::source::SourceFile;

/// Rooms for everything hold nothing in particular.
const FILE_NAMES: [&str; 6] = ["utils", "util", "helpers", "helper", "common", "manager"];

/// Words with another one in the glossary: (not this, but that).
const WORDS: [(&str, &str); 9] = [
    ("sink", "destination"),
    ("peer", "source or destination"),
    ("plugin", "connector"),
    ("adapter", "connector"),
    ("bootstrap", "snapshot"),
    ("watermark", "read mark"),
    ("reconcile", "diff"),
    ("subbatch", "part"),
    ("manager", "a noun for what it is"),
];

/// Checks all files.
pub(super) fn check(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        let name = file.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        if FILE_NAMES.contains(&name) {
            findings.push(Finding::new(
                &file.path,
                format!("`{name}` says nothing; name it after what it holds"),
            ));
        }
        if !has_module_doc(file) {
            findings.push(Finding::new(
                format!("{}:1", file.path),
                "begin with a module doc (`//!`): what this is for",
            ));
        }
        if file.is_production() {
            findings.extend(file.code().filter_map(|(number, code)| {
                let (word, better) = glossary_word(defined_name(code)?)?;
                Some(Finding::new(
                    format!("{}:{number}", file.path),
                    format!("say {better} instead of `{word}`"),
                ))
            }));
        }
    }
    findings
}

fn has_module_doc(file: &SourceFile) -> bool {
    // A crate's own attributes may come first.
    file.lines
        .iter()
        .find(|line| !line.is_empty() && !line.starts_with("#!"))
        .is_some_and(|line| line.starts_with("//!"))
}

/// The name that a line defines.
fn defined_name(code: &str) -> Option<&str> {
    let mut words = code
        .split_whitespace()
        .skip_while(|word| word.starts_with("pub") || matches!(*word, "async" | "const" | "unsafe" | "in"));
    let keyword = words.next()?;
    let is_definition = matches!(keyword, "struct" | "enum" | "trait" | "type" | "mod" | "fn" | "static");
    is_definition.then(|| words.next())?
}

fn glossary_word(name: &str) -> Option<(&'static str, &'static str)> {
    let name = name.split(['(', '<', '{', ';', ':']).next()?.to_lowercase().replace('_', "");
    WORDS.into_iter().find(|(word, _)| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_looked_for_in_definitions_only() {
        let found = |code| defined_name(code).and_then(glossary_word).map(|(word, _)| word);
        assert_eq!(found("pub(crate) struct KafkaSink<T> {"), Some("sink"));
        assert_eq!(found("pub async fn low_watermark(&self) -> u64 {"), Some("watermark"));
        assert_eq!(found("let sink = futures::sink();"), None);
        assert_eq!(found("pub struct Destination {"), None);
    }
}
