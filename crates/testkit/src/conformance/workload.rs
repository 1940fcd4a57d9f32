//! Writes of an application, from a seed: always valid, often nasty.

use crate::memory::Random;

use super::tables::{Cell, Row, Standard, Tables, Write};

/// Rows live in this many ids, so that keys are reused.
const IDS: u64 = 400;

/// A writer that knows what is there.
#[derive(Debug)]
pub struct Workload {
    random: Random,
    tables: Vec<Standard>,
    now: Tables,
    serial: u64,
    /// Digests of what was there after each transaction, if they are kept.
    states: Option<Vec<u64>>,
}

impl Workload {
    /// A writer over these tables, all empty.
    #[must_use]
    pub fn new(seed: u64, tables: &[Standard]) -> Self {
        let now = Tables::default();
        Self { random: Random::new(seed), tables: tables.to_vec(), now, serial: 0, states: None }
    }

    /// With the state after each transaction kept, from here on.
    #[must_use]
    pub fn keeping_states(mut self) -> Self {
        self.states = Some(vec![self.now.digest()]);
        self
    }

    fn keep(&mut self) {
        if let Some(states) = &mut self.states {
            states.push(self.now.digest());
        }
    }

    /// What is there now.
    #[must_use]
    pub fn now(&self) -> &Tables {
        &self.now
    }

    /// The [`Tables::digest`] after each transaction since they are kept, that of the beginning first.
    #[must_use]
    pub fn states(&self) -> &[u64] {
        self.states.as_deref().unwrap_or_default()
    }

    /// Takes writes of the case itself into account.
    pub fn add(&mut self, writes: &[Write]) {
        for write in writes {
            self.now.write(write);
        }
        self.keep();
    }

    /// Inserts of `count` rows into a table, with ascending keys from 0.
    pub fn fill(&mut self, table: Standard, count: u64) -> Vec<Write> {
        let writes: Vec<Write> = (0..count).map(|id| Write::Insert(table, self.row(table, id))).collect();
        self.add(&writes);
        writes
    }

    /// The next transaction: up to six writes.
    pub fn transaction(&mut self) -> Vec<Write> {
        let count = 1 + self.random.below(6);
        let writes: Vec<Write> = (0..count).flat_map(|_| self.step()).collect();
        self.keep();
        writes
    }

    fn step(&mut self) -> Vec<Write> {
        let table = *self.random.pick(&self.tables.clone());
        let identities = self.now.identities(table);
        let writes = match self.random.below(10) {
            0..=3 => self.insert(table),
            _ if identities.is_empty() => self.insert(table),
            4..=6 => {
                let key = self.random.pick(&identities).clone();
                let column = self.column(table);
                let value = self.value(table, column);
                vec![Write::Update(table, key, vec![(column, value)])]
            }
            7 => vec![Write::Delete(table, self.random.pick(&identities).clone())],
            8 => self.moved(table, &identities),
            _ => self.exchanged(table, &identities),
        };
        for write in &writes {
            self.now.write(write);
        }
        writes
    }

    fn insert(&mut self, table: Standard) -> Vec<Write> {
        let id = self.random.below(IDS);
        let row = self.row(table, id);
        let free = table.key_columns() == 0 || self.now.get(table, &table.identity(&row)).is_none();
        if free { vec![Write::Insert(table, row)] } else { Vec::new() }
    }

    /// A row gets another key and keeps all else.
    fn moved(&mut self, table: Standard, identities: &[Row]) -> Vec<Write> {
        let key = self.random.pick(identities).clone();
        let id = self.random.below(IDS).to_string();
        let mut target = key.clone();
        target[0] = Some(id.clone());
        let free = table.key_columns() > 0 && self.now.get(table, &target).is_none();
        if free { vec![Write::Update(table, key, vec![(0, Some(id))])] } else { Vec::new() }
    }

    /// Two rows exchange their keys, by way of a third one.
    fn exchanged(&mut self, table: Standard, identities: &[Row]) -> Vec<Write> {
        let (one, other) = (self.random.pick(identities).clone(), self.random.pick(identities).clone());
        if table.key_columns() != 1 || one == other {
            return Vec::new();
        }
        let aside = vec![Some("-1".to_owned())];
        let to = |key: &Row| vec![(0, key[0].clone())];
        vec![
            Write::Update(table, one.clone(), to(&aside)),
            Write::Update(table, other.clone(), to(&one)),
            Write::Update(table, aside, to(&other)),
        ]
    }

    /// A column that is not of the key.
    fn column(&mut self, table: Standard) -> usize {
        let first = table.key_columns();
        let others = (table.columns().len() - first) as u64;
        first + usize::try_from(self.random.below(others)).unwrap_or_default()
    }

    fn row(&mut self, table: Standard, id: u64) -> Row {
        let mut row: Row = (0..table.columns().len()).map(|column| self.value(table, column)).collect();
        match table {
            Standard::Items | Standard::Codes => row[0] = Some(id.to_string()),
            Standard::Pairs => {
                row[0] = Some((id / 4).to_string());
                row[1] = Some(format!("b{}", id % 4));
            }
            Standard::Log => {}
        }
        row
    }

    fn value(&mut self, table: Standard, column: usize) -> Cell {
        self.serial += 1;
        let serial = self.serial;
        Some(match (table, column) {
            (Standard::Items, 1) => format!("näme '{serial}'"),
            (Standard::Items, 2) if self.random.chance(200) => return None,
            (Standard::Items, 3) => return self.big(),
            (Standard::Codes, 1) => format!("code-{serial}"),
            // Few different rows, so that there are equal ones.
            (Standard::Log, 0) => format!("line {}", serial % 5),
            (Standard::Log, _) => (serial % 2).to_string(),
            _ => serial.to_string(),
        })
    }

    /// Text that does not compress, now and then long enough to be stored apart from its row.
    fn big(&mut self) -> Cell {
        let words = match self.random.below(10) {
            0 => return None,
            1 => return Some(String::new()),
            2..=5 => 2,
            _ => 400,
        };
        Some((0..words).map(|_| format!("{:016x}", self.random.bits())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_workload_and_it_is_valid() {
        let run = |seed| {
            let mut workload = Workload::new(seed, &Standard::ALL);
            workload.fill(Standard::Items, 50);
            (0..300).map(|_| workload.transaction()).collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
