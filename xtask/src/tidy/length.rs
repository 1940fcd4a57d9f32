//! Functions of at most 100 lines, files of at most 500 lines of production code. What is longer is listed with its
//! length and its reason, and that number only goes down.

use std::path::Path;

use super::Finding;
use super::allowed::Allowed;
use super::source::SourceFile;
use crate::Outcome;

const FUNCTION_LINES_MAX: usize = 100;
const FILE_LINES_MAX: usize = 500;

/// Checks all files against the limits and the list.
pub(super) fn check(root: &Path, files: &[SourceFile]) -> Outcome<Vec<Finding>> {
    let mut allowed = Allowed::read(root)?;
    let mut findings = Vec::new();
    for file in files {
        let mut too_long = |name: &str, number: usize, lines: usize, limit: usize| {
            let item = if name.is_empty() { file.path.clone() } else { format!("{}::{name}", file.path) };
            if lines <= limit || allowed.covers(&item, lines) {
                return;
            }
            let what = if name.is_empty() { "production code".to_owned() } else { format!("`{name}`") };
            let message = format!("{what} has {lines} lines, at most {limit}; split it along what it does");
            findings.push(Finding::new(format!("{}:{number}", file.path), message));
        };
        too_long("", 1, file.production_lines(), FILE_LINES_MAX);
        for function in functions(&file.lines) {
            too_long(function.name, function.number, function.lines, FUNCTION_LINES_MAX);
        }
    }
    findings.extend(allowed.unused());
    Ok(findings)
}

struct Function<'a> {
    name: &'a str,
    /// Of its first line, from 1.
    number: usize,
    lines: usize,
}

/// The functions with a body of more than one line. Rustfmt closes a body at the indentation of its `fn`.
fn functions(lines: &[String]) -> Vec<Function<'_>> {
    let mut functions = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indentation = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indentation}}}");
        let rest = &lines[index..];
        let Some(signature) = rest.iter().position(|line| line.ends_with(['{', ';', '}'])) else { continue };
        if !rest[signature].ends_with('{') {
            continue;
        }
        if let Some(end) = rest.iter().position(|line| *line == closing) {
            functions.push(Function { name, number: index + 1, lines: end + 1 });
        }
    }
    functions
}

fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let is_definition = before.split_whitespace().all(|word| {
        word.starts_with("pub")
            || matches!(word, "async" | "const" | "unsafe" | "extern" | "\"C\"" | "in" | "crate)" | "super)")
    });
    let name = after.split(['(', '<']).next()?;
    (is_definition && name.chars().all(|c| c.is_alphanumeric() || c == '_')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_measured_from_its_name_to_its_brace() {
        let text = "impl X {\n    pub(crate) async fn long(\n        &self,\n    ) -> T {\n        let f = || {\n            1\n        };\n    }\n\n    fn declared(&self);\n    fn short() {}\n}\n";
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let found: Vec<_> = functions(&lines)
            .iter()
            .map(|function| (function.name, function.number, function.lines))
            .collect();
        assert_eq!(found, [("long", 2, 7)]);
    }
}
