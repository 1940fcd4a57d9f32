//! What publishing a table would do to its users' own writes.
//!
//! A published table whose rows have no usable identity refuses every UPDATE and DELETE of its users. So this is judged
//! before anything is made, from the catalogue alone, for the table or for each of its leaf partitions.

use std::collections::BTreeSet;

use syncline_core::{Finding, Severity, TableId};

use super::catalog::{Identity, Kind, Relation};
use crate::postgres::quote;

/// From this version on, a generated column outside the publication spoils a full identity.
const GENERATED_IN_IDENTITY: u32 = 180_000;

/// From this version on, a publication can leave columns out.
const COLUMN_LISTS: u32 = 150_000;

/// Why a table must not be published as it is, if so.
pub(super) fn problem(relation: &Relation, excluded: &BTreeSet<&str>, version: u32) -> Option<Finding> {
    if !excluded.is_empty() && version < COLUMN_LISTS {
        return Some(finding(
            "column_list",
            &relation.id,
            "columns can be left out of a stream from PostgreSQL 15 on only".to_owned(),
            "use --mode snapshot, upgrade the source, or do not exclude columns of this table".to_owned(),
        ));
    }
    let stored = relation.stored();
    stored.into_iter().find_map(|(id, identity)| of_stored(relation, id, identity, excluded, version))
}

fn of_stored(
    relation: &Relation,
    id: &TableId,
    identity: &Identity,
    excluded: &BTreeSet<&str>,
    version: u32,
) -> Option<Finding> {
    let name = quote::table(id);
    let full = format!("ALTER TABLE {name} REPLICA IDENTITY FULL;");
    let is_generated =
        |column: &String| relation.attributes.iter().any(|a| a.name == *column && a.is_generated());
    let report =
        |message: &str, remedy: String| Some(finding("replica_identity", id, message.to_owned(), remedy));
    match identity {
        Identity::Nothing => report(
            "it has no usable replica identity: once published, every UPDATE and DELETE of it would fail",
            format!("{full} or, better, give it a primary key: ALTER TABLE {name} ADD PRIMARY KEY (…);"),
        ),
        Identity::Full(_) if !excluded.is_empty() => report(
            "its replica identity is FULL and columns of it are excluded: every UPDATE and DELETE of it would fail",
            format!(
                "ALTER TABLE {name} REPLICA IDENTITY DEFAULT; if it has a primary key, or exclude no column of it"
            ),
        ),
        Identity::Full(_) if version >= GENERATED_IN_IDENTITY && relation.has_generated() => report(
            "its replica identity is FULL and it has generated columns: every UPDATE and DELETE of it would fail",
            format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT; with a primary key"),
        ),
        Identity::Full(_) => None,
        Identity::Index(columns) if columns.iter().any(|c| excluded.contains(c.as_str())) => report(
            "an excluded column belongs to its replica identity: every UPDATE and DELETE of it would fail",
            "do not exclude the columns of its key, or give it an identity index without them".to_owned(),
        ),
        Identity::Index(columns) if columns.iter().any(is_generated) => report(
            "a generated column belongs to its replica identity, and generated columns are not in the log",
            full,
        ),
        Identity::Index(columns) => {
            let (own, root): (BTreeSet<_>, BTreeSet<_>) =
                (columns.iter().collect(), relation.key_columns().iter().collect());
            if relation.kind == Kind::Partitioned && own != root {
                report(
                    "its replica identity is another one than that of the table it is a partition of",
                    full,
                )
            } else {
                None
            }
        }
    }
}

fn finding(code: &'static str, table: &TableId, message: String, remedy: String) -> Finding {
    Finding { severity: Severity::Error, code, table: Some(table.clone()), message, remedy: Some(remedy) }
}
