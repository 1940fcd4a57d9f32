//! Every differing row, as a file: which table, what kind, its key, its values on both sides. Lines of JSON, or Parquet where the
//! name ends so.

#[cfg(feature = "parquet")]
mod parquet;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use syncline_core::{Error, Result};
use syncline_engine::diff::{ColumnDifference, Kind, RowDifference, TableDiff};

/// A report that is being written.
pub(super) struct Report {
    path: PathBuf,
    form: Form,
}

enum Form {
    Lines(BufWriter<File>),
    #[cfg(feature = "parquet")]
    Parquet(Box<parquet::Writer>),
}

/// A differing row, as both forms have it.
struct Row<'a> {
    table: String,
    kind: Kind,
    /// Names and values of its key; without a key, of the whole row.
    key: Vec<(&'a str, Option<&'a str>)>,
    /// The columns that differ; of a row that is on one side only, all that are not its key.
    columns: &'a [ColumnDifference],
}

impl Report {
    /// Begins a file; one that is there is written over, in Parquet when the report ends.
    ///
    /// # Errors
    /// As creating a file; configuration if it is to have a form that this build does not write.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let is_parquet = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"));
        let form = if is_parquet {
            in_parquet(path)?
        } else {
            let file = File::create(path).map_err(|error| failed(path, error))?;
            Form::Lines(BufWriter::new(file))
        };
        Ok(Self { path: path.to_owned(), form })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// As writing a file.
    pub(super) fn row(&mut self, diff: &TableDiff, row: &RowDifference) -> Result<()> {
        let row = Row::of(diff, row);
        let added = match &mut self.form {
            Form::Lines(file) => writeln!(file, "{}", row.to_json()),
            #[cfg(feature = "parquet")]
            Form::Parquet(file) => file.row(&row),
        };
        added.map_err(|error| failed(&self.path, error))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// As writing a file.
    pub(super) fn end(self) -> Result<()> {
        let ended = match self.form {
            Form::Lines(mut file) => file.flush(),
            #[cfg(feature = "parquet")]
            Form::Parquet(file) => file.end(&self.path),
        };
        ended.map_err(|error| failed(&self.path, error))
    }
}

impl<'a> Row<'a> {
    fn of(diff: &'a TableDiff, row: &'a RowDifference) -> Self {
        let names: Vec<&str> = if diff.key.is_empty() {
            diff.columns.iter().map(|column| column.name.as_str()).collect()
        } else {
            diff.key.iter().map(String::as_str).collect()
        };
        let key = names.into_iter().zip(row.key.iter().map(Option::as_deref)).collect();
        Self { table: diff.table.to_string(), kind: row.kind, key, columns: &row.columns }
    }

    fn to_json(&self) -> Value {
        let key: Map<String, Value> =
            self.key.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let values =
            |column: &ColumnDifference| json!({ "source": column.source, "destination": column.destination });
        let columns: Map<String, Value> =
            self.columns.iter().map(|column| (column.name.clone(), values(column))).collect();
        json!({ "table": self.table, "kind": self.kind, "key": key, "columns": columns })
    }
}

#[cfg(feature = "parquet")]
fn in_parquet(path: &Path) -> Result<Form> {
    let writer = parquet::Writer::create(path).map_err(|error| failed(path, error))?;
    Ok(Form::Parquet(Box::new(writer)))
}

#[cfg(not(feature = "parquet"))]
fn in_parquet(_path: &Path) -> Result<Form> {
    Err(Error::configuration("this build does not write Parquet")
        .with_remedy("give the report another ending (lines of JSON), or build with the feature parquet"))
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::io(format!("cannot write the report {}", path.display()), error)
}
