//! Statements that make a table, from its definition. Pure: nothing here asks or changes a server.
//!
//! A new table has no key and no index: they are built after its rows are there ([`super::finish`]).

use syncline_core::{Error, Result, TableId, TableSchema};

use super::super::definition::{
    ColumnDefinition, Definition, ForeignKey, IndexDdl, IndexDefinition, Partition, TypeDefinition, TypeKind,
};
use super::super::quote::{ident, idents, literal, table as quoted};
use super::fit::expected_type;
use super::rename::Renaming;

/// The statements that create a table and its partitions.
pub(super) fn create_table(
    table: &TableSchema,
    definition: Option<&Definition>,
    renaming: &Renaming<'_>,
) -> Vec<String> {
    let columns: Vec<String> = match definition {
        Some(definition) => definition.columns.iter().map(|column| exact_column(column, renaming)).collect(),
        None => table
            .columns
            .iter()
            .map(|column| {
                let not_null = if column.nullable { "" } else { " NOT NULL" };
                format!("{} {}{not_null}", ident(&column.name), expected_type(column, None, renaming))
            })
            .collect(),
    };
    let partitioning = definition.and_then(|definition| definition.partitioning.as_ref());
    let by = partitioned_by(partitioning.map(|partitioning| partitioning.key.as_str()), renaming);
    let root = quoted(&renaming.table(&table.id));
    let mut statements = vec![format!("CREATE TABLE {root} ({}){by}", columns.join(", "))];
    let partitions = partitioning.iter().flat_map(|partitioning| &partitioning.partitions);
    statements.extend(partitions.map(|partition| create_partition(partition, renaming)));
    statements
}

/// The statement that creates a partition.
pub(super) fn create_partition(partition: &Partition, renaming: &Renaming<'_>) -> String {
    format!(
        "CREATE TABLE {} PARTITION OF {} {}{}",
        quoted(&renaming.table(&partition.id)),
        quoted(&renaming.table(&partition.parent)),
        renaming.sql(&partition.bound),
        partitioned_by(partition.key.as_deref(), renaming),
    )
}

fn partitioned_by(key: Option<&str>, renaming: &Renaming<'_>) -> String {
    key.map(|key| format!(" PARTITION BY {}", renaming.sql(key))).unwrap_or_default()
}

fn exact_column(column: &ColumnDefinition, renaming: &Renaming<'_>) -> String {
    let mut sql = format!("{} {}", ident(&column.name), renaming.sql(&column.sql_type));
    if let Some(collation) = &column.collation {
        sql.push_str(&format!(" COLLATE {}", renaming.sql(collation)));
    }
    if let Some(expression) = &column.generated {
        sql.push_str(&format!(" GENERATED ALWAYS AS ({}) STORED", renaming.sql(expression)));
    }
    if column.not_null {
        sql.push_str(" NOT NULL");
    }
    sql
}

/// Every schema that a table, its partitions and its types need.
pub(super) fn schemas(
    table: &TableSchema,
    definition: Option<&Definition>,
    renaming: &Renaming<'_>,
) -> Vec<String> {
    let mut schemas = vec![renaming.table(&table.id).schema];
    if let Some(definition) = definition {
        let partitions = definition.partitioning.iter().flat_map(|partitioning| &partitioning.partitions);
        schemas.extend(partitions.map(|partition| renaming.table(&partition.id).schema));
        let made =
            definition.types.iter().filter(|defined| !matches!(defined.kind, TypeKind::Extension { .. }));
        schemas.extend(made.map(|defined| renaming.schema(&defined.schema)));
    }
    schemas.sort();
    schemas.dedup();
    schemas
}

/// The destination's name of a user type.
pub(super) fn type_name(defined: &TypeDefinition, renaming: &Renaming<'_>) -> TableId {
    match defined.kind {
        TypeKind::Extension { .. } => TableId::new(&defined.schema, &defined.name),
        _ => TableId::new(renaming.schema(&defined.schema), &defined.name),
    }
}

/// The statement that creates a user type; `None` for one that only an extension can bring.
pub(super) fn create_type(defined: &TypeDefinition, renaming: &Renaming<'_>) -> Option<String> {
    let name = quoted(&type_name(defined, renaming));
    Some(match &defined.kind {
        TypeKind::Enum { labels } => {
            let labels: Vec<_> = labels.iter().map(|label| literal(label)).collect();
            format!("CREATE TYPE {name} AS ENUM ({})", labels.join(", "))
        }
        TypeKind::Domain { base, not_null, checks } => {
            let not_null = if *not_null { " NOT NULL" } else { "" };
            let checks: String = checks.iter().map(|check| format!(" {}", renaming.sql(check))).collect();
            format!("CREATE DOMAIN {name} AS {}{not_null}{checks}", renaming.sql(base))
        }
        TypeKind::Composite { attributes } => {
            let attributes: Vec<_> = attributes
                .iter()
                .map(|(attribute, sql_type)| format!("{} {}", ident(attribute), renaming.sql(sql_type)))
                .collect();
            format!("CREATE TYPE {name} AS ({})", attributes.join(", "))
        }
        TypeKind::Range { subtype } => {
            format!("CREATE TYPE {name} AS RANGE (SUBTYPE = {})", renaming.sql(subtype))
        }
        TypeKind::Extension { .. } => return None,
    })
}

/// The statement that gives a table its primary key. Without a name the server finds one that is free.
pub(super) fn add_primary_key(target: &TableId, name: Option<&str>, columns: &[&str]) -> String {
    format!(
        "ALTER TABLE {} ADD {}PRIMARY KEY ({})",
        quoted(target),
        constraint_name(name),
        idents(columns.iter().copied())
    )
}

/// The statement that creates a unique index on a row key which is not the primary key.
pub(super) fn create_key_index(target: &TableId, columns: &[&str]) -> String {
    format!("CREATE UNIQUE INDEX ON {} ({})", quoted(target), idents(columns.iter().copied()))
}

/// The statement that creates an index or a unique or exclusion constraint.
pub(super) fn create_index(
    target: &TableId,
    index: &IndexDefinition,
    name: Option<&str>,
    renaming: &Renaming<'_>,
) -> String {
    match &index.ddl {
        IndexDdl::Index { unique, using } => {
            let unique = if *unique { "UNIQUE " } else { "" };
            let name = name.map(ident).unwrap_or_default();
            format!("CREATE {unique}INDEX {name} ON {} USING {}", quoted(target), renaming.sql(using))
        }
        IndexDdl::Constraint(definition) => {
            format!(
                "ALTER TABLE {} ADD {}{}",
                quoted(target),
                constraint_name(name),
                renaming.sql(definition)
            )
        }
    }
}

/// The statement that adds a foreign key. `deferrable`: whether it must be one, also where the source's is not.
pub(super) fn add_foreign_key(
    target: &TableId,
    key: &ForeignKey,
    renaming: &Renaming<'_>,
    deferrable: bool,
) -> String {
    let deferrable = if deferrable && !is_deferrable(&key.suffix) { " DEFERRABLE" } else { "" };
    let names = |columns: &[String]| idents(columns.iter().map(String::as_str));
    format!(
        "ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({}) {}{deferrable}",
        quoted(target),
        ident(&key.name),
        names(&key.columns),
        quoted(&renaming.table(&key.referenced)),
        names(&key.referenced_columns),
        key.suffix.trim()
    )
}

/// Whether a foreign key changes rows of its own table when the row it points to changes.
pub(super) fn cascades(suffix: &str) -> bool {
    let words: Vec<_> = suffix.split_ascii_whitespace().collect();
    words
        .windows(3)
        .any(|w| w[0] == "ON" && matches!(w[1], "DELETE" | "UPDATE") && matches!(w[2], "CASCADE" | "SET"))
}

/// Whether a foreign key refuses at once, and not at the commit, what its action refuses.
pub(super) fn restricts(suffix: &str) -> bool {
    let words: Vec<_> = suffix.split_ascii_whitespace().collect();
    words.windows(3).any(|w| w[0] == "ON" && matches!(w[1], "DELETE" | "UPDATE") && w[2] == "RESTRICT")
}

/// Whether a foreign key can be checked at the commit.
pub(super) fn is_deferrable(suffix: &str) -> bool {
    suffix.split_ascii_whitespace().any(|word| word == "DEFERRABLE")
}

fn constraint_name(name: Option<&str>) -> String {
    name.map(|name| format!("CONSTRAINT {} ", ident(name))).unwrap_or_default()
}

/// The exact definition of a table, if it comes from this family.
///
/// # Errors
/// A bug if the definition cannot be read.
pub(super) fn definition_of(table: &TableSchema) -> Result<Option<Definition>, Error> {
    Definition::of(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cascading_actions_are_seen() {
        assert!(cascades(" ON UPDATE CASCADE DEFERRABLE"));
        assert!(cascades("MATCH FULL ON DELETE SET NULL"));
        assert!(!cascades(" ON DELETE RESTRICT ON UPDATE NO ACTION"));
        assert!(!cascades(""));
    }

    #[test]
    fn what_cannot_wait_for_the_commit_is_seen() {
        assert!(restricts(" ON UPDATE CASCADE ON DELETE RESTRICT"));
        assert!(!restricts("MATCH FULL ON DELETE CASCADE DEFERRABLE"));
        assert!(is_deferrable("ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED"));
        assert!(!is_deferrable("MATCH FULL NOT VALID"));
    }

    #[test]
    fn hostile_names_stay_inside_their_quotes() {
        let target = TableId::new("s\"x", "t; drop");
        assert_eq!(
            add_primary_key(&target, Some("k\""), &["a b"]),
            "ALTER TABLE \"s\"\"x\".\"t; drop\" ADD CONSTRAINT \"k\"\"\" PRIMARY KEY (\"a b\")"
        );
    }
}
