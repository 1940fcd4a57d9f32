//! Every differing row, as a file: which table, what kind, its key, its values on both sides.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use syncline_core::{Error, Result};
use syncline_engine::diff::{RowDifference, TableDiff};

/// A report that is being written.
pub(super) struct Report {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Report {
    /// Begins a file; one that is there is written over.
    ///
    /// # Errors
    /// As creating a file; configuration if it is to have a form that is not written.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path)
            .map_err(|error| Error::io(format!("cannot write the report {}", path.display()), error))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file) })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// As writing a file.
    pub(super) fn row(&mut self, diff: &TableDiff, row: &RowDifference) -> Result<()> {
        let names: Vec<&String> = if diff.key.is_empty() {
            diff.columns.iter().map(|column| &column.name).collect()
        } else {
            diff.key.iter().collect()
        };
        let key: Map<String, Value> =
            names.into_iter().zip(&row.key).map(|(name, value)| (name.clone(), json!(value))).collect();
        let columns: Map<String, Value> = row
            .columns
            .iter()
            .map(|column| {
                let values = json!({ "source": column.source, "destination": column.destination });
                (column.name.clone(), values)
            })
            .collect();
        let line = json!({
            "table": diff.table.to_string(), "kind": row.kind, "key": key, "columns": columns,
        });
        writeln!(self.file, "{line}").map_err(|error| self.failed(error))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// As writing a file.
    pub(super) fn end(mut self) -> Result<()> {
        self.file.flush().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io(format!("cannot write the report {}", self.path.display()), error)
    }
}
