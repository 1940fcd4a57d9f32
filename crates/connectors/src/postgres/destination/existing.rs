//! What stands at the destination: a table's columns, indexes and foreign keys, from it and to it, from the catalogue.

use syncline_core::{Result, TableId};
use tokio_postgres::{Client, Row};

use super::super::error::from_client;

/// A relation as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Existing {
    pub(super) oid: u32,
    /// `pg_class.relkind`.
    pub(super) kind: String,
    pub(super) columns: Vec<ExistingColumn>,
    pub(super) indexes: Vec<ExistingIndex>,
    /// Foreign keys of other tables that point here.
    pub(super) referencing: Vec<Referencing>,
    /// Its own foreign keys.
    pub(super) foreign_keys: Vec<OwnForeignKey>,
}

/// A column as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExistingColumn {
    pub(super) name: String,
    pub(super) type_oid: u32,
    /// With its modifier, as `format_type` writes it.
    pub(super) sql_type: String,
    /// Without modifier: a cast to it cuts nothing.
    pub(super) bare_type: String,
    /// Type of its arrays, 0 if there is none.
    pub(super) array_oid: u32,
    pub(super) is_array: bool,
    pub(super) not_null: bool,
    pub(super) generated: bool,
    pub(super) identity_always: bool,
    pub(super) has_default: bool,
    /// Quoted, qualified, if it is not the type's own.
    pub(super) collation: Option<String>,
    /// The type under a domain, with its modifier.
    pub(super) domain_of: Option<String>,
}

/// An index as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExistingIndex {
    pub(super) oid: u32,
    pub(super) name: String,
    pub(super) primary: bool,
    pub(super) unique: bool,
    pub(super) exclusion: bool,
    /// Valid, and neither partial nor on expressions.
    pub(super) plain: bool,
    /// Its constraint, if it belongs to one.
    pub(super) constraint: Option<String>,
    /// `CREATE INDEX …`
    pub(super) statement: String,
    /// What follows `ADD CONSTRAINT name`, if it belongs to one.
    pub(super) constraint_definition: Option<String>,
    /// Names of its key columns.
    pub(super) key: Vec<String>,
    /// Quoted, qualified equality operators of its key columns, if it is a b-tree.
    pub(super) equality: Vec<String>,
    /// Every column it depends on.
    pub(super) columns: Vec<String>,
}

impl ExistingIndex {
    /// Whether it is a unique index on exactly these columns, in any order: what identifies a row.
    pub(super) fn identifies(&self, key: &[&str]) -> bool {
        self.unique
            && self.plain
            && self.key.len() == key.len()
            && key.iter().all(|name| self.key.iter().any(|column| column == name))
    }

    /// Whether two different rows (rows with different `key`) may be forbidden to stand together by it.
    pub(super) fn excludes(&self, key: &[&str]) -> bool {
        let covers_key = self.plain && key.iter().all(|name| self.key.iter().any(|column| column == name));
        self.exclusion || (self.unique && (!covers_key || key.is_empty()))
    }
}

/// A foreign key that points to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Referencing {
    pub(super) name: String,
    pub(super) table: TableId,
    pub(super) definition: String,
    /// The unique index it relies on.
    pub(super) index: u32,
}

/// A foreign key of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnForeignKey {
    pub(super) name: String,
    /// The table it points to, which may be its own.
    pub(super) referenced: TableId,
}

const RELATION: &str = "SELECT c.oid, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = $1 AND c.relname = $2";
const COLUMNS: &str = "SELECT a.attname::text, a.atttypid, format_type(a.atttypid, a.atttypmod), \
        format_type(a.atttypid, -1), t.typarray, t.typcategory = 'A', a.attnotnull, a.attgenerated <> '', \
        a.attidentity = 'a', a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL, \
        CASE WHEN a.attcollation <> t.typcollation \
            THEN quote_ident(cn.nspname) || '.' || quote_ident(co.collname) END, \
        CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END \
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
        LEFT JOIN pg_collation co ON co.oid = a.attcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace \
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
const INDEXES: &str = "SELECT i.indexrelid, ic.relname::text, i.indisprimary, i.indisunique, i.indisexclusion, \
        i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL, con.conname::text, \
        pg_get_indexdef(i.indexrelid), pg_get_constraintdef(con.oid), \
        ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, place) \
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
            WHERE k.place <= i.indnkeyatts ORDER BY k.place), \
        ARRAY(SELECT 'OPERATOR(' || quote_ident(n.nspname) || '.' || o.oprname || ')' \
            FROM unnest(i.indclass::oid[]) WITH ORDINALITY k (opclass, place) \
            JOIN pg_opclass oc ON oc.oid = k.opclass \
            JOIN pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree' \
            JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3 \
                AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype \
            JOIN pg_operator o ON o.oid = ao.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace \
            ORDER BY k.place), \
        ARRAY(SELECT DISTINCT a.attname::text FROM pg_attribute a \
            WHERE a.attrelid = i.indrelid AND a.attnum > 0 AND (a.attnum = ANY (i.indkey::int2[]) \
                OR EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass \
                    AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum \
                    AND ((d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid) \
                        OR (d.classid = 'pg_constraint'::regclass AND d.objid = con.oid))))) \
    FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid \
        LEFT JOIN pg_constraint con \
            ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid AND con.contype IN ('p', 'u', 'x') \
    WHERE i.indrelid = $1 ORDER BY i.indexrelid";
const REFERENCING: &str = "SELECT con.conname::text, n.nspname::text, c.relname::text, \
        pg_get_constraintdef(con.oid), con.conindid \
    FROM pg_constraint con JOIN pg_class c ON c.oid = con.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE con.contype = 'f' AND con.confrelid = $1 AND con.conrelid <> $1 AND con.conparentid = 0 ORDER BY con.oid";
const FOREIGN_KEYS: &str = "SELECT con.conname::text, n.nspname::text, c.relname::text \
    FROM pg_constraint con JOIN pg_class c ON c.oid = con.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE con.contype = 'f' AND con.conrelid = $1 AND con.conparentid = 0 ORDER BY con.conname";

/// Reads what stands under a name, `None` if nothing does.
///
/// # Errors
/// As any read.
pub(super) async fn read(client: &Client, target: &TableId) -> Result<Option<Existing>> {
    let failed = |error| from_client(error, "reading the destination's catalogue").with_table(target);
    let relation = client.query_opt(RELATION, &[&target.schema, &target.name]).await.map_err(failed)?;
    let Some(relation) = relation else { return Ok(None) };
    let oid: u32 = relation.get(0);
    let (columns, indexes, referencing, foreign_keys) = futures::future::try_join4(
        client.query(COLUMNS, &[&oid]),
        client.query(INDEXES, &[&oid]),
        client.query(REFERENCING, &[&oid]),
        client.query(FOREIGN_KEYS, &[&oid]),
    )
    .await
    .map_err(failed)?;
    Ok(Some(Existing {
        oid,
        kind: relation.get(1),
        columns: columns.iter().map(column).collect(),
        indexes: indexes.iter().map(index).collect(),
        referencing: referencing.iter().map(reference).collect(),
        foreign_keys: foreign_keys.iter().map(own_foreign_key).collect(),
    }))
}

fn column(row: &Row) -> ExistingColumn {
    ExistingColumn {
        name: row.get(0),
        type_oid: row.get(1),
        sql_type: row.get(2),
        bare_type: row.get(3),
        array_oid: row.get(4),
        is_array: row.get(5),
        not_null: row.get(6),
        generated: row.get(7),
        identity_always: row.get(8),
        has_default: row.get(9),
        collation: row.get(10),
        domain_of: row.get(11),
    }
}

fn index(row: &Row) -> ExistingIndex {
    ExistingIndex {
        oid: row.get(0),
        name: row.get(1),
        primary: row.get(2),
        unique: row.get(3),
        exclusion: row.get(4),
        plain: row.get(5),
        constraint: row.get(6),
        statement: row.get(7),
        constraint_definition: row.get(8),
        key: row.get(9),
        equality: row.get(10),
        columns: row.get(11),
    }
}

fn reference(row: &Row) -> Referencing {
    Referencing {
        name: row.get(0),
        table: TableId::new(row.get::<_, String>(1), row.get::<_, String>(2)),
        definition: row.get(3),
        index: row.get(4),
    }
}

fn own_foreign_key(row: &Row) -> OwnForeignKey {
    let referenced = TableId::new(row.get::<_, String>(1), row.get::<_, String>(2));
    OwnForeignKey { name: row.get(0), referenced }
}

/// Whether a table holds any row.
///
/// # Errors
/// As any read.
pub(super) async fn has_rows(client: &Client, target: &TableId) -> Result<bool> {
    let sql = format!("SELECT EXISTS (SELECT FROM {})", super::super::quote::table(target));
    let row = client.query_one(&sql, &[]).await;
    Ok(row.map_err(|error| from_client(error, "looking for rows").with_table(target))?.get(0))
}

impl Existing {
    /// The unique index that identifies a row by these columns.
    pub(super) fn key_index(&self, key: &[&str]) -> Option<&ExistingIndex> {
        self.indexes.iter().find(|index| !key.is_empty() && index.identifies(key))
    }

    /// The column of this name.
    pub(super) fn column(&self, name: &str) -> Option<&ExistingColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether it is a table, partitioned or not.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.kind.as_str(), "r" | "p")
    }
}
