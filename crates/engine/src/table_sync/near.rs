//! The near side of a table: rows and keys by version, each key in the encoding that both sides share.

use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use syncline_core::{
    Bound, Column, Error, Manifest, ManifestBounds, ManifestKey, ManifestPlace, Result, RowKey, Source,
    TableSchema, Version, VersionPage, VersionPlace, VersionRange, VersionRows, VersionState, Versions,
};

use crate::diff::{ComparedColumn, Encoder, keys};
use crate::restoring;

/// Rows with what identifies them.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The rows.
    pub rows: RecordBatch,
    /// Their keys and versions.
    pub keys: Vec<(ManifestKey, Version)>,
    /// The place of the last one, if they came in the order of versions.
    pub last: Option<VersionPlace>,
    /// Whether the range ends with them.
    pub is_end: bool,
}

/// The near side of a table. Rules as of [`Versions`].
#[async_trait]
pub trait Near: Send + Sync {
    /// As [`Versions::bound`].
    ///
    /// # Errors
    /// As any read.
    async fn bound(&self) -> Result<Bound>;

    /// As [`Versions::state`].
    ///
    /// # Errors
    /// As any read.
    async fn state(&self, range: &VersionRange) -> Result<VersionState>;

    /// As [`Versions::nth_last`].
    ///
    /// # Errors
    /// As any read.
    async fn nth_last(&self, range: &VersionRange, rows: u64) -> Result<Option<Version>>;

    /// As [`Versions::page`].
    ///
    /// # Errors
    /// As any read.
    async fn page(&self, page: &VersionPage<'_>) -> Result<Batch>;

    /// Keys and versions of a range, as [`syncline_core::Replica::manifest`].
    ///
    /// # Errors
    /// As any read.
    async fn manifest(
        &self,
        range: &VersionRange,
        after: Option<&ManifestPlace>,
        bounds: ManifestBounds,
    ) -> Result<Manifest>;

    /// Rows of these keys as they are now, whatever their version; keys without a row are left out.
    ///
    /// # Errors
    /// As any read.
    async fn rows(&self, keys: &[ManifestKey]) -> Result<Batch>;
}

/// One side of a pair of tables, read by version.
pub(crate) struct VersionSide {
    source: Arc<dyn Source>,
    table: Arc<TableSchema>,
    column: usize,
    columns: Vec<ComparedColumn>,
    key_columns: usize,
    /// The table cut to its key and its version, and where the version stands in it.
    narrow: Arc<TableSchema>,
    narrow_column: usize,
}

impl VersionSide {
    /// The left or the right side of a pair: its table, cut to what is compared, the key first. `column`: place of the
    /// version in it.
    pub(crate) fn new(
        source: Arc<dyn Source>,
        table: Arc<TableSchema>,
        columns: Vec<ComparedColumn>,
        key_columns: usize,
        column: usize,
    ) -> Self {
        let mut narrow =
            TableSchema { columns: table.columns[..key_columns].to_vec(), ..table.as_ref().clone() };
        let narrow_column = if column < key_columns {
            column
        } else {
            narrow.columns.push(table.columns[column].clone());
            key_columns
        };
        Self { source, table, column, columns, key_columns, narrow: Arc::new(narrow), narrow_column }
    }

    pub(super) fn columns(&self) -> &[Column] {
        &self.table.columns
    }

    pub(super) fn key_columns(&self) -> &[Column] {
        &self.table.columns[..self.key_columns]
    }

    fn versions(&self) -> Result<&dyn Versions> {
        self.source.versions().ok_or_else(|| cannot(self.source.as_ref()))
    }

    fn keys(
        &self,
        table: &TableSchema,
        column: usize,
        rows: &RecordBatch,
    ) -> Result<Vec<(ManifestKey, Version)>> {
        let versions = self.versions()?;
        let key: Vec<usize> = (0..self.key_columns).collect();
        let key =
            rows.project(&key).map_err(|error| Error::bug("rows without their key").with_source(error))?;
        let mut keys = Vec::with_capacity(rows.num_rows());
        Encoder::new(&self.columns[..self.key_columns]).rows(&key, &mut |encoded| {
            let version = versions.version(&table.columns[column], rows.column(column), keys.len())?;
            keys.push((encoded.into(), version));
            Ok(())
        })?;
        Ok(keys)
    }

    fn last(&self, rows: &RecordBatch, keys: &[(ManifestKey, Version)]) -> Result<Option<VersionPlace>> {
        let Some((_, version)) = keys.last() else { return Ok(None) };
        let key = RowKey::of(&rows.columns()[..self.key_columns], rows.num_rows() - 1)?;
        Ok(Some(VersionPlace { version: *version, key }))
    }

    /// Encoded keys as this side's own.
    pub(super) fn decoded(&self, encoded: &[ManifestKey]) -> Result<RecordBatch> {
        keys::batch(encoded, &self.columns[..self.key_columns], &self.table)
    }
}

/// A source that offers nothing of what a table sync needs.
pub(super) fn cannot(source: &dyn Source) -> Error {
    Error::configuration(format!("{} cannot be read by version", source.address()))
}

#[async_trait]
impl Near for VersionSide {
    async fn bound(&self) -> Result<Bound> {
        self.versions()?.bound(&self.table, self.column).await
    }

    async fn state(&self, range: &VersionRange) -> Result<VersionState> {
        self.versions()?.state(&self.table, self.column, range).await
    }

    async fn nth_last(&self, range: &VersionRange, rows: u64) -> Result<Option<Version>> {
        self.versions()?.nth_last(&self.table, self.column, range, rows).await
    }

    async fn page(&self, page: &VersionPage<'_>) -> Result<Batch> {
        let VersionRows { rows, is_end } = self.versions()?.page(&self.table, self.column, page).await?;
        let keys = self.keys(&self.table, self.column, &rows)?;
        Ok(Batch { last: self.last(&rows, &keys)?, keys, rows, is_end })
    }

    async fn manifest(
        &self,
        range: &VersionRange,
        after: Option<&ManifestPlace>,
        bounds: ManifestBounds,
    ) -> Result<Manifest> {
        let after = after.map(place_of).transpose()?;
        let ManifestBounds { rows_max, bytes_max } = bounds;
        let page = VersionPage { range: *range, after: after.as_ref(), rows_max, bytes_max };
        let VersionRows { rows, is_end } =
            self.versions()?.page(&self.narrow, self.narrow_column, &page).await?;
        let keys = self.keys(&self.narrow, self.narrow_column, &rows)?;
        let next = if is_end { None } else { self.last(&rows, &keys)?.as_ref().map(manifest_place) };
        Ok(Manifest { rows: keys, next })
    }

    async fn rows(&self, keys: &[ManifestKey]) -> Result<Batch> {
        let wanted = self.decoded(keys)?;
        let snapshots = self.source.snapshots().ok_or_else(|| cannot(self.source.as_ref()))?;
        let (rows, _) = snapshots.read_keys(&self.table, &wanted).await?;
        let keys = self.keys(&self.table, self.column, &rows)?;
        Ok(Batch { rows, keys, last: None, is_end: true })
    }
}

/// The version, little-endian, and the row key.
fn manifest_place(place: &VersionPlace) -> ManifestPlace {
    ManifestPlace([&place.version.0.to_le_bytes()[..], &place.key.0].concat().into())
}

fn place_of(place: &ManifestPlace) -> Result<VersionPlace> {
    let (version, key) =
        place.0.split_first_chunk().ok_or_else(|| Error::conflict("a manifest's place is cut off"))?;
    Ok(VersionPlace { version: Version(i64::from_le_bytes(*version)), key: RowKey(key.into()) })
}

/// Rows that replace and keys that go, as changes for a destination.
pub(super) fn changes(
    table: &Arc<TableSchema>,
    rows: Option<&RecordBatch>,
    gone: Option<&RecordBatch>,
) -> Result<syncline_core::ChangeBatch> {
    let none = RecordBatch::new_empty(table.arrow());
    let nothing = RecordBatch::new_empty(table.arrow_old());
    restoring::changes(table, rows.unwrap_or(&none), gone.unwrap_or(&nothing))
}
