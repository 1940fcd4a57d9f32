//! Small parts: one array parameter per column, unnested in the statement. Nothing is sent before the commit is.

use std::sync::Arc;

use arrow_array::ArrayRef;
use bytes::{BufMut, BytesMut};
use syncline_core::{ChangeBatch, Error, Result};

use super::super::encode::{self, Reader, oid};
use super::super::flight::Param;
use super::super::shape::Shape;
use super::changes::{Sorted, key_of};
use super::sql::{Masked, Sql};
use super::{Expects, PostgresLoad};

/// Columns unnested from parameters.
struct Unnested {
    types: Vec<String>,
    names: Vec<String>,
    params: Vec<Param>,
}

impl Unnested {
    fn new() -> Self {
        Self { types: Vec::new(), names: Vec::new(), params: Vec::new() }
    }

    fn push(
        &mut self,
        name: String,
        element: &(String, u32),
        values: &ArrayRef,
        rows: &[usize],
    ) -> Result<()> {
        let (sql_type, element_oid) = element;
        self.params.push(Param::binary(Some(encode::array(&Reader::new(values), rows, *element_oid)?)));
        self.types.push(format!("${}::{sql_type}[]", self.params.len()));
        self.names.push(name);
        Ok(())
    }

    fn push_masks(&mut self, batch: &ChangeBatch, rows: &[usize]) {
        let mut out = BytesMut::with_capacity(20 + rows.len() * 8);
        encode::array_header(&mut out, rows.len(), false, oid::INT4);
        for &row in rows {
            let mask = batch.masks.as_ref().map_or(0, |masks| masks.of_row[row]);
            out.put_i32(4);
            out.put_u32(mask);
        }
        self.params.push(Param::binary(Some(out.freeze())));
        self.types.push(format!("${}::int4[]", self.params.len()));
        self.names.push("mask".to_owned());
    }

    fn source(&self) -> String {
        format!("unnest({}) AS s({})", self.types.join(", "), self.names.join(", "))
    }

    fn numbered_source(&self) -> String {
        format!("unnest({}) WITH ORDINALITY AS s({}, n)", self.types.join(", "), self.names.join(", "))
    }
}

fn element(shape: &Shape, column: usize) -> Result<&(String, u32)> {
    let element = shape.columns[column].element.as_ref();
    element.ok_or_else(|| Error::bug("a column's values cannot be elements of an array"))
}

/// Columns of the rows themselves.
fn own(shape: &Shape, batch: &ChangeBatch, columns: &[usize], rows: &[usize]) -> Result<Unnested> {
    let mut unnested = Unnested::new();
    for &column in columns {
        let name = format!("c{column}");
        unnested.push(name, element(shape, column)?, batch.rows.column(column), rows)?;
    }
    Ok(unnested)
}

/// The old keys of moved rows.
fn old(shape: &Shape, batch: &ChangeBatch, rows: &[usize]) -> Result<Unnested> {
    let mut unnested = Unnested::new();
    let Some(old) = &batch.old else { return Ok(unnested) };
    let rows: Vec<usize> = rows.iter().filter_map(|&row| batch.old_row(row)).collect();
    for (place, &column) in batch.table.row_key.iter().enumerate() {
        unnested.push(format!("o{place}"), element(shape, column)?, old.keys.column(place), &rows)?;
    }
    Ok(unnested)
}

impl PostgresLoad {
    /// Lets the statements of a small part wait for the commit.
    pub(super) async fn write_arrays(
        &mut self,
        shape: &Arc<Shape>,
        batch: &ChangeBatch,
        sorted: &Sorted,
    ) -> Result<()> {
        let sql = Sql::new(shape);
        let key = &batch.table.row_key;
        if !sorted.masked.is_empty() {
            let keys = own(shape, batch, key, &sorted.masked)?;
            let missing = sorted.masked.iter().map(|&row| key_of(batch, row)).collect::<Result<_>>()?;
            let statement = sql.find_missing(&keys.numbered_source());
            self.wait(shape, &statement, keys.params, Expects::Missing(missing)).await?;
        }
        if !sorted.deletes.is_empty() {
            let keys = own(shape, batch, key, &sorted.deletes)?;
            let statement = sql.delete(&keys.source(), 'c', "");
            self.wait(shape, &statement, keys.params, Expects::Applied).await?;
        }
        if !sorted.moved.is_empty() {
            let keys = old(shape, batch, &sorted.moved)?;
            let statement = sql.delete(&keys.source(), 'o', "");
            self.wait(shape, &statement, keys.params, Expects::Nothing).await?;
        }
        if !shape.touchy.is_empty() && !sorted.writes.is_empty() {
            let mut columns: Vec<usize> = key.iter().chain(&shape.touchy).copied().collect();
            columns.sort_unstable();
            columns.dedup();
            let touched = own(shape, batch, &columns, &sorted.writes)?;
            let statement = sql.delete_touched(&touched.source(), "");
            self.wait(shape, &statement, touched.params, Expects::Nothing).await?;
        }
        self.write_merged(shape, batch, sorted).await
    }

    async fn write_merged(&mut self, shape: &Arc<Shape>, batch: &ChangeBatch, sorted: &Sorted) -> Result<()> {
        if sorted.writes.is_empty() {
            return Ok(());
        }
        let columns: Vec<usize> = (0..shape.columns.len()).collect();
        let mut rows = own(shape, batch, &columns, &sorted.writes)?;
        let none = Masked::none();
        let masks = if sorted.masked.is_empty() { &none } else { &sorted.masks };
        if !masks.is_none() {
            rows.push_masks(batch, &sorted.writes);
        }
        let statement = Sql::new(shape).merge(&rows.source(), masks);
        self.wait(shape, &statement, rows.params, Expects::Applied).await
    }
}
