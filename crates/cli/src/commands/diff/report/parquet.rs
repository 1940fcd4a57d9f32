//! A report as one Parquet file.
//!
//! | column | type |
//! |---|---|
//! | `table`, `kind` | text |
//! | `key` | map of text: names and values of the key |
//! | `source`, `destination` | map of text: the columns that differ, as that side has them; null where the row is not there |
//!
//! A Parquet file without its end cannot be read, so it takes its name when it has one: a report that broke off leaves none.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{MapBuilder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use syncline_engine::diff::Kind;
use tempfile::NamedTempFile;

use super::Row;

/// Rows that are gathered before they are encoded.
const BATCH_ROWS: usize = 1024;
/// Bytes of values that are gathered before they are encoded.
const BATCH_BYTES: usize = 4 << 20;
/// Encoded bytes that make a row group; they are held until it is written.
const GROUP_BYTES: usize = 16 << 20;

/// A file that is being written.
pub(super) struct Writer {
    file: ArrowWriter<NamedTempFile>,
    rows: Rows,
}

/// Rows that wait to be encoded.
struct Rows {
    table: StringBuilder,
    kind: StringBuilder,
    key: Texts,
    source: Texts,
    destination: Texts,
    count: usize,
    bytes: usize,
}

type Texts = MapBuilder<StringBuilder, StringBuilder>;

impl Writer {
    /// Begins a file beside the one that it becomes.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        // As any file that a command writes for its user; what the user's mask takes is taken.
        let permissions = std::fs::Permissions::from_mode(0o666);
        let mut file = tempfile::Builder::new();
        let file = file.permissions(permissions).tempfile_in(folder.unwrap_or(Path::new(".")))?;
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let mut rows = Rows::new();
        let file = ArrowWriter::try_new(file, rows.take()?.schema(), Some(properties))?;
        Ok(Self { file, rows })
    }

    /// Adds a row.
    pub(super) fn row(&mut self, row: &Row<'_>) -> io::Result<()> {
        self.rows.add(row)?;
        if self.rows.count < BATCH_ROWS && self.rows.bytes < BATCH_BYTES {
            return Ok(());
        }
        self.file.write(&self.rows.take()?)?;
        if self.file.in_progress_size() >= GROUP_BYTES {
            self.file.flush()?;
        }
        Ok(())
    }

    /// Ends the file and gives it its name.
    pub(super) fn end(mut self, path: &Path) -> io::Result<()> {
        self.file.write(&self.rows.take()?)?;
        let file = self.file.into_inner()?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }
}

impl Rows {
    fn new() -> Self {
        let texts = || Texts::new(None, StringBuilder::new(), StringBuilder::new());
        Self {
            table: StringBuilder::new(),
            kind: StringBuilder::new(),
            key: texts(),
            source: texts(),
            destination: texts(),
            count: 0,
            bytes: 0,
        }
    }

    fn add(&mut self, row: &Row<'_>) -> io::Result<()> {
        self.table.append_value(&row.table);
        self.kind.append_value(match row.kind {
            Kind::Missing => "missing",
            Kind::Surplus => "surplus",
            Kind::Changed => "changed",
            Kind::Repeated => "repeated",
        });
        let mut bytes = row.table.len();
        bytes += append(&mut self.key, true, row.key.iter().copied())?;
        let source = row.columns.iter().map(|column| (column.name.as_str(), column.source.as_deref()));
        bytes += append(&mut self.source, row.kind != Kind::Surplus, source)?;
        let there = row.columns.iter().map(|column| (column.name.as_str(), column.destination.as_deref()));
        bytes += append(&mut self.destination, row.kind != Kind::Missing, there)?;
        self.count += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// What was added, as a batch; nothing is left.
    fn take(&mut self) -> io::Result<RecordBatch> {
        (self.count, self.bytes) = (0, 0);
        let columns: [(&str, ArrayRef, bool); 5] = [
            ("table", Arc::new(self.table.finish()), false),
            ("kind", Arc::new(self.kind.finish()), false),
            ("key", Arc::new(self.key.finish()), false),
            ("source", Arc::new(self.source.finish()), true),
            ("destination", Arc::new(self.destination.finish()), true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).map_err(io::Error::other)
    }
}

/// Adds a map, or null where the row is not there. Gives the bytes of its values.
fn append<'a>(
    to: &mut Texts,
    is_there: bool,
    values: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> io::Result<usize> {
    let mut bytes = 0;
    for (name, value) in values.filter(|_| is_there) {
        bytes += name.len() + value.map_or(0, str::len);
        to.keys().append_value(name);
        to.values().append_option(value);
    }
    to.append(is_there).map_err(io::Error::other)?;
    Ok(bytes)
}
