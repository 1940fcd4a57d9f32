//! Links between the project's own pages lead somewhere.

use std::fs;
use std::path::Path;

use super::Finding;
use super::source::files_with_extension;
use crate::Outcome;

/// Checks every Markdown file.
pub(super) fn check(root: &Path) -> Outcome<Vec<Finding>> {
    let mut findings = Vec::new();
    for path in files_with_extension(root, &["."], "md")? {
        let path = path.trim_start_matches("./").to_owned();
        let text =
            fs::read_to_string(root.join(&path)).map_err(|error| format!("cannot read {path}: {error}"))?;
        for (index, line) in text.lines().enumerate() {
            for target in targets(line).filter(|target| !leads_somewhere(root, &path, &text, target)) {
                findings.push(Finding::new(
                    format!("{path}:{}", index + 1),
                    format!("the link to `{target}` leads nowhere"),
                ));
            }
        }
    }
    Ok(findings)
}

/// What stands between `](` and `)`, outside of code.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let prose = line.split('`').step_by(2);
    prose.flat_map(|text| text.split("](").skip(1).filter_map(|rest| rest.split(')').next()))
}

fn leads_somewhere(root: &Path, page: &str, text: &str, target: &str) -> bool {
    if target.contains("://") || target.starts_with("mailto:") {
        return true;
    }
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let page = root.join(page);
    if file.is_empty() {
        return has_heading(text, heading);
    }
    let path = page.parent().unwrap_or(root).join(file);
    match fs::read_to_string(&path) {
        Ok(text) => heading.is_empty() || has_heading(&text, heading),
        Err(_) => path.exists(),
    }
}

/// Whether a page has the heading that a browser would go to.
fn has_heading(text: &str, anchor: &str) -> bool {
    let anchors = text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        title
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .collect::<String>()
            .replace(' ', "-")
    });
    anchors.into_iter().any(|of_heading| of_heading == anchor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_found_in_prose_and_headings_by_their_anchor() {
        let found: Vec<_> = targets("see [a](b.md#c) and `[not](this)` or ![d](e.png)").collect();
        assert_eq!(found, ["b.md#c", "e.png"]);
        assert!(has_heading("# One\n## The 2nd, with `code`\n", "the-2nd-with-code"));
    }
}
