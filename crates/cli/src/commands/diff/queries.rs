//! Queries of the source that stand for tables: `--query 'table=SELECT …' --key id`.

use std::sync::Arc;

use syncline_core::{Carry, Error, Query, Result, Selection, Source, TableId, TablePattern};

use crate::args::DiffArgs;

/// What the arguments say. A table without a schema is the destination's only one of its name.
///
/// # Errors
/// Configuration if a query or a key is not of the form, or if its table is not known at the destination.
pub(super) async fn of(args: &DiffArgs, destination: &dyn Source) -> Result<Vec<Query>> {
    let mut queries: Vec<Query> = Vec::new();
    let mut names = Vec::new();
    for text in &args.query {
        let (name, sql) = named(text)?;
        let table = table_of(name, destination).await?;
        if queries.iter().any(|query| query.table == table) {
            return Err(Error::configuration(format!("two queries stand for {table}")));
        }
        queries.push(Query { table, sql: sql.to_owned(), key: Vec::new() });
        names.push(name);
    }
    for text in &args.key {
        let (of, columns) = match text.split_once('=') {
            Some((of, columns)) => (Some(of), columns),
            None => (None, text.as_str()),
        };
        let columns: Vec<String> = columns.split(',').map(|column| column.trim().to_owned()).collect();
        let mut used = false;
        for (query, name) in queries.iter_mut().zip(&names) {
            if of.is_none_or(|of| of == *name) {
                query.key.clone_from(&columns);
                used = true;
            }
        }
        if !used || columns.iter().any(String::is_empty) {
            return Err(Error::configuration(format!("--key {text} names no query or no column"))
                .with_remedy("write --key id, or --key table=id,line where there are several queries"));
        }
    }
    Ok(queries)
}

/// A source that knows only the queries.
///
/// # Errors
/// Configuration if the source computes nothing.
pub(super) fn as_source(source: &Arc<dyn Source>, queries: &[Query]) -> Result<Arc<dyn Source>> {
    let ability = source.queries();
    let ability = ability.ok_or_else(|| {
        Error::configuration(format!("{} cannot run a query", source.address()))
            .with_remedy("compare its tables, without --query")
    })?;
    Ok(ability.as_source(queries.to_vec()))
}

/// `orders=SELECT …`.
fn named(text: &str) -> Result<(&str, &str)> {
    let parts = text.split_once('=').map(|(name, sql)| (name.trim(), sql.trim()));
    // A query without a name has a first sign somewhere, too.
    let is_query = |name: &str| {
        let word = name.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        ["select", "with", "values", "table"].contains(&word.as_str())
    };
    let parts = parts.filter(|(name, sql)| !name.is_empty() && !sql.is_empty() && !is_query(name));
    parts.ok_or_else(|| {
        Error::configuration("a query is not of the form").with_remedy("write --query 'table=SELECT …'")
    })
}

async fn table_of(name: &str, destination: &dyn Source) -> Result<TableId> {
    if let Some((schema, name)) = name.split_once('.') {
        return Ok(TableId::new(schema, name));
    }
    let include = vec![TablePattern::new(&format!("*.{name}"))?];
    let found = destination.discover(&Selection { include, ..Selection::all(Carry::Typed) }).await;
    let found = found.map_err(|error| error.context("looking for the table that a query stands for"))?;
    match found.as_slice() {
        [table] => Ok(table.id.clone()),
        tables => {
            let names: Vec<String> = tables.iter().map(|table| table.id.to_string()).collect();
            Err(Error::configuration(format!(
                "`{name}` may be any of {} at the destination",
                names.join(", ")
            ))
            .with_remedy("write --query 'schema.table=SELECT …'"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_what_stands_behind_the_first_sign() {
        assert_eq!(named("t = SELECT a = 1 ").unwrap(), ("t", "SELECT a = 1"));
        assert_eq!(named("public.Order lines=TABLE x").unwrap(), ("public.Order lines", "TABLE x"));
        for text in ["SELECT 1", "=SELECT 1", "t=", "select x from t where a =1"] {
            assert!(named(text).is_err(), "{text}");
        }
    }
}
