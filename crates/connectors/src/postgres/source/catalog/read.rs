//! The set queries over tables, partitions, columns and identities.

use std::collections::HashMap;

use syncline_core::{Error, Query, Result, TableId};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::rows::{Attribute, Generated, Identity, Kind, Member, Relation};
use crate::postgres::connect::Session;
use crate::postgres::{error, quote};

/// Bytes a row is taken to have where nothing was ever counted.
const ROW_BYTES_GUESSED: f64 = 100.0;

pub(super) async fn query(session: &Session, sql: &str, oids: &[u32]) -> Result<Vec<Row>> {
    let parameters: [&(dyn ToSql + Sync); 1] = [&oids];
    let rows = session.query(sql, if sql.contains("$1") { &parameters } else { &[] }).await;
    rows.map_err(|error| error::from_client(error, "reading the catalogue"))
}

/// Every relation a pattern could mean, outside the system's schemas and our own.
pub(super) async fn relations(session: &Session) -> Result<Vec<Relation>> {
    let sql = "
        SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
               EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                       AND d.deptype = 'e'),
               CASE WHEN c.relkind <> 'r' THEN 0::float8 WHEN c.reltuples >= 0 THEN c.reltuples::float8
                    ELSE -pg_relation_size(c.oid)::float8 END,
               has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
               pg_has_role(c.relowner, 'USAGE'),
               row_security_active(c.oid)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND NOT c.relispartition AND c.relpersistence <> 't'
          AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'syncline') AND n.nspname NOT LIKE 'pg\\_%'";
    let rows = query(session, sql, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| Relation {
            oid: row.get(0),
            id: TableId::new(row.get::<_, String>(1), row.get::<_, String>(2)),
            kind: Kind::of(row.get(3), row.get(4), row.get(5)),
            identity: Identity::Nothing,
            attributes: Vec::new(),
            rows_estimated: rows_estimated(row.get(6)),
            members: Vec::new(),
            selectable: row.get(7),
            owned: row.get(8),
            rows_hidden: row.get(9),
        })
        .collect())
}

/// What a query returns, as the columns of a table. Nothing of it is run.
pub(super) async fn relation_of(session: &Session, query: &Query) -> Result<Relation> {
    let failed = |error| {
        error::from_client(error, "describing a query").with_table(&query.table).with_remedy(
            "correct the query: one SELECT, with its tables in the search path of the user or named with their schema",
        )
    };
    let begin = format!("BEGIN READ ONLY; {}", super::super::query::SEARCH_PATH);
    session.batch_execute(&begin).await.map_err(failed)?;
    let prepared = session.prepare(&quote::all_of_query(&query.sql)).await;
    session.batch_execute("ROLLBACK").await.map_err(failed)?;
    let prepared = prepared.map_err(failed)?;
    let oids: Vec<u32> = prepared.columns().iter().map(|column| column.type_().oid()).collect();
    let modifiers: Vec<i32> = prepared.columns().iter().map(tokio_postgres::Column::type_modifier).collect();
    let sql = "SELECT format_type(oid, modifier)
               FROM unnest($1::oid[], $2::int4[]) WITH ORDINALITY AS types(oid, modifier, place) ORDER BY place";
    let types = session.query(sql, &[&oids, &modifiers]).await.map_err(failed)?;
    let attributes = prepared.columns().iter().zip(&types).map(|(column, sql_type)| Attribute {
        name: column.name().to_owned(),
        type_oid: column.type_().oid(),
        sql_type: sql_type.get(0),
        not_null: false,
        collation: None,
        generated: None,
    });
    let attributes: Vec<Attribute> = attributes.collect();
    require_columns(query, &attributes)?;
    Ok(Relation {
        oid: 0,
        id: query.table.clone(),
        kind: Kind::View,
        identity: if query.key.is_empty() { Identity::Nothing } else { Identity::Index(query.key.clone()) },
        attributes,
        rows_estimated: 0,
        members: Vec::new(),
        selectable: true,
        owned: false,
        rows_hidden: false,
    })
}

/// Columns need names of their own, and those of the key must be among them.
fn require_columns(query: &Query, attributes: &[Attribute]) -> Result<()> {
    let wrong = |what: String, remedy: &str| {
        Err(Error::configuration(what).with_table(&query.table).with_remedy(remedy))
    };
    for (at, attribute) in attributes.iter().enumerate() {
        if attributes[..at].iter().any(|earlier| earlier.name == attribute.name) {
            let what = format!("the query returns two columns named `{}`", attribute.name);
            return wrong(what, "give each a name of its own with AS");
        }
    }
    match query.key.iter().find(|key| !attributes.iter().any(|attribute| attribute.name == **key)) {
        Some(key) => {
            wrong(format!("the query returns no column `{key}`, which is to be its key"), "correct --key")
        }
        None => Ok(()),
    }
}

/// A negative figure is a size in bytes.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // An estimate; `as` saturates.
fn rows_estimated(figure: f64) -> u64 {
    if figure < 0.0 { (-figure / ROW_BYTES_GUESSED) as u64 } else { figure as u64 }
}

/// The partitions of all partitioned tables.
pub(super) async fn members(session: &Session, relations: &mut [Relation]) -> Result<()> {
    let roots: Vec<u32> = relations.iter().filter(|r| r.kind == Kind::Partitioned).map(|r| r.oid).collect();
    if roots.is_empty() {
        return Ok(());
    }
    let sql = "
        SELECT root.oid, c.oid, n.nspname::text, c.relname::text, pn.nspname::text, p.relname::text,
               pg_get_expr(c.relpartbound, c.oid),
               CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END,
               c.relkind::text, c.relpersistence::text,
               CASE WHEN c.relkind <> 'r' THEN 0::float8 WHEN c.reltuples >= 0 THEN c.reltuples::float8
                    ELSE -pg_relation_size(c.oid)::float8 END,
               has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
        FROM unnest($1::oid[]) AS root(oid)
        CROSS JOIN LATERAL pg_partition_tree(root.oid) t
        JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_class p ON p.oid = t.parentrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
        WHERE t.level > 0
        ORDER BY root.oid, t.level, n.nspname, c.relname";
    let places: HashMap<u32, usize> = relations.iter().enumerate().map(|(i, r)| (r.oid, i)).collect();
    for row in query(session, sql, &roots).await? {
        let relation = &mut relations[places[&row.get::<_, u32>(0)]];
        let relkind: &str = row.get(8);
        relation.rows_estimated += rows_estimated(row.get(10));
        relation.members.push(Member {
            oid: row.get(1),
            id: TableId::new(row.get::<_, String>(2), row.get::<_, String>(3)),
            parent: TableId::new(row.get::<_, String>(4), row.get::<_, String>(5)),
            bound: row.get(6),
            key: row.get(7),
            kind: Kind::of(relkind, row.get(9), false),
            identity: Identity::Nothing,
            selectable: row.get(11),
        });
    }
    Ok(())
}

/// The columns of all tables.
pub(super) async fn attributes(session: &Session, relations: &mut [Relation]) -> Result<()> {
    // What a generated column needs hangs on its expression from PostgreSQL 15 on, and on the column itself before.
    let sql = "
        SELECT a.attrelid, a.attname::text, a.atttypid, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               CASE WHEN a.attcollation <> t.typcollation
                    THEN quote_ident(cn.nspname) || '.' || quote_ident(co.collname) END,
               CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END,
               ARRAY(SELECT used.attname::text FROM pg_depend p JOIN pg_attribute used
                         ON used.attrelid = p.refobjid AND used.attnum = p.refobjsubid
                     WHERE (p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid
                            OR d.oid IS NOT NULL AND p.classid = 'pg_class'::regclass AND p.objid = a.attrelid
                               AND p.objsubid = a.attnum)
                       AND p.refclassid = 'pg_class'::regclass AND p.refobjid = a.attrelid
                       AND p.refobjsubid <> 0 AND p.refobjsubid <> a.attnum),
               EXISTS (SELECT FROM pg_depend p
                       WHERE (p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid
                              OR d.oid IS NOT NULL AND p.classid = 'pg_class'::regclass AND p.objid = a.attrelid
                                 AND p.objsubid = a.attnum)
                         AND p.refclassid = 'pg_proc'::regclass)
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_collation co ON co.oid = a.attcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated <> ''
        WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attrelid, a.attnum";
    let oids: Vec<u32> = relations.iter().map(|r| r.oid).collect();
    let places: HashMap<u32, usize> = relations.iter().enumerate().map(|(i, r)| (r.oid, i)).collect();
    for row in query(session, sql, &oids).await? {
        let generated = row.get::<_, Option<String>>(6).map(|expression| Generated {
            expression,
            columns: row.get(7),
            needs_function: row.get(8),
        });
        relations[places[&row.get::<_, u32>(0)]].attributes.push(Attribute {
            name: row.get(1),
            type_oid: row.get(2),
            sql_type: row.get(3),
            not_null: row.get(4),
            collation: row.get(5),
            generated,
        });
    }
    Ok(())
}

/// By what the rows of all tables and partitions are identified.
///
/// An index counts only as the server counts it: valid, unique, immediate, without predicate.
pub(super) async fn identities(session: &Session, relations: &mut [Relation]) -> Result<()> {
    let sql = "
        SELECT c.oid, c.relreplident::text, i.indisreplident, i.indisprimary,
               ARRAY(SELECT a.attname::text FROM unnest(i.indkey[0 : i.indnkeyatts - 1]) WITH ORDINALITY k(attnum, place)
                     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.place)
        FROM pg_class c
        LEFT JOIN pg_index i ON i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident)
            AND i.indisvalid AND i.indisunique AND i.indimmediate AND i.indpred IS NULL
        WHERE c.oid = ANY($1::oid[])";
    let oids: Vec<u32> = relations
        .iter()
        .flat_map(|r| r.members.iter().map(|m| m.oid).chain(std::iter::once(r.oid)))
        .collect();
    let mut found: HashMap<u32, IdentityParts> = HashMap::new();
    for row in query(session, sql, &oids).await? {
        let parts = found.entry(row.get(0)).or_default();
        parts.setting = row.get(1);
        if row.get::<_, Option<bool>>(2) == Some(true) {
            parts.chosen = Some(row.get(4));
        }
        if row.get::<_, Option<bool>>(3) == Some(true) {
            parts.primary = Some(row.get(4));
        }
    }
    for relation in relations {
        relation.identity = found.remove(&relation.oid).unwrap_or_default().identity();
        for member in &mut relation.members {
            member.identity = found.remove(&member.oid).unwrap_or_default().identity();
        }
    }
    Ok(())
}

/// What `pg_class` and `pg_index` say about one relation's identity.
#[derive(Default)]
struct IdentityParts {
    setting: String,
    chosen: Option<Vec<String>>,
    primary: Option<Vec<String>>,
}

impl IdentityParts {
    fn identity(self) -> Identity {
        match self.setting.as_str() {
            "f" => Identity::Full(self.primary),
            "i" => self.chosen.map_or(Identity::Nothing, Identity::Index),
            "d" => self.primary.map_or(Identity::Nothing, Identity::Index),
            _ => Identity::Nothing,
        }
    }
}
