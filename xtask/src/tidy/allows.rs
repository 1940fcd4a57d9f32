//! A lint that is set aside says why: by `reason = "…"`, or by a comment on its line.

use super::Finding;
use super::source::SourceFile;

/// Checks all files.
pub(super) fn check(files: &[SourceFile]) -> Vec<Finding> {
    files.iter().flat_map(|file| unreasoned(&file.lines).map(|number| finding(file, number))).collect()
}

fn finding(file: &SourceFile, number: usize) -> Finding {
    Finding::new(format!("{}:{number}", file.path), "say why the lint is set aside: `reason = \"…\"`")
}

/// The numbers of lines that begin an attribute without a reason.
fn unreasoned(lines: &[String]) -> impl Iterator<Item = usize> {
    let begins = |line: &str| {
        ["#[allow(", "#![allow(", "#[expect(", "#![expect("].iter().any(|begin| line.starts_with(begin))
    };
    lines.iter().enumerate().filter(move |(_, line)| begins(line.trim_start())).filter_map(|(index, line)| {
        let end = lines[index..].iter().position(|line| line.contains(")]"))?;
        let attribute = &lines[index..=index + end];
        let reasoned = line.contains("//") || attribute.iter().any(|line| line.contains("reason"));
        (!reasoned).then_some(index + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_may_stand_on_a_later_line_or_in_a_comment() {
        let text = "#[allow(a)]\nx\n#[expect(\n    a,\n    reason = \"b\"\n)]\nx\n    #[allow(a)] // because\n    #[expect(a)]\n";
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        assert_eq!(unreasoned(&lines).collect::<Vec<_>>(), [1, 9]);
    }
}
