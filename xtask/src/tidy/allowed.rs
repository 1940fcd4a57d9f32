//! The list of functions and files that may be longer than the limit: `xtask/long.txt`.

use std::fs;
use std::path::Path;

use super::Finding;
use crate::Outcome;

const LIST: &str = "xtask/long.txt";

/// One line of the list: `path[::function] lines reason…`.
struct Entry {
    number: usize,
    item: String,
    lines: usize,
    use_seen: Option<usize>,
}

/// The list, and what of it was needed.
pub(super) struct Allowed {
    entries: Vec<Entry>,
}

impl Allowed {
    /// Reads the list.
    pub(super) fn read(root: &Path) -> Outcome<Self> {
        let text =
            fs::read_to_string(root.join(LIST)).map_err(|error| format!("cannot read {LIST}: {error}"))?;
        let mut entries = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.splitn(3, ' ');
            let (item, lines, reason) = (words.next(), words.next().map(str::parse), words.next());
            let (Some(item), Some(Ok(lines)), Some(_)) = (item, lines, reason) else {
                return Err(format!("{LIST}:{}: write `path[::function] lines reason`", index + 1));
            };
            entries.push(Entry { number: index + 1, item: item.to_owned(), lines, use_seen: None });
        }
        Ok(Self { entries })
    }

    /// Whether the list lets this item have so many lines.
    pub(super) fn covers(&mut self, item: &str, lines: usize) -> bool {
        let entry = self.entries.iter_mut().find(|entry| entry.item == item);
        entry.is_some_and(|entry| {
            entry.use_seen = Some(lines);
            lines <= entry.lines
        })
    }

    /// Entries that are no longer needed, or could be lower: the ratchet.
    pub(super) fn unused(&self) -> Vec<Finding> {
        let place = |entry: &Entry| format!("{LIST}:{}", entry.number);
        let finding = |entry: &Entry| match entry.use_seen {
            None => Some(Finding::new(
                place(entry),
                format!("{} is within the limit or gone; remove the line", entry.item),
            )),
            Some(lines) if lines < entry.lines => {
                Some(Finding::new(place(entry), format!("{} has {lines} lines now; write that", entry.item)))
            }
            Some(_) => None,
        };
        self.entries.iter().filter_map(finding).collect()
    }
}
