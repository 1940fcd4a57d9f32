//! Both ends of the pair read by a version column: a text that is a whole number.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use async_trait::async_trait;
use syncline_core::{
    Bound, Column, Error, ErrorKind, Result, RowKey, TableSchema, Version, VersionPage, VersionRange,
    VersionRows, VersionState, Versions,
};

use super::readback::MemoryReader;
use super::rows::{Row, keys_of, to_batch};
use super::source::MemorySource;

fn version(value: Option<&[u8]>) -> Result<Version> {
    let Some(bytes) = value else { return Ok(Version::NONE) };
    let number = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
    let odd = || Error::new(ErrorKind::Data, "a value that is no version");
    number.map(Version).ok_or_else(odd)
}

/// The versions of a range, with the rows that have none.
fn versions(rows: &[Row], column: usize, range: &VersionRange) -> Result<Vec<Version>> {
    let all = rows.iter().map(|row| version(row[column].as_deref())).collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().filter(|version| range.contains(*version)).collect())
}

fn state(rows: &[Row], column: usize, range: &VersionRange) -> Result<VersionState> {
    let mut found = VersionState::default();
    for version in versions(rows, column, range)? {
        if version == Version::NONE {
            found.unversioned += 1;
        } else {
            found.state.add(version);
        }
    }
    Ok(found)
}

fn nth_last(rows: &[Row], column: usize, range: &VersionRange, n: u64) -> Result<Option<Version>> {
    let mut all = versions(rows, column, range)?;
    all.retain(|version| *version != Version::NONE);
    all.sort_unstable();
    Ok(all.iter().rev().nth(usize::try_from(n).unwrap_or(usize::MAX)).copied())
}

fn page(table: &TableSchema, rows: Vec<Row>, column: usize, page: &VersionPage<'_>) -> Result<VersionRows> {
    let keys = keys_of(table, &to_batch(table, &rows)?)?;
    let placed = |(row, key): (Row, RowKey)| Ok(((version(row[column].as_deref())?, key), row));
    let mut all = rows.into_iter().zip(keys).map(placed).collect::<Result<Vec<_>>>()?;
    let after = page.after.map(|place| (place.version, place.key.clone()));
    all.retain(|(place, _)| page.range.contains(place.0) && after.as_ref().is_none_or(|after| place > after));
    all.sort();
    let (count, mut taken, mut bytes) = (all.len(), Vec::new(), 0);
    for (_, row) in all {
        bytes += row.iter().flatten().map(Vec::len).sum::<usize>() + 4;
        taken.push(row);
        if taken.len() >= page.rows_max || bytes >= page.bytes_max {
            break;
        }
    }
    Ok(VersionRows { is_end: taken.len() == count, rows: to_batch(table, &taken)? })
}

macro_rules! by_version {
    ($side:ty, $rows:path) => {
        #[async_trait]
        impl Versions for $side {
            async fn bound(&self, _table: &Arc<TableSchema>, _column: usize) -> Result<Bound> {
                Ok(Bound::None("in memory".to_owned()))
            }

            async fn state(
                &self,
                table: &Arc<TableSchema>,
                column: usize,
                range: &VersionRange,
            ) -> Result<VersionState> {
                state(&$rows(self, table)?, column, range)
            }

            async fn nth_last(
                &self,
                table: &Arc<TableSchema>,
                column: usize,
                range: &VersionRange,
                rows: u64,
            ) -> Result<Option<Version>> {
                nth_last(&$rows(self, table)?, column, range, rows)
            }

            async fn page(
                &self,
                table: &Arc<TableSchema>,
                column: usize,
                wanted: &VersionPage<'_>,
            ) -> Result<VersionRows> {
                page(table, $rows(self, table)?, column, wanted)
            }

            fn version(&self, _column: &Column, values: &ArrayRef, row: usize) -> Result<Version> {
                let values = values.as_binary::<i32>();
                version(values.is_valid(row).then(|| values.value(row)))
            }
        }
    };
}

fn rows_of_source(side: &MemorySource, table: &TableSchema) -> Result<Vec<Row>> {
    side.rows(table, &side.database.snapshot())
}

by_version!(MemorySource, rows_of_source);
by_version!(MemoryReader, MemoryReader::rows);
