//! Steps after a table's chunks are loaded.
//!
//! Key and foreign keys stand in the CREATE TABLE statement; only indexes are built here: the source's own, and those that
//! were put aside.

use rusqlite::Connection;
use syncline_core::{Error, FinishStep, PipelineName, Result, TableSchema};

use super::super::catalog;
use super::super::definition::Definition;
use super::super::error::During;

/// Makes a step. To be called in a write transaction.
pub(super) fn finish(
    conn: &Connection,
    pipeline: &PipelineName,
    table: &TableSchema,
    step: FinishStep,
) -> Result<()> {
    match step {
        FinishStep::Key | FinishStep::ForeignKeys => Ok(()),
        FinishStep::Indexes => indexes(conn, pipeline, table),
    }
}

fn indexes(conn: &Connection, pipeline: &PipelineName, table: &TableSchema) -> Result<()> {
    let doing = "building an index";
    let of_source = Definition::of(table)?.map(|definition| definition.indexes).unwrap_or_default();
    for (name, sql) in of_source.into_iter().chain(aside(conn, pipeline, table)?) {
        match owner(conn, &name)? {
            Some(owner) if owner.eq_ignore_ascii_case(&table.id.name) => {}
            Some(owner) => {
                return Err(Error::configuration(format!("index {name} exists already, on table {owner}"))
                    .with_remedy("rename or drop that index at the destination, then run again"));
            }
            None => {
                conn.execute(&sql, []).during(doing)?;
            }
        }
    }
    conn.execute(
        "DELETE FROM _syncline_indexes WHERE pipeline = ?1 AND schema_name = ?2 AND name = ?3",
        (pipeline.as_str(), &table.id.schema, &table.id.name),
    )
    .during(doing)?;
    Ok(())
}

fn aside(conn: &Connection, pipeline: &PipelineName, table: &TableSchema) -> Result<Vec<(String, String)>> {
    let doing = "reading the indexes that were put aside";
    let sql = "SELECT index_name, sql FROM _syncline_indexes WHERE pipeline = ?1 AND schema_name = ?2 AND name = ?3";
    let mut statement = conn.prepare(sql).during(doing)?;
    let params = (pipeline.as_str(), &table.id.schema, &table.id.name);
    let rows = statement.query_map(params, |row| Ok((row.get(0)?, row.get(1)?))).during(doing)?;
    rows.collect::<rusqlite::Result<_>>().during(doing)
}

/// The table that has an index of this name: their names are one space per file.
fn owner(conn: &Connection, index: &str) -> Result<Option<String>> {
    let sql = "SELECT tbl_name FROM main.sqlite_schema WHERE type = 'index' AND name = ?1 COLLATE NOCASE";
    Ok(catalog::strings(conn, sql, &[&index])?.pop())
}
