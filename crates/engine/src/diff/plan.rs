//! What a repair would do, as a set: so that an approval names just that, and nothing that came later.
//!
//! An entry is the hash of (table, kind, key, old row, new row) under the comparison's key. The token is a hash of all of
//! them. When it is used the plan is computed anew: rows that became equal have dropped out, and one that is not in the
//! plan makes it another plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use syncline_core::{Error, Result, TableId};

use super::sketches::{Difference, DifferingRow, HashKey, KeyRef, RowHash};

/// First line of a stored plan.
const HEADER: &str = "syncline plan 1";

/// Secret bytes of a comparison's hash key.
pub type KeyBytes = [u8; 32];

/// A set of repairs.
#[derive(Clone, PartialEq, Eq)]
pub struct Plan {
    key: KeyBytes,
    /// Which source and destination.
    of: String,
    entries: BTreeMap<TableId, BTreeSet<u128>>,
}

impl Plan {
    /// A plan without a repair. `of` names the two sides.
    #[must_use]
    pub fn new(key: KeyBytes, of: impl Into<String>) -> Self {
        Self { key, of: of.into(), entries: BTreeMap::new() }
    }

    /// A plan of the same sides under the same key, without a repair.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self { entries: BTreeMap::new(), ..self.clone() }
    }

    /// The key under which the sides must be compared again.
    #[must_use]
    pub fn hash_key(&self) -> HashKey {
        HashKey::new(self.key)
    }

    /// Which source and destination it is of.
    #[must_use]
    pub fn of(&self) -> &str {
        &self.of
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether it repairs this table.
    #[must_use]
    pub fn has(&self, table: &TableId) -> bool {
        self.entries.contains_key(table)
    }

    /// Takes in what repairing a table would do.
    pub fn add(&mut self, table: &TableId, difference: &Difference) {
        let entries = entries(&self.hash_key(), table, difference).collect();
        self.entries.insert(table.clone(), entries);
    }

    /// Whether every repair of a table is in it.
    #[must_use]
    pub fn covers(&self, table: &TableId, difference: &Difference) -> bool {
        let Some(known) = self.entries.get(table) else { return false };
        entries(&self.hash_key(), table, difference).all(|entry| known.contains(&entry))
    }

    /// Its name: 24 hexadecimal digits. Nobody who does not have the plan can guess it.
    #[must_use]
    pub fn token(&self) -> String {
        let number = self.hash_key().row(self.body().as_bytes()).number();
        format!("{number:024x}")
    }

    /// The form in which it is kept: it holds the hash key, so it is for its owner's eyes only.
    #[must_use]
    pub fn to_text(&self) -> String {
        let key = self.key.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        format!("{HEADER}\nkey {key}\n{}", self.body())
    }

    fn body(&self) -> String {
        let mut body = format!("of {}\n", serde_json::json!(self.of));
        for (table, entries) in &self.entries {
            let name = serde_json::json!([table.schema, table.name]);
            // Writing into a String cannot fail.
            let _ = writeln!(body, "table {name}");
            entries.iter().for_each(|entry| {
                let _ = writeln!(body, "{entry:024x}");
            });
        }
        body
    }

    /// Reads [`Plan::to_text`].
    ///
    /// # Errors
    /// A conflict if it is not a whole plan.
    pub fn from_text(text: &str) -> Result<Self> {
        Self::parse(text).ok_or_else(|| {
            Error::conflict("the stored plan is damaged").with_remedy("compare again, which makes a new plan")
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != HEADER {
            return None;
        }
        let key = lines.next()?.strip_prefix("key ")?;
        let of: String = serde_json::from_str(lines.next()?.strip_prefix("of ")?).ok()?;
        let mut plan = Self::new(key_bytes(key)?, of);
        let mut table = None;
        for line in lines {
            if let Some(name) = line.strip_prefix("table ") {
                let (schema, name): (String, String) = serde_json::from_str(name).ok()?;
                let id = TableId::new(schema, name);
                plan.entries.insert(id.clone(), BTreeSet::new());
                table = Some(id);
            } else {
                let entry = u128::from_str_radix(line, 16).ok()?;
                plan.entries.get_mut(table.as_ref()?)?.insert(entry);
            }
        }
        Some(plan)
    }
}

fn key_bytes(text: &str) -> Option<KeyBytes> {
    let mut key = KeyBytes::default();
    if text.len() != 2 * key.len() || !text.is_ascii() {
        return None;
    }
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(key)
}

fn entries<'a>(
    hash_key: &'a HashKey,
    table: &TableId,
    difference: &'a Difference,
) -> impl Iterator<Item = u128> + 'a {
    let table = format!("{}\0{}\0", table.schema, table.name);
    let one = move |kind: u8, key: &KeyRef, left: Option<RowHash>, right: Option<RowHash>, copies: u32| {
        let mut bytes = table.clone().into_bytes();
        bytes.push(kind);
        let key = match key {
            KeyRef::Bytes(bytes) => hash_key.key(bytes).0,
            KeyRef::Hash(hash) => hash.0,
            // The row tells.
            KeyRef::Unknown => 0,
        };
        bytes.extend(key.to_le_bytes());
        for row in [left, right] {
            bytes.extend(row.map_or(u128::MAX, RowHash::number).to_le_bytes());
        }
        bytes.extend(copies.to_le_bytes());
        hash_key.row(&bytes).number()
    };
    let again = one.clone();
    let other = one.clone();
    let missing = difference.only_left.iter();
    let missing =
        missing.map(move |DifferingRow { key, row, copies }| one(0, key, Some(*row), None, *copies));
    let surplus = difference.only_right.iter();
    let surplus =
        surplus.map(move |DifferingRow { key, row, copies }| again(1, key, None, Some(*row), *copies));
    let changed = difference.changed.iter();
    let changed = changed.map(move |row| other(2, &row.key, Some(row.left), Some(row.right), 1));
    missing.chain(surplus).chain(changed)
}

#[cfg(test)]
mod tests {
    use super::super::sketches::ChangedRow;
    use super::*;

    fn row(hash_key: &HashKey, key: &[u8], row: &[u8]) -> DifferingRow {
        DifferingRow { key: KeyRef::Bytes(key.into()), row: hash_key.row(row), copies: 1 }
    }

    fn changed(hash_key: &HashKey, key: &[u8], left: &[u8], right: &[u8]) -> ChangedRow {
        ChangedRow { key: KeyRef::Bytes(key.into()), left: hash_key.row(left), right: hash_key.row(right) }
    }

    fn plan() -> (Plan, TableId, Difference) {
        let (mut plan, table) = (Plan::new([7; 32], "a → b"), TableId::new("s", "t"));
        let key = plan.hash_key();
        let difference = Difference {
            only_left: vec![row(&key, b"1", b"one"), row(&key, b"2", b"two")],
            only_right: vec![row(&key, b"3", b"three")],
            changed: vec![changed(&key, b"4", b"four", b"vier")],
            repeated: vec![],
        };
        plan.add(&table, &difference);
        (plan, table, difference)
    }

    #[test]
    fn a_plan_covers_what_is_left_of_it_and_nothing_else() {
        let (plan, table, whole) = plan();
        let key = plan.hash_key();
        assert!(plan.covers(&table, &whole));
        assert!(plan.covers(&table, &Difference { only_left: vec![], ..whole.clone() }));
        assert!(!plan.covers(&TableId::new("s", "other"), &whole));
        for other in [
            Difference { only_left: vec![row(&key, b"9", b"one")], ..whole.clone() },
            Difference { only_left: vec![row(&key, b"1", b"other")], ..whole.clone() },
            // The same row, another operation.
            Difference { only_left: whole.only_right.clone(), ..whole.clone() },
            Difference { changed: vec![changed(&key, b"4", b"fourth", b"vier")], ..whole.clone() },
            Difference { changed: vec![changed(&key, b"4", b"four", b"quatre")], ..whole.clone() },
        ] {
            assert!(!plan.covers(&table, &other), "{other:?}");
        }
    }

    #[test]
    fn a_stored_plan_comes_back_and_its_token_names_all_of_it() {
        let (plan, table, whole) = plan();
        let back = Plan::from_text(&plan.to_text()).unwrap();
        assert!(back == plan && back.token() == plan.token());
        let mut less = plan.clone();
        less.add(&table, &Difference { only_right: vec![], ..whole });
        assert_ne!(less.token(), plan.token());
        assert_ne!(Plan { of: "a → c".into(), ..plan.clone() }.token(), plan.token());
        for damaged in ["", "syncline plan 1", "syncline plan 1\nkey 00\nof \"x\"\n"] {
            assert!(Plan::from_text(damaged).is_err());
        }
        let text = plan.to_text();
        assert!(Plan::from_text(&text.replacen("table", "tabel", 1)).is_err());
    }
}
