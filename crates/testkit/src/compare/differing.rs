//! From two multisets of rows to the first few that differ.

use std::collections::BTreeMap;

/// How many differing rows a message shows.
const SHOWN_MAX: usize = 5;

/// Rows of both sides under their key, with `+1` for each at the source and `-1` for each at the destination.
#[derive(Default)]
pub(super) struct Differing {
    rows: BTreeMap<(String, String), i64>,
}

impl Differing {
    pub(super) fn at_source(&mut self, key: String, row: String) {
        self.count(key, row, 1);
    }

    pub(super) fn at_destination(&mut self, key: String, row: String) {
        self.count(key, row, -1);
    }

    /// Equal rows cancel at once, so that what is kept is what has no partner yet.
    fn count(&mut self, key: String, row: String, by: i64) {
        let entry = (key, row);
        let count = self.rows.get(&entry).copied().unwrap_or_default() + by;
        if count == 0 {
            self.rows.remove(&entry);
        } else {
            self.rows.insert(entry, count);
        }
    }

    /// `None` if all rows have a partner.
    pub(super) fn describe(&self, table: &str) -> Option<String> {
        if self.rows.is_empty() {
            return None;
        }
        let count = |positive: bool| -> u64 {
            let surplus = self.rows.values().filter(|count| (**count > 0) == positive);
            surplus.map(|count| count.unsigned_abs()).sum()
        };
        let mut text = format!(
            "{table}: {} rows only at the source, {} only at the destination",
            count(true),
            count(false)
        );
        for ((key, row), count) in self.rows.iter().take(SHOWN_MAX) {
            let side = if *count > 0 { "source     " } else { "destination" };
            text.push_str(&format!("\n  {side} {key} {row}"));
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_multisets_have_no_description_and_a_missing_duplicate_has_one() {
        let mut differing = Differing::default();
        for row in ["a", "a", "b"] {
            differing.at_source(String::new(), row.to_owned());
        }
        for row in ["b", "a"] {
            differing.at_destination(String::new(), row.to_owned());
        }
        let text = differing.describe("t").unwrap();
        assert!(text.starts_with("t: 1 rows only at the source, 0 only at the destination"), "{text}");
        differing.at_destination(String::new(), "a".to_owned());
        assert!(differing.describe("t").is_none());
    }
}
