//! From lines to the batch of a part: columns are gathered from the batches that were put in.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{Array, RecordBatch};
use arrow_select::interleave::interleave;
use syncline_core::{ChangeBatch, ColumnMask, Error, Masks, OldKeys, Operation, Result};

use super::{Collapse, Line, Lines, Place, What};

impl Collapse {
    pub(super) fn built(&self, lines: &[Line<'_>]) -> Result<Option<Lines>> {
        if lines.is_empty() {
            return Ok(None);
        }
        let letter = |line: &Line<'_>| match &line.what {
            What::Write(_, row) => row.letter,
            _ => None,
        };
        Ok(Some(Lines { batch: self.build(lines)?, letters: lines.iter().map(letter).collect() }))
    }

    fn build(&self, lines: &[Line<'_>]) -> Result<ChangeBatch> {
        let arrow = |error: arrow_schema::ArrowError| Error::bug("a part cannot be built").with_source(error);
        let old = self.build_old(lines).map_err(arrow)?;
        let rows = self.build_rows(lines).map_err(arrow)?;
        let operations = lines.iter().map(|line| self.operation(line)).collect();
        let mut masks = Masks::new();
        for line in lines {
            match &line.what {
                What::Write(_, row) => masks.push(&row.absent),
                What::AsItIs => masks.push(&self.absent(line.place)),
                _ => masks.push(&ColumnMask::none()),
            }
        }
        ChangeBatch {
            table: Arc::clone(&self.table),
            rows,
            operations,
            ordinals: lines
                .iter()
                .map(|line| self.batches[line.place.0].ordinals.get(line.place.1).copied().unwrap_or(0))
                .collect(),
            transactions: vec![0; lines.len()],
            masks: (!masks.is_trivial()).then_some(masks),
            old,
        }
        .check()
    }

    fn operation(&self, line: &Line<'_>) -> Operation {
        match line.what {
            What::Truncate => Operation::Truncate,
            What::Delete | What::DeleteOldImage => Operation::Delete,
            What::Write(operation, _) => operation,
            What::AsItIs => self.batches[line.place.0].operations[line.place.1],
        }
    }

    /// Columns by gathering: sources are the batches' columns, then (for keys known by their old image only) the old
    /// images' columns, then one null.
    fn build_rows(&self, lines: &[Line<'_>]) -> std::result::Result<RecordBatch, arrow_schema::ArrowError> {
        let earlier: HashMap<(usize, usize), Place> = lines
            .iter()
            .enumerate()
            .filter_map(|(at, line)| match &line.what {
                What::Write(_, row) => Some((at, row)),
                _ => None,
            })
            .flat_map(|(at, row)| row.earlier.iter().map(move |&(column, place)| ((at, column), place)))
            .collect();
        let schema = self.table.arrow();
        let mut columns = Vec::with_capacity(schema.fields().len());
        for (column, field) in schema.fields().iter().enumerate() {
            let null = arrow_array::new_null_array(field.data_type(), 1);
            let old_at = self.table.old_columns().iter().position(|&old| old == column);
            let mut sources: Vec<&dyn Array> =
                self.batches.iter().map(|b| b.rows.column(column).as_ref()).collect();
            let count = sources.len();
            sources.extend(self.batches.iter().map(|b| match (&b.old, old_at) {
                (Some(old), Some(at)) => old.keys.column(at).as_ref(),
                _ => null.as_ref(),
            }));
            sources.push(null.as_ref());
            let nothing = (sources.len() - 1, 0);
            let picks: Vec<Place> = lines
                .iter()
                .enumerate()
                .map(|(at, line)| match line.what {
                    What::DeleteOldImage if old_at.is_some() => (count + line.place.0, line.place.1),
                    What::DeleteOldImage | What::Truncate => nothing,
                    What::Delete if old_at.is_none() => nothing,
                    _ if earlier.is_empty() => line.place,
                    _ => earlier.get(&(at, column)).copied().unwrap_or(line.place),
                })
                .collect();
            columns.push(interleave(&sources, &picks)?);
        }
        RecordBatch::try_new(schema, columns)
    }

    fn build_old(
        &self,
        lines: &[Line<'_>],
    ) -> std::result::Result<Option<OldKeys>, arrow_schema::ArrowError> {
        let place_of = |line: &Line<'_>| match &line.what {
            What::Write(_, row) => row.origin.map(|(_, place)| place),
            What::AsItIs => self.batches[line.place.0].old_row(line.place.1).map(|old| (line.place.0, old)),
            _ => None,
        };
        let places: Vec<Option<Place>> = lines.iter().map(place_of).collect();
        let picks: Vec<Place> = places.iter().flatten().copied().collect();
        if picks.is_empty() {
            return Ok(None);
        }
        let schema = self.table.arrow_old();
        let mut columns = Vec::with_capacity(schema.fields().len());
        for (column, field) in schema.fields().iter().enumerate() {
            let null = arrow_array::new_null_array(field.data_type(), 1);
            let sources: Vec<&dyn Array> = self
                .batches
                .iter()
                .map(|b| b.old.as_ref().map_or(null.as_ref(), |old| old.keys.column(column).as_ref()))
                .collect();
            columns.push(interleave(&sources, &picks)?);
        }
        let mut next = 0;
        let row = places
            .iter()
            .map(|place| {
                place.map(|_| {
                    next += 1;
                    next - 1
                })
            })
            .collect();
        Ok(Some(OldKeys { row, keys: RecordBatch::try_new(schema, columns)? }))
    }
}
