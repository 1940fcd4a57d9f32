//! Tables before their first chunk.
//!
//! SQLite's keys and constraints stand in the CREATE TABLE statement, so a table that is made here has its key from the
//! start, and its foreign keys too (our connection does not enforce them). Indexes come after the window: unique ones of
//! a table that is kept are put aside until then.

use std::collections::BTreeSet;

use rusqlite::Connection;
use syncline_core::{
    Carriage, Column, DataType, Error, PipelineName, Prepare, Prepared, Result, TableSchema,
};

use super::super::affinity::Affinity;
use super::super::catalog::{self, Table};
use super::super::definition::Definition;
use super::super::error::During;
use super::super::quote::{ident, idents};
use super::super::unique::UniqueIndex;
use super::bookkeeping;
use super::plan::is_on_row_key;

const CHOICES: &str = "choose --prepare recreate (drop it and create it anew), truncate (keep its definition, empty it) \
                       or keep (keep its rows, overwrite those with the same key)";

/// Creates or prepares a table. To be called in a write transaction.
pub(super) fn prepare(
    conn: &Connection,
    pipeline: &PipelineName,
    table: &TableSchema,
    mode: Option<Prepare>,
) -> Result<Prepared> {
    if let Some(owner) = bookkeeping::other_owner(conn, pipeline, &table.id)? {
        return Err(Error::configuration(format!("the table belongs to {owner}"))
            .with_remedy("load it into another file, or drop the other pipeline first"));
    }
    let name = ident(&table.id.name);
    let doing = "preparing a table";
    let Some(found) = catalog::table(conn, &table.id.name)? else {
        return create(conn, table).map(|()| Prepared::Empty);
    };
    let has_rows: bool = conn
        .query_row(&format!("SELECT EXISTS (SELECT 1 FROM {name})"), [], |row| row.get(0))
        .during(doing)?;
    match mode {
        Some(Prepare::Recreate) => {
            conn.execute_batch(&format!("DROP TABLE {name}")).during(doing)?;
            return create(conn, table).map(|()| Prepared::Empty);
        }
        None if has_rows => {
            return Err(
                Error::configuration("the table exists at the destination and has rows").with_remedy(CHOICES)
            );
        }
        None | Some(Prepare::Truncate | Prepare::Keep) => {}
    }
    refuse_misfit(&found, table)?;
    if mode == Some(Prepare::Truncate) {
        conn.execute_batch(&format!("DELETE FROM {name}")).during(doing)?;
    }
    put_aside_unique_indexes(conn, pipeline, &found, table)?;
    ensure_key(conn, &found, table)?;
    let keeps = has_rows && mode == Some(Prepare::Keep);
    Ok(if keeps { Prepared::HasRows } else { Prepared::Empty })
}

fn create(conn: &Connection, table: &TableSchema) -> Result<()> {
    let sql = create_statement(table)?;
    // One statement only, whatever the text says.
    conn.execute(&sql, []).during("creating a table")?;
    Ok(())
}

/// The source's own statement, or one made of the typed columns.
pub(super) fn create_statement(table: &TableSchema) -> Result<String> {
    if let Some(definition) = Definition::of(table)? {
        return Ok(definition.sql);
    }
    let is_native = |column: &&Column| column.carriage == Carriage::Native;
    if let Some(column) = table.columns.iter().find(is_native).filter(|_| table.native.is_some()) {
        return Err(Error::bug(format!("column {} is carried in another family's form", column.name)));
    }
    let column = |column: &Column| {
        let not_null = if column.nullable { "" } else { " NOT NULL" };
        format!("{} {}{not_null}", ident(&column.name), declared(column))
    };
    let mut parts: Vec<_> = table.columns.iter().map(column).collect();
    if table.has_row_key() {
        let key = table.row_key.iter().map(|&column| table.columns[column].name.as_str());
        parts.push(format!("PRIMARY KEY ({})", idents(key)));
    }
    Ok(format!("CREATE TABLE {} ({})", ident(&table.id.name), parts.join(", ")))
}

/// The declared type whose affinity keeps the value as it is stored.
fn declared(column: &Column) -> &str {
    match (column.carriage, &column.data_type) {
        // Of this family, without the rest of its definition.
        (Carriage::Native, _) => &column.native_type,
        (Carriage::NativeText, _) => "TEXT",
        (_, DataType::Bool) => "BOOLEAN",
        (_, DataType::Int(_) | DataType::UInt(_)) => "INTEGER",
        (_, DataType::Float32 | DataType::Float64) => "REAL",
        (_, DataType::Bytes) => "BLOB",
        _ => "TEXT",
    }
}

fn refuse_misfit(found: &Table, table: &TableSchema) -> Result<()> {
    let misfit = |what: String| {
        Err(Error::configuration(format!("the table exists at the destination, but {what}"))
            .with_remedy("correct it there, or choose --prepare recreate"))
    };
    let strict = Definition::of(table)?.is_some_and(|definition| definition.strict);
    for column in &table.columns {
        let native = column.carriage == Carriage::Native;
        let source = Affinity::of(&column.native_type, strict);
        match found.column(&column.name).filter(|there| there.stored) {
            None => return misfit(format!("column {} is not in it", column.name)),
            Some(there) if native && Affinity::of(&there.declared, found.strict) != source => {
                return misfit(format!("column {} would convert values of the source", column.name));
            }
            Some(_) => {}
        }
    }
    let known = |name: &str| table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    let needed = found.columns.iter().find(|c| c.stored && c.not_null && !c.has_default && !known(&c.name));
    if let Some(column) = needed {
        return misfit(format!("its column {} must not be null and is not in the source", column.name));
    }
    let expected = inline_uniques_of_source(table)?;
    let foreign = found
        .unique
        .iter()
        .find(|index| index.inline && !is_on_row_key(index, table) && !expected.contains(&index.signature()));
    match foreign {
        Some(index) if index.key => misfit("its primary key is another one".to_owned()),
        Some(_) => misfit("it has a UNIQUE constraint that the source does not have".to_owned()),
        None if found.integer_key && !key_is(found, table) => {
            misfit("its primary key is another one".to_owned())
        }
        None => Ok(()),
    }
}

fn key_is(found: &Table, table: &TableSchema) -> bool {
    let names = table.row_key.iter().map(|&column| table.columns[column].name.as_str());
    found.key.len() == table.row_key.len()
        && names.zip(&found.key).all(|(name, key)| key.name.eq_ignore_ascii_case(name))
}

fn inline_uniques_of_source(table: &TableSchema) -> Result<BTreeSet<String>> {
    let Some(definition) = Definition::of(table)? else { return Ok(BTreeSet::new()) };
    let doing = "reading the source's definition";
    let conn = Connection::open_in_memory().during(doing)?;
    conn.execute(&definition.sql, []).during(doing)?;
    let source = catalog::table(&conn, &table.id.name)?;
    let unique = source.iter().flat_map(|source| &source.unique);
    Ok(unique.map(UniqueIndex::signature).collect())
}

/// Rows of chunks that were read at different times may collide in a unique index for a while.
fn put_aside_unique_indexes(
    conn: &Connection,
    pipeline: &PipelineName,
    found: &Table,
    table: &TableSchema,
) -> Result<()> {
    let doing = "putting a unique index aside";
    let aside = found.unique.iter().filter(|index| !index.inline && !is_on_row_key(index, table));
    for index in aside {
        let sql = found.indexes.iter().find(|(name, _)| *name == index.name).map(|(_, sql)| sql);
        let sql = sql.ok_or_else(|| Error::bug("an index without a statement"))?;
        conn.execute(
            "INSERT OR REPLACE INTO _syncline_indexes VALUES (?1, ?2, ?3, ?4, ?5)",
            (pipeline.as_str(), &table.id.schema, &table.id.name, &index.name, sql),
        )
        .during(doing)?;
        conn.execute_batch(&format!("DROP INDEX {}", ident(&index.name))).during(doing)?;
    }
    Ok(())
}

/// A table of the user's own making may have no key: rows could not be merged into it.
fn ensure_key(conn: &Connection, found: &Table, table: &TableSchema) -> Result<()> {
    let present = (found.integer_key && key_is(found, table))
        || found.unique.iter().any(|index| is_on_row_key(index, table));
    if present || !table.has_row_key() {
        return Ok(());
    }
    let key = idents(table.row_key.iter().map(|&column| table.columns[column].name.as_str()));
    let index = ident(&format!("syncline_key_{}", table.id.name));
    conn.execute_batch(&format!("CREATE UNIQUE INDEX {index} ON {} ({key})", ident(&table.id.name)))
        .during("indexing the row key")
}
