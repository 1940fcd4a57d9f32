//! A batch of rows as bytes: one Arrow IPC stream, with its schema.

use std::io::Cursor;

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::ArrowError;

/// The bytes of a batch.
///
/// # Errors
/// As Arrow's writer.
pub(crate) fn to_bytes(rows: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), rows.schema_ref())?;
    writer.write(rows)?;
    writer.into_inner()
}

/// Reads [`to_bytes`]; `None` if there is no batch in it.
///
/// # Errors
/// As Arrow's reader.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Option<RecordBatch>, ArrowError> {
    StreamReader::try_new(Cursor::new(bytes), None)?.next().transpose()
}
