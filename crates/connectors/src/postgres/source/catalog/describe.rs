//! The exact definition of a table, without what a selection leaves out.
//!
//! An index, key or expression that needs an excluded column is left out whole: it could be neither built nor computed,
//! and would tell of the column.

use std::collections::{BTreeSet, HashMap};

use syncline_core::{Result, Selection, TableId};

use super::read::query;
use super::rows::{Attribute, Kind, Relation};
use super::types::Types;
use crate::postgres::connect::Session;
use crate::postgres::definition::{
    ColumnDefinition, Definition, ForeignKey, IndexDdl, IndexDefinition, KeyDefinition, Partition,
    Partitioning,
};

/// Keys, indexes and the partition key of one table, as read.
#[derive(Default)]
pub(super) struct Parts {
    primary_key: Option<KeyDefinition>,
    indexes: Vec<IndexDefinition>,
    foreign_keys: Vec<ForeignKey>,
    partition_key: Option<String>,
}

/// Reads the parts of all tables, by OID.
pub(super) async fn read(session: &Session, relations: &[Relation]) -> Result<HashMap<u32, Parts>> {
    let oids: Vec<u32> = relations.iter().map(|r| r.oid).collect();
    let mut parts: HashMap<u32, Parts> = HashMap::new();
    read_indexes(session, &oids, &mut parts).await?;
    read_foreign_keys(session, &oids, &mut parts).await?;
    let roots: Vec<u32> = relations.iter().filter(|r| r.kind == Kind::Partitioned).map(|r| r.oid).collect();
    let sql = "SELECT root.oid, pg_get_partkeydef(root.oid) FROM unnest($1::oid[]) AS root(oid)";
    for row in query(session, sql, &roots).await? {
        parts.entry(row.get(0)).or_default().partition_key = row.get(1);
    }
    Ok(parts)
}

/// What follows the table's name is cut off behind the text that the server must have written before it, never searched
/// for: names may hold anything.
async fn read_indexes(session: &Session, oids: &[u32], parts: &mut HashMap<u32, Parts>) -> Result<()> {
    let sql = "
        SELECT i.indrelid, ic.relname::text, i.indisprimary, i.indisunique, i.indisexclusion, i.indisreplident,
               ARRAY(SELECT a.attname::text
                     FROM (SELECT k.attnum, k.place FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place)
                           UNION ALL
                           SELECT p.refobjsubid, 1000 + p.refobjsubid FROM pg_depend p
                           WHERE p.classid = 'pg_class'::regclass AND p.objid = i.indexrelid
                             AND p.refclassid = 'pg_class'::regclass AND p.refobjid = i.indrelid) used
                     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = used.attnum
                     GROUP BY a.attname ORDER BY min(used.place)),
               ARRAY(SELECT a.attname::text FROM unnest(i.indkey[0 : i.indnkeyatts - 1]) WITH ORDINALITY k(attnum, place)
                     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.place),
               pg_get_constraintdef(con.oid),
               CASE WHEN starts_with(pg_get_indexdef(i.indexrelid), before.text)
                    THEN substr(pg_get_indexdef(i.indexrelid), length(before.text) + 1) END
        FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
        JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_constraint con ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid
            AND con.contype IN ('p', 'u', 'x')
        CROSS JOIN LATERAL (SELECT 'CREATE ' || CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END || 'INDEX '
            || quote_ident(ic.relname) || ' ON ' || CASE WHEN ic.relkind = 'I' THEN 'ONLY ' ELSE '' END
            || quote_ident(n.nspname) || '.' || quote_ident(c.relname) || ' USING ' AS text) before
        WHERE i.indrelid = ANY($1::oid[]) AND i.indisvalid AND i.indislive
          AND NOT EXISTS (SELECT FROM pg_depend d JOIN pg_proc f ON f.oid = d.refobjid
                          WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                            AND d.refclassid = 'pg_proc'::regclass
                            AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass
                                            AND e.objid = f.oid AND e.deptype = 'e'))
        ORDER BY i.indrelid, ic.relname";
    for row in query(session, sql, oids).await? {
        let into = parts.entry(row.get(0)).or_default();
        let name: String = row.get(1);
        if row.get(2) {
            into.primary_key = Some(KeyDefinition { name, columns: row.get(7) });
            continue;
        }
        let unique: bool = row.get(3);
        let ddl = match (row.get::<_, Option<String>>(8), row.get::<_, Option<String>>(9)) {
            (Some(constraint), _) => IndexDdl::Constraint(constraint),
            (None, Some(using)) => IndexDdl::Index { unique, using },
            (None, None) => continue,
        };
        into.indexes.push(IndexDefinition {
            name,
            excludes: unique || row.get::<_, bool>(4),
            columns: row.get(6),
            ddl,
            identity: row.get(5),
        });
    }
    Ok(())
}

async fn read_foreign_keys(session: &Session, oids: &[u32], parts: &mut HashMap<u32, Parts>) -> Result<()> {
    let sql = "
        SELECT f.conrelid, f.conname::text, here.columns, n.nspname::text, c.relname::text, there.columns,
               substr(pg_get_constraintdef(f.oid), length(before.text) + 1)
        FROM pg_constraint f JOIN pg_class c ON c.oid = f.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL (
            SELECT array_agg(a.attname::text ORDER BY k.place) AS columns,
                   string_agg(quote_ident(a.attname), ', ' ORDER BY k.place) AS list
            FROM unnest(f.conkey) WITH ORDINALITY k(attnum, place)
            JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.attnum) here
        CROSS JOIN LATERAL (
            SELECT array_agg(a.attname::text ORDER BY k.place) AS columns,
                   string_agg(quote_ident(a.attname), ', ' ORDER BY k.place) AS list
            FROM unnest(f.confkey) WITH ORDINALITY k(attnum, place)
            JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum) there
        CROSS JOIN LATERAL (SELECT 'FOREIGN KEY (' || here.list || ') REFERENCES ' || quote_ident(n.nspname) || '.'
            || quote_ident(c.relname) || '(' || there.list || ')' AS text) before
        WHERE f.contype = 'f' AND f.conparentid = 0 AND f.conrelid = ANY($1::oid[])
          AND starts_with(pg_get_constraintdef(f.oid), before.text)
        ORDER BY f.conrelid, f.conname";
    for row in query(session, sql, oids).await? {
        parts.entry(row.get(0)).or_default().foreign_keys.push(ForeignKey {
            name: row.get(1),
            columns: row.get(2),
            referenced: TableId::new(row.get::<_, String>(3), row.get::<_, String>(4)),
            referenced_columns: row.get(5),
            suffix: row.get::<_, String>(6).trim().to_owned(),
        });
    }
    Ok(())
}

/// The definition of a table under a selection.
pub(super) fn definition(
    relation: &Relation,
    selection: &Selection,
    types: &Types,
    parts: Option<&Parts>,
) -> Definition {
    let kept = kept(relation, &selection.excluded_columns(&relation.id));
    let names: BTreeSet<&str> = kept.iter().map(|a| a.name.as_str()).collect();
    let all_kept = |columns: &[String]| columns.iter().all(|column| names.contains(column.as_str()));
    let none = Parts::default();
    let parts = parts.unwrap_or(&none);
    let referenced_kept = |key: &ForeignKey| {
        let excluded = selection.excluded_columns(&key.referenced);
        !key.referenced_columns.iter().any(|column| excluded.contains(column.as_str()))
    };
    Definition {
        columns: kept.iter().map(|attribute| column(attribute)).collect(),
        types: types.definitions(kept.iter().map(|a| a.type_oid)),
        primary_key: parts.primary_key.clone().filter(|key| all_kept(&key.columns)),
        indexes: parts.indexes.iter().filter(|index| all_kept(&index.columns)).cloned().collect(),
        foreign_keys: parts
            .foreign_keys
            .iter()
            .filter(|key| all_kept(&key.columns) && referenced_kept(key))
            .cloned()
            .collect(),
        partitioning: partitioning(relation, parts),
    }
}

/// Columns that are defined at the destination: a generated one only if it can be computed there.
fn kept<'a>(relation: &'a Relation, excluded: &BTreeSet<&str>) -> Vec<&'a Attribute> {
    let computable = |attribute: &Attribute| {
        attribute.generated.as_ref().is_none_or(|generated| {
            !generated.needs_function && !generated.columns.iter().any(|c| excluded.contains(c.as_str()))
        })
    };
    let attributes = relation.attributes.iter();
    attributes.filter(|a| !excluded.contains(a.name.as_str()) && computable(a)).collect()
}

fn column(attribute: &Attribute) -> ColumnDefinition {
    ColumnDefinition {
        name: attribute.name.clone(),
        sql_type: attribute.sql_type.clone(),
        not_null: attribute.not_null,
        collation: attribute.collation.clone(),
        generated: attribute.generated.as_ref().map(|generated| generated.expression.clone()),
    }
}

fn partitioning(relation: &Relation, parts: &Parts) -> Option<Partitioning> {
    let partition = |member: &super::Member| Partition {
        id: member.id.clone(),
        parent: member.parent.clone(),
        bound: member.bound.clone(),
        key: member.key.clone(),
    };
    Some(Partitioning {
        key: parts.partition_key.clone()?,
        partitions: relation.members.iter().map(partition).collect(),
    })
}
