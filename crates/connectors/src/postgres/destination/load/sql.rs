//! The statements that arrays and staging tables share. `t` is the destination's table, `s` the rows that come.
//!
//! In `s`, `c3` is the table's column 3, `o0` the first column of the old key, `mask` the number of the row's mask, `op`
//! what the change does ([`Op`]), `n` the number of the change in its part.

use std::collections::BTreeMap;

use syncline_core::Masks;

use super::super::shape::Shape;

/// What a staged change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Write = 0,
    Delete = 1,
}

/// Which masks leave each column out.
pub(super) struct Masked(BTreeMap<usize, Vec<usize>>);

impl Masked {
    pub(super) fn none() -> Self {
        Self(BTreeMap::new())
    }

    pub(super) fn of(masks: &Masks) -> Self {
        let mut left_out: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, mask) in masks.distinct.iter().enumerate() {
            for column in mask.iter() {
                left_out.entry(column).or_default().push(number);
            }
        }
        Self(left_out)
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The condition under which a row leaves a column out.
    fn condition(&self, column: usize) -> Option<String> {
        let numbers: Vec<_> = self.0.get(&column)?.iter().map(usize::to_string).collect();
        Some(format!("s.mask = ANY ('{{{}}}'::int4[])", numbers.join(",")))
    }
}

/// Writes the statements for one table.
pub(super) struct Sql<'a> {
    shape: &'a Shape,
    /// Whether `s` has the table's own types.
    exact: bool,
}

impl<'a> Sql<'a> {
    /// Statements over rows in the types they come in.
    pub(super) fn new(shape: &'a Shape) -> Self {
        Self { shape, exact: false }
    }

    /// Statements over rows in the table's own types.
    pub(super) fn exact(shape: &'a Shape) -> Self {
        Self { shape, exact: true }
    }

    fn target(&self) -> &str {
        &self.shape.target
    }

    fn name(&self, column: usize) -> &str {
        &self.shape.columns[column].name
    }

    fn all(&self) -> Vec<usize> {
        (0..self.shape.columns.len()).collect()
    }

    /// `s."prefix""number"` as the value of a column, in the column's type and collation.
    fn value(&self, prefix: char, number: usize, column: usize) -> String {
        let column = &self.shape.columns[column];
        let cast = if column.cast && !self.exact { format!("::{}", column.own_type) } else { String::new() };
        match &column.collation {
            Some(collation) => format!("(s.{prefix}{number}{cast} COLLATE {collation})"),
            None => format!("s.{prefix}{number}{cast}"),
        }
    }

    fn row(&self, column: usize) -> String {
        self.value('c', column, column)
    }

    /// The condition that `t` is the row of this key: `c` of the row's own, `o` of its old one.
    pub(super) fn same_key(&self, prefix: char) -> String {
        let operators = self.shape.key_operators.as_deref().unwrap_or_default();
        let key = self.shape.table.row_key.iter().zip(operators).enumerate();
        let columns = key.map(|(place, (&column, operator))| {
            let number = if prefix == 'o' { place } else { column };
            format!("t.{} {operator} {}", self.name(column), self.value(prefix, number, column))
        });
        columns.collect::<Vec<_>>().join(" AND ")
    }

    /// The condition that two rows are not bit for bit the same in these columns. `=` would call 1.0 and 1.00 the same.
    /// Columns that the row leaves out do not differ.
    fn differs(&self, columns: &[usize], masked: &Masked) -> String {
        let side = |value: &dyn Fn(usize) -> String| {
            let values = columns.iter().map(|&column| match masked.condition(column) {
                Some(left_out) => format!("CASE WHEN {left_out} THEN NULL ELSE {} END", value(column)),
                None => value(column),
            });
            format!("ROW({})::record", values.collect::<Vec<_>>().join(", "))
        };
        let there = side(&|column| format!("t.{}", self.name(column)));
        format!("{there} OPERATOR(pg_catalog.*<>) {}", side(&|column| self.row(column)))
    }

    fn names(&self) -> String {
        self.shape.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn values(&self) -> String {
        self.all().into_iter().map(|column| self.row(column)).collect::<Vec<_>>().join(", ")
    }

    fn overriding(&self) -> &'static str {
        if self.shape.overriding { "OVERRIDING SYSTEM VALUE " } else { "" }
    }

    /// The table with its columns, as COPY names it.
    pub(super) fn copy_target(&self) -> String {
        format!("{} ({})", self.target(), self.names())
    }

    /// Writes rows: those that are there and differ are updated, those that are not are inserted.
    pub(super) fn merge(&self, using: &str, masked: &Masked) -> String {
        let complete = if masked.is_none() { "" } else { " AND s.mask = 0" };
        format!(
            "MERGE INTO {} t USING {using} ON {} WHEN MATCHED AND {} THEN {} \
             WHEN NOT MATCHED{complete} THEN INSERT ({}) {}VALUES ({})",
            self.target(),
            self.same_key('c'),
            self.differs(&self.all(), masked),
            self.update(masked),
            self.names(),
            self.overriding(),
            self.values(),
        )
    }

    /// A column that is left out is set to what it was: the server sees that, and does not write a large value again.
    fn update(&self, masked: &Masked) -> String {
        let settable = self.all().into_iter().filter(|&column| !self.shape.columns[column].identity_always);
        let assignments = settable.map(|column| {
            let name = self.name(column);
            match masked.condition(column) {
                Some(left_out) => {
                    format!("{name} = CASE WHEN {left_out} THEN t.{name} ELSE {} END", self.row(column))
                }
                None => format!("{name} = {}", self.row(column)),
            }
        });
        let assignments = assignments.collect::<Vec<_>>().join(", ");
        if assignments.is_empty() { "DO NOTHING".to_owned() } else { format!("UPDATE SET {assignments}") }
    }

    /// Inserts every row.
    pub(super) fn insert_all(&self, from: &str) -> String {
        format!(
            "INSERT INTO {} ({}) {}SELECT {} FROM {from} s",
            self.target(),
            self.names(),
            self.overriding(),
            self.values()
        )
    }

    /// Deletes the rows of keys: `c` the rows' own, `o` the old ones.
    pub(super) fn delete(&self, using: &str, prefix: char, only: &str) -> String {
        format!("DELETE FROM {} t USING {using} WHERE {only}{}", self.target(), self.same_key(prefix))
    }

    /// Deletes rows that differ in a column by which rows exclude each other; they are written again afterwards.
    pub(super) fn delete_touched(&self, using: &str, only: &str) -> String {
        format!("{} AND {}", self.delete(using, 'c', only), self.differs(&self.shape.touchy, &Masked::none()))
    }

    /// Takes what staged rows leave out from the rows at their old keys.
    pub(super) fn fill_moved(&self, stage: &str, masked: &Masked) -> String {
        format!("{} AND s.o0 IS NOT NULL AND {}", self.fill(stage, masked), self.same_key('o'))
    }

    /// Takes what staged rows leave out from the rows they will replace, because those must leave first.
    pub(super) fn fill_touched(&self, stage: &str, masked: &Masked) -> String {
        format!(
            "{} AND s.o0 IS NULL AND {} AND {}",
            self.fill(stage, masked),
            self.same_key('c'),
            self.differs(&self.shape.touchy, masked)
        )
    }

    fn fill(&self, stage: &str, masked: &Masked) -> String {
        let assignments = masked.0.keys().filter_map(|&column| {
            let there = format!("t.{}::{}", self.name(column), self.shape.columns[column].stage_type);
            let left_out = masked.condition(column)?;
            Some(format!("c{column} = CASE WHEN {left_out} THEN {there} ELSE s.c{column} END"))
        });
        format!(
            "UPDATE {stage} s SET {}, mask = 0 FROM {} t WHERE s.mask <> 0",
            assignments.collect::<Vec<_>>().join(", "),
            self.target()
        )
    }

    /// Takes staged rows away whose absent columns have no row to come from, and tells their numbers.
    pub(super) fn take_missing(&self, stage: &str) -> String {
        format!(
            "DELETE FROM {stage} s WHERE s.mask <> 0 AND (s.o0 IS NOT NULL OR NOT EXISTS \
             (SELECT FROM {} t WHERE {})) RETURNING s.n",
            self.target(),
            self.same_key('c')
        )
    }

    /// Tells the numbers of keys that no row has.
    pub(super) fn find_missing(&self, using: &str) -> String {
        format!(
            "SELECT s.n FROM {using} WHERE NOT EXISTS (SELECT FROM {} t WHERE {})",
            self.target(),
            self.same_key('c')
        )
    }

    /// Inserts one row of parameters.
    pub(super) fn insert_one(&self) -> String {
        let values = self.all().into_iter().map(|column| self.parameter(column, column + 1));
        format!(
            "INSERT INTO {} ({}) {}VALUES ({})",
            self.target(),
            self.names(),
            self.overriding(),
            values.collect::<Vec<_>>().join(", ")
        )
    }

    /// Deletes one row that is bit for bit the parameters.
    pub(super) fn delete_one(&self) -> String {
        format!("DELETE FROM {} {}", self.target(), self.one_equal_row())
    }

    /// Updates one row that is bit for bit the first parameters to the second ones, in the columns of `set`.
    pub(super) fn update_one(&self, set: &[usize]) -> String {
        let first = self.shape.columns.len() + 1;
        let assignments = set.iter().enumerate().map(|(place, &column)| {
            format!("{} = {}", self.name(column), self.parameter(column, first + place))
        });
        let assignments = assignments.collect::<Vec<_>>().join(", ");
        format!("UPDATE {} SET {assignments} {}", self.target(), self.one_equal_row())
    }

    /// Partitions number their rows each for itself, so the partition is part of a row's place.
    fn one_equal_row(&self) -> String {
        let side = |value: &dyn Fn(usize) -> String| {
            let values: Vec<_> = self.all().into_iter().map(value).collect();
            format!("ROW({})::record", values.join(", "))
        };
        let there = side(&|column| format!("t.{}", self.name(column)));
        let here = side(&|column| self.parameter(column, column + 1));
        format!(
            "WHERE (tableoid, ctid) = (SELECT t.tableoid, t.ctid FROM {} t \
             WHERE {there} OPERATOR(pg_catalog.*=) {here} LIMIT 1)",
            self.target()
        )
    }

    fn parameter(&self, column: usize, number: usize) -> String {
        let column = &self.shape.columns[column];
        if column.cast {
            format!("${number}::{}::{}", column.stage_type, column.own_type)
        } else {
            format!("${number}::{}", column.own_type)
        }
    }
}
