//! What the catalogue's queries return, as plain data.

use std::collections::BTreeSet;

use syncline_core::TableId;

/// What a relation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres::source) enum Kind {
    /// An ordinary, logged table.
    Table,
    /// The root of a partitioned table.
    Partitioned,
    /// Not in the log at all.
    Unlogged,
    /// Rows elsewhere.
    Foreign,
    /// No rows of its own.
    View,
    /// Rows that change by REFRESH, which is not in the log as changes.
    MaterializedView,
    /// Made and filled by an extension.
    OfExtension,
}

impl Kind {
    /// From `relkind`, `relpersistence` and membership of an extension.
    pub(super) fn of(relkind: &str, persistence: &str, of_extension: bool) -> Self {
        match (relkind, persistence) {
            ("v", _) => Self::View,
            ("m", _) => Self::MaterializedView,
            ("f", _) => Self::Foreign,
            (_, "u") => Self::Unlogged,
            _ if of_extension => Self::OfExtension,
            ("p", _) => Self::Partitioned,
            _ => Self::Table,
        }
    }

    pub(super) fn is_taken(self) -> bool {
        matches!(self, Self::Table | Self::Partitioned)
    }

    /// For the screen.
    pub(in crate::postgres::source) fn name(self) -> &'static str {
        match self {
            Self::Table => "a table",
            Self::Partitioned => "a partitioned table",
            Self::Unlogged => "an unlogged table",
            Self::Foreign => "a foreign table",
            Self::View => "a view",
            Self::MaterializedView => "a materialized view",
            Self::OfExtension => "a table of an extension",
        }
    }
}

/// By what a relation's rows are identified in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::postgres::source) enum Identity {
    /// By these columns, in the index's order.
    Index(Vec<String>),
    /// By the whole row; the primary key's columns, if there is one that can be relied on.
    Full(Option<Vec<String>>),
    /// Not at all: an UPDATE or DELETE fails once the table is published.
    Nothing,
}

/// A selected table.
#[derive(Debug, Clone)]
pub(in crate::postgres::source) struct Relation {
    pub(in crate::postgres::source) oid: u32,
    pub(in crate::postgres::source) id: TableId,
    pub(in crate::postgres::source) kind: Kind,
    pub(in crate::postgres::source) identity: Identity,
    pub(in crate::postgres::source) attributes: Vec<Attribute>,
    pub(in crate::postgres::source) rows_estimated: u64,
    /// Partitions, parents before children; empty for an ordinary table.
    pub(in crate::postgres::source) members: Vec<Member>,
    /// Whether the session's user may lock and read it.
    pub(in crate::postgres::source) selectable: bool,
    /// Whether the user has the owner's rights, which publishing needs.
    pub(in crate::postgres::source) owned: bool,
    /// Whether a policy would hide rows from the user.
    pub(in crate::postgres::source) rows_hidden: bool,
}

/// A partition of a partitioned table.
#[derive(Debug, Clone)]
pub(in crate::postgres::source) struct Member {
    pub(in crate::postgres::source) oid: u32,
    pub(in crate::postgres::source) id: TableId,
    pub(super) parent: TableId,
    pub(super) bound: String,
    /// Set if it is partitioned itself.
    pub(super) key: Option<String>,
    pub(in crate::postgres::source) kind: Kind,
    pub(in crate::postgres::source) identity: Identity,
    pub(in crate::postgres::source) selectable: bool,
}

impl Member {
    /// Whether it holds rows itself.
    pub(in crate::postgres::source) fn is_leaf(&self) -> bool {
        self.key.is_none()
    }
}

/// A column.
#[derive(Debug, Clone)]
pub(in crate::postgres::source) struct Attribute {
    pub(in crate::postgres::source) name: String,
    pub(in crate::postgres::source) type_oid: u32,
    pub(in crate::postgres::source) sql_type: String,
    pub(super) not_null: bool,
    pub(super) collation: Option<String>,
    /// Expression of a generated column.
    pub(super) generated: Option<Generated>,
}

/// How a column is generated.
#[derive(Debug, Clone)]
pub(super) struct Generated {
    pub(super) expression: String,
    /// Columns the expression reads.
    pub(super) columns: Vec<String>,
    /// Whether it calls a function that only this database has.
    pub(super) needs_function: bool,
}

impl Attribute {
    /// Whether the table computes it.
    pub(in crate::postgres::source) fn is_generated(&self) -> bool {
        self.generated.is_some()
    }
}

impl Relation {
    /// Whether the table computes any of its columns.
    pub(in crate::postgres::source) fn has_generated(&self) -> bool {
        self.attributes.iter().any(Attribute::is_generated)
    }

    /// The columns that are read: not excluded and not generated.
    pub(in crate::postgres::source) fn carried<'a>(
        &'a self,
        excluded: &'a BTreeSet<&str>,
    ) -> impl Iterator<Item = &'a Attribute> {
        self.attributes.iter().filter(|a| !a.is_generated() && !excluded.contains(a.name.as_str()))
    }

    /// The columns by which deletes are identified; none where there are none.
    pub(in crate::postgres::source) fn key_columns(&self) -> &[String] {
        match &self.identity {
            Identity::Index(columns) | Identity::Full(Some(columns)) => columns,
            Identity::Full(None) | Identity::Nothing => &[],
        }
    }

    /// The relations whose own identity the log goes by: the leaves of a partitioned table, else the table.
    pub(in crate::postgres::source) fn stored(&self) -> Vec<(&TableId, &Identity)> {
        if self.kind == Kind::Partitioned {
            self.members.iter().filter(|m| m.is_leaf()).map(|m| (&m.id, &m.identity)).collect()
        } else {
            vec![(&self.id, &self.identity)]
        }
    }
}
