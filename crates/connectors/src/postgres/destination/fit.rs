//! Whether a table that exists can take the rows of a source's table, exactly.

use std::borrow::Cow;

use syncline_core::{Carriage, Column, Error, Family, Result, TableId, TableSchema};

use super::super::definition::Definition;
use super::existing::{Existing, ExistingColumn};
use super::mapping;
use super::rename::Renaming;

/// The type a column of the source has at the destination.
pub(super) fn expected_type(
    column: &Column,
    definition: Option<&Definition>,
    renaming: &Renaming<'_>,
) -> String {
    let exact = definition
        .and_then(|definition| definition.columns.iter().find(|defined| defined.name == column.name))
        .map(|defined| renaming.sql(&defined.sql_type));
    match (exact, column.carriage) {
        (Some(exact), _) => exact,
        (None, Carriage::Native | Carriage::NativeText) => renaming.sql(&column.native_type),
        (None, Carriage::Typed) => mapping::sql_type(&column.data_type),
    }
}

/// Longest name in bytes; the server would cut a longer one without an error.
const NAME_BYTES_MAX: usize = 63;

/// The names that the server would cut, one line each.
pub(super) fn long_names(table: &TableSchema, target: &TableId) -> Vec<String> {
    let columns = table.columns.iter().map(|column| column.name.as_str());
    let names = [target.schema.as_str(), target.name.as_str()].into_iter().chain(columns);
    names
        .filter(|name| name.len() > NAME_BYTES_MAX)
        .map(|name| format!("the name `{name}` is longer than {NAME_BYTES_MAX} bytes"))
        .collect()
}

/// Refuses values in a form of another family, which nothing here can read.
///
/// # Errors
/// A bug: the engine asks a source of another family for typed values.
pub(super) fn understands(table: &TableSchema) -> Result<()> {
    let foreign = table.native.as_ref().is_some_and(|native| native.family != Family::POSTGRES);
    let native = table.columns.iter().any(|column| column.carriage != Carriage::Typed);
    if foreign && native {
        return Err(Error::bug("values come in a native form of another family").with_table(&table.id));
    }
    Ok(())
}

/// What keeps an existing table from taking the rows, one line each; empty if nothing does.
pub(super) fn misfits(
    table: &TableSchema,
    definition: Option<&Definition>,
    renaming: &Renaming<'_>,
    existing: &Existing,
) -> Vec<String> {
    if !existing.is_table() {
        return vec!["it is not a table".to_owned()];
    }
    let mut misfits = type_misfits(table, definition, renaming, existing);
    // A key may be null in the schema of a source whose primary keys do not forbid it; ours do, and stop such a row.
    let strict = table.columns.iter().enumerate().filter(|(number, column)| {
        let there = existing.column(&column.name);
        column.nullable && !table.row_key.contains(number) && there.is_some_and(|there| there.not_null)
    });
    misfits.extend(strict.map(|(_, column)| {
        format!("column `{}` is not null at the destination and may be null at the source", column.name)
    }));
    let unfed = existing.columns.iter().filter(|there| {
        there.not_null
            && !there.has_default
            && !there.generated
            && !table.columns.iter().any(|column| column.name == there.name)
    });
    misfits.extend(unfed.map(|there| {
        format!("column `{}` is not null, has no default and is not in the source", there.name)
    }));
    misfits
}

/// The columns that cannot take every value as it is, one line each.
pub(super) fn type_misfits(
    table: &TableSchema,
    definition: Option<&Definition>,
    renaming: &Renaming<'_>,
    existing: &Existing,
) -> Vec<String> {
    let misfit = |column: &Column| {
        let expected = expected_type(column, definition, renaming);
        column_misfit(column, &expected, existing.column(&column.name))
    };
    table.columns.iter().filter_map(misfit).collect()
}

fn column_misfit(column: &Column, expected: &str, there: Option<&ExistingColumn>) -> Option<String> {
    let name = &column.name;
    let Some(there) = there else { return Some(format!("column `{name}` is missing")) };
    if there.generated {
        return Some(format!("column `{name}` is generated at the destination"));
    }
    let fits = accepts(expected, &there.sql_type)
        || there.domain_of.as_deref().is_some_and(|base| accepts(expected, base));
    (!fits).then(|| format!("column `{name}` is {} and would have to be {expected}", there.sql_type))
}

/// Whether every value of type `from` can stand in a column of type `to` unchanged, in the same binary form.
fn accepts(from: &str, to: &str) -> bool {
    let (from, to) = (plainly_qualified(from), plainly_qualified(to));
    if from == to {
        return true;
    }
    let ((from, from_modifier), (to, to_modifier)) = (split(&from), split(&to));
    let same_base = from == to;
    match (from_modifier, to_modifier) {
        // `character` and `bit` without modifier are one long, and `format_type` never writes them so.
        (_, None) => same_base || (from == "character varying" && to == "text"),
        (None, Some(_)) => false,
        (Some(from_modifier), Some(to_modifier)) => same_base && widens(&from, &from_modifier, &to_modifier),
    }
}

/// A type's text without the quotes around its schema that are not needed: a renamed schema always has them, the
/// catalogue's text only where they are needed.
fn plainly_qualified(sql_type: &str) -> Cow<'_, str> {
    let plain = |schema: &str| {
        let first = schema.chars().next().is_some_and(|first| first.is_ascii_lowercase() || first == '_');
        first && schema.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    match sql_type.strip_prefix('"').and_then(|rest| rest.split_once("\".")) {
        Some((schema, name)) if plain(schema) => Cow::Owned(format!("{schema}.{name}")),
        _ => Cow::Borrowed(sql_type),
    }
}

fn widens(base: &str, from: &[i32], to: &[i32]) -> bool {
    match (base, from, to) {
        ("numeric", [precision, scale], [wider, same]) => scale == same && wider >= precision,
        ("character varying" | "bit varying", [length], [longer]) => longer >= length,
        (base, [digits], [more]) if base.starts_with("time") => more >= digits,
        _ => false,
    }
}

/// A type's text without its modifier, and the modifier's numbers.
fn split(sql_type: &str) -> (String, Option<Vec<i32>>) {
    if let Some((before, rest)) = sql_type.split_once('(')
        && let Some((inside, after)) = rest.split_once(')')
        && let Ok(numbers) = inside.split(',').map(|n| n.trim().parse()).collect::<Result<Vec<i32>, _>>()
    {
        return (format!("{before}{after}"), Some(numbers));
    }
    (sql_type.to_owned(), None)
}

#[cfg(test)]
mod tests {
    use super::accepts;

    #[test]
    fn wider_types_are_taken_and_narrower_ones_refused() {
        assert!(accepts("numeric(10,2)", "numeric(12,2)"));
        assert!(!accepts("numeric(10,2)", "numeric(12,3)"));
        assert!(!accepts("numeric(10,2)", "numeric(9,2)"));
        assert!(accepts("numeric(10,2)", "numeric"));
        assert!(!accepts("numeric", "numeric(10,2)"));
        assert!(accepts("character varying(10)", "text"));
        assert!(accepts("character varying(10)", "character varying(20)"));
        assert!(!accepts("character varying(20)", "character varying(10)"));
        assert!(!accepts("character varying(10)[]", "text[]"));
        assert!(accepts("timestamp(3) with time zone", "timestamp with time zone"));
        assert!(!accepts("timestamp without time zone", "timestamp with time zone"));
        assert!(!accepts("integer", "bigint"));
        assert!(accepts("\"A(b)\".t", "\"A(b)\".t"));
    }

    #[test]
    fn a_schema_is_the_same_with_quotes_and_without_where_they_are_not_needed() {
        assert!(accepts("\"mapped\".mood", "mapped.mood"));
        assert!(accepts("\"order\".mood[]", "\"order\".mood[]"));
        assert!(!accepts("\"Mapped\".mood", "mapped.mood"));
        assert!(!accepts("\"char\"", "char"));
    }
}
