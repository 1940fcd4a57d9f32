//! `docs/cli.md` is what the binary says of itself. `SYNCLINE_BLESS=1` writes it anew.

use std::path::PathBuf;

use crate::process::{EndsWith, Room};

const INTRODUCTION: &str = "\
# The command line

Written by `SYNCLINE_BLESS=1 cargo test -p syncline-cli help`; a test compares it with what the binary says.

Data goes to stdout, everything else to stderr. `--output json` turns stdout into JSON, one object per line.
";

/// In the order of the page.
const COMMANDS: &str = "demo, sync, check, diff, agent, verify, discover, dead-letters, dead-letters list, dead-letters show, \
    dead-letters retry, dead-letters discard, status, runs, runs list, runs show, drop";

#[test]
fn no_command_is_left_out() {
    let help = Room::new().run(&["--help"]).ends_with(0).stdout;
    let listed = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    for command in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        assert!(COMMANDS.split(", ").any(|known| known == command), "{command} is not in docs/cli.md");
    }
}

#[test]
fn the_documented_help_is_what_the_binary_says() {
    let room = Room::new();
    let mut page = INTRODUCTION.to_owned();
    let commands = COMMANDS.split(", ");
    for command in std::iter::once("").chain(commands) {
        let mut args: Vec<_> = command.split_whitespace().collect();
        args.push("--help");
        let help = room.run(&args).ends_with(0);
        assert!(help.stderr.is_empty(), "help goes to stdout");
        let title = format!("syncline {command}");
        page.push_str(&format!("\n## {}\n\n```text\n{}\n```\n", title.trim(), trimmed(&help.stdout)));
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    if std::env::var_os("SYNCLINE_BLESS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let documented = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        documented == page,
        "docs/cli.md is not what the binary says; write it anew with SYNCLINE_BLESS=1"
    );
}

fn trimmed(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

#[test]
fn the_exit_codes_are_the_same_everywhere() {
    let room = Room::new();
    let help = room.run(&["--help"]).ends_with(0).stdout;
    let readme = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    for (code, meaning) in [
        (0, "done"),
        (1, "failed"),
        (2, "wrong usage or configuration"),
        (3, "differences found"),
        (4, "stopped by a guard"),
        (5, "stopped by dead letters beyond the budget"),
    ] {
        assert!(help.contains(&format!("  {code}  {meaning}")), "{code} in the help");
        assert!(readme.contains(&format!("| {code} | {meaning}")), "{code} in the README");
    }
}
