//! What a table is, exactly, so that a destination of this family can recreate it.
//!
//! The source writes a [`Definition`] into [`syncline_core::NativeDefinition`]; the destination reads it. Defaults and
//! sequences are not in it: the destination's rows come from the source only.

use serde::{Deserialize, Serialize};
use syncline_core::{Error, Family, NativeDefinition, Result, TableId, TableSchema};

/// A table's exact definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Definition {
    /// All columns that are not excluded, generated ones too, in the source's order.
    pub(crate) columns: Vec<ColumnDefinition>,
    /// User types that the columns need, in an order in which they can be created.
    pub(crate) types: Vec<TypeDefinition>,
    /// The primary key, if there is one.
    pub(crate) primary_key: Option<KeyDefinition>,
    /// All other indexes whose columns and predicate need no excluded column.
    pub(crate) indexes: Vec<IndexDefinition>,
    /// Foreign keys of this table.
    pub(crate) foreign_keys: Vec<ForeignKey>,
    /// How it is partitioned, if it is.
    pub(crate) partitioning: Option<Partitioning>,
}

/// A column's exact definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ColumnDefinition {
    pub(crate) name: String,
    /// `format_type` with its modifier, schema-qualified unless in `pg_catalog`.
    pub(crate) sql_type: String,
    pub(crate) not_null: bool,
    /// Quoted, qualified collation if it is not the type's default.
    pub(crate) collation: Option<String>,
    /// Expression of a stored generated column; its values are not carried.
    pub(crate) generated: Option<String>,
}

/// A user type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TypeDefinition {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) kind: TypeKind,
}

/// What a user type is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TypeKind {
    Enum {
        labels: Vec<String>,
    },
    Domain {
        base: String,
        not_null: bool,
        checks: Vec<String>,
    },
    Composite {
        attributes: Vec<(String, String)>,
    },
    /// `subtype` as `format_type` writes it.
    Range {
        subtype: String,
    },
    /// Comes with an extension, which the destination must have.
    Extension {
        extension: String,
    },
}

/// A primary key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyDefinition {
    pub(crate) name: String,
    pub(crate) columns: Vec<String>,
}

/// An index or a unique or exclusion constraint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexDefinition {
    pub(crate) name: String,
    /// Two rows cannot both be in it: unique or exclusion.
    pub(crate) excludes: bool,
    /// Columns it mentions, in its keys, its expressions or its predicate.
    pub(crate) columns: Vec<String>,
    pub(crate) ddl: IndexDdl,
    /// Whether it is the identity index, so that deletes come by its columns.
    pub(crate) identity: bool,
}

/// How to create an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum IndexDdl {
    /// `CREATE [UNIQUE] INDEX name ON table USING` + this.
    Index { unique: bool, using: String },
    /// `ALTER TABLE table ADD CONSTRAINT name` + this.
    Constraint(String),
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ForeignKey {
    pub(crate) name: String,
    pub(crate) columns: Vec<String>,
    /// Source name of the referenced table.
    pub(crate) referenced: TableId,
    pub(crate) referenced_columns: Vec<String>,
    /// What follows the referenced columns in its DDL (`ON DELETE CASCADE DEFERRABLE`).
    pub(crate) suffix: String,
}

/// How a table is partitioned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Partitioning {
    /// `pg_get_partkeydef`: `RANGE (at)`.
    pub(crate) key: String,
    /// All partitions below, parents before children.
    pub(crate) partitions: Vec<Partition>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Partition {
    pub(crate) id: TableId,
    /// Direct parent: the table itself or a partition that is partitioned.
    pub(crate) parent: TableId,
    /// `FOR VALUES …` or `DEFAULT`.
    pub(crate) bound: String,
    /// Its own partition key, if it is partitioned itself.
    pub(crate) key: Option<String>,
}

impl Definition {
    /// The form in which a schema carries it.
    pub(crate) fn to_native(&self) -> Result<NativeDefinition> {
        let definition = serde_json::to_value(self)
            .map_err(|error| Error::bug("a definition cannot be written as JSON").with_source(error))?;
        Ok(NativeDefinition { family: Family::POSTGRES, definition })
    }

    /// The definition a schema carries, if it comes from this family.
    pub(crate) fn of(table: &TableSchema) -> Result<Option<Self>> {
        let Some(native) = table.native.as_ref().filter(|native| native.family == Family::POSTGRES) else {
            return Ok(None);
        };
        serde_json::from_value(native.definition.clone()).map(Some).map_err(|error| {
            Error::bug("a definition cannot be read back").with_source(error).with_table(&table.id)
        })
    }
}
